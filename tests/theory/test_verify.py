"""`ridgeline verify` as a user meets it."""

import re
import sys
from pathlib import Path

import pytest

from ridgeline import cli
from ridgeline.theory import properties, verify
from ridgeline.theory.conformance import CHECKS
from ridgeline.theory.property import Measured, Property
from ridgeline.theory.verify import properties_of


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def run(command: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    return stop.value.code


def only(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Leave those properties alone."""
    kept = [p for p in verify.all_properties() if p.number in numbers]
    monkeypatch.setattr(verify, "all_properties", lambda: kept)


def test_a_row_for_each_property_and_how_many_hold(monkeypatch, capsys):
    only(monkeypatch, 7)
    assert run("verify") == 0
    header, row, count = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["#", "property", "systems"]
    assert re.search(r"^7 .* ppo, vpg, trpo .* \d\.\de-\d+ +\d\.\de-\d+ +slow loop +ok +\d+\.\d *$", row)
    assert count == "1 of 1"


def test_broken_code_fails_and_leaves_with_4(monkeypatch, capsys):
    from ridgeline.theory.properties import returns

    shipped = returns.gae
    monkeypatch.setattr(
        returns, "gae", lambda r, v, w, t, e, gamma, lambda_: shipped(r, v, w, e, e, gamma, lambda_)
    )
    only(monkeypatch, 7)
    assert run("verify ppo") == 4
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert shown.endswith("0 of 1\n")


def test_a_system_has_the_properties_that_name_it():
    numbers = {p.number for p in properties_of("dqn")}
    assert {5, 8, 9, 20, 21, 22} <= numbers
    assert not {7, 18} & numbers


def test_the_probes_of_a_system_train_no_other():
    (probes,) = [p for p in properties_of("vpg") if p.number == 22]
    assert probes.systems == ("vpg",)
    assert probes.measure.args == ("vpg",)


def test_an_unknown_system_is_named(capsys):
    assert run("verify foo") == 2
    assert "no system 'foo': there are ac, " in capsys.readouterr().err


def test_what_full_takes_is_passed_on(monkeypatch):
    taken = []
    one = Property(1, "t", ("ppo",), "", lambda full: taken.append(full) or [Measured("x", 0.0, 0.0)])
    monkeypatch.setattr(verify, "all_properties", lambda: [one])
    assert run("verify") == 0
    assert run("verify ppo --full") == 0
    assert taken == [False, True]


def test_nothing_runs_but_what_the_package_holds():
    assert all(p.measure.__module__.startswith(properties.__name__) for p in verify.all_properties())


OWN = """
import jax, jax.numpy as jnp
from ridgeline.algorithms.ppo import PPO
from ridgeline.types import Continuous
from ridgeline.errors import UsageError

class Mine(PPO):
    def check(self, spec):
        if spec.id != "Discrete":
            raise UsageError("discrete only")

@jax.custom_vjp
def crooked(x):
    return x
crooked.defvjp(lambda x: (x, None), lambda _, g: (1.1 * g,))

class Crooked(Mine):
    def objective(self, *given):
        loss, metrics = super().objective(*given)
        return crooked(loss), metrics | {"Loss": jnp.full((), jnp.inf)}

NUMBER = 3
"""


@pytest.mark.parametrize(
    ("name", "code", "failed"), [("Mine", 0, []), ("Crooked", 4, ["Metrics are", "the gradient of `objective`"])]
)
def test_an_algorithm_of_ones_own(tmp_path, capsys, name, code, failed):
    (tmp_path / f"own_{name.lower()}.py").write_text(OWN)
    assert run(f"verify own_{name.lower()}:{name}") == code
    shown = capsys.readouterr()
    rows = [line for line in shown.out.splitlines() if "FAILED" in line]
    assert len(rows) == len(failed)
    assert all(word in row for word, row in zip(failed, rows, strict=True))
    total = len(CHECKS) + 1
    assert shown.out.endswith(f"{total - len(failed)} of {total}\n")
    assert "the probes were not run" in shown.err


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere:Mine", "cannot import nowhere"), ("own_x:NUMBER", "own_x:NUMBER is no Algorithm")],
)
def test_what_is_no_algorithm_is_refused(tmp_path, capsys, source, said):
    (tmp_path / "own_x.py").write_text("NUMBER = 3\n")
    assert run(f"verify {source}") == 2
    assert said in capsys.readouterr().err
