"""One layer, y = x W + b, written so that XLA multiplies it fast on a CPU too.

XLA's fast products on a CPU want each row of what stands on the left in one piece. What has none it leaves to a
library that takes half as long again, and several times as long where W is narrow.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.layout import Layout, with_layout_constraint
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
        multiply = product if 8 * m > n else narrow_product
        return add_bias(multiply(x, self.weight), self.bias)


@jax.custom_jvp
def product(x: Float[Array, "n"], weight: Float[Array, "n m"]) -> Float[Array, "m"]:
    """x W. Its gradient by W, Σ xᵀδ over a batch, reads x from a copy that lies column by column."""
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


@jax.custom_jvp
def add_bias(y: Float[Array, "m"], bias: Float[Array, "m"]) -> Float[Array, "m"]:
    """y + b. Its gradient by b, Σ δ over a batch, is a product with ones: XLA's sum takes half as long again."""
    return y + bias


@add_bias.defjvp
def _add_bias_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (y, bias), (dy, dbias) = primals, tangents
    return add_bias(y, bias), dy + one_of(y) @ dbias[None]


@jax.custom_batching.custom_vmap
def one_of(y: Float[Array, "m"]) -> Float[Array, "1"]:
    """1; of a batch, one for each row."""
    return jnp.ones(1, y.dtype)


@one_of.def_vmap
def _one_of_each(size: int, batched: list[bool], y: Float[Array, "B m"]) -> tuple[Float[Array, "B 1"], bool]:
    return jnp.ones((size, 1), y.dtype), True


@jax.custom_batching.custom_vmap
def by_column(x: Float[Array, "n"]) -> Float[Array, "n"]:
    """x; of a batch, on a CPU, a copy that lies column by column in memory."""
    return x


@by_column.def_vmap
def _batch_by_column(size: int, batched: list[bool], x: Float[Array, "B n"]) -> tuple[Float[Array, "B n"], bool]:
    def copy(x: Float[Array, "B n"]) -> Float[Array, "B n"]:
        # Without the barrier, x is computed a second time, in the order of its columns.
        return with_layout_constraint(jax.lax.optimization_barrier(x).T, Layout((0, 1))).T

    return jax.lax.platform_dependent(x, cpu=copy, default=lambda x: x), True


@jax.custom_jvp
def narrow_product(x: Float[Array, "n"], weight: Float[Array, "n m"]) -> Float[Array, "m"]:
    """x W, for m much smaller than n. What is differentiated reads Wᵀ: its gradient is Σ δᵀx, and reads δᵀ."""
    return x @ weight


@partial(narrow_product.defjvp, symbolic_zeros=True)
def _narrow_product_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (x, weight), (dx, dweight) = primals, tangents
    # The barrier keeps XLA from turning the product round again, and its gradient too.
    transposed = jax.lax.optimization_barrier(weight.T)
    y = _product_of_transposed(x, transposed)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += _product_of_transposed(dx, transposed)
    if not isinstance(dweight, SymbolicZero):
        # With x on the right, a batch of these is [m, B], and so is the δ that comes back through the barrier.
        dy += jax.lax.optimization_barrier(jax.lax.optimization_barrier(dweight.T) @ x)
    return y, dy


def _product_of_transposed(x: Float[Array, "n"], transposed: Float[Array, "m n"]) -> Float[Array, "m"]:
    return jax.lax.dot_general(x, transposed, (((0,), (1,)), ((), ())))
