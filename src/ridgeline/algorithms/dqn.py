"""DQN: Q-learning with a static network and a memory (Mnih et al. 2015).

1. φ′ ← φ every C gradient steps, or φ′ ← τφ + (1 − τ)φ′                       `polyak`
2. act ε-greedily on Q_φ, add (s, a, s′, r) to the memory                      `epsilon_greedy`, `Replay.study`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ max_a′ Q_φ′(s′ᵢ, a′)])      `td_target`, `td_error`

No gradient flows through the bracket. It is r alone where s′ is terminal, and bootstraps where the episode was
only cut by a time limit. Convergence is not guaranteed: the max backup contracts in ∞-norm, the regression
projects in L2.

With `quantiles` it is QR-DQN (Dabney et al. 2018): line 3 regresses quantiles of the return on those of the
bracket by `quantile_errors` and `quantile_huber`, and Q is their mean.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ridgeline.encoders import build_encoder
from ridgeline.errors import UsageError
from ridgeline.linear import Linear
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import ActionValues, Policy, allowed_actions
from ridgeline.optimisation import optimiser_state, polyak, regression_loss
from ridgeline.records import NetworkAlgorithm
from ridgeline.types import Carry, Discrete, EnvSpec, Metrics, Obs, Rollout, Steps, real, size, static


class Learner(eqx.Module):
    """Q_φ, its static copy Q_φ′, the optimiser's state, and the gradient steps taken."""

    online: ActionValues
    static: ActionValues
    optimiser: PyTree[Array]
    updates: Int[Array, ""]


type State = Experience[Learner]
type Values = Callable[[Obs], Float[Array, "A"]]
type Quantiles = Callable[[Obs], Float[Array, "A K"]]


def td_target(selector: Values, static: Values | Quantiles, x: Batch) -> Float[Array, "*K"]:
    """y = r + d Q(s′, a*; φ′), a* = argmaxₐ Q(s′, a; selector); d = γᵏ, or 0 where s′ is terminal.

    Of K quantiles θ(s′, a*; φ′) it makes K targets yⱼ (Dabney et al. 2018, algorithm 1).
    """
    best = jnp.argmax(selector(x.next_obs))
    return x.reward + x.discount * static(x.next_obs)[best]


def td_error(q: Float[Array, "A"], action: Int[Array, ""], target: Float[Array, ""]) -> Float[Array, ""]:
    """δ = Q(s, a) − y: the gradient of ½δ² is ∇Q(s, a) δ, as none flows through y."""
    chosen = jnp.sum(jnp.where(jnp.arange(q.size) == action, q, 0))
    return chosen - jax.lax.stop_gradient(target)


def quantile_errors(
    quantiles: Float[Array, "A K"], action: Int[Array, ""], targets: Float[Array, "K"]
) -> Float[Array, "K K"]:
    """δᵢⱼ = θᵢ(s, a) − yⱼ: the error of every quantile to every target."""
    to_every_target = jax.vmap(td_error, (None, None, 0))
    return jax.vmap(to_every_target, (1, None, None))(quantiles, action, targets)


def quantile_huber(error: Float[Array, "K K"], huber: bool = True) -> Float[Array, ""]:
    """Σᵢ (1/K) Σⱼ |τᵢ − 1{δᵢⱼ > 0}| H(δᵢⱼ), τᵢ = (i + ½)/K, i = 0 … K − 1 (Dabney et al. 2018, eq. 10).

    H is Huber's loss with κ = 1, or without it |δ| (eq. 8), whose minimum lies at the quantiles exactly.
    """
    level = (jnp.arange(len(error), dtype=error.dtype)[:, None] + 0.5) / len(error)
    each = regression_loss(error, huber) if huber else jnp.abs(error)
    return jnp.sum(jnp.mean(jnp.abs(level - (error > 0)) * each, 1))


def epsilon_greedy(
    key: PRNGKeyArray, q: Float[Array, "A"], allowed: Float[Array, "A"], epsilon: Float[Array, ""]
) -> Int[Array, ""]:
    """A uniformly random allowed action with probability ε, else argmaxₐ Q(s, a)."""
    explore_key, action_key = jax.random.split(key)
    random = jax.random.categorical(action_key, allowed)
    return jnp.where(jax.random.uniform(explore_key) < epsilon, random, jnp.argmax(q)).astype(jnp.int32)


class DQN(NetworkAlgorithm[State, Policy[ActionValues]]):
    """Deep Q-network. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(4)  # environments side by side, for each seed
    rollout_length: int = size(4)  # steps in each of them between updates
    learning_rate: float = real(5e-4, 0)  # α
    epsilon_start: float = real(1.0, 0, 1)  # ε at the first step
    epsilon_end: float = real(0.05, 0, 1)  # ε once exploration is over
    exploration_fraction: float = real(0.2, 1e-9, 1)  # share of the run over which ε falls linearly
    target_period: int = size(500)  # C: gradient steps between moves of the static network
    tau: float = real(1.0, 0, 1)  # how far φ′ moves towards φ then: 1 copies
    double: bool = static(False)  # choose a* with φ rather than φ′ (van Hasselt et al. 2016)
    dueling: bool = static(False)  # Q = V + A − mean A (Wang et al. 2016)
    huber: bool = static(True)  # regress with Huber's loss: linear beyond an error of 1
    quantiles: int = size(0, low=0)  # K: learn as many of the return's quantiles (Dabney et al. 2018), not Q
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
        encoder, n = build_encoder(encoder_key, spec.observation, self.architecture)
        count = max(1, self.quantiles)
        advantage = Linear.create(advantage_key, n, spec.action.count * count)
        value = Linear.create(value_key, n, count) if self.dueling else None
        online = ActionValues(encoder, advantage, value, count)
        optimiser = optimiser_state(self.optimiser, online)
        learner = Learner(online, jax.tree.map(jnp.copy, online), optimiser, jnp.zeros((), jnp.int32))
        return self.replay.begin(spec, self.num_envs, learner, self.normalise_observations)

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
        state, metrics = self.replay.study(key, state, rollout, steps, self.gamma, self.learn)
        return state, metrics | {"rollout/exploration_rate": self.epsilon(steps)}

    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """One gradient step on one minibatch, then the static network's move when it is due."""
        learning_rate = self.annealed(self.learning_rate, steps)
        selector = learner.online if self.double else learner.static
        valued = learner.static.quantiles if self.quantiles else learner.static
        targets = jax.vmap(lambda x: td_target(selector, valued, x))(batch)

        def loss(online: ActionValues) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            quantiles = jax.vmap(online.quantiles)(batch.obs)
            q = jax.vmap(allowed_actions)(batch.obs, jnp.mean(quantiles, 2))
            if self.quantiles:
                errors = jax.vmap(quantile_errors)(quantiles, batch.action, targets)
                error = jnp.mean(jnp.abs(errors), (1, 2))
                each = jax.vmap(lambda x: quantile_huber(x, self.huber))(errors)
            else:
                error = jax.vmap(td_error)(q, batch.action, targets)
                each = regression_loss(error, self.huber)
            return jnp.mean(batch.weight * each), (jnp.max(q, 1), error)

        (value, (q, error)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.online)
        online, optimiser, norm = self.descend(learner.online, gradient, learner.optimiser, learning_rate)
        updates = learner.updates + 1
        static = jax.lax.cond(
            updates % self.target_period == 0,
            lambda: polyak(learner.static, online, self.tau),
            lambda: learner.static,
        )
        metrics = {
            "train/loss": value,
            "train/q_value": jnp.mean(q),
            "train/q_max": jnp.max(jnp.abs(q)),
            "train/grad_norm": norm,
            "train/learning_rate": learning_rate,
        }
        return Learner(online, static, optimiser, updates), metrics, error
