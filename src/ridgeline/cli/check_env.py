"""Whether an environment keeps its promises, and what to train on it."""

import dataclasses
import os
import sys

from ridgeline.cli import devices
from ridgeline.cli.words import parse, positionals


@dataclasses.dataclass(frozen=True)
class CheckFlags:
    """How an environment is checked: by episodes of random actions."""

    episodes: int = 20  # how many are played, each cut after 1,000 steps
    backend: str | None = None  # as in train
    env_timeout: float = 60.0  # seconds that a call of a host environment may take; 0 for ever


def run(words: list[str]) -> int:
    """Check one environment; the exit code is that of the first thing that makes it unusable."""
    (env,), rest = positionals(words, ("ENVIRONMENT",), "ridgeline check-env")
    flags = parse(CheckFlags, CheckFlags(), "ridgeline check-env ENVIRONMENT", rest)
    devices.use_all_cores(None)
    from ridgeline.experiments.check_env import check
    from ridgeline.experiments.interrupts import Interrupts

    sys.path.insert(0, os.getcwd())  # so that module:Id finds a file beside the user
    with Interrupts():
        check(env, flags.backend, flags.episodes, flags.env_timeout)
    return 0
