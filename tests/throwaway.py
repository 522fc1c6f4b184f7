"""A2C: one gradient step a rollout on log π_θ(a|s) Â (Mnih et al. 2016, synchronously): what a new file takes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ridgeline.critics import Regression, fit_value
from ridgeline.distributions import log_prob
from ridgeline.networks import Actor, Policy, StateValue
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.optimisation import optimiser_state
from ridgeline.records import DrawnActions, NetworkAlgorithm
from ridgeline.rollouts import Sample, flatten, samples
from ridgeline.types import EnvSpec, Metrics, Rollout, Steps, real, size


class State(eqx.Module):
    policy: Policy[Actor]
    optimiser: PyTree[Array]
    value: Regression[StateValue]


class A2C(DrawnActions, NetworkAlgorithm[State, Policy[Actor]]):
    """Advantage actor–critic."""

    num_envs: int = size(8)
    rollout_length: int = size(8)
    value_learning_rate: float = real(1e-3, 0)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        actor_key, value_key = jax.random.split(key)
        actor = Actor.create(actor_key, spec, self.architecture)
        value = StateValue.create(value_key, spec, self.architecture)
        normaliser = ObservationNormaliser.create(spec.observation, self.normalise_observations)
        moments = optimiser_state(self.optimiser, actor)
        return State(Policy(actor, normaliser), moments, Regression.begin(value, self.optimiser))

    def policy(self, state: State) -> Policy[Actor]:
        return state.policy

    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        actor, read, x = state.policy.network, state.policy.read, rollout.transitions
        rows: Sample = flatten(samples(actor.distribution, state.value.critics, read, x, self.gamma, 0.95))

        def loss(actor: Actor) -> Float[Array, ""]:
            log_probs = jax.vmap(log_prob)(jax.vmap(actor.distribution)(rows.obs), rows.action)
            return -jnp.mean(log_probs * rows.advantage)

        lost, gradient = jax.value_and_grad(loss)(actor)
        rate = self.annealed(self.learning_rate, steps)
        actor, moments, norm = self.descend(actor, gradient, state.optimiser, rate)
        value, error = fit_value(
            state.value, rows.obs, rows.target, 1.0, self.optimiser, self.value_learning_rate, self.max_grad_norm
        )
        policy = Policy(actor, state.policy.normaliser.fold(x.obs))
        metrics = {"train/actor_loss": lost, "train/value_loss": error, "train/grad_norm": norm}
        return State(policy, moments, value), metrics
