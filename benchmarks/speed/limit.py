"""How fast the work could be on this machine: its matrix products, and its environment's steps, and nothing else.

`python -m benchmarks.speed.limit NAME` prints JSON. The products are those that a gradient step cannot do without:
for each pass through a layer [B, m] → [B, n] one forward, and backward one for the gradient by the weights and one
for that by the input, where they are wanted. Layers of width 1 are left out. They run one after another inside one
compiled loop, with as many threads as the run itself has, nothing transposed. Environments are stepped with
uniform actions.
"""

import dataclasses
import json
import sys
import time
from typing import Any

from benchmarks.speed.work import WORKS, Work


@dataclasses.dataclass(frozen=True)
class Passes:
    """Passes of a batch through a network in one gradient step."""

    widths: tuple[int, ...]
    batch: int
    forward: int = 0  # and not back
    by_weights: int = 0  # with the gradient by the parameters
    by_input: int = 0  # with the gradient by the input, as ∇_a Q(s, a) is, and by no parameter


def batch_size(record: Any) -> int:
    """Rows of a minibatch."""
    return int(getattr(record, "batch_size", None) or record.replay.batch_size)


def gradient_steps(work: Work, record: Any) -> float:
    """How many there are in the whole work."""
    rows = record.num_envs * record.rollout_length
    epochs = getattr(record, "epochs", None) or getattr(record, "value_epochs", None)
    each = epochs * rows / batch_size(record) if epochs else record.replay.updates
    return work.steps / rows * each


def passes(record: Any, inputs: int, outputs: int) -> list[Passes]:
    """What one gradient step passes through its networks."""
    hidden, batch = record.hidden, batch_size(record)
    actor, critic, value = (inputs, *hidden, outputs), (inputs + outputs, *hidden, 1), (inputs, *hidden, 1)
    match type(record).__name__:
        case "PPO":
            return [Passes(actor, batch, by_weights=1), Passes(value, batch, by_weights=1)]
        case "DQN":  # double: the online network chooses at the next state
            return [Passes(actor, batch, forward=1 + record.double, by_weights=1)]
        case "DDPG":
            return [
                Passes(critic, batch, forward=1, by_weights=1, by_input=1),
                Passes(actor, batch, forward=1, by_weights=1),
            ]
        case "SAC":
            policy = (inputs, *hidden, 2 * outputs)
            return [
                Passes(critic, batch, forward=2, by_weights=2, by_input=2),
                Passes(policy, batch, forward=1, by_weights=1),
            ]
        case "TRPO":  # beside a step of V its share of the Fisher products, each four thirds of a gradient's pass
            share = round(4 / 3 * (record.cg_iterations + 1) / record.value_epochs)
            return [Passes(value, batch, by_weights=1), Passes(actor, batch, by_weights=share)]
    raise SystemExit(f"no passes are known of {type(record).__name__}")


def measure_products(each: list[Passes], repeat: int = 200) -> float:
    """Seconds of the products of one gradient step; the least of several measurements."""
    import jax
    import jax.numpy as jnp

    shapes: list[tuple[int, int, int]] = []
    for one in each:
        for m, n in zip(one.widths, one.widths[1:], strict=False):
            if n == 1:
                continue
            shapes += [(one.batch, m, n)] * (one.forward + one.by_weights + one.by_input)
            shapes += [(m, one.batch, n)] * one.by_weights
            shapes += [(one.batch, n, m)] * (one.by_input + (one.by_weights if m != one.widths[0] else 0))
    operands = [(jnp.ones((m, k)) * 1e-3, jnp.ones((k, n)) * 1e-3) for m, k, n in shapes]

    @jax.jit
    def products(operands: Any) -> Any:
        def once(_: Any, carry: Any) -> Any:
            total = carry
            for a, b in operands:
                # One entry is read of each, or it would not be computed; each begins where the last has ended.
                a, total = jax.lax.optimization_barrier((a, total))
                total = total + jax.lax.optimization_barrier(a @ b)[0, 0]
            return total

        return jax.lax.fori_loop(0, repeat, once, jnp.zeros(()))

    products(operands).block_until_ready()
    best = float("inf")
    for _ in range(7):
        begun = time.perf_counter()
        products(operands).block_until_ready()
        best = min(best, (time.perf_counter() - begun) / repeat)
    return best


def measure_environment(work: Work, num_envs: int, steps: int = 2_000) -> float:
    """Seconds of one step of all environments."""
    import jax
    import numpy as np

    from ridgeline.environments import make
    from ridgeline.types import Continuous

    found = make(work.env, work.backend)
    action = found.spec.action
    if work.backend is None:
        draw = (
            (lambda key: jax.random.uniform(key, (action.size,), minval=-1, maxval=1))
            if isinstance(action, Continuous)
            else (lambda key: jax.random.randint(key, (), 0, action.count))
        )

        @jax.jit
        def run(key: Any) -> Any:
            state, _ = jax.vmap(found.reset)(jax.random.split(key, num_envs))
            actions = jax.vmap(draw)(jax.random.split(key, num_envs))

            def one(state: Any, key: Any) -> Any:
                state, step = jax.vmap(lambda s, a: found.step(key, s, a))(state, actions)
                return state, step.reward.sum()

            return jax.lax.scan(one, state, jax.random.split(key, steps))[1].sum()

        call = lambda: run(jax.random.key(0)).block_until_ready()  # noqa: E731
    else:
        host = found.build(num_envs)
        rng = np.random.default_rng(0)
        every = np.ones(num_envs, bool)
        host.reset(np.arange(num_envs), every)
        rows = rng.uniform(-1, 1, (steps, num_envs, action.size)).astype(np.float32)

        def call() -> None:
            for row in rows:
                step = host.step(row)
                if (ended := step.terminated | step.truncated).any():
                    host.reset(np.arange(num_envs), ended)

    call()
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        call()
        best = min(best, (time.perf_counter() - begun) / steps)
    return best


def limit(name: str) -> dict[str, float]:
    """Seconds of the whole work's products and of its environment's steps."""
    from ridgeline.environments import make
    from ridgeline.experiments.cores import arrange_cores
    from ridgeline.types import Continuous

    work = WORKS[name]
    record = work.record()
    spec = make(work.env, work.backend).spec
    arrange_cores(record, spec, 1)
    inputs = spec.observation.shape[0]
    outputs = spec.action.size if isinstance(spec.action, Continuous) else spec.action.count
    products = measure_products(passes(record, inputs, outputs)) * gradient_steps(work, record)
    environment = measure_environment(work, record.num_envs) * work.steps / record.num_envs
    return {"products": products * work.seeds, "environment": environment * work.seeds}


if __name__ == "__main__":
    print(json.dumps(limit(sys.argv[1])))
