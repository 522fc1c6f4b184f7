"""Name algorithms and environments."""

import dataclasses
from collections.abc import Sequence

from ridgeline.cli.words import parse


def run(words: list[str]) -> int:
    """Name algorithms and environments."""
    nothing = dataclasses.make_dataclass("List", [])
    parse(nothing, nothing(), "ridgeline list", words)
    from ridgeline.algorithms import REGISTRY
    from ridgeline.environments import ids

    print("algorithms")
    for name, kind in REGISTRY.items():
        print(f"  {name:6} {(kind.__doc__ or '').split('. ')[0].rstrip('.')}")
    for backend, names in ids().items():
        native = backend == "jax"
        print(f"\nenvironments: {backend}" + (" (compiled with the algorithm)" if native else f" ({len(names)})"))
        shown = names if native else sorted(n for n in names if "/" not in n)
        print(_columns(shown))
    print("\nand any Gymnasium environment of yours: ridgeline train ppo module:Id")
    return 0


def _columns(names: Sequence[str], most: int = 60) -> str:
    import textwrap

    more = f", … {len(names) - most} more" if len(names) > most else ""
    return textwrap.fill(", ".join(names[:most]) + more, 100, initial_indent="  ", subsequent_indent="  ")
