"""Critics Q_φ(s, a), and their regression onto a target: what every off-policy actor–critic shares."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ridgeline.distributions import Categorical, Distribution
from ridgeline.encoders import MLP, Architecture, Encode, build_encoder
from ridgeline.linear import Linear
from ridgeline.memory import Batch
from ridgeline.networks import allowed_actions
from ridgeline.optimisation import OptimiserName, descend, optimiser_state, regression_loss
from ridgeline.types import Action, ActionSpec, Continuous, Discrete, EnvSpec, Metrics, MultiDiscrete, Obs

# Any function of a state and an action that is a pytree of parameters; the estimators need no more.
type ActionValue = Callable[[Obs, Action], Float[Array, ""]]


@runtime_checkable
class DiscreteActionValue(Protocol):
    """The same with all values of a state at once, where actions are discrete."""

    def __call__(self, obs: Obs, action: Action) -> Float[Array, ""]:
        """Q(s, a)."""

    def values(self, obs: Obs) -> Float[Array, "A"]:
        """Q(s, ·)."""


class Critic(eqx.Module):
    """Q(s, a). One output for each discrete action; other actions join the features before the hidden layers."""

    encoder: Encode
    mlp: MLP
    head: Linear
    spec: ActionSpec = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, spec: EnvSpec, architecture: Architecture) -> "Critic":
        """A critic of that shape."""
        encoder_key, mlp_key, head_key = jax.random.split(key, 3)
        discrete = isinstance(spec.action, Discrete)
        none = dataclasses.replace(architecture, hidden=())
        before, after = (architecture, none) if discrete else (none, architecture)
        encoder, n = build_encoder(encoder_key, spec.observation, before)
        widths = (n + _width(spec.action), *after.hidden)
        mlp = MLP.create(mlp_key, widths[0], after)
        outputs = spec.action.count if isinstance(spec.action, Discrete) else 1
        return cls(encoder, mlp, Linear.create(head_key, widths[-1], outputs), spec.action)

    def __call__(self, obs: Obs, action: Action) -> Float[Array, ""]:
        """Q(s, a)."""
        if isinstance(self.spec, Discrete):
            q = self.values(obs)
            return jnp.sum(jnp.where(jnp.arange(q.size) == action, q, 0))
        joined = jnp.concatenate([self.encoder(obs), _as_vector(self.spec, action)])
        return self.head(self.mlp(joined))[0]

    def values(self, obs: Obs) -> Float[Array, "A"]:
        """Q(s, ·) of discrete actions; −1e9 for those that the observation's mask forbids."""
        return allowed_actions(obs, self.head(self.encoder(obs)))


def _width(spec: ActionSpec) -> int:
    """How many numbers of an action join the features."""
    match spec:
        case Discrete():
            return 0
        case MultiDiscrete(counts):
            return sum(counts)
        case Continuous(size):
            return size


def _as_vector(spec: ActionSpec, action: Action) -> Float[Array, "n"]:
    if isinstance(spec, MultiDiscrete):
        return jnp.concatenate([jax.nn.one_hot(action[i], n) for i, n in enumerate(spec.counts)])
    return action


def create_critics(key: PRNGKeyArray, count: int, spec: EnvSpec, architecture: Architecture) -> tuple[Critic, ...]:
    """That many critics, each drawn on its own."""
    keys = jax.random.split(key, count)
    return tuple(Critic.create(k, spec, architecture) for k in keys)


def least(critics: Sequence[ActionValue], obs: Obs, action: Action) -> Float[Array, ""]:
    """minₖ Qₖ(s, a): of two critics the lower, against overestimation (Fujimoto et al. 2018, eq. 10)."""
    return jnp.min(jnp.stack([critic(obs, action) for critic in critics]))


def least_values(critics: Sequence[DiscreteActionValue], obs: Obs) -> Float[Array, "A"]:
    """minₖ Qₖ(s, ·) of discrete actions."""
    return jnp.min(jnp.stack([critic.values(obs) for critic in critics]), 0)


def soft_value(
    q: Float[Array, ""], log_prob: Float[Array, ""], temperature: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Q(s, a) − α log π(a|s), whose mean over a ~ π is V(s) (Haarnoja et al. 2018, eq. 3)."""
    return q - temperature * log_prob


def expected_soft_value(
    pi: Categorical, q: Float[Array, "A"], temperature: Float[Array, ""] | float
) -> Float[Array, ""]:
    """V(s) = Σₐ π(a|s) (Q(s, a) − α log π(a|s)) (Christodoulou 2019, eq. 10)."""
    log_probs = jax.nn.log_softmax(pi.logits)
    return jnp.sum(jnp.exp(log_probs) * (q - temperature * log_probs))


def state_value(
    key: PRNGKeyArray,
    pi: Distribution,
    critics: Sequence[DiscreteActionValue],
    obs: Obs,
    draws: int,
    temperature: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    """V(s) = E_{a~π}[Q(s, a) − α log π(a|s)]: the sum over discrete actions, else the mean of so many draws."""
    if isinstance(pi, Categorical):
        return expected_soft_value(pi, least_values(critics, obs), temperature)

    def one(key: PRNGKeyArray) -> Float[Array, ""]:
        action, log_prob = pi.draw_and_log_prob(pi.noise(key))
        return soft_value(least(critics, obs, action), log_prob, temperature)

    return jnp.mean(jax.vmap(one)(jax.random.split(key, draws)))


def where_next_action(batch: Batch) -> Batch:
    """Weights of 0 where the next action is wanted and not in the memory; the others grow to the same mean."""
    known = (batch.continues | (batch.discount == 0)).astype(batch.weight.dtype)
    share = jnp.maximum(jnp.mean(known), 1 / known.size)
    return dataclasses.replace(batch, weight=batch.weight * known / share)


def td_target(x: Batch, next_value: Float[Array, ""]) -> Float[Array, ""]:
    """y = r + d V(s′), with d = γᵏ, or 0 where s′ is terminal."""
    return x.reward + x.discount * next_value


class Regression[Critics](eqx.Module):
    """Critics and the state of the optimiser that fits them."""

    critics: Critics
    optimiser: PyTree[Array]

    @classmethod
    def begin(cls, critics: Critics, optimiser: OptimiserName) -> "Regression[Critics]":
        """Critics before their first gradient step."""
        return cls(critics, optimiser_state(optimiser, critics))


def fit_value[Value: Callable[[Obs], Float[Array, ""]]](
    state: Regression[Value],
    obs: Obs,
    target: Float[Array, "B"],
    weight: Float[Array, "B"] | float,
    optimiser: OptimiserName,
    learning_rate: Float[Array, ""] | float,
    max_grad_norm: Float[Array, ""] | float,
) -> tuple[Regression[Value], Float[Array, ""]]:
    """φ ← φ − α Σᵢ wᵢ ∇V_φ(sᵢ) (V_φ(sᵢ) − yᵢ), the sum a mean; also the loss before it."""

    def loss(value: Value) -> Float[Array, ""]:
        return jnp.mean(weight * regression_loss(jax.vmap(value)(obs) - target))

    before, gradient = jax.value_and_grad(loss)(state.critics)
    value, moments, _ = descend(optimiser, state.critics, gradient, state.optimiser, learning_rate, max_grad_norm)
    return Regression(value, moments), before


def fit[Critics: tuple[ActionValue, ...]](
    state: Regression[Critics],
    batch: Batch,
    target: Float[Array, "B"],
    optimiser: OptimiserName,
    learning_rate: Float[Array, ""] | float,
    max_grad_norm: Float[Array, ""] | float,
    huber: bool = False,
) -> tuple[Regression[Critics], Metrics, Float[Array, "B"]]:
    """φ ← φ − α Σᵢ wᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − yᵢ) for every critic, the sum a mean; no gradient through y.

    Returns the regression, its metrics, and the mean over critics of each row's Q − y.
    """

    def loss(critics: Critics) -> tuple[Float[Array, ""], tuple[Array, Array]]:
        q = jnp.stack([jax.vmap(critic)(batch.obs, batch.action) for critic in critics])
        error = q - jax.lax.stop_gradient(target)[None]
        each = jnp.mean(batch.weight[None] * regression_loss(error, huber), 1)
        return jnp.sum(each), (q, jnp.mean(error, 0))

    (value, (q, error)), gradient = jax.value_and_grad(loss, has_aux=True)(state.critics)
    critics, moments, norm = descend(
        optimiser, state.critics, gradient, state.optimiser, learning_rate, max_grad_norm
    )
    metrics = {
        "train/critic_loss": value,
        "train/q_value": jnp.mean(q),
        "train/q_max": jnp.max(jnp.abs(q)),
        "train/grad_norm": norm,
    }
    return Regression(critics, moments), metrics, error
