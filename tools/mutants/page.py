"""The results of a whole run, as data and as a page."""

import json
from collections import Counter
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


def write(docs: Path, mutants: list[Mutant], verdicts: list[Verdict], arguments: dict[str, str]) -> None:
    """docs/mutants.json and docs/mutants.md."""
    by_name = {v.mutant.name: v for v in verdicts}
    rows = [
        {
            "name": m.name,
            "kind": "operator" if m.fault == "operator" else "chosen",
            "file": m.file,
            "noticed_by": by_name[m.name].noticed_by or None,
            **({} if by_name[m.name].noticed_by else {"argument": arguments.get(m.name)}),
        }
        for m in mutants
    ]
    (docs / "mutants.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    lines = [HEAD]
    lines += [
        f"{len(rows)} mutants, {sum(bool(r['noticed_by']) for r in rows)} noticed; "
        f"{sum(v.seconds for v in verdicts) / len(verdicts):.1f} s each, two at once."
    ]
    lines += ["", "## Chosen", "", "| mutant | file | the fault | noticed by |", "|---|---|---|---|"]
    for m in mutants:
        if m.fault != "operator":
            test = by_name[m.name].noticed_by.split("::")[-1]
            lines.append(
                f"| {m.name} | `{m.file}` | {m.fault} | {_code(test) if test else 'nothing: see below'} |"
            )
    lines += ["", "## Operators", "", "| file | function | mutants | noticed |", "|---|---|---|---|"]
    made, seen = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in rows:
        if row["kind"] == "operator":
            file, function, _ = str(row["name"]).split(":", 2)
            made[file, function] += 1
            seen[file, function] += bool(row["noticed_by"])
    lines += [f"| `{file}` | `{f}` | {made[file, f]} | {seen[file, f]} |" for file, f in made]
    lines += ["", "## Survivors", "", "| mutant | why it may |", "|---|---|"]
    lines += [f"| {_code(str(r['name']))} | {r['argument']} |" for r in rows if not r["noticed_by"]]
    (docs / "mutants.md").write_text("\n".join(lines) + "\n")
