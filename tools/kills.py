"""Runs that are killed at any moment and resumed end as those that were not: SIGKILL, again and again.

    uv run python -m tools.kills --count 200
    uv run python -m tools.kills --count 110 --begun

For each algorithm, on an environment in JAX and on one that is stepped from Python, a run that nothing disturbs
is the reference. Then runs of the same command are each killed (the whole process group, SIGKILL) at a random time
of the reference's duration, or with --begun of what is left of it after the first checkpoint, and resumed until
they are done; some resumed runs are killed too. At the end the arrays of the last checkpoint, the policies, the
final evaluation and the log rows (without their times) must be the reference's.

Every run is a line of docs/kills.json; docs/kills.md is written from them all. What is killed when is drawn from
the run's number, and another invocation goes on where the last one stopped. CI kills a few with --keep, which
writes nothing.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "kills.json", ROOT / "docs" / "kills.md"
AT_ONCE = 2
SECOND_KILL = 0.3  # how often a resumed run is killed too
PATIENCE = 600  # seconds; a run that takes longer hangs

SMALL = "--hidden 8 --evaluations 3 --evaluation-episodes 2 --final-episodes 3 --checkpoint-seconds 0.3"
MEMORY = "--capacity 2000 --batch-size 8 --warmup 100"
# Environment, flags, and steps in JAX and on a host: a few seconds beyond compiling.
ENTRIES: dict[str, tuple[str, str, int, int]] = {
    "pg": ("CartPole-v1", "", 100_000, 4_000),
    "vpg": ("CartPole-v1", "", 100_000, 4_000),
    "ppo": ("CartPole-v1", "", 60_000, 12_000),
    "trpo": ("Pendulum-v1", "", 60_000, 12_000),
    "dqn": ("CartPole-v1", MEMORY, 30_000, 6_000),
    "ac": ("CartPole-v1", MEMORY, 60_000, 6_000),
    "sac": ("Pendulum-v1", MEMORY, 15_000, 2_000),
    "ddpg": ("Pendulum-v1", MEMORY, 20_000, 2_000),
    "td3": ("Pendulum-v1", MEMORY, 20_000, 2_000),
    "naf": ("Pendulum-v1", MEMORY, 20_000, 2_000),
    "qsearch": ("Pendulum-v1", MEMORY, 10_000, 2_000),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """An algorithm on an environment that a backend steps."""

    algorithm: str
    backend: str

    @property
    def name(self) -> str:
        """As it is written in results."""
        return f"{self.algorithm} {self.backend}"

    def command(self, folder: Path) -> list[str]:
        """The words that train in a folder that does not exist yet."""
        env, more, compiled, hosted = ENTRIES[self.algorithm]
        steps, seeds = (compiled, "2") if self.backend == "jax" else (hosted, "7,")
        words = ["train", self.algorithm, env, "--backend", self.backend, "--steps", str(steps), "--seeds", seeds]
        return [*words, *SMALL.split(), *more.split(), "--out", str(folder.parent), "--run", folder.name]


CASES = [Case(name, backend) for name in ENTRIES for backend in ("jax", "gymnasium")]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run came to, in digests and numbers that another like it must have too."""

    arrays: str
    policies: dict[str, str]
    returns: list[float]
    rows: list[dict[str, Any]]

    def differences(self, other: "Outcome") -> list[str]:
        """Where another is not the same; means of rows may round otherwise, since sums were cut elsewhere."""
        exact = ("arrays", "policies", "returns")
        found = [name for name in exact if getattr(self, name) != getattr(other, name)]
        same = len(self.rows) == len(other.rows) and all(map(rows_agree, self.rows, other.rows))
        return found if same else [*found, "rows"]


def rows_agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two log rows are the same, up to the rounding of their means."""

    def close(x: Any, y: Any) -> bool:
        return x == y if x is None or y is None else math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-5)

    return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a if not name.startswith("time/"))


def outcome(folder: Path) -> Outcome:
    """What the finished run in a folder came to."""
    from ridgeline.experiments.checkpoint import Checkpoints

    checkpoint, skipped = Checkpoints(folder).latest()
    assert checkpoint is not None, folder
    assert not skipped, skipped
    arrays = hashlib.sha256()
    for name, array in sorted(checkpoint.arrays.items()):
        if name != "restored":  # it counts how often the run was resumed
            arrays.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    policies = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "policies").iterdir())
    }
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    returns = json.loads((folder / "result.json").read_text())["eval"]["per_seed"]
    return Outcome(arrays.hexdigest(), policies, returns, rows)


class Harness:
    """Runs commands in a work folder, with a compilation cache that all of them share."""

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(work / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.locks = {case: threading.Lock() for case in CASES}
        self.environment = os.environ | cache | {"JAX_PLATFORMS": "cpu"}

    def run(
        self, words: list[str], until: float = math.inf, begun: Path | None = None
    ) -> tuple[int | None, str, float]:
        """The exit code, what was said, and how long it took from `begun` on, which is awaited if it is given.

        The code is None where it was killed, `until` seconds after that.
        """
        log = self.work / f"log-{os.urandom(8).hex()}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "ridgeline.cli", *words],
                stdout=file,
                stderr=file,
                env=self.environment,
                cwd=self.work,
                start_new_session=True,  # a group of its own, environments' workers included
            )
            since = time.monotonic()
            if begun is not None:
                while not begun.exists() and process.poll() is None and time.monotonic() < since + PATIENCE:
                    time.sleep(0.005)
                since = time.monotonic()
            try:
                code: int | None = process.wait(min(until, PATIENCE))
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if until > PATIENCE:
                    raise RuntimeError(f"{words} hangs: {log.read_text()}") from None
        seconds = time.monotonic() - since
        said = log.read_text()
        log.unlink()
        return code, said, seconds

    def reference(self, case: Case) -> tuple[Outcome, float, float]:
        """The undisturbed run, its seconds, and those after its first checkpoint; found in the work folder."""
        with self.locks[case]:
            return self._reference(case)

    def _reference(self, case: Case) -> tuple[Outcome, float, float]:
        folder = self.work / "references" / case.name.replace(" ", "-")
        kept = folder.with_suffix(".json")
        if not (folder / "result.json").exists() or not kept.exists():
            seconds = []
            for begun in (None, None, first_checkpoint(folder)):  # the first fills the cache
                shutil.rmtree(folder, ignore_errors=True)
                code, said, took = self.run(case.command(folder), begun=begun)
                if code != 0:
                    raise RuntimeError(f"{case.name}: the reference ended with {code}: {said}")
                seconds.append(took)
            kept.write_text(json.dumps(seconds[1:]))
        whole, begun_seconds = json.loads(kept.read_text())
        return outcome(folder), whole, begun_seconds

    def kill(self, case: Case, number: int, begun: bool) -> dict[str, Any]:
        """One run that is killed and resumed until it is done, as a line of the results."""
        expected, whole, after_first = self.reference(case)
        draw = np.random.default_rng([number, *case.name.encode()])
        folder = self.work / f"killed-{number}-{case.name.replace(' ', '-')}"
        train, resume = case.command(folder), ["resume", str(folder)]
        kills: list[dict[str, Any]] = []
        code: int | None = None
        said = ""
        while True:
            words = resume if (folder / "config.json").exists() else train
            again = not kills or (len(kills) < 4 and draw.uniform() < SECOND_KILL)
            waits = begun and not kills
            after = float(draw.uniform(0, after_first if waits else whole)) if again else math.inf
            code, said, _ = self.run(words, after, first_checkpoint(folder) if waits else None)
            if code is None:
                kills.append({"after": round(after, 2), **where(folder)})
            elif code == 0 and not kills:
                shutil.rmtree(folder)  # it was done before its time came
            else:
                break
        line: dict[str, Any] = {"number": number, "case": case.name, "begun": begun, "kills": kills, "code": code}
        if code == 0:
            line["differs"] = expected.differences(outcome(folder))
            resumed = json.loads((folder / "result.json").read_text())["resumed"]
            line["resumed"] = [{"steps": each["steps"], "exact": each["exact"]} for each in resumed]
            if not line["differs"]:
                shutil.rmtree(folder)
        else:
            line["said"] = said[-2000:]
        return line


def first_checkpoint(folder: Path) -> Path:
    """What is there once a run has saved something."""
    return folder / "checkpoints" / "000001"


def where(folder: Path) -> dict[str, Any]:
    """What a killed run had written."""
    numbers = [path.name for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    stage = "checkpoint" if numbers else "begun" if (folder / "config.json").exists() else "nothing"
    return {"left": "finished" if (folder / "result.json").exists() else stage}


def is_good(line: dict[str, Any]) -> bool:
    """Whether the run ended as the reference did."""
    return line["code"] == 0 and not line["differs"]


def page(lines: list[dict[str, Any]], machine: str) -> str:
    """The table of all kills, in Markdown."""
    names = ["algorithm", "backend", "environment", "runs", "equal", "kills", "saved", "resumed", "exactly"]
    table = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    total: Counter[str] = Counter()
    for case in CASES:
        mine = [line for line in lines if line["case"] == case.name]
        if not mine:
            continue
        kills = [kill for line in mine for kill in line["kills"]]
        resumed = [each for line in mine for each in line.get("resumed", [])]
        counts = {
            "runs": len(mine),
            "equal": sum(map(is_good, mine)),
            "kills": len(kills),
            "saved": sum(kill["left"] == "checkpoint" for kill in kills),
            "resumed": len(resumed),
            "exact": sum(each["exact"] for each in resumed),
        }
        total.update(counts)
        cells = " | ".join(str(value) for value in counts.values())
        table.append(f"| {case.algorithm} | {case.backend} | {ENTRIES[case.algorithm][0]} | {cells} |")
    table.append(f"| **all** | | | {' | '.join(f'**{value}**' for value in total.values())} |")
    dates = sorted({line["date"] for line in lines})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return HEAD + "\n".join(table) + f"\n\n{machine}; {when}.\n"


HEAD = """\
# Kills

A run that is killed at any moment and resumed ends as if it had not been. This page is written by

```sh
uv run python -m tools.kills --count 200
uv run python -m tools.kills --count 110 --begun
```

For each algorithm and backend a run that nothing disturbs is the reference. Runs of the same command, with a
checkpoint every 0.3 s, are killed with SIGKILL, the whole process group at once, at a time drawn uniformly from
the reference's duration (importing and compiling are most of it) or, with `--begun`, from what is left of it after
the first checkpoint, and resumed until they are done; three in ten resumed runs are killed too. After a kill
before `config.json` exists the same command is given again. *Equal*: the arrays of the last checkpoint, the policy
files and the final evaluation are bit for bit the reference's, and so are the log rows without their times, up to
the rounding of means (10⁻⁴). *Saved*: kills that left a checkpoint at least; after the others the run began anew.
*Resumed* counts the times that a run was taken up from a checkpoint, *exactly* those that the run itself called
exact. `docs/kills.json` has a line for each run.

"""


def machine() -> str:
    """Where the kills were run."""
    import jax

    where = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{where}, Python {platform.python_version()}, JAX {jax.__version__}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Kill runs, resume them, and compare their ends.")
    parser.add_argument("--count", type=int, default=22, help="how many more runs to kill")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one of these")
    parser.add_argument("--work", type=Path, help="a folder that keeps references and cache; a temporary one")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after so long")
    parser.add_argument("--begun", action="store_true", help="kill after the first checkpoint only")
    parser.add_argument("--keep", action="store_true", help="leave the committed results as they are")
    flags = parser.parse_args()
    cases = [case for case in CASES if not flags.only or any(text in case.name for text in flags.only)]
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    killed = Counter(line["case"] for line in lines)
    todo = []
    for _ in range(flags.count):  # the cases that have fewest first
        case = min(cases, key=lambda case: killed[case.name])
        todo.append((case, killed[case.name]))
        killed[case.name] += 1
    until = time.monotonic() + 60 * flags.minutes
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        harness = Harness(flags.work or Path(temporary))

        def one(task: tuple[Case, int]) -> dict[str, Any] | None:
            if time.monotonic() > until:
                return None
            try:
                return harness.kill(*task, flags.begun)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                case, number = task
                return {"number": number, "case": case.name, "kills": [], "code": -1, "said": str(error)[-2000:]}

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for future in concurrent.futures.as_completed([pool.submit(one, task) for task in todo]):
                line = future.result()
                if line is None:
                    continue
                line["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
                good &= is_good(line)
                print(json.dumps(line), flush=True)
                if not flags.keep:
                    lines.append(line)
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    PAGE.write_text(page(lines, machine()))
    sys.exit(not good)


if __name__ == "__main__":
    main()
