"""Where Q-learning with a linear network diverges although a perfect answer is among its functions.

Both are given as expectations: every transition that can happen, weighted by how often it does. The steps on them
are made of DQN's own functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ridgeline.algorithms.dqn import td_error, td_target
from ridgeline.memory import Batch
from ridgeline.optimisation import descend, optimiser_state, polyak, regression_loss
from ridgeline.types import Transition


class Problem(NamedTuple):
    """Q(s, ·) = features[s] w, and every transition with its share of what updates are drawn from."""

    features: Float[Array, "S A k"]
    batch: Batch

    def q(self, w: Float[Array, "k"]) -> Callable[[Int[Array, ""]], Float[Array, "A"]]:
        """The linear network with these weights."""
        return lambda s: self.features[s] @ w


def weighted(transitions: Transition, share: Array, gamma: Array | float) -> Batch:
    """Windows of one step, each with its share in place of a weight."""
    x, rows = transitions, jnp.arange(len(share))
    return Batch(
        obs=x.obs,
        action=x.action,
        reward=x.reward,
        next_obs=x.next_obs,
        next_action=jnp.zeros_like(x.action),
        continues=~x.ended,
        discount=jnp.where(x.terminated, 0, gamma),
        weight=share,
        index=jnp.stack([rows, rows], -1),
    )


def two_states(gamma: Array | float, epsilon: Array | float) -> Problem:
    """V = (w, 2w). The first state leads to the second, which stays with probability 1 − ε and ends with ε.

    Every reward is 0, and so is the true w. With both states alike often, the regression on the targets of w_k
    gives w_{k+1} = γ (6 − 4ε)/5 w_k (Tsitsiklis & Van Roy 1996; Sutton & Barto 2018, example 11.1).
    """
    start, successor = jnp.array([0, 1, 1]), jnp.array([1, 1, 1])
    ends = jnp.array([False, False, True])
    row = Transition(start, jnp.zeros(3, int), jnp.zeros(3), successor, ends, jnp.zeros(3, bool))
    share = jnp.stack([jnp.full_like(epsilon, 0.5), (1 - epsilon) / 2, epsilon / 2])
    return Problem(jnp.array([[[1.0]], [[2.0]]]), weighted(row, share, gamma))


_SOLID = 0  # the action that leads to the last state; the other leads to each of the first six alike


def baird(gamma: float = 0.99) -> Problem:
    """Baird's star (1995) for action values: 7 states, every reward 0, states and actions alike often.

    Q(i, solid) = 2wᵢ + w₈ of the first six, w₇ + 2w₈ of the last; Q(i, dashed) has a weight of its own.
    """
    features = np.zeros((7, 2, 15))
    features[np.arange(6), _SOLID, np.arange(6)] = 2
    features[:6, _SOLID, 7] = 1
    features[6, _SOLID, 6:8] = 1, 2
    features[np.arange(7), 1, 8 + np.arange(7)] = 1
    solid = [(s, 0, 6, 1 / 14) for s in range(7)]
    dashed = [(s, 1, t, 1 / 14 / 6) for s in range(7) for t in range(6)]
    s, a, t, share = map(np.array, zip(*solid, *dashed, strict=True))
    never = jnp.zeros(len(s), bool)
    row = Transition(jnp.asarray(s), jnp.asarray(a), jnp.zeros(len(s)), jnp.asarray(t), never, never)
    return Problem(jnp.asarray(features), weighted(row, jnp.asarray(share), gamma))


def baird_matrix(problem: Problem) -> Float[np.ndarray, "k k"]:
    """A = E x(s, a) (x(s, a) − γ x(s′, solid))ᵀ of the expected update w ← w − αAw: solid stays greedy."""
    x, b = np.asarray(problem.features, float), problem.batch
    here, there = x[b.obs, b.action], x[b.next_obs, _SOLID]
    return (np.asarray(b.weight)[:, None] * here).T @ (here - np.asarray(b.discount)[:, None] * there)


def expected_steps(
    problem: Problem, w: Float[Array, "k"], rate: float, count: int, period: int = 1
) -> Float[Array, "count k"]:
    """The weights after each of `count` SGD steps on the expected loss; φ′ ← φ after every `period` of them."""

    def step(
        at: tuple[Float[Array, "k"], Float[Array, "k"]], i: Int[Array, ""]
    ) -> tuple[tuple[Array, Array], Array]:
        online, static = at
        frozen = problem.q(static)
        targets = jax.vmap(lambda x: td_target(frozen, frozen, x))(problem.batch)

        def loss(w: Float[Array, "k"]) -> Float[Array, ""]:
            error = jax.vmap(lambda x, y: td_error(problem.q(w)(x.obs), x.action, y))(problem.batch, targets)
            return jnp.sum(problem.batch.weight * regression_loss(error))

        online, _, _ = descend(
            "sgd", online, jax.grad(loss)(online), optimiser_state("sgd", online), rate, jnp.inf
        )
        static = jnp.where((i + 1) % period == 0, polyak(static, online, 1.0), static)
        return (online, static), online

    return jax.lax.scan(step, (w, w), jnp.arange(count))[1]
