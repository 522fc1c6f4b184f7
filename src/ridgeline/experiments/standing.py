"""Where a run stands by its checkpoint: its position, what it remembers, how far its rows go."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from ridgeline.errors import FileError, short
from ridgeline.experiments.checkpoint import Checkpoint
from ridgeline.experiments.config import require
from ridgeline.training.loop import Position

# The fields of a manifest, and of the objects in it, each of one of these types.
MANIFEST: dict[str, Any] = {
    "run": str,
    "parent": str | None,
    "steps": int,
    "fingerprint": dict,
    "config": dict,
    "position": dict,
    "metrics": dict,
    "facts": dict,
}
POSITION: dict[str, Any] = {
    "done": int,
    "judged": int,
    "seconds": float | int,
    "taken": list,
    "diverged": list,
    "summary": dict | None,
    "rows": list,
    "training": float | int,
}
ROW: dict[str, Any] = {"steps": int, "seed": int, "rollout/ep_rew_mean": float | None}
METRICS: dict[str, Any] = {"bytes": int, "sha256": str}
FACTS: dict[str, Any] = {
    "best": float | None,
    "best_of_seeds": list,
    "warnings": list,
    "rollbacks": int,
    "resumed": list,
}


@dataclasses.dataclass
class Facts:
    """What a run remembers of itself, beside its position: it goes into every checkpoint."""

    best: float | None = None  # the best IQM of an evaluation on the way
    best_of_seeds: list[float] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    rollbacks: int = 0
    resumed: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Standing(NamedTuple):
    """What `standing` reads."""

    position: Position
    facts: Facts
    mark: dict[str, Any]  # of metrics.jsonl


def standing(checkpoint: Checkpoint, num_seeds: int) -> Standing:
    """Where the run of so many seeds stood; `FileError` where the manifest is none that a run writes."""
    found, where = checkpoint.facts, str(checkpoint.folder / "manifest.json")
    require(found, MANIFEST, where)
    require(found["position"], POSITION, where)
    require(found["metrics"], METRICS, where)
    require(found["facts"], FACTS, where)
    try:
        position, facts = Position.from_json(found["position"]), Facts(**found["facts"])
        shapes = {np.shape(x) for x in jax.tree.leaves((position.taken, position.summary))}
        if shapes != {(num_seeds,)}:
            raise ValueError(f"not of {num_seeds} seeds")
        if not 0 <= position.judged <= position.done or found["metrics"]["bytes"] < 0:
            raise ValueError("a count is below 0, or more was judged than done")
        if position.judged < position.done and position.summary is None and not position.rows:
            raise ValueError("what was done is not summed up")
        if len(position.rows) % num_seeds:
            raise ValueError("rows that wait are not one a seed")
        for row in position.rows:
            require(row, ROW, where)
            for name, value in row.items():
                if not isinstance(value, float | int | None) or (isinstance(value, int) and abs(value) >= 2**63):
                    raise ValueError(f"{short(name)} of a row that waits is {short(value)}")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise FileError(
            f"{where}: not where a run may stand ({short(error)}): restore it, or train again"
        ) from error
    return Standing(position, facts, found["metrics"])
