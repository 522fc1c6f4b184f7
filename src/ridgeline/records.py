"""What the records of all algorithms that train networks by gradient steps have in common."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ridgeline.encoders import Activation, Architecture, EncoderBuilder
from ridgeline.memory import Batch, Experience, Replay
from ridgeline.networks import Policy
from ridgeline.optimisation import OptimiserName, descend
from ridgeline.types import Action, Algorithm, Carry, Metrics, Obs, Rollout, Steps, real, static


class NetworkAlgorithm[State, Policy](Algorithm[State, Policy]):
    """Hyper-parameters that every algorithm has; those with another default say so in their own record."""

    num_envs: eqx.AbstractVar[int]
    rollout_length: eqx.AbstractVar[int]
    gamma: float = real(0.99, 0, 1)  # discount γ
    learning_rate: float = real(1e-3, 0)  # α
    learning_rate_anneal: float = real(0.0, 0, 1)  # share of α that is gone, linearly, by the end of the run
    normalise_observations: bool = static(False)  # by the running mean and variance of all observations
    max_grad_norm: float = real(10.0, 0)  # the gradient's global norm is clipped here
    optimiser: OptimiserName = static("adam")
    hidden: tuple[int, ...] = static((64, 64))  # widths of the hidden layers
    activation: Activation = static("relu")
    layer_norm: bool = static(False)  # standardise the features of each hidden layer (Ba et al. 2016)
    encoder: EncoderBuilder | None = static(None)

    @property
    def architecture(self) -> Architecture:
        """What networks are built of."""
        return Architecture(self.hidden, self.activation, self.layer_norm, self.encoder)

    def annealed(self, rate: Float[Array, ""] | float, steps: Steps) -> Float[Array, ""]:
        """α (1 − p · learning_rate_anneal) at a fraction p of the run."""
        return rate * (1 - self.learning_rate_anneal * steps.progress)

    def descend[Params: PyTree[Array]](
        self,
        params: Params,
        gradient: Params,
        moments: PyTree[Array],
        rate: Float[Array, ""] | float,
        taken: Bool[Array, ""] | bool = True,
    ) -> tuple[Params, PyTree[Array], Float[Array, ""]]:
        """One step against the gradient with this record's optimiser and clip; also the gradient's norm."""
        return descend(self.optimiser, params, gradient, moments, rate, self.max_grad_norm, taken)


class DrawnActions(eqx.Module):
    """How a policy π_θ(·|s) acts: by a draw; greedy, by its mode."""

    def randomness(self, key: PRNGKeyArray, policy: Policy[Any], obs: Obs) -> Any:
        """The noise of one draw from π_θ(·|s)."""
        shapes: Any = jax.eval_shape(lambda: policy.network.distribution(policy.read(obs)))
        return shapes.noise(key)

    def act(self, noise: Any, policy: Policy[Any], carry: Carry, obs: Obs, steps: Steps) -> tuple[Action, Carry]:
        """A ~ π_θ(·|s)."""
        return policy.network.distribution(policy.read(obs)).draw(noise), carry

    def greedy(self, key: PRNGKeyArray, policy: Policy[Any], carry: Carry, obs: Obs) -> tuple[Action, Carry]:
        """The mode of π_θ(·|s)."""
        return policy.network.distribution(policy.read(obs)).mode(), carry


class ReplayAlgorithm[Learner, Policy](NetworkAlgorithm[Experience[Learner], Policy]):
    """What stores every rollout in a memory and learns from minibatches of it: `learn` is one gradient step."""

    replay: Replay = eqx.field(default_factory=Replay)

    @abstractmethod
    def learn(
        self, key: PRNGKeyArray, learner: Learner, batch: Batch, steps: Steps
    ) -> tuple[Learner, Metrics, Float[Array, "B"]]:
        """The learner after one minibatch, metrics, and each row's TD error."""

    def update(
        self, key: PRNGKeyArray, state: Experience[Learner], rollout: Rollout, steps: Steps
    ) -> tuple[Experience[Learner], Metrics]:
        """Store the rollout, then learn from minibatches of the memory."""
        return self.replay.study(key, state, rollout, steps, self.gamma, self.learn)
