"""The loop around either runner: chunks, log rows, evaluations; between chunks, anybody's code."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ridgeline.errors import NumericalError
from ridgeline.training.evaluation import Episodes
from ridgeline.training.runner import Runner
from ridgeline.training.summary import Summary, learned
from ridgeline.types import Algorithm

type Row = dict[str, float | int | None]

# A chunk lasts about this long, in seconds, so that progress shows and a signal is heard.
_CHUNK_SECONDS = 0.5

# From here on, in the unit of `train/divergence`, a critic is said to diverge: overestimation alone stays below.
DIVERGED = 2.0


@dataclass(frozen=True)
class Plan:
    """What a run does when, in whole iterations; none of it changes what is learned.

    Where rollouts are whole episodes (`fresh`), iterations differ in length, so the plan counts single steps; it
    is as far as the seed that has taken fewest, and what is due then happens after the iteration.
    """

    iterations: int
    steps_per_iteration: int
    log_points: int = 100
    evaluations: int = 10
    checkpoint_steps: int = 0
    evaluation_episodes: int = 10
    evaluation_seed: int = 1_000_003
    fresh: bool = False

    @classmethod
    def of(cls, algorithm: Algorithm[Any, Any], steps: int, **options: int) -> "Plan":
        """At least `steps` environment steps a seed, rounded up to whole iterations."""
        each = 1 if algorithm.fresh else algorithm.num_envs * algorithm.rollout_length
        return cls(math.ceil(steps / each), each, **options, fresh=algorithm.fresh)

    @property
    def steps(self) -> int:
        """Environment steps of one seed."""
        return self.iterations * self.steps_per_iteration

    def next_checkpoint(self, done: int) -> int:
        """After which iteration the state is to be saved next, if every `checkpoint_steps` steps (0: never)."""
        each = math.ceil(self.checkpoint_steps / self.steps_per_iteration)
        return min(self.iterations, (done // each + 1) * each) if each else self.iterations

    def due(self, count: int) -> set[int]:
        """After which iterations something happens that is to happen `count` times, the last at the end."""
        return {math.ceil(self.iterations * (i + 1) / count) for i in range(count)}


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two chunks. `rows` holds one log row a seed where one is due, else none.

    `warnings` are lines for whoever watches, each said once in a run; they stop nothing.
    """

    steps: int
    total_steps: int
    seconds: float
    num_seeds: int
    rows: tuple[Row, ...]
    evaluation: Episodes | None
    runner: Runner
    position: "Position"
    warnings: tuple[str, ...] = ()

    @property
    def steps_per_second(self) -> float:
        """Environment steps of all seeds together, per second since the first."""
        return self.steps * self.num_seeds / max(self.seconds, 1e-9)

    def policy(self, index: int) -> Any:
        """What acts now, of the seed at this index."""
        return jax.tree.map(lambda x: x[index], self.runner.policies)


@dataclass
class Position:
    """Where a run stands, beside what its runner holds. `judged` lags behind `done` until what was due was done.

    `done` counts iterations, or steps where rollouts are whole episodes; `taken` [S] only the latter. `summary`
    has what came since the last log row.
    """

    done: int
    judged: int
    seconds: float
    taken: np.ndarray
    diverged: set[int]
    summary: Summary | None = None

    @classmethod
    def begin(cls, num_seeds: int, done: int = 0) -> "Position":
        """Before the first iteration, or before the one that is numbered `done`."""
        return cls(done, done, 0.0, np.zeros(num_seeds), set())

    def to_json(self) -> dict[str, Any]:
        """The position in JSON's kinds; every float comes back as it was."""
        summary = None
        if self.summary is not None:
            summary = jax.tree.map(lambda x: np.asarray(x).tolist(), self.summary._asdict())
        taken, diverged = self.taken.tolist(), sorted(self.diverged)
        return {**dataclasses.asdict(self), "taken": taken, "diverged": diverged, "summary": summary}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Position":
        """The inverse of `to_json`."""
        summary = data["summary"]
        if summary is not None:
            real = jax.dtypes.canonicalize_dtype(float)
            leaf = lambda x: isinstance(x, list)  # noqa: E731
            summary = Summary(**jax.tree.map(lambda x: np.asarray(x, real), summary, is_leaf=leaf))
        found = {"taken": np.asarray(data["taken"], float), "diverged": set(data["diverged"]), "summary": summary}
        return cls(**data | found)

    def judge(self, rows: tuple[Row, ...]) -> None:
        """What was due by now was done, and these rows were logged."""
        if self.judged < self.done:
            self.judged = self.done
            if rows:
                self.summary = None


def iterate(
    runner: Runner,
    plan: Plan,
    seeds: tuple[int, ...],
    position: Position | None = None,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Progress]:
    """Run the plan chunk by chunk. Raises `NumericalError` as soon as something learned is not finite.

    `position` is kept up to date: outside of a `whole` block it and the runner belong together, whatever raises.
    """
    at = Position.begin(len(seeds)) if position is None else position
    log_at, evaluate_at = plan.due(plan.log_points), plan.due(plan.evaluations)
    stops = sorted(log_at | evaluate_at | {plan.iterations})
    pace, since = 0.0, time.perf_counter()
    begun = since - at.seconds
    while at.done < plan.iterations or at.judged < at.done:
        if at.judged == at.done:
            stop = min(next(s for s in stops if s > at.done), plan.next_checkpoint(at.done))
            # Nothing is known of the pace before the first chunk.
            count = max(1, int(_CHUNK_SECONDS / pace)) if pace else 1
            with whole():
                started = time.perf_counter()
                part = _run(runner, plan, at, count, stop)
                at.seconds = time.perf_counter() - begun
            pace = (time.perf_counter() - started) / max(1.0, float(part.iterations.max()))
            _check_finite(runner, part, seeds, at.done * plan.steps_per_iteration)
        steps = at.done * plan.steps_per_iteration
        evaluation = None
        if any(at.judged < point <= at.done for point in evaluate_at):
            evaluation = runner.evaluate(plan.evaluation_seed, plan.evaluation_episodes)
        rows: tuple[Row, ...] = ()
        summary = at.summary
        if any(at.judged < point <= at.done for point in log_at) or evaluation is not None:
            assert summary is not None
            now = time.perf_counter()
            clock = {
                "time/wall": round(now - begun, 3),
                "time/fps": round(float(summary.steps.sum()) / (now - since)),
            }
            rows = tuple(_row(summary, evaluation, i, seed, steps, clock) for i, seed in enumerate(seeds))
            since = time.perf_counter()
        seconds = time.perf_counter() - begun
        warnings = tuple(_diverging(rows, at.diverged))
        yield Progress(steps, plan.steps, seconds, len(seeds), rows, evaluation, runner, at, warnings)
        at.judge(rows)


def _run(runner: Runner, plan: Plan, at: Position, count: int, stop: int) -> Summary:
    """One chunk of at most `count` iterations, not beyond `stop`."""
    if plan.fresh:
        part = runner.run(at.done, count, float(plan.steps), until=float(stop))
        at.taken = at.taken + part.steps
        at.done = min(plan.iterations, int(at.taken.min()))
    else:
        count = min(stop - at.done, count)
        part = runner.run(at.done, count, float(plan.steps))
        at.done += count
    at.summary = part if at.summary is None else jax.tree.map(np.add, at.summary, part)
    return part


def _row(
    summary: Summary,
    evaluation: Episodes | None,
    index: int,
    seed: int,
    steps: int,
    clock: dict[str, float],
) -> Row:
    """One seed's means since its last row, under SB3's names; None where nothing was measured."""

    def mean(total: Any, count: Any) -> float | None:
        return float(total[index] / count[index]) if count[index] else None

    row: Row = {"steps": steps, "seed": seed, **clock}
    row["rollout/ep_rew_mean"] = mean(summary.return_sum, summary.episodes)
    row["rollout/ep_len_mean"] = mean(summary.length_sum, summary.episodes)
    row["rollout/episodes"] = int(summary.episodes[index])
    for name in summary.metrics:
        row[name] = mean(summary.metrics[name], summary.counts[name])
    if evaluation is not None:
        row["eval/mean_reward"] = float(np.mean(evaluation.returns[index]))
        row["eval/mean_ep_length"] = float(np.mean(evaluation.lengths[index]))
    return row


def _diverging(rows: tuple[Row, ...], known: set[int]) -> Iterator[str]:
    """A line for each seed whose critic is found to diverge and is not `known` to; it is from then on."""
    for row in rows:
        seed, times = int(row["seed"] or 0), row.get("train/divergence") or 0.0
        if times > DIVERGED and seed not in known:
            known.add(seed)
            much = f"{float(f'{times:.3g}'):,g}"
            yield (
                f"seed {seed}: |Q| is {much} times what any policy can earn by step {row['steps']:,}: the critic "
                "diverges; lower learning_rate or tau, raise target_period, or use double (what the algorithm has)"
            )


def _check_finite(runner: Runner, part: Summary, seeds: tuple[int, ...], steps: int) -> None:
    for index in np.flatnonzero(part.broken):
        for name, leaf in learned(runner.states):
            if not np.isfinite(leaf[index]).all():
                raise NumericalError(
                    f"seed {seeds[index]}: {name} is not finite by step {steps}: "
                    "lower learning_rate or max_grad_norm, or normalise rewards"
                )
