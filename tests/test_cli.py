"""The command line as a user meets it: one process a case would cost seconds, so `main` is called."""

import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ridgeline import cli
from ridgeline.algorithms import REGISTRY
from ridgeline.cli.words import parse_seeds

QUICK = [
    "--evaluation-episodes",
    "2",
    "--evaluations",
    "1",
    "--final-episodes",
    "3",
    "--hidden",
    "8",
    "--seeds",
    "2",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    return


def run(command: str | list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split() if isinstance(command, str) else command)
    return stop.value.code


def test_train_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "ppo", "CartPole-v1", "--steps", "600", *QUICK]) == 0
    shown = capsys.readouterr()
    assert "Episode return" in shown.out
    assert "report.html" in shown.out
    assert re.search(r"compiled in [\d.]+ s", shown.err)
    assert re.search(r"768 steps +[\d,]+ steps/s +return [\d.]+ \[", shown.err)
    folder = tmp_path / "runs" / "ppo-CartPole-v1-1"
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    policies = {f"policies/seed-{seed}.safetensors" for seed in (0, 1)}
    checkpoint = {f"checkpoints/000001/{name}" for name in ("manifest.json", "arrays.safetensors")}
    assert names == {".lock", "config.json", "metrics.jsonl", "result.json", "report.html"} | policies | checkpoint
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 768  # 600 rounded up to whole iterations of 8 × 32
    assert set(result["wall_seconds"]) == {"import", "compile", "run"}
    assert len(result["eval"]["per_seed"]) == 2

    assert run("evaluate ppo-CartPole-v1-1 --episodes 3") == 0
    table = capsys.readouterr().out
    for mean in result["eval"]["per_seed"]:  # the same starts, so the same returns
        assert f"{mean:.2f}" in table


@pytest.mark.parametrize("name", REGISTRY)
def test_every_algorithm_has_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of TRPO and of its memory share a name: one is told from the other."""
    env = "CartPole-v1" if name in ("pg", "vpg", "dqn") else "Pendulum-v1"
    assert run(f"train {name} {env} --help") == 0
    said = capsys.readouterr().out
    assert "--gamma" in said
    assert ("--replay.batch-size" in said) == (name == "trpo")
    assert "--steps" in said


def test_quiet_prints_only_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "dqn", "CartPole-v1", "--steps", "300", "--quiet", "--run", "mine", *QUICK]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "runs/mine/report.html" in shown.out


def test_sinks(tmp_path: Path) -> None:
    command = [
        "train",
        "ppo",
        "CartPole-v1",
        "--steps",
        "512",
        "--quiet",
        "--run",
        "sinks",
        "--csv",
        "--tensorboard",
    ]
    assert run([*command, *QUICK]) == 0
    header, *rows = (tmp_path / "runs/sinks/metrics.csv").read_text().splitlines()
    assert "rollout/ep_rew_mean" in header.split(",")
    assert len(rows) == 4  # two iterations of two seeds
    assert len(list((tmp_path / "runs/sinks/tensorboard").rglob("events*"))) == 2


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "usage"),
        ("tran ppo CartPole-v1", "did you mean train?"),
        ("train", "needs ALGORITHM"),
        ("train ppo", "needs ALGORITHM|needs ENVIRONMENT"),
        ("train pppo CartPole-v1", "did you mean ppo?"),
        ("train ppo CartPol-v1", "did you mean CartPole-v1"),
        ("train ppo nowhere:Env-v0", "nowhere"),
        ("train dqn Pendulum-v1", "Discrete actions"),
        ("train ppo CartPole-v1 --backend jaxx", "did you mean jax?"),
        ("train ppo CartPole-v1 --gama 0.9", "did you mean --gamma"),
        ("train ppo CartPole-v1 --gamma x", "--gamma"),
        ("train ppo CartPole-v1 --gamma nan", "gamma is nan"),
        ("train ppo CartPole-v1 --gamma 1.5", "gamma is 1.5"),
        ("train ppo CartPole-v1 --learning-rate inf", "learning_rate"),
        ("train ppo CartPole-v1 --num-envs 0", "num_envs is 0"),
        ("train ppo CartPole-v1 --num-envs 100000000 --batch-size 8", "GiB"),
        ("train dqn CartPole-v1 --capacity 2000000000", "GiB"),
        ("train ppo CartPole-v1 --hidden 0", "hidden is 0"),
        ("train ppo CartPole-v1 --batch-size 100", "does not divide"),
        ("train dqn CartPole-v1 --batch-size 200000", "capacity"),
        ("train dqn CartPole-v1 --capacity 20", "capacity"),
        ("train ppo CartPole-v1 --steps 0", "steps is 0"),
        ("train ppo CartPole-v1 --steps -5", "steps is -5"),
        ("train ppo CartPole-v1 --steps 99999999999999999999", "steps"),
        ("train ppo CartPole-v1 --steps 1000000000000000", "iterations"),
        ("train ppo CartPole-v1 --seeds x", "seeds 'x'"),
        ("train ppo CartPole-v1 --seeds 3,3", "repeat"),
        ("train ppo CartPole-v1 --seeds=-1", "seeds '-1'"),
        ("train ppo CartPole-v1 --evaluations -1", "evaluations is -1"),
        ("train ppo CartPole-v1 --run ../outside", "run"),
        ("evaluate nothing", "no run"),
        ("evaluate . --episodes 0", "episodes is 0"),
    ],
)
def test_bad_input_says_what_and_writes_nothing(
    command: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 2
    shown = capsys.readouterr()
    assert re.search(says, shown.err + (shown.out if not command else ""))
    assert len(shown.err.splitlines()) <= 3
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_the_run_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train ppo CartPole-v1 --dry-run --steps 256 --seeds 2 --final-episodes 1 --no-compile-cache") == 0
    said = capsys.readouterr().out
    names = ["device", "memory", "compile", "train", "evaluate", "whole"]
    assert [line.split()[0] for line in said.splitlines() if line[0] != " "] == names
    assert "2 seeds × 256 steps" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_exit_code_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(f"train ppo CartPole-v1 --out {tmp_path}/file/runs") == 6
    assert "no run can be written there" in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert run("train ppo CartPole-v1 --run mine") == 2
    assert "exists" in capsys.readouterr().err
    assert list((tmp_path / "runs" / "mine").iterdir()) == []


def test_a_name_is_not_taken_by_a_run_that_was_killed_before_it_began(tmp_path: Path) -> None:
    """Before `config.json` was there; the same command does it again."""
    (left := tmp_path / "runs" / "mine" / "policies").mkdir(parents=True)
    for name in (".lock", "config.json.partial"):
        (left.parent / name).write_text("{")
    assert run(["train", "ppo", "CartPole-v1", "--steps", "256", "--run", "mine", *QUICK]) == 0
    assert run(["train", "ppo", "CartPole-v1", "--steps", "256", "--run", "mine", *QUICK]) == 2


class Fickle(gymnasium.Env):
    """Well-behaved until its sixth step; what happens then is decided by `fault`."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    fault = ""

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward, terminated = np.zeros(2, np.float32), 1.0, False
        if self.steps == 6:
            obs = {"nan": np.full(2, np.nan, np.float32), "shape": np.zeros(3, np.float32)}.get(self.fault, obs)
            obs = "text" if self.fault == "type" else None if self.fault == "none" else obs
            reward = float("inf") if self.fault == "reward" else reward
            terminated = 2 if self.fault == "flag" else terminated
            if self.fault == "raises":
                raise ValueError("the simulator fell over")
        return obs, reward, terminated, self.steps % 4 == 0, {}


@pytest.mark.parametrize(
    ("fault", "code", "field"),
    [
        ("nan", 3, "observation"),
        ("shape", 3, "observation"),
        ("type", 3, "observation"),
        ("none", 3, "observation"),
        ("reward", 3, "reward"),
        ("flag", 3, "terminated"),
        ("raises", 7, "the simulator fell over"),
    ],
)
def test_a_broken_environment_is_named(
    fault: str,
    code: int,
    field: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Fickle, "fault", fault)
    command = f"train ppo {__name__}:Fickle --steps 64 --num-envs 2 --rollout-length 8 --batch-size 16 --quiet"
    assert run([*command.split(), *QUICK]) == code
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert re.search(r"environment 0\b", message)
    assert re.search("step 2 of the episode", message)
    assert field in message


def test_a_run_says_which_module_it_needs_and_imports_nothing_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = f"{__name__}:Fickle"
    command = f"train ppo {own} --steps 32 --num-envs 2 --rollout-length 8 --batch-size 16 --quiet --run own"
    assert run([*command.split(), *QUICK]) == 0
    assert run("evaluate own --episodes 2") == 2
    assert f"--env {own}" in capsys.readouterr().err
    assert run(f"evaluate own --episodes 2 --env {own}") == 0


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("7,", (7,)), ("3,5,8", (3, 5, 8)), ("20:23", (20, 21, 22))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


def test_list_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("ppo", "dqn", "CartPole-v1", "LunarLander-v3", "devices"))
    assert "BAD" not in shown
