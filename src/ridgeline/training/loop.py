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
from ridgeline.training.summary import MOST_INTERVALS, Summary, learned
from ridgeline.types import Algorithm

type Row = dict[str, float | int | None]

# A chunk lasts about this long, in seconds, so that progress shows and a signal is heard.
_CHUNK_SECONDS = 0.5

# One chunk leaves at most so many log rows of all seeds: until they are written, a checkpoint holds them.
MOST_ROWS = 512

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
    """Where a run stands between two chunks. `rows` holds the log rows that came due since the last, if any.

    They are one a seed for each log point, the newest last. `warnings` are lines for whoever watches, each said
    once in a run; they stop nothing.
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

    `done` counts iterations, or steps where rollouts are whole episodes; `taken` [S] only the latter. `rows` came
    due and nobody has seen them; `summary` has what came since, which took `training` seconds.
    """

    done: int
    judged: int
    seconds: float
    taken: np.ndarray
    diverged: set[int]
    summary: Summary | None = None
    rows: list[Row] = dataclasses.field(default_factory=list)
    training: float = 0.0

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

    def take(self, part: Summary, seconds: float, plan: Plan) -> None:
        """These iterations were done, in that time."""
        if plan.fresh:
            self.taken = self.taken + part.steps
            self.done = min(plan.iterations, int(self.taken.min()))
        else:
            self.done += int(part.iterations.max())
        self.seconds, self.training = self.seconds + seconds, self.training + seconds
        self.summary = part if self.summary is None else jax.tree.map(np.add, self.summary, part)

    def log(self, seeds: tuple[int, ...], plan: Plan) -> None:
        """A row of each seed is due here."""
        assert self.summary is not None
        steps, per_second = self.done * plan.steps_per_iteration, float(self.summary.steps.sum()) / self.training
        clock = {"time/wall": round(self.seconds, 3), "time/fps": round(per_second)}
        self.rows += [_row(self.summary, i, seed, steps, clock) for i, seed in enumerate(seeds)]
        self.summary, self.training = None, 0.0

    def judge(self) -> None:
        """What was due by now was done."""
        self.judged, self.rows = self.done, []


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
    evaluate_at = plan.due(plan.evaluations)
    log_at = plan.due(plan.log_points) | evaluate_at
    pace, begun = 0.0, time.perf_counter() - at.seconds
    while at.done < plan.iterations or at.judged < at.done:
        if at.judged == at.done:
            stops = evaluate_at | {plan.iterations, plan.next_checkpoint(at.done)}
            ends = _ends(at.done, log_at, stops, max(1, min(MOST_INTERVALS, MOST_ROWS // len(seeds))))
            # Nothing is known of the pace before the first chunk.
            count = max(1, int(_CHUNK_SECONDS / pace)) if pace else 1
            with whole():
                started = time.perf_counter()
                parts = [x for x in runner.run(at.done, count, float(plan.steps), ends) if x.iterations.any()]
                pace = (time.perf_counter() - started) / sum(float(x.iterations.max()) for x in parts)
                at.seconds, reached = started - begun, []
                for part in parts:
                    before = at.done
                    at.take(part, pace * float(part.iterations.max()), plan)
                    reached.append(at.done)
                    if any(before < point <= at.done for point in log_at):
                        at.log(seeds, plan)
            for part, done in zip(parts, reached, strict=True):
                _check_finite(runner, part, seeds, done * plan.steps_per_iteration)
        evaluation = None
        if any(at.judged < point <= at.done for point in evaluate_at):
            evaluation = runner.evaluate(plan.evaluation_seed, plan.evaluation_episodes)
            for index, row in enumerate(at.rows[-len(seeds) :]):
                row["eval/mean_reward"] = float(np.mean(evaluation.returns[index]))
                row["eval/mean_ep_length"] = float(np.mean(evaluation.lengths[index]))
        rows, seconds = tuple(at.rows), time.perf_counter() - begun
        warnings = tuple(_diverging(rows, at.diverged))
        steps = at.done * plan.steps_per_iteration
        yield Progress(steps, plan.steps, seconds, len(seeds), rows, evaluation, runner, at, warnings)
        at.judge()


def _ends(done: int, log_at: set[int], stops: set[int], most: int) -> list[int]:
    """Where the next chunk's iterations are summed up: at log points, up to the first of the stops."""
    stop = min(point for point in stops if point > done)
    return [*sorted(point for point in log_at if done < point < stop), stop][:most]


def _row(summary: Summary, index: int, seed: int, steps: int, clock: dict[str, float]) -> Row:
    """One seed's means since its last row, under SB3's names; None where nothing was measured."""

    def mean(total: Any, count: Any) -> float | None:
        return float(total[index] / count[index]) if count[index] else None

    row: Row = {"steps": steps, "seed": seed, **clock}
    row["rollout/ep_rew_mean"] = mean(summary.return_sum, summary.episodes)
    row["rollout/ep_len_mean"] = mean(summary.length_sum, summary.episodes)
    row["rollout/episodes"] = int(summary.episodes[index])
    for name in summary.metrics:
        row[name] = mean(summary.metrics[name], summary.counts[name])
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
