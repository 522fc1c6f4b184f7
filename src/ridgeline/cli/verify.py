"""Prove a system, all of them, or one of your own."""

import dataclasses
import os
import sys

from ridgeline.cli import devices
from ridgeline.cli.words import parse


@dataclasses.dataclass(frozen=True)
class VerifyFlags:
    """How thoroughly a system is proven. Each row is a property: its worst error against a reference."""

    full: bool = False  # the long version: more random cases, twenty seeds for each probe


def run(words: list[str]) -> int:
    """Prove a system, all of them, or one of your own."""
    system = words[0] if words and not words[0].startswith("-") else None
    program = "ridgeline verify [SYSTEM]"
    flags = parse(VerifyFlags, VerifyFlags(), program, words[system is not None :])
    devices.use_all_cores(None)
    from ridgeline.experiments.compile_cache import keep_compilations
    from ridgeline.experiments.interrupts import Interrupts
    from ridgeline.theory.verify import verify

    sys.path.insert(0, os.getcwd())  # so that module:Class finds a file beside the user
    keep_compilations()
    with Interrupts():
        return verify(system, flags.full)
