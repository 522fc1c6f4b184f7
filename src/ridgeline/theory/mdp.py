"""Tiny Markov decision processes, solved exactly in NumPy; and tables that stand for the shipped networks.

States and actions are numbered; a policy is an array π(a|s) [S, A]. Entering a terminal state ends the episode.
Nothing here calls the shipped estimators: it is what they are compared with.
"""

import dataclasses
import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ridgeline.distributions import Categorical
from ridgeline.memory import Batch

type Probabilities = Float[np.ndarray, "S A"]


@dataclasses.dataclass(frozen=True)
class MDP:
    """P(s′|s, a), r(s, a), the distribution of the first state, γ, and which states are terminal."""

    transition: Float[np.ndarray, "S A S"]
    reward: Float[np.ndarray, "S A"]
    start: Float[np.ndarray, "S"]
    gamma: float
    terminal: Bool[np.ndarray, "S"]

    @classmethod
    def random(
        cls, rng: np.random.Generator, states: int = 3, actions: int = 2, gamma: float = 0.9, ending: bool = False
    ) -> "MDP":
        """Dirichlet transitions and normal rewards; `ending` makes the last state terminal."""
        transition = rng.dirichlet(np.ones(states), (states, actions))
        start = rng.dirichlet(np.ones(states))
        terminal = ending & (np.arange(states) == states - 1)
        if ending:  # nobody starts where nothing follows
            start = start * ~terminal / np.sum(start * ~terminal)
        return cls(transition, rng.normal(size=(states, actions)), start, gamma, terminal)

    @property
    def going_on(self) -> Float[np.ndarray, "S A S"]:
        """P(s′|s, a) of the successors that are not terminal."""
        return self.transition * ~self.terminal

    def state_values(self, policy: Probabilities) -> Float[np.ndarray, "S"]:
        """V^π = (I − γ P_π)⁻¹ r_π."""
        chain = np.einsum("sa,sat->st", policy, self.going_on)
        return np.linalg.solve(np.eye(len(chain)) - self.gamma * chain, np.sum(policy * self.reward, 1))

    def action_values(self, policy: Probabilities) -> Float[np.ndarray, "S A"]:
        """Q^π(s, a) = r(s, a) + γ E V^π(s′)."""
        return self.reward + self.gamma * self.going_on @ self.state_values(policy)

    def advantages(self, policy: Probabilities) -> Float[np.ndarray, "S A"]:
        """A^π = Q^π − V^π."""
        return self.action_values(policy) - self.state_values(policy)[:, None]

    def performance(self, policy: Probabilities) -> float:
        """J_γ(π) = E V^π(s₀)."""
        return float(self.start @ self.state_values(policy))

    def state_distribution(self, policy: Probabilities) -> Float[np.ndarray, "S"]:
        """d(s) = (1 − γ) Σₜ γᵗ P(sₜ = s); adds up to less than 1 where episodes end."""
        chain = np.einsum("sa,sat->st", policy, self.going_on)
        return (1 - self.gamma) * np.linalg.solve(np.eye(len(chain)) - self.gamma * chain.T, self.start)

    def policy_gradient(self, policy: Probabilities) -> Float[np.ndarray, "S A"]:
        """∇J_γ by the logits of a softmax policy: d(s) π(a|s) A(s, a) / (1 − γ)."""
        return self.state_distribution(policy)[:, None] * policy * self.advantages(policy) / (1 - self.gamma)

    def optimal_action_values(self) -> Float[np.ndarray, "S A"]:
        """Q*, by policy iteration with exact solves."""
        actions = self.reward.shape[1]
        greedy, before = np.zeros(len(self.start), int), None
        while before is None or not np.array_equal(greedy, before):
            q = self.action_values(np.eye(actions)[greedy])
            before, greedy = greedy, np.argmax(q, 1)
        return q

    def transitions(self) -> Batch:
        """Every (s, a, s′) as a row [S · A · S], its weight P(s′|s, a)."""
        s, a, t = (x.reshape(-1) for x in np.indices(self.transition.shape))
        rewards = jnp.asarray(self.reward[s, a])
        return Batch(
            obs=jnp.asarray(s),
            action=jnp.asarray(a),
            reward=rewards,
            next_obs=jnp.asarray(t),
            next_action=jnp.zeros_like(jnp.asarray(a)),
            continues=jnp.asarray(~self.terminal[t]),
            discount=jnp.asarray(self.gamma * ~self.terminal[t]),
            weight=jnp.asarray(self.transition[s, a, t]),
            index=jnp.stack([jnp.asarray(s), jnp.asarray(a)], -1),
        )

    def trajectories(self, horizon: int = 4) -> "Trajectories":
        """Every one there is of that many steps: Sᴴ⁺¹ Aᴴ of them."""
        states, actions = self.reward.shape
        s = np.array(list(itertools.product(range(states), repeat=horizon + 1)))
        a = np.array(list(itertools.product(range(actions), repeat=horizon)))
        s, a = np.repeat(s, len(a), 0), np.tile(a, (len(s), 1))
        chance = self.start[s[:, 0]] * np.prod(self.transition[s[:, :-1], a, s[:, 1:]], 1)
        return Trajectories(s, a, self.reward[s[:, :-1], a], chance)

    def finite_action_values(
        self, policy: Probabilities, horizon: int, gamma: float
    ) -> Float[np.ndarray, "H S A"]:
        """Qₜ(s, a) = r + γ E Vₜ₊₁(s′), V_H = 0, by dynamic programming; no state is terminal."""
        value, found = np.zeros(len(self.start)), []
        for _ in range(horizon):
            found.append(self.reward + gamma * self.transition @ value)
            value = np.sum(policy * found[-1], 1)
        return np.stack(found[::-1])

    def finite_occupancy(self, policy: Probabilities, horizon: int) -> Float[np.ndarray, "H S"]:
        """P(sₜ = s)."""
        chain, found = np.einsum("sa,sat->st", policy, self.transition), [self.start]
        for _ in range(horizon - 1):
            found.append(found[-1] @ chain)
        return np.stack(found)

    def finite_performance(self, policy: Probabilities, horizon: int, gamma: float) -> float:
        """J = E Σ_{t<H} γᵗ rₜ."""
        return float(np.sum(self.start[:, None] * policy * self.finite_action_values(policy, horizon, gamma)[0]))

    def finite_gradient(self, policy: Probabilities, horizon: int, gamma: float) -> Float[np.ndarray, "S A"]:
        """∇J by the logits of a softmax policy: Σₜ γᵗ P(sₜ = s) π(a|s) (Qₜ(s, a) − Vₜ(s))."""
        q = self.finite_action_values(policy, horizon, gamma)
        advantage = q - np.sum(policy * q, -1, keepdims=True)
        visits = gamma ** np.arange(horizon)[:, None] * self.finite_occupancy(policy, horizon)
        return np.sum(visits[..., None] * policy * advantage, 0)


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """M trajectories of H steps; `chance` is their probability but for the policy's part of it."""

    states: Int[np.ndarray, "M _"]
    actions: Int[np.ndarray, "M H"]
    rewards: Float[np.ndarray, "M H"]
    chance: Float[np.ndarray, "M"]

    def probability(self, policy: Probabilities) -> Float[np.ndarray, "M"]:
        """P(τ) under that policy; they add up to 1."""
        return self.chance * np.prod(policy[self.states[:, :-1], self.actions], 1)


def softmax(logits: Float[np.ndarray, "S A"]) -> Probabilities:
    """π(a|s) = exp θₛₐ / Σ exp θₛ."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class TabularPolicy(eqx.Module):
    """π_θ(·|s) = softmax(θₛ): what `Actor` is with networks."""

    logits: Float[Array, "S A"]

    def distribution(self, obs: Int[Array, ""]) -> Categorical:
        """π(·|s)."""
        return Categorical(self.logits[obs])


class TabularStateValue(eqx.Module):
    """V(s), a number for each state: what `StateValue` is with a network."""

    table: Float[Array, "S"]

    def __call__(self, obs: Int[Array, ""]) -> Float[Array, ""]:
        """V(s)."""
        return self.table[obs]


class TabularActionValues(eqx.Module):
    """Q(s, ·), a number for each state and action: what `ActionValues` is with a network."""

    table: Float[Array, "S A"]

    def __call__(self, obs: Int[Array, ""]) -> Float[Array, "A"]:
        """One value for each action."""
        return self.table[obs]


class TabularCritic(eqx.Module):
    """Q(s, a), a number for each state and action: what `Critic` is with a network."""

    table: Float[Array, "S A"]

    def __call__(self, obs: Int[Array, ""], action: Int[Array, ""]) -> Float[Array, ""]:
        """Q(s, a)."""
        return self.table[obs, action]

    def values(self, obs: Int[Array, ""]) -> Float[Array, "A"]:
        """Q(s, ·)."""
        return self.table[obs]
