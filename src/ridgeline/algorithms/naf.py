"""NAF: normalised advantage functions, a Q whose maximum over actions is known (Gu et al. 2016).

1. act a = μ(s) + noise, add (s, a, s′, r) to the memory                         `explore`, `Replay.study`
2. sample a batch; φ′ ← τφ + (1 − τ)φ′                                           `Memory.sample`, `polyak`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ V_φ′(s′ᵢ)])                   `td_target`, `fit`
   Q(s, a) = V(s) − ½ (a − μ(s))ᵀ P(s) (a − μ(s)),  P = LLᵀ ≻ 0                  `quadratic_advantage`

So argmaxₐ Q(s, a) = μ(s) and maxₐ Q(s, a) = V(s): no search, and no actor.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.critics import Regression, fit, td_target
from ridgeline.encoders import Architecture, Encode, build_encoder
from ridgeline.errors import UsageError
from ridgeline.exploration import Noise, begin_noise, explore, uniform_action
from ridgeline.linear import Linear
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import Policy, squash
from ridgeline.optimisation import polyak
from ridgeline.records import ReplayAlgorithm
from ridgeline.types import Carry, Continuous, EnvSpec, Metrics, Obs, Steps, real, size, static


def quadratic_advantage(
    action: Float[Array, "d"], mean: Float[Array, "d"], root: Float[Array, "d d"]
) -> Float[Array, ""]:
    """A(s, a) = −½ (a − μ)ᵀ LLᵀ (a − μ) = −½ ‖Lᵀ(a − μ)‖² (eq. 4): 0 at μ, below it elsewhere."""
    return -0.5 * jnp.sum((root.T @ (action - mean)) ** 2)


def cholesky_root(entries: Float[Array, "n"], size: int) -> Float[Array, "d d"]:
    """L: lower triangular, its diagonal exp of an output within ±5, so that P = LLᵀ is positive definite."""
    root = jnp.zeros((size, size), entries.dtype).at[jnp.tril_indices(size)].set(entries)
    diagonal = jnp.exp(jnp.clip(jnp.diagonal(root), -5, 5))
    return jnp.tril(root, -1) + jnp.diag(diagonal)


class NormalisedAdvantage(eqx.Module):
    """V(s), μ(s) and L(s) on one encoder; called, Q(s, a)."""

    encoder: Encode
    value: Linear
    mean: Linear
    root: Linear
    bounded: tuple[bool, ...] = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, spec: EnvSpec, architecture: Architecture) -> "NormalisedAdvantage":
        """μ nearly 0 and L nearly I at first."""
        assert isinstance(spec.action, Continuous)
        encoder_key, value_key, mean_key, root_key = jax.random.split(key, 4)
        encoder, n = build_encoder(encoder_key, spec.observation, architecture)
        size = spec.action.size
        return cls(
            encoder,
            Linear.create(value_key, n, 1),
            Linear.create(mean_key, n, size, 0.01),
            Linear.create(root_key, n, size * (size + 1) // 2, 0.01),
            spec.action.bounded,
        )

    def __call__(self, obs: Obs, action: Float[Array, "d"]) -> Float[Array, ""]:
        """Q(s, a) = V(s) + A(s, a)."""
        features = self.encoder(obs)
        root = cholesky_root(self.root(features), len(self.bounded))
        return self.value(features)[0] + quadratic_advantage(action, self._mean(features), root)

    def best_action(self, obs: Obs) -> Float[Array, "d"]:
        """argmaxₐ Q(s, a) = μ(s), in bounds."""
        return self._mean(self.encoder(obs))

    def best_value(self, obs: Obs) -> Float[Array, ""]:
        """maxₐ Q(s, a) = V(s)."""
        return self.value(self.encoder(obs))[0]

    def _mean(self, features: Float[Array, "n"]) -> Float[Array, "d"]:
        return squash(self.mean(features), self.bounded)


class Learner(eqx.Module):
    """Q_φ with its optimiser's state, and its static copy."""

    critic: Regression[tuple[NormalisedAdvantage]]
    static: NormalisedAdvantage


type State = Experience[Learner]


class NAF(ReplayAlgorithm[Learner, Policy[NormalisedAdvantage]]):
    """Normalised advantage functions. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(1)  # environments side by side, for each seed
    rollout_length: int = size(1)  # steps in each of them between updates
    noise: Noise = static("gaussian")  # on actions while learning
    noise_scale: float = real(0.2, 0)  # σ of it, where actions are in [−1, 1]
    tau: float = real(0.005, 0, 1)  # how far φ′ moves: 1 copies
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self, spec: EnvSpec) -> None:
        """Continuous actions only; a minibatch fits the memory, and so does a rollout."""
        if not isinstance(spec.action, Continuous):
            raise UsageError(f"naf needs Continuous actions, {spec.id} has {spec.action}: use dqn or ac")
        self.replay.check(self.num_envs, self.rollout_length)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """A fresh network, φ′ = φ, and an empty memory."""
        network = NormalisedAdvantage.create(key, spec, self.architecture)
        learner = Learner(Regression.begin((network,), self.optimiser), jax.tree.map(jnp.copy, network))
        return self.replay.begin(spec, self.num_envs, learner, self.normalise_observations)

    def policy(self, state: State) -> Policy[NormalisedAdvantage]:
        """Q_φ, and the normaliser of what it reads."""
        return Policy(state.learner.critic.critics[0], state.normaliser)

    def begin(self, spec: EnvSpec) -> Carry:
        """What the noise of an episode remembers."""
        assert isinstance(spec.action, Continuous)
        return begin_noise(self.noise, spec.action)

    def randomness(self, key: PRNGKeyArray, policy: Policy[NormalisedAdvantage], obs: Obs) -> Float[Array, "d"]:
        """ε ~ N(0, I)."""
        return jax.random.normal(key, (len(policy.network.bounded),))

    def act(
        self, noise: Float[Array, "d"], policy: Policy[NormalisedAdvantage], carry: Carry, obs: Obs, steps: Steps
    ) -> tuple[Float[Array, "d"], Carry]:
        """μ(s) + noise, in bounds; uniform until the first gradient step."""
        action, bounded = policy.network.best_action(policy.read(obs)), policy.network.bounded
        noisy, carry = explore(noise, self.noise, carry, action, self.noise_scale, bounded)
        return jnp.where(steps.taken < self.replay.warmup, uniform_action(noise, bounded), noisy), carry

    def greedy(
        self, key: PRNGKeyArray, policy: Policy[NormalisedAdvantage], carry: Carry, obs: Obs
    ) -> tuple[Float[Array, "d"], Carry]:
        """argmaxₐ Q(s, a) = μ(s)."""
        return policy.network.best_action(policy.read(obs)), carry

    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """One gradient step on one minibatch, then the static network's move."""
        target = jax.vmap(lambda x: td_target(x, learner.static.best_value(x.next_obs)))(batch)
        rate = self.annealed(self.learning_rate, steps)
        critic, metrics, error = fit(learner.critic, batch, target, self.optimiser, rate, self.max_grad_norm)
        metrics["train/learning_rate"] = rate
        return Learner(critic, polyak(learner.static, critic.critics[0], self.tau)), metrics, error
