"""PG: the policy gradient with no baseline (REINFORCE, Williams 1992), with a memory, and with a baseline.

1. sample trajectories τⁱ from π_θ(a|s), each a whole episode                        the runner (`fresh`)
2. ∇J(θ) ≈ (1/N) Σᵢ Σₜ ∇log π_θ(aₜⁱ|sₜⁱ) ψₜⁱ, with ψₜ = Σ_{t′≥t} rₜ′, to go           `surrogate`, `rewards_to_go`
   of the newest policy's trajectories; or of all in a memory, each with what was
   saved of the policy that made it, weighted by π_θ/π_behaviour                     `weighted_return`
3. θ ← θ + α ∇J(θ)                                                                   `PG.update`

The gradient belongs to the policy that acted, which is why older trajectories need weights. An episode cut by its
time limit simply ends: there is no V to bootstrap from. VPG has one, as the baseline, and bootstraps there.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ridgeline.critics import Regression, fit_value
from ridgeline.distributions import log_prob
from ridgeline.encoders import Activation
from ridgeline.errors import UsageError
from ridgeline.networks import Actor, Policy, StateValue
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.optimisation import optimiser_state
from ridgeline.records import DrawnActions, NetworkAlgorithm
from ridgeline.returns import first_episode, rewards_to_go
from ridgeline.rollouts import everywhere, flatten, samples
from ridgeline.trajectories import (
    Trajectory,
    TrajectoryMemory,
    effective_sample_size,
    importance_ratios,
    smallest,
    weighted_return,
)
from ridgeline.types import EnvSpec, Metrics, Obs, Rollout, Steps, Transition, real, size, static

type Baseline = Literal["none", "mean", "value"]
type Weighting = Literal["trajectory", "per_decision", "self_normalised", "truncated"]


class State(eqx.Module):
    """π_θ and V (where it is the baseline) with their optimisers' states, and the memory, if there is one."""

    policy: Policy[Actor]
    optimiser: PyTree[Array]
    value: Regression[StateValue] | None
    memory: TrajectoryMemory | None


def surrogate(log_probs: Float[Array, "T"], psi: Float[Array, "T"], live: Bool[Array, "T"]) -> Float[Array, ""]:
    """Σₜ log π_θ(aₜ|sₜ) ψₜ of one trajectory, whose gradient is Σₜ ∇log π_θ(aₜ|sₜ) ψₜ: none flows through ψ."""
    return jnp.sum(jnp.where(live, log_probs * jax.lax.stop_gradient(psi), 0))


def trajectory_weights(
    weight: Float[Array, "M"], held: Bool[Array, "M"], kind: Weighting, limit: Float[Array, ""] | float
) -> Float[Array, "M"]:
    """w = ρ_{0:T}: unbiased. Self-normalised w M / Σ w and truncated min(w, c): biased, of lower variance."""
    if kind == "self_normalised":
        total = jnp.sum(jnp.where(held, weight, 0))
        return weight * jnp.sum(held) / jnp.maximum(total, smallest(weight))
    return jnp.minimum(weight, limit) if kind == "truncated" else weight


def mean_where(x: Float[Array, "..."], mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """The mean of those entries."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


class Trajectories(eqx.Module):
    """How trajectories of older policies are used; with a capacity of 0 they are not."""

    capacity: int = size(0, low=0)  # trajectories held, the oldest overwritten; 0: only the newest policy's
    weighting: Weighting = static("per_decision")  # how trajectories of older policies are weighted
    weight_limit: float = real(2.0, 0)  # c of truncated weights
    least_effective: float = real(0.3, 0, 1)  # older ones are dropped where ESS / held falls below this


class PG(DrawnActions, NetworkAlgorithm[State, Policy[Actor]]):
    """Policy gradient. A record of hyper-parameters; its methods are pure."""

    fresh: ClassVar[bool] = True

    num_envs: int = size(10)  # N: trajectories in each iteration
    rollout_length: int = size(500)  # the horizon: at least the environment's time limit; its limit if it has none
    gamma: float = real(1.0, 0, 1)  # discount γ of the reward to go
    gae_lambda: float = real(0.95, 0, 1)  # λ of the advantage estimator, with a learned baseline
    baseline: Baseline = static("none")  # what is subtracted from the reward to go
    standardise: bool = static(False)  # (ψ − mean) / std over the batch: a baseline and a rescale
    entropy_coef: float = real(0.0)  # weight of the entropy bonus
    updates: int = size(1)  # gradient steps after each rollout
    value_learning_rate: float = real(1e-3, 0)  # of V
    value_updates: int = size(20)  # gradient steps of V after each rollout
    max_grad_norm: float = real(1e6, 0)  # the gradient's global norm is clipped here
    activation: Activation = static("tanh")
    log_std: float = real(0.0, -20, 2)  # initial log standard deviation of continuous actions
    trajectories: Trajectories = eqx.field(default_factory=Trajectories)

    def check(self, spec: EnvSpec) -> None:
        """A rollout holds whole episodes, a memory a whole rollout."""
        limit, capacity = spec.max_episode_steps, self.trajectories.capacity
        if limit is not None and limit > self.rollout_length:
            raise UsageError(
                f"rollout_length {self.rollout_length} is shorter than the {limit} steps an episode of {spec.id} "
                f"may take: raise it to {limit}"
            )
        if 0 < capacity < self.num_envs:
            raise UsageError(f"capacity {capacity} is below num_envs {self.num_envs}, one rollout: raise it")
        if capacity and self.baseline == "value":
            raise UsageError("baseline value needs the newest policy's trajectories: set capacity to 0")
        if not capacity and self.updates > 1:
            raise UsageError(f"updates {self.updates} need weights from the second on: give capacity too")

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """A fresh policy, V where it is the baseline, and an empty memory where there is one."""
        actor_key, value_key = jax.random.split(key)
        actor = Actor.create(actor_key, spec, self.architecture, self.log_std)
        value = StateValue.create(value_key, spec, self.architecture) if self.baseline == "value" else None
        normaliser = ObservationNormaliser.create(spec.observation, self.normalise_observations)
        capacity = self.trajectories.capacity
        return State(
            Policy(actor, normaliser),
            optimiser_state(self.optimiser, actor),
            Regression.begin(value, self.optimiser) if value is not None else None,
            TrajectoryMemory.create(spec, capacity, self.rollout_length) if capacity else None,
        )

    def policy(self, state: State) -> Policy[Actor]:
        """π_θ, and the normaliser of what it reads."""
        return state.policy

    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        """Gradient steps on the newest trajectories, or on all that the memory holds."""
        x = rollout.transitions
        live = jax.vmap(first_episode, 1, 1)(x.ended)
        rate = self.annealed(self.learning_rate, steps)
        value, metrics = state.value, {"train/learning_rate": jnp.asarray(rate)}
        obs, psi, then = self.examine(state, x)
        if value is not None:
            value, fitted = self.fit_value(value, obs, psi, live, steps)
            metrics |= fitted
        newest = held = jnp.ones(self.num_envs, bool)
        memory, made = state.memory, by_trajectory(Trajectory(obs, x.action, x.reward, live, then))
        if memory is not None:
            memory, newest = memory.add(made._replace(obs=by_trajectory(x.obs)))  # raw: the normaliser moves on
            made, held = memory.data._replace(obs=everywhere(state.policy.read, memory.data.obs)), memory.held

        def learn(at: tuple[Actor, PyTree[Array], Array], _: None) -> tuple[Any, Metrics]:
            actor, moments, held = at
            gradient, (held, metrics) = jax.grad(self.objective, has_aux=True)(actor, made, psi.T, held, newest)
            actor, moments, norm = self.descend(actor, gradient, moments, rate)
            return (actor, moments, held), metrics | {"train/grad_norm": norm}

        start = (state.policy.network, state.optimiser, held)
        (actor, moments, held), learned = jax.lax.scan(learn, start, None, self.updates)
        if memory is not None:
            memory = dataclasses.replace(memory, held=held)
        policy = Policy(actor, state.policy.normaliser.fold(x.obs, live))
        return State(policy, moments, value, memory), metrics | jax.tree.map(jnp.mean, learned)

    def examine(self, state: State, x: Transition) -> tuple[Obs, Float[Array, "T N"], Float[Array, "T N"]]:
        """Observations as the policy reads them, ψ (with V: Â), and log π of the parameters that acted; once."""
        network, read = state.policy.network, state.policy.read
        if state.value is not None:
            rows = samples(network.distribution, state.value.critics, read, x, self.gamma, self.gae_lambda)
            return rows.obs, rows.advantage, rows.log_prob
        obs = everywhere(read, x.obs)
        psi = jax.vmap(rewards_to_go, (1, 1, None), 1)(x.reward, x.ended, self.gamma)
        return obs, psi, everywhere(log_prob, everywhere(network.distribution, obs), x.action)

    def objective(
        self,
        actor: Actor,
        x: Trajectory,
        psi: Float[Array, "N T"],
        held: Bool[Array, "M"],
        newest: Bool[Array, "M"],
    ) -> tuple[Float[Array, ""], tuple[Bool[Array, "M"], Metrics]]:
        """−(1/M) Σᵢ Σₜ (log π_θ(aₜⁱ|sₜⁱ) ψₜⁱ + c H[π_θ(·|sₜⁱ)]) over the M trajectories held, to be descended.

        Also which of them still count, and metrics. Without a memory ψ is given, as every weight is 1.
        """
        pi = everywhere(actor.distribution, x.obs)
        now = everywhere(log_prob, pi, x.action)
        metrics: Metrics = {}
        if self.trajectories.capacity:
            psi, held, metrics = self.weigh(jax.lax.stop_gradient(now), x, held, newest)
        elif self.baseline == "mean" or self.standardise:
            psi = psi - mean_where(psi, x.live)
        counted = x.live & held[:, None]
        if self.standardise:
            psi = psi / (jnp.sqrt(mean_where(psi**2, counted)) + 1e-8)
        gain = jnp.sum(jax.vmap(surrogate)(now, psi, counted)) / jnp.sum(held)
        entropy = mean_where(everywhere(lambda p: p.entropy(), pi), counted)
        bonus = self.entropy_coef * entropy * jnp.sum(counted) / jnp.sum(held)
        metrics |= {"train/policy_gradient_loss": -gain, "train/entropy_loss": -entropy}
        return -(gain + bonus), (held, metrics)

    def weigh(
        self, now: Float[Array, "M T"], x: Trajectory, held: Bool[Array, "M"], newest: Bool[Array, "M"]
    ) -> tuple[Float[Array, "M T"], Bool[Array, "M"], Metrics]:
        """ψ with weights π_θ/π_behaviour; older trajectories are dropped where few of them still say anything."""
        ratios = jax.vmap(importance_ratios)(now, x.log_prob, x.live)
        whole = ratios[:, -1]
        share = effective_sample_size(whole, held) / jnp.sum(held)
        held = held & (newest | (share >= self.trajectories.least_effective))
        metrics = {
            "train/effective_sample_size": effective_sample_size(whole, held),
            "train/trajectories": jnp.sum(held).astype(whole.dtype),
        }
        kind, per_decision = self.trajectories.weighting, self.trajectories.weighting == "per_decision"
        weights = trajectory_weights(whole, held, kind, self.trajectories.weight_limit)[:, None]
        weights = ratios if per_decision else jnp.broadcast_to(weights, ratios.shape)

        def psi(weights: Float[Array, "M T"], baseline: Float[Array, ""] | float) -> Float[Array, "M T"]:
            each = partial(weighted_return, gamma=self.gamma, baseline=baseline, per_decision=per_decision)
            return jax.vmap(each)(x.reward, x.live, weights)

        if self.baseline == "none" and not self.standardise:
            return psi(weights, 0.0), held, metrics
        mean = mean_where(psi(jnp.ones_like(weights), 0.0), x.live & held[:, None])
        return psi(weights, mean), held, metrics

    def fit_value(
        self,
        state: Regression[StateValue],
        obs: Obs,
        advantage: Float[Array, "T N"],
        live: Bool[Array, "T N"],
        steps: Steps,
    ) -> tuple[Regression[StateValue], Metrics]:
        """Gradient steps of V towards V^targ = Â + V, all rows at once."""
        target = advantage + everywhere(state.critics, obs)
        rate = self.annealed(self.value_learning_rate, steps)
        rows, wanted, weight = flatten((obs, target, live / jnp.mean(live)))

        def learn(at: Regression[StateValue], _: None) -> tuple[Regression[StateValue], Array]:
            return fit_value(at, rows, wanted, weight, self.optimiser, rate, self.max_grad_norm)

        fitted, losses = jax.lax.scan(learn, state, None, self.value_updates)
        spread = mean_where((target - mean_where(target, live)) ** 2, live)
        left = mean_where((advantage - mean_where(advantage, live)) ** 2, live)
        explained = jnp.where(spread > 0, 1 - left / spread, jnp.nan)
        return fitted, {"train/value_loss": losses[-1], "train/explained_variance": explained}


def by_trajectory(rows: PyTree[Array]) -> PyTree[Array]:
    """[T, N, ...] as [N, T, ...]."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), rows)


class VPG(PG):
    """Policy gradient with a learned V as its baseline and generalised advantages (Schulman et al. 2016)."""

    gamma: float = real(0.99, 0, 1)  # discount γ
    baseline: Baseline = static("value")  # what is subtracted from the reward to go
    standardise: bool = static(True)  # (ψ − mean) / std over the batch: a baseline and a rescale
