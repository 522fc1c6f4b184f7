"""What the terminal says of a run while it goes."""

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

import ridgeline
from ridgeline.environments.probes import Forever
from ridgeline.experiments import progress as terminal
from ridgeline.memory import Replay

DIVERGING = ridgeline.DQN(
    learning_rate=1e3, hidden=(8,), replay=Replay(capacity=256, batch_size=8, warmup=0, updates=4)
)
QUICK: dict[str, Any] = {"steps": 320, "seeds": 2, "evaluations": 0, "final_episodes": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[ridgeline.Run, str, str]]:
    """By learning rate: the run, and what it says in a terminal and where nobody watches."""
    found = {}
    for rate in (1e3, 1e-3):
        record, folder = dataclasses.replace(DIVERGING, learning_rate=rate), tmp_path_factory.mktemp("runs")
        console = Console(file=io.StringIO(), force_terminal=True, width=400)
        plain = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(terminal, "Console", lambda **_: console)
            terminal.show(ridgeline.start(record, Forever(), out=folder, **QUICK), quiet=False)
            patch.undo()
            patch.setattr("sys.stderr", plain)
            run = terminal.show(ridgeline.start(record, Forever(), out=folder, **QUICK), quiet=False)
        found[rate] = run, console.file.getvalue(), plain.getvalue()
    return found


def test_a_diverging_critic_is_named_everywhere(runs: dict[float, tuple[ridgeline.Run, str, str]]) -> None:
    run, watched, plain = runs[1e3]
    warnings = run.result["warnings"]
    assert [text.split(":")[0] for text in warnings] == ["seed 0", "seed 1"]
    page = (run.folder / "report.html").read_text()
    for text in warnings:
        assert "the critic diverges; lower learning_rate" in text
        assert watched.count(f"warning: {text}") == plain.count(f"warning: {text}\n") == 1
        assert page.count(f"Warning: {text}") == 1
    rows = [row for row in run.curves.get("train/divergence")[0]]
    assert f"{float(f'{next(x for x in rows if x > 2):.3g}'):,g} times" in warnings[0]


def test_a_healthy_one_is_not(runs: dict[float, tuple[ridgeline.Run, str, str]]) -> None:
    run, *said = runs[1e-3]
    assert run.result["warnings"] == []
    assert not any("warning" in text for text in said)
    assert "Warning" not in (run.folder / "report.html").read_text()
