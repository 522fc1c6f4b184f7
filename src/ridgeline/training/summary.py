"""What a chunk of training amounted to, as sums that add up over chunks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ridgeline.types import Metrics


class Summary(NamedTuple):
    """Sums over a chunk of one seed: of each metric and how often it was measured, and of finished episodes.

    `broken` counts the iterations after which a parameter was not finite, `steps` the environment steps.
    """

    metrics: dict[str, Float[Any, ""]]
    counts: dict[str, Float[Any, ""]]
    broken: Float[Any, ""]
    iterations: Float[Any, ""]
    steps: Float[Any, ""]
    episodes: Float[Any, ""]
    return_sum: Float[Any, ""]
    length_sum: Float[Any, ""]


def summarise(
    policy: PyTree[Array], metrics: Metrics, steps: Array, episodes: Array, return_sum: Array, length_sum: Array
) -> Summary:
    """One iteration as a summary; a metric that is NaN was not measured."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(policy)]))
    measured = {name: ~jnp.isnan(x) for name, x in metrics.items()}
    return Summary(
        {name: jnp.where(measured[name], x, 0) for name, x in metrics.items()},
        {name: there.astype(float) for name, there in measured.items()},
        *(x.astype(float) for x in (~finite, jnp.ones(()), steps, episodes, return_sum, length_sum)),
    )
