"""PG with a memory of importance-weighted trajectories against PG without: steps to a return of 475 on CartPole.

    uv run python benchmarks/pg_memory.py

Settings, fixed before the first run: the plain record (10 trajectories an iteration, Adam 1e-3, γ = 1), and the
same with a memory of 40 trajectories, for each weighting; 20 seeds (200 to 219), 200,000 steps. A seed has reached
475 at the first log point whose training episodes average as much; one that never does counts as 200,000.
"""

import json
import os
import tempfile
from pathlib import Path

import jax
import numpy as np

import ridgeline
from ridgeline.algorithms.pg import PG, Trajectories
from ridgeline.report.statistics import interquartile_mean

SEEDS, STEPS, BAR = range(200, 220), 200_000, 475.0
WEIGHTINGS = ("trajectory", "per_decision", "self_normalised", "truncated")
RESULTS = Path(__file__).parent / "results" / "pg_memory.json"


def measure(record: PG) -> dict:
    with tempfile.TemporaryDirectory() as out:
        run = ridgeline.train(record, "CartPole-v1", steps=STEPS, seeds=SEEDS, out=out, evaluations=0)
        curves = run.curves
    returns, steps = curves.get("rollout/ep_rew_mean"), curves.steps
    reached = [float(steps[np.argmax(row >= BAR)]) if (row >= BAR).any() else float(STEPS) for row in returns]
    ess, held = (curves.get(f"train/{name}") for name in ("effective_sample_size", "trajectories"))
    return {
        "steps_to_475": reached,
        "final": run.result["eval"]["per_seed"],
        "effective_sample_size": float(np.nanmean(ess)) if record.trajectories.capacity else None,
        "trajectories_held": float(np.nanmean(held)) if record.trajectories.capacity else None,
    }


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """The mean paired difference and its 95 % percentile bootstrap interval."""
    random = np.random.default_rng(0)
    means = differences[random.integers(0, len(differences), (10_000, len(differences)))].mean(1)
    return float(differences.mean()), *map(float, np.percentile(means, [2.5, 97.5]))


def main() -> None:
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    rows = {"none": measure(PG())}
    for weighting in WEIGHTINGS:
        rows[weighting] = measure(PG(trajectories=Trajectories(capacity=40, weighting=weighting)))
        differences = np.subtract(rows[weighting]["steps_to_475"], rows["none"]["steps_to_475"])
        rows[weighting]["difference"] = interval(differences)
        RESULTS.write_text(json.dumps({"seeds": list(SEEDS), "steps": STEPS, "rows": rows}, indent=1) + "\n")
    print("| memory | steps to 475: mean | paired difference [95 %] | held | effective | final IQM |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        apart = "{:+,.0f} [{:+,.0f}, {:+,.0f}]".format(*row["difference"]) if "difference" in row else ""
        sizes = [f"{row[k]:.1f}" if row[k] else "" for k in ("trajectories_held", "effective_sample_size")]
        final = float(interquartile_mean(np.array(row["final"])))
        print(
            f"| {name} | {np.mean(row['steps_to_475']):,.0f} | {apart} | {sizes[0]} | {sizes[1]} | {final:.1f} |"
        )


if __name__ == "__main__":
    main()
