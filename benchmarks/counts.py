"""What the compiled work consists of: a measure of speed that is the same on every run, so a test can hold it.

    python -m benchmarks.counts      # counts, and writes benchmarks/results/counts.json

Each piece of work of `benchmarks.speed` is compiled, not run, and the program is read, for an iteration of one
seed and for what a chunk with all its intervals costs beside them: *operations* that are dispatched one by one (a
fused loop is one), matrix *products*, and bytes that are *copied* from one buffer to another. Loops count as often
as they go round; of branches the largest counts, which is the one that learns.
"""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.speed.work import WORKS, Work

RESULTS = Path(__file__).parent / "results" / "counts.json"
# What takes no time of its own: names, views and constants.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "call", "while", "conditional"}
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8, "f64": 8}
HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][a-z\-]*)\((.*)$")
CALLED = re.compile(r"(?:to_apply|body|calls)=%?([\w.\-]+)")
BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Counts(NamedTuple):
    """What one seed's part of a program does."""

    operations: int = 0
    products: int = 0
    copied_bytes: int = 0

    def plus(self, other: "Counts", times: int = 1) -> "Counts":
        """These and `times` the others."""
        return Counts(*(a + times * b for a, b in zip(self, other, strict=True)))


def count(program: str, iterations: int) -> Counts:
    """The counts of a compiled program, from XLA's text of it; loops of unknown length go round so often."""
    parts: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if header := HEADER.match(line):
            name = header[1]
            entry = name if line.startswith("ENTRY") else entry
            parts[name] = []
        elif name:
            parts[name].append(line)
    known: dict[str, Counts] = {}

    def of(name: str, fused: bool = False) -> Counts:
        if name not in known:
            total = Counts()
            for line in parts[name]:
                if found := INSTRUCTION.match(line):
                    total = total.plus(*one(found[1], found[2], found[3]))
            known[name] = total
        # One kernel: what it consists of is no operation of its own, but its products are products.
        return Counts(1, known[name].products, 0) if fused else known[name]

    def one(shape: str, kind: str, rest: str) -> tuple[Counts, int]:
        called = CALLED.search(rest)
        if kind == "while" and called:
            trips = TRIPS.search(rest)
            return of(called[1]), int(trips[1]) if trips else iterations
        if kind == "conditional" and (branches := BRANCHES.search(rest)):
            names = [x.strip().lstrip("%") for x in (branches[1] or f"{branches[2]},{branches[3]}").split(",")]
            return max(map(of, names)), 1
        if kind in ("call", "fusion") and called:
            return of(called[1], fused=kind == "fusion" or "xla_cpu_small_call" in rest), 1
        copied = size(shape) if kind == "copy" else 0
        return Counts(int(kind not in FREE), int(kind == "dot"), copied), 1

    return of(entry)


def size(shape: str) -> int:
    """Bytes of an array, from XLA's text of its shape."""
    kind, sides = re.match(r"(\w+)\[([\d,]*)\]", shape).groups()  # type: ignore[union-attr]
    return WIDTHS.get(kind, 4) * math.prod(int(side) for side in sides.split(",") if side)


def counts_of(work: Work) -> dict[str, Counts]:
    """Compile what trains one seed, and count."""
    from ridgeline.environments import make
    from ridgeline.training.compiled import begin, chunk
    from ridgeline.training.devices import seed_mesh
    from ridgeline.training.layout import layout_of
    from ridgeline.training.runner import prepare
    from ridgeline.training.summary import MOST_INTERVALS

    record: Any = prepare(work.record())
    env, mesh = make(work.env), seed_mesh(1)
    lanes = jax.eval_shape(partial(begin, mesh=mesh), record, env, np.zeros(1, np.uint32))
    ends = np.zeros(MOST_INTERVALS, np.int32)
    fixed, together = jax.tree.flatten((record, env))
    lanes, state = jax.tree.flatten(lanes)
    layout, ones = layout_of(together, state, env.spec), np.ones(1, np.int32)
    lowered = chunk.lower(fixed, lanes, ones, np.int32(0), ends, np.float32(1), layout=layout, mesh=mesh)
    program = lowered.compile().as_text()
    beside = count(program, 0)
    # The loop over iterations stands in that over intervals.
    each = count(program, 1).plus(beside, -1)
    return {"iteration": Counts(*(x // MOST_INTERVALS for x in each)), "chunk": beside}


def compiled_works() -> list[str]:
    """The pieces of work that run as one program, each once."""
    return [name for name, work in WORKS.items() if work.backend is None and work.seeds == 1]


def main() -> None:
    works = {}
    for name in compiled_works():
        found = counts_of(WORKS[name])
        works[name] = {part: counts._asdict() for part, counts in found.items()}
        print(name, *(f"{part} {counts}" for part, counts in found.items()), sep="\n  ")
    RESULTS.write_text(json.dumps({"jax": jax.__version__, "works": works}, indent=1) + "\n")


if __name__ == "__main__":
    main()
