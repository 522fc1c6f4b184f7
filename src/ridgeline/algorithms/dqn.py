"""DQN: Q-learning with a static network and a memory (Mnih et al. 2015).

1. φ′ ← φ every C gradient steps, or φ′ ← τφ + (1 − τ)φ′                       `polyak`
2. act ε-greedily on Q_φ, add (s, a, s′, r) to the memory                      `epsilon_greedy`, `Replay.study`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ max_a′ Q_φ′(s′ᵢ, a′)])      `td_target`, `td_loss`

No gradient flows through the bracket. It is r alone where s′ is terminal, and bootstraps where the episode was
only cut by a time limit. Convergence is not guaranteed: the max backup contracts in ∞-norm, the regression
projects in L2.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ridgeline.encoders import Activation, EncoderBuilder, Linear, build_encoder
from ridgeline.errors import UsageError
from ridgeline.memory import Batch, Memory, Replay
from ridgeline.networks import ActionValues, Policy, allowed_actions
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.optimisation import OptimiserName, descend, optimiser_state, polyak
from ridgeline.types import Algorithm, Carry, Discrete, EnvSpec, Metrics, Obs, Rollout, Steps, real, size, static


class Learner(eqx.Module):
    """Q_φ, its static copy Q_φ′, the optimiser's state, and the gradient steps taken."""

    online: ActionValues
    static: ActionValues
    optimiser: PyTree[Array]
    updates: Int[Array, ""]


class State(eqx.Module):
    """The learner, its memory, and the normaliser of observations."""

    learner: Learner
    memory: Memory
    normaliser: ObservationNormaliser


def td_target(selector: ActionValues, static: ActionValues, x: Batch) -> Float[Array, ""]:
    """y = r + d Q(s′, a*; φ′), a* = argmaxₐ Q(s′, a; selector); d = γᵏ, or 0 where s′ is terminal."""
    best = jnp.argmax(selector(x.next_obs))
    return x.reward + x.discount * static(x.next_obs)[best]


def td_loss(q: Float[Array, "A"], action: Int[Array, ""], target: Float[Array, ""]) -> Float[Array, ""]:
    """Huber(Q(s, a) − y): the square ½δ², linear beyond |δ| = 1, as DQN clips its error."""
    chosen = jnp.sum(jnp.where(jnp.arange(q.size) == action, q, 0))
    return optax.huber_loss(chosen, jax.lax.stop_gradient(target))


def epsilon_greedy(
    key: PRNGKeyArray, q: Float[Array, "A"], allowed: Float[Array, "A"], epsilon: Float[Array, ""]
) -> Int[Array, ""]:
    """A uniformly random allowed action with probability ε, else argmaxₐ Q(s, a)."""
    explore_key, action_key = jax.random.split(key)
    random = jax.random.categorical(action_key, allowed)
    return jnp.where(jax.random.uniform(explore_key) < epsilon, random, jnp.argmax(q)).astype(jnp.int32)


class DQN(Algorithm[State, Policy[ActionValues]]):
    """Deep Q-network. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(4)  # environments side by side, for each seed
    rollout_length: int = size(4)  # steps in each of them between updates
    gamma: float = real(0.99, 0, 1)  # discount γ
    learning_rate: float = real(5e-4, 0)  # α
    learning_rate_anneal: float = real(0.0, 0, 1)  # share of α that is gone, linearly, by the end of the run
    epsilon_start: float = real(1.0, 0, 1)  # ε at the first step
    epsilon_end: float = real(0.05, 0, 1)  # ε once exploration is over
    exploration_fraction: float = real(0.2, 1e-9, 1)  # share of the run over which ε falls linearly
    target_period: int = size(500)  # C: gradient steps between moves of the static network
    tau: float = real(1.0, 0, 1)  # how far φ′ moves towards φ then: 1 copies
    double: bool = static(False)  # choose a* with φ rather than φ′ (van Hasselt et al. 2016)
    dueling: bool = static(False)  # Q = V + A − mean A (Wang et al. 2016)
    normalise_observations: bool = static(False)  # by the running mean and variance of all observations
    max_grad_norm: float = real(10.0, 0)  # the gradient's global norm is clipped here
    optimiser: OptimiserName = static("adam")
    hidden: tuple[int, ...] = static((64, 64))  # widths of the hidden layers
    activation: Activation = static("relu")
    encoder: EncoderBuilder | None = static(None)
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self, spec: EnvSpec) -> None:
        """Discrete actions only; a minibatch fits the memory, and so does a rollout."""
        if not isinstance(spec.action, Discrete):
            raise UsageError(f"dqn needs Discrete actions, {spec.id} has {spec.action}: use ppo")
        self.replay.check(self.num_envs, self.rollout_length)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh networks, φ′ = φ, and an empty memory."""
        assert isinstance(spec.action, Discrete)
        encoder_key, advantage_key, value_key = jax.random.split(key, 3)
        encoder, n = build_encoder(encoder_key, spec.observation, self.hidden, self.activation, self.encoder)
        value = Linear.create(value_key, n, 1) if self.dueling else None
        online = ActionValues(encoder, Linear.create(advantage_key, n, spec.action.count), value)
        optimiser = optimiser_state(self.optimiser, online)
        learner = Learner(online, jax.tree.map(jnp.copy, online), optimiser, jnp.zeros((), jnp.int32))
        normaliser = ObservationNormaliser.create(spec.observation, self.normalise_observations)
        return State(learner, self.replay.create(spec, self.num_envs), normaliser)

    def policy(self, state: State) -> Policy[ActionValues]:
        """Q_φ, and the normaliser of what it reads."""
        return Policy(state.learner.online, state.normaliser)

    def act(
        self, key: PRNGKeyArray, policy: Policy[ActionValues], carry: Carry, obs: Obs, steps: Steps
    ) -> tuple[Int[Array, ""], Carry]:
        """ε-greedy, ε falling linearly over `exploration_fraction` of the run."""
        q = policy.network(policy.read(obs))
        return epsilon_greedy(key, q, allowed_actions(obs, jnp.zeros_like(q)), self.epsilon(steps)), carry

    def greedy(
        self, key: PRNGKeyArray, policy: Policy[ActionValues], carry: Carry, obs: Obs
    ) -> tuple[Int[Array, ""], Carry]:
        """argmaxₐ Q(s, a)."""
        return jnp.argmax(policy.network(policy.read(obs))).astype(jnp.int32), carry

    def epsilon(self, steps: Steps) -> Float[Array, ""]:
        """ε at this point of the run."""
        done = jnp.minimum(1, steps.progress / self.exploration_fraction)
        return self.epsilon_start + done * (self.epsilon_end - self.epsilon_start)

    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        """Store the rollout, then learn from minibatches of the memory."""
        learning_rate = self.learning_rate * (1 - self.learning_rate_anneal * steps.progress)
        learn = partial(self.learn, learning_rate)
        learner, memory, metrics = self.replay.study(
            key, state.learner, state.memory, rollout, steps, self.gamma, state.normaliser, learn
        )
        metrics |= {"train/learning_rate": learning_rate, "rollout/exploration_rate": self.epsilon(steps)}
        return State(learner, memory, state.normaliser.fold(rollout.transitions.obs)), metrics

    def learn(
        self, learning_rate: Float[Array, ""], key: PRNGKeyArray, learner: Learner, batch: Batch
    ) -> tuple[Learner, Metrics]:
        """One gradient step on one minibatch, then the static network's move when it is due."""
        selector = learner.online if self.double else learner.static
        targets = jax.vmap(lambda x: td_target(selector, learner.static, x))(batch)

        def loss(online: ActionValues) -> tuple[Float[Array, ""], Float[Array, ""]]:
            q = jax.vmap(online)(batch.obs)
            return jnp.mean(jax.vmap(td_loss)(q, batch.action, targets)), jnp.mean(jnp.max(q, 1))

        (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(learner.online)
        online, optimiser, norm = descend(
            self.optimiser, learner.online, gradient, learner.optimiser, learning_rate, self.max_grad_norm
        )
        updates = learner.updates + 1
        static = jax.lax.cond(
            updates % self.target_period == 0,
            lambda: polyak(learner.static, online, self.tau),
            lambda: learner.static,
        )
        metrics = {"train/loss": value, "train/q_value": q, "train/grad_norm": norm}
        return Learner(online, static, optimiser, updates), metrics
