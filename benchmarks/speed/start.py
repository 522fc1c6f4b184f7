"""What is neither learning nor compiling: how soon a run begins and ends, and what the host loop costs.

    python -m benchmarks.speed.start      # writes benchmarks/results/start.json
    python -m benchmarks.speed --page     # shows it in docs/speed.md

The command line is run as a user runs it, in processes of its own, with the compilation cache filled by a first
one; imports take turns. The host loop is timed with an algorithm that never learns, against the same environment
stepped by hand; both act at random.
"""

import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "start.json"
IMPORTS = {
    "import jax": "import jax",
    "import ridgeline": "import ridgeline",
    "import all that training needs": "import ridgeline; ridgeline.train",
}
TURNS = 5
# Where Python may not keep what it compiled of modules, each process compiles a thousand of them anew.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(words: list[str]) -> float:
    """How long a process takes."""
    begun = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - begun


def imports() -> dict[str, float]:
    """Medians of a Python that imports and ends, without what Python itself takes."""
    times: dict[str, list[float]] = {name: [] for name in ("nothing", *IMPORTS)}
    for _ in range(TURNS):
        for name in times:
            times[name].append(seconds([sys.executable, "-c", IMPORTS.get(name, "")]))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {name: medians[name] - medians["nothing"] for name in IMPORTS}


def read(terminal: int) -> str:
    """What was written since; nothing at the end."""
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # how Linux tells that the other side is closed
        return ""


def run_command(*options: str) -> dict[str, float]:
    """`ridgeline train ppo CartPole-v1`: when its first line and its first progress appear, and its end."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "ridgeline.cli", "train", "ppo", "CartPole-v1", "--out", out, *options]
        begun = time.perf_counter()
        ours, theirs = pty.openpty()  # as in a terminal
        process = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
        os.close(theirs)
        first = progress = 0.0
        while text := read(ours):
            now = time.perf_counter() - begun
            first = first or now
            progress = progress or ("steps/s" in text and now) or 0.0
        process.wait()
        os.close(ours)
        whole = time.perf_counter() - begun
        result = json.loads(next(Path(out).glob("*/result.json")).read_text())
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return {"first line": first, "first progress": progress, "whole": whole, "return": result["eval"]["iqm"]}


def commands() -> dict[str, dict[str, float]]:
    """Medians of whole command lines, the compilation cache filled."""
    found = {}
    for name, options in {"one seed": ("--seeds", "1"), "the default seeds": ()}.items():
        run_command(*options)
        turns = [run_command(*options) for _ in range(3)]
        found[name] = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return found


def host_loop(rollout_length: int, steps: int = 10_240) -> dict[str, float]:
    """Microseconds a step of CartPole on Gymnasium, by hand and in the hosted loop, which acts and stores."""
    import gymnasium

    from ridgeline import DQN, Replay
    from ridgeline.cli.devices import use_all_cores
    from ridgeline.environments import make
    from ridgeline.training.hosted import Hosted
    from ridgeline.training.runner import prepare

    use_all_cores(None)
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)

    def by_hand() -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return (time.perf_counter() - begun) / steps

    never = Replay(capacity=10_000, batch_size=64, warmup=10**9)
    record = prepare(DQN(num_envs=1, rollout_length=rollout_length, epsilon_end=1.0, replay=never))
    runner = Hosted(record, make("CartPole-v1", "gymnasium"), (0,))
    runner.run(0, 2, float(steps))

    def hosted() -> float:
        begun = time.perf_counter()
        runner.run(0, steps // rollout_length, float(steps))
        return (time.perf_counter() - begun) / steps

    turns = [(by_hand(), hosted()) for _ in range(TURNS)]
    runner.close()
    raw, whole = (1e6 * statistics.median(each) for each in zip(*turns, strict=True))
    return {"by hand": raw, "hosted": whole, "over it": whole - raw}


def lines(found: dict[str, Any]) -> list[str]:
    """The table, in Markdown."""
    jax, ours = found["imports"]["import jax"], found["imports"]["import all that training needs"]
    rows = [
        ("`import ridgeline`", f"{found['imports']['import ridgeline']:.2f} s", ""),
        ("all that training imports", f"{ours:.2f} s", f"{ours / jax:.2f} × `import jax` (wanted ≤ 1.3 ×)"),
    ]
    wanted = {"one seed": 4, "the default seeds": 8}
    for name, each in found["commands"].items():
        command = f"`ridgeline train ppo CartPole-v1`, {name}"
        rows += [
            (f"{command}: first line", f"{each['first line']:.2f} s", "wanted within 1 s"),
            (f"{command}: first progress", f"{each['first progress']:.2f} s", ""),
            (
                f"{command}: process start to result",
                f"{each['whole']:.2f} s",
                f"wanted ≤ {wanted[name]} s; final return {each['return']:.0f}",
            ),
        ]
    for length, each in found["host loop"].items():
        what = f"Gymnasium's CartPole, one environment, rollouts of {length}: a step"
        by_hand = f"{each['by hand']:.0f} by hand, {each['over it']:.0f} over it (wanted ≤ 100)"
        rows.append((what, f"{each['hosted']:.0f} µs", by_hand))
    return ["| what | time | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def main() -> None:
    found = {
        "imports": imports(),
        "commands": commands(),
        "host loop": {length: host_loop(length) for length in (256, 1)},
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main()
