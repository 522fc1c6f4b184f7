"""One Gymnasium environment under guard: opened, checked at every value, its faults named.

A guard wraps each single environment, so the checks also run inside the processes of an asynchronous host.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

from ridgeline.environments.host import one_line
from ridgeline.errors import ContractError, EnvironmentCrash, RidgelineError, UsageError, short
from ridgeline.spaces import FLOAT32_MAX, MalformedError, Observations
from ridgeline.types import ArraySpec, Obs

type GymEnv = gymnasium.Env[Any, Any]
type Maker = Callable[[], GymEnv]
EXTRAS = ("box2d", "mujoco")


def construct(make: Maker, where: str = "environment") -> Any:
    """What the callable returns.

    Raises: `UsageError` where a package is missing, `EnvironmentCrash` where it raises anything else.
    """
    try:
        return make()
    except RidgelineError:
        raise
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        text = one_line(error)
        extra = next((name for name in EXTRAS if name in text.lower()), None)
        remedy = f"pip install 'ridgeline[{extra}]'" if extra else "install what it asks for"
        raise UsageError(f"{where} needs a package that is not installed ({text}): {remedy}") from error
    except (Exception, SystemExit) as error:
        raise EnvironmentCrash(
            f"{where} could not be constructed: {one_line(error)}; check its name and options"
        ) from error


def open_checked(make: Maker, where: str = "environment") -> GymEnv:
    """A new environment whose own checker is silent.

    Raises: what `construct` raises, and `UsageError` where it is no environment.
    """
    env = construct(make, where)
    if not isinstance(env, gymnasium.Env):
        raise UsageError(
            f"{where} is {short(env)}, not a gymnasium.Env: derive from it, or convert an old Gym environment "
            "with shimmy"
        )
    for wrapper in wrappers(env):
        if isinstance(wrapper, PassiveEnvChecker):
            wrapper.checked_reset = wrapper.checked_step = wrapper.checked_data_reuse = True
    return env


def wrappers(env: GymEnv) -> Iterator[GymEnv]:
    """The environment and what it wraps, from the outside in."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def close_quietly(env: Any) -> None:
    """Close it; what fails at closing can no longer harm a run."""
    with contextlib.suppress(Exception):
        env.close()


class Guard(gymnasium.Env[Any, Any]):
    """One environment, opened at its first reset, that lets nothing through but what its spaces allow.

    Its observations are canonical, its actions the environment's own. Steps in messages are counted from 1 in
    each episode.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, index: int, make: Maker, space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]):
        self.index = index
        self.observations = Observations(space)
        self.observation_space = _canonical(self.observations)
        self.action_space = action_space
        self.env: GymEnv | None = None
        self._make = make
        self._space = space
        self._is_box = isinstance(action_space, gymnasium.spaces.Box)
        self._seed = 0
        self._steps = 0

    def open(self) -> GymEnv:
        """The environment, constructed by the first call."""
        if self.env is None:
            self.env = open_checked(self._make, f"environment {self.index}")
            if self.env.observation_space != self._space or self.env.action_space != self.action_space:
                raise UsageError(
                    f"environment {self.index} has other spaces than its siblings: make them all alike"
                )
        return self.env

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start the episode of that seed."""
        env = self.open()
        self._seed, self._steps = seed or 0, 0
        try:
            answer = env.reset(seed=seed)
        except (Exception, SystemExit) as error:
            raise self._crash("reset", error) from error
        try:
            if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
                raise MalformedError(f"reset returned {short(answer)}, expected the tuple (observation, info)")
            return self.observations.read(answer[0]), {}
        except MalformedError as error:
            raise self._violation(error) from error

    def step(self, action: Any) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        assert self.env is not None
        self._steps += 1
        try:
            # A row of a batch of shapeless boxes is a scalar; the environment was promised an array.
            answer = self.env.step(np.asarray(action) if self._is_box else action)
        except (Exception, SystemExit) as error:
            raise self._crash("step", error) from error
        try:
            if not (isinstance(answer, tuple) and len(answer) == 5):
                raise MalformedError(_arity(answer))
            obs, reward, terminated, truncated, info = answer
            if not isinstance(info, dict):
                raise MalformedError(f"info is {short(info)}, expected a dictionary")
            return (
                self.observations.read(obs),
                _real("reward", reward),
                _flag("terminated", terminated),
                _flag("truncated", truncated),
                {},
            )
        except MalformedError as error:
            raise self._violation(error) from error

    def close(self) -> None:
        """Close what was opened."""
        if self.env is not None:
            close_quietly(self.env)

    @property
    def _where(self) -> str:
        at = f"step {self._steps}" if self._steps else "reset (step 0)"
        return f"environment {self.index}, {at} of the episode with seed {self._seed}"

    def _crash(self, method: str, error: BaseException) -> EnvironmentCrash:
        return EnvironmentCrash(f"{self._where}: {method} raised {one_line(error)}; fix the environment")

    def _violation(self, error: MalformedError) -> ContractError:
        return ContractError(f"{self._where}: {error}; fix the environment or its spaces")


def _arity(answer: object) -> str:
    """What is wrong with something that is not five values."""
    if isinstance(answer, tuple) and len(answer) == 4:
        return (
            "step returned 4 values, which is the old Gym interface, expected (observation, reward, terminated, "
            "truncated, info); split `done` in two"
        )
    return f"step returned {short(answer)}, expected (observation, reward, terminated, truncated, info)"


def _number(field: str, value: Any) -> float | int:
    """One real number out of a scalar or an array of size 1."""
    if isinstance(value, (float, bool, int)):
        return value
    try:
        array = np.asarray(value)
    except Exception as error:
        raise MalformedError(f"{field} is {short(value)}, expected one number") from error
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise MalformedError(f"{field} is {short(value)}, expected one number")
    number: float | int = array.item()
    return number


def _real(field: str, value: Any) -> float:
    number = _number(field, value)
    if not -FLOAT32_MAX <= number <= FLOAT32_MAX:
        raise MalformedError(f"{field} is {short(value)}, expected a finite float32")
    return float(number)


def _flag(field: str, value: Any) -> bool:
    if value is True or value is False:
        return value
    number = _number(field, value)
    if number not in (0, 1):
        raise MalformedError(f"{field} is {short(value)}, expected True or False")
    return bool(number)


def _canonical(observations: Observations) -> gymnasium.Space[Any]:
    """The space of canonical observations, which sizes the memory that processes share."""

    def box(spec: ArraySpec) -> gymnasium.spaces.Box:
        dtype = np.dtype(spec.dtype)
        low, high = {"f": (-np.inf, np.inf), "b": (0, 1)}.get(dtype.kind) or (
            np.iinfo(dtype).min,
            np.iinfo(dtype).max,
        )
        return gymnasium.spaces.Box(low, high, spec.shape, dtype.type)

    if isinstance(observations.spec, ArraySpec):
        return box(observations.spec)
    return gymnasium.spaces.Dict({key: box(spec) for key, spec in observations.spec})
