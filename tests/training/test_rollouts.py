"""What both runners hand to an algorithm: seen by one that only records it."""

import jax
import numpy as np
import pytest
from miniatures import Dice, Recorder, TwinFactory, assert_same, numpy_leaves

from ridgeline.environments.stepped import SteppedFactory
from ridgeline.training.evaluation import evaluate_hosted
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import Compiled, prepare
from ridgeline.types import Step

SEEDS = (0, 1, 2)
ITERATIONS = 6
TOTAL = 100.0


class Recorded:
    """What every seed was handed in each iteration, and the summaries."""

    def __init__(self, hosted: bool, factory=SteppedFactory):
        env, algorithm = Dice(), prepare(Recorder())
        runner = Hosted(algorithm, factory(env), SEEDS) if hosted else Compiled(algorithm, env, SEEDS)
        states, self.summaries = [], []
        for i in range(ITERATIONS):
            self.summaries += runner.run(i, 1, TOTAL)
            # A copy: the runner's next update reuses the memory.
            state = runner.states if hosted else runner.lanes.state
            states.append(jax.tree.map(np.array, state))
        self.update_draws = np.stack([state.draw for state in states])
        self.first_carry = np.stack([state.rollout.carry for state in states], 1)
        rows = [state.rollout.transitions for state in states]
        # [S, iterations · T, N, ...]
        self.rows = type(rows[0])(*(np.concatenate(column, 1) for column in zip(*rows, strict=True)))
        self.each = algorithm.rollout_length


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "hosted"])
def recorded(request) -> Recorded:
    return Recorded(request.param)


def test_both_kinds_of_end_occur(recorded) -> None:
    rows = recorded.rows
    assert (rows.terminated & ~rows.truncated).any()
    assert (rows.truncated & ~rows.terminated).any()


def test_next_obs_is_the_true_successor(recorded) -> None:
    rows = recorded.rows
    np.testing.assert_array_equal(rows.next_obs[..., 0], rows.obs[..., 0] + 1)


def test_rows_go_on_where_the_last_one_led_or_start_anew(recorded) -> None:
    rows = recorded.rows
    ended = rows.ended[:, :-1]
    np.testing.assert_array_equal(rows.obs[:, 1:][~ended], rows.next_obs[:, :-1][~ended])
    assert (rows.obs[:, 1:][ended][:, 0] == 0).all()


def test_termination_and_truncation_are_told_apart(recorded) -> None:
    rows = recorded.rows
    np.testing.assert_array_equal(rows.terminated, rows.next_obs[..., 1] < 0.25)
    np.testing.assert_array_equal(rows.truncated, rows.next_obs[..., 0] == 5)


def test_carries_start_anew_with_every_episode(recorded) -> None:
    rows = recorded.rows
    np.testing.assert_array_equal(rows.action[..., 1], rows.obs[..., 0])
    np.testing.assert_array_equal(recorded.first_carry, rows.obs[:, :: recorded.each, :, 0])


def test_steps_count_the_environment_steps_of_one_seed(recorded) -> None:
    taken = 3 * np.arange(recorded.rows.reward.shape[1])
    np.testing.assert_array_equal(recorded.rows.action[..., 3], np.broadcast_to(taken[:, None], (3, 24, 3)))


def test_no_key_serves_twice(recorded) -> None:
    rows = recorded.rows
    starts = rows.obs[rows.obs[..., 0] == 0][:, 1]
    drawn = (starts, rows.next_obs[..., 1], rows.action[..., 2], recorded.update_draws)
    numbers = np.concatenate([x.ravel() for x in drawn])
    assert len(set(numbers.tolist())) == len(numbers)


def test_seeds_draw_different_networks(recorded) -> None:
    assert len(set(recorded.rows.action[..., 0].ravel().tolist())) == len(SEEDS)


def test_summaries_count_the_episodes_that_ended(recorded) -> None:
    rows = recorded.rows
    returns, lengths = np.zeros((3, 3)), np.zeros((3, 3))
    for i, summary in enumerate(recorded.summaries):
        expected = np.zeros((3, 3))
        for t in range(i * recorded.each, (i + 1) * recorded.each):
            ended = rows.ended[:, t]
            returns, lengths = returns + rows.reward[:, t], lengths + 1
            expected += [(x * ended).sum(1) for x in (np.ones((3, 3)), returns, lengths)]
            returns, lengths = returns * ~ended, lengths * ~ended
        found = (summary.episodes, summary.return_sum, summary.length_sum)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_both_runners_hand_over_the_same() -> None:
    compiled = Recorded(hosted=False)
    hosted = Recorded(hosted=True, factory=lambda env: TwinFactory(env, SEEDS))
    for name in ("rows", "first_carry", "update_draws"):
        assert_same(getattr(hosted, name), getattr(compiled, name))
    assert numpy_leaves(hosted.summaries[0]).keys() == numpy_leaves(compiled.summaries[0]).keys()


class Overwriting(SteppedFactory):
    """Its hosts write every answer into the same arrays."""

    def build(self, num_envs):
        host, kept = super().build(num_envs), {}

        def overwriting(call):
            def answer(*given):
                found = call(*given)
                for where, x in found._asdict().items() if isinstance(found, Step) else [("next_obs", found)]:
                    kept.setdefault(where, np.array(x))[:] = x
                return Step(**kept) if isinstance(found, Step) else kept["next_obs"]

            return answer

        host.reset, host.step = overwriting(host.reset), overwriting(host.step)
        return host


def test_a_host_may_write_over_what_it_returned():
    usual, overwriting = Recorded(hosted=True), Recorded(True, Overwriting)
    assert usual.rows.ended.any()
    assert_same(overwriting.rows, usual.rows)
    assert_same(overwriting.summaries, usual.summaries)
    algorithm, env = prepare(Recorder()), Dice()
    policies = Hosted(algorithm, SteppedFactory(env), SEEDS).policies
    played = [evaluate_hosted(algorithm, make(env), policies, 3, 20) for make in (SteppedFactory, Overwriting)]
    assert_same(*played)
