"""Plans, log rows at their times with the right means, and runs that diverge."""

import json

import numpy as np
import pytest
from miniatures import Dice, Recorder

from ridgeline.environments.probes import Counter, Forever, Probe
from ridgeline.errors import NumericalError
from ridgeline.theory.probes import quick
from ridgeline.training.loop import DIVERGED, Plan, Position, Progress, iterate
from ridgeline.training.runner import Compiled, prepare
from ridgeline.training.summary import MOST_INTERVALS

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


def rows_of(progress: list[Progress]) -> list[dict]:
    return [row for part in progress for row in part.rows]


def test_rows_come_when_they_are_due(progress: list[Progress]) -> None:
    assert [(row["steps"], row["seed"]) for row in rows_of(progress)] == [
        (steps, seed) for steps in (27, 54, 81, 108) for seed in SEEDS
    ]
    assert all(part.rows[-1]["steps"] <= part.steps for part in progress if part.rows)
    evaluated = {part.steps for part in progress if part.evaluation is not None}
    assert evaluated == {54, 108}
    assert progress[-1].steps == progress[-1].total_steps == 108


def test_one_chunk_holds_many_rows() -> None:
    runner = Compiled(prepare(Recorder(rollout_length=3)), Counter(limit=2), SEEDS)
    plan, count = Plan(200, 9, log_points=100, evaluations=0), MOST_INTERVALS
    parts = list(iterate(runner, plan, SEEDS, Position.begin(len(SEEDS))))
    assert max(len(part.rows) for part in parts) == count * len(SEEDS)
    assert [row["steps"] for row in rows_of(parts)[:: len(SEEDS)]] == [18 * i for i in range(1, 101)]
    assert [row["train/iteration"] for row in rows_of(parts)[1 :: len(SEEDS)]] == [2 * i + 0.5 for i in range(100)]


def test_a_row_is_dated_by_its_share_of_the_chunk(progress: list[Progress]) -> None:
    rows = rows_of(progress)[:: len(SEEDS)]
    wall = [row["time/wall"] for row in rows]
    assert wall == sorted(wall)
    assert wall[-1] <= progress[-1].seconds + 1e-3
    assert all(row["time/fps"] > 0 for row in rows)


def test_rows_that_nobody_has_seen_are_kept(runner: Compiled) -> None:
    """An evaluation that is cut short loses none of the chunk's rows: they stand in the position."""
    begun = Compiled(runner.algorithm, Counter(limit=2), SEEDS)
    plan, at = Plan(12, 9, log_points=12, evaluations=1, evaluation_episodes=5), Position.begin(len(SEEDS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begun, "evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(iterate(begun, plan, SEEDS, at))
    again = Position.from_json(json.loads(json.dumps(at.to_json())))
    assert again.rows == at.rows != []
    assert again.judged < again.done == 12
    rows = rows_of(list(iterate(begun, plan, SEEDS, again)))
    assert rows[-2:] == [row | {"eval/mean_reward": 2.0, "eval/mean_ep_length": 2.0} for row in at.rows[-2:]]
    assert rows[:-2] == at.rows[:-2]


def test_rows_bear_the_names_of_sb3(progress: list[Progress]) -> None:
    always = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/episodes", "time/wall", "time/fps"}
    metrics = {"train/iteration", "train/even", "train/never"}
    evaluation = {"eval/mean_reward", "eval/mean_ep_length"}
    for row in rows_of(progress):
        judged = evaluation if row["steps"] in (54, 108) else set()
        assert row.keys() == {"steps", "seed"} | always | metrics | judged


def test_means_are_over_the_iterations_since_the_last_row(progress: list[Progress]) -> None:
    rows = rows_of(progress)[1::2]
    assert [row["train/iteration"] for row in rows] == [1, 4, 7, 10]
    # Iterations 0, 2 | 4 | 6, 8 | 10: the odd ones measured nothing.
    assert [row["train/even"] for row in rows] == [1, 4, 7, 10]
    # 3 environments × 3 iterations × 3 steps hold 4 or 5 episodes of two steps each.
    assert [row["rollout/episodes"] for row in rows] == [12, 15, 12, 15]
    assert {row["rollout/ep_rew_mean"] for row in rows} == {row["rollout/ep_len_mean"] for row in rows} == {2.0}


def test_what_was_never_measured_is_none(progress: list[Progress]) -> None:
    assert all(row["train/never"] is None for row in rows_of(progress))


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
            last = part.rows[-len(SEEDS) :]
            assert {(row["eval/mean_reward"], row["eval/mean_ep_length"]) for row in last} == {(2.0, 2.0)}


def test_a_run_goes_on_where_it_stopped(runner: Compiled) -> None:
    parts = list(iterate(runner, Plan(12, 9, log_points=4, evaluations=0), SEEDS, Position.begin(len(SEEDS), 7)))
    assert parts[0].steps == 72
    rows = rows_of(parts)[:: len(SEEDS)]
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
    lines = [text for part in told[1e3] for text in part.warnings]
    rows = rows_of(told[1e3])
    for text, row in zip(lines, rows[: len(SEEDS)], strict=True):
        assert row["steps"] == 640
        times = float(text.split("|Q| is ")[1].split(" times")[0].replace(",", ""))
        assert times == pytest.approx(row["train/divergence"], rel=5e-3)
        assert text.startswith(f"seed {row['seed']}: |Q| is ")
        assert "by step 640: the critic diverges; lower learning_rate" in text
        assert "\n" not in text
    later = [row["train/divergence"] for row in rows[len(SEEDS) :]]
    assert max(later) > DIVERGED  # and is not named again
    assert told[1e3][-1].steps == 3_200  # nothing stopped


def test_a_critic_that_learns_is_not_named(told: dict[float, list[Progress]]) -> None:
    last = [row["train/divergence"] for row in told[1e-2][-1].rows[-len(SEEDS) :]]
    assert min(last) > 0.3  # it was measured
    assert not any(part.warnings for part in told[1e-2])
