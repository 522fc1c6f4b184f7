"""What a run says on the terminal: a live line while it works, plain lines where nobody watches, a table."""

import sys
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ridgeline.environments import make
from ridgeline.environments.host import notes_of
from ridgeline.errors import Stopped, UsageError
from ridgeline.experiments.compile_cache import keep_compilations
from ridgeline.experiments.finished import Run
from ridgeline.experiments.forecast import Forecast
from ridgeline.experiments.interrupts import Interrupts
from ridgeline.experiments.run import play_policies
from ridgeline.experiments.settings import algorithm_name
from ridgeline.experiments.training import Training
from ridgeline.report.result import read_result, summary
from ridgeline.report.statistics import bootstrap_interval, interquartile_mean
from ridgeline.report.text import counted, duration, rate, size
from ridgeline.training import loop
from ridgeline.types import Algorithm, HostFactory

_PLAIN_LINES = 10


def show(training: Training, quiet: bool) -> Run:
    """Run a training to its end, telling the terminal about it. What was learned is saved on the way out."""
    console = Console(stderr=True)
    what = f"{algorithm_name(training.algorithm)} on {training.env.spec.id}"
    seeds = len(training.settings.seeds)
    plan = training.plan
    if not quiet:
        rounded = " (rounded up to whole iterations)" if plan.steps != training.settings.steps else ""
        console.print(
            f"{what}: {seeds} seed{'s' * (seeds > 1)} × {plan.steps:,} steps{rounded} → {training.folder}",
            highlight=False,
            soft_wrap=True,
        )
    reporter = Silent() if quiet else Watched(console) if console.is_terminal else Plain(plan.steps)
    with reporter, Interrupts() as training.interrupts:
        try:
            reporter.phase("compiling")
            training.compile()
            for text in training.notes:
                reporter.note(text)
            training.notes.clear()
            if not isinstance(training.env, HostFactory):
                reporter.note(f"compiled in {training.seconds['compile']:.1f} s")
            reporter.phase("training")
            for progress in training:
                reporter.progress(progress)
                for text in progress.warnings:
                    reporter.note(f"warning: {text}", "yellow")
            reporter.phase("judging the final policies")
            run = training.finish()
        except BaseException as error:
            for text in training.notes:
                reporter.note(text, "yellow")
            training.abandon(error)
            if isinstance(error, Stopped):
                error.hint = f"; go on with: ridgeline resume {training.folder}"
            raise
    _final_table(run)
    return run


def show_forecast(algorithm: Algorithm[Any, Any], found: Forecast) -> None:
    """What a run would take, a line for each thing; on standard output, since it is what was asked for."""
    seeds = counted(found.seeds, "seed")
    state, rollout = (size(found.seed_bytes[name]) for name in ("state", "rollout"))
    environments = counted(algorithm.num_envs, "environment")
    whole = found.compile_seconds + found.run_seconds + found.evaluation_seconds
    for name, *text in (
        ("device", found.device, f", {found.devices} of them sharing the seeds" if found.devices > 1 else ""),
        ("memory", size(found.bytes), f" of {size(found.there_bytes)}" if found.there_bytes else ""),
        ("", f"{seeds} × (state {state} + rollout of {environments} {rollout})"),
        ("", f"this process, all included: {size(found.process_bytes)}" if found.process_bytes else ""),
        ("compile", duration(found.compile_seconds)),
        ("train", f"{duration(found.run_seconds)}: {seeds} × {found.steps:,} steps"),
        ("", f"{rate(found.steps_per_second)}, measured over {found.calibrated:,} steps of each seed"),
        ("evaluate", duration(found.evaluation_seconds)),
        ("whole", f"{duration(whole)}; nothing was written"),
    ):
        if any(text):
            print(f"{name:<9} {''.join(text)}")


def show_finished(run: Run) -> None:
    """Say that there is nothing to go on with, and what the run came to."""
    print(f"{run.folder} is finished: --steps N extends it beyond {run.result['steps']:,} steps", file=sys.stderr)
    _final_table(run)


class Silent:
    """Says nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None: ...

    def phase(self, name: str) -> None:
        """What begins now."""

    def note(self, text: str, style: str = "dim") -> None:
        """A line that stays."""

    def progress(self, progress: loop.Progress) -> None:
        """Where the run stands."""


class Plain(Silent):
    """A line for every tenth of the run."""

    def __init__(self, steps: int) -> None:
        self.every, self.next, self.last = steps / _PLAIN_LINES, 0.0, _Return()

    def note(self, text: str, style: str = "dim") -> None:
        """A line that stays."""
        print(text, file=sys.stderr, flush=True)

    def phase(self, name: str) -> None:
        """What begins now."""
        print(f"{name} …", file=sys.stderr, flush=True)

    def progress(self, progress: loop.Progress) -> None:
        """A line, if one is due."""
        self.last.take(progress)
        if progress.rows and progress.steps >= self.next:
            self.next += self.every
            print(
                f"{progress.steps:>10,} steps  {_speed(progress)}  {self.last}  {_left(progress)} left",
                file=sys.stderr,
                flush=True,
            )


class Watched(Silent):
    """One live line: a bar, the return, the speed, the time left."""

    def __init__(self, console: Console) -> None:
        self.console, self.last = console, _Return()
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None, facts="")

    def __enter__(self) -> "Watched":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, text: str, style: str = "dim") -> None:
        """A line that stays."""
        self.console.print(Text(text, style=style))

    def phase(self, name: str) -> None:
        """What begins now."""
        self.bar.update(self.task, description=name, total=None, facts="")

    def progress(self, progress: loop.Progress) -> None:
        """Move the bar."""
        self.last.take(progress)
        share = 100 * progress.steps / progress.total_steps
        facts = f"{share:3.0f} %  {self.last}  {_speed(progress)}  {_left(progress)} left"
        self.bar.update(self.task, total=progress.total_steps, completed=progress.steps, facts=facts)


class _Return:
    """The latest return over seeds, with its interval."""

    def __init__(self) -> None:
        self.text = "return –"

    def take(self, progress: loop.Progress) -> None:
        values = np.array([row["rollout/ep_rew_mean"] for row in progress.rows[-progress.num_seeds :]], float)
        if np.isfinite(values).any():
            low, high = bootstrap_interval(values, resamples=200)
            self.text = f"return {float(interquartile_mean(values)):.4g} [{float(low):.4g}, {float(high):.4g}]"

    def __str__(self) -> str:
        return self.text


def _speed(progress: loop.Progress) -> str:
    return f"{progress.steps_per_second:,.0f} steps/s"


def _left(progress: loop.Progress) -> str:
    return duration(progress.seconds * (progress.total_steps / progress.steps - 1))


def _final_table(run: Run) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for what, value in summary(read_result(run.folder / "result.json")):
        table.add_row(Text(what, style="dim"), Text(value))
    table.add_row(Text("Report", style="dim"), Text(str(run.folder / "report.html")))
    Console().print(table, soft_wrap=True)


def show_evaluation(run: Run, env: str | None, backend: str | None, episodes: int, seed: int) -> None:
    """Play greedy episodes with every seed's policy of a run, and print their returns."""
    source = run.config.get("source")
    if env is None and isinstance(source, str) and ":" in source:
        # A file decides nothing about which code is imported.
        raise UsageError(f"the run is of {source}, which imports code: say so with --env {source}")
    keep_compilations()
    found = make(env or run.config["env"], backend or _backend(run) if env is None else backend)
    policies = [run.policy(k) for k in run.seeds]
    stacked = jax.tree.map(lambda *x: np.stack(x), *[policy.parameters for policy in policies])
    returns = play_policies(policies[0].algorithm, found, stacked, len(policies), episodes, seed).returns
    for text in notes_of(found).take().values():
        print(f"warning: {text}", file=sys.stderr)
    table = Table(box=None, pad_edge=False)
    for name in ("seed", "mean return", "std", "min", "max"):
        table.add_column(name, justify="right")
    for k, row in zip(run.seeds, returns, strict=True):
        table.add_row(str(k), *(f"{x:.2f}" for x in (row.mean(), row.std(), row.min(), row.max())))
    means = returns.mean(1)
    low, high = bootstrap_interval(means)
    console = Console()
    console.print(table)
    console.print(
        f"IQM {float(interquartile_mean(means)):.2f} [{float(low):.2f}, {float(high):.2f}] "
        f"over {len(means)} seeds × {episodes} episodes on {found.spec.id}",
        highlight=False,
    )


def _backend(run: Run) -> str | None:
    known: Any = run.config.get("backend")
    return known if isinstance(known, str) else None
