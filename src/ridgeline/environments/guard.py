"""One Gymnasium environment under guard: opened, checked at every value, its faults named.

A guard wraps each single environment, so the checks also run inside the processes of an asynchronous host.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

from ridgeline.environments.host import Notes, bad_reward, one_line
from ridgeline.environments.watchdog import within
from ridgeline.errors import ContractError, EnvironmentCrash, Interruption, RidgelineError, UsageError, short
from ridgeline.spaces import Actions, MalformedError, Observations
from ridgeline.types import ArraySpec, Obs

type GymEnv = gymnasium.Env[Any, Any]
type Maker = Callable[[], GymEnv]
EXTRAS = ("box2d", "mujoco")

# What is not the environment's: the interrupt key, and what our own handlers of signals raise.
PASSING = (KeyboardInterrupt, Interruption)


def construct(make: Maker, where: str = "environment", timeout: float = 0.0) -> Any:
    """What the callable returns, within `timeout` seconds; 0 is for ever.

    Raises: `UsageError` where a package is missing, `EnvironmentCrash` where it raises anything else, or hangs.
    """
    try:
        return within(timeout, f"{where}: its constructor", make)
    except (RidgelineError, *PASSING):
        raise
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        text = one_line(error)
        extra = next((name for name in EXTRAS if name in text.lower()), None)
        remedy = f"pip install 'ridgeline[{extra}]'" if extra else "install what it asks for"
        raise UsageError(f"{where} needs a package that is not installed ({text}): {remedy}") from error
    except BaseException as error:
        raise EnvironmentCrash(
            f"{where} could not be constructed: {one_line(error)}; check its name and options"
        ) from error


def open_checked(make: Maker, where: str = "environment", timeout: float = 0.0) -> GymEnv:
    """A new environment whose own checker is silent.

    Raises: what `construct` raises, and `UsageError` where it is no environment.
    """
    env = construct(make, where, timeout)
    if not isinstance(env, gymnasium.Env):
        raise UsageError(
            f"{where} is {short(env)}, not a gymnasium.Env: derive from it, or convert an old Gym environment "
            "with shimmy"
        )
    for wrapper in wrappers(env):
        if isinstance(wrapper, PassiveEnvChecker):
            wrapper.checked_reset = wrapper.checked_step = wrapper.checked_data_reuse = True
    for name in ("observation_space", "action_space"):
        if not isinstance(found := space_of(env, name, where), gymnasium.Space):
            raise UsageError(f"{where} has {short(found)} for its {name}: declare a gymnasium.spaces.Space")
    return env


def space_of(env: GymEnv, name: str, where: str = "environment") -> Any:
    """Its space of that name, or None where it has none."""
    try:
        return getattr(env, name, None)
    except PASSING:
        raise
    except BaseException as error:
        raise EnvironmentCrash(f"{where}: its {name} raised {one_line(error)}; fix the environment") from error


def wrappers(env: GymEnv) -> Iterator[GymEnv]:
    """The environment and what it wraps, from the outside in."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def close_quietly(env: Any, timeout: float = 0.0) -> None:
    """Close it; what fails or hangs at closing can no longer harm a run."""
    try:
        within(timeout, "an environment's close()", env.close)
    except PASSING:
        raise
    except BaseException:
        return


class Guard(gymnasium.Env[Any, Any]):
    """One environment, opened at its first reset, that lets nothing through but what its spaces allow.

    Its observations are canonical, its actions the environment's own. Steps in messages are counted from 1 in
    each episode. In a process of its own it is the environment (`reset`, `step`), and what there is to note
    travels in `info`; in this one `begin` and `advance` hand on observations as they arrive, to be checked
    together with those of its siblings.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        index: int,
        make: Maker,
        space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        timeout: float = 0.0,
    ):
        self.index = index
        self.notes = Notes()
        self.observations = Observations(space, self._note, Actions(action_space).choices)
        self.observation_space = _canonical(self.observations)
        self.action_space = action_space
        self.env: GymEnv | None = None
        self._make = make
        self._timeout = timeout
        self.space = space
        self._seed = 0
        self.steps = 0
        self.latest: Any = None
        self.call: Any = None  # its `step`

    def open(self) -> GymEnv:
        """The environment, constructed by the first call."""
        if self.env is None:
            self.env = open_checked(self._make, f"environment {self.index}", self._timeout)
            if self.env.observation_space != self.space or self.env.action_space != self.action_space:
                raise UsageError(
                    f"environment {self.index} has other spaces than its siblings: make them all alike"
                )
            # A row of a batch of shapeless boxes is a scalar; the environment was promised an array.
            shapeless = isinstance(self.action_space, gymnasium.spaces.Box) and not self.action_space.shape
            step = self.env.step
            self.call = (lambda action: step(np.asarray(action))) if shapeless else step
            # Its own ones, so that a change shows by identity: to compare spaces is slow.
            self.space, self.action_space = self.env.observation_space, self.env.action_space
        return self.env

    def begin(self, seed: int) -> Any:
        """Start the episode of that seed; its observation as it arrives."""
        env = self.open()
        self._seed, self.steps = seed, 0
        try:
            answer = env.reset(seed=seed)
        except PASSING:
            raise
        except BaseException as error:
            raise self.crash("reset", error) from error
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise MalformedError(f"reset returned {short(answer)}, expected the tuple (observation, info)")
        for name, known in (("observation_space", self.space), ("action_space", self.action_space)):
            now = space_of(env, name)
            if now is not known and now != known:
                raise MalformedError(f"{name} has become {short(now)}, and was {short(known)}: it may not change")
        return answer[0]

    def advance(self, action: Any) -> tuple[Any, float, bool, bool]:
        """Take one step; its observation as it arrives, the reward not yet looked at, the flags."""
        self.steps += 1
        try:
            answer = self.call(action)
        except PASSING:
            raise
        except BaseException as error:
            raise self.crash("step", error) from error
        return self.look(answer)

    def look(self, answer: Any) -> tuple[Any, float, bool, bool]:
        """What a step answered: its observation as it arrived, the reward not yet looked at, the flags."""
        if type(answer) is tuple and len(answer) == 5:
            obs, reward, terminated, truncated, info = answer
            if (
                type(reward) is float
                and type(terminated) is bool
                and type(truncated) is bool
                and type(info) is dict
                and obs is not self.latest
            ):
                self.latest = obs
                return obs, reward, terminated, truncated
        return self._unusual(answer)

    def _unusual(self, answer: Any) -> tuple[Any, float, bool, bool]:
        """The same of an answer that is not of the plainest types, or refuse it."""
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise MalformedError(_arity(answer))
        obs, reward, terminated, truncated, info = answer
        if not isinstance(info, dict):
            raise MalformedError(f"info is {short(info)}, expected a dictionary")
        if obs is self.latest and isinstance(obs, (np.ndarray, list, dict)):
            self._note("buffer", "observation is the very object of the step before: copied", self.index)
        self.latest = obs
        return obs, self._reward(reward), self._flag("terminated", terminated), self._flag("truncated", truncated)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start the episode of that seed."""
        try:
            return self.observations.read(self.begin(seed or 0)), self._said()
        except MalformedError as error:
            raise self.violation(error) from error

    def step(self, action: Any) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        try:
            obs, reward, terminated, truncated = self.advance(action)
            self.require_reward(reward)
            return self.observations.read(obs), reward, terminated, truncated, self._said()
        except MalformedError as error:
            raise self.violation(error) from error

    def close(self) -> None:
        """Close what was opened."""
        if self.env is not None:
            close_quietly(self.env, self._timeout)

    @property
    def where(self) -> str:
        """Which environment, step and episode it is."""
        at = f"step {self.steps}" if self.steps else "reset (step 0)"
        return f"environment {self.index}, {at} of the episode with seed {self._seed}"

    def violation(self, error: MalformedError) -> ContractError:
        """The error with its place."""
        return ContractError(f"{self.where}: {error}; fix the environment or its spaces")

    def require_reward(self, reward: float) -> None:
        """Raise `MalformedError` where it is no finite float32."""
        if bad_reward(np.asarray([reward])) is not None:
            raise MalformedError(f"reward is {reward}, expected a finite float32")

    def _said(self) -> dict[str, Any]:
        said = self.notes.take()
        return {"notes": tuple(said.items())} if said else {}

    def _note(self, kind: str, text: str, row: int) -> None:
        self.notes.say(kind, f"{self.where}: {text}")

    def _reward(self, value: Any) -> float:
        if isinstance(value, bool | np.bool_ | np.ndarray | list | tuple):
            self._note("reward", f"reward is {short(value)}: read as a number", self.index)
        return float(_number("reward", value))

    def _flag(self, field: str, value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        number = _number(field, value)
        if number not in (0, 1):
            raise MalformedError(f"{field} is {short(value)}, expected True or False")
        self._note(field, f"{field} is {short(value)}: read as {bool(number)}", self.index)
        return bool(number)

    def crash(self, method: str, error: BaseException) -> EnvironmentCrash:
        """What to say of an exception of its own."""
        return EnvironmentCrash(f"{self.where}: {method} raised {one_line(error)}; fix the environment")


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
        try:
            float(value)
        except OverflowError as error:
            raise MalformedError(f"{field} is {short(value)}, expected a finite float32") from error
        return value
    try:
        array = np.asarray(value)
    except Exception as error:
        raise MalformedError(f"{field} is {short(value)}, expected one number") from error
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise MalformedError(f"{field} is {short(value)}, expected one number")
    number: float | int = array.item()
    return number


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
