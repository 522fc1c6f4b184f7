"""A runner made from what another one saved goes on as that one does, bit for bit, or says why it cannot."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from miniatures import ALGORITHMS, SAMPLE, classic, tiny

from ridgeline.environments.envpool import EnvPoolFactory
from ridgeline.environments.gymnasium import GymnasiumFactory
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.memory import Memory
from ridgeline.theory.ring import filled
from ridgeline.training import hosted
from ridgeline.training.compiled import chunk
from ridgeline.training.replaying import replay
from ridgeline.training.runner import make_runner
from ridgeline.training.snapshot import named

SEEDS = (3, 1, 4)
TOTAL = 1_000.0
RESUMES = "restored"  # counts how often, and so differs


def arrays(runner) -> dict[str, np.ndarray]:
    """What the runner would save."""
    return {
        name: np.concatenate([*leaf.pieces()]) if leaf.shape else np.asarray(leaf.array)
        for name, leaf in named(runner.snapshot()).items()
    }


def again(algorithm, env, saved: dict[str, np.ndarray], seeds=SEEDS):
    """A new runner that stands where the saved arrays say."""

    def fill(shapes):
        for name, shape in named(shapes).items():
            assert saved[name].dtype == shape.dtype
            assert all(wanted in (-1, is_) for is_, wanted in zip(saved[name].shape, shape.shape, strict=True))
        return jax.tree.unflatten(jax.tree.structure(shapes), [saved[name] for name in named(shapes)])

    return make_runner(algorithm, env, seeds, fill)


def differing(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if name != RESUMES and a[name].tobytes() != b[name].tobytes()]


def environment(name: str, kind: str):
    env = classic(name)
    if kind == "compiled":
        return env
    return SteppedFactory(env) if kind == "stepped" else GymnasiumFactory(env.spec.id)


CASES = [
    pytest.param(name, kind, marks=[] if name in SAMPLE else pytest.mark.slow)
    for name in ALGORITHMS
    for kind in ("compiled", "gymnasium")
] + [("ppo", "stepped")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_was_saved_goes_on_bit_for_bit(name, kind):
    algorithm, env = tiny(name), environment(name, kind)
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 5, TOTAL)
    half = arrays(runner)
    runner.run(5, 4, TOTAL)
    compiled = chunk._cache_size(), hosted.act._cache_size(), hosted.learn._cache_size()
    restored = again(algorithm, env, half)
    assert restored.approximate is None
    assert not differing(arrays(restored), half)
    restored.run(5, 4, TOTAL)
    assert not differing(arrays(restored), arrays(runner))
    assert differing(arrays(restored), half)
    assert (chunk._cache_size(), hosted.act._cache_size(), hosted.learn._cache_size()) == compiled
    for one in (runner, restored):
        one.close()


def test_a_resume_of_a_resume_is_exact():
    algorithm, env = tiny("dqn"), GymnasiumFactory("CartPole-v1")
    whole = make_runner(algorithm, env, SEEDS)
    parts = make_runner(algorithm, env, SEEDS)
    for iteration in range(12):
        whole.run(iteration, 1, TOTAL)
        parts.run(iteration, 1, TOTAL)
        parts = again(algorithm, env, arrays(parts))
        assert parts.approximate is None
    assert parts.restored == 12
    assert not differing(arrays(parts), arrays(whole))


@pytest.mark.parametrize("kind", ["compiled", "gymnasium"])
def test_a_fork_learns_something_else(kind):
    algorithm, env = tiny("ppo"), environment("ppo", kind)
    runners = [make_runner(algorithm, env, SEEDS) for _ in range(3)]
    for number, runner in enumerate(runners):
        if number:
            runner.fork(number)
        runner.run(0, 2, TOTAL)
    found = [arrays(runner) for runner in runners]
    name = next(name for name in found[0] if name.endswith("policy/network/value/weight"))
    assert len({x[name].tobytes() for x in found}) == 3


# Environments that do not come back


class Walk(gymnasium.Env):
    """Observes [steps taken, what `luck` gave]; ends at the 5th step."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episodes = 0, getattr(self, "episodes", 0) + 1
        return self.look(), {}

    def step(self, action):
        self.t += 1
        return self.look(), 1.0 + action, self.t == 5, False, {}

    def look(self):
        return np.array([self.t, self.luck()], np.float32)

    def luck(self):
        return self.np_random.random()


class Unseeded(Walk):
    """Its luck does not come from its seed."""

    def luck(self):
        return np.random.default_rng().random()


class Remembering(Walk):
    """Its luck depends on how many episodes there were before."""

    def luck(self):
        return float(self.episodes)


class Fails(Walk):
    """Raises once, at the look that follows so many."""

    lasts, looks = 10**9, 0

    def luck(self):
        Fails.looks += 1
        if Fails.looks == self.lasts:
            raise RuntimeError("no more")
        return 0.0


def test_an_environment_that_replays_is_exact():
    algorithm, env = tiny("dqn"), GymnasiumFactory(Walk)
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 3, TOTAL)
    assert again(algorithm, env, arrays(runner)).approximate is None


@pytest.mark.parametrize("kind", [Unseeded, Remembering])
def test_an_environment_that_does_not_replay_is_said_and_begins_anew(kind):
    algorithm, env = tiny("dqn"), GymnasiumFactory(kind)
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 8, TOTAL)  # episodes of 5 steps, so that none of the rows is in its first
    before = arrays(runner)
    running = before["length"] > 0
    restored = again(algorithm, env, before)
    assert "did not replay" in restored.approximate
    assert not restored.total[running].any()
    assert not restored.length[running].any()
    assert restored.ended[running].all()
    np.testing.assert_array_equal(restored.episode[running], before["episode"][running] + 1)
    newest = (before["states/memory/head"][0] - 1) % before["states/memory/data/truncated"].shape[1]
    cut = arrays(restored)["states/memory/data/truncated"][:, newest]
    assert cut[running].all()
    restored.run(8, 2, TOTAL)


def test_an_environment_that_fails_when_replayed_begins_anew(monkeypatch):
    algorithm, env = tiny("dqn"), GymnasiumFactory(Fails)
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 3, TOTAL)
    saved = arrays(runner)
    monkeypatch.setattr(Fails, "lasts", 2 * len(runner.obs))  # until the replay has begun
    monkeypatch.setattr(Fails, "looks", 0)
    restored = again(algorithm, env, saved)
    assert "did not replay" in restored.approximate
    assert not restored.length.any()


def test_an_episode_too_long_to_replay_begins_anew(monkeypatch):
    monkeypatch.setattr(hosted, "LONGEST_REPLAY", 2)
    algorithm, env = tiny("dqn"), GymnasiumFactory(Walk)
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 1, TOTAL)
    iteration = 1
    while runner.length.max() <= 2:
        runner.run(iteration, 1, TOTAL)
        iteration += 1
    assert len(runner.actions) == 2
    long = runner.length > 2
    restored = again(algorithm, env, arrays(runner))
    assert restored.approximate
    np.testing.assert_array_equal(restored.length == 0, long | (runner.length == 0))


def test_envpool_begins_anew_and_always_alike():
    algorithm, env = tiny("ppo"), EnvPoolFactory("CartPole-v1")
    runner = make_runner(algorithm, env, SEEDS)
    runner.run(0, 2, TOTAL)
    saved = arrays(runner)
    runners = [again(algorithm, env, saved) for _ in range(2)]
    for restored in runners:
        assert "envpool" in restored.approximate
        restored.run(2, 2, TOTAL)
    first, second = map(arrays, runners)
    assert not differing(first, second)
    assert np.abs(first["obs"] - saved["obs"]).max() > 0
    later = again(algorithm, env, first)
    assert (later.obs != again(algorithm, env, saved).obs).any()
    for one in (runner, later, *runners):
        one.close()


@pytest.mark.parametrize("lengths", [[0, 0], [4, 4], [4, 1], [0, 3], [2, 7], [12, 3]])
def test_rows_of_any_length_come_back_together(lengths):
    """CartPole falls within 12 pushes to one side, so the row that waits does, several times."""
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, 2) for _ in range(max(lengths))]
    seeds = np.array([5, 9])
    env = GymnasiumFactory("CartPole-v1").build(2)
    wanted, total = env.reset(seeds, np.ones(2, bool)).copy(), np.zeros(2)
    for row, length in enumerate(lengths):
        alone = GymnasiumFactory("CartPole-v1").build(1)
        wanted[row] = alone.reset(seeds[row : row + 1], np.ones(1, bool))[0]
        for action in actions[len(actions) - length :]:
            step = alone.step(action[row : row + 1])
            wanted[row], total[row] = step.next_obs[0], total[row] + step.reward[0]
    length = np.array(lengths)
    assert replay(env, seeds, actions, length, total, wanted).all()
    wrong = wanted.copy()
    wrong[1, 2] = np.nextafter(wrong[1, 2], 9)
    np.testing.assert_array_equal(replay(env, seeds, actions, length, total, wrong), [True, False])
    other = total.copy()
    other[0] += 1
    np.testing.assert_array_equal(replay(env, seeds, actions, length, other, wanted), [False, True])
    assert not replay(env, seeds, actions, length + 1, total, wanted).any()


def test_cutting_truncates_what_goes_on_at_the_newest_row():
    ends = np.zeros((4, 3), np.int32)
    ends[3, 2] = 1
    memory, _ = filled(6, 3, [ends])
    cut = jax.jit(Memory.cut)(memory, jnp.array([True, False, True]))
    newest = (int(memory.head) - 1) % 6
    changed = np.asarray(cut.data.truncated) != np.asarray(memory.data.truncated)
    assert [tuple(map(int, at)) for at in np.argwhere(changed)] == [(newest, 0)]
