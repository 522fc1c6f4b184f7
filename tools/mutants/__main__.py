"""Put faults into copies of the code and see the tests notice: docs/mutants.md.

uv run python -m tools.mutants                        # all of them; writes docs/mutants.json and docs/mutants.md
uv run python -m tools.mutants --sample 16 --seed 3   # so many, drawn at random; writes nothing, as does --only
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from tools.mutants.chosen import chosen
from tools.mutants.mutant import ROOT, Mutant, Stale
from tools.mutants.page import write
from tools.mutants.run import Verdict, prepare, run
from tools.mutants.targets import operators

ARGUMENTS = Path(__file__).with_name("survivors.json")


def clean(mutants: list[Mutant]) -> None:
    """The same tests pass on the code as it is; what it compiles is kept for the mutants."""
    same = {m.tests: Mutant("the code as it is", m.file, 0, b"", b"", m.tests, "none") for m in mutants}
    for verdict in run(same.values(), workers=1, cached=False):
        if verdict.noticed_by:
            raise RuntimeError(f"without any mutant, pytest {verdict.mutant.tests}:\n{verdict.output[-3000:]}")


def select(options: argparse.Namespace) -> list[Mutant]:
    """The mutants asked for."""
    every = options.chosen == options.operators
    mutants = [
        *(chosen() if every or options.chosen else ()),
        *(operators() if every or options.operators else ()),
    ]
    mutants = [m for m in mutants if options.only in m.name]
    if options.sample is None:
        return mutants
    return random.Random(options.seed).sample(mutants, min(options.sample, len(mutants)))


def main() -> int:
    """Exit code 1 where a mutant survives that nobody has argued for."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chosen", action="store_true", help="only the chosen ones")
    parser.add_argument("--operators", action="store_true", help="only those made from the syntax tree")
    parser.add_argument("--only", default="", metavar="TEXT", help="only those whose names contain it")
    parser.add_argument("--sample", type=int, metavar="N", help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the sample")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="how many at once")
    parser.add_argument("--list", action="store_true", help="say them and stop")
    options = parser.parse_args()
    try:
        mutants = select(options)
    except Stale as error:
        print(error)
        return 2
    if options.list:
        print(*(m.name for m in mutants), sep="\n")
        return 0
    begun, arguments = time.monotonic(), json.loads(ARGUMENTS.read_text())
    prepare()
    if options.sample is None:
        clean(mutants)  # a sample is drawn where the tests have just passed
    verdicts: list[Verdict] = []
    for verdict in run(mutants, options.workers):
        verdicts.append(verdict)
        if not verdict.noticed_by:
            argument = arguments.get(verdict.mutant.name)
            print(f"survives: {verdict.mutant.name}\n  {argument or 'WITHOUT AN ARGUMENT'}", flush=True)
    unargued = [v for v in verdicts if not v.noticed_by and v.mutant.name not in arguments]
    noticed = {v.mutant.name for v in verdicts if v.noticed_by}
    whole = options.sample is None and not options.only and options.chosen == options.operators
    idle = sorted(
        name for name in arguments if name in noticed or (whole and name not in {m.name for m in mutants})
    )
    for name in idle:
        print(f"argued for in {ARGUMENTS.name}, but noticed or gone: {name}")
    seconds = time.monotonic() - begun
    print(
        f"{len(noticed)} of {len(verdicts)} mutants noticed, {len(unargued)} survive unargued, in {seconds:.0f} s"
    )
    if whole:
        write(ROOT / "docs", mutants, verdicts, arguments, seconds)
    return 1 if unargued or idle else 0


if __name__ == "__main__":
    sys.exit(main())
