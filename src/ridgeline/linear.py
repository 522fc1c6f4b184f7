"""One layer, y = x W + b, written so that XLA multiplies it fast on a CPU too."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PRNGKeyArray


class Linear(eqx.Module):
    """y = x W + b."""

    weight: Float[Array, "n m"]
    bias: Float[Array, "m"]

    @classmethod
    def create(cls, key: PRNGKeyArray, n: int, m: int, gain: float = 1.0) -> "Linear":
        """Orthogonal weights times `gain`, zero bias (Saxe et al. 2014)."""
        return cls(jax.nn.initializers.orthogonal(gain)(key, (n, m)), jnp.zeros(m))

    def __call__(self, x: Float[Array, "n"]) -> Float[Array, "m"]:
        """One input to one output."""
        n, m = self.weight.shape
        if 8 * m > n:
            return product(x, self.weight) + self.bias
        # XLA on a CPU takes ten times as long for the gradient of a tall, narrow W as for that of its transpose.
        transposed = jax.lax.optimization_barrier(self.weight.T)
        return jax.lax.dot_general(x, transposed, (((0,), (1,)), ((), ()))) + self.bias


@jax.custom_jvp
def product(x: Float[Array, "n"], weight: Float[Array, "n m"]) -> Float[Array, "m"]:
    """x W. Its gradient by W, Σ xᵀδ over a batch, reads x from a copy that lies column by column.

    XLA's fast products on a CPU want each row of what stands on the left in one piece, and from the batch as it
    is xᵀ has none: without the copy that gradient takes half as long again.
    """
    return x @ weight


@partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (x, weight), (dx, dweight) = primals, tangents
    y = x @ weight
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += dx @ weight
    if not isinstance(dweight, SymbolicZero):
        dy += by_column(x) @ dweight
    return y, dy


@jax.custom_batching.custom_vmap
def by_column(x: Float[Array, "n"]) -> Float[Array, "n"]:
    """x; of a batch, on a CPU, a copy that lies column by column in memory."""
    return x


@by_column.def_vmap
def _batch_by_column(size: int, batched: list[bool], x: Float[Array, "B n"]) -> tuple[Float[Array, "B n"], bool]:
    def copy(x: Float[Array, "B n"]) -> Float[Array, "B n"]:
        return jax.lax.optimization_barrier(x.T).T

    return jax.lax.platform_dependent(x, cpu=copy, default=lambda x: x), True
