"""A run: one algorithm on one environment with several seeds, and the folder that holds all of it.

runs/NAME/config.json      what was asked for, complete
          metrics.jsonl    a row for each seed at each log point
          result.json      times and the final evaluation
          report.html      the same, to look at
          policies/seed-K.safetensors
"""

import copy
import dataclasses
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ridgeline
from ridgeline.algorithms import REGISTRY, by_name
from ridgeline.environments import Found, make
from ridgeline.environments.host import notes_of
from ridgeline.errors import StorageError, UsageError
from ridgeline.experiments.config import record_to_json, spec_to_json
from ridgeline.experiments.files import write_json
from ridgeline.experiments.policy import Policy, load_policy
from ridgeline.experiments.presets import Preset, preset
from ridgeline.experiments.sinks import Sink, check_sinks, open_sinks
from ridgeline.report import curves, page, statistics
from ridgeline.training.compilation import compiling_seconds
from ridgeline.training.devices import seed_mesh
from ridgeline.training.evaluation import Episodes, evaluate_compiled, evaluate_hosted
from ridgeline.training.loop import Plan, Progress, iterate
from ridgeline.training.runner import check_environment, make_runner, prepare, required_bytes
from ridgeline.types import Algorithm, HostFactory

FINAL_EPISODES = 100
# Starts of the final evaluation; those of evaluations on the way come from Plan.evaluation_seed.
FINAL_SEED = 2_000_003


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
    command: str | None = None  # the command line that asked for this run


class Training:
    """A run in the making. Iterate over it: between two chunks, your code runs. Then `finish`.

    Everything is checked before anything is written: `UsageError` names what does not fit.
    """

    def __init__(self, algorithm: Algorithm[Any, Any], env: Found, settings: Settings) -> None:
        self.settings, self.env, self.record = settings, env, algorithm
        self.algorithm = prepare(algorithm)
        _check(settings)
        check_sinks(settings.sinks)
        if not isinstance(env, HostFactory):
            check_environment(env)
        algorithm.check(env.spec)
        self.plan = Plan.of(
            algorithm,
            settings.steps,
            evaluations=settings.evaluations,
            evaluation_episodes=settings.evaluation_episodes,
        )
        _check_memory(required_bytes(self.algorithm, env.spec, len(settings.seeds)))
        if self.plan.iterations >= 2**31:
            raise UsageError(f"{settings.steps} steps are {self.plan.iterations} iterations: at most 2³¹ − 1")
        self.folder = _new_folder(settings, algorithm_name(algorithm), env.spec.id)
        self.seconds = {"import": ridgeline.import_seconds, "compile": 0.0, "run": 0.0}
        self._write_config()
        self._sinks: list[Sink] = []
        self.best = -np.inf
        self.warnings: list[str] = []
        self.steps_done = 0
        self.last_good: tuple[Any, int] | None = None  # policies, and after how many steps

    def compile(self) -> None:
        """Build the runner and compile; iterating does it where it was not done."""
        begun = time.perf_counter()
        self.runner = make_runner(self.algorithm, self.env, self.settings.seeds)
        self.runner.compile(self.settings.evaluation_episodes if self.settings.evaluations else 0)
        self._compiled = self.seconds["compile"] = time.perf_counter() - begun

    def __iter__(self) -> Iterator[Progress]:
        if not hasattr(self, "runner"):
            self.compile()
        self._sinks = open_sinks(self.folder, self.settings.sinks)
        begun, before = time.perf_counter(), compiling_seconds()
        for progress in iterate(self.runner, self.plan, self.settings.seeds):
            self.steps_done = progress.steps
            progress = dataclasses.replace(progress, warnings=(*progress.warnings, *self._noted()))
            self.warnings.extend(progress.warnings)
            for sink in self._sinks:
                sink.write(progress.rows)
            if progress.rows:
                self.last_good = jax.device_get(self.runner.policies), progress.steps
            if progress.evaluation is not None:
                iqm = statistics.interquartile_mean(progress.evaluation.returns.mean(1))
                self.best = max(self.best, float(iqm))
            # On a host, functions compile when they are first called, amid the run.
            late = compiling_seconds() - before
            self.seconds |= {"compile": self._compiled + late, "run": time.perf_counter() - begun - late}
            yield progress

    def finish(self) -> "Run":
        """Save the policies, judge them, write the result and the report."""
        policies = jax.device_get(self.runner.policies)
        self.save_policies(policies, self.plan.steps)
        for sink in self._sinks:
            sink.close()
        settings = self.settings
        final = self.runner.evaluate(FINAL_SEED, settings.final_episodes)
        self.runner.close()
        self.warnings.extend(self._noted())
        per_seed = final.returns.mean(1)
        low, high = statistics.bootstrap_interval(per_seed)
        iqm = float(statistics.interquartile_mean(per_seed))
        threshold = self.env.spec.reward_threshold
        result = {
            "algorithm": algorithm_name(self.algorithm),
            "env": self.env.spec.id,
            "backend": backend_name(self.env),
            "steps": self.plan.steps,
            "seeds": list(settings.seeds),
            "wall_seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "eval": {
                "iqm": iqm,
                "low": float(low),
                "high": float(high),
                "per_seed": per_seed.tolist(),
                "episodes": settings.final_episodes,
                "max_over_training": max(self.best, iqm) if settings.evaluations else None,
            },
            "reward_threshold": threshold,
            "solved": None if threshold is None else iqm >= threshold,
            "warnings": self.warnings,
        }
        write_json(self.folder / "result.json", result)
        page.write(self.folder)
        return Run(self.folder)

    def abandon(self) -> None:
        """Keep what there is of a run that will not be finished: its rows, and its last finite policies."""
        for sink in self._sinks:
            sink.close()
        if hasattr(self, "runner"):
            now = jax.device_get(self.runner.policies)
            self.runner.close()
            finite = all(np.isfinite(x).all() for x in jax.tree.leaves(now))
            kept = (now, self.steps_done) if finite else self.last_good
            if kept is not None:
                self.save_policies(*kept)
                page.write(self.folder)

    def _noted(self) -> tuple[str, ...]:
        """What the environment's guard made to fit since the last call."""
        return tuple(notes_of(self.env).take().values())

    def save_policies(self, stacked: Any, steps: int) -> None:
        """Write what acts after so many steps, of every seed."""
        for index, seed in enumerate(self.settings.seeds):
            parameters = jax.tree.map(lambda x, i=index: np.asarray(x[i]), stacked)
            path = self.folder / "policies" / f"seed-{seed}.safetensors"
            Policy(self.record, self.env.spec, parameters).save(path, seed=seed, steps=steps)

    def _write_config(self) -> None:
        settings = self.settings
        config = {
            "schema": 1,
            "ridgeline": importlib.metadata.version("ridgeline"),
            "command": settings.command,
            "algorithm": algorithm_name(self.algorithm),
            "env": self.env.spec.id,
            "source": settings.source,
            "backend": backend_name(self.env),
            "steps": self.plan.steps,
            "seeds": list(settings.seeds),
            "evaluations": settings.evaluations,
            "evaluation_episodes": settings.evaluation_episodes,
            "final_episodes": settings.final_episodes,
            "hyperparameters": record_to_json(self.record),
            "spec": spec_to_json(self.env.spec),
            "machine": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                "jax": jax.__version__,
                "devices": [str(device) for device in jax.devices()],
            },
        }
        write_json(self.folder / "config.json", config)


class Run:
    """A finished run, read from its folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = read_json(self.folder / "config.json")
        self.result: dict[str, Any] = read_json(self.folder / "result.json")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were trained."""
        return tuple(self.config["seeds"])

    @property
    def curves(self) -> curves.Curves:
        """Every metric over training: arrays [seeds, log points], with the IQM and its interval."""
        return curves.read(self.folder / "metrics.jsonl")

    def policy(self, seed: int, algorithm: Algorithm[Any, Any] | None = None) -> Policy:
        """The final policy of a seed. Pass the `algorithm` record if it has a custom encoder."""
        if seed not in self.seeds:
            raise UsageError(f"run {self.folder} has no seed {seed}: it has {', '.join(map(str, self.seeds))}")
        return load_policy(self.folder / "policies" / f"seed-{seed}.safetensors", algorithm)

    def report(self) -> Path:
        """Write the report anew; the path of its page."""
        return page.write(self.folder)


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
    between chunks. Further keywords are `env_timeout` (see `make`) and those of `Settings`.

    Raises: `UsageError` before anything is written.
    """
    training = start(algorithm, env, steps=steps, seeds=seeds, **settings)
    try:
        for progress in training:
            if callback is not None:
                callback(progress)
        return training.finish()
    except BaseException:
        training.abandon()
        raise


def start(
    algorithm: str | Algorithm[Any, Any],
    env: Any,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    backend: str | None = None,
    env_timeout: float | int | None = None,
    **settings: Any,
) -> Training:
    """What `train` runs, to be iterated over by hand. `env_timeout`: see `make`."""
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
    asked = Settings(chosen.steps if steps is None else steps, tuple(seeds), backend, **options)
    return Training(chosen.algorithm, found, asked)


def resolve(algorithm: str | Algorithm[Any, Any], env: Found) -> Preset:
    """The preset of a named algorithm for the environment; a record with the length its preset has."""
    if isinstance(algorithm, str):
        by_name(algorithm)
        return preset(algorithm, env.spec)
    name = algorithm_name(algorithm)
    return Preset(algorithm, preset(name, env.spec).steps if name in REGISTRY else 100_000)


def evaluate(
    policy: Policy, env: Any, *, episodes: int = FINAL_EPISODES, seed: int = FINAL_SEED, backend: str | None = None
) -> np.ndarray:
    """The returns [E] of greedy episodes. The same seed starts every policy alike, so compare pair by pair."""
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
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"seeds {settings.seeds} repeat: each may stand once")
    for name in ("evaluations", "evaluation_episodes", "final_episodes"):
        low = 0 if name == "evaluations" else 1
        if getattr(settings, name) < low:
            raise UsageError(f"{name} is {getattr(settings, name)}: it must be at least {low}")
    for seed in settings.seeds:
        if not 0 <= seed < 2**32:
            raise UsageError(f"seed {seed}: it must be from 0 to 2³² − 1")


def _check_memory(needed: int) -> None:
    if jax.default_backend() != "cpu" or not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UsageError(
            f"the run needs at least {needed / 2**30:.1f} GiB and this machine has {there / 2**30:.1f} GiB: "
            "lower num_envs, rollout_length, capacity, hidden or the number of seeds"
        )


def _new_folder(settings: Settings, algorithm: str, env: str) -> Path:
    """An empty folder for the run: under its name, or the first free number behind algorithm and environment."""
    base = settings.name or f"{algorithm}-{env.replace('/', '-').replace(':', '-')}"
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = settings.out / (base if settings.name else f"{base}-{number}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                if settings.name:
                    raise UsageError(f"run {folder} exists: choose another --run, or remove it") from None
                number += 1
        (folder / "policies").mkdir()
    except OSError as error:
        raise StorageError(
            f"{settings.out}: no run can be written there ({error.strerror}): give --out"
        ) from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `FileError` if it is none."""
    return curves.parse(curves.read_bytes(path), str(path))
