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
from ridgeline.environments.host import Clock, near, one_line
from ridgeline.errors import ContractError, UsageError, short
from ridgeline.spaces import FLOAT32_MAX, Actions, MalformedError, Observations, place
from ridgeline.types import EnvSpec, HostEnvironment, Obs, Step

INT32_MAX = 2**31 - 1
OWN_OPTIONS = {"num_envs", "batch_size", "seed", "env_seed", "env_type", "task_id"}


class EnvPoolFactory:
    """Builds pools of one EnvPool environment. `options` go to `envpool.make`.

    Raises: `UsageError` where EnvPool is not installed, has no such environment or cannot take these options.
    """

    spec: EnvSpec
    backend = "envpool"
    reseeds = False

    def __init__(self, env: str, max_episode_steps: int | None = None, **options: Any):
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
        self.spec = EnvSpec(
            env,
            Observations(self._spaces[0]).spec,
            Actions(self._spaces[1]).spec,
            max_episode_steps or (own_limit if own_limit < INT32_MAX else None),
            float(threshold) if threshold is not None else None,
        )

    @property
    def spaces(self) -> dict[str, Any]:
        """Its spaces as JSON."""
        return spaces_to_json(*self._spaces)

    def build(self, num_envs: int) -> HostEnvironment:
        """A pool of `num_envs` environments; EnvPool makes it at the first reset, which knows the seeds."""
        return EnvPool(self.spec, num_envs, self._spaces, self._options)


class EnvPool:
    """One pool of environments. A `HostEnvironment`.

    The seeds of the first reset decide every later episode as well: EnvPool cannot be seeded again, so those of
    later resets are not used. A pool resets wherever it is told to, whether or not the episode has ended.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, spaces: tuple[Any, Any], options: dict[str, Any]):
        self.spec = spec
        self.num_envs = num_envs
        self._observations = Observations(spaces[0])
        self._actions = Actions(spaces[1])
        self._options = options
        self._clock = Clock(num_envs, spec.max_episode_steps)
        self._pool: Any = None

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`; the first call starts all, from these seeds (of which 31 bits count).

        The other rows are zeros.
        """
        if self._pool is None:
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
        with _quiet():  # the first reset makes the pool's spaces, of which Gymnasium complains
            found, info = self._pool.reset(rows)
        # Answers come in the order of `env_id`, which EnvPool does not promise to be the order of the request.
        place(obs, info["env_id"], self._read(found, info["env_id"]))
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        # EnvPool checks nothing: a batch that is too short would abort the process.
        sent = self._actions.write(actions, self.num_envs)
        found, reward, terminated, truncated, info = self._pool.step(sent)
        last = self._clock.tick()
        good = np.abs(reward) <= FLOAT32_MAX
        if not good.all():
            row = int(np.argmin(good))
            raise self._violation(row, f"reward is {short(reward[row])}, expected a finite float32")
        return Step(self._read(found, info["env_id"]), reward.astype(np.float32), terminated, truncated | last)

    def close(self) -> None:
        """Free the pool and its threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _read(self, found: Any, rows: np.ndarray) -> Obs:
        try:
            return self._observations.read(found, (len(rows),))
        except MalformedError as error:
            raise self._violation(int(rows[error.row]), str(error)) from error

    def _violation(self, row: int, problem: str) -> ContractError:
        return ContractError(
            f"environment {row}, step {self._clock.elapsed[row]} of its episode: {problem}; check the actions and "
            f"options, or run {self.spec.id} with backend 'gymnasium'"
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
