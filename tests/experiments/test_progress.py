"""What the terminal says of a run while it goes."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import ridgeline
from ridgeline.environments.probes import Forever
from ridgeline.experiments import progress
from ridgeline.memory import Replay

DIVERGING = ridgeline.DQN(
    learning_rate=1e3, hidden=(8,), replay=Replay(capacity=256, batch_size=8, warmup=0, updates=4)
)
QUICK: dict[str, Any] = {"steps": 320, "seeds": 2, "evaluations": 0, "final_episodes": 1}


@pytest.mark.parametrize("watched", [True, False])
def test_a_critic_that_diverges_is_named_everywhere(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=watched, width=400)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr("sys.stderr", said)
    run = progress.show(ridgeline.start(DIVERGING, Forever(), out=tmp_path, **QUICK), quiet=False)
    warnings = run.result["warnings"]
    assert [text.split(":")[0] for text in warnings] == ["seed 0", "seed 1"]
    page = (run.folder / "report.html").read_text()
    for text in warnings:
        assert "the critic diverges; lower learning_rate" in text
        assert said.getvalue().count(f"warning: {text}") == page.count(f"Warning: {text}") == 1
    first = next(value for value in run.curves.get("train/divergence")[0] if value > 2)
    assert f"{float(f'{first:.3g}'):,g} times" in warnings[0]
