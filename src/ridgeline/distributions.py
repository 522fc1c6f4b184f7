"""Action distributions for one observation: sample, log_prob, entropy, kl, mode. Natural logarithms throughout."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree


class Distribution(eqx.Module):
    """A probability distribution over one action."""

    @abstractmethod
    def noise(self, key: PRNGKeyArray) -> PyTree[Array]:
        """The random numbers of one draw. Of the parameters their shapes decide, nothing else: those of a batch
        of distributions make that of a batch.
        """

    @abstractmethod
    def draw(self, noise: Any) -> Array:
        """What the noise makes of π: a ~ π."""

    def sample(self, key: PRNGKeyArray) -> Array:
        """A ~ π."""
        return self.draw(self.noise(key))

    @abstractmethod
    def log_prob(self, action: Array) -> Float[Array, ""]:
        """Log π(a); a density where actions are continuous."""

    @abstractmethod
    def entropy(self) -> Float[Array, ""]:
        """H[π] = −E log π(a), in nats."""

    @abstractmethod
    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """KL(self ‖ other) = E_self log(self/other), in nats."""

    @abstractmethod
    def mode(self) -> Array:
        """argmaxₐ π(a)."""

    def draw_and_log_prob(self, noise: Any) -> tuple[Array, Float[Array, ""]]:
        """A ~ π and log π(a)."""
        action = self.draw(noise)
        return action, self.log_prob(action)


def divergence(old: Distribution, new: Distribution) -> Float[Array, ""]:
    """Ê KL(old ‖ new) of distributions row by row."""
    return jnp.mean(jax.vmap(lambda old, new: old.kl(new))(old, new))


def noise_of_each(
    distribution: Callable[..., Distribution], key: PRNGKeyArray, *batches: PyTree[Array]
) -> list[Any]:
    """For each batch of s, the random numbers of one draw from π(·|s) a row; all are drawn in one go."""

    def all_rows(*batches: PyTree[Array]) -> Distribution:
        return jax.vmap(distribution)(jax.tree.map(lambda *x: jnp.concatenate(x), *batches))

    shapes: Any = jax.eval_shape(all_rows, *batches)
    leaves, structure = jax.tree.flatten(shapes.noise(key))
    ends = np.cumsum([jax.tree.leaves(batch)[0].shape[0] for batch in batches])[:-1]
    return [
        jax.tree.unflatten(structure, part) for part in zip(*(jnp.split(x, ends) for x in leaves), strict=True)
    ]


def log_prob(distribution: Distribution, action: Array) -> Float[Array, ""]:
    """Log π(a), as a function to map over many."""
    return distribution.log_prob(action)


class Categorical(Distribution):
    """π(a) = softmax(logits)ₐ over a = 0, 1, …"""

    logits: Float[Array, "A"]

    def _log_probs(self) -> Float[Array, "A"]:
        return jax.nn.log_softmax(self.logits)

    def noise(self, key: PRNGKeyArray) -> Float[Array, "*B A"]:
        """Gumbel noise, one number for each action."""
        return jax.random.gumbel(key, self.logits.shape, self.logits.dtype)

    def draw(self, noise: Float[Array, "A"]) -> Int[Array, ""]:
        """A = argmax(logits + Gumbel noise)."""
        return jnp.argmax(self.logits + noise).astype(jnp.int32)

    def log_prob(self, action: Int[Array, ""]) -> Float[Array, ""]:
        """log softmax(logits)ₐ."""
        # A masked sum: its gradient is elementwise, that of an index is a scatter, far slower on a CPU.
        return jnp.sum(jnp.where(jnp.arange(self.logits.size) == action, self._log_probs(), 0))

    def entropy(self) -> Float[Array, ""]:
        """−Σₐ πₐ log πₐ."""
        log_probs = self._log_probs()
        return -jnp.sum(jnp.exp(log_probs) * log_probs)

    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """Σₐ πₐ (log πₐ − log π′ₐ)."""
        assert isinstance(other, Categorical)
        mine = self._log_probs()
        return jnp.sum(jnp.exp(mine) * (mine - other._log_probs()))

    def mode(self) -> Int[Array, ""]:
        """The most probable action; the first of them on a tie."""
        return jnp.argmax(self.logits).astype(jnp.int32)


class Product(Distribution):
    """Independent categoricals, one for each entry of an integer vector."""

    parts: tuple[Categorical, ...]

    def noise(self, key: PRNGKeyArray) -> tuple[Float[Array, "..."], ...]:
        """That of each part."""
        keys = jax.random.split(key, len(self.parts))
        return tuple(part.noise(k) for part, k in zip(self.parts, keys, strict=True))

    def draw(self, noise: tuple[Float[Array, "..."], ...]) -> Int[Array, "d"]:
        """Each entry from its own categorical."""
        return jnp.stack([part.draw(e) for part, e in zip(self.parts, noise, strict=True)])

    def log_prob(self, action: Int[Array, "d"]) -> Float[Array, ""]:
        """Σᵢ log πᵢ(aᵢ)."""
        return sum((part.log_prob(action[i]) for i, part in enumerate(self.parts)), start=jnp.zeros(()))

    def entropy(self) -> Float[Array, ""]:
        """Σᵢ H[πᵢ]."""
        return sum((part.entropy() for part in self.parts), start=jnp.zeros(()))

    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """Σᵢ KL(πᵢ ‖ π′ᵢ)."""
        assert isinstance(other, Product)
        return sum((p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)), start=jnp.zeros(()))

    def mode(self) -> Int[Array, "d"]:
        """Each entry's most probable value."""
        return jnp.stack([part.mode() for part in self.parts])


class DiagonalGaussian(Distribution):
    """π(a) = Πᵢ N(aᵢ; meanᵢ, exp(log_stdᵢ)²)."""

    mean: Float[Array, "d"]
    log_std: Float[Array, "d"]

    def noise(self, key: PRNGKeyArray) -> Float[Array, "*B d"]:
        """Standard normal."""
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def draw(self, noise: Float[Array, "d"]) -> Float[Array, "d"]:
        """mean + std · noise."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, action: Float[Array, "d"]) -> Float[Array, ""]:
        """−Σᵢ [½ ((aᵢ − meanᵢ)/stdᵢ)² + log stdᵢ + ½ log 2π]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Float[Array, ""]:
        """Σᵢ [log stdᵢ + ½ log 2πe]."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e))

    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """Σᵢ [log σ′ᵢ − log σᵢ + (σᵢ² + (μᵢ − μ′ᵢ)²) / 2σ′ᵢ² − ½]."""
        assert isinstance(other, DiagonalGaussian)
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return jnp.sum(other.log_std - self.log_std + 0.5 * (ratio + distance - 1))

    def mode(self) -> Float[Array, "d"]:
        """The mean."""
        return self.mean


class TanhGaussian(Distribution):
    """a = tanh(u), u ~ N(mean, std²), where an entry is `bounded`, else a = u (Haarnoja et al. 2018, app. C)."""

    mean: Float[Array, "d"]
    log_std: Float[Array, "d"]
    bounded: tuple[bool, ...] = eqx.field(static=True)

    def noise(self, key: PRNGKeyArray) -> Float[Array, "*B d"]:
        """Standard normal."""
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def draw(self, noise: Float[Array, "d"]) -> Float[Array, "d"]:
        """tanh(mean + std · noise)."""
        return self._squash(self._gaussian.draw(noise))

    def draw_and_log_prob(self, noise: Float[Array, "d"]) -> tuple[Float[Array, "d"], Float[Array, ""]]:
        """A ~ π and log π(a), which is exact also where tanh is ±1; differentiable in mean and log_std."""
        u = self._gaussian.draw(noise)
        return self._squash(u), self._log_density(u)

    def log_prob(self, action: Float[Array, "d"]) -> Float[Array, ""]:
        """log N(artanh a) − Σᵢ log(1 − aᵢ²), for |aᵢ| up to 1 − 1e-6: there artanh is 7.25."""
        edge = 1 - 1e-6
        u = jnp.arctanh(jnp.clip(action, -edge, edge))
        return self._log_density(jnp.where(jnp.array(self.bounded), u, action))

    def entropy(self) -> Float[Array, ""]:
        """H[N] + Σᵢ E log(1 − tanh² uᵢ), each by the trapezoidal rule over ±8 std: 1e-5 for std ≤ e²."""
        z = jnp.linspace(-8, 8, 129)
        density = jnp.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
        u = self.mean[:, None] + jnp.exp(self.log_std)[:, None] * z[None]
        return self._gaussian.entropy() + jnp.sum(jnp.where(jnp.array(self.bounded), _log_slope(u) @ density, 0))

    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """KL of the Gaussians: a bijection of both changes nothing."""
        assert isinstance(other, TanhGaussian)
        return self._gaussian.kl(other._gaussian)

    def mode(self) -> Float[Array, "d"]:
        """tanh(mean): the median, which is greedy; the density itself may peak at the bounds."""
        return self._squash(self.mean)

    @property
    def _gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std)

    def _squash(self, u: Float[Array, "d"]) -> Float[Array, "d"]:
        return jnp.where(jnp.array(self.bounded), jnp.tanh(u), u)

    def _log_density(self, u: Float[Array, "d"]) -> Float[Array, ""]:
        return self._gaussian.log_prob(u) - jnp.sum(jnp.where(jnp.array(self.bounded), _log_slope(u), 0))


def _log_slope(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u)), which never takes the log of 0."""
    return 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
