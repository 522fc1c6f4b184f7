"""Policy files: in the environment's own terms, with JAX and without, whole or refused."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniatures import ALGORITHMS, tiny

import ridgeline
from ridgeline import safe
from ridgeline.adapter import Adapter, space_from_json, spaces_to_json
from ridgeline.environments import spaces_of
from ridgeline.environments.classic import CartPole, Pendulum
from ridgeline.errors import FileError, RidgelineError, UsageError
from ridgeline.experiments.policy import Policy, load
from ridgeline.numpy_policy import load as load_numpy
from ridgeline.spaces import Actions, Observations
from ridgeline.specs import ArraySpec, Continuous, EnvSpec, own_spaces
from ridgeline.theory.conformance import WORLDS, first_state, random_obs
from ridgeline.training.evaluation import greedy_everywhere
from ridgeline.training.runner import prepare
from ridgeline.types import Discrete

SPACES = [
    spaces.Box(-2, 2, (1,), np.float32),
    spaces.Box(np.float64([-1, -np.inf]), np.float64([np.inf, 1 / 3]), dtype=np.float64),
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Box(-(2**62) - 1, 2**62 + 1, (2,), np.int64),
    spaces.Discrete(5, start=-3),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
    spaces.MultiBinary((2, 3)),
    spaces.Dict({"b": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, ())]), "a": spaces.MultiBinary(2)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_as_json(space: spaces.Space) -> None:
    data = spaces_to_json(space, spaces.Discrete(2))["observation"]
    assert space_from_json(json.loads(json.dumps(data, allow_nan=False))) == space


def test_uniform_bounds_are_one_number_and_huge_ones_of_observations_are_left_out() -> None:
    rng = np.random.default_rng(0)
    uneven = spaces.Box(-rng.random(2000, np.float32), np.float32(np.ones(2000)))
    found = spaces_to_json(uneven, uneven)
    assert found["observation"]["low"] is None
    assert found["observation"]["high"] == 1
    assert space_from_json(found["action"]) == uneven


ACTIONS = [space for space in SPACES if space not in (SPACES[2], SPACES[3], SPACES[7])]


class World(gymnasium.Env):
    """Any spaces; every step is like the first."""

    def __init__(self, observation: spaces.Space, action: spaces.Space):
        self.observation_space, self.action_space = observation, action
        observation.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 0.0, False, False, {}


def begun(algorithm: Any, found: Any, seed: int = 0) -> Policy:
    """A policy as it is before training, with every array perturbed so that none is zero."""
    parameters = jax.device_get(algorithm.policy(first_state(algorithm, jax.random.key(seed), found.spec)))
    rng = np.random.default_rng(seed)

    def noisy(x: np.ndarray) -> np.ndarray:
        return np.asarray(x + np.abs(rng.normal(size=x.shape)) * 0.3, x.dtype)

    return Policy(algorithm, found.spec, jax.tree.map(noisy, parameters), spaces_of(found))


def reopened(policy: Policy, folder: Path, **options: Any) -> Any:
    policy.save(folder / "policy.safetensors", seed=0, steps=1)
    return ridgeline.load_policy(folder / "policy.safetensors", **options)


SMALL = ridgeline.PPO(
    num_envs=2, rollout_length=8, batch_size=16, epochs=1, hidden=(8,), normalise_observations=True
)


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_it_speaks_the_terms_of_its_environment(action: spaces.Space, tmp_path: Path) -> None:
    """Bit for bit what the policy inside training and then the adapter would do."""
    observation = spaces.Dict(
        {"kind": spaces.Discrete(3, start=1), "at": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64)])}
    )
    env = World(observation, action)
    found = ridgeline.make(lambda: World(observation, action))
    policy = begun(SMALL, found)
    record, opened = prepare(SMALL), reopened(policy, tmp_path)
    stacked, key = jax.tree.map(lambda x: x[None], policy.parameters), jax.random.key(0)
    obs, _ = env.reset()
    for _ in range(5):
        canonical = Observations(observation).read(obs)
        inside, _ = greedy_everywhere(record, stacked, key, (), jax.tree.map(lambda x: x[None, None], canonical))
        expected = Actions(action).write(np.asarray(inside)[0], 1)[0]
        acted = opened(obs)
        np.testing.assert_array_equal(acted, expected, strict=True)
        np.testing.assert_array_equal(opened.canonical(canonical), np.asarray(inside)[0, 0])
        obs, *_ = env.step(acted)


def test_a_batch_is_row_by_row(tmp_path: Path) -> None:
    observation, action = SPACES[7], spaces.Box(-2, 2, (2,), np.float32)
    policy = begun(SMALL, ridgeline.make(lambda: World(observation, action)))
    rows = [observation.sample() for _ in range(4)]
    batch = {
        "a": np.stack([row["a"] for row in rows]),
        "b": tuple(np.stack([row["b"][i] for row in rows]) for i in range(2)),
    }
    opened = reopened(policy, tmp_path)
    for one in (opened, load_numpy(tmp_path / "policy.safetensors")):
        np.testing.assert_allclose(one.batch(batch), [one(row) for row in rows], atol=1e-6)


def test_the_jax_pendulum_drives_gymnasiums(tmp_path: Path) -> None:
    policy = reopened(begun(ridgeline.DDPG(hidden=(8,)), Pendulum()), tmp_path)
    env = gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=0)
    torque = policy(obs)
    assert env.action_space.contains(torque)
    np.testing.assert_array_equal(torque, np.float32(2) * policy.canonical(obs))
    assert np.abs(torque) > 1


def test_what_is_no_observation(tmp_path: Path) -> None:
    policy = reopened(begun(SMALL, CartPole()), tmp_path)
    for opened in (policy, load_numpy(tmp_path / "policy.safetensors")):
        with pytest.raises(UsageError, match=r"shape \(3,\).*as CartPole-v1 returns it"):
            opened(np.zeros(3))


TAKEN = [(name, world) for name in ALGORITHMS for world in WORLDS]


def takes(name: str, world: str) -> bool:
    try:
        tiny(name).check(WORLDS[world])
    except UsageError:
        return False
    return True


class Native:
    """A JAX environment as far as its spec."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec

    def reset(self, key: Any) -> Any:
        raise NotImplementedError

    step = reset


# A sample of kinds and spaces; the whole product takes a minute.
QUICKLY = {("dqn", "masked"), ("naf", "box"), ("ddpg", "continuous"), ("sac", "continuous"), ("ppo", "image")}
QUICKLY |= {("ppo", "masked-multidiscrete"), ("pg", "continuous"), ("trpo", "discrete"), ("qsearch", "box")}
QUICKLY |= {("vpg", "discrete"), ("ac", "masked"), ("td3", "box")}


@pytest.mark.parametrize(
    ("name", "world"),
    [pytest.param(n, w, marks=[] if (n, w) in QUICKLY else pytest.mark.slow) for n, w in TAKEN if takes(n, w)],
)
def test_numpy_agrees_with_jax(name: str, world: str, tmp_path: Path) -> None:
    record = tiny(name, normalise_observations=True, **({"layer_norm": True} if name in ("ppo", "dqn") else {}))
    opened = reopened(begun(record, Native(WORLDS[world])), tmp_path)
    if name == "qsearch":
        with pytest.raises(UsageError, match=r"acts with JAX only .*searches"):
            load_numpy(tmp_path / "policy.safetensors")
        return
    numpy = ridgeline.load_policy(tmp_path / "policy.safetensors", runtime="numpy")
    rng = np.random.default_rng(1)
    for _ in range(20):
        obs = random_obs(rng, WORLDS[world], ())
        np.testing.assert_allclose(numpy.canonical(obs), opened.canonical(obs), atol=1e-5)
        np.testing.assert_allclose(numpy(obs), opened(obs), atol=1e-5)


DEEP = {"quantiles": 5, "dueling": True, "layer_norm": True}


@pytest.mark.parametrize(
    ("activation", "options"),
    [("tanh", {}), ("relu", {"dueling": True}), ("elu", DEEP), ("silu", {"quantiles": 3})],
)
def test_numpy_computes_the_same_values(activation: Any, options: dict[str, Any], tmp_path: Path) -> None:
    record = tiny("dqn", activation=activation, hidden=(16, 8), **options)
    policy = begun(record, Native(WORLDS["masked"]))
    reopened(policy, tmp_path)
    numpy = load_numpy(tmp_path / "policy.safetensors")
    rng = np.random.default_rng(1)
    for _ in range(10):
        obs = random_obs(rng, WORLDS["masked"], ())
        values = jax.jit(lambda network, obs: network(obs))(policy.parameters.network, obs)
        np.testing.assert_allclose(numpy.outputs(obs), values, atol=1e-5, rtol=1e-6)


def test_numpy_runs_where_jax_cannot_be_imported(tmp_path: Path) -> None:
    policy = reopened(begun(SMALL, ridgeline.make("CartPole-v1", "gymnasium")), tmp_path)
    script = """
import sys
for name in ("jax", "jaxlib", "equinox", "jaxtyping", "safetensors"):
    sys.modules[name] = None
import gymnasium, ridgeline
policy = ridgeline.load_policy(sys.argv[1], runtime="numpy")
env = gymnasium.make("CartPole-v1")
obs, _ = env.reset(seed=3)
actions = []
for _ in range(5):
    actions.append(int(policy(obs)))
    obs, *_ = env.step(actions[-1])
print(actions, type(policy).__name__)
"""
    path = str(tmp_path / "policy.safetensors")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    env, actions = gymnasium.make("CartPole-v1"), []
    obs, _ = env.reset(seed=3)
    for _ in range(5):
        actions.append(int(policy(obs)))
        obs, *_ = env.step(actions[-1])
    assert done.stdout.strip() == f"{actions} NumpyPolicy"


def test_what_load_policy_is_asked_for() -> None:
    with pytest.raises(UsageError, match="runtime is 'torch'"):
        ridgeline.load_policy("x", runtime="torch")
    with pytest.raises(UsageError, match="record needs JAX"):
        ridgeline.load_policy("x", SMALL, runtime="numpy")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    begun(dataclasses.replace(SMALL, hidden=(2,)), CartPole()).save(path, seed=0, steps=1)
    return path


def altered(saved: Path, change: Any) -> Path:
    """A sealed file whose header and arrays say something else: what a checksum cannot notice."""
    header, arrays = safe.unpack(saved)
    change(header, arrays)
    path = saved.with_name("altered.safetensors")
    path.write_bytes(safe.pack(header, arrays))
    return path


def setter(*path: Any, to: Any) -> Any:
    def change(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        at: Any = {"header": header, "arrays": arrays}
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


HIDDEN = ("header", "hyperparameters", "hidden")
BOX = {"kind": "Box", "low": None, "high": None, "dtype": "float32"}
ALTERED = {
    "schema": (setter("header", "schema", to=1), "schema 1"),
    "algorithm": (setter("header", "algorithm", to=["x"]), "not a readable policy|damaged|algorithm"),
    "unknown algorithm": (setter("header", "algorithm", to="\n" * 999), "not one of ours"),
    "gamma": (setter("header", "hyperparameters", "gamma", to=7.0), "gamma is 7.0"),
    "text": (setter("header", "hyperparameters", "gamma", to="x" * 9999), "float is expected"),
    "a width": (setter(*HIDDEN, to=[3]), r"is float32\[4, 2\], and float32\[4, 3\]"),
    "layers": (setter(*HIDDEN, to=[2] * 9999), "too many"),
    "huge": (setter(*HIDDEN, to=[2**20] * 20), "is missing"),
    "a width that is none": (setter(*HIDDEN, to=["x"]), "hidden|not a readable policy"),
    "no spec": (setter("header", "spec", to=None), "spec"),
    "a shape": (setter("header", "spec", "observation", "shape", to=[2**40]), "spec"),
    "spaces": (setter("header", "spaces", to={}), "spaces"),
    "another space": (setter("header", "spaces", "action", "n", to=3), "not those of its spec"),
    "a huge space": (setter("header", "spaces", "observation", to=BOX | {"shape": [10**9]}), "spaces"),
    "a deep space": (
        setter("header", "spaces", "observation", to={"kind": "Tuple", "spaces": [BOX | {"shape": []}]}),
        "spaces",
    ),
    "array": (setter("arrays", "more", to=np.zeros(1)), "array 'more' is not expected"),
    "dtype": (setter("arrays", "network/value/bias", to=np.zeros(1)), "is float64"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_file_is_a_line(name: str, saved: Path) -> None:
    change, says = ALTERED[name]
    path = altered(saved, change)
    tracemalloc.start()
    with pytest.raises(FileError, match=says) as caught:
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + 64 * safe.MIB
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 250


NETWORK = ("header", "network")
ALTERED_NETWORK = {
    "none": (setter(*NETWORK, to=None), "network is damaged"),
    "layers": (
        setter(*NETWORK, "encoder", "layers", to=["network/encoder/mlp/layers/0"] * 9999),
        "too many layers",
    ),
    "no such layer": (setter(*NETWORK, "encoder", "layers", to=["x"]), "damaged"),
    "activation": (setter(*NETWORK, "encoder", "activation", to="x"), "damaged"),
    "head": (setter(*NETWORK, "head", "kind", to="x"), "no head"),
    "width": (setter(*NETWORK, "head", "linear", to="network/value"), "outputs does not fit"),
    "normaliser": (setter("arrays", "normaliser/statistics//mean/high", to=np.zeros((1000, 4))), "normaliser"),
}


@pytest.mark.parametrize("name", ALTERED_NETWORK)
def test_an_altered_network_is_a_line(name: str, saved: Path) -> None:
    change, says = ALTERED_NETWORK[name]
    with pytest.raises(FileError, match=says):
        load_numpy(altered(saved, change))


def test_categories_take_no_more_than_the_file(tmp_path: Path) -> None:
    spec = EnvSpec("Categories", ArraySpec((), "int32", (3,)), Discrete(2))
    policy = begun(dataclasses.replace(SMALL, normalise_observations=False), Native(spec))
    reopened(policy, tmp_path)

    def grow(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        header["spec"]["observation"]["categories"] = [2**30]
        header["spaces"]["observation"]["n"] = 2**30

    with pytest.raises(FileError, match="more categories than weights"):
        load_numpy(altered(tmp_path / "policy.safetensors", grow))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_any_kind_is_a_file_error(saved: Path, data: st.DataObject) -> None:
    whole = bytearray(saved.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "noise"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del whole[at:]
    elif kind == "splice":
        new = data.draw(st.binary(max_size=40))
        end = at + data.draw(st.integers(0, 40))
        if bytes(whole[at:end]) == new:
            return
        whole[at:end] = new
    else:
        whole = bytearray(data.draw(st.binary(max_size=200)))
    path = saved.with_name("fuzzed.safetensors")
    path.write_bytes(whole)
    for opening in (load, load_numpy):
        with pytest.raises(FileError):
            opening(path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sealed_nonsense_is_one_of_our_errors(saved: Path, data: st.DataObject) -> None:
    header, arrays = safe.unpack(saved)
    at: Any = header
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not at[key] or not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(json_values)
    path = saved.with_name("nonsense.safetensors")
    path.write_bytes(safe.pack(header, arrays))
    for opening in (load, load_numpy):
        try:
            opening(path)
        except RidgelineError as error:
            assert "\n" not in str(error)  # noqa: PT017  (an error is allowed, not required)


def test_bounds_of_a_twin_are_those_of_bounded_entries_only() -> None:
    spec = EnvSpec("Half", ArraySpec((1,)), Continuous(2, (True, False)))
    adapter = Adapter(spec, own_spaces(spec, (-3.0, 5.0)), "here")
    np.testing.assert_array_equal(adapter.write(np.float32([0, 9])), np.float32([1, 9]), strict=True)
