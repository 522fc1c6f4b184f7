"""The hosted runner: environments stepped from Python, one jitted call to act and one to learn.

S seeds × N environments are rows of one host environment, seed by seed. A step costs one dispatch: the call that
acts. The functions inside the calls are the compiled runner's own, with the same keys, so both learn the same.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree, UInt

from ridgeline.environments.base import where_ended
from ridgeline.errors import RidgelineError
from ridgeline.memory import Memory
from ridgeline.specs import FLOAT32_MAX
from ridgeline.training.compiled import act_everywhere, begin_carry
from ridgeline.training.devices import IN_ORDER, map_seeds
from ridgeline.training.evaluation import Episodes, begin_where, episode_seeds, evaluate_hosted
from ridgeline.training.keys import iteration_keys, key_for, row_randomness
from ridgeline.training.layout import Layout, layout_of
from ridgeline.training.replaying import replay
from ridgeline.training.snapshot import Leaf, Saved, Stacked, fork_keys, keyed, plain
from ridgeline.training.summary import NO_END, Summary, is_broken, summarise
from ridgeline.types import (
    Action,
    Algorithm,
    Carry,
    EnvSpec,
    HostFactory,
    Obs,
    Rollout,
    Step,
    Steps,
    Transition,
    example_obs,
    example_transition,
)

# Episodes that have run for longer are not replayed when a run is resumed: another begins in their place.
LONGEST_REPLAY = 100_000


@partial(jax.jit, static_argnames="spec")
def begin(algorithm: Algorithm[Any, Any], seed: UInt[Array, ""], *, spec: EnvSpec) -> tuple[PRNGKeyArray, Any]:
    """A seed's key and state before its first step."""
    key = jax.random.key(seed)
    return key, algorithm.init(key_for(key, "init"), spec)


@partial(jax.jit, static_argnames="layout", compiler_options=IN_ORDER)
def gather_policies(fixed: list[Array], states: list[list[Array]], *, layout: Layout) -> list[Array]:
    """What acts of every seed; leading axis: seeds."""
    algorithm, _ = jax.tree.unflatten(layout.fixed, fixed)
    policies = [algorithm.policy(jax.tree.unflatten(layout.state, state)) for state in states]
    leaves, layout.policies = jax.tree.flatten(jax.tree.map(lambda *x: jnp.stack(x), *policies))
    return leaves


@partial(jax.jit, static_argnames="layout", compiler_options=IN_ORDER)
def act(
    fixed: list[Array],
    policies: list[Array],
    carry: Carry,
    ended: Bool[Array, "S N"],
    obs: Obs,
    steps: Steps,
    row: Int[Array, ""],
    *,
    layout: Layout,
) -> tuple[Action, Carry, Carry]:
    """Exploring actions [S, N] of every seed's policy; the carry before them and after.

    `ended` tells where the previous row ended an episode: there the carry starts anew.
    """
    algorithm, keys = jax.tree.unflatten(layout.fixed, fixed)

    def one_seed(steps: Steps, key: PRNGKeyArray, policy: Any, carry: Carry, ended: Array, obs: Obs) -> Any:
        now = steps._replace(taken=steps.taken + row * algorithm.num_envs)
        before = where_ended(ended, begin_carry(algorithm, layout.spec), carry)
        act_key = iteration_keys(key_for(key, "iterations"), steps.iteration)[0]
        randomness = row_randomness(act_key, algorithm, policy, layout.spec, row)
        action, after = act_everywhere(algorithm, randomness, policy, before, obs, now)
        return action, before, after

    by_seed = jax.tree.map(lambda x: x.reshape(*ended.shape, *x.shape[1:]), obs)
    each = (keys, jax.tree.unflatten(layout.policies, policies), carry, ended, by_seed)
    if algorithm.fresh:
        return map_seeds(one_seed, steps, *each)
    return map_seeds(lambda *one: one_seed(steps, *one), *each)


@partial(jax.jit, static_argnames="layout", donate_argnames="state", compiler_options=IN_ORDER)
def learn(
    fixed: list[Array],
    state: list[Array],
    seed: Int[Array, ""],
    rows: Transition,
    carry: Carry,
    finished: Float[Array, "4"],
    steps: Steps,
    learning: Bool[Array, ""],
    *,
    layout: Layout,
) -> tuple[list[Array], Float[Array, "K"]]:
    """One update of the seed of that number, if it is `learning`, from its rows [T, N]; and its summary.

    Each seed is called for by itself, so that its memory is written where it lies.
    """
    algorithm, keys = jax.tree.unflatten(layout.fixed, fixed)
    carry = jax.tree.map(lambda x: x[seed], carry)
    if algorithm.fresh:
        steps = jax.tree.map(lambda x: x[seed], steps)
    before = jax.tree.unflatten(layout.state, state)
    update_key = iteration_keys(key_for(keys[seed], "iterations"), steps.iteration)[1]
    after, metrics = algorithm.update(update_key, before, Rollout(rows, carry), steps)
    summary = summarise(metrics, *finished)
    if algorithm.fresh:
        after = jax.tree.map(lambda new, old: jnp.where(learning, new, old), after, before)
        summary = jax.tree.map(lambda x: jnp.where(learning, x, 0), summary)
    numbers, layout.summary = jax.tree.flatten(summary)
    return jax.tree.leaves(after), jnp.stack(numbers)


@partial(jax.jit, static_argnames="layout", compiler_options=IN_ORDER)
def find_broken(states: list[list[Array]], *, layout: Layout) -> Float[Array, "S"]:
    """1 for every seed of which something learned is not finite, else 0."""
    return jnp.stack([is_broken(jax.tree.unflatten(layout.state, state)) for state in states])


@partial(jax.jit, donate_argnames="state")
def cut_memories(state: PyTree[Array], columns: Bool[Array, "N"]) -> Any:
    """A seed's state with what its memories hold of those columns' running episodes truncated."""

    def one(x: Any) -> Any:
        return x.cut(columns) if isinstance(x, Memory) else x

    return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, Memory))


class Hosted:
    """Trains every seed on one host environment of S · N rows; holds what they have between chunks.

    Host environments cannot be saved. Each episode starts from a seed of its own, so what is saved is what was
    done in the episodes that run, and restoring does it again.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        factory: HostFactory,
        seeds: tuple[int, ...],
        saved: Saved | None = None,
    ) -> None:
        self.algorithm, self.factory, self.seeds = algorithm, factory, seeds
        self.env = env = factory.build(len(seeds) * algorithm.num_envs)
        shape = (len(seeds), algorithm.num_envs)
        self.episode = np.zeros(shape, int)
        self.ended = np.ones(shape, bool)  # so that the first call to `act` starts every carry
        self.total, self.length = np.zeros(shape), np.zeros(shape)
        self.taken, self.iteration = np.zeros(len(seeds)), np.zeros(len(seeds), int)
        self.carry = jax.tree.map(lambda x: np.zeros((*shape, *x.shape), x.dtype), algorithm.begin(env.spec))
        self._cell = jax.eval_shape(lambda: example_transition(env.spec))
        self.actions: deque[np.ndarray] = deque(maxlen=LONGEST_REPLAY)  # of the episodes that run, newest last
        self.restored = 0  # how often
        self.approximate: str | None = None
        if saved is None:
            each = [begin(algorithm, np.uint32(seed), spec=env.spec) for seed in seeds]
            self._hold(jnp.stack([key for key, _ in each]), [state for _, state in each])
            self.obs = jax.tree.map(np.array, env.reset(self._episode_seeds(), np.ones(env.num_envs, bool)))
        else:
            self._restore(saved)

    def run(self, first: int, count: int, total: float, ends: Sequence[int] = NO_END) -> list[Summary]:
        """`count` iterations of every seed, from the one numbered `first`, as one summary for each of `ends`."""
        iteration, parts = first, list[Summary]()
        for end in ends:
            summaries = []
            while iteration < first + count and (learning := self._before(iteration, end)).any():
                summaries.append(self._iterate(self._steps(iteration, total), learning))
                iteration += 1
            parts.append(self._summed(summaries) if summaries else jax.tree.map(np.zeros_like, parts[0]))
        return parts

    def _summed(self, summaries: list[list[Array]]) -> Summary:
        """Iterations as one, and whether what is learned by now is finite."""
        broken = np.asarray(find_broken(self._states, layout=self._layout))
        assert self._layout.summary is not None
        numbers = np.sum(jax.device_get(summaries), 0)
        return jax.tree.unflatten(self._layout.summary, numbers.T)._replace(broken=broken)

    def _before(self, iteration: int, end: int) -> np.ndarray:
        """Which seeds have not come to this end."""
        return self.taken < end if self.algorithm.fresh else np.full(len(self.seeds), iteration < end)

    def _steps(self, iteration: int, total: float) -> Steps:
        """Where every seed stands before the iteration of that number."""
        if self.algorithm.fresh:
            steps = Steps(self.taken, np.full(len(self.seeds), total), self.iteration.astype(np.int32))
        else:
            taken = iteration * self.algorithm.num_envs * self.algorithm.rollout_length
            steps = Steps(np.asarray(taken, float), np.asarray(total, float), np.asarray(iteration, np.int32))
        steps = jax.tree.map(lambda x: x.astype(jax.dtypes.canonicalize_dtype(x.dtype)), steps)
        # To put it there takes longer than to hand it over once, and less than to do so for every row.
        return jax.device_put(steps) if self.algorithm.rollout_length > 4 else steps

    @property
    def states(self) -> PyTree[Array]:
        """The algorithm's state of every seed; leading axis: seeds. All of it is copied."""
        return jax.tree.map(lambda *x: jnp.stack(x), *self._each_state())

    @property
    def keys(self) -> Key[Array, "S"]:
        """The key of every seed."""
        return jax.tree.unflatten(self._layout.fixed, self._fixed)[1]

    @property
    def policies(self) -> PyTree[Array]:
        """What acts now, of every seed; leading axis: seeds. It stays what it is while training goes on."""
        leaves = gather_policies(self._fixed, self._states, layout=self._layout)
        return jax.tree.unflatten(self._layout.policies, leaves)

    def evaluate(self, seed: int, episodes: int) -> Episodes:
        """Greedy episodes [S, E], from starts that `seed` decides."""
        return evaluate_hosted(self.algorithm, self.factory, self.policies, seed, episodes)

    def snapshot(self) -> PyTree[Leaf]:
        """States, episodes, and what was done in those that run."""
        actions = np.stack(self.actions) if self.actions else self._no_actions()
        found = self._held() | {"keys": self.keys, "obs": self.obs, "actions": actions}
        states = jax.tree.map(lambda *x: Stacked(x), *map(plain, self._each_state()))
        return jax.tree.map(Leaf, plain(found)) | {"states": states}

    def fork(self, number: int) -> None:
        """Go on with other random numbers: those of the fork of that number."""
        self._hold(fork_keys(self.keys, np.uint32(number)), self._each_state())

    def change(self, function: Callable[[PyTree[Array]], PyTree[Array]]) -> None:
        """Put what a function makes of the states [S, ...] in their place."""
        self._hold(self.keys, self._apart(function(self.states)))

    def compile(self, episodes: int) -> None:
        """Nothing: what a host runs is compiled when it is first called."""

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _hold(self, keys: Key[Array, "S"], states: list[Any]) -> None:
        """Take those as every seed's, as the lists of arrays that calls take."""
        self._fixed, fixed = jax.tree.flatten((jax.device_put(self.algorithm), keys))
        self._states = [jax.tree.leaves(state) for state in states]
        self._layout = layout_of(fixed, jax.tree.structure(states[0]), self.env.spec)

    def _each_state(self) -> list[Any]:
        """The states, seed by seed."""
        return [jax.tree.unflatten(self._layout.state, state) for state in self._states]

    def _apart(self, states: PyTree[Any]) -> list[Any]:
        """Every seed's part of states [S, ...]."""
        return [jax.tree.map(lambda x, s=s: jnp.asarray(x[s]), states) for s in range(len(self.seeds))]

    def _iterate(self, steps: Steps, learning: np.ndarray) -> list[Array]:
        fresh, length = self.algorithm.fresh, self.algorithm.rollout_length
        policies = gather_policies(self._fixed, self._states, layout=self._layout)
        # Columns that still play an episode that counts.
        live = np.broadcast_to(learning[:, None], self.total.shape).copy()
        if fresh:
            self._begin_episodes()
        # New arrays each time: the update may still be reading the last ones.
        rows = jax.tree.map(lambda x: np.zeros((length, self.env.num_envs, *x.shape), x.dtype), self._cell)
        seen, happened = jax.tree.leaves(rows.obs), jax.tree.leaves(rows[1:])
        first_carry: Carry = ()
        finished = np.zeros((4, len(self.seeds)))
        for t in range(length):
            # Before the step: it may write the next observation over this one.
            for store, x in zip(seen, jax.tree.leaves(self.obs), strict=True):
                store[t] = x
            action, before, self.carry = act(
                self._fixed,
                policies,
                self.carry,
                self.ended,
                self.obs,
                steps,
                np.int32(t),
                layout=self._layout,
            )
            first_carry = before if t == 0 else first_carry
            action = np.asarray(action)
            action = action.reshape(self.env.num_envs, *action.shape[2:])
            step = self.env.step(action)
            if not fresh:  # no checkpoint falls into an episode of those
                self.actions.append(action)
            truncated = step.truncated | (t == length - 1) if fresh else step.truncated
            row = action, step.reward, step.next_obs, step.terminated, truncated
            for store, x in zip(happened, jax.tree.leaves(row), strict=True):
                store[t] = x
            if fresh:
                finished[0] += live.sum(1)
            self._follow(step, step.terminated | truncated, finished, live)
            if fresh:
                live &= ~self.ended
                if not live.any():
                    break
        if not fresh:
            finished[0] = live.sum(1) * length
            for _ in range(len(self.actions) - int(self.length.max())):
                self.actions.popleft()
        self.taken += finished[0]
        self.iteration += learning
        finished = np.clip(finished, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        numbers = []
        for s, mine in enumerate(learning):
            own = jax.tree.map(lambda x, s=s: x.reshape(length, len(learning), -1, *x.shape[2:])[:, s], rows)
            where = (own, first_carry, finished[:, s], steps, mine)
            self._states[s], summary = learn(
                self._fixed, self._states[s], np.int32(s), *where, layout=self._layout
            )
            numbers.append(summary)
        return numbers

    def _begin_episodes(self) -> None:
        """A new episode in every column, numbered by its seed's iteration."""
        self.episode[:] = self.iteration[:, None]
        self.total[:], self.length[:], self.ended[:] = 0, 0, True
        self.obs = jax.tree.map(np.array, self.env.reset(self._episode_seeds(), np.ones(self.env.num_envs, bool)))

    def _follow(self, step: Step, ended: np.ndarray, finished: np.ndarray, live: np.ndarray) -> None:
        """Count returns and lengths of live columns; reset what ended, each episode from its own seed."""
        self.total += step.reward.reshape(self.total.shape)
        self.length += 1
        self.obs, self.ended = step.next_obs, ended.reshape(self.total.shape)
        if self.ended.any():
            counted = self.ended & live
            finished[1:] += [x.sum(1) for x in (counted, self.total * counted, self.length * counted)]
            self.total[self.ended], self.length[self.ended] = 0, 0
            self.episode += self.ended
            mask = self.ended.ravel()
            self.obs = begin_where(self.env, self.obs, self._episode_seeds(mask), mask)

    def _held(self) -> dict[str, Any]:
        """What is saved and restored as it is, by name."""
        names = ("episode", "ended", "total", "length", "taken", "iteration", "carry", "restored")
        return {name: jax.tree.map(np.asarray, getattr(self, name)) for name in names}

    def _no_actions(self) -> np.ndarray:
        zeros = self.env.spec.action.zeros()
        return np.zeros((0, self.env.num_envs, *zeros.shape), zeros.dtype)

    def _restore(self, saved: Saved) -> None:
        """Take over what was saved, and bring the environments to where they were."""
        spec, rows = self.env.spec, self.env.num_envs
        one = jax.eval_shape(partial(begin, spec=spec), self.algorithm, np.uint32(0))
        keys, states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(self.seeds), *x.shape), x.dtype), one)
        obs = jax.eval_shape(lambda: example_obs(spec.observation))
        none = self._no_actions()
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._held()) | {
            "obs": jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), obs),
            "actions": jax.ShapeDtypeStruct((-1, *none.shape[1:]), none.dtype),
            **plain({"keys": keys, "states": states}),
        }
        found = saved(shapes)
        self._hold(
            keyed(keys, jnp.asarray(found["keys"])), [keyed(one[1], x) for x in self._apart(found["states"])]
        )
        for name in self._held():
            setattr(self, name, jax.tree.map(np.array, found[name]))
        self.restored = int(found["restored"]) + 1
        self.actions.extend(found["actions"])
        self.obs = found["obs"]
        if not self.algorithm.fresh:
            self._go_back()
        elif not self.factory.reseeds:
            self.approximate = f"{self.factory.backend} begins its episodes anew from other seeds"

    def _go_back(self) -> None:
        """Replay the episodes that ran; where one does not lead to what was seen, begin another."""
        if self.factory.reseeds:
            where = (self.length.ravel().astype(int), self.total.ravel(), self.obs)
            try:
                exact = replay(self.env, self._episode_seeds(), self.actions, *where)
            except RidgelineError:
                exact = np.zeros(self.env.num_envs, bool)
                self.env.close()
                self.env = self.factory.build(self.env.num_envs)
            if exact.all():
                return
            rows = ", ".join(map(str, np.flatnonzero(~exact)[:5]))
            self.approximate = f"an episode did not replay (environment {rows}): new ones begin in their place"
        else:
            exact = np.zeros(self.env.num_envs, bool)
            self.approximate = f"{self.factory.backend} cannot take its episodes up again: new ones begin"
        lost = ~exact.reshape(self.ended.shape)
        columns = lost & ~self.ended
        self._hold(self.keys, [cut_memories(*each) for each in zip(self._each_state(), columns, strict=True)])
        self.episode = self.episode + lost
        self.total[lost], self.length[lost], self.ended[lost] = 0, 0, True
        self.obs = begin_where(self.env, self.obs, self._episode_seeds(~exact), ~exact)

    def _episode_seeds(self, mask: np.ndarray | None = None) -> np.ndarray:
        """The seed of the episode that each row is in; only those of `mask` are worked out."""
        rows = range(self.env.num_envs) if mask is None else np.flatnonzero(mask)
        seeds = np.zeros(self.env.num_envs, np.int64)
        for row in rows:
            s, n = divmod(int(row), self.algorithm.num_envs)
            # Only the first seed of a row counts where none is taken later: there a restored run needs others.
            path = (1, n) if self.factory.reseeds or not self.restored else (2, n, self.restored)
            seeds[row] = episode_seeds(self.seeds[s], *path, int(self.episode[s, n]), count=1)[0]
        return seeds
