"""TRPO: trust region policy optimisation (Schulman et al. 2015), with the constraint or with a penalty.

1. act a ~ π_θ(·|s); critic "q": store (s, a, s′, r) in the memory            the runner, `Replay.study`
2. critic "q": sample batches, move φ towards r + γ Q_φ′(s′, a′), a′ ~ π_θ    `TRPO.fit_q`
   Â = Q(s, a) − E_{a~π}Q(s, a); critic "v": V with GAE, fitted to V^targ     `TRPO.q_rows`, `TRPO.fit_v`
3. on the newest rollout, with L(θ) = Ê[(π_θ/π_θold) Â]:                      `improvement`
   constraint: maximise ∇L · s subject to ½ sᵀAs ≤ δ, A the Hessian of
     Ê KL(π_θold ‖ π_θ) at θ_old: s = √(2δ / xᵀAx) x, x = A⁻¹∇L               `natural_step`
     θ ← θ_old + βᵏ s, the first with KL ≤ δ and a better L, or θ_old         `trust_region`
   penalty: several gradient steps on L(θ) − C Ê KL(π_θold ‖ π_θ)             `TRPO.climb`
     C is doubled where KL > 1.5 δ, halved where KL < δ/1.5                   `adapted_penalty`

The KL is that of the old policy from the new, old ‖ new, everywhere, and a mean over states.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ridgeline.critics import Critic, Regression, create_critics, fit, fit_value, least, state_value, td_target
from ridgeline.distributions import Distribution, divergence, log_prob
from ridgeline.encoders import Activation
from ridgeline.errors import UsageError
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.minibatches import epochs
from ridgeline.networks import Actor, Policy, StateValue
from ridgeline.normalisation import ObservationNormaliser, RewardNormaliser
from ridgeline.optimisation import optimiser_state, polyak
from ridgeline.records import DrawnActions, NetworkAlgorithm
from ridgeline.returns import explained_variance
from ridgeline.rollouts import Sample, everywhere, flatten, samples, standardise
from ridgeline.trust_region import fisher_vector_product, trust_region
from ridgeline.types import Action, EnvSpec, Metrics, Obs, Rollout, Steps, Transition, real, size, static


class Penalty(eqx.Module):
    """C, and the state of the optimiser that climbs L − C KL."""

    coefficient: Float[Array, ""]
    optimiser: PyTree[Array]


class QLearner(eqx.Module):
    """Q_φ with its optimiser's state, and its static copy Q_φ′."""

    critic: Regression[tuple[Critic, ...]]
    static: tuple[Critic, ...]


class State(eqx.Module):
    """π_θ, its critic (Q with a memory), what only one form has, and how many updates so far left θ as it was."""

    policy: Policy[Actor]
    critic: Regression[StateValue] | Experience[QLearner]
    penalty: Penalty | None
    rewards: RewardNormaliser | None
    failed_searches: Int[Array, ""]
    broken_directions: Int[Array, ""]


class Rows(NamedTuple):
    """Rows of a rollout with π_θold(·|s) of each."""

    sample: Sample
    old: Distribution


# θ, what the penalty form keeps, whether the line search failed, whether there was no direction to search.
type Moved = tuple[Actor, Penalty | None, Bool[Array, ""], Bool[Array, ""]]


def improvement(
    log_prob: Float[Array, ""], old_log_prob: Float[Array, ""], advantage: Float[Array, ""]
) -> Float[Array, ""]:
    """(ρ − 1) Â, ρ = π_θ(a|s)/π_θold(a|s): its mean is L(θ) − L(θ_old), without the rounding of L (eq. 14)."""
    return jnp.expm1(log_prob - old_log_prob) * advantage


def adapted_penalty(
    coefficient: Float[Array, ""], kl: Float[Array, ""], target: Float[Array, ""] | float
) -> Float[Array, ""]:
    """C ← 2C where KL > 1.5 δ, C/2 where KL < δ/1.5 (Schulman et al. 2017, sec. 4); within 2^±20."""
    raised = jnp.where(kl > 1.5 * target, 2 * coefficient, coefficient)
    return jnp.clip(jnp.where(kl < target / 1.5, coefficient / 2, raised), 2.0**-20, 2.0**20)


class TRPO(DrawnActions, NetworkAlgorithm[State, Policy[Actor]]):
    """Trust region policy optimisation. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(8)  # environments side by side, for each seed
    rollout_length: int = size(128)  # steps in each of them between updates
    form: Literal["constraint", "penalty"] = static("constraint")  # KL ≤ δ, or a penalty of C · KL
    critic: Literal["v", "q"] = static("v")  # advantages from V with GAE, or from Q and a memory
    max_kl: float = real(0.01, 0)  # δ, in nats; in penalty form, the target that C is adapted to
    damping: float = real(0.1, 0)  # λ added to the Fisher matrix
    cg_iterations: int = size(15)  # of the conjugate gradient
    backtrack_ratio: float = real(0.8, 0, 1)  # β of the line search
    backtrack_tries: int = size(10)  # step lengths that the line search tries
    fisher_stride: int = size(1)  # of the rollout's time steps, every how manieth the Fisher products read
    penalty: float = real(1.0, 0)  # C at the start
    policy_epochs: int = size(10)  # passes over each rollout in penalty form
    policy_learning_rate: float = real(1e-3, 0)  # of these; learning_rate is that of the critic
    gae_lambda: float = real(0.95, 0, 1)  # λ of the advantage estimator, with V
    value_epochs: int = size(10)  # passes of V over each rollout
    batch_size: int = size(128)  # rows in a minibatch of either; divides num_envs × rollout_length
    tau: float = real(0.005, 0, 1)  # how far Q's static copy moves at each gradient step
    action_draws: int = size(8)  # K actions that E_π Q is the mean of, where it is no exact sum
    replay: Replay = eqx.field(default_factory=Replay)
    normalise_advantages: bool = static(True)  # standardise them over the rollout
    normalise_rewards: bool = static(False)  # by the running deviation of the discounted return
    log_std: float = real(0.0, -20, 2)  # initial log standard deviation of continuous actions
    activation: Activation = static("tanh")

    def check(self, spec: EnvSpec) -> None:
        """Minibatches divide the rollout; with Q, they fit the memory."""
        rows = self.num_envs * self.rollout_length
        if rows % self.batch_size and not (self.critic == "q" and self.form == "constraint"):
            raise UsageError(f"batch_size {self.batch_size} does not divide the rollout's {rows} rows: change it")
        if self.critic == "q":
            self.replay.check(self.num_envs, self.rollout_length)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh networks; normalisers that have seen nothing; with Q, an empty memory."""
        actor_key, critic_key = jax.random.split(key)
        actor = Actor.create(actor_key, spec, self.architecture, self.log_std)
        critic: Regression[StateValue] | Experience[QLearner]
        if self.critic == "v":
            critic = Regression.begin(StateValue.create(critic_key, spec, self.architecture), self.optimiser)
        else:
            critics = create_critics(critic_key, 1, spec, self.architecture)
            learner = QLearner(Regression.begin(critics, self.optimiser), jax.tree.map(jnp.copy, critics))
            critic = self.replay.begin(spec, self.num_envs, learner, normalise_observations=False)
        penalised, zero = self.form == "penalty", jnp.zeros((), jnp.int32)
        return State(
            Policy(actor, ObservationNormaliser.create(spec.observation, self.normalise_observations)),
            critic,
            Penalty(jnp.asarray(self.penalty), optimiser_state(self.optimiser, actor)) if penalised else None,
            RewardNormaliser.create(self.num_envs) if self.normalise_rewards else None,
            zero,
            zero,
        )

    def policy(self, state: State) -> Policy[Actor]:
        """π_θ, and the normaliser of what it reads."""
        return state.policy

    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        """Move the critic, then θ; then the observations are folded into their normaliser."""
        critic_key, rows_key, actor_key = jax.random.split(key, 3)
        policy, x, rewards = state.policy, rollout.transitions, state.rewards
        if rewards is not None:
            rewards, reward = rewards.scale(x.reward, x.ended, self.gamma)
            x = x._replace(reward=reward)
        critic: Regression[StateValue] | Experience[QLearner]
        if isinstance(state.critic, Regression):
            network = policy.network.distribution
            rows = samples(network, state.critic.critics, policy.read, x, self.gamma, self.gae_lambda)
            critic, metrics = self.fit_v(critic_key, state.critic, flatten(rows), steps)
        else:
            learn, stored = partial(self.fit_q, policy), Rollout(x, ())
            critic, metrics = self.replay.study(critic_key, state.critic, stored, steps, self.gamma, learn)
            rows = self.q_rows(rows_key, policy, critic.learner.critic.critics, x)
        old = everywhere(policy.network.distribution, rows.obs)
        if self.normalise_advantages:
            rows = rows._replace(advantage=standardise(rows.advantage.reshape(-1)).reshape(rows.advantage.shape))
        (actor, penalty, failed, broken), moved = self.move(
            actor_key, policy.network, state.penalty, Rows(rows, old), steps
        )
        counts = (state.failed_searches + failed, state.broken_directions + broken)
        metrics |= moved | {
            "train/failed_searches": counts[0].astype(rows.advantage.dtype),
            "train/broken_directions": counts[1].astype(rows.advantage.dtype),
            "train/entropy_loss": -jnp.mean(everywhere(lambda p: p.entropy(), old)),
        }
        if actor.head.log_std is not None:
            metrics["train/std"] = jnp.mean(jnp.exp(actor.head.log_std))
        return State(Policy(actor, policy.normaliser.fold(x.obs)), critic, penalty, rewards, *counts), metrics

    def fit_v(
        self, key: PRNGKeyArray, state: Regression[StateValue], rows: Sample, steps: Steps
    ) -> tuple[Regression[StateValue], Metrics]:
        """Epochs of V towards V^targ = Â + V_old."""
        rate = self.annealed(self.learning_rate, steps)

        def learn(at: Regression[StateValue], batch: Sample) -> tuple[Regression[StateValue], Array]:
            return fit_value(at, batch.obs, batch.target, 1.0, self.optimiser, rate, self.max_grad_norm)

        fitted, losses = epochs(key, learn, state, rows, self.value_epochs, self.batch_size)
        explained = explained_variance(rows.target - rows.advantage, rows.target)
        metrics = {"train/value_loss": jnp.mean(losses), "train/explained_variance": explained}
        return fitted, metrics | {"train/learning_rate": rate}

    def fit_q(
        self, policy: Policy[Actor], key: PRNGKeyArray, learner: QLearner, batch: Batch, steps: Steps
    ) -> tuple[QLearner, Metrics, Float[Array, "B"]]:
        """One step of Q_φ towards r + d Q_φ′(s′, a′), a′ ~ π_θ (discrete: its mean), then φ′ ← τφ + (1 − τ)φ′."""
        batch, rate = batch.read_through(policy.read), self.annealed(self.learning_rate, steps)
        next_value = jax.vmap(
            lambda key, obs: state_value(key, policy.network.distribution(obs), learner.static, obs, 1)
        )(jax.random.split(key, batch.reward.size), batch.next_obs)
        target = jax.vmap(td_target)(batch, next_value)
        critic, metrics, error = fit(learner.critic, batch, target, self.optimiser, rate, self.max_grad_norm)
        static = polyak(learner.static, critic.critics, self.tau)
        return QLearner(critic, static), metrics | {"train/learning_rate": rate}, error

    def q_rows(
        self, key: PRNGKeyArray, policy: Policy[Actor], critics: tuple[Critic, ...], x: Transition
    ) -> Sample:
        """The rollout's rows with Â = Q(s, a) − E_{a~π} Q(s, a); the target is Q(s, a)."""

        def row(key: PRNGKeyArray, obs: Obs, action: Action) -> Sample:
            obs = policy.read(obs)
            pi, q = policy.network.distribution(obs), least(critics, obs, action)
            baseline = state_value(key, pi, critics, obs, self.action_draws)
            return Sample(obs, action, pi.log_prob(action), q - baseline, q)

        return everywhere(row, jax.random.split(key, x.reward.shape), x.obs, x.action)

    def move(
        self, key: PRNGKeyArray, actor: Actor, penalty: Penalty | None, rows: Rows, steps: Steps
    ) -> tuple[Moved, Metrics]:
        """Either form's step; not before Q is learnt."""

        def work() -> tuple[Moved, Metrics]:
            if penalty is None:
                return self.search(actor, rows)
            return self.climb(key, actor, penalty, flatten(rows), steps)

        def wait() -> tuple[Moved, Metrics]:
            nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(work)[1])
            return (actor, penalty, jnp.array(False), jnp.array(False)), nothing

        return work() if self.critic == "v" else jax.lax.cond(steps.taken >= self.replay.warmup, work, wait)

    def search(self, actor: Actor, rows: Rows) -> tuple[Moved, Metrics]:
        """The constraint form's step."""
        every, some = flatten(rows), flatten(jax.tree.map(lambda x: x[:: self.fisher_stride], rows))

        def policy(new: Actor) -> Distribution:
            return jax.vmap(new.distribution)(some.sample.obs)

        product = fisher_vector_product(policy, partial(divergence, some.old), actor, self.damping)
        gain, kl = partial(mean_improvement, rows=every.sample), partial(mean_kl, every)
        search = self.cg_iterations, self.backtrack_ratio, self.backtrack_tries
        moved = trust_region(actor, gain, kl, product, self.max_kl, self.damping, *search)
        accepted, dtype = moved.fraction > 0, moved.fraction.dtype
        metrics = {
            "train/approx_kl": moved.kl,
            "train/predicted_kl": moved.predicted_kl,
            "train/policy_objective": moved.gain,
            "train/predicted_objective": moved.predicted_gain,
            "train/step_fraction": moved.fraction,
            "train/is_line_search_success": accepted.astype(dtype),
            "train/cg_residual": moved.solution.residual,
            "train/curvature_sign": jnp.sign(moved.solution.curvature),
        }
        return (moved.params, None, moved.usable & ~accepted, ~moved.usable), metrics

    def climb(
        self, key: PRNGKeyArray, actor: Actor, penalty: Penalty, rows: Rows, steps: Steps
    ) -> tuple[Moved, Metrics]:
        """The penalty form's steps on L(θ) − C Ê KL(π_θold ‖ π_θ), then C's."""
        rate = self.annealed(self.policy_learning_rate, steps)

        def learn(at: tuple[Actor, PyTree[Array]], batch: Rows) -> tuple[tuple[Actor, PyTree[Array]], Array]:
            def loss(new: Actor) -> Float[Array, ""]:
                return penalty.coefficient * mean_kl(batch, new) - mean_improvement(new, batch.sample)

            new, moments, norm = self.descend(at[0], jax.grad(loss)(at[0]), at[1], rate)
            return (new, moments), norm

        at, norms = epochs(key, learn, (actor, penalty.optimiser), rows, self.policy_epochs, self.batch_size)
        kl, gain = mean_kl(rows, at[0]), mean_improvement(at[0], rows.sample)
        metrics = {
            "train/approx_kl": kl,
            "train/policy_objective": gain,
            "train/penalty": penalty.coefficient,
            "train/policy_grad_norm": jnp.mean(norms),
        }
        penalty = Penalty(adapted_penalty(penalty.coefficient, kl, self.max_kl), at[1])
        return (at[0], penalty, jnp.array(False), jnp.array(False)), metrics


def mean_kl(rows: Rows, actor: Any) -> Float[Array, ""]:
    """Ê KL(π_θold(·|s) ‖ π_θ(·|s)) over rows, of anything with a `distribution` of an observation."""
    return divergence(rows.old, jax.vmap(actor.distribution)(rows.sample.obs))


def mean_improvement(actor: Any, rows: Sample) -> Float[Array, ""]:
    """L(θ) − L(θ_old) over rows, of anything with a `distribution` of an observation."""
    log_probs = jax.vmap(log_prob)(jax.vmap(actor.distribution)(rows.obs), rows.action)
    return jnp.mean(jax.vmap(improvement)(log_probs, rows.log_prob, rows.advantage))
