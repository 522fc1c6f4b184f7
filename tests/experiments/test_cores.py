"""How many devices and threads a run computes with."""

import dataclasses
import os
import subprocess
import sys

import pytest

from ridgeline import DQN, PG, PPO, Replay
from ridgeline.environments import make
from ridgeline.experiments.cores import THREADS, arrange_cores, cores, has_large_products
from ridgeline.types import ArraySpec

CODE = """
import os, sys
import jax
import ridgeline
from ridgeline.environments import make
from ridgeline.experiments.cores import THREADS, arrange_cores, threads
width, rows, seeds = map(int, sys.argv[1:])
record = ridgeline.PPO(hidden=(width,), batch_size=rows)
arrange_cores(record, make("CartPole-v1").spec, seeds)
print(jax.device_count(), os.environ.get(THREADS), threads())
"""
ALL = str(cores())


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ((64, 256, 1), ["1", "1", "1"]),
        ((64, 256, 1000), [ALL, ALL, ALL]),
        ((256, 256, 1), ["1", "None", ALL]),
    ],
)
def test_cores_are_arranged_for_the_seeds_and_the_products(sizes: tuple[int, ...], found: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (THREADS, "NPROC")}
    words = [sys.executable, "-c", CODE, *map(str, sizes)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == found


def test_a_jax_that_has_started_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    arrange_cores(PPO(), make("CartPole-v1").spec, 1)
    assert THREADS not in os.environ


def test_products_are_large_where_rows_and_width_are() -> None:
    spec = make("CartPole-v1").spec
    assert not has_large_products(DQN(hidden=(1024, 1024), replay=Replay(batch_size=64)), spec)
    assert not has_large_products(PPO(hidden=(128, 128)), spec)
    assert not has_large_products(PG(), spec)
    assert has_large_products(PPO(hidden=(64, 256)), spec)
    assert has_large_products(PG(hidden=(256,)), spec)
    image = dataclasses.replace(spec, observation=ArraySpec((84, 84, 4), "uint8"))
    assert has_large_products(DQN(), image)
