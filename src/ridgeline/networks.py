"""Heads: features to a policy, to a state value, to action values. One observation; `vmap` at the edge."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.distributions import Categorical, DiagonalGaussian, Distribution, Product
from ridgeline.encoders import Encode, Linear
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.types import ACTION_MASK, ActionSpec, Continuous, Discrete, MultiDiscrete, Obs


def allowed_actions(obs: Obs, logits: Float[Array, "A"]) -> Float[Array, "A"]:
    """Logits or values with those of forbidden actions at −1e9: finite, so that 0 · log 0 stays 0."""
    if isinstance(obs, dict) and ACTION_MASK in obs:
        return jnp.where(obs[ACTION_MASK].astype(bool), logits, -1e9)
    return logits


class PolicyHead(eqx.Module):
    """Features to a distribution over actions: softmax, a product of them, or a Gaussian with a free log std."""

    linear: Linear
    log_std: Float[Array, "d"] | None
    spec: ActionSpec = eqx.field(static=True)

    @classmethod
    def create(
        cls, key: PRNGKeyArray, features: int, spec: ActionSpec, log_std: Float[Array, ""] | float = 0.0
    ) -> "PolicyHead":
        """Weights × 0.01, so that the first policy is nearly uniform."""
        match spec:
            case Discrete(count):
                return cls(Linear.create(key, features, count, 0.01), None, spec)
            case MultiDiscrete(counts):
                return cls(Linear.create(key, features, sum(counts), 0.01), None, spec)
            case Continuous(size):
                return cls(Linear.create(key, features, size, 0.01), jnp.full(size, log_std, float), spec)

    def __call__(self, features: Float[Array, "n"], obs: Obs) -> Distribution:
        """The policy π(·|s)."""
        y = self.linear(features)
        match self.spec:
            case Discrete():
                return Categorical(allowed_actions(obs, y))
            case MultiDiscrete(counts):
                cuts = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
                return Product(tuple(Categorical(part) for part in jnp.split(allowed_actions(obs, y), cuts)))
            case Continuous():
                assert self.log_std is not None
                return DiagonalGaussian(y, self.log_std)


class Policy[Network: eqx.Module](eqx.Module):
    """What acts: a network, and the normaliser of the observations that it reads."""

    network: Network
    normaliser: ObservationNormaliser

    def read(self, obs: Obs) -> Obs:
        """The observation as the network sees it."""
        return self.normaliser(obs)


class ActorCritic(eqx.Module):
    """π_θ(·|s) and V_θ(s), with a shared encoder or one each."""

    encoder: Encode
    critic_encoder: Encode | None
    policy: PolicyHead
    value: Linear

    def __call__(self, obs: Obs) -> tuple[Distribution, Float[Array, ""]]:
        """Both, from one observation."""
        return self.distribution(obs), self.state_value(obs)

    def distribution(self, obs: Obs) -> Distribution:
        """π(·|s)."""
        return self.policy(self.encoder(obs), obs)

    def state_value(self, obs: Obs) -> Float[Array, ""]:
        """V(s)."""
        return self.value((self.critic_encoder or self.encoder)(obs))[0]


class ActionValues(eqx.Module):
    """Q(s, ·) for discrete actions; dueling: Q = V + A − mean A (Wang et al. 2016, eq. 9)."""

    encoder: Encode
    advantage: Linear
    value: Linear | None

    def __call__(self, obs: Obs) -> Float[Array, "A"]:
        """One value for each action; −1e9 for those that the observation's mask forbids."""
        features = self.encoder(obs)
        q = self.advantage(features)
        if self.value is not None:
            q = self.value(features) + q - jnp.mean(q)
        return allowed_actions(obs, q)
