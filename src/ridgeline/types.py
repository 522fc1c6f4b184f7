"""The vocabulary: what an environment says, what an algorithm stores, and the protocols between them.

Shapes: N environments side by side, T rows in a rollout. Observations are an array or a flat dictionary of
arrays; the key `action_mask` of a dictionary is reserved for the actions that are allowed.
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ridgeline.specs import (
    ACTION_MASK as ACTION_MASK,
)
from ridgeline.specs import (
    ActionSpec as ActionSpec,
)
from ridgeline.specs import (
    ArraySpec as ArraySpec,
)
from ridgeline.specs import (
    Continuous as Continuous,
)
from ridgeline.specs import (
    Discrete as Discrete,
)
from ridgeline.specs import (
    EnvSpec as EnvSpec,
)
from ridgeline.specs import (
    MultiDiscrete as MultiDiscrete,
)
from ridgeline.specs import (
    ObservationSpec as ObservationSpec,
)
from ridgeline.specs import (
    observation_parts as observation_parts,
)

# Arrays are JAX's inside a compiled function and NumPy's on a host, so records of both say Any for their kind.
type Obs = PyTree[Any]
type Action = Any
type Carry = PyTree[Array | np.ndarray]
type Metrics = dict[str, Float[Array, ""]]


def example_obs(spec: ObservationSpec) -> Obs:
    """An observation of zeros, with the shapes and dtypes of the spec."""
    return spec.zeros() if isinstance(spec, ArraySpec) else {name: part.zeros() for name, part in spec}


class Step(NamedTuple):
    """What an action led to. `next_obs` is the true successor, never the first observation after a reset."""

    next_obs: Obs
    reward: Float[Any, "..."]
    terminated: Bool[Any, "..."]
    truncated: Bool[Any, "..."]


class Transition(NamedTuple):
    """One step of experience; leading axes are free. Only `terminated` stops a bootstrap."""

    obs: Obs
    action: Action
    reward: Float[Any, "..."]
    next_obs: Obs
    terminated: Bool[Any, "..."]
    truncated: Bool[Any, "..."]

    @property
    def ended(self) -> Bool[Any, "..."]:
        """Whether the episode ended here, for either reason."""
        return self.terminated | self.truncated


class Rollout(NamedTuple):
    """What a runner hands to `update`: transitions [T, N] and each environment's carry [N] before row 0."""

    transitions: Transition
    carry: Carry


class Steps(NamedTuple):
    """Where a run stands: environment steps taken (of one seed) and in total, and the iteration's index.

    `taken` and `total` are floats: they feed schedules, and int32 would end at 2.1e9.
    """

    taken: Float[Any, ""]
    total: Float[Any, ""]
    iteration: Int[Any, ""]

    @property
    def progress(self) -> Float[Array, ""]:
        """The fraction of the run that is behind, in [0, 1]."""
        return self.taken / self.total


def example_transition(spec: EnvSpec) -> Transition:
    """A transition of zeros: what one cell of a memory holds."""
    obs, no = example_obs(spec.observation), jnp.zeros((), bool)
    return Transition(obs, spec.action.zeros(), jnp.zeros(()), obs, no, no)


class Algorithm[State, Policy](eqx.Module):
    """A frozen record of hyper-parameters with a few pure methods over an explicit state.

    Float fields are leaves (changing one never recompiles); sizes, flags and names are static. `act` and `greedy`
    see ONE observation and only the policy: the part of the state that acting reads.
    """

    num_envs: eqx.AbstractVar[int]
    rollout_length: eqx.AbstractVar[int]
    # Whether every column of a rollout is one whole episode: it begins with row 0 and is cut after the last row.
    # Rows behind an episode's end are no steps of the run, and hold nothing to learn from.
    fresh: ClassVar[bool] = False

    def check(self, spec: EnvSpec) -> None:
        """Raise `UsageError` where this record cannot work on such an environment."""

    @abstractmethod
    def init(self, key: PRNGKeyArray, spec: EnvSpec) -> State:
        """The state before the first step; every leaf is an array."""

    @abstractmethod
    def policy(self, state: State) -> Policy:
        """The part of the state that acts: parameters and what normalises their input."""

    def begin(self, spec: EnvSpec) -> Carry:
        """One environment's carry at the start of an episode."""
        return ()

    def randomness(self, key: PRNGKeyArray, policy: Policy, obs: Obs) -> Any:
        """What `act` explores by: the key itself, or the random numbers that it takes, drawn with it.

        Those of a whole rollout are drawn at once, before its first row: of policy and obs only shapes may matter.
        """
        return key

    @abstractmethod
    def act(self, randomness: Any, policy: Policy, carry: Carry, obs: Obs, steps: Steps) -> tuple[Action, Carry]:
        """The action to take while learning: it explores."""

    @abstractmethod
    def greedy(self, key: PRNGKeyArray, policy: Policy, carry: Carry, obs: Obs) -> tuple[Action, Carry]:
        """The action to be judged by."""

    @abstractmethod
    def update(self, key: PRNGKeyArray, state: State, rollout: Rollout, steps: Steps) -> tuple[State, Metrics]:
        """Learn from one rollout. A metric that this update could not measure is NaN."""


@runtime_checkable
class Environment[EnvState](Protocol):
    """One environment in pure JAX. It neither resets itself nor counts `spec.max_episode_steps`: runners do."""

    @property
    def spec(self) -> EnvSpec:
        """What the environment is."""

    def reset(self, key: PRNGKeyArray) -> tuple[EnvState, Obs]:
        """Start an episode."""

    def step(self, key: PRNGKeyArray, state: EnvState, action: Action) -> tuple[EnvState, Step]:
        """Take one step with a canonical action."""


@runtime_checkable
class HostEnvironment(Protocol):
    """`num_envs` environments stepped from Python, in NumPy. They never reset by themselves.

    Arrays they return may be overwritten by their next call. They count `spec.max_episode_steps` themselves.
    """

    spec: EnvSpec
    num_envs: int

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`, from that row's seed; [num_envs] rows, of which only those count."""

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""

    def close(self) -> None:
        """Free what the environments hold; nothing may be called after it."""


@runtime_checkable
class HostFactory(Protocol):
    """Builds host environments of one kind, as many side by side as a runner needs.

    `reseeds`: whether every episode begins from the seed that `reset` is given, or only the first of each row.
    """

    spec: EnvSpec
    backend: str
    reseeds: bool

    def build(self, num_envs: int) -> HostEnvironment:
        """`num_envs` fresh environments."""


def real(default: float, low: float | int = -math.inf, high: float | int = math.inf) -> Any:
    """A float hyper-parameter: a leaf, so that changing it never recompiles. Checked to lie in [low, high]."""
    return eqx.field(default=default, metadata={"range": (low, high)})


def size(default: int, low: int = 1, high: int = 2**31 - 1) -> Any:
    """A whole number that decides shapes: static. Checked to lie in [low, high]."""
    return eqx.field(default=default, static=True, metadata={"range": (low, high)})


def static(default: Any) -> Any:
    """A flag, a name or a tuple that decides structure: static, so that changing it compiles anew."""
    return eqx.field(default=default, static=True)
