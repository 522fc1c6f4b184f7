"""Plans, log rows at their times with the right means, and runs that diverge."""

import numpy as np
import pytest
from miniatures import Dice, Recorder

from ridgeline.environments.probes import Counter, Forever, Probe
from ridgeline.errors import NumericalError
from ridgeline.theory.probes import quick
from ridgeline.training.loop import DIVERGED, Plan, Position, Progress, iterate
from ridgeline.training.runner import Compiled, prepare

SEEDS = (4, 9)


@pytest.mark.parametrize(("steps", "iterations"), [(1, 1), (12, 1), (13, 2), (24, 2), (10**15, 83333333333334)])
def test_plans_round_up_to_whole_iterations(steps: int, iterations: int) -> None:
    plan = Plan.of(Recorder(num_envs=3, rollout_length=4), steps)
    assert (plan.iterations, plan.steps) == (iterations, 12 * iterations)


@pytest.mark.parametrize(("iterations", "count", "due"), [(10, 0, set()), (10, 3, {4, 7, 10}), (3, 10, {1, 2, 3})])
def test_what_is_due_is_spread_evenly_and_ends_with_the_run(iterations: int, count: int, due: set[int]) -> None:
    assert Plan(iterations, 1).due(count) == due


@pytest.fixture(scope="module")
def runner() -> Compiled:
    """Episodes of two steps, so that an iteration of 3 × 3 steps ends three or six of them."""
    return Compiled(prepare(Recorder(rollout_length=3)), Counter(limit=2), SEEDS)


@pytest.fixture(scope="module")
def progress(runner: Compiled) -> list[Progress]:
    plan = Plan(12, 9, log_points=4, evaluations=2, evaluation_episodes=5)
    return list(iterate(runner, plan, SEEDS))


def test_rows_come_when_they_are_due(progress: list[Progress]) -> None:
    due = {part.steps for part in progress if part.rows}
    assert due == {27, 54, 81, 108}
    evaluated = {part.steps for part in progress if part.evaluation is not None}
    assert evaluated == {54, 108}
    assert progress[-1].steps == progress[-1].total_steps == 108


def test_rows_name_their_seed_and_step(progress: list[Progress]) -> None:
    for part in progress:
        if part.rows:
            assert [(row["seed"], row["steps"]) for row in part.rows] == [(seed, part.steps) for seed in SEEDS]


def test_rows_bear_the_names_of_sb3(progress: list[Progress]) -> None:
    always = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/episodes", "time/wall", "time/fps"}
    metrics = {"train/iteration", "train/even", "train/never"}
    evaluation = {"eval/mean_reward", "eval/mean_ep_length"}
    for part in progress:
        for row in part.rows:
            assert row.keys() == {"steps", "seed"} | always | metrics | (evaluation if part.evaluation else set())


def test_means_are_over_the_iterations_since_the_last_row(progress: list[Progress]) -> None:
    rows = [part.rows[1] for part in progress if part.rows]
    assert [row["train/iteration"] for row in rows] == [1, 4, 7, 10]
    # Iterations 0, 2 | 4 | 6, 8 | 10: the odd ones measured nothing.
    assert [row["train/even"] for row in rows] == [1, 4, 7, 10]
    # 3 environments × 3 iterations × 3 steps hold 4 or 5 episodes of two steps each.
    assert [row["rollout/episodes"] for row in rows] == [12, 15, 12, 15]
    assert {row["rollout/ep_rew_mean"] for row in rows} == {row["rollout/ep_len_mean"] for row in rows} == {2.0}


def test_what_was_never_measured_is_none(progress: list[Progress]) -> None:
    rows = [row for part in progress for row in part.rows]
    assert all(row["train/never"] is None for row in rows)


def test_no_episode_no_mean() -> None:
    runner = Compiled(prepare(Recorder()), Counter(limit=100), SEEDS)
    (part,) = iterate(runner, Plan(1, 12, evaluations=0), SEEDS)
    assert part.rows[0]["rollout/ep_rew_mean"] is None
    assert part.rows[0]["rollout/episodes"] == 0
    assert part.evaluation is None


def test_evaluations_reach_the_rows(progress: list[Progress]) -> None:
    for part in progress:
        if part.evaluation is not None:
            assert part.evaluation.returns.shape == (2, 5)
            assert {(row["eval/mean_reward"], row["eval/mean_ep_length"]) for row in part.rows} == {(2.0, 2.0)}


def test_a_run_goes_on_where_it_stopped(runner: Compiled) -> None:
    parts = list(iterate(runner, Plan(12, 9, log_points=4, evaluations=0), SEEDS, Position.begin(len(SEEDS), 7)))
    assert parts[0].steps == 72
    rows = [part.rows[0] for part in parts if part.rows]
    assert [row["steps"] for row in rows] == [81, 108]
    assert [row["train/iteration"] for row in rows] == [7.5, 10]


def test_the_current_policy_is_at_hand(progress: list[Progress]) -> None:
    assert float(progress[-1].policy(1)) == float(progress[-1].runner.policies[1])


def test_divergence_names_the_seed_and_the_step() -> None:
    first = Compiled(prepare(Recorder()), Dice(), SEEDS)
    lower, higher = np.argsort(first.policies)
    ceiling = float(np.mean(first.policies))  # so that one seed alone breaks, after iteration 2: 36 steps
    runner = Compiled(prepare(Recorder(ceiling=ceiling)), Dice(), SEEDS)
    with pytest.raises(NumericalError, match=rf"^seed {SEEDS[higher]}: .*not finite by step 36: "):
        list(iterate(runner, Plan(10, 12, evaluations=0), SEEDS))
    assert np.isfinite(runner.policies[lower])


def test_divergence_names_the_leaf() -> None:
    algorithm, seeds = quick("ppo", learning_rate=3e38), (4, 5, 6, 7, 8)
    runner = Compiled(algorithm, Probe(1), seeds)
    with pytest.raises(
        NumericalError, match=r"^seed 4: \.policy\.network\.encoder\S*\.weight is not finite by step 32: "
    ):
        list(iterate(runner, Plan.of(algorithm, 320, evaluations=0), seeds))


@pytest.fixture(scope="module")
def told() -> dict[float, list[Progress]]:
    """DQN at a rate at which it learns 1/(1 − γ), and at one far too large: the same program."""
    runs = {}
    for rate in (1e-2, 1e3):
        algorithm = quick("dqn", gamma=0.99, learning_rate=rate)
        plan = Plan.of(algorithm, 3_200, log_points=5, evaluations=0)
        runs[rate] = list(iterate(Compiled(algorithm, Forever(), SEEDS), plan, SEEDS))
    return runs


def test_a_critic_that_diverges_is_named_once_a_seed(told: dict[float, list[Progress]]) -> None:
    lines = [(part.steps, text) for part in told[1e3] for text in part.warnings]
    first = next(part for part in told[1e3] if part.rows)
    for (steps, text), row in zip(lines, first.rows, strict=True):
        assert steps == first.steps == 640
        times = float(text.split("|Q| is ")[1].split(" times")[0].replace(",", ""))
        assert times == pytest.approx(row["train/divergence"], rel=5e-3)
        assert text.startswith(f"seed {row['seed']}: |Q| is ")
        assert "by step 640: the critic diverges; lower learning_rate" in text
        assert "\n" not in text
    later = [row["train/divergence"] for part in told[1e3] if part is not first for row in part.rows]
    assert max(later) > DIVERGED  # and is not named again
    assert told[1e3][-1].steps == 3_200  # nothing stopped


def test_a_critic_that_learns_is_not_named(told: dict[float, list[Progress]]) -> None:
    last = [row["train/divergence"] for row in told[1e-2][-1].rows]
    assert min(last) > 0.3  # it was measured
    assert not any(part.warnings for part in told[1e-2])
