"""Train, judge and report."""

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from ridgeline.cli import devices
from ridgeline.cli.words import nearest, parse, parse_seeds, peek, positionals, seconds
from ridgeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """How the run is run."""

    steps: int  # environment steps for each seed, rounded up to whole iterations
    seeds: str  # how many (10 means 0 to 9), or which: 3,5,8 or 20:30; one alone: 7,
    backend: str | None = None  # jax, envpool, gymnasium, gymnasium-async or stepped; the first that has the id
    initial_policy: Annotated[str | None, tyro.conf.arg(name="from")] = None  # a policy's file to start from
    env_timeout: float = 60.0  # seconds that a call of a host environment may take; 0 for ever
    device: str | None = None  # cpu, gpu or tpu; what JAX prefers
    evaluations: int = 10  # evaluations on the way, evenly spaced
    evaluation_episodes: int = 10  # greedy episodes in each of them
    final_episodes: int = 100  # greedy episodes that judge the final policy of each seed
    run: str | None = None  # the run's name: its folder is OUT/RUN; ALGORITHM-ENVIRONMENT-NUMBER
    out: Path = Path("runs")  # the folder that holds runs
    checkpoint_seconds: float = 300.0  # save the state when so long has passed; 0: not by time
    checkpoint_steps: int = 0  # save it after every so many steps of a seed; 0: not by steps
    on_nan: str = "stop"  # where learning breaks: stop, or rollback to a checkpoint and other random numbers
    save_best: bool = False  # keep each seed's best policy, by its evaluations, beside the final one
    compile_cache: bool = True  # keep what is compiled for the next run
    csv: bool = False  # write metrics.csv too
    tensorboard: bool = False  # write TensorBoard events too
    quiet: bool = False  # print only the result
    dry_run: bool = False  # say what the run would take, from a second of it, and write nothing


def run(words: list[str]) -> int:
    """Train, judge and report."""
    (algorithm, env), rest = positionals(words, ("ALGORITHM", "ENVIRONMENT"), "ridgeline train")
    if sys.stderr.isatty() and not {"--quiet", "-h", "--help"} & set(rest):
        print("loading JAX …", end="\r", file=sys.stderr, flush=True)  # the next line takes its place
    device = peek(rest, "--device")
    devices.use_all_cores(device)

    import ridgeline

    ridgeline.start  # noqa: B018  (imports what training needs, and times it)
    from ridgeline.environments import BACKENDS, make
    from ridgeline.experiments.progress import show, show_forecast
    from ridgeline.experiments.run import resolve
    from ridgeline.types import HostFactory

    if (backend := peek(rest, "--backend")) not in (None, *BACKENDS):
        raise UsageError(f"no backend {backend!r}: {nearest(str(backend), list(BACKENDS))}")
    from ridgeline.algorithms import by_name

    by_name(algorithm)
    sys.path.insert(0, os.getcwd())  # so that module:Id finds a file beside the user
    found = make(env, backend, env_timeout=seconds(peek(rest, "--env-timeout")))
    chosen = resolve(algorithm, found)
    kinds = {"run": TrainFlags, "algorithm": type(chosen.algorithm)}
    bare = tyro.conf.arg(name="")
    kind = dataclasses.make_dataclass("Train", [(name, Annotated[each, bare]) for name, each in kinds.items()])
    default = kind(TrainFlags(chosen.steps, "3" if isinstance(found, HostFactory) else "10"), chosen.algorithm)
    flags: Any = parse(kind, default, f"ridgeline train {algorithm} {env}", rest)
    how: TrainFlags = flags.run
    asked: dict[str, Any] = {
        "steps": how.steps,
        "seeds": parse_seeds(how.seeds),
        "evaluations": how.evaluations,
        "evaluation_episodes": how.evaluation_episodes,
        "final_episodes": how.final_episodes,
        "out": how.out,
        "name": how.run,
        "source": env,
        "checkpoint_seconds": how.checkpoint_seconds,
        "checkpoint_steps": how.checkpoint_steps,
        "on_nan": how.on_nan,
        "save_best": how.save_best,
        "compile_cache": how.compile_cache,
        "initial_policy": how.initial_policy,
        "sinks": tuple(name for name in ("csv", "tensorboard") if getattr(how, name)),
        "command": shlex.join(["ridgeline", "train", *words]),
        "arrange": True,
    }
    if how.dry_run:
        show_forecast(flags.algorithm, ridgeline.forecast(flags.algorithm, found, **asked))
        return 0
    training = ridgeline.start(flags.algorithm, found, **asked)
    show(training, how.quiet)
    return 0
