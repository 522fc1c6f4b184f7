"""Go on with a run that was stopped or killed."""

import dataclasses
import os
import sys
from pathlib import Path

from ridgeline.cli import devices
from ridgeline.cli.words import parse, peek, positionals


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """How the run goes on."""

    steps: int | None = None  # extend it to so many environment steps for each seed; as many as it was to have
    env_timeout: float = 60.0  # seconds that a call of a host environment may take; 0 for ever
    device: str | None = None  # cpu, gpu or tpu; what JAX prefers
    allow_import: bool = False  # import the module of an environment of your own, which the run's file names
    compile_cache: bool = True  # keep what is compiled for the next run
    quiet: bool = False  # print only the result


def run(words: list[str]) -> int:
    """Go on with a run that was stopped or killed."""
    (name,), rest = positionals(words, ("RUN",), "ridgeline resume")
    devices.use_all_cores(peek(rest, "--device"))
    flags = parse(ResumeFlags, ResumeFlags(), "ridgeline resume RUN", rest)
    import ridgeline

    ridgeline.start  # noqa: B018  (imports what training needs, and times it)
    from ridgeline.experiments.finished import Run
    from ridgeline.experiments.progress import show, show_finished
    from ridgeline.experiments.run import is_finished, take_up

    folder = Path(name) if Path(name).is_dir() else Path("runs") / name
    if is_finished(folder, flags.steps):
        show_finished(Run(folder))
        return 0
    sys.path.insert(0, os.getcwd())  # so that module:Id finds a file beside the user
    training = take_up(
        folder,
        steps=flags.steps,
        allow_import=flags.allow_import,
        env_timeout=flags.env_timeout,
        compile_cache=flags.compile_cache,
        arrange=True,
    )
    show(training, flags.quiet)
    return 0
