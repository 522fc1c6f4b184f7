"""Run the properties and print what they came to."""

import importlib
import pkgutil
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ridgeline.algorithms import REGISTRY
from ridgeline.errors import UsageError
from ridgeline.theory import properties
from ridgeline.theory.own import properties_of_own
from ridgeline.theory.property import EVERY, PROPERTIES, Outcome, Property

_WIDTH = 240  # of a table that is not shown on a terminal, so that no line is broken


def all_properties() -> list[Property]:
    """Every property there is, by its number."""
    for module in pkgutil.iter_modules(properties.__path__):
        importlib.import_module(f"{properties.__name__}.{module.name}")
    return [PROPERTIES[number] for number in sorted(PROPERTIES)]


def properties_of(system: str | None) -> list[Property]:
    """Those that concern a system, or all. Raises `UsageError` where no property names it."""
    found = all_properties()
    if system is None:
        return found
    known = sorted({*REGISTRY} | {name for p in found if p.systems != EVERY for name in p.systems})
    if system not in known:
        raise UsageError(f"no system {system!r}: there are {', '.join(known)}; your own is module:Class")
    return [p.of(system) for p in found if p.concerns(system)]


def verify(system: str | None, full: bool) -> int:
    """Prove a system, all of them, or `module:Class` of the user's. 0 if every property holds, 4 otherwise."""
    if system is None or ":" not in system:
        return report(p.run(full) for p in properties_of(system))
    found, missing = properties_of_own(system)
    code = report(p.run(full) for p in found)
    for text in missing:
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return code


def report(outcomes: Iterable[Outcome]) -> int:
    """Print a row for each outcome and how many hold; the exit code."""
    console, watching = Console(), Console(stderr=True)
    console = console if console.is_terminal else Console(width=_WIDTH)
    table = Table(box=None, pad_edge=False)
    for name in ("#", "property", "systems", "worst measure", "error", "tolerance", "reference", "", "s"):
        table.add_column(name, justify="right" if name in ("error", "tolerance", "s") else "left")
    held = count = 0
    with watching.status("measuring"):
        for outcome in outcomes:
            row, worst = outcome.proven, outcome.worst
            held, count = held + outcome.ok, count + 1
            table.add_row(
                str(row.number),
                row.title,
                ", ".join(row.systems),
                worst.name,
                f"{worst.error:.1e}",
                f"{worst.tolerance:.1e}",
                row.reference,
                Text("ok", style="green") if outcome.ok else Text("FAILED", style="bold red"),
                f"{outcome.seconds:.1f}",
            )
    console.print(table)
    console.print(f"{held} of {count}", highlight=False)
    return 0 if held == count else 4
