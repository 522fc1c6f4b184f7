"""AC: an off-policy actor–critic with a Q critic, and SAC, the same with an entropy bonus (Haarnoja et al. 2018).

1. act a ~ π_θ(·|s), add (s, a, s′, r) to the memory                          `AC.act`, `Replay.study`
2. sample a batch; φ′ ← τφ + (1 − τ)φ′ every C gradient steps                 `Memory.sample`, `polyak`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ Q_φ′(s′ᵢ, a′ᵢ)])            `AC.next_value`, `td_target`, `fit`
4. ∇J(θ) ≈ (1/N) Σᵢ ∇log π_θ(aᵢ|sᵢ) Q_φ(sᵢ, aᵢ)                               `AC.actor_loss`, `score_loss`
5. θ ← θ + α ∇J(θ)                                                            `AC.learn`
6. log α ← log α − β (H[π_θ] − H̄): the temperature, where it is tuned          `temperature_loss`

a′ and the a of step 4 are drawn from π_θ, summed over, or those of the memory, which are biased off policy. With a
temperature α > 0, Q − α log π stands for Q in steps 3 (at s′) and 4. The critic is Q and not V, because the memory
holds actions of old policies and V would be the value of those.
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ridgeline.critics import (
    Critic,
    DiscreteActionValue,
    Regression,
    create_critics,
    expected_soft_value,
    fit,
    least,
    least_values,
    soft_value,
    state_value,
    td_target,
    where_next_action,
)
from ridgeline.distributions import Categorical, TanhGaussian, noise_of_each
from ridgeline.errors import UsageError
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import Actor, Policy, StochasticPolicy, allowed_actions
from ridgeline.optimisation import optimiser_state, polyak
from ridgeline.records import DrawnActions, ReplayAlgorithm
from ridgeline.types import (
    Action,
    ActionSpec,
    Continuous,
    Discrete,
    EnvSpec,
    Metrics,
    MultiDiscrete,
    Obs,
    Steps,
    real,
    size,
    static,
)

type ActionSource = Literal["policy", "expected", "memory"]


class Learner(eqx.Module):
    """π_θ, Q_φ, its static copy Q_φ′ and log α, with their optimisers' states; the gradient steps taken."""

    actor: Actor
    actor_optimiser: PyTree[Array]
    critic: Regression[tuple[Critic, ...]]
    static: tuple[Critic, ...]
    log_temperature: Float[Array, ""]
    temperature_optimiser: PyTree[Array]
    updates: Int[Array, ""]


type State = Experience[Learner]


def score_loss(log_prob: Float[Array, ""], psi: Float[Array, ""]) -> Float[Array, ""]:
    """−log π(a|s) ψ, whose gradient is −∇log π(a|s) ψ: none flows through ψ."""
    return -log_prob * jax.lax.stop_gradient(psi)


def temperature_loss(
    log_temperature: Float[Array, ""], entropy: Float[Array, ""], target: Float[Array, ""]
) -> Float[Array, ""]:
    """log α (H[π] − H̄): α falls where the policy is more random than H̄ (Haarnoja et al. 2018b, eq. 18)."""
    return log_temperature * jax.lax.stop_gradient(entropy - target)


def entropy_target(
    spec: ActionSpec, obs: Obs, per_dimension: Float[Array, ""] | float, share: Float[Array, ""] | float
) -> Float[Array, ""]:
    """H̄: so many nats for each dimension of a continuous action, or a share of log A, A the allowed actions."""
    match spec:
        case Continuous(size):
            return jnp.asarray(per_dimension * size)
        case Discrete(count):
            counts: tuple[int, ...] = (count,)
        case MultiDiscrete(counts):
            pass
    logits = allowed_actions(obs, jnp.zeros(sum(counts)))
    cuts = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
    return share * sum((jax.nn.logsumexp(part) for part in jnp.split(logits, cuts)), start=jnp.zeros(()))


class AC(DrawnActions, ReplayAlgorithm[Learner, Policy[Actor]]):
    """Off-policy actor–critic. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(4)  # environments side by side, for each seed
    rollout_length: int = size(1)  # steps in each of them between updates
    actor_learning_rate: float = real(1e-3, 0)  # of the policy; learning_rate is that of the critics
    next_action: ActionSource = static("policy")  # a′ of the target: drawn, summed over (discrete), or as stored
    gradient_action: ActionSource = static("policy")  # a of the policy gradient, likewise
    reparameterised: bool = static(False)  # continuous actions: ∇θ of Q(s, a_θ(ε)) instead of the score
    baseline: bool = static(False)  # subtract E_π Q from Q in the policy gradient
    baseline_samples: int = size(8)  # K actions that E_π Q is the mean of, where it is no exact sum
    critics: int = size(1)  # the target and the policy gradient read the least of them
    temperature: float = real(0.0, 0)  # α of the entropy bonus; where it is tuned, at the start, and at least 1e-4
    tune_temperature: bool = static(False)  # move α so that the policy's entropy is H̄
    temperature_learning_rate: float = real(1e-3, 0)  # β
    target_entropy: float = real(-1.0)  # H̄ of continuous actions, in nats for each dimension
    target_entropy_share: float = real(0.3, 0, 1)  # H̄ of discrete actions, as a share of log A
    target_period: int = size(1)  # C: gradient steps between moves of the static network
    tau: float = real(0.005, 0, 1)  # how far φ′ moves towards φ then: 1 copies
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self, spec: EnvSpec) -> None:
        """Sums need Discrete actions, a pathwise gradient an action that is drawn; a minibatch fits the memory."""
        for name, source in (("next_action", self.next_action), ("gradient_action", self.gradient_action)):
            if source == "expected" and not isinstance(spec.action, Discrete):
                raise UsageError(f"{name} expected needs Discrete actions, not {spec.action}: use policy")
        if self.reparameterised and self.gradient_action == "memory" and isinstance(spec.action, Continuous):
            raise UsageError("reparameterised needs gradient_action policy: the memory's actions have no gradient")
        self.replay.check(self.num_envs, self.rollout_length)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh networks, φ′ = φ, and an empty memory."""
        actor_key, critic_key = jax.random.split(key)
        actor = Actor.create(actor_key, spec, self.architecture, squashed=True)
        critics = create_critics(critic_key, self.critics, spec, self.architecture)
        log_temperature = jnp.log(jnp.maximum(self.temperature, 1e-4))
        learner = Learner(
            actor,
            optimiser_state(self.optimiser, actor),
            Regression.begin(critics, self.optimiser),
            jax.tree.map(jnp.copy, critics),
            log_temperature,
            optimiser_state(self.optimiser, log_temperature),
            jnp.zeros((), jnp.int32),
        )
        return self.replay.begin(spec, self.num_envs, learner, self.normalise_observations)

    def policy(self, state: State) -> Policy[Actor]:
        """π_θ, and the normaliser of what it reads."""
        return Policy(state.learner.actor, state.normaliser)

    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """One gradient step of the critics, one of the policy, one of α where it is tuned; then φ′ moves."""
        noise_key, baseline_key = jax.random.split(key)
        distribution = learner.actor.distribution
        next_noise, noise = noise_of_each(distribution, noise_key, batch.next_obs, batch.obs)
        baseline_keys = jax.random.split(baseline_key, batch.reward.size)
        alpha = jnp.exp(learner.log_temperature) if self.tune_temperature else jnp.asarray(self.temperature)
        rate, actor_rate = (self.annealed(r, steps) for r in (self.learning_rate, self.actor_learning_rate))
        critic, metrics, error = self.fit_critics(next_noise, learner, batch, alpha, rate)

        def loss(actor: Actor) -> tuple[Float[Array, ""], Float[Array, "B"]]:
            losses, entropy = jax.vmap(self.actor_loss, (0, 0, None, None, 0, 0, None))(
                noise,
                baseline_keys,
                actor,
                critic.critics,
                batch.obs,
                batch.action,
                alpha,
            )
            return jnp.mean(batch.weight * losses), entropy

        (value, entropy), gradient = jax.value_and_grad(loss, has_aux=True)(learner.actor)
        actor, moments, norm = self.descend(learner.actor, gradient, learner.actor_optimiser, actor_rate)
        metrics |= {
            "train/actor_loss": value,
            "train/actor_grad_norm": norm,
            "train/entropy_loss": -jnp.mean(entropy),
            "train/ent_coef": alpha,
            "train/learning_rate": rate,
        }
        temperature, temperature_moments = learner.log_temperature, learner.temperature_optimiser
        if self.tune_temperature:
            target = jax.vmap(entropy_target, (None, 0, None, None))(
                actor.head.spec, batch.obs, self.target_entropy, self.target_entropy_share
            )
            value, slope = jax.value_and_grad(temperature_loss)(temperature, jnp.mean(entropy), jnp.mean(target))
            temperature, temperature_moments, _ = self.descend(
                temperature, slope, temperature_moments, self.temperature_learning_rate
            )
            metrics["train/ent_coef_loss"] = value
        updates = learner.updates + 1

        def move() -> tuple[Critic, ...]:
            return polyak(learner.static, critic.critics, self.tau)

        due = updates % self.target_period == 0
        static = move() if self.target_period == 1 else jax.lax.cond(due, move, lambda: learner.static)
        learned = Learner(actor, moments, critic, static, temperature, temperature_moments, updates)
        return learned, metrics, error

    def fit_critics(
        self,
        noise: Any,
        learner: Learner,
        batch: Batch,
        temperature: Float[Array, ""],
        learning_rate: Float[Array, ""],
    ) -> tuple[Regression[tuple[Critic, ...]], Metrics, Float[Array, "B"]]:
        """One step of the critics towards r + d V(s′); rows whose V(s′) the memory cannot say are left out."""
        next_value = jax.vmap(self.next_value, (0, None, None, 0, None))(
            noise, learner.actor, learner.static, batch, temperature
        )
        target = jax.vmap(td_target)(batch, next_value)
        if self.next_action == "memory":
            batch = where_next_action(batch)
        return fit(learner.critic, batch, target, self.optimiser, learning_rate, self.max_grad_norm)

    def next_value(
        self,
        noise: Any,
        actor: StochasticPolicy,
        static: Sequence[DiscreteActionValue],
        x: Batch,
        temperature: Float[Array, ""],
    ) -> Float[Array, ""]:
        """V(s′) = Q_φ′(s′, a′) − α log π_θ(a′|s′) of one row, or its expectation; Q_φ′ the least of several."""
        pi = actor.distribution(x.next_obs)
        if self.next_action == "expected":
            assert isinstance(pi, Categorical)
            return expected_soft_value(pi, least_values(static, x.next_obs), temperature)
        if self.next_action == "memory":
            action, log_prob = x.next_action, pi.log_prob(x.next_action)
        else:
            action, log_prob = pi.draw_and_log_prob(noise)
        return soft_value(least(static, x.next_obs, action), log_prob, temperature)

    def actor_loss(
        self,
        noise: Any,
        baseline_key: PRNGKeyArray,
        actor: StochasticPolicy,
        critics: Sequence[DiscreteActionValue],
        obs: Obs,
        action: Action,
        temperature: Float[Array, ""],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Of one state, what is descended so that V(s) = E_π[Q − α log π] rises, and the policy's entropy there.

        The gradient is exact (`expected`), pathwise (`reparameterised`) or the score's, at an action that is
        drawn or the memory's.
        """
        pi = actor.distribution(obs)
        if self.gradient_action == "expected":
            assert isinstance(pi, Categorical)
            value = expected_soft_value(pi, jax.lax.stop_gradient(least_values(critics, obs)), temperature)
            return -value, pi.entropy()
        drawn, drawn_log_prob = pi.draw_and_log_prob(noise)
        entropy = -drawn_log_prob if isinstance(pi, TanhGaussian) else pi.entropy()
        if self.reparameterised and isinstance(pi, TanhGaussian):
            return -soft_value(least(critics, obs, drawn), drawn_log_prob, temperature), entropy
        if self.gradient_action == "policy":
            action = jax.lax.stop_gradient(drawn)
        log_prob = pi.log_prob(action)
        psi = soft_value(least(critics, obs, action), log_prob, temperature)
        if self.baseline:
            psi = psi - state_value(baseline_key, pi, critics, obs, self.baseline_samples, temperature)
        return score_loss(log_prob, psi), entropy


class SAC(AC):
    """Soft actor–critic: the entropy bonus with a tuned temperature, twin critics, and the pathwise gradient."""

    reparameterised: bool = static(True)  # continuous actions: ∇θ of Q(s, a_θ(ε)) instead of the score
    baseline: bool = static(True)  # subtract E_π Q from Q in the policy gradient
    critics: int = size(2)  # the target and the policy gradient read the least of them
    temperature: float = real(1.0, 0)  # α of the entropy bonus; where it is tuned, at the start, and at least 1e-4
    tune_temperature: bool = static(True)  # move α so that the policy's entropy is H̄
