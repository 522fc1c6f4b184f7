"""Speed, held by what can be counted: operations, matrix products and bytes copied of the compiled work."""

import json
from typing import Any

import jax
import pytest
from miniatures import TwinFactory

from benchmarks.counts import RESULTS, Counts, compiled_works, count, counts_of
from benchmarks.speed.work import WORKS
from ridgeline.algorithms.ddpg import DDPG
from ridgeline.environments.classic import Pendulum
from ridgeline.memory import Replay
from ridgeline.training import hosted
from ridgeline.training.hosted import Hosted

RECORDED = json.loads(RESULTS.read_text())
SAMPLE = ("pendulum-ppo", "pendulum-sac-64", "cartpole-dqn-64", "cartpole-trpo")
# XLA chooses by the processor how it splits a sum or tiles a product.
ROOM = 1.05


@pytest.mark.parametrize(
    "name", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in compiled_works()]
)
def test_no_work_has_become_more(name: str) -> None:
    """If it must, `python -m benchmarks.counts` writes the new counts; the change says what they are spent on."""
    if jax.__version__ != RECORDED["jax"]:
        pytest.skip(f"the counts are those of JAX {RECORDED['jax']}")
    for part, found in counts_of(WORKS[name]).items():
        for kind, number in found._asdict().items():
            recorded = RECORDED["works"][name][part][kind]
            # A scalar copied more or less says nothing.
            assert number <= recorded * ROOM + 512 * (kind == "copied_bytes"), f"{part}: {kind} were {recorded:,}"


def test_loops_branches_and_copies_are_counted() -> None:
    def program(x: jax.Array, times: jax.Array) -> jax.Array:
        def body(_: jax.Array, x: jax.Array) -> jax.Array:
            def three(x: jax.Array) -> jax.Array:
                return jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x)

            return jax.lax.cond(x[0, 0] > 0, three, lambda x: x, x)

        return jax.lax.fori_loop(0, times, body, x)

    text = jax.jit(program).lower(jax.numpy.ones((64, 64)), 2).compile().as_text()
    assert [count(text, times).products for times in (0, 1, 5)] == [0, 3, 15]
    assert count(text, 1).operations > 3


def test_bytes_are_read_off_a_shape() -> None:
    program = "ENTRY %main (p: f32[3,4]) -> f32[3,4] {\n  ROOT %copy.1 = f32[3,4]{1,0} copy(%p)\n}"
    assert count(program, 1) == Counts(operations=1, products=0, copied_bytes=48)


def test_a_hosted_update_copies_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written where it lies: with a million transitions a copy takes sixty times as long as the update."""
    programs = []

    def read(*arguments: Any, **keywords: Any) -> Any:
        programs.append(learn.lower(*arguments, **keywords).compile().as_text())
        return learn(*arguments, **keywords)

    learn = hosted.learn
    monkeypatch.setattr(hosted, "learn", read)
    algorithm = DDPG(replay=Replay(capacity=50_000, batch_size=8, warmup=0))
    Hosted(algorithm, TwinFactory(Pendulum(), (0,)), (0,)).run(0, 1, 1_000.0)
    assert count(programs[0], 1).copied_bytes < 50_000
