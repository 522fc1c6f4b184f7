"""DDPG: the deterministic policy gradient with a memory (Lillicrap et al. 2016), and TD3 (Fujimoto et al. 2018).

1. act a = μ_θ(s) + noise, add (s, a, s′, r) to the memory                       `explore`, `Replay.study`
2. sample a batch; φ′ ← τφ + (1 − τ)φ′, θ′ ← τθ + (1 − τ)θ′                      `Memory.sample`, `polyak`
3. φ ← φ − α Σᵢ ∇Q_φ(sᵢ, aᵢ) (Q_φ(sᵢ, aᵢ) − [r + γ Q_φ′(s′ᵢ, μ_θ′(s′ᵢ))])        `smoothed`, `td_target`, `fit`
4. θ ← θ + β Σⱼ ∇_θ μ_θ(sⱼ) ∇_a Q_φ(sⱼ, a)|_{a = μ_θ(sⱼ)}                        `policy_objective`

TD3 takes the least of two critics in step 3, with noise on a′, and moves θ and the copies every second time.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ridgeline.critics import (
    ActionValue,
    Critic,
    Regression,
    create_critics,
    fit,
    least,
    td_target,
    where_next_action,
)
from ridgeline.errors import UsageError
from ridgeline.exploration import Noise, begin_noise, explore, into_bounds, uniform_action
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import DeterministicActor, Policy
from ridgeline.optimisation import optimiser_state, polyak
from ridgeline.records import ReplayAlgorithm
from ridgeline.types import Carry, Continuous, EnvSpec, Metrics, Obs, Steps, real, size, static

type Actor = DeterministicActor


class Learner(eqx.Module):
    """μ_θ and Q_φ with their optimisers' states, the static copies of both, and the gradient steps taken."""

    actor: Actor
    actor_optimiser: PyTree[Array]
    static_actor: Actor
    critic: Regression[tuple[Critic, ...]]
    static_critics: tuple[Critic, ...]
    updates: Int[Array, ""]


type State = Experience[Learner]


def policy_objective(actor: Callable[[Obs], Float[Array, "d"]], critic: ActionValue, obs: Obs) -> Float[Array, ""]:
    """Q(s, μ_θ(s)), whose gradient is ∇_θ μ_θ(s) ∇_a Q(s, a) at a = μ_θ(s) (Silver et al. 2014, eq. 9)."""
    return critic(obs, actor(obs))


def smoothed(
    noise: Float[Array, "d"],
    action: Float[Array, "d"],
    scale: Float[Array, ""] | float,
    limit: Float[Array, ""] | float,
    bounded: tuple[bool, ...],
) -> Float[Array, "d"]:
    """a′ + clip(ε, −c, c), ε ~ N(0, σ²), in bounds: near actions are to have near values (Fujimoto, eq. 14)."""
    return into_bounds(action + jnp.clip(scale * noise, -limit, limit), bounded)


class DDPG(ReplayAlgorithm[Learner, Policy[DeterministicActor]]):
    """Deep deterministic policy gradient. A record of hyper-parameters; its methods are pure."""

    num_envs: int = size(1)  # environments side by side, for each seed
    rollout_length: int = size(1)  # steps in each of them between updates
    actor_learning_rate: float = real(1e-3, 0)  # β; learning_rate is that of the critics
    next_action: Literal["target", "online", "memory"] = static("target")  # a′: μ_θ′(s′), μ_θ(s′), or as stored
    noise: Noise = static("gaussian")  # on actions while learning
    noise_scale: float = real(0.1, 0)  # σ of it, where actions are in [−1, 1]
    critics: int = size(1)  # the target reads the least of them
    policy_delay: int = size(1)  # critic steps for each step of the policy and move of the copies
    tau: float = real(0.005, 0, 1)  # how far the copies move: 1 copies
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self, spec: EnvSpec) -> None:
        """Continuous actions only; a minibatch fits the memory, and so does a rollout."""
        if not isinstance(spec.action, Continuous):
            name = type(self).__name__.lower()
            raise UsageError(f"{name} needs Continuous actions, {spec.id} has {spec.action}: use dqn or ac")
        self.replay.check(self.num_envs, self.rollout_length)

    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """Fresh networks, copies of them, and an empty memory."""
        actor_key, critic_key = jax.random.split(key)
        actor = DeterministicActor.create(actor_key, spec, self.architecture)
        critics = create_critics(critic_key, self.critics, spec, self.architecture)
        copies = jax.tree.map(jnp.copy, (actor, critics))
        moments = optimiser_state(self.optimiser, actor)
        critic = Regression.begin(critics, self.optimiser)
        learner = Learner(actor, moments, copies[0], critic, copies[1], jnp.zeros((), jnp.int32))
        return self.replay.begin(spec, self.num_envs, learner, self.normalise_observations)

    def policy(self, state: State) -> Policy[DeterministicActor]:
        """μ_θ, and the normaliser of what it reads."""
        return Policy(state.learner.actor, state.normaliser)

    def begin(self, spec: EnvSpec) -> Carry:
        """What the noise of an episode remembers."""
        assert isinstance(spec.action, Continuous)
        return begin_noise(self.noise, spec.action)

    def randomness(self, key: PRNGKeyArray, policy: Policy[DeterministicActor], obs: Obs) -> Float[Array, "d"]:
        """ε ~ N(0, I)."""
        return jax.random.normal(key, (len(policy.network.bounded),))

    def act(
        self, noise: Float[Array, "d"], policy: Policy[DeterministicActor], carry: Carry, obs: Obs, steps: Steps
    ) -> tuple[Float[Array, "d"], Carry]:
        """μ_θ(s) + noise, in bounds; uniform until the first gradient step."""
        network = policy.network
        action = network(policy.read(obs))
        action, carry = explore(noise, self.noise, carry, action, self.noise_scale, network.bounded)
        early = steps.taken < self.replay.warmup
        return jnp.where(early, uniform_action(noise, network.bounded), action), carry

    def greedy(
        self, key: PRNGKeyArray, policy: Policy[DeterministicActor], carry: Carry, obs: Obs
    ) -> tuple[Float[Array, "d"], Carry]:
        """μ_θ(s)."""
        return policy.network(policy.read(obs)), carry

    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """One step of the critics; every `policy_delay` of them one of the policy, and the copies move."""
        rate, actor_rate = (self.annealed(r, steps) for r in (self.learning_rate, self.actor_learning_rate))
        if self.next_action == "memory":
            batch = where_next_action(batch)
        next_action = self.choose_next(key, learner, batch)
        target = jax.vmap(self.target, (None, 0, 0))(learner, batch, next_action)
        critic, metrics, error = fit(learner.critic, batch, target, self.optimiser, rate, self.max_grad_norm)
        updates = learner.updates + 1

        def move() -> tuple[Actor, PyTree[Array], Actor, tuple[Critic, ...], Float[Array, ""]]:
            def loss(actor: Actor) -> Float[Array, ""]:
                gain = jax.vmap(policy_objective, (None, None, 0))(actor, critic.critics[0], batch.obs)
                return -jnp.mean(batch.weight * gain)

            value, gradient = jax.value_and_grad(loss)(learner.actor)
            actor, moments, _ = self.descend(learner.actor, gradient, learner.actor_optimiser, actor_rate)
            copies = polyak((learner.static_actor, learner.static_critics), (actor, critic.critics), self.tau)
            return actor, moments, *copies, value

        def stay() -> tuple[Actor, PyTree[Array], Actor, tuple[Critic, ...], Float[Array, ""]]:
            still = (learner.actor, learner.actor_optimiser, learner.static_actor, learner.static_critics)
            return *still, jnp.full_like(metrics["train/critic_loss"], jnp.nan)

        due = updates % self.policy_delay == 0
        actor, moments, static_actor, static_critics, value = (
            move() if self.policy_delay == 1 else jax.lax.cond(due, move, stay)
        )
        metrics |= {"train/actor_loss": value, "train/learning_rate": rate}
        return Learner(actor, moments, static_actor, critic, static_critics, updates), metrics, error

    def choose_next(self, key: PRNGKeyArray, learner: Learner, batch: Batch) -> Float[Array, "B d"]:
        """a′ of every row."""
        if self.next_action == "memory":
            return batch.next_action
        return jax.vmap(learner.actor if self.next_action == "online" else learner.static_actor)(batch.next_obs)

    def target(self, learner: Learner, x: Batch, next_action: Float[Array, "d"]) -> Float[Array, ""]:
        """y = r + d minₖ Q_φ′ₖ(s′, a′) of one row."""
        return td_target(x, least(learner.static_critics, x.next_obs, next_action))


class TD3(DDPG):
    """Twin delayed DDPG: the least of two critics, noise on the target's action, a delayed policy."""

    critics: int = size(2)  # the target reads the least of them
    policy_delay: int = size(2)  # critic steps for each step of the policy and move of the copies
    target_noise: float = real(0.2, 0)  # σ of the noise on a′
    target_noise_clip: float = real(0.5, 0)  # its largest size c

    def choose_next(self, key: PRNGKeyArray, learner: Learner, batch: Batch) -> Float[Array, "B d"]:
        """a′ of every row, smoothed."""
        action = super().choose_next(key, learner, batch)
        noise = jax.random.normal(key, action.shape)
        return jax.vmap(smoothed, (0, 0, None, None, None))(
            noise, action, self.target_noise, self.target_noise_clip, learner.actor.bounded
        )
