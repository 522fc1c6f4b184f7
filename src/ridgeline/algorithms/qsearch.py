"""QSearch: DDPG's critic and memory, its actor replaced by a search for argmaxₐ Q(s, a) (Kalashnikov et al. 2018).

1. act a = argmaxₐ Q_φ(s, a) + noise, add (s, a, s′, r) to the memory            `QSearch.best`, `explore`
2. sample a batch; φ′ ← τφ + (1 − τ)φ′                                           `Memory.sample`, `polyak`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ maxₐ′ Q_φ′(s′ᵢ, a′)])         `td_target`, `fit`

The maximum is found by random sampling, by the cross-entropy method, or by CMA-ES: see `maximisers`.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.critics import Critic, Regression, create_critics, fit, least, td_target
from ridgeline.errors import UsageError
from ridgeline.exploration import into_bounds, uniform_action
from ridgeline.maximisers import CEM, CMAES, Best, Maximiser, Sampling
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import Policy
from ridgeline.optimisation import polyak
from ridgeline.records import ReplayAlgorithm
from ridgeline.types import Carry, Continuous, EnvSpec, Metrics, Obs, Steps, real, size, static


class Critics(eqx.Module):
    """Q_φ, the least of one or several, and how long its actions are."""

    each: tuple[Critic, ...]
    action_size: int = eqx.field(static=True)


class Learner(eqx.Module):
    """Q_φ with its optimiser's state, and its static copy."""

    critic: Regression[tuple[Critic, ...]]
    static: Critics


type State = Experience[Learner]


class QSearch(ReplayAlgorithm[Learner, Policy[Critics]]):
    """Q-learning by search over continuous actions. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(1)  # environments side by side, for each seed
    rollout_length: int = size(1)  # steps in each of them between updates
    maximiser: Literal["sampling", "cem", "cma_es"] = static("cem")  # how argmaxₐ Q(s, a) is found
    population: int = size(20, 4)  # actions evaluated in each iteration of the search
    iterations: int = size(3)  # of the search; sampling evaluates as many actions in one
    elites: int = size(5)  # cem: how many of them are fitted
    initial_std: float = real(0.7, 1e-6)  # cem, cma_es: σ of the first iteration, about 0
    noise_scale: float = real(0.1, 0)  # σ of the noise on actions while learning
    critics: int = size(1)  # Q is the least of them
    tau: float = real(0.005, 0, 1)  # how far φ′ moves: 1 copies
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self, spec: EnvSpec) -> None:
        """A bounded box of actions; a minibatch fits the memory, and so does a rollout."""
        if not isinstance(spec.action, Continuous) or not all(spec.action.bounded):
            raise UsageError(
                f"qsearch needs bounded Continuous actions, {spec.id} has {spec.action}: use ddpg or ac"
            )
        self.search.check()
        self.replay.check(self.num_envs, self.rollout_length)

    @property
    def search(self) -> Maximiser:
        """The maximiser of that name; each evaluates about as many actions."""
        match self.maximiser:
            case "sampling":
                return Sampling(self.population * self.iterations)
            case "cem":
                return CEM(self.population, self.elites, self.iterations, jnp.asarray(self.initial_std))
            case "cma_es":
                return CMAES(self.population, self.iterations, jnp.asarray(self.initial_std))

    def best(self, key: PRNGKeyArray, critics: Critics, obs: Obs) -> Best:
        """argmaxₐ Q(s, a) and its value, as far as the search finds them."""
        return self.search(key, lambda action: least(critics.each, obs, action), critics.action_size)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh critics, φ′ = φ, and an empty memory."""
        assert isinstance(spec.action, Continuous)
        critics = create_critics(key, self.critics, spec, self.architecture)
        static = Critics(jax.tree.map(jnp.copy, critics), spec.action.size)
        learner = Learner(Regression.begin(critics, self.optimiser), static)
        return self.replay.begin(spec, self.num_envs, learner, self.normalise_observations)

    def policy(self, state: State) -> Policy[Critics]:
        """Q_φ, and the normaliser of what it reads."""
        learner = state.learner
        return Policy(Critics(learner.critic.critics, learner.static.action_size), state.normaliser)

    def act(
        self, key: PRNGKeyArray, policy: Policy[Critics], carry: Carry, obs: Obs, steps: Steps
    ) -> tuple[Float[Array, "d"], Carry]:
        """argmaxₐ Q(s, a) + noise, in bounds; uniform until the first gradient step."""
        search_key, noise_key = jax.random.split(key)
        action = self.best(search_key, policy.network, policy.read(obs)).action
        bounded = (True,) * policy.network.action_size
        noise = jax.random.normal(noise_key, action.shape)
        noisy = into_bounds(action + self.noise_scale * noise, bounded)
        return jnp.where(steps.taken < self.replay.warmup, uniform_action(noise, bounded), noisy), carry

    def greedy(
        self, key: PRNGKeyArray, policy: Policy[Critics], carry: Carry, obs: Obs
    ) -> tuple[Float[Array, "d"], Carry]:
        """argmaxₐ Q(s, a)."""
        return self.best(key, policy.network, policy.read(obs)).action, carry

    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """One gradient step on one minibatch, then the static critics' move."""

        def target(key: PRNGKeyArray, x: Batch) -> Float[Array, ""]:
            return td_target(x, self.best(key, learner.static, x.next_obs).value)

        rate = self.annealed(self.learning_rate, steps)
        targets = jax.vmap(target)(jax.random.split(key, batch.reward.shape[0]), batch)
        critic, metrics, error = fit(learner.critic, batch, targets, self.optimiser, rate, self.max_grad_norm)
        static = Critics(polyak(learner.static.each, critic.critics, self.tau), learner.static.action_size)
        metrics["train/learning_rate"] = rate
        return Learner(critic, static), metrics, error
