"""Q-learning with a static network: where it converges, and where it must not (properties 8 and 9)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ridgeline.algorithms.dqn import td_error, td_target
from ridgeline.memory import Batch, divergence
from ridgeline.optimisation import polyak
from ridgeline.theory.counterexamples import baird, baird_matrix, expected_steps, two_states
from ridgeline.theory.mdp import MDP, TabularActionValues
from ridgeline.theory.property import Measured, proves

_S, _A, _GAMMA = 5, 3, 0.9


def _backup(selector: Float[Array, "S A"], static: Float[Array, "S A"], batch: Batch) -> Float[Array, "S A"]:
    """E[y | s, a] of DQN's targets, over every transition of a table."""
    target = jax.vmap(lambda x: td_target(TabularActionValues(selector), TabularActionValues(static), x))(batch)
    return jnp.sum((batch.weight * target).reshape(_S, _A, _S), -1)


def _learn(double: bool, table: Float[Array, "S A"], batch: Batch) -> Float[Array, "S A"]:
    """Many expected SGD steps on a table, the static copy moved after every fifth."""

    def step(at: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        online, static = TabularActionValues(at[0]), TabularActionValues(at[1])
        selector = online if double else static
        targets = jax.vmap(lambda x: td_target(selector, static, x))(batch)

        def loss(network: TabularActionValues) -> Array:
            error = jax.vmap(lambda x, y: td_error(network(x.obs), x.action, y))(batch, targets)
            return jnp.sum(batch.weight * 0.5 * error**2)

        online = jax.tree.map(lambda w, g: w - 0.7 * g, online, jax.grad(loss)(online))
        moved = polyak(static, online, 1.0)
        return (online.table, jnp.where(i % 5 == 4, moved.table, static.table)), None

    return jax.lax.scan(step, (table, table), jnp.arange(1_500))[0][0]


@proves(8, "on a table the fixed point is Q*, and the error contracts by γ", ("dqn",), "policy iteration")
def tables_reach_the_optimal_values(full: bool) -> list[Measured]:
    """Random decision processes with a terminal state; double DQN has the same fixed point."""
    random = np.random.default_rng(8)
    problems = [MDP.random(random, _S, _A, _GAMMA, ending=True) for _ in range(2_000 if full else 100)]
    optimal = np.stack([problem.optimal_action_values() for problem in problems])
    batch = jax.tree.map(lambda *x: jnp.stack(x), *[problem.transitions() for problem in problems])
    table = optimal + random.normal(size=optimal.shape) * 10.0 ** random.uniform(-3, 1, (len(problems), 1, 1))
    backup = jax.jit(jax.vmap(_backup))
    learned = {
        double: jax.jit(jax.vmap(lambda q, b, double=double: _learn(double, q, b))) for double in (False, True)
    }

    def distance(q: Array | np.ndarray) -> Float[np.ndarray, "problems"]:
        return np.max(np.abs(np.asarray(q) - optimal), (1, 2))

    ratio = distance(backup(table, table, batch)) / distance(table)
    return [
        Measured("fixed point", float(np.max(distance(backup(optimal, optimal, batch)))), 1e-12),
        Measured("contraction beyond γ", float(np.max(ratio - _GAMMA)), 1e-12),
        Measured("learned by SGD", float(np.max(distance(learned[False](table, batch)))), 1e-10),
        Measured("learned by SGD, double", float(np.max(distance(learned[True](table, batch)))), 1e-10),
    ]


@proves(9, "(w, 2w) and Baird's example diverge at the predicted rate", ("dqn",), "linear algebra")
def counterexamples_diverge_as_predicted(full: bool) -> list[Measured]:
    """Factor γ(6 − 4ε)/5 per regression; Baird's log-growth over steps 5,000–20,000 is that of ρ(I − αA)."""
    count = 40 if full else 12
    gamma, epsilon = (
        x.reshape(-1) for x in np.meshgrid(np.linspace(0.3, 0.99, count), np.linspace(0, 0.9, count))
    )
    copies, period, rate = 20, 50, 0.3  # within a period the regression's error shrinks by (1 − 2.5 · 0.3)⁵⁰

    @jax.jit
    @jax.vmap
    def sizes(gamma: Array, epsilon: Array) -> Float[Array, "copies"]:
        steps = expected_steps(two_states(gamma, epsilon), jnp.ones(1), rate, copies * period, period)
        return jnp.abs(steps[period - 1 :: period, 0])

    size = np.asarray(sizes(gamma, epsilon))
    factor = (size[:, -1] / size[:, 0]) ** (1 / (copies - 1))
    threshold = 5 / (6 - 4 * epsilon)
    wrong = (size[:, -1] > size[:, 0]) != (gamma > threshold)

    problem, alpha = baird(), 0.01
    start = jnp.ones(15).at[6].set(10)  # Sutton & Barto's; the dashed actions begin at 1
    path = jax.jit(lambda w: expected_steps(problem, w, alpha, 20_000)[jnp.array([4_999, 19_999])])(start)
    growth = np.diff(np.log(np.linalg.norm(np.asarray(path), axis=1)))[0]
    radius = np.max(np.abs(np.linalg.eigvals(np.eye(15) - alpha * baird_matrix(problem))))
    largest = jnp.max(jnp.abs(jax.vmap(problem.q(path[-1]))(jnp.arange(7))))
    return [
        Measured(
            "(w, 2w): factor per iteration", float(np.max(np.abs(factor - gamma * (6 - 4 * epsilon) / 5))), 1e-12
        ),
        Measured("(w, 2w): diverges exactly above 5/(6 − 4ε)", float(np.sum(wrong)), 0.0),
        Measured("Baird: log-growth, relative", float(abs(growth / (15_000 * np.log(radius)) - 1)), 0.01),
        Measured("Baird: unnamed by the monitor", float(divergence(largest, jnp.zeros(()), 0.99) <= 1), 0.0),
    ]
