"""Fuzz what reads files: whatever a file holds, the answer is an object or one of our errors, soon.

    uv run --with atheris python tools/fuzz.py policy --runs 100000
    uv run python tools/fuzz.py policy                # Hypothesis, where atheris is not installed

A target writes the input to a file and opens it. Everything but a `RidgelineError` is a finding: the error is
shown, its input is kept in fuzz-TARGET.bin, and the exit code is not 0.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ridgeline.errors import RidgelineError


@dataclasses.dataclass(frozen=True)
class Target:
    """How a kind of file is opened, and whole examples of it to begin from."""

    open: Callable[[Path], Any]
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


TARGETS = {
    "policy": Target(_open_policy, _policy),
    "policy-resealed": Target(_resealed, _policy),
}


class Trial:
    """Opens one input after another and keeps the slowest time."""

    def __init__(self, target: Target, keep: Path, folder: Path):
        self.target, self.keep, self.path = target, keep, folder / "input"
        self.count, self.slowest = 0, 0.0

    def __call__(self, data: bytes) -> None:
        """Open it. An error that is not ours is a finding, and so is one that took longer than five seconds."""
        self.path.write_bytes(data)
        begun = time.process_time()
        try:
            self.target.open(self.path)
        except RidgelineError:
            pass
        except BaseException:
            self.keep.write_bytes(data)
            raise
        took = time.process_time() - begun
        self.count, self.slowest = self.count + 1, max(self.slowest, took if self.count else 0)
        if self.count > 1 and took > 5:
            self.keep.write_bytes(data)
            raise TimeoutError(f"{took:.1f} s for one input")


def with_atheris(atheris: Any, trial: Trial, examples: list[bytes], runs: int, folder: Path) -> None:
    """Guided by which lines of the readers an input reaches. It ends the process."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, example in enumerate(examples):
        (corpus / str(i)).write_bytes(example)
    from ridgeline import adapter, numpy_policy, safe, specs

    for module in (adapter, numpy_policy, safe, specs):
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
            with_atheris(atheris, trial, examples, options.runs, Path(name))
        else:
            with_hypothesis(trial, examples, options.runs)
        print(
            f"{options.target}: {trial.count:,} inputs by {engine} in {time.perf_counter() - begun:.0f} s, "
            f"slowest {trial.slowest:.2f} s, none but our errors"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
