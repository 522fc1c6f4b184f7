"""How a run is run, and what is refused before anything is written."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax

from ridgeline.environments import Found
from ridgeline.errors import UsageError
from ridgeline.experiments.policy import Policy
from ridgeline.training.devices import seed_mesh
from ridgeline.training.loop import Plan
from ridgeline.training.runner import check_environment, prepare, required_bytes
from ridgeline.types import Algorithm, HostFactory

FINAL_EPISODES = 100
# Starts of the final evaluation; those of evaluations on the way come from Plan.evaluation_seed.
FINAL_SEED = 2_000_003
# More have no place in a checkpoint's manifest: see the bounds of JSON in safe.py.
MOST_SEEDS = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is run; nothing here changes what is learned from a step."""

    steps: int  # environment steps for each seed, rounded up to whole iterations
    seeds: tuple[int, ...]
    backend: str | None = None
    evaluations: int = 10  # evaluations on the way, evenly spaced; 0 for none
    evaluation_episodes: int = 10  # greedy episodes in each of them
    final_episodes: int = FINAL_EPISODES  # greedy episodes that judge the final policy of each seed
    out: Path = Path("runs")
    name: str | None = None
    sinks: tuple[str, ...] = ()  # beside metrics.jsonl: csv, tensorboard
    source: str | None = None  # how the environment was named, `module:Id` included
    initial_policy: Policy | str | Path | None = None  # what training starts from, or the file of it
    command: str | None = None  # the command line that asked for this run
    checkpoint_seconds: float = 300.0  # save the state when so long has passed; 0: not by time
    checkpoint_steps: int = 0  # save it after every so many steps of a seed; 0: not by steps
    on_nan: str = "stop"  # what to do where learning breaks: stop, or rollback to the last checkpoint
    save_best: bool = False  # keep each seed's best policy, by its evaluations, beside the final one


def planned[Record: Algorithm[Any, Any]](algorithm: Record, env: Found, settings: Settings) -> tuple[Record, Plan]:
    """The record as runners take it, and what happens when. Raises `UsageError` for what cannot be run."""
    record = prepare(algorithm)
    _check(settings)
    if not isinstance(env, HostFactory):
        check_environment(env)
    algorithm.check(env.spec)
    plan = Plan.of(
        algorithm,
        settings.steps,
        evaluations=settings.evaluations,
        evaluation_episodes=settings.evaluation_episodes,
        checkpoint_steps=settings.checkpoint_steps,
    )
    seeds = len(settings.seeds)
    check_memory(sum(required_bytes(record, env.spec).values()) * seeds, seeds)
    if plan.iterations >= 2**31:
        raise UsageError(f"{settings.steps} steps are {plan.iterations} iterations: at most 2³¹ − 1")
    return record, plan


def algorithm_name(algorithm: Algorithm[Any, Any]) -> str:
    """The name of a record's algorithm."""
    return type(algorithm).__name__.lower()


def backend_name(env: Found) -> str:
    """What steps the environment."""
    return env.backend if isinstance(env, HostFactory) else "jax"


def _check(settings: Settings) -> None:
    if settings.steps < 1:
        raise UsageError(f"steps is {settings.steps}: it must be at least 1")
    if settings.steps > 10**15:
        raise UsageError(f"steps is {settings.steps}: no machine gets so far, the most is 10¹⁵")
    if settings.name is not None and Path(settings.name).name != settings.name:
        raise UsageError(f"run {settings.name!r} is not a plain folder name: give the folder with --out")
    if not settings.seeds:
        raise UsageError("no seeds: give at least one")
    if len(settings.seeds) > MOST_SEEDS:
        raise UsageError(f"{len(settings.seeds):,} seeds: a run has at most {MOST_SEEDS:,}, so start several")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"seeds {settings.seeds} repeat: each may stand once")
    if settings.on_nan not in ("stop", "rollback"):
        raise UsageError(f"on_nan is {settings.on_nan!r}: choose stop or rollback")
    if not 0 <= settings.checkpoint_seconds < math.inf:
        raise UsageError(f"checkpoint_seconds is {settings.checkpoint_seconds}: it must be at least 0")
    for name in ("evaluations", "evaluation_episodes", "final_episodes", "checkpoint_steps"):
        low = 1 if name.endswith("episodes") else 0
        if getattr(settings, name) < low:
            raise UsageError(f"{name} is {getattr(settings, name)}: it must be at least {low}")
    for seed in settings.seeds:
        if not 0 <= seed < 2**32:
            raise UsageError(f"seed {seed}: it must be from 0 to 2³² − 1")


def check_memory(needed: int, num_seeds: int) -> None:
    """Raises `UsageError` where a run needs more bytes than there are."""
    there = memory_there(num_seeds)
    if there is not None and needed > there:
        where = "this machine" if jax.default_backend() == "cpu" else "its devices"
        raise UsageError(
            f"the run needs at least {needed / 2**30:.1f} GiB and there are {there / 2**30:.1f} GiB on {where}: "
            "lower num_envs, rollout_length, capacity, hidden or the number of seeds"
        )


def memory_there(num_seeds: int) -> int | None:
    """Bytes of memory where that many seeds are trained; None where the system does not say."""
    if jax.default_backend() == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    stated = [device.memory_stats() for device in seed_mesh(num_seeds).devices.flat]
    return sum(each["bytes_limit"] for each in stated) if all(stated) else None
