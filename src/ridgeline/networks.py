"""Heads, and networks made of them: policies, state values, action values. `vmap` at the edge."""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.distributions import Categorical, DiagonalGaussian, Distribution, Product, TanhGaussian
from ridgeline.encoders import Architecture, Encode, build_encoder
from ridgeline.linear import Linear
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.types import ACTION_MASK, ActionSpec, Continuous, Discrete, EnvSpec, MultiDiscrete, Obs


def allowed_actions(obs: Obs, logits: Float[Array, "A"]) -> Float[Array, "A"]:
    """Logits or values with those of forbidden actions at −1e9: finite, so that 0 · log 0 stays 0."""
    if isinstance(obs, dict) and ACTION_MASK in obs:
        return jnp.where(obs[ACTION_MASK].astype(bool), logits, -1e9)
    return logits


@runtime_checkable
class StochasticPolicy(Protocol):
    """Whatever says π(·|s), with parameters or exactly; the estimators need no more."""

    def distribution(self, obs: Obs) -> Distribution:
        """π(·|s)."""


class PolicyHead(eqx.Module):
    """Features to a distribution over actions.

    Softmax, a product of them, or for continuous actions a Gaussian with a free log std; `squashed`: tanh of a
    Gaussian whose log std is an output too, within [−5, 2].
    """

    linear: Linear
    log_std: Float[Array, "d"] | None
    spec: ActionSpec = eqx.field(static=True)
    squashed: bool = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        features: int,
        spec: ActionSpec,
        log_std: Float[Array, ""] | float = 0.0,
        squashed: bool = False,
    ) -> "PolicyHead":
        """Weights × 0.01, so that the first policy is nearly uniform."""
        match spec:
            case Discrete(count):
                width = count
            case MultiDiscrete(counts):
                width = sum(counts)
            case Continuous(size):
                width = 2 * size if squashed else size
        free = jnp.full(spec.size, log_std, float) if isinstance(spec, Continuous) and not squashed else None
        return cls(Linear.create(key, features, width, 0.01), free, spec, squashed)

    def __call__(self, features: Float[Array, "n"], obs: Obs) -> Distribution:
        """The policy π(·|s)."""
        y = self.linear(features)
        match self.spec:
            case Discrete():
                return Categorical(allowed_actions(obs, y))
            case MultiDiscrete(counts):
                cuts = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
                return Product(tuple(Categorical(part) for part in jnp.split(allowed_actions(obs, y), cuts)))
            case Continuous(_, bounded):
                if self.log_std is not None:
                    return DiagonalGaussian(y, self.log_std)
                mean, spread = jnp.split(y, 2)
                return TanhGaussian(mean, jnp.clip(spread, -5, 2), bounded)


class Policy[Network: eqx.Module](eqx.Module):
    """What acts: a network, and the normaliser of the observations that it reads."""

    network: Network
    normaliser: ObservationNormaliser

    def read(self, obs: Obs) -> Obs:
        """The observation as the network sees it."""
        return self.normaliser(obs)


class Actor(eqx.Module):
    """π_θ(·|s), with an encoder of its own."""

    encoder: Encode
    head: PolicyHead

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        spec: EnvSpec,
        architecture: Architecture,
        log_std: Float[Array, ""] | float = 0.0,
        squashed: bool = False,
    ) -> "Actor":
        """A policy that is nearly uniform."""
        encoder_key, head_key = jax.random.split(key)
        encoder, n = build_encoder(encoder_key, spec.observation, architecture)
        return cls(encoder, PolicyHead.create(head_key, n, spec.action, log_std, squashed))

    def distribution(self, obs: Obs) -> Distribution:
        """π(·|s)."""
        return self.head(self.encoder(obs), obs)


class DeterministicActor(eqx.Module):
    """a = μ_θ(s): tanh where an entry is bounded, linear elsewhere."""

    encoder: Encode
    linear: Linear
    bounded: tuple[bool, ...] = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, spec: EnvSpec, architecture: Architecture) -> "DeterministicActor":
        """Weights × 0.01, so that the first actions are nearly 0."""
        assert isinstance(spec.action, Continuous)
        encoder_key, linear_key = jax.random.split(key)
        encoder, n = build_encoder(encoder_key, spec.observation, architecture)
        return cls(encoder, Linear.create(linear_key, n, spec.action.size, 0.01), spec.action.bounded)

    def __call__(self, obs: Obs) -> Float[Array, "d"]:
        """μ(s)."""
        return squash(self.linear(self.encoder(obs)), self.bounded)


def squash(u: Float[Array, "d"], bounded: tuple[bool, ...]) -> Float[Array, "d"]:
    """tanh u where an entry is bounded, u elsewhere."""
    return jnp.where(jnp.array(bounded), jnp.tanh(u), u)


class StateValue(eqx.Module):
    """V(s), with an encoder of its own."""

    encoder: Encode
    linear: Linear

    @classmethod
    def create(cls, key: PRNGKeyArray, spec: EnvSpec, architecture: Architecture) -> "StateValue":
        """A value network of that shape."""
        encoder_key, value_key = jax.random.split(key)
        encoder, n = build_encoder(encoder_key, spec.observation, architecture)
        return cls(encoder, Linear.create(value_key, n, 1))

    def __call__(self, obs: Obs) -> Float[Array, ""]:
        """V(s)."""
        return self.linear(self.encoder(obs))[0]


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
    """Q(s, ·) for discrete actions; dueling: Q = V + A − mean A (Wang et al. 2016, eq. 9).

    With `count` K > 1, K quantiles of each action's return, and Q is their mean; dueling, for each quantile.
    """

    encoder: Encode
    advantage: Linear
    value: Linear | None
    count: int = eqx.field(static=True, default=1)

    def __call__(self, obs: Obs) -> Float[Array, "A"]:
        """One value for each action; −1e9 for those that the observation's mask forbids."""
        return allowed_actions(obs, jnp.mean(self.quantiles(obs), 1))

    def quantiles(self, obs: Obs) -> Float[Array, "A K"]:
        """θ(s, ·): of each action, mask or not, the quantiles at (i + ½)/K for i = 0 … K − 1."""
        features = self.encoder(obs)
        q = self.advantage(features).reshape(-1, self.count)
        if self.value is not None:
            q = self.value(features)[None] + q - jnp.mean(q, 0, keepdims=True)
        return q
