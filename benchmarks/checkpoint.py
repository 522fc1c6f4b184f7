"""How long a checkpoint keeps training waiting, and how much memory it needs.

    uv run python benchmarks/checkpoint.py    # measures and writes benchmarks/results/checkpoint.json

DDPG on Pendulum with a memory of a million transitions, one seed, as `train` runs it. Each save is of another
moment, so nothing of it is known from the one before. The pause is the time from its call to its return: the state
is on the disk by then. The memory is the highest resident set during a save, above that before it.
"""

import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import ridgeline
from ridgeline.memory import Replay

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
CAPACITY, SAVES = 1_000_000, 9
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Bytes of the resident set: VmRSS now, VmHWM at its highest."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        training = ridgeline.start(
            ridgeline.DDPG(hidden=(64, 64), replay=Replay(capacity=CAPACITY, warmup=256, batch_size=64)),
            "Pendulum-v1",
            steps=100_000,
            seeds=1,
            evaluations=0,
            checkpoint_seconds=0.0,
            out=folder,
        )
        pauses, extra, chunks = [], [], iter(training)
        for _ in itertools.islice(chunks, SAVES):
            CLEAR.write_text("5")  # the highest resident set counts from now
            before, begun = resident("VmRSS"), time.perf_counter()
            training.save()
            pauses.append(time.perf_counter() - begun)
            extra.append(resident("VmHWM") - before)
        files = sorted((training.folder / "checkpoints").glob("*/arrays.safetensors"))
        size = files[-1].stat().st_size
        training.abandon()
    found = {
        "machine": platform.platform(),
        "capacity": CAPACITY,
        "bytes": size,
        "saves": SAVES,
        "pause_seconds": {"median": statistics.median(pauses), "longest": max(pauses)},
        "extra_memory_of_size": {"median": statistics.median(extra) / size, "largest": max(extra) / size},
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
