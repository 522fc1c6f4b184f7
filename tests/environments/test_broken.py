"""Every broken environment × PPO, DQN and DDPG: a named error of one line, or a coercion that is said once.

On the command line as its user meets it, in this process. Without `--full` each case meets one of its algorithms.
"""

import functools
import json
import re
from pathlib import Path

import broken
import numpy as np
import pytest
from broken import CASES
from safetensors.numpy import load_file

from ridgeline import cli
from ridgeline.training import evaluation

COMMON = "--seeds 1 --num-envs 2 --hidden 4 --evaluations 1 --evaluation-episodes 2 --final-episodes 2 --quiet"
MEMORY = "--rollout-length 4 --capacity 64 --batch-size 8 --warmup 8 --updates 1"
ALGORITHMS = {
    "ppo": "--steps 32 --rollout-length 8 --batch-size 8 --epochs 1 --no-normalise-observations --shared",
    "dqn": f"--steps 32 {MEMORY}",
    "ddpg": f"--steps 32 {MEMORY}",
}
PAIRS = {
    "discrete": ("ppo", "dqn"),
    "continuous": ("ddpg", "ppo"),
}


def table():
    """Each case with each algorithm that its actions suit; but for one, in turn, they are slow."""
    for number, (name, case) in enumerate(CASES.items()):
        mine = [(algorithm, kind) for kind in case.kinds for algorithm in PAIRS[kind]]
        for i, (algorithm, kind) in enumerate(mine):
            marks = [] if i == number % len(mine) and not case.slow else [pytest.mark.slow]
            yield pytest.param(name, algorithm, kind, marks=marks, id=f"{name}-{algorithm}-{kind}")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 20)
    broken.ALONE.clear()
    broken.Crowd.count = 0


def train(case: str, algorithm: str, kind: str, out: str) -> int:
    """The exit code of a run."""
    env = "broken:" + case + ("_continuous" if kind == "continuous" else "")
    flags = f"{COMMON} {ALGORITHMS[algorithm]} {CASES[case].flags} --run {out}"
    backend = "" if "--backend" in flags else "--backend gymnasium"
    with pytest.raises(SystemExit) as stop:
        cli.main(f"train {algorithm} {env} {flags} {backend}".split())
    return stop.value.code


def policies(out: str) -> dict[str, np.ndarray]:
    """What the run of that name has saved; nothing where it saved none."""
    path = Path("runs") / out / "policies" / "seed-0.safetensors"
    return load_file(path) if path.exists() else {}


@functools.cache
def sound(algorithm: str, kind: str) -> dict[str, np.ndarray]:
    """What is learned where nothing is broken."""
    assert train("sound", algorithm, kind, f"sound-{algorithm}-{kind}") == 0
    return policies(f"sound-{algorithm}-{kind}")


@pytest.mark.parametrize(("case", "algorithm", "kind"), list(table()))
def test_a_broken_environment_is_named_or_made_to_fit(
    case: str, algorithm: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = CASES[case]
    code = train(case, algorithm, kind, "mine")
    said = capfd.readouterr().err
    allowed = (expected.code,) if isinstance(expected.code, int) else expected.code
    assert code in allowed, said
    assert "Traceback" not in said
    assert all(np.isfinite(x).all() for x in policies("mine").values())
    if code:
        assert re.fullmatch(r"ridgeline: .*\n", said), said
        assert re.search(expected.says, said), said
        return
    assert said == ""
    warnings = json.loads(Path("runs/mine/result.json").read_text())["warnings"]
    about = [line for line in warnings if "diverges" not in line]
    if expected.says:
        assert [line for line in about if re.search(expected.says, line)] == [about[0]], about
        assert len(about) == len({re.sub("^.*?: ", "", line) for line in about})
    elif isinstance(expected.code, int):
        assert about == []
    if expected.same:
        right = sound(algorithm, kind)
        assert policies("mine").keys() == right.keys()
        for name, array in policies("mine").items():
            np.testing.assert_array_equal(array, right[name])


def test_the_table_is_large_and_names_every_exit_code() -> None:
    assert len(CASES) >= 80
    assert {code for case in CASES.values() if isinstance(code := case.code, int)} == {0, 2, 3, 7}
