"""Priorities of the cells of a memory, and draws in proportion to them (Schaul et al. 2016)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Priorities(eqx.Module):
    """The mass pᵢ^α of every cell, in √n blocks of √n cells: a draw or a change reads √n numbers twice.

    Sums of blocks are made anew from their cells, so they never drift from them as those of a sum tree do.
    """

    mass: Float[Array, "blocks width"]
    sums: Float[Array, "blocks"]
    largest: Float[Array, ""]

    @classmethod
    def create(cls, count: int) -> "Priorities":
        """Nothing held: every mass 0."""
        width = math.isqrt(count - 1) + 1
        return cls(jnp.zeros((width, width)), jnp.zeros(width), jnp.ones(()))

    def put(self, index: Int[Array, "n"], mass: Float[Array, "n"]) -> "Priorities":
        """The masses of those cells replaced."""
        block, cell = index // self.mass.shape[1], index % self.mass.shape[1]
        masses = self.mass.at[block, cell].set(mass)
        sums = self.sums.at[block].set(jnp.sum(masses[block], 1))
        return Priorities(masses, sums, jnp.maximum(self.largest, jnp.max(mass)))

    def put_new(self, index: Int[Array, "n"]) -> "Priorities":
        """Cells just written get the largest mass so far: each is to be seen once (algorithm 1, line 6)."""
        return self.put(index, jnp.broadcast_to(self.largest, index.shape))

    def draw(self, key: PRNGKeyArray, count: int) -> tuple[Int[Array, "count"], Float[Array, "count"]]:
        """Cells i and P(i) = pᵢ^α / Σₖ pₖ^α (eq. 1), one from each of `count` equal parts of the whole mass."""
        total = jnp.sum(self.sums)
        at = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count * total
        block, rest = jax.vmap(locate, (None, 0))(self.sums, at)
        cell, _ = jax.vmap(locate)(self.mass[block], rest)
        return block * self.mass.shape[1] + cell, self.mass[block, cell] / total


def importance(
    probability: Float[Array, "n"], held: Int[Array, ""], beta: Float[Array, ""] | float
) -> Float[Array, "n"]:
    """wᵢ = (n P(i))^−β / maxⱼ wⱼ: what undoes the unequal chances where β = 1 (section 3.4)."""
    weight = (held * probability) ** -beta
    return weight / jnp.max(weight)


def locate(mass: Float[Array, "n"], at: Float[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Where `at` falls when the masses stand end to end: min {i : Σ_{k≤i} mₖ > at}, and how far into mᵢ.

    Never an entry without mass, whatever rounding did to the sums: beyond the end, the last that has one.
    """
    ends = jnp.cumsum(mass)
    held = mass > 0
    reached = held & (ends > at)
    last = mass.size - 1 - jnp.argmax(held[::-1])
    found = jnp.where(jnp.any(reached), jnp.argmax(reached), last)
    return found, at - (ends[found] - mass[found])
