"""EnvPool environments as host environments: many at once, stepped by its own threads.

EnvPool's own time limit is set past ours, so that it never hides a termination; its seeds are fixed when a pool is
made. `envpool` takes seconds to import, so that happens with the first factory.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ridgeline.adapter import spaces_to_json
from ridgeline.environments.host import Clock, Notes, bad_reward, near, one_line
from ridgeline.environments.watchdog import Watch, allow
from ridgeline.errors import ContractError, UsageError, short
from ridgeline.spaces import Actions, MalformedError, Observations, place
from ridgeline.types import EnvSpec, HostEnvironment, Obs, Step

INT32_MAX = 2**31 - 1
OWN_OPTIONS = {"num_envs", "batch_size", "seed", "env_seed", "env_type", "task_id"}


class EnvPoolFactory:
    """Builds pools of one EnvPool environment. `options` go to `envpool.make`.

    `env_timeout` is how many seconds a call may take (60 where it is None, 0 for ever); `notes` hold what was made
    to fit.

    Raises: `UsageError` where EnvPool is not installed, has no such environment or cannot take these options.
    """

    spec: EnvSpec
    backend = "envpool"
    reseeds = False

    def __init__(
        self,
        env: str,
        max_episode_steps: int | None = None,
        env_timeout: float | int | None = None,
        **options: Any,
    ):
        self.notes = Notes()
        self._timeout = allow(env_timeout)
        if taken := sorted(OWN_OPTIONS & options.keys()):
            raise UsageError(f"options {taken} belong to ridgeline: leave them out")
        if max_episode_steps is not None and not 1 <= max_episode_steps < INT32_MAX:
            raise UsageError(
                f"max_episode_steps is {max_episode_steps}: it must be at least 1 and below 2**31 - 1"
            )
        if env not in ids():
            raise UsageError(f"EnvPool has no environment {env!r}: {near(env, ids())}")
        described = _call("make_spec", env, **options)
        if described.config.max_num_players > 1:
            raise UsageError(f"EnvPool's {env} has several players: only one is supported")
        with _quiet():
            self._spaces = described.gymnasium_observation_space, described.gymnasium_action_space
        threshold = described.reward_threshold
        own_limit = described.config.max_episode_steps
        self._options = options
        actions = Actions(self._spaces[1])
        self.spec = EnvSpec(
            env,
            Observations(self._spaces[0], choices=actions.choices).spec,
            actions.spec,
            max_episode_steps or (own_limit if own_limit < INT32_MAX else None),
            float(threshold) if threshold is not None else None,
        )

    @property
    def spaces(self) -> dict[str, Any]:
        """Its spaces as JSON."""
        return spaces_to_json(*self._spaces)

    def build(self, num_envs: int) -> HostEnvironment:
        """A pool of `num_envs` environments; EnvPool makes it at the first reset, which knows the seeds."""
        return EnvPool(self.spec, num_envs, self._spaces, self._options, self._timeout, self.notes)


class EnvPool:
    """One pool of environments. A `HostEnvironment`.

    The seeds of the first reset decide every later episode as well: EnvPool cannot be seeded again, so those of
    later resets are not used. A pool resets wherever it is told to, whether or not the episode has ended.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        spaces: tuple[Any, Any],
        options: dict[str, Any],
        timeout: float,
        notes: Notes,
    ):
        self.spec = spec
        self.num_envs = num_envs
        self.notes = notes
        self._actions = Actions(spaces[1])
        self._observations = Observations(spaces[0], self._note, self._actions.choices)
        self._every = np.arange(num_envs)
        self._rows = self._every  # whose observations are being read
        self._watch = Watch(timeout, lambda: f"EnvPool's {num_envs} environments {spec.id}: a call")
        self._options = options
        self._clock = Clock(num_envs, spec.max_episode_steps)
        self._pool: Any = None

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`; the first call starts all, from these seeds (of which 31 bits count).

        The other rows are zeros.
        """
        new = self._pool is None
        if new:
            self._pool = _call(
                "make_gymnasium",
                self.spec.id,
                num_envs=self.num_envs,
                seed=[int(seed) & INT32_MAX for seed in seeds],
                max_episode_steps=(self.spec.max_episode_steps or INT32_MAX - 1) + 1,
                **self._options,
            )
            mask = np.ones(self.num_envs, np.bool_)
        self._clock.start(mask)
        rows = np.flatnonzero(mask).astype(np.int32)
        obs = self._observations.blank(self.num_envs)
        if not rows.size:  # EnvPool would wait for answers that never come
            return obs
        # The first reset makes the pool's spaces, of which Gymnasium complains.
        with _quiet() if new else contextlib.nullcontext(), self._watch:
            found, info = self._pool.reset(rows)
        # Answers come in the order of `env_id`, which EnvPool does not promise to be the order of the request.
        answered = info["env_id"]
        if not np.array_equal(np.sort(answered), rows):
            raise self._violation(
                0, f"a reset of {short(rows.tolist())} was answered for {short(answered.tolist())}"
            )
        place(obs, answered, self._read(found, answered))
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        # EnvPool checks nothing: a batch that is too short would abort the process.
        sent = self._actions.write(actions, self.num_envs)
        with self._watch:
            found, reward, terminated, truncated, info = self._pool.step(sent)
        last = self._clock.tick()
        if not np.array_equal(info["env_id"], self._every):
            raise self._violation(0, f"a step of all was answered for {short(info['env_id'].tolist())}")
        for name, flags in (("terminated", terminated), ("truncated", truncated)):
            if flags.shape != (self.num_envs,) or flags.dtype != np.bool_:
                raise self._violation(0, f"{name} is {short(flags)}, expected {self.num_envs} flags")
        if reward.shape != (self.num_envs,) or reward.dtype.kind not in "fiu":
            raise self._violation(0, f"reward is {short(reward)}, expected {self.num_envs} numbers")
        if (row := bad_reward(reward)) is not None:
            raise self._violation(row, f"reward is {short(reward[row])}, expected a finite float32")
        return Step(self._read(found, self._every), reward.astype(np.float32), terminated, truncated | last)

    def close(self) -> None:
        """Free the pool and its threads."""
        self._watch.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _read(self, found: Any, rows: np.ndarray) -> Obs:
        self._rows = rows
        try:
            return self._observations.read(found, (len(rows),))
        except MalformedError as error:
            raise self._violation(int(rows[error.row]), str(error)) from error

    def _note(self, kind: str, text: str, row: int) -> None:
        self.notes.say(kind, f"{self._where(int(self._rows[row]))}: {text}")

    def _where(self, row: int) -> str:
        return f"environment {row}, step {self._clock.elapsed[row]} of its episode"

    def _violation(self, row: int, problem: str) -> ContractError:
        return ContractError(
            f"{self._where(row)}: {problem}; check the actions and options, or run {self.spec.id} with backend "
            "'gymnasium'"
        )


def ids() -> frozenset[str]:
    """The environments that EnvPool has.

    Raises: `UsageError` where EnvPool is not installed.
    """
    names: Iterable[str] = _call("list_all_envs")
    return frozenset(names)


def _call(function: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of EnvPool's, without the warnings it causes in Gymnasium.

    Raises: `UsageError` where EnvPool is not installed or refuses what it is given.
    """
    with _quiet():
        try:
            module = importlib.import_module("envpool")
        except ImportError as error:
            raise UsageError(
                f"EnvPool cannot be imported ({one_line(error)}): pip install 'ridgeline[envpool]'"
            ) from error
        try:
            return getattr(module, function)(*arguments, **options)
        except Exception as error:
            raise UsageError(f"EnvPool refused {', '.join(map(str, arguments))}: {one_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
