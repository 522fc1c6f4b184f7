"""Running mean and variance: exact however many samples came before."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ridgeline.types import ACTION_MASK, Obs, ObservationSpec, observation_parts


class Total(eqx.Module):
    """A running sum kept in two words (Neumaier 1974), so that 2²⁴ + 1 is not 2²⁴ in float32."""

    high: Float[Array, "*shape"]
    low: Float[Array, "*shape"]

    def add(self, x: Float[Array, "*shape"]) -> "Total":
        """self + x; what the high word cannot hold is kept in the low word."""
        high = self.high + x
        lost = jnp.where(jnp.abs(self.high) >= jnp.abs(x), (self.high - high) + x, (x - high) + self.high)
        low = self.low + lost
        total = high + low  # carried over, or the low word would stop growing as a float32 does
        return Total(total, low - (total - high))

    @property
    def value(self) -> Float[Array, "*shape"]:
        """The sum, rounded once."""
        return self.high + self.low


class Normaliser(eqx.Module):
    """x̂ = (x − mean) / √(variance + ε), with the mean and the variance of all the data folded in so far.

    Before any data it is the identity. Batches are merged by Chan, Golub & LeVeque (1979).
    """

    count: Total
    mean: Total
    variance: Total

    @classmethod
    def create(cls, shape: tuple[int, ...]) -> "Normaliser":
        """Statistics of nothing yet, for data of this shape."""
        zero, zeros = jnp.zeros(()), jnp.zeros(shape)
        return cls(Total(zero, zero), Total(zeros, zeros), Total(zeros, zeros))

    def fold(self, x: Float[Array, "batch *shape"], counts: Bool[Array, "batch"] | None = None) -> "Normaliser":
        """The statistics with those entries of a batch [B, ...] added that count, at least one; by default all."""
        where = None if counts is None else jnp.reshape(counts, (-1,) + (1,) * (x.ndim - 1))
        size = jnp.asarray(x.shape[0], x.dtype) if counts is None else jnp.sum(counts).astype(x.dtype)
        total = self.count.add(size)
        share = size / total.value
        delta = jnp.mean(x, 0, where=where) - self.mean.value
        change = share * (jnp.var(x, 0, where=where) - self.variance.value + (1 - share) * delta**2)
        return Normaliser(total, self.mean.add(share * delta), self.variance.add(change))

    def __call__(self, x: Float[Array, "*shape"], clip: float = 10.0) -> Float[Array, "*shape"]:
        """(x − mean) / √(variance + 1e-8), clipped to ±clip."""
        return jnp.clip((x - self.mean.value) / self.deviation, -clip, clip)

    @property
    def deviation(self) -> Float[Array, "*shape"]:
        """√(variance + 1e-8); 1 before any data."""
        return jnp.where(self.count.value > 0, jnp.sqrt(self.variance.value + 1e-8), 1)


class RewardNormaliser(eqx.Module):
    """Divides rewards by the running deviation of the discounted return, kept for each of N environments."""

    statistics: Normaliser
    discounted: Float[Array, "N"]

    @classmethod
    def create(cls, num_envs: int) -> "RewardNormaliser":
        """Nothing seen yet."""
        return cls(Normaliser.create(()), jnp.zeros(num_envs))

    def scale(
        self, reward: Float[Array, "T N"], ended: Bool[Array, "T N"], gamma: Float[Array, ""] | float
    ) -> tuple["RewardNormaliser", Float[Array, "T N"]]:
        """R / √Var[R], Rₜ = γ Rₜ₋₁ + rₜ within an episode; ±10 at most.

        The rollout's own returns are folded in first: acting does not read rewards, so nothing is held twice.
        """

        def forward(earlier: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            r, end = row
            now = gamma * earlier + r
            return jnp.where(end, 0, now), now

        discounted, returns = jax.lax.scan(forward, self.discounted, (reward, ended))
        statistics = self.statistics.fold(returns.reshape(-1))
        return RewardNormaliser(statistics, discounted), jnp.clip(reward / statistics.deviation, -10, 10)


class ObservationNormaliser(eqx.Module):
    """A running normaliser for each float array of an observation; images, categories and masks pass through.

    One without statistics is the identity, whatever is folded in.
    """

    statistics: dict[str, Normaliser]

    @classmethod
    def create(cls, spec: ObservationSpec, wanted: bool = True) -> "ObservationNormaliser":
        """Statistics of nothing yet; none at all unless `wanted`."""
        if not wanted:
            return cls({})
        numeric = [(n, p) for n, p in observation_parts(spec) if p.dtype.startswith("float") and n != ACTION_MASK]
        return cls({name: Normaliser.create(part.shape) for name, part in numeric})

    def __call__(self, obs: Obs) -> Obs:
        """One observation, normalised."""
        return self._each(obs, lambda normaliser, x: normaliser(x))

    def fold(self, obs: Obs, counts: Bool[Array, "..."] | None = None) -> "ObservationNormaliser":
        """The statistics with many observations added, or those that count; leading axes are free."""
        arrays = obs if isinstance(obs, dict) else {"": obs}
        flat = None if counts is None else jnp.reshape(counts, -1)
        return ObservationNormaliser(
            {k: n.fold(jnp.reshape(arrays[k], (-1, *n.deviation.shape)), flat) for k, n in self.statistics.items()}
        )

    def _each(self, obs: Obs, function: Callable[[Normaliser, Array], Array]) -> Obs:
        if not isinstance(obs, dict):
            return function(self.statistics[""], obs) if self.statistics else obs
        return {k: function(self.statistics[k], x) if k in self.statistics else x for k, x in obs.items()}
