"""Put faults into copies of the code and see the tests notice: docs/mutants.md.

uv run python -m tools.mutants                        # all of them; writes docs/mutants.json and docs/mutants.md
uv run python -m tools.mutants --chosen --page        # some of them; writes what is known of the others too
uv run python -m tools.mutants --sample 16 --seed 3   # so many, drawn at random; writes nothing, as does --only
"""

import argparse
import itertools
import json
import random
import sys
import time
from pathlib import Path

from tools.mutants.chosen import chosen
from tools.mutants.mutant import ROOT, Mutant, Stale
from tools.mutants.page import write
from tools.mutants.run import Kept, Verdict, prepare, run
from tools.mutants.targets import operators

ARGUMENTS = Path(__file__).with_name("survivors.json")


def clean(mutants: list[Mutant]) -> set[str]:
    """Which tests fail on the code as it is and so cannot judge; what the others compile is kept."""
    same = {m.tests: Mutant("the code as it is", m.file, 0, b"", b"", m.tests, "none") for m in mutants}
    broken = set()
    for verdict in run(same.values(), workers=1, cached=False):
        if verdict.noticed_by:
            print(f"fails without any mutant: pytest {verdict.mutant.tests}\n{verdict.output[-2000:]}", flush=True)
            broken.add(verdict.mutant.tests)
    return broken


def select(every: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """The mutants asked for."""
    both = options.chosen == options.operators
    wanted = [
        m
        for m in every
        if (both or options.operators == (m.fault == "operator"))
        and any(text in f"{m.file}: {m.name}" for text in options.only)
    ]
    if options.sample is None:
        return wanted
    return random.Random(options.seed).sample(wanted, min(options.sample, len(wanted)))


def main() -> int:
    """Exit code 1 where a mutant survives that nobody has argued for, 2 where the lists do not fit the code."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chosen", action="store_true", help="only the chosen ones")
    parser.add_argument("--operators", action="store_true", help="only those made from the syntax tree")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="only those whose names contain one"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the sample")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="how many at once")
    parser.add_argument("--again", action="store_true", help="also those whose file and tests have not changed")
    parser.add_argument("--page", action="store_true", help="write the page also where some have not been run")
    parser.add_argument("--list", action="store_true", help="say them and stop")
    options = parser.parse_args()
    begun, arguments = time.monotonic(), json.loads(ARGUMENTS.read_text())
    try:
        every = [*chosen(), *operators()]
    except Stale as error:
        print(error)
        return 2
    gone = sorted(arguments.keys() - {m.name for m in every})
    if gone:
        print("argued for, but no mutant any more:", *gone, sep="\n")
        return 2
    mutants = select(every, options)
    if options.list:
        print(*(m.name for m in mutants), sep="\n")
        return 0
    kept = Kept(options.again)
    known = [verdict for verdict in map(kept.verdict, mutants) if verdict]
    names = {verdict.mutant.name for verdict in known}
    rest = [m for m in mutants if m.name not in names]
    prepare()
    # A sample is drawn where the tests have just passed.
    broken = clean(rest) if options.sample is None else set()
    rest = [m for m in rest if m.tests not in broken]
    verdicts: list[Verdict] = []
    failed = bool(broken)
    for verdict in itertools.chain(known, run(rest, options.workers)):
        verdicts.append(verdict)
        kept.keep(verdict)
        name = verdict.mutant.name
        if not verdict.noticed_by:
            print(f"survives: {name}\n  {arguments.get(name, 'WITHOUT AN ARGUMENT')}", flush=True)
        elif name in arguments:
            print(f"noticed, although {ARGUMENTS.name} argues that it survives: {name}", flush=True)
        failed |= bool(verdict.noticed_by) == (name in arguments)
    seconds, noticed = time.monotonic() - begun, sum(bool(v.noticed_by) for v in verdicts)
    print(f"{noticed} of {len(verdicts)} mutants noticed, in {seconds:.0f} s")
    if options.page or len(verdicts) == len(every):
        write(ROOT / "docs", every, [v for v in map(Kept(again=False).verdict, every) if v], arguments)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
