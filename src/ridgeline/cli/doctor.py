"""What this machine has, and whether JAX computes rightly."""

import dataclasses

from ridgeline.cli import devices
from ridgeline.cli.words import parse


def run(words: list[str]) -> int:
    """What this machine has, and whether JAX computes rightly."""
    nothing = dataclasses.make_dataclass("Doctor", [])
    parse(nothing, nothing(), "ridgeline doctor", words)
    devices.use_all_cores(None)
    from ridgeline.experiments.doctor import examine

    return examine()
