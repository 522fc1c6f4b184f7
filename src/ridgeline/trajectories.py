"""A memory of whole trajectories with what they say about the policy that made them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ridgeline.returns import rewards_to_go
from ridgeline.types import Action, EnvSpec, Obs, example_transition


class Trajectory(NamedTuple):
    """One episode, rows [T]; those that are not `live` lie behind its end. Leading axes are free.

    `log_prob` is that of the policy that acted, computed once and kept: the importance information.
    """

    obs: Obs
    action: Action
    reward: Float[Array, "..."]
    live: Bool[Array, "..."]
    log_prob: Float[Array, "..."]


def importance_ratios(
    now: Float[Array, "T"], then: Float[Array, "T"], live: Bool[Array, "T"]
) -> Float[Array, "T"]:
    """ρ_{0:t} = Π_{k≤t} π_θ(aₖ|sₖ) / π_b(aₖ|sₖ): what makes rewards at t of π_b's trajectories stand for π_θ's.

    Behind the episode's end the product stays, so the last entry is the weight of the whole trajectory. It is
    e³⁰ at most, so that sums of squares stay floats.
    """
    return jnp.exp(jnp.minimum(jnp.cumsum(jnp.where(live, now - then, 0)), 30))


def weighted_return(
    reward: Float[Array, "T"],
    live: Bool[Array, "T"],
    weight: Float[Array, "T"],
    gamma: Float[Array, ""] | float,
    baseline: Float[Array, ""] | float = 0.0,
    per_decision: bool = False,
) -> Float[Array, "T"]:
    """ψₜ = wₜ (Σ_{t′≥t} γ^{t′−t} rₜ′ − b); per decision Σ_{t′≥t} γ^{t′−t} wₜ′ rₜ′ − wₜ b (Precup et al. 2000).

    With w the whole trajectory's weight in every row, or ρ_{0:t} per decision, the gradient is unbiased.
    """
    reward = jnp.where(live, reward, 0)
    if per_decision:
        return rewards_to_go(weight * reward, ~live, gamma) - weight * baseline
    return weight * (rewards_to_go(reward, ~live, gamma) - baseline)


def effective_sample_size(weight: Float[Array, "M"], held: Bool[Array, "M"]) -> Float[Array, ""]:
    """(Σ w)² / Σ w²: how many trajectories of π_θ itself would say as much (Kong 1992)."""
    w = jnp.where(held, weight, 0)
    return jnp.sum(w) ** 2 / jnp.maximum(jnp.sum(w**2), smallest(w))


def smallest(x: Float[Array, "..."]) -> float:
    """The smallest normal number of this dtype: what a sum of weights that all underflow is divided by."""
    return float(np.finfo(x.dtype).tiny)


class TrajectoryMemory(eqx.Module):
    """A ring of trajectories [capacity, T, ...]; entry `head` is written next, those `held` count."""

    data: Trajectory
    held: Bool[Array, "capacity"]
    head: Int[Array, ""]

    @classmethod
    def create(cls, spec: EnvSpec, capacity: int, length: int) -> "TrajectoryMemory":
        """An empty memory."""
        row = example_transition(spec)
        one = Trajectory(row.obs, row.action, row.reward, row.terminated, row.reward)
        data = jax.tree.map(lambda x: jnp.zeros((capacity, length, *x.shape), x.dtype), one)
        return cls(data, jnp.zeros(capacity, bool), jnp.zeros((), jnp.int32))

    def add(self, x: Trajectory) -> tuple["TrajectoryMemory", Bool[Array, "capacity"]]:
        """Write trajectories [N, T], N ≤ capacity, over the oldest; the memory, and which entries they are."""
        capacity, count = self.held.shape[0], x.reward.shape[0]
        index = (self.head + jnp.arange(count)) % capacity
        data = jax.tree.map(lambda ring, new: ring.at[index].set(new, unique_indices=True), self.data, x)
        newest = jnp.zeros(capacity, bool).at[index].set(True)
        return TrajectoryMemory(data, self.held | newest, (self.head + count) % capacity), newest
