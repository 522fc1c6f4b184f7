"""What the commands share: words into flags, mistakes into one line."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from ridgeline.cli.usage import USAGE
from ridgeline.errors import UsageError


def nearest(word: str, known: list[str]) -> str:
    """What to do about a word that is not known."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def parse[Flags](kind: type[Flags], default: Flags, program: str, words: list[str]) -> Flags:
    """Flags of a dataclass, its nested records flattened. A mistake is a `UsageError` of one line.

    Where two records have a field of one name, that of the inner one is `--replay.batch-size`.
    """
    import tyro

    said = io.StringIO()
    wants_help = any(word in ("-h", "--help") for word in words)
    try:
        with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=program,
                default=default,
                args=words,
                config=(tyro.conf.SuppressFixed, *([tyro.conf.OmitArgPrefixes] if _are_apart(default) else [])),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_first_sentence(said.getvalue()) + f" ({program} --help lists all)") from None


def _are_apart(record: Any) -> bool:
    """Whether no two fields of a record and of those inside it have the same name."""
    names: list[str] = []

    def collect(record: Any) -> None:
        for field in dataclasses.fields(record):
            inner = getattr(record, field.name)
            if dataclasses.is_dataclass(inner):
                collect(inner)
            else:
                names.append(field.name)

    collect(record)
    return len(set(names)) == len(names)


def _first_sentence(box: str) -> str:
    """What a framed message of the parser says, in one line: its text up to the first rule, and the near match."""
    rows = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line).strip() for line in box.splitlines()]
    joined = " ".join("\n" if set(row) <= set("─╭╮╰╯-+ ") else row for row in rows[1:])
    text, *rest = [part for part in joined.split("\n") if part.strip()]
    near = re.search(r"Perhaps you meant: +(--[\w-]+)", " ".join(rest))
    return " ".join(text.split()) + (f": did you mean {near[1]}?" if near else "")


def positionals(words: list[str], names: Sequence[str], program: str) -> tuple[list[str], list[str]]:
    """The first words, as many as `names`, and the others. Raises `UsageError` where one is missing."""
    found = []
    for name in names:
        if not words or words[0].startswith("-"):
            if "-h" in words or "--help" in words:
                print(USAGE)
                sys.exit(0)
            raise UsageError(f"{program} needs {name}: {program} {' '.join(names)}")
        found.append(words[0])
        words = words[1:]
    return found, words


def peek(words: list[str], flag: str) -> str | None:
    """The value of a flag that is needed before the others can be parsed."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def parse_seeds(text: str) -> tuple[int, ...]:
    """10 → 0 … 9; 3,5,8 → those; 20:30 → 20 … 29; a trailing comma makes one seed: 7, → 7."""
    try:
        if ":" in text:
            low, high = text.split(":")
            return tuple(range(int(low), int(high)))
        if "," in text:
            return tuple(int(word) for word in text.split(",") if word.strip())
        count = int(text)
    except ValueError:
        raise UsageError(f"seeds {text!r}: give how many (10), or which (3,5,8 or 20:30)") from None
    if not 1 <= count <= 100_000:
        raise UsageError(f"seeds {text!r}: that many cannot be trained; a single seed 7 is written 7,")
    return tuple(range(count))


def seconds(text: str | None) -> float | None:
    """What follows --env-timeout; None where nothing does."""
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UsageError(
            f"env_timeout is {text!r}: it must be a number of seconds, or 0 to wait for ever"
        ) from None
