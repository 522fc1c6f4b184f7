"""Play greedy episodes with a run's policies."""

import dataclasses
import os
import sys
from pathlib import Path

from ridgeline.cli import devices
from ridgeline.cli.words import parse, positionals
from ridgeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """How a run's policies are judged."""

    episodes: int = 100  # greedy episodes of each seed's policy
    seed: int = 2_000_003  # decides the starts, the same for every policy
    env: str | None = None  # another environment with the same spaces; the run's own
    backend: str | None = None  # as in train


def run(words: list[str]) -> int:
    """Play greedy episodes with a run's policies."""
    (folder,), rest = positionals(words, ("RUN",), "ridgeline evaluate")
    flags = parse(EvaluateFlags, EvaluateFlags(), "ridgeline evaluate RUN", rest)
    devices.use_all_cores(None)
    from ridgeline.experiments.finished import Run
    from ridgeline.experiments.progress import show_evaluation

    path = Path(folder) if Path(folder).exists() else Path("runs") / folder
    if not path.is_dir():
        raise UsageError(f"no run {folder!r}, neither as a folder nor in runs/")
    if flags.episodes < 1:
        raise UsageError(f"episodes is {flags.episodes}: it must be at least 1")
    sys.path.insert(0, os.getcwd())
    show_evaluation(Run(path), flags.env, flags.backend, flags.episodes, flags.seed)
    return 0
