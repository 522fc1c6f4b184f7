"""The results of a whole run, as data and as a page."""

import datetime
import itertools
import json
from pathlib import Path

from tools.mutants.mutant import Mutant
from tools.mutants.run import Verdict

HEAD = """# Mutants

A test that cannot fail proves nothing. `python -m tools.mutants` puts one fault at a time into a copy of the code
and runs the tests that should notice; CI runs a sample. Chosen mutants (`tools/mutants/chosen.py`) are the faults
that reinforcement learning is known for. Operator mutants are made from the syntax tree of the functions in
`tools/mutants/targets.py`: every sign, comparison, constant, dropped term, exchanged branch and exchanged call.
One that survives fails the run, unless `tools/mutants/survivors.json` says why it may.

Written by `uv run python -m tools.mutants`; raw data in [mutants.json](mutants.json).
"""


def _code(text: str) -> str:
    return "`` " + text.replace("|", "\\|") + " ``"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def write(docs: Path, mutants: list[Mutant], verdicts: list[Verdict], arguments: dict[str, str]) -> None:
    """docs/mutants.json and docs/mutants.md; what there is no verdict on is said to be so."""
    by_name = {v.mutant.name: v for v in verdicts}
    chosen, operators = ([m for m in mutants if (m.fault == "operator") is of_tree] for of_tree in (False, True))

    def result(m: Mutant) -> str:
        if m.name not in by_name:
            return "not run"
        return by_name[m.name].noticed_by or f"survives: {arguments.get(m.name, 'WITHOUT AN ARGUMENT')}"

    def counts(some: list[Mutant]) -> tuple[int, int, int]:
        run = [by_name[m.name] for m in some if m.name in by_name]
        return len(some), len(run), sum(bool(v.noticed_by) for v in run)

    rows = [{"name": m.name, "kind": "operator" if m in operators else "chosen", "file": m.file} for m in mutants]
    data = (
        json.dumps(row | {"result": result(m)}, ensure_ascii=False) for row, m in zip(rows, mutants, strict=True)
    )
    (docs / "mutants.json").write_text("[\n" + ",\n".join(data) + "\n]\n")

    seconds = sum(v.seconds for v in verdicts) / max(1, len(verdicts))
    lines = [HEAD, f"{datetime.date.today()}, {seconds:.1f} s each.", ""]
    lines += ["| | made | run | noticed |", "|---|---|---|---|"]
    lines += [_row(name, *counts(some)) for name, some in (("chosen", chosen), ("operators", operators))]
    lines += ["", "## Chosen", "", "| mutant | file | the fault | noticed by |", "|---|---|---|---|"]
    for m in chosen:
        lines.append(f"| {m.name} | `{m.file}` | {m.fault} | {_code(result(m).split('::')[-1])} |")
    lines += ["", "## Operators", "", "| file | function | made | run | noticed |", "|---|---|---|---|---|"]
    functions = itertools.groupby(operators, lambda m: tuple(m.name.split(":", 2)[:2]))
    lines += [_row(f"`{file}`", f"`{function}`", *counts(list(some))) for (file, function), some in functions]
    missing = dict.fromkeys(f"`{':'.join(m.name.split(':', 2)[:2])}`" for m in operators if m.name not in by_name)
    if missing:
        lines += ["", f"Not run, or not all of it: {', '.join(missing)}."]
    lines += ["", "## Survivors", "", "| mutant | why it may |", "|---|---|"]
    survivors = [m for m in mutants if m.name in by_name and not by_name[m.name].noticed_by]
    lines += [f"| {_code(m.name)} | {result(m).removeprefix('survives: ')} |" for m in survivors]
    (docs / "mutants.md").write_text("\n".join(lines) + "\n")
