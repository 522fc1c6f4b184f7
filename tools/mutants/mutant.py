"""A mutant: one place of a file of `src/ridgeline`, what stands there instead, and the tests that must notice."""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Mutant:
    """`new` in place of `old`, which begins at a byte of a file; `tests` are arguments of pytest."""

    name: str
    file: str
    start: int
    old: bytes
    new: bytes
    tests: str
    fault: str

    def text(self, source: Path) -> bytes:
        """The file with the fault."""
        text, end = (source / "ridgeline" / self.file).read_bytes(), self.start + len(self.old)
        if text[self.start : end] != self.old:
            raise Stale(f"{self.name}: {self.file} has changed since this began; begin again")
        mutated = text[: self.start] + self.new + text[end:]
        ast.parse(mutated)  # code that cannot be read at all would count as noticed
        return mutated

    def apply(self, source: Path) -> None:
        """Put the fault into a copy of the code."""
        (source / "ridgeline" / self.file).write_bytes(self.text(source))


class Stale(Exception):
    """The code has changed, and a mutant says nothing of it any more."""


def replacement(name: str, file: str, old: str, new: str, tests: str, fault: str) -> Mutant:
    """The mutant that has `new` where the file says `old`, which it must say once."""
    text, wanted = (SOURCE / "ridgeline" / file).read_bytes(), old.encode()
    if text.count(wanted) != 1:
        raise Stale(f"{name}: {file} says {text.count(wanted)} times {old!r}; mend tools/mutants/chosen.py")
    return Mutant(name, file, text.index(wanted), wanted, new.encode(), tests, fault)
