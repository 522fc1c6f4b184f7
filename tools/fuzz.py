"""Fuzz what reads files: whatever a file holds, the answer is an object or one of our errors, soon.

    uv run --with atheris python tools/fuzz.py policy --runs 100000
    uv run python tools/fuzz.py policy                # Hypothesis, where atheris is not installed

A target writes the input to a file and opens it. Everything but a `RidgelineError` is a finding: the error is
shown, its input is kept in fuzz-TARGET.bin, and the exit code is not 0.
"""

import argparse
import dataclasses
import functools
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError

SECONDS = 1.0  # of the processor, that one input may take


@dataclasses.dataclass(frozen=True)
class Target:
    """How a kind of file is opened, and whole examples of it to begin from."""

    prepare: Callable[[], Callable[[Path], Any]]  # makes what opens a file
    examples: Callable[[], list[bytes]]


def _policy() -> list[bytes]:
    """Small policies of three kinds."""
    import jax

    import ridgeline
    from ridgeline.environments.classic import CartPole, Pendulum
    from ridgeline.experiments.policy import Policy

    found = []
    for record, env in [
        (ridgeline.PPO(hidden=(2,), normalise_observations=True), CartPole()),
        (ridgeline.DQN(hidden=(2,), dueling=True, layer_norm=True), CartPole()),
        (ridgeline.DDPG(hidden=(2,)), Pendulum()),
    ]:
        state = jax.jit(lambda a, env=env: a.policy(a.init(jax.random.key(0), env.spec)))(record)
        with tempfile.TemporaryDirectory() as folder:
            Policy(record, env.spec, jax.device_get(state)).save(Path(folder) / "it", seed=0, steps=1)
            found.append((Path(folder) / "it").read_bytes())
    return found


def _open_policy(path: Path) -> None:
    from ridgeline.experiments.policy import load
    from ridgeline.numpy_policy import load as load_numpy

    for opening in (load, load_numpy):
        try:
            opening(path)
        except RidgelineError as error:
            assert str(error).isprintable(), "the message is more than a line"  # noqa: PT017


def _resealed(path: Path) -> None:
    """The same of a file whose checksum is made right, so that what lies behind it is reached."""
    from ridgeline import safe

    try:
        metadata, places = safe.read_arrays(path)
        arrays = dict(places)
        text = metadata.get("ridgeline", "")
        import safetensors.numpy

        sealed = {"ridgeline": text, "sha256": safe.digest(text, arrays)}
        path.write_bytes(safetensors.numpy.save(arrays, metadata=sealed))
    except (RidgelineError, UnicodeEncodeError):
        return
    _open_policy(path)


@functools.cache
def _run() -> dict[str, bytes]:
    """The files of a small run, by their path in its folder."""
    import ridgeline

    record = ridgeline.DQN(
        hidden=(2,), num_envs=1, rollout_length=1, replay=ridgeline.Replay(capacity=8, batch_size=2)
    )
    with tempfile.TemporaryDirectory() as folder:
        run = ridgeline.train(
            record,
            "CartPole-v1",
            steps=6,
            seeds=2,
            evaluations=2,
            final_episodes=2,
            out=folder,
            compile_cache=False,
        )
        paths = [path for path in run.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(run.folder)): path.read_bytes() for path in paths}


def _file(suffix: str) -> Callable[[], list[bytes]]:
    return lambda: [data for name, data in _run().items() if name.endswith(suffix)]


def _in_checkpoint(name: str, reseal: bool) -> Callable[[], Callable[[Path], None]]:
    """A checkpoint in which the input takes the place of that file; its digest made right, if asked."""

    def prepare() -> Callable[[Path], None]:
        from ridgeline.experiments import checkpoint
        from ridgeline.experiments.standing import standing

        home = Path(tempfile.mkdtemp()) / "checkpoints" / "000001"
        home.mkdir(parents=True)
        for each, data in _run().items():
            if each.startswith("checkpoints/000001/"):
                (home / Path(each).name).write_bytes(data)
        manifest = json.loads((home / "manifest.json").read_text())["manifest"]

        def open_(path: Path) -> None:
            data = path.read_bytes()
            if reseal:
                try:
                    data = checkpoint._signed(json.loads(data)["manifest"])
                except (KeyError, RecursionError, TypeError, ValueError):  # nothing that could be sealed
                    return
            (home / name).write_bytes(data)
            found = checkpoint.read(home)
            assert reseal or {k: v for k, v in manifest.items() if k != "arrays"} == found.facts
            standing(found, 2)

        return open_

    return prepare


def _open_config(path: Path) -> None:
    """As `resume` reads it, up to where the environment is made."""
    from ridgeline.algorithms import REGISTRY
    from ridgeline.experiments.config import read_config, record_from_json, spec_from_json

    (path.parent / "config.json").write_bytes(path.read_bytes())
    config = read_config(path.parent)
    spec_from_json(config["spec"], "config.json")
    if config["algorithm"] in REGISTRY:
        record_from_json(REGISTRY[config["algorithm"]](), config["hyperparameters"], "config.json")


def _open_metrics(path: Path) -> None:
    """As the report reads it."""
    from ridgeline.report import curves

    found = curves.read(path)
    for values in found.values.values():
        assert values.shape == (len(found.seeds), len(found.steps))


def _open_result(path: Path) -> None:
    from ridgeline.report.result import read_result, summary

    list(summary(read_result(path)))


TARGETS = {
    "policy": Target(lambda: _open_policy, _policy),
    "policy-resealed": Target(lambda: _resealed, _policy),
    "checkpoint-manifest": Target(_in_checkpoint("manifest.json", False), _file("000001/manifest.json")),
    "checkpoint-resealed": Target(_in_checkpoint("manifest.json", True), _file("000001/manifest.json")),
    "checkpoint-arrays": Target(_in_checkpoint("arrays.safetensors", False), _file("000001/arrays.safetensors")),
    "config": Target(lambda: _open_config, _file("config.json")),
    "metrics": Target(lambda: _open_metrics, _file("metrics.jsonl")),
    "result": Target(lambda: _open_result, _file("result.json")),
}


class Trial:
    """Opens one input after another; keeps the longest time, of the processor, and the most memory."""

    warm = 4

    def __init__(self, target: Target, keep: Path, folder: Path):
        self.open, self.keep, self.path = target.prepare(), keep, folder / "input"
        self.count, self.slowest, self.largest = 0, 0.0, 0

    def __call__(self, data: bytes) -> None:
        """Open it. An error that is not ours is a finding; so is a second of time, or twice the file and 64 MiB.

        Every hundredth input is opened with its allocations traced, which slows it down: its time is not counted.
        """
        self.path.write_bytes(data)
        if traced := self.count % 100 == 1:
            tracemalloc.start()
        begun = time.process_time()
        try:
            self.open(self.path)
        except RidgelineError:
            pass
        except BaseException:
            self.keep.write_bytes(data)
            raise
        took = time.process_time() - begun
        self.count += 1
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.largest = max(self.largest, peak)
            if peak > 2 * len(data) + 64 * 2**20:
                self.keep.write_bytes(data)
                raise MemoryError(f"{peak:,} bytes for one input of {len(data):,}")
        elif self.count > self.warm:  # the first ones import and compile
            self.slowest = max(self.slowest, took)
            if took > SECONDS:
                self.keep.write_bytes(data)
                raise TimeoutError(f"{took:.1f} s for one input")

    def say(self, target: str, engine: str, seconds: float) -> None:
        """One line of figures."""
        print(
            f"{target}: {self.count:,} inputs by {engine} in {seconds:.0f} s, slowest {self.slowest:.3f} s, "
            f"at most {self.largest / 2**20:.1f} MiB, none but our errors",
            flush=True,
        )


def with_atheris(
    atheris: Any, trial: Callable[[bytes], None], examples: list[bytes], runs: int, folder: Path
) -> None:
    """Guided by which lines of the readers an input reaches. It ends the process."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, example in enumerate(examples):
        (corpus / str(i)).write_bytes(example)
    from ridgeline import adapter, numpy_policy, safe, specs
    from ridgeline.experiments import checkpoint, config, standing
    from ridgeline.report import curves, result

    for module in (adapter, numpy_policy, safe, specs, checkpoint, config, standing, curves, result):
        for name, function in list(vars(module).items()):
            if (
                callable(function)
                and getattr(function, "__module__", "") == module.__name__
                and not isinstance(function, type)
            ):
                setattr(module, name, atheris.instrument_func(function))
    longest = 2 * max(map(len, examples))
    arguments = [f"-runs={runs}", f"-max_len={longest}", "-print_final_stats=1", "-timeout=10", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], trial)
    atheris.Fuzz()


def with_hypothesis(trial: Trial, examples: list[bytes], runs: int) -> None:
    """Examples with bits flipped, pieces cut, moved, doubled and replaced."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    @st.composite
    def mutated(draw: Any) -> bytes:
        data = bytearray(draw(st.sampled_from(examples)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(data) - 1)))
            match draw(st.sampled_from(["flip", "cut", "insert", "replace", "double", "number"])):
                case "flip" if data:
                    data[at] ^= 1 << draw(st.integers(0, 7))
                case "cut":
                    del data[at : at + draw(st.integers(1, 64))]
                case "insert":
                    data[at:at] = draw(st.binary(max_size=16))
                case "double":
                    data[at:at] = data[at : at + draw(st.integers(1, 64))]
                case "number":
                    data[at : at + 1] = str(draw(st.integers(-(2**70), 2**70))).encode()
                case _:
                    new = draw(st.sampled_from([b"null", b"[]", b"{}", b"-1", b"1e999", b'"', b"NaN", b"true"]))
                    data[at : at + len(new)] = new
        return bytes(data)

    @settings(
        max_examples=runs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated())
    def run(data: bytes) -> None:
        trial(data)

    run()


def main() -> int:
    """Run one target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="atheris where it is installed")
    options = parser.parse_args()
    target = TARGETS[options.target]
    examples = target.examples()
    try:
        import atheris
    except ImportError:
        atheris = None
    engine = options.engine or ("atheris" if atheris else "hypothesis")
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(target, Path(f"fuzz-{options.target}.bin"), Path(name))
        for example in examples:
            trial(example)
        begun = time.perf_counter()
        if engine == "atheris":

            def one(data: bytes) -> None:
                trial(data)
                if trial.count == options.runs:  # atheris ends the process
                    trial.say(options.target, engine, time.perf_counter() - begun)

            with_atheris(atheris, one, examples, options.runs, Path(name))
        else:
            with_hypothesis(trial, examples, options.runs)
        trial.say(options.target, engine, time.perf_counter() - begun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
