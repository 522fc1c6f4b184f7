"""An evaluation plays every start once, to its end, the same starts for every policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import Dice, Recorder, assert_same

from ridgeline.environments.probes import Counter
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.training import evaluation
from ridgeline.training.devices import seed_mesh
from ridgeline.training.evaluation import (
    episode_seeds,
    evaluate_compiled,
    evaluate_hosted,
    evaluation_keys,
    play_hosted,
)
from ridgeline.training.runner import prepare

SEED = 5
COUNT = 7
RECORDER = prepare(Recorder())
WEIGHTS = np.array([1.0, 2.0], np.float32)  # two policies, the second of which earns twice as much
DICE = Dice()


def by_hand_compiled(key: jax.Array) -> tuple[float, int]:
    """One episode of the policy 1.0 from its key."""
    state, _ = DICE.reset(jax.random.fold_in(key, 0))
    total, length, over = 0.0, 0, False
    while not over:
        action = jnp.array([1.0, length, 0, 0])
        state, step = DICE.step(jax.random.fold_in(key, length + 1), state, action)
        total, length = total + float(step.reward), length + 1
        over = bool(step.terminated) or length == DICE.spec.max_episode_steps
    return total, length


def by_hand_hosted(seed: int) -> tuple[float, int]:
    """One episode of the policy 1.0 from its seed, in an environment of its own."""
    env = SteppedFactory(DICE).build(1)
    env.reset(np.array([seed]), np.ones(1, bool))
    total, length, over = 0.0, 0, False
    while not over:
        step = env.step(np.array([[1.0, length, 0, 0]], np.float32))
        total, length = total + float(step.reward[0]), length + 1
        over = bool(step.terminated[0] | step.truncated[0])
    return total, length


def compiled(env=DICE, weights=WEIGHTS, seed: int = SEED, count: int = COUNT):
    return evaluate_compiled(RECORDER, env, jnp.asarray(weights), seed, count, seed_mesh(len(weights)))


def hosted(env=DICE, weights=WEIGHTS, seed: int = SEED, count: int = COUNT, slots: int = 3):
    built = SteppedFactory(env).build(slots * len(weights))
    return play_hosted(RECORDER, built, jnp.asarray(weights), seed, count, slots)


def test_compiled_equals_a_loop_by_hand() -> None:
    episodes = compiled()
    expected = np.array([by_hand_compiled(key) for key in evaluation_keys(SEED, COUNT)])
    np.testing.assert_allclose(episodes.returns[0], expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(episodes.lengths[0], expected[:, 1])
    assert len(set(expected[:, 1])) > 1  # episodes end at different times


@pytest.mark.parametrize("slots", [1, 3, 7, 9])
def test_hosted_equals_a_loop_by_hand(slots: int) -> None:
    episodes = hosted(slots=slots)
    expected = np.array([by_hand_hosted(int(seed)) for seed in episode_seeds(SEED, 0, count=COUNT)])
    np.testing.assert_allclose(episodes.returns[0], expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(episodes.lengths[0], expected[:, 1])


def test_one_slot_takes_no_more_steps_than_its_episodes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    env, steps = SteppedFactory(DICE).build(1), []
    taken = env.step
    monkeypatch.setattr(env, "step", lambda actions: steps.append(1) or taken(actions))
    episodes = play_hosted(RECORDER, env, jnp.asarray(WEIGHTS[:1]), SEED, COUNT, slots=1)
    assert len(steps) == episodes.lengths.sum()


@pytest.mark.parametrize("play", [compiled, hosted])
def test_policies_are_paired_by_their_starts(play) -> None:
    one, other = play()
    np.testing.assert_allclose(one[1], 2 * one[0], rtol=1e-6)
    np.testing.assert_array_equal(other[1], other[0])


@pytest.mark.parametrize("play", [compiled, hosted])
def test_the_seed_decides_the_starts(play) -> None:
    assert_same(play(), play())
    assert (play().returns != play(seed=SEED + 1).returns).any()


@pytest.mark.parametrize("play", [compiled, hosted])
def test_starts_differ_from_each_other(play) -> None:
    assert len(set(play().returns[0].tolist())) == COUNT


@pytest.mark.parametrize("count", [1, 16, 17])
def test_the_pool_of_environments_fits_any_count(count: int) -> None:
    episodes = evaluate_hosted(RECORDER, SteppedFactory(Counter(limit=3)), jnp.asarray(WEIGHTS), SEED, count)
    np.testing.assert_array_equal(episodes.returns, np.full((2, count), 3.0))
    np.testing.assert_array_equal(episodes.lengths, np.full((2, count), 3))


@pytest.mark.parametrize("play", [compiled, hosted])
@pytest.mark.parametrize(("limit", "ends_at", "length"), [(4, None, 4), (4, 2, 2), (4, 4, 4), (None, 3, 3)])
def test_lengths_and_returns_to_either_end(play, limit: int | None, ends_at: int | None, length: int) -> None:
    episodes = play(Counter(limit=limit, ends_at=ends_at))
    np.testing.assert_array_equal(episodes.lengths, length)
    np.testing.assert_array_equal(episodes.returns, length)


@pytest.mark.parametrize("play", [compiled, hosted])
def test_an_episode_without_an_end_is_cut(play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 6)
    episodes = play(Counter(limit=None))
    np.testing.assert_array_equal(episodes.lengths, 6)
    np.testing.assert_array_equal(episodes.returns, 6)


def test_environments_are_closed_after_an_evaluation() -> None:
    class Watched(SteppedFactory):
        def build(self, num_envs: int):
            self.built = super().build(num_envs)
            self.built.close = lambda: setattr(self, "closed", True)
            return self.built

    factory = Watched(Counter(limit=3))
    evaluate_hosted(RECORDER, factory, jnp.asarray(WEIGHTS), SEED, 2)
    assert factory.closed
