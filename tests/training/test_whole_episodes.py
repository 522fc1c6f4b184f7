"""Rollouts of whole episodes: what both runners hand to an algorithm that is `fresh`, and how steps count."""

from typing import ClassVar

import jax
import numpy as np
import pytest
from miniatures import Dice, Recorder, TwinFactory, assert_same

from ridgeline.environments.probes import Counter
from ridgeline.returns import first_episode
from ridgeline.training.hosted import Hosted
from ridgeline.training.loop import Plan, iterate
from ridgeline.training.runner import Compiled, Runner, prepare

SEEDS = (0, 1, 2)
ITERATIONS = 5
TOTAL = 100.0
LENGTH = 7


class Whole(Recorder):
    """A recorder of whole episodes."""

    fresh: ClassVar[bool] = True


def make(algorithm, hosted: bool) -> Runner:
    return Hosted(algorithm, TwinFactory(Dice(), SEEDS), SEEDS) if hosted else Compiled(algorithm, Dice(), SEEDS)


class Recorded:
    """What every seed was handed in each iteration, and the summaries."""

    def __init__(self, hosted: bool, length: int = LENGTH):
        algorithm = prepare(Whole(rollout_length=length))
        runner = make(algorithm, hosted)
        self.rows, self.carries, self.summaries = [], [], []
        for i in range(ITERATIONS):
            self.summaries += runner.run(i, 1, TOTAL)
            state = jax.tree.map(np.array, runner.states)
            self.rows.append(state.rollout.transitions)  # [S, T, N]
            self.carries.append(state.rollout.carry)
        self.live = [np.asarray(jax.vmap(jax.vmap(first_episode, 1, 1))(x.ended)) for x in self.rows]


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "hosted"])
def recorded(request) -> Recorded:
    return Recorded(request.param)


def test_episodes_of_different_lengths_occur(recorded) -> None:
    lengths = np.concatenate([live.sum(1).ravel() for live in recorded.live])
    assert len(set(lengths.tolist())) > 2
    assert max(lengths) == 5  # Dice's own limit


def test_every_column_is_one_whole_episode_from_its_start(recorded) -> None:
    for x, live in zip(recorded.rows, recorded.live, strict=True):
        np.testing.assert_array_equal(x.obs[:, 0, :, 0], 0)
        ends = (x.ended & live).sum(1)
        np.testing.assert_array_equal(ends, 1)
        np.testing.assert_array_equal(x.obs[:, 1:][live[:, 1:]], x.next_obs[:, :-1][live[:, 1:]])


def test_the_carry_starts_anew_with_every_rollout(recorded) -> None:
    for x, carry, live in zip(recorded.rows, recorded.carries, recorded.live, strict=True):
        np.testing.assert_array_equal(carry, 0)
        np.testing.assert_array_equal(x.action[..., 1][live], x.obs[..., 0][live])


def test_no_two_iterations_play_the_same_episodes(recorded) -> None:
    starts = np.concatenate([x.obs[:, 0, :, 1].ravel() for x in recorded.rows])
    assert len(set(starts.tolist())) == len(starts) == ITERATIONS * 3 * 3


def test_steps_are_those_of_live_columns_and_each_seed_counts_its_own(recorded) -> None:
    taken = np.zeros(3)
    for x, live, summary in zip(recorded.rows, recorded.live, recorded.summaries, strict=True):
        np.testing.assert_array_equal(x.action[:, 0, :, 3], np.broadcast_to(taken[:, None], (3, 3)))
        np.testing.assert_array_equal(summary.steps, live.sum((1, 2)))
        taken += live.sum((1, 2))
    assert len(set(taken.tolist())) > 1


def test_summaries_count_each_column_once(recorded) -> None:
    for x, live, summary in zip(recorded.rows, recorded.live, recorded.summaries, strict=True):
        np.testing.assert_array_equal(summary.episodes, 3)
        np.testing.assert_array_equal(summary.length_sum, live.sum((1, 2)))
        np.testing.assert_allclose(summary.return_sum, (x.reward * live).sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])
def test_the_last_row_cuts_what_has_not_ended(hosted: bool) -> None:
    cut = Recorded(hosted, length=2)
    assert any((live[:, -1] & ~x.terminated[:, -1]).any() for x, live in zip(cut.rows, cut.live, strict=True))
    for x, live in zip(cut.rows, cut.live, strict=True):
        assert x.ended[:, -1][live[:, -1]].all()


def test_both_runners_hand_over_the_same() -> None:
    compiled, hosted = Recorded(hosted=False), Recorded(hosted=True)
    for one, other, live in zip(compiled.rows, hosted.rows, compiled.live, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine[live], theirs[live])
    for one, other in zip(compiled.summaries, hosted.summaries, strict=True):
        assert_same(one[2:], other[2:], rtol=1e-6)


@pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])
def test_a_seed_stops_after_the_iteration_that_reaches_its_steps(hosted: bool) -> None:
    algorithm, total = prepare(Whole(rollout_length=5)), 60
    runner = make(algorithm, hosted)
    plan = Plan.of(algorithm, total, log_points=4, evaluations=0)
    parts = list(iterate(runner, plan, SEEDS))
    assert parts[-1].steps == plan.steps == total
    taken = sum(sum(row["rollout/episodes"] * row["rollout/ep_len_mean"] for row in part.rows) for part in parts)
    assert 3 * total <= taken < 3 * (total + 15)
    lone = Compiled(algorithm, Dice(), SEEDS[1:2])
    for _ in iterate(lone, Plan.of(algorithm, total, log_points=1, evaluations=0), SEEDS[1:2]):
        pass
    ours, alone = jax.tree.map(np.array, (runner.states, lone.states))
    np.testing.assert_array_equal(ours.draw[1], alone.draw[0])


def test_rows_stand_at_steps_that_every_seed_has_taken() -> None:
    algorithm = prepare(Whole(rollout_length=4))
    runner = Compiled(algorithm, Counter(limit=4), SEEDS)
    parts = list(iterate(runner, Plan.of(algorithm, 40, log_points=5, evaluations=2), SEEDS))
    assert [row["steps"] for part in parts for row in part.rows[:: len(SEEDS)]] == [12, 24, 36, 40]
    assert [part.steps for part in parts if part.evaluation is not None] == [24, 40]


@pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])
@pytest.mark.parametrize("record", [Recorder, Whole])
def test_intervals_of_one_call_are_those_of_many(record: type[Recorder], hosted: bool) -> None:
    algorithm = prepare(record(rollout_length=4))
    ends = (20, 55, 60) if algorithm.fresh else (2, 5, 6)
    at_once = make(algorithm, hosted).run(0, 50, TOTAL, ends)
    runner = make(algorithm, hosted)
    done, apart = 0, []
    for end in ends:
        (part,) = runner.run(done, 50, TOTAL, (end,))
        apart.append(part)
        done += int(part.iterations.max())
    for mine, theirs in zip(at_once, apart, strict=True):
        assert_same(mine, theirs, rtol=1e-6)
    if algorithm.fresh:
        taken = np.cumsum([part.steps for part in at_once], 0)
        assert (taken >= np.array(ends)[:, None]).all()
        assert (taken < np.array(ends)[:, None] + 3 * 4).all()
    else:
        assert [part.iterations.tolist() for part in at_once] == [[2] * 3, [3] * 3, [1] * 3]


@pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])
def test_a_chunk_stops_at_its_count_within_an_interval(hosted: bool) -> None:
    parts = make(prepare(Recorder(rollout_length=4)), hosted).run(0, 3, TOTAL, (2, 5, 6))
    assert [part.iterations.tolist() for part in parts] == [[2] * 3, [1] * 3, [0] * 3]
