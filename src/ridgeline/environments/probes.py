"""Environments whose answers are known, each testing one thing: an algorithm that misses one has a named fault.

| index | reward | observation | true values | what it tests |
|---|---|---|---|---|
| 0 | 1 | 0 | V = 1 | learning a value at all |
| 1 | x | x = ±1 | V(x) = x | telling observations apart |
| 2 | x | x = 0, then 1 | V(0) = γ, V(1) = 1 | discounting and bootstrapping |
| 3 | ±1 by the action | 0 | a* = 1, V* = 1 | learning a policy |
| 4 | ±1 by action and x | x = ±1 | a* = [x > 0], V* = 1 | a policy that reads the observation |

Every episode takes one step, but two in probe 2. With continuous actions, 3 pays −(a − ½)² (a* = ½, V* = 0) and
4 pays −(a − x/2)² (a* = x/2, V* = 0). After A. L. Jones (2021).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ridgeline.types import Action, ArraySpec, Continuous, Discrete, EnvSpec, Step

type Scalar = Float[Array, ""]
type Seen = Float[Array, "1"]

PROBE_COUNT = 5


class ProbeState(NamedTuple):
    """The number x that is observed."""

    x: Scalar


class Probe(eqx.Module):
    """The probe of that index, which is traced: one compilation serves all five. Observation [x]."""

    index: Int[Array, ""]
    continuous: bool = eqx.field(static=True)

    def __init__(self, index: int | Int[Array, ""], continuous: bool = False):
        self.index = jnp.asarray(index, int)
        self.continuous = continuous

    @property
    def spec(self) -> EnvSpec:
        """Two actions, or one number in [−1, 1]."""
        if self.continuous:
            return EnvSpec("ContinuousProbe-v0", ArraySpec((1,)), Continuous(1, (True,)))
        return EnvSpec("Probe-v0", ArraySpec((1,)), Discrete(2))

    def reset(self, key: PRNGKeyArray) -> tuple[ProbeState, Seen]:
        """Start at x = ±1 alike where the observation matters (1 and 4), at 0 elsewhere."""
        signed = (self.index == 1) | (self.index == 4)
        x = jnp.where(signed, jax.random.rademacher(key, (), float), 0.0)
        return ProbeState(x), x[None]

    def step(self, key: PRNGKeyArray, state: ProbeState, action: Action) -> tuple[ProbeState, Step]:
        """End the episode, or in probe 2 go from x = 0 to x = 1."""
        onward = (self.index == 2) & (state.x == 0)
        following = ProbeState(jnp.where(onward, 1.0, state.x))
        return following, Step(following.x[None], self.reward(state.x, action), ~onward, jnp.array(False))

    def reward(self, x: Scalar, action: Action) -> Scalar:
        """What the action earns at x."""
        one = jnp.ones_like(x)
        if self.continuous:
            clipped = jnp.clip(action[0], -1, 1)
            chosen, matched = -((clipped - 0.5) ** 2), -((clipped - 0.5 * x) ** 2)
        else:
            chosen = jnp.where(action == 1, one, -one)
            matched = chosen * x
        return jnp.stack([one, x, x, chosen, matched])[self.index]

    def optimal_action(self, obs: Seen) -> Action:
        """The a* of the table; where no action matters, 1 or ½, which is as good as any."""
        x = jnp.where(self.index == 4, obs, 1.0)
        return x / 2 if self.continuous else (x[0] > 0).astype(int)

    def action_value(self, obs: Seen, action: Action, gamma: float | Scalar) -> Scalar:
        """Q*(x, a) = r(x, a), and γ more at the first step of probe 2."""
        return self.reward(obs[0], action) + gamma * ((self.index == 2) & (obs[0] == 0))

    def value(self, obs: Seen, gamma: float | Scalar) -> Scalar:
        """V*(x) = Q*(x, a*)."""
        return self.action_value(obs, self.optimal_action(obs), gamma)


class Forever(eqx.Module):
    """Reward 1 and the same observation for ever, in episodes cut after `limit` steps: V = 1 / (1 − γ).

    Any other value means that a truncation was taken for a termination.
    """

    limit: int | None = eqx.field(default=10, static=True)
    continuous: bool = eqx.field(default=False, static=True)

    @property
    def spec(self) -> EnvSpec:
        """Two actions, or one number in [−1, 1]; they change nothing."""
        action = Continuous(1, (True,)) if self.continuous else Discrete(2)
        return EnvSpec("Forever-v0", ArraySpec((1,)), action, self.limit)

    def reset(self, key: PRNGKeyArray) -> tuple[tuple[()], Seen]:
        """There is no state."""
        return (), jnp.ones(1)

    def step(self, key: PRNGKeyArray, state: tuple[()], action: Action) -> tuple[tuple[()], Step]:
        """Stay."""
        return (), Step(jnp.ones(1), jnp.ones(()), jnp.array(False), jnp.array(False))


class CounterState(NamedTuple):
    """Steps taken in this episode."""

    taken: Int[Array, ""]


class Counter(eqx.Module):
    """Observes how many steps the episode has taken; reward 1; terminates at step `ends_at`, if there is one.

    Episodes are cut after `limit` steps. An observation of 0 can only follow a reset, so the true successor is
    recognisable, and `ends_at == limit` is a termination on the last allowed step.
    """

    limit: int | None = eqx.field(default=4, static=True)
    ends_at: int | None = eqx.field(default=None, static=True)

    @property
    def spec(self) -> EnvSpec:
        """Two actions, which change nothing."""
        return EnvSpec("Counter-v0", ArraySpec((1,)), Discrete(2), self.limit)

    def reset(self, key: PRNGKeyArray) -> tuple[CounterState, Seen]:
        """Count from 0."""
        return CounterState(jnp.zeros((), int)), jnp.zeros(1)

    def step(self, key: PRNGKeyArray, state: CounterState, action: Action) -> tuple[CounterState, Step]:
        """Count one more."""
        taken = state.taken + 1
        terminated = jnp.array(False) if self.ends_at is None else taken == self.ends_at
        return CounterState(taken), Step(taken.astype(float)[None], jnp.ones(()), terminated, jnp.array(False))
