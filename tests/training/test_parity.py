"""An environment stepped from Python gives what it gives compiled, number by number."""

import jax
import pytest
from miniatures import ALGORITHMS, SAMPLE, SEEDS, TEN, TwinFactory, assert_same

from ridgeline.environments.classic import CartPole, Pendulum
from ridgeline.environments.probes import Probe
from ridgeline.theory.probes import kinds, quick
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import Compiled

ITERATIONS = 8
TOTAL = 1_000.0


def run_both(algorithm, env, seeds: tuple[int, ...]):
    """What is left of both runners after training: (state, where the environments stand), and the summary."""
    compiled, hosted = Compiled(algorithm, env, seeds), Hosted(algorithm, TwinFactory(env, seeds), seeds)
    summaries = [runner.run(0, ITERATIONS, TOTAL)[-1] for runner in (compiled, hosted)]
    seen = compiled.lanes.running.obs
    there = jax.tree.map(lambda x: x.reshape(len(seeds), algorithm.num_envs, *x.shape[1:]), hosted.obs)
    return (compiled.lanes.state, seen, summaries[0]), (hosted.states, there, summaries[1])


def probe_for(name: str) -> Probe:
    return Probe(4, False not in kinds(quick(name)))


DISCRETE = [name for name in ALGORITHMS if False in kinds(quick(name))]
CASES = [
    pytest.param(
        name, Probe(4, False not in kinds(quick(name))), SEEDS, marks=[] if name in SAMPLE else pytest.mark.slow
    )
    for name in ALGORITHMS
] + [pytest.param(name, CartPole(), TEN, marks=[] if name in SAMPLE else pytest.mark.slow) for name in DISCRETE]


@pytest.mark.parametrize(("name", "env", "seeds"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_both_runners_learn_the_same(name: str, env, seeds: tuple[int, ...]) -> None:
    algorithm = quick(name)
    (state, obs, summary), (hosted_state, hosted_obs, hosted_summary) = run_both(algorithm, env, seeds)
    assert summary.episodes.sum() > 0
    if algorithm.fresh:
        # XLA sums over rows that a loop wrote one by one in another order: an ulp. Behind their ends, columns of
        # either runner play on for different times.
        assert_same(hosted_state, state, rtol=1e-6, atol=1e-6)
    elif name == "trpo":
        # Nor are its products of vectors fused alike, and a conjugate gradient enlarges an ulp by A's condition.
        assert_same((hosted_state, hosted_obs), (state, obs), rtol=1e-4, atol=1e-5)
    else:
        assert_same((hosted_state, hosted_obs), (state, obs))
    # Metrics alone may be summed in another order where XLA fuses them with the update.
    loose = 10 if name == "trpo" else 1
    assert_same(hosted_summary, summary, rtol=loose * 1e-5, atol=loose * 1e-6)
    assert_same(hosted_summary[2:], summary[2:], rtol=1e-6)


def test_pendulum_to_rounding() -> None:
    """XLA contracts products and sums of the dynamics otherwise in a scan: a step differs by an ulp or two."""
    algorithm = quick("ppo", learning_rate=1e-3)
    (state, obs, summary), (hosted_state, hosted_obs, hosted_summary) = run_both(algorithm, Pendulum(), (3, 8))
    assert_same(hosted_state, state, atol=1e-6, rtol=1e-6)
    assert_same(hosted_obs, obs, atol=1e-4)
    assert_same(hosted_summary[2:], summary[2:], rtol=1e-5)
