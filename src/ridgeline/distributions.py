"""Action distributions for one observation: sample, log_prob, entropy, kl, mode. Natural logarithms throughout."""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Distribution(eqx.Module):
    """A probability distribution over one action."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray) -> Array:
        """A ~ π."""

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


def log_prob(distribution: Distribution, action: Array) -> Float[Array, ""]:
    """Log π(a), as a function to map over many."""
    return distribution.log_prob(action)


class Categorical(Distribution):
    """π(a) = softmax(logits)ₐ over a = 0, 1, …"""

    logits: Float[Array, "A"]

    def _log_probs(self) -> Float[Array, "A"]:
        return jax.nn.log_softmax(self.logits)

    def sample(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """A = argmax(logits + Gumbel noise)."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

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

    def sample(self, key: PRNGKeyArray) -> Int[Array, "d"]:
        """Each entry from its own categorical."""
        keys = jax.random.split(key, len(self.parts))
        return jnp.stack([part.sample(k) for part, k in zip(self.parts, keys, strict=True)])

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

    def sample(self, key: PRNGKeyArray) -> Float[Array, "d"]:
        """mean + std · standard normal noise."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

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
