"""PPO: proximal policy optimisation with the clipped surrogate (Schulman et al. 2017).

for each iteration:                                                             (algorithm 1)
  1. N actors run π_θold for T steps                                            the runner, `PPO.act`
  2. advantages Â₁, …, Â_T from V_θold                                          `gae`
  3. K epochs of minibatches, θ ← θ + α ∇ Ê[L^CLIP − c₁ L^VF + c₂ S[π_θ]]       `PPO.objective`
     ρ(θ) = π_θ(a|s) / π_θold(a|s)
     L^CLIP = min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â)                                 `clipped_surrogate`
     L^VF = (V_θ(s) − V^targ)²,  V^targ = Â + V_θold(s)                         `value_loss`
     no further step of this update once Ê[ρ − 1 − log ρ] > 1.5 target_kl        `PPO.update`
  4. θ_old ← θ

π_θ and V_θ share parameters (`shared`), and every rollout comes from the newest policy.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ridgeline.distributions import log_prob
from ridgeline.encoders import Activation, build_encoder
from ridgeline.errors import UsageError
from ridgeline.linear import Linear
from ridgeline.minibatches import epochs
from ridgeline.networks import ActorCritic, Policy, PolicyHead
from ridgeline.normalisation import ObservationNormaliser, RewardNormaliser
from ridgeline.optimisation import optimiser_state
from ridgeline.records import DrawnActions, NetworkAlgorithm
from ridgeline.returns import explained_variance
from ridgeline.rollouts import Sample, flatten, samples, standardise
from ridgeline.types import (
    EnvSpec,
    Metrics,
    Rollout,
    Steps,
    real,
    size,
    static,
)


class State(eqx.Module):
    """The policy, its optimiser's state, and the normaliser of rewards, if there is one."""

    policy: Policy[ActorCritic]
    optimiser: PyTree[Array]
    rewards: RewardNormaliser | None


def clipped_surrogate(
    ratio: Float[Array, "..."], advantage: Float[Array, "..."], epsilon: Float[Array, ""] | float
) -> Float[Array, "..."]:
    """L^CLIP = min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â): no gain from moving ρ further than ε (eq. 7)."""
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)


def value_loss(
    value: Float[Array, "..."],
    target: Float[Array, "..."],
    old: Float[Array, "..."],
    clip: Float[Array, ""] | float = 0.0,
) -> Float[Array, "..."]:
    """L^VF = (V_θ(s) − V^targ)² (eq. 9); with c > 0 the larger of it and that of V within V_θold(s) ± c.

    The clip is OpenAI's code's, not the paper's: no gain from moving V further than c from what it was.
    """
    within = old + jnp.clip(value - old, -clip, clip)
    error = (value - target) ** 2
    return jnp.where(clip > 0, jnp.maximum(error, (within - target) ** 2), error)


class PPO(DrawnActions, NetworkAlgorithm[State, Policy[ActorCritic]]):
    """Proximal policy optimisation. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(8)  # environments side by side, for each seed
    rollout_length: int = size(128)  # T: steps in each of them between updates
    epochs: int = size(4)  # K: passes over each rollout
    batch_size: int = size(256)  # rows in a minibatch; divides num_envs × rollout_length
    gae_lambda: float = real(0.95, 0, 1)  # λ of the advantage estimator
    clip_range: float = real(0.2, 0)  # ε of the clipped surrogate
    clip_anneal: float = real(0.0, 0, 1)  # share of ε that is gone, linearly, by the end of the run
    target_kl: float = real(0.0, 0)  # no further gradient step of an update beyond 1.5 times this KL; 0: all
    value_clip: float = real(0.0, 0)  # V gains nothing from moving further than this in an update; 0: no clip
    learning_rate: float = real(3e-4, 0)  # α
    value_coef: float = real(0.5, 0)  # c₁, weight of the value loss
    entropy_coef: float = real(0.0)  # c₂, weight of the entropy bonus
    max_grad_norm: float = real(0.5, 0)  # the gradient's global norm is clipped here
    normalise_advantages: bool = static(True)  # standardise them in each minibatch
    normalise_rewards: bool = static(False)  # by the running deviation of the discounted return
    shared: bool = static(True)  # one encoder for policy and value, or one each
    log_std: float = real(0.0, -20, 2)  # initial log standard deviation of continuous actions
    activation: Activation = static("tanh")

    def check(self, spec: EnvSpec) -> None:
        """Minibatches divide the rollout."""
        rows = self.num_envs * self.rollout_length
        if rows % self.batch_size:
            raise UsageError(
                f"batch_size {self.batch_size} does not divide num_envs × rollout_length = {rows}: "
                "change one of the three"
            )

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh networks; normalisers that have seen nothing."""
        encoder_key, critic_key, policy_key, value_key = jax.random.split(key, 4)
        encoder, n = build_encoder(encoder_key, spec.observation, self.architecture)
        network = ActorCritic(
            encoder,
            None if self.shared else build_encoder(critic_key, spec.observation, self.architecture)[0],
            PolicyHead.create(policy_key, n, spec.action, self.log_std),
            Linear.create(value_key, n, 1),
        )
        normaliser = ObservationNormaliser.create(spec.observation, self.normalise_observations)
        rewards = RewardNormaliser.create(self.num_envs) if self.normalise_rewards else None
        return State(Policy(network, normaliser), optimiser_state(self.optimiser, network), rewards)

    def policy(self, state: State) -> Policy[ActorCritic]:
        """π_θ, with V_θ and the normaliser of observations."""
        return state.policy

    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        """K epochs over the rollout; then the observations are folded into their normaliser."""
        network, x = state.policy.network, rollout.transitions
        rewards, reward = state.rewards, x.reward
        if rewards is not None:
            rewards, reward = rewards.scale(reward, x.ended, self.gamma)
        rows = flatten(
            samples(
                network.distribution,
                network.state_value,
                state.policy.read,
                x._replace(reward=reward),
                self.gamma,
                self.gae_lambda,
            )
        )
        learning_rate = self.annealed(self.learning_rate, steps)
        clip_range = self.clip_range * (1 - self.clip_anneal * steps.progress)

        def learn(learner: tuple[Any, Bool[Array, ""]], batch: Sample) -> tuple[Any, Metrics]:
            (network, optimiser), going = learner
            gradient, metrics = jax.grad(self.objective, has_aux=True)(network, batch, clip_range)
            going &= (self.target_kl == 0) | (metrics["train/approx_kl"] <= 1.5 * self.target_kl)
            *learnt, norm = self.descend(network, gradient, optimiser, learning_rate, going)
            return (tuple(learnt), going), metrics | {
                "train/grad_norm": norm,
                "train/steps_taken": going.astype(float),
            }

        begin = (network, state.optimiser), jnp.array(True)
        ((network, optimiser), _), metrics = epochs(key, learn, begin, rows, self.epochs, self.batch_size)
        metrics = jax.tree.map(jnp.mean, metrics) | {
            "train/learning_rate": learning_rate,
            "train/clip_range": clip_range,
            "train/explained_variance": explained_variance(rows.target - rows.advantage, rows.target),
        }
        if network.policy.log_std is not None:
            metrics["train/std"] = jnp.mean(jnp.exp(network.policy.log_std))
        policy = Policy(network, state.policy.normaliser.fold(x.obs))
        return State(policy, optimiser, rewards), metrics

    def objective(
        self, network: ActorCritic, batch: Sample, clip_range: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """−Ê[L^CLIP − c₁ L^VF + c₂ S[π_θ](s)] over a minibatch (eq. 9), to be descended; and its parts."""
        pi, value = jax.vmap(network)(batch.obs)
        log_ratio = jax.vmap(log_prob)(pi, batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = standardise(batch.advantage) if self.normalise_advantages else batch.advantage
        surrogate = jnp.mean(clipped_surrogate(ratio, advantage, clip_range))
        old = batch.target - batch.advantage
        error = jnp.mean(value_loss(value, batch.target, old, self.value_clip))
        entropy = jnp.mean(jax.vmap(lambda p: p.entropy())(pi))
        loss = -(surrogate - self.value_coef * error + self.entropy_coef * entropy)
        return loss, {
            "train/loss": loss,
            "train/policy_gradient_loss": -surrogate,
            "train/value_loss": error,
            "train/entropy_loss": -entropy,
            "train/approx_kl": jnp.mean(ratio - 1 - log_ratio),
            "train/clip_fraction": jnp.mean(jnp.abs(ratio - 1) > clip_range),
        }
