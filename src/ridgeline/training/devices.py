"""Seeds on a leading axis, shared out over the devices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

# For small programs: else the CPU's runtime hands tiny kernels round its threads, and waits for each.
# Another XLA may not know the option, and would refuse it.
IN_ORDER: dict[str, Any] | None = (
    {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if (0, 12) <= jax.__version_info__ < (0, 13)
    else None
)


def seed_mesh(num_seeds: int) -> Mesh:
    """As many devices as there are seeds to share out, at most all of them."""
    return Mesh(np.asarray(jax.devices()[:num_seeds]), ("seeds",))


def pad_seeds(values: Sequence[int], mesh: Mesh) -> np.ndarray:
    """The seeds [S′], with zeros behind them until every device of the mesh has equally many."""
    return np.asarray([*values, *[0] * (-len(values) % mesh.size)], np.uint32)


def map_seeds[*Each](function: Callable[[*Each], Any], *each: *Each) -> Any:
    """`function` of every seed, leading axis: seeds, on one device.

    One after the other on a CPU (bit-equal to running alone, and as fast), side by side on an accelerator.
    """
    if jax.default_backend() == "cpu":
        if all(len(x) == 1 for x in jax.tree.leaves(each)):  # a loop would copy what it goes through
            alone: Any = jax.tree.map(lambda x: x[0], each)
            return jax.tree.map(lambda x: x[None], function(*alone))
        return jax.lax.map(lambda one: function(*one), each)
    return jax.vmap(function)(*each)


@partial(jax.jit, static_argnames="count")
def copy_seeds[Tree](tree: Tree, *, count: int) -> Tree:
    """The first seeds of every leaf, in one dispatch: copies, since what is trained is given to the next chunk."""
    return jax.tree.map(lambda x: jnp.copy(x[:count]), tree)


def over_seeds(function: Callable[..., Any], mesh: Mesh, each: tuple[Any, ...], shared: Any) -> Any:
    """`function(*one, shared)` for every seed's `one` in `each`; the mesh's devices share the seeds out."""

    def on_device(each: tuple[Any, ...], shared: Any) -> Any:
        return map_seeds(lambda *one: function(*one, shared), *each)

    seeds, same = PartitionSpec("seeds"), PartitionSpec()
    placed = jax.shard_map(on_device, mesh=mesh, in_specs=(seeds, same), out_specs=seeds, check_vma=False)
    return placed(each, shared)
