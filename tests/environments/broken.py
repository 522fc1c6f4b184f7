"""Environments that are broken, each in one way: `broken:NAME` for every name in `CASES`, `broken:NAME_continuous`.

All are `Broken`, with the same spec where the fault leaves it alone, so that they share compiled code. An episode
has five steps; a fault shows in the second.
"""

import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 5
BOX = spaces.Box(-1, 1, (2,), np.float32)
RESET, MIDDLE, LAST = 0, 3, EPISODE


class Case(NamedTuple):
    """A fault and what must come of it: an exit code, and words of the error line or of the line said once."""

    code: int | tuple[int, ...]
    says: str = ""  # a regular expression; empty with code 0: nothing is said
    fault: Callable[..., Any] | None = None  # of (environment, answer)
    at: int | None = MIDDLE  # the step of the second episode at which it shows, None for all steps of all
    same: bool = False  # whether the run must learn, bit for bit, what it learns without the fault
    kinds: tuple[str, ...] = ("discrete", "continuous")
    attributes: dict[str, Any] = {}  # noqa: RUF012
    build: Callable[..., Any] | None = None  # instead of the constructor
    flags: str = ""
    slow: bool = False  # it has another spec, so it compiles anew


class Broken(gymnasium.Env):
    """Observes two numbers that its actions push about, and earns 1 a step."""

    observation_space: Any = BOX

    def __init__(self, name: str, kind: str):
        case = CASES[name]
        self.at, self.fault = case.at, case.fault
        self.action_space: Any = spaces.Discrete(2) if kind == "discrete" else spaces.Box(-1, 1, (2,), np.float32)
        for key, value in case.attributes.items():
            setattr(self, key, value() if callable(value) else value)
        self.episode, self.start = 0, getattr(self.action_space, "start", 0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        self.place = self.np_random.uniform(-0.5, 0.5, 2).astype(np.float32)
        return self.answer((self.look(), {}))

    def step(self, action):
        self.t += 1
        self.place = np.float32(0.9) * self.place + np.float32(0.05) * np.float32(np.sum(action) - self.start)
        return self.answer((self.look(), 1.0, self.t == EPISODE, False, {}))

    def look(self):
        return self.place.copy()

    def answer(self, answer):
        shows = self.at is None or (self.episode == 2 and self.t == self.at)
        return self.fault(self, answer) if self.fault and shows else answer


def sees(value):
    """The answer with that observation, or what a function makes of the right one."""
    return lambda env, answer: (value(answer[0]) if callable(value) else value, *answer[1:])


def gives(index, value):
    """The answer of a step with its value at this place replaced; a reset's is left alone."""
    return lambda env, answer: answer if len(answer) == 2 else (*answer[:index], value, *answer[index + 1 :])


def returns(function):
    """What the function makes of the whole answer."""
    return lambda env, answer: function(answer)


def throws(error):
    def fault(env, answer):
        raise error

    return fault


def hangs(env, answer):
    time.sleep(600)


def hangs_on(env, answer):
    while True:
        try:
            time.sleep(0.05)
        except Exception:
            continue


def in_worker(function):
    """Only in a process of its own: the tests' is spared."""

    def fault(env, answer):
        return function() if multiprocessing.parent_process() is not None else answer

    return fault


def sets(**attributes):
    """Sets attributes of the environment, later than it should."""

    def fault(env, answer):
        for name, value in attributes.items():
            setattr(env, name, value)
        return answer

    return fault


def builds(error):
    def build(name, kind):
        raise error

    return build


def stalls(name, kind):
    time.sleep(600)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Aborted(BaseException):
    """As KeyboardInterrupt is one, but the environment's own."""


class OldGym:
    """Not a gymnasium.Env."""

    observation_space, action_space = BOX, spaces.Discrete(2)

    def reset(self):
        return np.zeros(2)


class Vector(np.ndarray):
    """A subclass of arrays."""


class Slipping(Broken):
    """Its action space cannot even be looked at."""

    @property
    def observation_space(self):  # type: ignore[override]
        raise LookupError("no map loaded")


Slipping.__name__ = "Broken"
UNSEEDED = np.random.default_rng()
ALONE: dict[str, Any] = {}
SHARED = np.zeros(2, np.float32)


def one_buffer(obs):
    SHARED[:] = obs
    return SHARED


class OwnBuffer(Broken):
    """Returns one array of its own, time after time."""

    def look(self):
        if not hasattr(self, "buffer"):
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = self.place
        return self.buffer


class Crowd(Broken):
    """The second one has other spaces."""

    count = 0


def crowd(name, kind):
    Crowd.count += 1
    env = Broken(name, kind)
    if Crowd.count % 2:
        env.observation_space = spaces.Box(-1, 1, (3,), np.float32)
    return env


def once(name, kind):
    return ALONE.setdefault(name + kind, Broken(name, kind))


def unchecked(space, **attributes):
    """A space with attributes that its constructor would refuse."""

    def make():
        made = space()
        for name, value in attributes.items():
            setattr(made, name, value)
        return made

    return make


def reads(function):
    """Such an observation in every answer."""
    return {"fault": sees(function), "at": None}


def read_only(obs):
    obs.flags.writeable = False
    return obs


def masked_dict(mask):
    return spaces.Dict({"x": BOX, "action_mask": spaces.MultiBinary(mask)})


def with_mask(mask):
    return lambda obs: {"x": obs, "action_mask": np.array(mask, np.int8)}


NAN, INF = np.array([0, np.nan], np.float32), np.array([np.inf, 0], np.float32)
DISCRETE, CONTINUOUS = ("discrete",), ("continuous",)
ASYNC = "--backend gymnasium-async"
HANG = "--env-timeout 1"
OBS3, REWARD, TERMINATED, TRUNCATED, INFO = "observation", 1, 2, 3, 4

CASES: dict[str, Case] = {
    "sound": Case(0, same=True),
    # observations
    "nan_at_reset": Case(3, r"reset \(step 0\).*observation\[1\] is nan", sees(NAN), RESET),
    "nan_midway": Case(3, r"step 3 of the episode.*observation\[1\] is nan", sees(NAN)),
    "nan_at_the_last_step": Case(3, r"step 5 .*observation\[1\] is nan", sees(NAN), LAST),
    "inf_at_reset": Case(3, r"observation\[0\] is inf", sees(INF), RESET),
    "inf_midway": Case(3, r"observation\[0\] is inf", sees(INF)),
    "minus_inf_at_the_last_step": Case(3, r"observation\[0\] is -inf", sees(-INF + 0), LAST),
    "obs_overflows_float32": Case(3, r"observation\[0\] is 1e\+300", sees(np.array([1e300, 0]))),
    "obs_none": Case(3, "observation is None", sees(None)),
    "obs_none_at_reset": Case(3, "observation is None", sees(None), RESET),
    "obs_too_long": Case(3, r"observation has shape \(3,\), its space has \(2,\)", sees(np.zeros(3, np.float32))),
    "obs_too_long_at_reset": Case(3, r"observation has shape \(3,\)", sees(np.zeros(3, np.float32)), RESET),
    "obs_in_a_batch": Case(3, r"observation has shape \(1, 2\)", sees(lambda x: x[None])),
    "obs_scalar": Case(3, r"observation has shape \(\)", sees(0.5)),
    "obs_empty": Case(3, r"observation has shape \(0,\)", sees(np.zeros(0, np.float32))),
    "obs_of_objects": Case(3, "observation is .*dtype object", sees(np.array([1.0, 2.0], object))),
    "obs_of_text": Case(3, "observation is .*dtype <U1", sees(np.array(["1", "2"]))),
    "obs_of_bytes": Case(3, "observation is .*dtype .S2", sees(b"12")),
    "obs_complex": Case(3, "observation is .*dtype complex128", sees(np.zeros(2, complex))),
    "obs_of_dates": Case(3, "observation is .*datetime64", sees(np.zeros(2, "datetime64[s]"))),
    "obs_ragged": Case(3, "observation is .*expected an array", sees([[1], [1, 2]])),
    "obs_dictionary": Case(3, "observation is .*dtype object", sees({"x": 1})),
    "obs_masked": Case(3, r"observation\[1\].*not masked", sees(np.ma.array([0.0, 1.0], mask=[0, 1]))),
    "obs_of_set": Case(3, "observation is .*dtype object", sees({1.0, 2.0})),
    # the answer as a whole
    "old_gym": Case(3, "4 values, which is the old Gym", returns(lambda a: (a[0], 1.0, False, {}))),
    "three_values": Case(3, "step returned", returns(lambda a: a[:3])),
    "six_values": Case(3, "step returned", returns(lambda a: (*a, 0))),
    "no_values": Case(3, "step returned None", returns(lambda a: None)),
    "list_of_values": Case(3, r"step returned \[", returns(list)),
    "reset_old_gym": Case(3, "reset returned array", returns(lambda a: a[0]), RESET),
    "reset_none": Case(3, "reset returned None", returns(lambda a: None), RESET),
    "reset_three_values": Case(3, "reset returned", returns(lambda a: (*a, 0)), RESET),
    "reset_without_info": Case(3, "reset returned .*info", returns(lambda a: (a[0], None)), RESET),
    "info_none": Case(3, "info is None", gives(INFO, None)),
    "info_list": Case(3, r"info is \[\]", gives(INFO, [])),
    # rewards
    "reward_nan": Case(3, "reward is nan", gives(REWARD, np.nan)),
    "reward_inf": Case(3, "reward is inf", gives(REWARD, np.inf)),
    "reward_minus_inf_at_the_last_step": Case(3, "step 5 .*reward is -inf", gives(REWARD, -np.inf), LAST),
    "reward_overflows_float32": Case(3, r"reward is 1e\+300", gives(REWARD, 1e300)),
    "reward_overflows_float": Case(3, "reward is 1000.*finite", gives(REWARD, 10**400)),
    "reward_none": Case(3, "reward is None", gives(REWARD, None)),
    "reward_text": Case(3, "reward is '1'", gives(REWARD, "1")),
    "reward_complex": Case(3, "reward is 1j", gives(REWARD, 1j)),
    "reward_two": Case(3, r"reward is array\(\[1., 1.\]\)", gives(REWARD, np.ones(2))),
    "reward_empty": Case(3, "reward is array", gives(REWARD, np.zeros(0))),
    "reward_dictionary": Case(3, "reward is {}", gives(REWARD, {})),
    # flags
    "terminated_none": Case(3, "terminated is None", gives(TERMINATED, None)),
    "terminated_two": Case(3, "terminated is 2, expected True or False", gives(TERMINATED, 2)),
    "terminated_text": Case(3, "terminated is 'False'", gives(TERMINATED, "False")),
    "terminated_two_flags": Case(3, "terminated is array", gives(TERMINATED, np.zeros(2, bool))),
    "truncated_nan": Case(3, "truncated is nan", gives(TRUNCATED, np.nan)),
    "truncated_half": Case(3, "truncated is 0.5", gives(TRUNCATED, 0.5)),
    "truncated_text": Case(3, "truncated is ''", gives(TRUNCATED, "")),
    # errors of its own
    "init_raises": Case(7, "could not be constructed: OSError: no display", build=builds(OSError("no display"))),
    "init_exits": Case(7, "could not be constructed: SystemExit: 0", build=builds(SystemExit(0))),
    "init_misses_a_package": Case(2, "not installed.*No module", build=builds(ImportError("No module named 'x'"))),
    "reset_raises": Case(7, r"reset \(step 0\).*reset raised KeyError: 'map'", throws(KeyError("map")), RESET),
    "reset_exits": Case(7, "reset raised SystemExit: 0", throws(SystemExit(0)), RESET),
    "step_raises": Case(7, "step 3 .*step raised ValueError: motor broke", throws(ValueError("motor\nbroke"))),
    "step_exits": Case(7, "step raised SystemExit: 0", throws(SystemExit(0))),
    "step_stops_iteration": Case(7, "step raised StopIteration", throws(StopIteration())),
    "step_recurses": Case(7, "step raised RecursionError", throws(RecursionError("deep"))),
    "step_out_of_memory": Case(7, "step raised MemoryError", throws(MemoryError())),
    "step_aborts": Case(7, "step raised Aborted: stop", throws(Aborted("stop"))),
    "step_unspeakable": Case(7, "step raised Unspeakable;", throws(Unspeakable())),
    "step_raises_at_the_end": Case(7, "step 5 .*step raised ZeroDivisionError", throws(ZeroDivisionError()), LAST),
    "close_raises": Case(0, same=True, attributes={"close": lambda: lambda: 1 / 0}),
    "close_exits": Case(0, same=True, attributes={"close": lambda: sys.exit}),
    # spaces
    "no_observation_space": Case(2, "None for its observation_space", attributes={"observation_space": None}),
    "no_action_space": Case(2, "None for its action_space", attributes={"action_space": None}),
    "space_is_a_shape": Case(2, r"\(2,\) for its observation_space", attributes={"observation_space": (2,)}),
    "space_raises": Case(7, "observation_space raised LookupError: no map", build=Slipping),
    "bounds_reversed": Case(
        2,
        r"observation space has low 1.0 and high -1.0 at \[0\]",
        attributes={"observation_space": unchecked(lambda: spaces.Box(-1, 1, (2,)), low=np.ones(2, np.float32),
                                                   high=-np.ones(2, np.float32))},
    ),
    "bounds_nan": Case(
        2,
        r"observation space has low nan",
        attributes={"observation_space": unchecked(lambda: spaces.Box(-1, 1, (2,)), low=np.full(2, np.nan))},
    ),
    "action_bounds_reversed": Case(
        2,
        "action space has low 1.0 and high -1.0",
        attributes={"action_space": unchecked(lambda: spaces.Box(-1, 1, (2,)), low=np.ones(2, np.float32),
                                              high=-np.ones(2, np.float32))},
        kinds=CONTINUOUS,
    ),
    "box_refuses_its_bounds": Case(7, "could not be constructed", build=lambda name, kind: spaces.Box(1, -1, (2,))),
    "observation_space_empty": Case(2, r"observation has shape \(0,\)", attributes={"observation_space": lambda: spaces.Box(-1, 1, (0,))}),
    "observation_space_empty_dict": Case(2, "is empty", attributes={"observation_space": lambda: spaces.Dict({})}),
    "observation_space_text": Case(2, "observation space is Text", attributes={"observation_space": lambda: spaces.Text(3)}),
    "action_space_empty": Case(2, r"action space has shape \(0,\)", attributes={"action_space": lambda: spaces.Box(-1, 1, (0,))}, kinds=CONTINUOUS),
    "action_space_of_integers": Case(2, "action space is Box.*int32", attributes={"action_space": lambda: spaces.Box(0, 3, (1,), np.int32)}, kinds=CONTINUOUS),
    "action_space_dict": Case(2, "action space is Dict", attributes={"action_space": lambda: spaces.Dict({})}),
    "no_actions": Case(7, "could not be constructed", attributes={"action_space": lambda: spaces.Discrete(0)}, kinds=DISCRETE),
    "no_actions_unchecked": Case(2, "every choice must be", attributes={"action_space": unchecked(lambda: spaces.Discrete(2), n=np.int64(0))}, kinds=DISCRETE),
    "too_many_actions": Case(2, "every choice must be", attributes={"action_space": lambda: spaces.Discrete(2**40)}, kinds=DISCRETE),
    "siblings_differ": Case(2, "other spaces than its siblings", build=crowd),
    "one_instance_for_all": Case(2, "returned one environment twice", build=once),
    "observation_space_changes": Case(3, "observation_space has become", sets(observation_space=spaces.Box(-2, 2, (2,), np.float32)), RESET),
    "action_space_changes": Case(3, "action_space has become", sets(action_space=spaces.Discrete(7)), RESET),
    "category_out_of_range": Case(3, "observation is 9, expected one of the categories", sees(lambda x: 9 if CASES else 0), attributes={"observation_space": lambda: spaces.Discrete(3), "look": lambda: lambda: 1}, slow=True),
    "mask_forbids_all": Case(3, "'action_mask' forbids all", sees(lambda x: {"x": x["x"], "action_mask": np.zeros(2, np.int8)}), attributes={"observation_space": lambda: masked_dict(2), "look": lambda: lambda: with_mask([1, 1])(np.zeros(2, np.float32))}, kinds=DISCRETE),
    "mask_of_another_size": Case(2, r"'action_mask' has shape \(3,\), and there are 2 actions", attributes={"observation_space": lambda: masked_dict(3)}, kinds=DISCRETE),
    "mask_too_short": Case(3, r"'action_mask' has shape \(1,\)", sees(lambda x: with_mask([1])(x["x"])), attributes={"observation_space": lambda: masked_dict(2), "look": lambda: lambda: with_mask([1, 1])(np.zeros(2, np.float32))}, kinds=DISCRETE),
    "mask_of_floats": Case(2, "action_mask.*reserved", attributes={"observation_space": lambda: spaces.Dict({"x": BOX, "action_mask": BOX})}),
    "key_missing": Case(3, r"keys \['x'\], expected", sees(lambda x: {"x": x["x"]}), attributes={"observation_space": lambda: masked_dict(2), "look": lambda: lambda: with_mask([1, 1])(np.zeros(2, np.float32))}, kinds=DISCRETE),
    # no environments
    "returns_none": Case(2, "environment is None, not a gymnasium.Env", build=lambda name, kind: None),
    "returns_old_gym": Case(2, "not a gymnasium.Env", build=lambda name, kind: OldGym()),
    # coerced, and said once
    "obs_float64": Case(0, "observation is float64 and its space float32", same=True, **reads(np.float64)),
    "obs_float16_once": Case(0, "observation is float16 and its space float32", sees(lambda x: x.astype(np.float16))),
    "obs_big_endian": Case(0, "foreign byte order", same=True, **reads(lambda x: x.astype(">f4"))),
    "obs_integers": Case(0, "observation is int64 and its space float32", **reads(lambda x: x.astype(np.int64))),
    "obs_bools": Case(0, "observation is bool and its space float32", **reads(lambda x: x > 0)),
    "obs_list": Case(0, "observation is a list", same=True, **reads(lambda x: x.tolist())),
    "obs_tuple": Case(0, "observation is a tuple", same=True, **reads(tuple)),
    "obs_not_contiguous": Case(0, "not contiguous in memory", same=True, **reads(lambda x: np.repeat(x, 2)[::2])),
    "obs_subclass": Case(0, "observation is a Vector", same=True, **reads(lambda x: x.view(Vector))),
    "obs_masked_nowhere": Case(0, "observation is a MaskedArray", same=True, **reads(np.ma.array)),
    "obs_one_buffer": Case(0, "the very object of the step before", same=True, build=OwnBuffer),
    "obs_buffer_of_all": Case(0, "the very object of the step before", same=True, **reads(one_buffer)),
    "obs_read_only": Case(0, same=True, **reads(read_only)),
    "obs_outside": Case(0, r"is 1.001.*, outside its space's \[-1.0, 1.0\]", **reads(lambda x: x * 0 + np.float32(1.001))),
    "obs_enormous": Case((0, 4), "", **reads(lambda x: x * np.float32(1e30))),
    "obs_constant": Case(0, **reads(lambda x: np.zeros(2, np.float32))),
    "reward_bool": Case(0, "reward is True: read as a number", gives(REWARD, True), None, same=True),
    "reward_array": Case(0, "reward is array.*: read as a number", gives(REWARD, np.ones(1)), None, same=True),
    "reward_integer": Case(0, "", gives(REWARD, 1), None, same=True),
    "reward_float32": Case(0, "", gives(REWARD, np.float32(1)), None, same=True),
    "reward_none_ever": Case(0, "", gives(REWARD, 0.0), None),
    "reward_1e30": Case((0, 4), "", gives(REWARD, 1e30), None),
    "reward_largest": Case((0, 4), "", gives(REWARD, -3e38), None),
    "flags_numpy": Case(0, "", returns(lambda a: (*a[:2], np.bool_(a[2]), np.bool_(a[3]), a[4]) if len(a) == 5 else a), None, same=True),
    "flags_numbers": Case(0, "terminated is 0: read as False", returns(lambda a: (*a[:2], int(a[2]), 0, a[4]) if len(a) == 5 else a), None, same=True),
    "flags_arrays": Case(0, r"truncated is array\(\[False\]\)", gives(TRUNCATED, np.zeros(1, bool)), None, same=True),
    "both_flags": Case(0, "", returns(lambda a: (*a[:3], a[2], a[4]) if len(a) == 5 else a), None),
    "info_nan": Case(0, "", gives(INFO, {"x": np.nan, "notes": "?"}), None, same=True),
    "one_step_episodes": Case(0, "", gives(TERMINATED, True), None),
    "limit_of_one_step": Case(0, "", build=lambda name, kind: gymnasium.wrappers.TimeLimit(Broken(name, kind), 1), slow=True),
    "never_ends": Case(0, "cut after", gives(TERMINATED, False), None),
    "unseeded": Case(0, "", **reads(lambda x: UNSEEDED.uniform(-1, 1, 2).astype(np.float32))),
    "bounds_infinite": Case(0, "", attributes={"observation_space": lambda: spaces.Box(-np.inf, np.inf, (2,))}, same=True),
    "action_bounds_infinite": Case(0, "", attributes={"action_space": lambda: spaces.Box(-np.inf, np.inf, (2,))}, kinds=CONTINUOUS, slow=True),
    "action_bounds_enormous": Case(0, "", attributes={"action_space": lambda: spaces.Box(-3e38, 3e38, (2,))}, kinds=CONTINUOUS, slow=True),
    "actions_from_seven": Case(0, "", attributes={"action_space": lambda: spaces.Discrete(2, start=7)}, kinds=DISCRETE, same=True),
    # hangs, in this process
    "hangs_in_init": Case(7, "its constructor did not return within 1 s", build=stalls, flags=HANG),
    "hangs_in_reset": Case(7, r"environment 0, reset \(step 0\).*did not return within 1 s", hangs, RESET, flags=HANG),
    "hangs_in_step": Case(7, "environment 0, step 3 .*did not return within 1 s", hangs, flags=HANG),
    "hangs_and_catches": Case(7, "environment 0, step 3 .*did not return within 1 s", hangs_on, flags=HANG),
    # processes
    "worker_exits": Case(7, "environment . died.*9", in_worker(lambda: os._exit(9)), flags=ASYNC),
    "worker_killed": Case(7, "environment . died.*-9", in_worker(lambda: os.kill(os.getpid(), signal.SIGKILL)), flags=ASYNC),
    "worker_sys_exits": Case(7, "environment ., step 3 .*step raised SystemExit: 5", in_worker(lambda: sys.exit(5)), flags=ASYNC),
    "worker_raises": Case(7, "environment ., step 3 .*step raised ValueError", throws(ValueError("x")), flags=ASYNC),
    "worker_nan": Case(3, r"environment ., step 3 .*observation\[1\] is nan", sees(NAN), flags=ASYNC),
    "worker_lists": Case(0, "observation is a list", same=True, flags=ASYNC, **reads(lambda x: x.tolist())),
    "worker_hangs_in_reset": Case(7, "environment . did not answer within 2 s", in_worker(lambda: time.sleep(600)), RESET, flags=ASYNC + " --env-timeout 2"),
    "worker_hangs_in_step": Case(7, "environment . did not answer within 2 s", in_worker(lambda: time.sleep(600)), flags=ASYNC + " --env-timeout 2"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The callable that builds the case of that name."""
    bare, continuous = name.removesuffix("_continuous"), name.endswith("_continuous")
    if bare not in CASES:
        raise AttributeError(name)
    return functools.partial(CASES[bare].build or Broken, bare, "continuous" if continuous else "discrete")
