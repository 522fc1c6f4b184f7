"""What a part of training amounted to, as sums that add up."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ridgeline.memory import Memory
from ridgeline.trajectories import TrajectoryMemory
from ridgeline.types import Metrics

# A chunk's iterations are summed up apart up to each of its ends; so many there are at most.
MOST_INTERVALS = 32

# One interval, which ends with the chunk.
NO_END = (2**31 - 1,)


class Summary(NamedTuple):
    """Sums over iterations of one seed: of each metric and how often it was measured, and of finished episodes.

    `broken` is above 0 where something learned is not finite at the end; `steps` counts environment steps.
    """

    metrics: dict[str, Float[Any, ""]]
    counts: dict[str, Float[Any, ""]]
    broken: Float[Any, ""]
    iterations: Float[Any, ""]
    steps: Float[Any, ""]
    episodes: Float[Any, ""]
    return_sum: Float[Any, ""]
    length_sum: Float[Any, ""]


class Finished(NamedTuple):
    """Steps that counted, episodes that ended within them, and sums of their returns and lengths."""

    steps: Int[Array, ""]
    episodes: Int[Array, ""]
    returns: Float[Array, ""]
    lengths: Int[Array, ""]


def count_episodes(
    reward: Float[Array, "T N"],
    ended: Bool[Array, "T N"],
    episode_return: Float[Array, "N"],
    elapsed: Int[Array, "N"],
    first_only: bool,
) -> tuple[Finished, Float[Array, "N"]]:
    """What ended in a rollout; and the returns so far of the episodes that go on behind it.

    `episode_return` and `elapsed` are of the episodes that run when it begins. With `first_only` nothing behind a
    column's first end counts.
    """
    t = jnp.arange(len(reward))[:, None]
    if first_only:
        ended &= t == jnp.argmax(ended, 0, keepdims=True)
    last = jnp.max(jnp.where(ended, t, -1), 0)
    before = t <= last[None]
    returns = jnp.where(last < 0, 0, episode_return) + jnp.sum(jnp.where(before, reward, 0), 0)
    after = jnp.where(last < 0, episode_return, 0) + jnp.sum(jnp.where(before, 0, reward), 0)
    lengths = jnp.where(last < 0, 0, elapsed + last + 1)
    steps = jnp.sum(last + 1) if first_only else jnp.array(reward.size)
    return Finished(steps, jnp.sum(ended), jnp.sum(returns), jnp.sum(lengths)), after


def learned(state: PyTree[Any]) -> list[tuple[str, Any]]:
    """All numbers that an algorithm has learned, with their paths; not its memory, which holds what was seen."""

    def is_memory(x: Any) -> bool:
        return isinstance(x, Memory | TrajectoryMemory)

    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_memory)
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in leaves
        if not is_memory(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def is_broken(state: PyTree[Array]) -> Float[Array, ""]:
    """1 where something learned is not finite, else 0. What is so stays so, so a look after a chunk is enough."""
    return 1.0 - jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for _, x in learned(state)])).astype(float)


def summarise(metrics: Metrics, steps: Array, episodes: Array, return_sum: Array, length_sum: Array) -> Summary:
    """One iteration as a summary; a metric that is NaN was not measured."""
    measured = {name: ~jnp.isnan(x) for name, x in metrics.items()}
    return Summary(
        {name: jnp.where(measured[name], x, 0) for name, x in metrics.items()},
        {name: there.astype(float) for name, there in measured.items()},
        *(x.astype(float) for x in (jnp.zeros(()), jnp.ones(()), steps, episodes, return_sum, length_sum)),
    )
