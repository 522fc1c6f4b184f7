"""How time and memory grow with environments, seeds, the memory's capacity and the width of networks.

    python -m benchmarks.growth                                     # all of it; a quarter of an hour
    python -m benchmarks.growth --axis environments seeds --most 4096

Each point is `ridgeline.forecast` of a run in a process of its own: a second of training, after compiling. It
runs on an accelerator unchanged; results are kept by device in benchmarks/results/growth.json, and the tables in
docs/growth.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "growth.json"
PAGE = Path(__file__).parents[1] / "docs" / "growth.md"
AXES: dict[str, tuple[str, list[int]]] = {
    "environments": (
        "PPO on CartPole-v1, rollouts of 32 steps, 4 epochs of 4 minibatches, one seed",
        [1, 4, 16, 64, 256, 1024, 4096],
    ),
    "seeds": (
        "PPO on CartPole-v1, 8 environments × 32 steps, 4 epochs of 4 minibatches",
        [1, 2, 4, 8, 16, 32, 64, 256, 1024],
    ),
    "capacity": (
        "DQN on CartPole-v1, 8 environments, one update a step of all, batch 64, one seed",
        [10**3, 10**4, 10**5, 10**6, 10**7],
    ),
    "width": (
        "PPO on CartPole-v1, 8 environments × 128 steps, batch 256, 4 epochs, two layers of that width, one seed",
        [16, 32, 64, 128, 256, 512, 1024],
    ),
}


def asked(axis: str, value: int) -> dict[str, Any]:
    """What is trained at one point: the record and the seeds."""
    from ridgeline import DQN, PPO, Replay

    if axis == "environments":
        return {"algorithm": PPO(num_envs=value, rollout_length=32, batch_size=8 * value), "seeds": 1}
    if axis == "seeds":
        return {"algorithm": PPO(num_envs=8, rollout_length=32, batch_size=64), "seeds": value}
    if axis == "capacity":
        replay = Replay(capacity=value, batch_size=64, warmup=64)
        return {"algorithm": DQN(num_envs=8, replay=replay), "seeds": 1}
    return {"algorithm": PPO(num_envs=8, rollout_length=128, hidden=(value, value)), "seeds": 1}


def point(axis: str, value: int) -> dict[str, Any]:
    """One measurement, in this process."""
    from ridgeline.cli.devices import use_all_cores

    use_all_cores(None)
    import jax

    import ridgeline

    each = asked(axis, value)
    # So many steps that the run is never over before it was measured.
    found = ridgeline.forecast(**each, env="CartPole-v1", steps=10**9, evaluations=0, evaluation_episodes=1)
    on_device = jax.devices()[0].memory_stats()
    return {
        "value": value,
        "device": found.device if on_device else f"{os.cpu_count()} cores, {platform.machine()}",
        "steps_per_second": found.steps_per_second,
        "microseconds": 1e6 / found.steps_per_second,
        "bytes": found.bytes,
        "peak_bytes": on_device["peak_bytes_in_use"] if on_device else found.process_bytes,
        "compile_seconds": found.compile_seconds,
    }


def measure(axis: str, most: int, repeat: int) -> list[dict[str, Any]]:
    """All points of one axis, each the median of several turns in processes of their own."""
    rows = []
    for value in (v for v in AXES[axis][1] if v <= most or axis == "capacity"):
        turns = []
        for _ in range(repeat):
            words = [sys.executable, "-m", "benchmarks.growth", "--point", axis, str(value)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{axis} {value}: {done.stderr[-1500:]}")
            turns.append(json.loads(done.stdout.strip().splitlines()[-1]))
        rows.append(sorted(turns, key=lambda turn: turn["microseconds"])[repeat // 2])
        print(f"{axis} {value:,}: {rows[-1]['steps_per_second']:,.0f} steps/s", file=sys.stderr, flush=True)
    return rows


def page(results: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    from ridgeline.report.text import size

    lines = [HEAD]
    for device, axes in results.items():
        lines.append(f"## {device}\n")
        for axis, rows in axes.items():
            lines.append(f"### {axis.capitalize()}\n\n{AXES[axis][0]}.\n")
            lines.append(
                f"| {axis} | steps/s, all seeds | µs a step | against the row above | state and rollout | peak |"
            )
            lines.append("|---" * 6 + "|")
            before = None
            for row in rows:
                times = "–" if before is None else f"{growth(before, row, axis):.2f}"
                cells = f"{row['steps_per_second']:,.0f} | {row['microseconds']:,.3g} | {times}"
                sizes = f"{size(row['bytes'])} | {size(row['peak_bytes'])}"
                lines.append(f"| {row['value']:,} | {cells} | {sizes} |")
                before = row
            lines.append("")
    return "\n".join(lines)


def growth(before: dict[str, Any], row: dict[str, Any], axis: str) -> float:
    """The time of one step of everything against that of the row above, as a share of how much was added to it."""
    slower = row["microseconds"] / before["microseconds"]
    # A step of one of many is a step; but of a wider network it is more products.
    return slower / (row["value"] / before["value"]) ** 2 if axis == "width" else slower


HEAD = """\
# Growth

How time and memory grow, measured by `python -m benchmarks.growth` (raw figures:
`benchmarks/results/growth.json`). Every row is a second of training in a process of its own, the median of
several. *Against the row above* is 1 where growth is exactly linear and less where it is better: the time of one
step over that in the row above; for width divided by how much larger the matrices are. *Peak* is what the process
held, or the device where it has memory of its own.

On a CPU a step becomes cheaper with more environments until the kernels' own cost is spread over enough rows that
arithmetic is what remains: about 16 environments of this network. Seeds are shared out over the cores, so the knee
is at as many seeds as there are cores, and behind it each costs the same. A larger memory costs bytes and no time.
Below a width of 64 kernels cost more than products, so a matrix four times as large takes less than four times as
long; from 512 on time is proportional to arithmetic.

On a GPU one seed of eight environments leaves the device idle: the same time for a step of all serves four times
as many environments, up to about a thousand of them, and twice as many seeds, up to about 64. That was JAX 0.11.2.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--axis", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument(
        "--most", type=int, default=4096, help="the largest number of environments, seeds or width"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    if flags.point:
        print(json.dumps(point(flags.point[0], int(flags.point[1]))))
        return
    known = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    for axis in flags.axis:
        rows = measure(axis, flags.most, flags.repeat)
        known.setdefault(rows[0]["device"], {})[axis] = rows
        flags.out.write_text(json.dumps(known, indent=1) + "\n")
    if flags.out == RESULTS:
        PAGE.write_text(page(known))


if __name__ == "__main__":
    main()
