"""ridgeline beside its peers and beside the limit of this machine, work by work.

    python -m benchmarks.speed --peers .peers            # makes the peers' environments where they are missing
    python -m benchmarks.speed --rltools SOURCE          # and builds RLtools' programs (needs g++ and OpenBLAS)
    python -m benchmarks.speed --only cartpole-ppo --repeat 5

For each work all sides take turns, several times over, each in a process of its own, so that they see the same
machine; figures are medians. A side's first turn, which fills caches, does not count. `run` is training alone,
with logging and guards on; `process` is all of it, from start to end, import, compiling and evaluation included.
Results go to benchmarks/results/speed.json and docs/speed.md.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import figure, start
from benchmarks.speed.work import WORKS, Work

HERE = Path(__file__).parent
RESULTS, PAGE = HERE.parent / "results" / "speed.json", HERE.parents[1] / "docs" / "speed.md"
FIGURE = PAGE.parent / "figures" / "speed.svg"
PACKAGES = {
    "sb3": ["torch==2.13.0", "stable-baselines3==2.9.2", "sb3-contrib==2.9.2", "gymnasium[classic-control]"],
    "sbx": ["torch==2.13.0", "sbx-rl==0.28.0", "gymnasium[classic-control]"],
    "rejax": ["rejax==0.1.3", "gymnax<1"],
}
RLTOOLS = {
    "pendulum-ppo": "ppo/cpu/training.cpp",
    "pendulum-ddpg-64": "sac/cpu/training.cpp",
    "pendulum-sac-64": "sac/cpu/training.cpp",
}
DEFINED = [
    "BENCHMARK",
    "NDEBUG",
    "RL_TOOLS_DISABLE_TENSORBOARD",
    "RL_TOOLS_DISABLE_HDF5",
    "RL_TOOLS_BACKEND_ENABLE_BLAS",
    "RL_TOOLS_BACKEND_ENABLE_OPENBLAS",
]
MUX = "#include <rl_tools/nn/operations_cpu_mux.h>"
ADAM = "#include <rl_tools/nn/optimizers/adam/instance/operations_generic.h>"


def peer_python(folder: Path, peer: str) -> Path:
    """The Python of a peer's environment, made if it is missing."""
    python = folder / peer / "bin" / "python"
    if not python.exists():
        print(f"making {folder / peer} …", flush=True)
        base = shutil.which("python3.11") or sys.executable
        subprocess.run([base, "-m", "venv", folder / peer], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[peer]], check=True)
    return python


def build_rltools(source: Path, folder: Path, work: str) -> Path:
    """RLtools' own benchmark program, linked with OpenBLAS. The one of PPO as published calls no BLAS at all."""
    at = source / "src" / "rl" / "environments" / "pendulum" / RLTOOLS[work]
    program = folder / "rltools" / at.parent.parent.name
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        text = at.read_text()
        if MUX not in text:
            text = text.replace(ADAM, f"{ADAM}\n{MUX}")
        (copy := at.with_name("training_blas.cpp")).write_text(text)
        flags = ["-std=c++17", "-Ofast", "-march=native", *(f"-D{name}" for name in DEFINED)]
        subprocess.run(
            ["g++", *flags, f"-I{source / 'include'}", copy, "-o", program, "-lopenblas", "-lpthread"], check=True
        )
    symbols = subprocess.run(["nm", "-D", program], capture_output=True, text=True, check=True).stdout
    if "cblas_sgemm" not in symbols:
        raise SystemExit(f"{program} calls no BLAS: it would be compared at a third of its speed")
    return program


def turn(words: list[Any], **environment: str) -> dict[str, Any]:
    """One process; what it says of itself, and how long it took."""
    begun = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env=start.ENVIRONMENT | environment)
    process = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    if "{" in (last := done.stdout.strip().splitlines()[-1]):
        return {**json.loads(last), "process": process}
    # RLtools prints its own time, without what its evaluation takes.
    seconds = re.search(r"Time: ([\d.]+)s", done.stdout)
    returned = re.search(r"Mean return: (-?[\d.]+)", done.stdout)
    return {
        "run": float(seconds[1]) if seconds else process,
        "return": float(returned[1]) if returned else None,
        "process": process,
    }


def sides(work: Work, peers: Path | None, rltools: Path | None) -> dict[str, Any]:
    """What to call for each side of a comparison."""
    found: dict[str, Any] = {"ridgeline": lambda: turn([sys.executable, "-m", "benchmarks.speed.work", work.name])}
    for peer in work.peers:
        if peer == "rltools":
            if rltools is not None:
                program = build_rltools(rltools, peers or Path(".peers"), work.name)
                found[peer] = lambda program=program: turn([program], OPENBLAS_NUM_THREADS="1")
        elif peers is not None:
            python = peer_python(peers, peer)
            words = [HERE / "peers" / ("rejax_.py" if peer == "rejax" else "sb3.py")]
            words += [work.name] if peer == "rejax" else [peer, work.name]
            found[peer] = lambda python=python, words=words: turn([python, *words])
    return found


def measure(work: Work, peers: Path | None, rltools: Path | None, repeat: int) -> dict[str, Any]:
    """Medians of every side, and how many times as fast as each peer we are."""
    calls = sides(work, peers, rltools)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in calls}
    limits = []
    for round_ in range(repeat + 1):
        order = list(calls) if round_ % 2 else list(reversed(calls))
        for name in order:
            # A peer that takes a minute needs no second minute to be told from ours.
            if turns[name] and turns[name][-1]["run"] > 20 and len(turns[name]) > 1:
                continue
            turns[name].append(calls[name]())
        if round_:
            limits.append(turn([sys.executable, "-m", "benchmarks.speed.limit", work.name]))
    found: dict[str, Any] = {"work": work.name, "about": work.about, "steps": work.steps, "sides": {}}
    for name, each in turns.items():
        counted = each[1:] or each
        keys = [key for key in ("import", "compile", "run", "process") if key in counted[0]]
        medians: dict[str, Any] = {key: statistics.median(t[key] for t in counted) for key in keys}
        found["sides"][name] = {**medians, "return": counted[-1].get("return"), "turns": len(counted)}
    ours = found["sides"]["ridgeline"]
    found["limit"] = {key: statistics.median(each[key] for each in limits) for key in ("products", "environment")}
    found["limit"]["ours"] = ours["run"] / (found["limit"]["products"] + found["limit"]["environment"])
    found["ratios"] = {
        name: {
            "run": side["run"] / ours["run"],
            "process": side["process"] / ours["process"],
            "wanted": work.peers[name],
        }
        for name, side in found["sides"].items()
        if name != "ridgeline"
    }
    return found


def say(found: dict[str, Any]) -> str:
    """One work on a line."""
    ours, limit = found["sides"]["ridgeline"], found["limit"]
    peers = ", ".join(f"{r['run']:.1f} × {name} (wanted {r['wanted']:g})" for name, r in found["ratios"].items())
    times = f"{ours['run']:.2f} s, {limit['ours']:.2f} × the limit"
    return f"{found['work']}: {times}; {peers}; return {ours['return']:.0f}"


def page(results: list[dict[str, Any]], machine: str) -> str:
    """The table, in Markdown."""
    lines = [
        HEAD,
        "| work | side | import s | compile s | run s | whole process s | return | ours is, of the run |",
    ]
    lines.append("|---" * 8 + "|")
    for found in results:
        for name, side in found["sides"].items():
            ratio = found["ratios"].get(name)
            cells = [f"{side[key]:.2f}" if key in side else "–" for key in ("import", "compile", "run", "process")]
            back = "–" if side["return"] is None else f"{side['return']:.0f}"
            times = f"**{ratio['run']:.1f} ×** (wanted {ratio['wanted']:g} ×)" if ratio else ""
            lines.append(f"| {found['work']} | {name} | {' | '.join(cells)} | {back} | {times} |")
        limit = found["limit"]
        least = limit["products"] + limit["environment"]
        cells = f"products {limit['products']:.2f} s, environment {limit['environment']:.2f} s"
        lines.append(
            f"| {found['work']} | *limit* | – | – | {least:.2f} | – | – | {limit['ours']:.2f} × ({cells}) |"
        )
    about = [f"- `{found['work']}`: {found['about']}, {found['steps']:,} steps." for found in results]
    if start.RESULTS.exists():
        about += ["", START, "", *start.lines(json.loads(start.RESULTS.read_text()))]
    return "\n".join([*lines, "", PICTURE, "", *about, "", machine, ""])


HEAD = """\
# Speed

Whole runs of the public `train`, with logging and guards on, beside peers on the same machine in the same minutes,
written by `python -m benchmarks.speed`, raw medians in `benchmarks/results/speed.json`. Sides take turns, each
turn in a process of its own; figures are medians. *Run* is training alone, *compile* what precedes it (with a
filled cache where the library has one), *limit* the matrix products and environment steps of the same work alone,
on one core, measured between the turns. *Return* is of one seed: it says that something was learned, not how
reliably, for which see [results](results.md).
"""
PICTURE = "![Seconds of training, by work and side](figures/speed.svg)"
START = """\
## Start and host loop

`python -m benchmarks.speed.start`, medians, the compilation cache filled. The command prints, trains, evaluates
100 episodes of each seed and writes the report."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from the results")
    parser.add_argument("--only", nargs="*", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--peers", type=Path, help="the folder of the peers' environments; without it none is run")
    parser.add_argument("--rltools", type=Path, help="RLtools' source")
    parser.add_argument("--repeat", type=int, default=3)
    flags = parser.parse_args()
    known = {each["work"]: each for each in json.loads(RESULTS.read_text())["works"]} if RESULTS.exists() else {}
    machine = (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}."
    )
    for name in () if flags.page else flags.only:
        known[name] = measure(WORKS[name], flags.peers, flags.rltools, flags.repeat)
        print(say(known[name]), flush=True)
        ordered = [known[name] for name in WORKS if name in known]
        RESULTS.write_text(json.dumps({"machine": machine, "works": ordered}, indent=1) + "\n")
    ordered = json.loads(RESULTS.read_text())["works"]
    PAGE.write_text(page(ordered, machine))
    figure.draw(ordered, FIGURE)


if __name__ == "__main__":
    main()
