"""What a run came to: `result.json`."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from ridgeline.errors import FileError
from ridgeline.report.curves import finite, shorten
from ridgeline.report.text import aligned, counted, duration, interval, plain, rate
from ridgeline.safe import read_json

PHASES = ("import", "compile", "run")


@dataclasses.dataclass(frozen=True)
class Result:
    """`result.json`. Times in seconds, returns in the environment's own reward; NaN for what was not measured."""

    algorithm: str
    env: str
    backend: str
    steps: int
    seeds: tuple[int, ...]
    seconds: dict[str, float]
    iqm: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    episodes: int
    max_over_training: float
    reward_threshold: float
    solved: bool | None
    warnings: tuple[str, ...] = ()  # what was said on the way, each once

    @property
    def steps_per_second(self) -> float:
        """Environment steps of all seeds together per second of the run, compiling apart."""
        run = self.seconds["run"]
        return self.steps * len(self.seeds) / run if run > 0 else math.nan


def read_result(path: Path) -> Result:
    """Read `result.json`; `FileError` names the field that is not what it should be."""
    record, where = read_json(path), str(path)
    judged = field(record, "eval", dict, where)
    seconds = field(record, "wall_seconds", dict, where)
    solved = record.get("solved")
    warnings = field({"warnings": []} | record, "warnings", list, where)  # older files have none
    seeds, per_seed = seeds_of(record, where), field(judged, "per_seed", list, where)
    if len(seeds) != len(per_seed):
        raise FileError(f"{where}: {len(seeds)} seeds but {len(per_seed)} values in `per_seed`; train again")
    iqm, low, high, best = (finite(judged.get(k), where, k) for k in ("iqm", "low", "high", "max_over_training"))
    return Result(
        algorithm=field(record, "algorithm", str, where),
        env=field(record, "env", str, where),
        backend=field(record, "backend", str, where),
        steps=field(record, "steps", int, where),
        seeds=seeds,
        seconds={name: finite(seconds.get(name), where, name) for name in PHASES},
        iqm=iqm,
        low=low,
        high=high,
        per_seed=tuple(finite(v, where, "per_seed") for v in per_seed),
        episodes=field(judged, "episodes", int, where),
        max_over_training=best,
        reward_threshold=finite(record.get("reward_threshold"), where, "reward_threshold"),
        solved=solved if isinstance(solved, bool) else None,
        warnings=tuple(field({"warnings": text}, "warnings", str, where) for text in warnings),
    )


def summary(result: Result) -> list[tuple[str, str]]:
    """What a run came to, as (what, value) rows for a page or a terminal."""
    iqm, low, high, best = aligned([result.iqm, result.low, result.high, result.max_over_training])
    threshold = f"the threshold is {plain(result.reward_threshold)}"
    verdict = {True: f"yes, {threshold}", False: f"no, {threshold}", None: "no threshold is set"}[result.solved]
    rows = [
        ("Episode return", f"{iqm} ({interval(len(result.seeds), low, high)})"),
        ("Solved", verdict),
        ("Steps per seed", f"{result.steps:,}"),
        ("Seeds", f"{len(result.seeds)}"),
        ("Evaluation", f"{counted(result.episodes, 'episode')} per seed"),
        ("Run time", duration(result.seconds["run"])),
        ("Speed", rate(result.steps_per_second)),
    ]
    if not math.isnan(result.max_over_training):
        rows.insert(2, ("Best evaluation on the way", best))
    return rows


def field(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A required field of exactly this type (integers in [0, 2⁶³)); `FileError` names it otherwise."""
    value = record.get(name)
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
        raise FileError(
            f"{where}: `{name}` is {shorten(value)}, not a usable {kind.__name__}; restore it or train again"
        )
    return value


def seeds_of(record: dict[str, Any], where: str) -> tuple[int, ...]:
    """The field `seeds`."""
    seeds = field(record, "seeds", list, where)
    return tuple(field({"seeds": seed}, "seeds", int, where) for seed in seeds)
