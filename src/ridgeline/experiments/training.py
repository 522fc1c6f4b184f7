"""A run in the making: a folder, its lock, its rows and its checkpoints, between the loop and whoever watches."""

import contextlib
import dataclasses
import importlib.metadata
import math
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ridgeline
from ridgeline.environments import Found, spaces_of
from ridgeline.environments.host import notes_of
from ridgeline.errors import FileError, NumericalError, RidgelineError, StorageError, UsageError
from ridgeline.experiments.checkpoint import Checkpoint, Checkpoints, check_finite
from ridgeline.experiments.config import KEPT, record_to_json, spec_to_json, write_config
from ridgeline.experiments.files import sync, write_json
from ridgeline.experiments.fingerprint import differences, fingerprint
from ridgeline.experiments.finished import Run
from ridgeline.experiments.interrupts import Interrupts
from ridgeline.experiments.lock import Lock
from ridgeline.experiments.policy import Policy
from ridgeline.experiments.settings import FINAL_SEED, Settings, algorithm_name, backend_name, planned
from ridgeline.experiments.sinks import JsonLines, Sink, check_sinks, open_sinks
from ridgeline.experiments.standing import Facts, standing
from ridgeline.experiments.warm_start import begin_from, origin
from ridgeline.report import page, statistics
from ridgeline.training.compilation import compiling_seconds
from ridgeline.training.evaluation import Episodes
from ridgeline.training.loop import Position, Progress, iterate
from ridgeline.training.runner import Runner, make_runner
from ridgeline.training.summary import learned
from ridgeline.types import Algorithm

MOST_ROLLBACKS = 3


class Training:
    """A run in the making. Iterate over it: between two chunks, your code runs. Then `finish`, or `abandon`.

    Everything is checked before anything is written: `UsageError` names what does not fit. Given the `folder` of a
    run and its config, that run goes on from its newest checkpoint, or from its beginning where there is none.
    """

    runner: Runner
    position: Position
    _rows: JsonLines
    _last_saved: tuple[int, int]  # `done` and `judged` of the position

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        env: Found,
        settings: Settings,
        resumed: tuple[Path, dict[str, Any]] | None = None,
    ) -> None:
        self.settings, self.env, self.record = settings, env, algorithm
        check_sinks(settings.sinks)
        self.algorithm, self.plan = planned(algorithm, env, settings)
        start_from = settings.initial_policy
        self._origin = None if start_from is None else origin(start_from, self.record, env.spec)
        self.interrupts = Interrupts()  # entered by whoever wants signals to be obeyed
        self.notes: list[str] = []  # lines for whoever watches, said with the next progress
        self.seconds = {"import": ridgeline.import_seconds, "compile": 0.0, "run": 0.0}
        self.facts = Facts()
        self._sinks: list[Sink] = []
        self._whole = False  # whether runner, position and rows belong together, so that they may be saved
        self._last_good: tuple[Any, int] | None = None  # policies, and after how many steps
        self._parent: str | None = None  # the checkpoint before the next
        self._goes_on = resumed is not None
        if resumed is None:
            self.folder = _new_folder(settings, algorithm_name(algorithm), env.spec.id)
        else:
            self.folder, self.config = resumed
        self._lock = Lock(self.folder)
        try:
            if resumed is None:
                self.config = self._new_config()
                write_config(self.folder, self.config)
            elif self.config["steps"] != self.plan.steps:
                self.notes.append(f"the run is extended to {self.plan.steps:,} steps: schedules stretch over them")
                self.config = self.config | {"steps": self.plan.steps}
                write_config(self.folder, self.config)
        except BaseException:
            self._lock.release()
            raise
        self.checkpoints = Checkpoints(self.folder)

    def compile(self) -> None:
        """Build the runner and compile; iterating does it where it was not done."""
        begun = time.perf_counter()
        checkpoint = self._newest() if self._goes_on else None
        self._take_over(checkpoint)
        if self._goes_on:
            self._say_where(checkpoint)
        self.runner.compile(self.settings.evaluation_episodes if self.settings.evaluations else 0)
        self._compiled = self.seconds["compile"] = time.perf_counter() - begun

    def __iter__(self) -> Iterator[Progress]:
        if not hasattr(self, "runner"):
            self.compile()
        while True:
            try:
                yield from self._chunks()
                return
            except NumericalError as error:
                if self.settings.on_nan != "rollback":
                    raise
                if self.facts.rollbacks >= MOST_ROLLBACKS:
                    raise NumericalError(f"{error} (also after {MOST_ROLLBACKS} rollbacks)") from error
                self._roll_back(error)

    def _chunks(self) -> Iterator[Progress]:
        begun, before = time.perf_counter(), compiling_seconds()
        earlier = self.position.seconds
        self._saved = begun
        for progress in iterate(self.runner, self.plan, self.settings.seeds, self.position, self._undivided):
            with self._undivided():
                progress = dataclasses.replace(progress, warnings=(*progress.warnings, *self._noted()))
                self.facts.warnings.extend(progress.warnings)
                for sink in self._sinks:
                    sink.write(progress.rows)
                if progress.rows:
                    self._last_good = self.runner.policies, progress.steps
                if progress.evaluation is not None:
                    self._judge(progress.evaluation, progress.steps)
                progress.position.judge()
                # On a host, functions compile when they are first called, amid the run.
                late = compiling_seconds() - before
                spent = time.perf_counter() - begun - late
                self.seconds |= {"compile": self._compiled + late, "run": earlier + spent}
            said, self.notes = tuple(self.notes), []
            yield dataclasses.replace(progress, warnings=(*said, *progress.warnings))
            if self._is_due():
                with self._undivided():
                    self.save()

    def finish(self) -> Run:
        """Save the state and the policies, judge them, write the result and the report."""
        with self._undivided():
            policies = jax.device_get(self.runner.policies)
            self.save()
            self.save_policies(policies, self.plan.steps)
            for sink in self._sinks:
                sink.close()
        settings = self.settings
        final = self.runner.evaluate(FINAL_SEED, settings.final_episodes)
        self.runner.close()
        self.facts.warnings.extend(self._noted())
        per_seed = final.returns.mean(1)
        low, high = statistics.bootstrap_interval(per_seed)
        iqm = float(statistics.interquartile_mean(per_seed))
        threshold = self.env.spec.reward_threshold
        best = self.facts.best
        result = {
            "algorithm": algorithm_name(self.algorithm),
            "env": self.env.spec.id,
            "backend": backend_name(self.env),
            "steps": self.plan.steps,
            "seeds": list(settings.seeds),
            "wall_seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "eval": {
                "iqm": iqm,
                "low": float(low),
                "high": float(high),
                "per_seed": per_seed.tolist(),
                "episodes": settings.final_episodes,
                "max_over_training": iqm if best is None else max(best, iqm) if settings.evaluations else None,
            },
            "reward_threshold": threshold,
            "solved": None if threshold is None else iqm >= threshold,
            "warnings": self.facts.warnings,
            "resumed": self.facts.resumed,
        }
        write_json(self.folder / "result.json", result)
        page.write(self.folder)
        self._lock.release()
        return Run(self.folder)

    def abandon(self, cause: BaseException | None = None) -> None:
        """Keep what there is of a run that is not finished: its state, its rows, its last finite policies.

        Where a signal stopped it, what cannot be saved is said instead; after any other cause that one counts.
        """
        quiet = nullcontext() if isinstance(cause, KeyboardInterrupt) else contextlib.suppress(RidgelineError)
        try:
            for sink in self._sinks:
                with quiet:
                    sink.close()
            if hasattr(self, "runner"):
                with quiet:
                    self._keep()
        finally:
            if hasattr(self, "runner"):
                self.runner.close()
            self._lock.release()

    def _noted(self) -> tuple[str, ...]:
        """What the environment's guard made to fit since the last call."""
        return tuple(notes_of(self.env).take().values())

    def _keep(self) -> None:
        now = jax.device_get(self.runner.policies) if self._whole else None
        finite = now is not None and all(np.isfinite(x).all() for x in jax.tree.leaves(now))
        if finite and self.position.done:
            self.save()
        kept = (now, self.steps_done) if finite else self._last_good
        if kept is not None and kept[1]:
            self.save_policies(jax.device_get(kept[0]), kept[1])
            page.write(self.folder)

    @property
    def steps_done(self) -> int:
        """Environment steps of each seed so far."""
        return self.position.done * self.plan.steps_per_iteration

    def save(self) -> None:
        """Write a checkpoint, unless the last one is of this moment. Raises `NumericalError`, `StorageError`."""
        self.interrupts.save, self._saved = False, time.perf_counter()
        moment = (self.position.done, self.position.judged)
        if moment == self._last_saved:
            return
        check_finite(learned(self.runner.states), self.settings.seeds)
        facts = {
            "ridgeline": self.config["ridgeline"],
            "run": self.config["run"],
            "parent": self._parent,
            "steps": self.steps_done,
            "fingerprint": fingerprint(),
            "config": self.config,
            "position": self.position.to_json(),
            "metrics": self._rows.mark(),
            "facts": dataclasses.asdict(self.facts),
        }
        self._parent = self.checkpoints.save(self.runner.snapshot(), facts).name
        self._last_saved = moment

    def save_policies(self, stacked: Any, steps: int) -> None:
        """Write what acts after so many steps, of every seed."""
        for index, seed in enumerate(self.settings.seeds):
            self._save_policy(stacked, index, self.folder / "policies" / f"seed-{seed}.safetensors", steps)

    def _save_policy(self, stacked: Any, index: int, path: Path, steps: int) -> None:
        parameters = jax.tree.map(lambda x: np.asarray(x[index]), stacked)
        seed = self.settings.seeds[index]
        Policy(self.record, self.env.spec, parameters, spaces_of(self.env)).save(path, seed=seed, steps=steps)

    def _judge(self, evaluation: Episodes, steps: int) -> None:
        """Remember the best evaluation; keep the policies that were each seed's best, if that is asked for."""
        returns, facts = evaluation.returns.mean(1), self.facts
        iqm = float(statistics.interquartile_mean(returns))
        facts.best = iqm if facts.best is None else max(facts.best, iqm)
        if not self.settings.save_best:
            return
        facts.best_of_seeds = facts.best_of_seeds or [-math.inf] * len(returns)
        policies = jax.device_get(self.runner.policies)
        for index, value in enumerate(returns.tolist()):
            if value > facts.best_of_seeds[index]:
                facts.best_of_seeds[index] = value
                path = self.folder / "policies" / f"seed-{self.settings.seeds[index]}-best.safetensors"
                self._save_policy(policies, index, path, steps)

    def _is_due(self) -> bool:
        """Whether a checkpoint is to be written now: by time, by steps, or because a signal asks for one."""
        settings, since = self.settings, time.perf_counter() - self._saved
        by_time = settings.checkpoint_seconds > 0 and since >= settings.checkpoint_seconds
        at = self.position.done
        by_steps = settings.checkpoint_steps > 0 and at >= self.plan.next_checkpoint(self._last_saved[0])
        return by_time or by_steps or self.interrupts.save

    @contextlib.contextmanager
    def _undivided(self) -> Iterator[None]:
        """What no signal cuts short; where it fails, there is nothing that could be saved."""
        with self.interrupts.whole():
            self._whole = False
            yield
            self._whole = True

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, if there is any; what was passed over is said."""
        checkpoint, skipped = self.checkpoints.latest()
        self.notes += [f"passed over: {line}" for line in skipped]
        if checkpoint is not None and checkpoint.facts.get("run") != self.config["run"]:
            raise FileError(f"{checkpoint.folder}: of another run: put back that of {self.folder}")
        begun_from = self.config["initial_policy"]
        if checkpoint is None and self._origin is None and begun_from is not None:
            if begun_from["path"] is None:
                raise UsageError(f"{self.folder} began from a policy of another process: start it again")
            self._origin = origin(begun_from["path"], self.record, self.env.spec)
            if self._origin.sha256 != begun_from["sha256"]:
                raise FileError(f"{begun_from['path']}: not what {self.folder} began from: put that back")
        return checkpoint

    def _take_over(self, checkpoint: Checkpoint | None) -> None:
        """Stand where the checkpoint does, or at the beginning."""
        with self._undivided():
            seeds, sinks = self.settings.seeds, self.settings.sinks
            self._last_good = self._parent = mark = None
            if checkpoint is None:
                self.runner = make_runner(self.algorithm, self.env, seeds)
                if self._origin is not None:
                    begin_from(self.runner, self._origin.policy)
                self.position = Position.begin(len(seeds))
            else:
                self.runner = make_runner(self.algorithm, self.env, seeds, checkpoint.fill)
                self.position, known, mark = standing(checkpoint, len(seeds))
                # A rollback must not forget how many there were.
                self.facts = dataclasses.replace(known, rollbacks=max(known.rollbacks, self.facts.rollbacks))
                self._parent = checkpoint.folder.name
            self.checkpoints.sweep()
            self._last_saved = (self.position.done, self.position.judged)
            self._rows = JsonLines(self.folder, mark)
            self.notes += self._rows.notes
            self._sinks = [self._rows, *open_sinks(self.folder, sinks, self.steps_done)]

    def _say_where(self, checkpoint: Checkpoint | None) -> None:
        """From where the run goes on, and whether exactly."""
        if checkpoint is None:
            self.notes.append("no checkpoint yet: the run begins anew")
            return
        steps = checkpoint.facts["steps"]
        odd = differences(checkpoint.facts["fingerprint"], fingerprint())
        why = self.runner.approximate or (f"another machine or other programs ({odd})" if odd else None)
        self.facts.resumed.append({"steps": steps, "exact": why is None, "why": why})
        self.notes.append(f"resumed at step {steps:,}, {'exactly' if why is None else f'approximately: {why}'}")

    def _roll_back(self, error: NumericalError) -> None:
        """Go back to the newest checkpoint and on from there with other random numbers."""
        number = self.facts.rollbacks = self.facts.rollbacks + 1
        checkpoint = self._newest()
        for sink in self._sinks:
            sink.close()
        self.runner.close()
        self._take_over(checkpoint)
        self.runner.fork(number)
        which = f"rollback {number} of {MOST_ROLLBACKS}"
        line = f"{error}; back to step {self.steps_done:,} and on with other random numbers ({which})"
        self.facts.warnings.append(line)
        self.notes.append(line)

    def _new_config(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "schema": 1,
            "run": uuid.uuid4().hex,
            "ridgeline": importlib.metadata.version("ridgeline"),
            "command": settings.command,
            "algorithm": algorithm_name(self.algorithm),
            "env": self.env.spec.id,
            "source": settings.source,
            "backend": backend_name(self.env),
            "steps": self.plan.steps,
            "seeds": list(settings.seeds),
            **{name: getattr(settings, name) for name in KEPT},
            "sinks": list(settings.sinks),
            "initial_policy": None if self._origin is None else self._origin.to_json(),
            "hyperparameters": record_to_json(self.record),
            "spec": spec_to_json(self.env.spec),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), **fingerprint()},
        }


def _new_folder(settings: Settings, algorithm: str, env: str) -> Path:
    """An empty folder for the run: under its name, or the first free number behind algorithm and environment."""
    base = settings.name or f"{algorithm}-{env.replace('/', '-').replace(':', '-')}"
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = settings.out / (base if settings.name else f"{base}-{number}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                if settings.name and _is_bare(folder):
                    break
                if settings.name:
                    raise UsageError(f"run {folder} exists: choose another --run, or remove it") from None
                number += 1
        (folder / "policies").mkdir(exist_ok=True)
        sync(settings.out)
    except OSError as error:
        raise StorageError(
            f"{settings.out}: no run can be written there ({error.strerror}): give --out"
        ) from error
    return folder


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds only what a process leaves that was killed before it wrote `config.json`."""
    left = {path.name for path in folder.rglob("*")}
    return {"policies"} <= left <= {"policies", ".lock", "config.json.partial"}
