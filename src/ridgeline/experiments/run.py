"""Runs from their beginning to their end: `train`, `start`, `resume`, and what a finished one holds.

runs/NAME/config.json      what was asked for, complete
          metrics.jsonl    a row for each seed at each log point
          checkpoints/     the newest two states of the run, whole
          result.json      times and the final evaluation
          report.html      the same, to look at
          policies/seed-K.safetensors
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ridgeline.algorithms import REGISTRY, by_name
from ridgeline.environments import Found, make
from ridgeline.errors import FileError, UsageError
from ridgeline.experiments.checkpoint import Checkpoints
from ridgeline.experiments.compile_cache import keep_compilations
from ridgeline.experiments.config import KEPT, read_config, record_from_json, spec_from_json, write_config
from ridgeline.experiments.cores import arrange_cores
from ridgeline.experiments.finished import Run
from ridgeline.experiments.forecast import Forecast
from ridgeline.experiments.forecast import forecast as measure
from ridgeline.experiments.interrupts import Interrupts
from ridgeline.experiments.policy import Policy
from ridgeline.experiments.presets import Preset, preset
from ridgeline.experiments.settings import FINAL_EPISODES, FINAL_SEED, Settings, algorithm_name
from ridgeline.experiments.training import Training
from ridgeline.report.result import read_result
from ridgeline.training.devices import seed_mesh
from ridgeline.training.evaluation import Episodes, evaluate_compiled, evaluate_hosted
from ridgeline.training.loop import Progress
from ridgeline.types import Algorithm, HostFactory


def train(
    algorithm: str | Algorithm[Any, Any],
    env: Any,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    callback: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run:
    """Train an algorithm, by name (its preset for the environment) or as a record, and judge what it learned.

    `seeds`: how many, or which; by default 10 where the environment is compiled, 3 on hosts. `callback` is called
    between chunks. Further keywords are `env_timeout`, `compile_cache` and `arrange` (see `start`) and those of
    `Settings`.

    Raises: `UsageError` before anything is written.
    """
    return run_through(start(algorithm, env, steps=steps, seeds=seeds, **settings), callback)


def run_through(training: Training, callback: Callable[[Progress], None] | None = None) -> Run:
    """A training run to its end; where it is stopped, what there is of it is saved."""
    with Interrupts() as training.interrupts:
        try:
            for progress in training:
                if callback is not None:
                    callback(progress)
            return training.finish()
        except BaseException as error:
            training.abandon(error)
            raise


def start(
    algorithm: str | Algorithm[Any, Any],
    env: Any,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    compile_cache: bool = True,
    arrange: bool = False,
    **settings: Any,
) -> Training:
    """What `train` runs, to be iterated over by hand. Further keywords are `env_timeout` (see `make`) and those of
    `Settings`.

    `compile_cache`: what is compiled is kept for the next process (see `compile_cache`). `arrange`: JAX is set for
    this run, if it has not started yet: its CPU devices and threads (see `arrange_cores`).
    """
    found = _asked(algorithm, env, steps, seeds, **settings)
    if arrange:
        arrange_cores(found[0], found[1].spec, len(found[2].seeds))
    training = Training(*found)
    training.notes += keep_compilations() if compile_cache else ()
    return training


def forecast(
    algorithm: str | Algorithm[Any, Any],
    env: Any,
    *,
    compile_cache: bool = True,
    arrange: bool = False,
    **asked: Any,
) -> Forecast:
    """What `train` with the same arguments would take, from a second of it; nothing is written."""
    found = _asked(algorithm, env, **asked)
    if arrange:
        arrange_cores(found[0], found[1].spec, len(found[2].seeds))
    if compile_cache:
        keep_compilations()
    return measure(*found)


def _asked(
    algorithm: str | Algorithm[Any, Any],
    env: Any,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    backend: str | None = None,
    env_timeout: float | int | None = None,
    **settings: Any,
) -> tuple[Algorithm[Any, Any], Found, Settings]:
    """The record, the environment and the settings that the arguments of `start` come to."""
    if isinstance(algorithm, str):
        by_name(algorithm)  # a misspelt name is said before an environment is built
    source = env if isinstance(env, str) else None
    if hasattr(env, "action_space") and not callable(env):
        env = functools.partial(copy.deepcopy, env)  # an instance is the template of every row
    found = make(env, backend, env_timeout=env_timeout)
    chosen = resolve(algorithm, found)
    if seeds is None:
        seeds = 3 if isinstance(found, HostFactory) else 10
    if isinstance(seeds, int):
        seeds = range(seeds)
    unknown = settings.keys() - {field.name for field in dataclasses.fields(Settings)}
    if unknown:
        raise UsageError(f"no setting {sorted(unknown)[0]!r}: hyper-parameters go into the algorithm's record")
    options = {"out": Path("runs"), "source": source} | settings
    options["out"] = Path(options["out"])
    return (
        chosen.algorithm,
        found,
        Settings(chosen.steps if steps is None else steps, tuple(seeds), backend, **options),
    )


def resolve(algorithm: str | Algorithm[Any, Any], env: Found) -> Preset:
    """The preset of a named algorithm for the environment; a record with the length its preset has."""
    if isinstance(algorithm, str):
        by_name(algorithm)
        return preset(algorithm, env.spec)
    name = algorithm_name(algorithm)
    return Preset(algorithm, preset(name, env.spec).steps if name in REGISTRY else 100_000)


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    env: Any = None,
    algorithm: Algorithm[Any, Any] | None = None,
    callback: Callable[[Progress], None] | None = None,
    arrange: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, to the same end as if it had not been.

    `steps` extends it. `env` is needed where the run's is code of your own, `algorithm` where its record is. A run
    that is finished is returned as it is. `arrange` is as for `start`.
    """
    found = Path(folder)
    if is_finished(found, steps):
        return Run(found)
    return run_through(take_up(found, steps=steps, env=env, algorithm=algorithm, arrange=arrange), callback)


def is_finished(folder: Path, steps: int | None = None) -> bool:
    """Whether a run was judged and, if `steps` are given, has so many."""
    path = folder / "result.json"
    return path.exists() and max(steps or 0, read_config(folder)["steps"]) <= read_result(path).steps


def take_up(
    folder: Path,
    *,
    steps: int | None = None,
    env: Any = None,
    algorithm: Algorithm[Any, Any] | None = None,
    allow_import: bool = False,
    env_timeout: float | int | None = None,
    compile_cache: bool = True,
    arrange: bool = False,
) -> Training:
    """What `resume` runs, to be iterated over by hand; `compile_cache` and `arrange` as for `start`.

    Raises: `FileError` where the folder does not say enough of the run, `UsageError` where you have to.
    """
    config, notes = _config_of(folder)
    if env is None:
        source = config["source"] or config["env"]
        if ":" in source and not allow_import:
            # A file decides nothing about which code is imported.
            raise UsageError(f"the run is of {source}, which imports code of yours: say so with --allow-import")
        env = make(source, config["backend"], env_timeout=env_timeout)
    elif not isinstance(env, HostFactory):
        env = make(env, config["backend"], env_timeout=env_timeout)
    spec = spec_from_json(config["spec"], str(folder))
    if env.spec != spec:
        raise UsageError(
            f"the run is of {spec.id}, and {env.spec.id} is not the same: its spaces or limits differ"
        )
    if algorithm is None:
        kind: Any = REGISTRY.get(config["algorithm"])
        if kind is None:
            raise UsageError(f"the run is of algorithm {config['algorithm']!r}, not one of ours: pass its record")
        if config["hyperparameters"].get("encoder") is not None:
            raise UsageError("the run has an encoder of yours: pass the record that has it, as `algorithm`")
        algorithm = record_from_json(kind(), config["hyperparameters"], str(folder))
    total = max(steps or 0, config["steps"])
    if arrange:
        arrange_cores(algorithm, env.spec, len(config["seeds"]))
    kept = {name: config[name] for name in KEPT} | {"sinks": tuple(config["sinks"])}
    settings = Settings(total, tuple(config["seeds"]), **kept)
    training = Training(algorithm, env, settings, resumed=(folder, config))
    training.notes[:0] = [*notes, *(keep_compilations() if compile_cache else ())]
    return training


def _config_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A run's config; where its file is lost or damaged, the one that the newest checkpoint holds."""
    if not folder.is_dir():
        raise FileError(f"{folder}: no run is there: name its folder")
    try:
        return read_config(folder), []
    except FileError as error:
        checkpoint, _ = Checkpoints(folder).latest()
        if checkpoint is None:
            raise
        write_config(folder, checkpoint.facts.get("config", {}))
        return read_config(folder), [f"{error}: written anew from checkpoint {checkpoint.folder.name}"]


def evaluate(
    policy: Policy, env: Any, *, episodes: int = FINAL_EPISODES, seed: int = FINAL_SEED, backend: str | None = None
) -> np.ndarray:
    """The returns [E] of greedy episodes. The same seed starts every policy alike, so compare pair by pair."""
    keep_compilations()
    found = make(env, backend)
    if (found.spec.observation, found.spec.action) != (policy.spec.observation, policy.spec.action):
        raise UsageError(f"the policy was trained on {policy.spec.id}: the spaces of {found.spec.id} differ")
    stacked = jax.tree.map(lambda x: np.asarray(x)[None], policy.parameters)
    return play_policies(policy.algorithm, found, stacked, 1, episodes, seed).returns[0]


def play_policies(
    algorithm: Algorithm[Any, Any], env: Found, stacked: Any, count: int, episodes: int, seed: int
) -> Episodes:
    """Greedy episodes [count, E] of policies on a leading axis."""
    if isinstance(env, HostFactory):
        return evaluate_hosted(algorithm, env, stacked, seed, episodes)
    return evaluate_compiled(algorithm, env, stacked, seed, episodes, seed_mesh(1))
