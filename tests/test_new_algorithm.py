"""A new algorithm is one file (throwaway.py) and one line of the registry: all else works for it as it stands."""

import json
from pathlib import Path

import pytest
from throwaway import A2C

from ridgeline import cli
from ridgeline.algorithms import REGISTRY
from ridgeline.environments.probes import Probe
from ridgeline.theory.conformance import CHECKS, TINY, WORLDS, learn
from ridgeline.theory.probes import CHOOSING, QUICK, accepts, kinds, misses, shrunk, train


@pytest.fixture(autouse=True)
def _one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "a2c", A2C)
    monkeypatch.chdir(tmp_path)


def run(command: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    return stop.value.code


def test_it_is_trained_judged_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    few = "--seeds 2 --evaluations 1 --evaluation-episodes 2 --final-episodes 2 --hidden 8"
    assert run(f"train a2c CartPole-v1 --steps 640 --value-learning-rate 0.01 {few}") == 0
    assert "report.html" in capsys.readouterr().out
    folder = Path("runs/a2c-CartPole-v1-1")
    assert json.loads((folder / "config.json").read_text())["hyperparameters"]["value_learning_rate"] == 0.01
    assert "train/value_loss" in (folder / "metrics.jsonl").read_text()
    assert run("evaluate a2c-CartPole-v1-1 --episodes 2") == 0
    assert run("list") == 0
    assert "a2c" in capsys.readouterr().out


@pytest.mark.parametrize("world", WORLDS)
def test_it_conforms_in_every_space(world: str) -> None:
    algorithm = shrunk(A2C, TINY)
    assert accepts(algorithm, WORLDS[world])
    trained = learn(algorithm, WORLDS[world])
    assert [wrong for check in CHECKS for wrong in check(trained)] == []


@pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])
def test_both_runners_teach_it_the_probes(hosted: bool) -> None:
    algorithm = shrunk(A2C, QUICK)
    assert kinds(algorithm) == [False, True]
    for probe in CHOOSING:
        env = Probe(probe)
        missed = misses(algorithm, env, train(algorithm, env, (0, 1, 2), hosted))
        assert (missed["action"] <= 0.1).all()
