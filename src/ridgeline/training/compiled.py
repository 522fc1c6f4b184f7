"""The compiled runner: acting, environment and learning in one XLA program, seeds on a leading axis.

A Python loop calls `chunk` again and again, each for a number of iterations that is traced: the length of a chunk,
logging, evaluation and the run's total change neither the compiled code nor the stream of random numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt

from ridgeline.environments.base import Running, advance, start_episodes, where_ended
from ridgeline.training.devices import over_seeds
from ridgeline.training.keys import iteration_keys, key_for, row_randomness
from ridgeline.training.layout import Layout
from ridgeline.training.summary import Summary, count_episodes, is_broken, summarise
from ridgeline.types import Action, Algorithm, Environment, EnvSpec, Obs, Rollout, Steps, Transition


class Lane(NamedTuple):
    """All that one seed's training consists of; nothing else decides what happens next.

    `clock` counts where rollouts differ in length, those of whole episodes: environment steps and iterations.
    """

    key: PRNGKeyArray
    state: PyTree[Array]
    running: Running
    carry: PyTree[Array]
    episode_return: Float[Array, "N"]
    clock: tuple[Int[Array, ""], Int[Array, ""]] | None


def begin_lane(algorithm: Algorithm[Any, Any], env: Environment[Any], seed_key: PRNGKeyArray) -> Lane:
    """One seed before its first step."""
    streams = jax.random.split(key_for(seed_key, "environments"), algorithm.num_envs)
    running = start_episodes(env, streams, jnp.zeros(algorithm.num_envs, jnp.int32))
    state = algorithm.init(key_for(seed_key, "init"), env.spec)
    clock = (jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)) if algorithm.fresh else None
    return Lane(seed_key, state, running, begin_carry(algorithm, env.spec), jnp.zeros(algorithm.num_envs), clock)


def begin_carry(algorithm: Algorithm[Any, Any], spec: EnvSpec) -> PyTree[Array]:
    """The carry of N environments at the start of their episodes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (algorithm.num_envs, *x.shape)), algorithm.begin(spec))


def act_everywhere(
    algorithm: Algorithm[Any, Any], randomness: Any, policy: Any, carry: Any, obs: Obs, steps: Steps
) -> tuple[Action, Any]:
    """One exploring action for each of N environments."""
    return jax.vmap(algorithm.act, (0, None, 0, 0, None))(randomness, policy, carry, obs, steps)


class Rows(NamedTuple):
    """What goes on while a rollout is gathered: `live` columns still play an episode that counts."""

    running: Running
    carry: PyTree[Array]
    live: Bool[Array, "N"]


@partial(jax.jit, inline=True)  # so that it is traced once, for its shapes and for its body
def iterate(
    algorithm: Algorithm[Any, Any], env: Environment[Any], stream: PRNGKeyArray, lane: Lane, steps: Steps
) -> tuple[Lane, Summary]:
    """T steps in each of N environments, then one update; `stream` is the key of the seed's iterations."""
    act_key, update_key = iteration_keys(stream, steps.iteration)
    policy, fresh_carry = algorithm.policy(lane.state), begin_carry(algorithm, env.spec)
    everyone = jnp.ones(algorithm.num_envs, bool)
    randomness = partial(row_randomness, act_key, algorithm, policy, env.spec)

    def row(at: Rows, t: Int[Array, ""], randomness: Any) -> tuple[Rows, Transition]:
        now = steps._replace(taken=steps.taken + t * algorithm.num_envs)
        action, carry = act_everywhere(algorithm, randomness, policy, at.carry, at.running.obs, now)
        after, step = advance(env, at.running, action)
        if algorithm.fresh:
            step = step._replace(truncated=step.truncated | (t == algorithm.rollout_length - 1))
        x = Transition(at.running.obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
        carry = where_ended(x.ended, fresh_carry, carry)
        return Rows(after, carry, at.live & ~x.ended if algorithm.fresh else at.live), x

    if algorithm.fresh:
        # Episodes are numbered by the iteration, whatever columns do behind their ends.
        running = start_episodes(env, lane.running.key, jnp.full(algorithm.num_envs, steps.iteration))
        begun, episode_return = Rows(running, fresh_carry, everyone), jnp.zeros(algorithm.num_envs)
        end, transitions = gather_until_dead(
            lambda at, t: row(at, t, randomness(t)), begun, algorithm.rollout_length
        )
    else:
        begun, episode_return = Rows(lane.running, lane.carry, everyone), lane.episode_return
        times = jnp.arange(algorithm.rollout_length)
        # Row by row, to draw would take as long as the policy does.
        end, transitions = jax.lax.scan(lambda at, x: row(at, *x), begun, (times, jax.vmap(randomness)(times)))
    state, metrics = algorithm.update(update_key, lane.state, Rollout(transitions, begun.carry), steps)
    finished, episode_return = count_episodes(
        transitions.reward, transitions.ended, episode_return, begun.running.elapsed, algorithm.fresh
    )
    clock = None if lane.clock is None else (lane.clock[0] + finished.steps, lane.clock[1] + 1)
    lane = Lane(lane.key, state, end.running, end.carry, episode_return, clock)
    return lane, summarise(metrics, *finished)


def gather_until_dead(row: Callable[[Rows, Int[Array, ""]], Any], begun: Rows, length: int) -> tuple[Rows, Any]:
    """`row` after row until no column is live, at most `length`; rows that nobody played are zeros."""
    shapes = jax.eval_shape(row, begun, jnp.zeros((), jnp.int32))[1]
    rows = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes)

    def one(at: tuple[Int[Array, ""], Rows, Any]) -> tuple[Int[Array, ""], Rows, Any]:
        t, begun, rows = at
        after, found = row(begun, t)
        return t + 1, after, jax.tree.map(lambda a, x: a.at[t].set(x), rows, found)

    going = jax.lax.while_loop(
        lambda at: (at[0] < length) & jnp.any(at[1].live), one, (jnp.zeros((), jnp.int32), begun, rows)
    )
    return going[1], going[2]


@partial(jax.jit, static_argnames=("layout", "mesh"), donate_argnames="lanes")
def chunk(
    fixed: list[Array],
    lanes: list[Array],
    count: Int[Array, "S"],
    first: Int[Array, ""],
    ends: Int[Array, "E"],
    total: Float[Array, ""],
    *,
    layout: Layout,
    mesh: Mesh,
) -> tuple[list[Array], list[Array], Float[Array, "S E K"]]:
    """`count` iterations of every seed, from the one numbered `first`; what acts then, and what they amounted to.

    They are summed up apart between `ends`, which count iterations, or, where rollouts are whole episodes, the
    steps of each seed. A seed stops at the last of them.
    """
    algorithm, env = jax.tree.unflatten(layout.fixed, fixed)
    rows = algorithm.num_envs * algorithm.rollout_length

    def one_seed(lane: Lane, count: Int[Array, ""], shared: tuple[Any, ...]) -> tuple[Lane, Summary]:
        algorithm, env, first, ends, total = shared
        stream = key_for(lane.key, "iterations")
        shapes = jax.eval_shape(iterate, algorithm, env, stream, lane, Steps(total, total, first))[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def interval(
            at: tuple[Int[Array, ""], Lane], end: Int[Array, ""]
        ) -> tuple[tuple[Int[Array, ""], Lane], Summary]:
            def going(at: tuple[Int[Array, ""], Lane, Summary]) -> Bool[Array, ""]:
                i, lane, _ = at
                return (i < first + count) & ((i if lane.clock is None else lane.clock[0]) < end)

            def body(at: tuple[Int[Array, ""], Lane, Summary]) -> tuple[Int[Array, ""], Lane, Summary]:
                i, lane, so_far = at
                taken, iteration = (i.astype(float) * rows, i) if lane.clock is None else lane.clock
                now = Steps(taken.astype(float), total, iteration)
                lane, summary = iterate(algorithm, env, stream, lane, now)
                return i + 1, lane, jax.tree.map(jnp.add, so_far, summary)

            i, lane, summed = jax.lax.while_loop(going, body, (*at, nothing))
            return (i, lane), summed._replace(broken=is_broken(lane.state))

        (_, lane), summaries = jax.lax.scan(interval, (first, lane), ends)
        return lane, summaries

    begun = jax.tree.unflatten(layout.state, lanes)
    ended, summaries = over_seeds(one_seed, mesh, (begun, count), (algorithm, env, first, ends, total))
    policies, layout.policies = jax.tree.flatten(algorithm.policy(ended.state))
    numbers, layout.summary = jax.tree.flatten(summaries)
    return jax.tree.leaves(ended), policies, jnp.stack(numbers, -1)


@partial(jax.jit, static_argnames="mesh")
def begin(algorithm: Algorithm[Any, Any], env: Environment[Any], seeds: UInt[Array, "S"], *, mesh: Mesh) -> Lane:
    """Every seed before its first step."""

    def one_seed(seed: UInt[Array, ""], shared: tuple[Any, Any]) -> Lane:
        return begin_lane(*shared, jax.random.key(seed))

    return over_seeds(one_seed, mesh, (seeds,), (algorithm, env))
