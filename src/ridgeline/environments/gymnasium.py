"""Gymnasium environments as host environments: in this process one after another, or a process for each.

Gymnasium's own automatic reset and time limit are not used. Every value that an environment returns is checked
where it returns, so that the message names the environment, the step and the field.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import TimeLimit

from ridgeline.adapter import spaces_to_json
from ridgeline.environments.guard import PASSING, Guard, GymEnv, Maker, close_quietly, open_checked, wrappers
from ridgeline.environments.host import Clock, Notes, bad_reward, load, near, one_line
from ridgeline.environments.watchdog import Watch, allow
from ridgeline.errors import EnvironmentCrash, RidgelineError, UsageError
from ridgeline.spaces import Actions, MalformedError, Observations, place
from ridgeline.specs import FLOAT32_MAX
from ridgeline.types import EnvSpec, HostEnvironment, Obs, Step

CLOSING_SECONDS = 5.0


class GymnasiumFactory:
    """Builds host environments from a Gymnasium id, `module:Id`, a callable that returns an environment, or one.

    `vector` is "sync" (one after another in this process) or "async" (a process for each; a script that uses it
    needs `if __name__ == "__main__":`). `max_episode_steps` replaces the time limit of an id; an environment with
    a `TimeLimit` of its own can only be cut shorter. `env_timeout` is how many seconds a call may take (60 where
    it is None, 0 for ever). `options` go to `gymnasium.make`. `notes` hold what was made to fit.

    Raises: `UsageError` for an unknown id, a missing dependency, spaces or options that cannot be used;
    `EnvironmentCrash` where the environment cannot be constructed.
    """

    spec: EnvSpec
    backend: str
    reseeds = True

    def __init__(
        self,
        env: str | Maker | GymEnv,
        vector: str = "sync",
        max_episode_steps: int | None = None,
        env_timeout: float | int | None = None,
        **options: Any,
    ):
        if vector not in ("sync", "async"):
            raise UsageError(f"vector is {vector!r}: choose 'sync' or 'async'")
        if options and not isinstance(env, str):
            raise UsageError(
                f"options {sorted(options)} need an environment id: give them to your callable instead"
            )
        self._vector = vector
        self.backend = "gymnasium" if vector == "sync" else "gymnasium-async"
        self.notes = Notes()
        self._timeout = allow(env_timeout)
        self._instance: GymEnv | None = None
        self._serving: Synchronous | None = None
        self._make: Maker
        limit = max_episode_steps
        if isinstance(env, str):
            registered = find(env)
            limit = registered.max_episode_steps if limit is None else limit
            self._make = functools.partial(_make, registered, options)
        elif isinstance(env, gymnasium.Env):
            self._instance = env
            self._make = functools.partial(_same, env)
        else:
            self._make = env
        probe = open_checked(self._make, timeout=self._timeout)
        try:
            threshold = probe.spec.reward_threshold if probe.spec else None
            self._space = probe.observation_space
            self._action_space = probe.action_space
            actions = Actions(self._action_space)
            self.spec = EnvSpec(
                probe.spec.id if probe.spec else type(probe.unwrapped).__name__,
                Observations(self._space, choices=actions.choices).spec,
                actions.spec,
                _shorter_limit(limit, probe),
                float(threshold) if threshold is not None else None,
            )
        finally:
            if self._instance is None:
                close_quietly(probe, self._timeout)

    @property
    def spaces(self) -> dict[str, Any]:
        """Its spaces as JSON."""
        return spaces_to_json(self._space, self._action_space)

    def build(self, num_envs: int) -> HostEnvironment:
        """`num_envs` environments, none of them reset yet.

        Raises: `UsageError` where one instance would have to serve as several.
        """
        if self._instance is not None and (num_envs != 1 or self._vector == "async"):
            raise UsageError(
                f"one instance of {self.spec.id} cannot serve as {num_envs} environments ({self._vector}): pass a "
                "callable that returns a new environment"
            )
        if self._serving is not None and not self._serving.closed:
            raise UsageError(
                f"the instance of {self.spec.id} is in use, and training and evaluation need one each: pass a "
                "callable that returns a new environment"
            )
        asynchronous = self._vector == "async"
        within = 0.0 if asynchronous else self._timeout  # this process watches over the others
        guards = [Guard(i, self._make, self._space, self._action_space, within) for i in range(num_envs)]
        if asynchronous:
            return Asynchronous(self.spec, guards, self._timeout, self.notes)
        built = Synchronous(self.spec, guards, self._timeout, self.notes, owned=self._instance is None)
        if self._instance is not None:
            self._serving = built
        return built


def find(name: str) -> gymnasium.envs.registration.EnvSpec:
    """The registered environment of that id, or `module:Id` after importing the module.

    Raises: `UsageError` where there is none, `EnvironmentCrash` where the module cannot be imported.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        load(module)
    if env_id not in gymnasium.registry:
        raise UsageError(f"unknown Gymnasium environment {env_id!r}: {near(env_id, gymnasium.registry)}")
    return gymnasium.registry[env_id]


def _make(registered: gymnasium.envs.registration.EnvSpec, options: dict[str, Any]) -> GymEnv:
    try:
        return gymnasium.make(registered, max_episode_steps=-1, disable_env_checker=True, **options)
    except TypeError as error:
        if options:
            raise UsageError(f"{registered.id} refused the options {options}: {one_line(error)}") from error
        raise


def _same(env: GymEnv) -> GymEnv:
    return env


def _shorter_limit(limit: int | None, env: GymEnv) -> int | None:
    """The limit to count: the given one or the shortest of the environment's own wrappers."""
    if limit is not None and limit < 1:
        raise UsageError(f"max_episode_steps is {limit}: it must be at least 1")
    own = [wrapper._max_episode_steps for wrapper in wrappers(env) if isinstance(wrapper, TimeLimit)]
    if limit is not None and own and limit > min(own):
        raise UsageError(
            f"max_episode_steps is {limit}, but its own TimeLimit ends episodes at {min(own)}: change that"
        )
    return min([*own, *([] if limit is None else [limit])], default=None)


# Observations as they arrived, rewards, and both flags, of every row.
type Answers = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]
_NUMBERS = {float, np.float64, np.float32}  # an int may be larger than any float
_FLAGS = {bool, np.bool_}


def _owner(value: Any) -> Any:
    """The object whose memory an array shows."""
    while isinstance(base := getattr(value, "base", None), np.ndarray):
        value = base
    return value


class Synchronous:
    """Environments stepped one after another in this process. A `HostEnvironment`.

    Closing it closes the environments that are `owned`; an instance stays its user's.
    """

    def __init__(self, spec: EnvSpec, guards: list[Guard], timeout: float, notes: Notes, owned: bool):
        self.closed = False
        self.notes = notes
        self._owned = owned
        self.spec = spec
        self.num_envs = len(guards)
        self._guards = guards
        self._every = np.arange(self.num_envs)
        self._rows = self._every  # whose observations are being read
        self._row = 0  # whose turn it is
        self._alone = False  # whether none was seen to return another's memory, or an object again
        self._kinds: list[type] = []  # of the answers when they were last found plain
        self._watch = Watch(timeout, lambda: f"{guards[self._row].where}: it")
        self._actions = Actions(guards[0].action_space)
        self._observations = Observations(guards[0].space, self._note, self._actions.choices)
        self._clock = Clock(self.num_envs, spec.max_episode_steps)
        for guard in guards:
            guard.notes = notes
        try:
            if len({id(guard.open()) for guard in guards}) < self.num_envs:
                raise UsageError(
                    f"the callable of {spec.id} returned one environment twice: return a new one each time"
                )
        except RidgelineError:
            self.close()
            raise

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`, from that row's seed; the other rows are zeros."""
        obs = self._observations.blank(self.num_envs)
        rows = np.flatnonzero(mask)
        if not rows.size:
            return obs
        self._rows, raw = rows, self._observations.arriving(len(rows))
        put = self._observations.putter(raw)
        try:
            with self._watch:
                for i, self._row in enumerate(rows.tolist()):
                    self._watch.began = time.monotonic()
                    put(i, self._guards[self._row].begin(int(seeds[self._row])))
        except MalformedError as error:
            raise self._guards[self._row].violation(error) from error
        place(obs, rows, self._read(raw))
        self._clock.start(mask)
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        sent = self._actions.write(actions, self.num_envs)
        self._rows = self._every
        cut = self._clock.tick()
        found = self._at_once(sent) if self._alone else self._one_by_one(sent)
        raw, reward, terminated, truncated = found
        return Step(self._read(raw), reward, terminated, truncated | cut)

    def _at_once(self, sent: Any) -> Answers:
        """Step every environment, then look at all answers together, if all are of the plain kinds: it is quicker.

        Each observation is still as it was returned: environments that share a buffer are stepped one by one.
        """
        answers, watch, now = [], self._watch, time.monotonic
        try:
            with watch:
                for i, guard in enumerate(self._guards):
                    self._row, watch.began = i, now()
                    guard.steps += 1
                    answers.append(guard.call(sent[i]))
        except PASSING:
            raise
        except BaseException as error:
            raise self._guards[self._row].crash("step", error) from error
        with contextlib.suppress(TypeError, ValueError):  # some answer is no tuple of five
            obs, reward, terminated, truncated, info = zip(*answers, strict=True)
            kinds = [*map(type, (*answers, *obs, *reward, *terminated, *truncated, *info))]
            if (
                (kinds == self._kinds or self._plain(kinds))
                and math.hypot(*reward) <= FLOAT32_MAX  # at least as large as each of them
                and (raw := self._observations.together(obs)) is not None
            ):
                return raw, np.array(reward, np.float32), np.array(terminated, bool), np.array(truncated, bool)
        return self._collect(lambda i, guard: guard.look(answers[i]))

    def _plain(self, kinds: list[type]) -> bool:
        """Whether answers and what is in them are of the types that need no second look; kept if so."""
        tuples, obs, reward, terminated, truncated, info = (
            set(kinds[i : i + self.num_envs]) for i in range(0, len(kinds), self.num_envs)
        )
        plain = (
            tuples == {tuple}
            and obs == {np.ndarray}
            and reward <= _NUMBERS
            and terminated | truncated <= _FLAGS
            and info == {dict}
        )
        if plain:
            self._kinds = kinds
        return plain

    def _one_by_one(self, sent: Any) -> Answers:
        """Step an environment and look at its answer, then the next."""
        watch, now = self._watch, time.monotonic

        def advance(i: int, guard: Guard) -> tuple[Any, float, bool, bool]:
            watch.began = now()
            return guard.advance(sent[i])

        before = [guard.latest for guard in self._guards]
        with watch:
            found = self._collect(advance)
        now_at = [guard.latest for guard in self._guards]
        self._alone = len({id(_owner(obs)) for obs in now_at}) == self.num_envs and not any(
            old is None or old is new for old, new in zip(before, now_at, strict=True)
        )
        return found

    def _collect(self, answer: Callable[[int, Guard], tuple[Any, float, bool, bool]]) -> Answers:
        raw = self._observations.arriving(self.num_envs)
        put = self._observations.putter(raw)
        reward = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), np.bool_)
        try:
            for i, guard in enumerate(self._guards):
                self._row = i
                value, reward[i], terminated[i], truncated[i] = answer(i, guard)
                put(i, value)
        except MalformedError as error:
            raise self._guards[self._row].violation(error) from error
        if (bad := bad_reward(reward)) is not None:
            problem = f"reward is {reward[bad]}, expected a finite float32"
            raise self._guards[bad].violation(MalformedError(problem))
        return raw, reward.astype(np.float32), terminated, truncated

    def close(self) -> None:
        """Close every environment."""
        self.closed = True
        self._watch.close()
        if self._owned:
            for guard in self._guards:
                guard.close()

    def _read(self, raw: dict[str, np.ndarray]) -> Obs:
        """The observations of `self._rows`, all checked at once."""
        try:
            return self._observations.canonical(raw, len(self._rows))
        except MalformedError as error:
            raise self._guards[self._rows[error.row]].violation(error) from error

    def _note(self, kind: str, text: str, row: int) -> None:
        self.notes.say(kind, f"{self._guards[self._rows[row]].where}: {text}")


class Asynchronous:
    """Environments stepped side by side, each in a process of its own. A `HostEnvironment`."""

    def __init__(self, spec: EnvSpec, guards: list[Guard], timeout: float, notes: Notes):
        self.spec = spec
        self.notes = notes
        self.num_envs = len(guards)
        self._actions = Actions(guards[0].action_space)
        self._observations = guards[0].observations
        self._clock = Clock(self.num_envs, spec.max_episode_steps)
        self._timeout = timeout or None
        try:
            self._workers = AsyncVectorEnv(
                [functools.partial(_in_worker, guard, os.getpid()) for guard in guards],
                context=_start_method(),
                autoreset_mode=AutoresetMode.DISABLED,
            )
        except (EOFError, OSError) as error:
            raise EnvironmentCrash(
                f"the processes of {spec.id} did not start ({one_line(error)}): put the script's code under "
                "`if __name__ == '__main__':`, and define the environment where it can be imported"
            ) from error

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`, from that row's seed; the other rows are not to be used."""
        if not mask.any():
            return self._observations.blank(self.num_envs)
        with self._watch():
            self._workers.reset_async(seed=[int(seed) for seed in seeds], options={"reset_mask": np.array(mask)})
            obs, info = self._workers.reset_wait(self._timeout)
        self._say(info)
        self._clock.start(mask)
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        with self._watch():
            self._workers.step_async(self._actions.write(actions, self.num_envs))
            obs, reward, terminated, truncated, info = self._workers.step_wait(self._timeout)
        if info:
            self._say(info)
        return Step(obs, reward.astype(np.float32), terminated, truncated | self._clock.tick())

    def close(self) -> None:
        """Ask every process to close its environment, and end those that do not."""
        if not self._workers.closed:
            for pipe in self._workers.parent_pipes:
                with contextlib.suppress(AttributeError, OSError):  # None or closed: that process has ended
                    pipe.send(("close", None))
            for process in self._workers.processes:
                process.join(CLOSING_SECONDS)
            self._end()

    def _say(self, info: dict[str, Any]) -> None:
        """Pass on what the environments note, each kind from the first that does."""
        for lines in info.get("notes", ()):
            for kind, line in lines or ():
                self.notes.say(kind, line)

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Say in one line which process raised, hangs or has died."""
        if self._workers.closed:
            raise EnvironmentCrash(f"the processes of {self.spec.id} have ended: build new environments")
        level, gymnasium.logger.min_level = gymnasium.logger.min_level, 100  # it would print tracebacks
        try:
            yield
        except RidgelineError as error:  # it comes wrapped in itself
            raise type(error)(str(error)) from None
        except multiprocessing.TimeoutError as error:
            late = next(i for i, pipe in enumerate(self._workers.parent_pipes) if not pipe.poll())
            self._end()
            raise EnvironmentCrash(
                f"environment {late} did not answer within {self._timeout:g} s: fix it, or allow more "
                "(--env-timeout)"
            ) from error
        except (EOFError, OSError) as error:
            numbers = {process.sentinel: i for i, process in enumerate(self._workers.processes)}
            dead = [numbers[sentinel] for sentinel in wait(list(numbers), timeout=1) if sentinel in numbers]
            codes = [self._workers.processes[i].exitcode for i in dead]
            self._end()
            raise EnvironmentCrash(
                f"environment {min(dead, default='?')} died (exit codes {codes} of environments {dead}): run it "
                "with vector='sync' to see why"
            ) from error
        finally:
            gymnasium.logger.min_level = level

    def _end(self) -> None:
        for process in self._workers.processes:
            process.kill()
            process.join()
        self._workers.error_queue.close()
        # Its locks must go now: a traceback may keep the workers until a garbage collection, and one inside
        # multiprocessing's resource tracker would call it reentrantly.
        del self._workers.error_queue
        self._workers.closed = True


def _in_worker(guard: Guard, parent: int) -> Guard:
    """The guard itself; in a process of its own it leaves signals to the parent, which saves first, then kills."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return guard


def _start_method() -> str:
    """How processes start: never by forking this one, whose JAX threads a fork would tear apart."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    return "forkserver"
