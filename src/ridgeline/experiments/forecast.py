"""What a run would take, measured before it is begun; nothing is written.

Training is compiled and goes on for a second or so, from where its warm-up is over, then one evaluation is played.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import jax

from ridgeline.environments import Found
from ridgeline.experiments.settings import Settings, memory_there, planned
from ridgeline.training.devices import seed_mesh
from ridgeline.training.loop import Plan
from ridgeline.training.runner import Runner, make_runner, required_bytes
from ridgeline.types import Algorithm, HostFactory

CALIBRATION_SECONDS = 1.0


@dataclass(frozen=True)
class Forecast:
    """Bytes, seconds and devices. `steps_per_second` counts those of all seeds together."""

    device: str  # what would compute
    devices: int  # how many of them share the seeds
    seeds: int
    steps: int  # of one seed, in whole iterations
    seed_bytes: dict[str, int]  # of one seed: its state, memory included, and one rollout
    process_bytes: int | None  # the most that this process has held, calibration included
    there_bytes: int | None  # memory of the machine, or of the devices where they have their own
    compile_seconds: float
    steps_per_second: float
    evaluation_seconds: float  # all evaluations, the final one included
    calibrated: int  # steps of one seed that were taken to measure

    @property
    def run_seconds(self) -> float:
        """Training alone."""
        return self.steps * self.seeds / self.steps_per_second

    @property
    def bytes(self) -> int:
        """What all seeds hold."""
        return self.seeds * sum(self.seed_bytes.values())


def forecast(algorithm: Algorithm[Any, Any], env: Found, settings: Settings) -> Forecast:
    """Measure a little of what was asked for. Raises `UsageError` where the run would be refused."""
    record, plan = planned(algorithm, env, settings)
    seeds = len(settings.seeds)
    begun = time.perf_counter()
    runner = make_runner(record, env, settings.seeds)
    try:
        runner.compile(settings.evaluation_episodes)
        first = _after_warmup(record, plan)
        runner.run(first, 1, float(plan.steps))  # on a host, functions compile when they are first called
        compiled = time.perf_counter() - begun
        per_second, taken = _calibrate(runner, plan, first + 1)
        playing = _evaluation_seconds(runner, plan, settings)
    finally:
        runner.close()
    on_host = isinstance(env, HostFactory)
    return Forecast(
        device=jax.devices()[0].device_kind,
        devices=1 if on_host else seed_mesh(seeds).size,
        seeds=seeds,
        steps=plan.steps,
        seed_bytes=required_bytes(record, env.spec),
        process_bytes=_most_held(),
        there_bytes=memory_there(seeds),
        compile_seconds=compiled,
        steps_per_second=per_second,
        evaluation_seconds=playing,
        calibrated=taken,
    )


def _after_warmup(record: Algorithm[Any, Any], plan: Plan) -> int:
    """The first iteration that learns."""
    replay = getattr(record, "replay", None)
    return 0 if plan.fresh or replay is None else -(-replay.warmup // plan.steps_per_iteration)


def _calibrate(runner: Runner, plan: Plan, first: int) -> tuple[float, int]:
    """Steps of all seeds in a second, from ever longer chunks; and how many steps of one seed they took."""
    count, taken = 1, 0
    while True:
        begun = time.perf_counter()
        (part,) = runner.run(first, count, float(plan.steps))
        spent = time.perf_counter() - begun
        taken += int(part.steps.max())
        if spent > CALIBRATION_SECONDS / 4 or taken >= plan.steps:
            return float(part.steps.sum()) / spent, taken
        first, count = first + count, count * 4


def _evaluation_seconds(runner: Runner, plan: Plan, settings: Settings) -> float:
    """All of a run's evaluations, from how long one of them takes."""
    begun = time.perf_counter()
    runner.evaluate(plan.evaluation_seed, settings.evaluation_episodes)
    each = (time.perf_counter() - begun) / settings.evaluation_episodes
    return each * (settings.evaluations * settings.evaluation_episodes + settings.final_episodes)


def _most_held() -> int | None:
    """Bytes of memory that this process held at its peak; None where the system does not count them."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
