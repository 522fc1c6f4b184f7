"""Tests run against mutants: a fork of this process for each, where JAX is imported but computed nothing."""

import ast
import contextlib
import hashlib
import importlib
import json
import os
import resource
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.mutants.mutant import ROOT, SOURCE, Mutant

LIMIT = 120  # seconds of computing, after which a mutant counts as noticed: it made the tests hang
HEAVY = "beartype.claw equinox gymnasium hypothesis.extra.numpy jaxtyping optax pytest rich scipy.stats tyro"
CACHE = ROOT / ".mutants"  # compilations of the unchanged code; mutants read them and write none


@dataclass(frozen=True)
class Verdict:
    """What the tests said: the first that failed, '' where all passed."""

    mutant: Mutant
    noticed_by: str
    seconds: float
    output: str


def prepare() -> None:
    """Import what every test needs, but nothing of ours; no computation, so that a fork has one thread."""
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # most time is compiling
    os.environ |= {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": quick}
    os.chdir(ROOT)
    for name in HEAVY.split():
        importlib.import_module(name)
    import hypothesis
    import jax

    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutants")


class Kept:
    """Verdicts of earlier runs, good while the mutated file and the test that noticed (else all) are the same."""

    def __init__(self, again: bool) -> None:
        self.path = CACHE / "verdicts.json"
        self.again = again
        self.found = json.loads(self.path.read_text()) if self.path.exists() else {}

    def verdict(self, mutant: Mutant) -> "Verdict | None":
        """The verdict on a mutant, where there is one and none is asked for again."""
        noticed_by, seconds, by = self.found.get(self._key(mutant), ("", 0.0, None))
        known = by == self._tests(mutant, noticed_by) and not self.again
        return Verdict(mutant, noticed_by, seconds, "") if known else None

    def keep(self, verdict: "Verdict") -> None:
        """Keep a verdict for the next run."""
        by = self._tests(verdict.mutant, verdict.noticed_by)
        self.found[self._key(verdict.mutant)] = [verdict.noticed_by, verdict.seconds, by]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.found))

    @staticmethod
    def _key(mutant: Mutant) -> str:
        file = (SOURCE / "ridgeline" / mutant.file).read_bytes()
        return _hash(file, mutant.tests.encode(), str(mutant.start).encode(), mutant.old, mutant.new)

    @staticmethod
    def _tests(mutant: Mutant, noticed_by: str) -> str:
        """What was asked, in short: the function that noticed, else the files of all tests."""
        path, _, name = noticed_by.partition("::")
        if name:
            for node in ast.parse(text := (ROOT / path).read_text()).body:
                if isinstance(node, ast.FunctionDef) and node.name == name.split("[")[0]:
                    return _hash((ast.get_source_segment(text, node) or "").encode())
        files = [ROOT / word for word in shlex.split(mutant.tests) if word.endswith(".py")]
        return _hash(*(file.read_bytes() for file in files))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class First:
    """A plugin of pytest that keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: object) -> None:
        """A test failed, or what it stands on did."""
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: object) -> None:
        """A file of tests could not even be read."""
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (import)"


def pytest_main(source: Path, tests: str, output: Path, plugins: list[object]) -> int:
    """In a fork: pytest against a copy of the code."""
    import pytest

    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)
    options = ["-x", "-n0", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
    known = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported before the fork
    known += ["-W", "ignore:Error reading persistent compilation cache"]  # one half written: compile again
    return int(pytest.main([*options, *known, *shlex.split(tests)], plugins=plugins))


def answer(source: Path, tests: str, cached: bool, output: Path) -> str:
    """In a fork: the tests against a copy of the code; the first that failed, '' if none did."""
    import jax

    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9 if cached else 0.0)
    first = First()
    code = pytest_main(source, tests, output, [first])
    ours = sys.modules["ridgeline"].__file__ if "ridgeline" in sys.modules else None
    if ours is not None and not ours.startswith(str(source)):
        return f"ERROR: tested {ours}"
    if code in (3, 4, 5) and not first.name:
        return f"ERROR: pytest ended with {code}, see {output}"
    return first.name or ("" if code == 0 else f"exit {code}")


def base(folder: Path) -> None:
    """A copy of the code with the bytecode that the tests' import hook makes, which mutants then only read."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    pid = os.fork()
    if pid == 0:
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = False
        importlib.import_module("jaxtyping").install_import_hook("ridgeline", "beartype.beartype")
        for file in sorted(folder.rglob("*.py")):
            with contextlib.suppress(Exception):  # what is slower to read is no fault
                importlib.import_module(".".join(file.relative_to(folder).with_suffix("").parts))
        os._exit(0)
    os.waitpid(pid, 0)


def run(mutants: Iterable[Mutant], workers: int, cached: bool = True) -> Iterator[Verdict]:
    """The verdicts on mutants, in the order in which they come."""
    waiting, running = list(mutants)[::-1], {}
    with tempfile.TemporaryDirectory() as folder:
        base(Path(folder) / "base")
        while waiting or running:
            while waiting and len(running) < workers:
                mutant = waiting.pop()
                place = Path(tempfile.mkdtemp(dir=folder))
                shutil.copytree(Path(folder) / "base", place / "src")
                mutant.apply(place / "src")
                pid = os.fork()
                if pid == 0:
                    try:
                        said = answer(place / "src", mutant.tests, cached, place / "output")
                    except BaseException as error:
                        said = f"ERROR: {error!r}"
                    (place / "said").write_text(said)
                    os._exit(0)
                running[pid] = (mutant, place, time.monotonic())
            pid, status = os.wait()
            mutant, place, since = running.pop(pid)
            said = (place / "said").read_text() if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"
            output = (place / "output").read_text() if (place / "output").exists() else ""
            if said.startswith("ERROR"):
                raise RuntimeError(f"{mutant.name}: {said}\n{output[-3000:]}")
            yield Verdict(mutant, said, time.monotonic() - since, output)
            shutil.rmtree(place)
