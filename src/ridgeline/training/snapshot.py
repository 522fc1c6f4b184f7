"""A runner's state as arrays with names, to be saved, and back again. Keys are saved as their words."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree, UInt

from ridgeline.training.compiled import Lane
from ridgeline.training.devices import over_seeds
from ridgeline.training.keys import key_for

# Arrays in the places of shapes, out of a checkpoint; a length of -1 stands for any.
type Saved = Callable[[PyTree[jax.ShapeDtypeStruct]], PyTree[np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """An array to be saved, or its first `rows`. Nothing is copied that is in this machine's memory already."""

    array: Any
    rows: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is saved."""
        shape: tuple[int, ...] = self.array.shape
        return shape if self.rows is None else (self.rows, *shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is saved."""
        return np.dtype(self.array.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """What is saved, in pieces along the leading axis, each in one block of memory."""
        left = self.rows
        # As one array, JAX would gather the shards of several devices and keep the copy.
        shards = [self.array]
        if isinstance(self.array, jax.Array) and not self.array.is_fully_replicated:
            ordered = sorted(self.array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            shards = [shard.data for shard in ordered]
        for shard in shards:
            piece = np.ascontiguousarray(shard)
            if left is not None:
                piece, left = piece[:left], max(0, left - len(piece))
            yield piece


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked(Leaf):
    """Arrays of one shape, saved as one: they are the pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is saved."""
        return (len(self.array), *self.array[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is saved."""
        return np.dtype(self.array[0].dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """What is saved, seed by seed."""
        return (np.asarray(array, order="C")[None] for array in self.array)


def is_key(x: Any) -> bool:
    """Whether it is a typed PRNG key, or the shape of one."""
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def plain(tree: PyTree[Any]) -> PyTree[Any]:
    """The tree with every key as its words; of shapes the shapes."""

    def one(x: Any) -> Any:
        if not is_key(x):
            return x
        return (jax.eval_shape if isinstance(x, jax.ShapeDtypeStruct) else _call)(jax.random.key_data, x)

    return jax.tree.map(one, tree)


def keyed(like: PyTree[Any], tree: PyTree[Any]) -> PyTree[Any]:
    """The inverse of `plain`: keys wherever `like` has them."""
    return jax.tree.map(lambda x, words: jax.random.wrap_key_data(words) if is_key(x) else words, like, tree)


def named(tree: PyTree[Any]) -> dict[str, Any]:
    """The leaves of a tree by their path, as "policy/network/weight"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _call(function: Callable[[Any], Any], x: Any) -> Any:
    return function(x)


@jax.jit
def fork_keys(seed_keys: Key[Array, "S"], number: UInt[Array, ""]) -> Key[Array, "S"]:
    """Every seed's key for a run that goes on with other random numbers."""
    return jax.vmap(lambda key: jax.random.fold_in(key_for(key, "forks"), number))(seed_keys)


@partial(jax.jit, static_argnames="mesh", donate_argnames="lanes")
def place(lanes: Lane, *, mesh: Mesh) -> Lane:
    """Lanes that were saved, on the devices as `begin` leaves them: `chunk` would compile anew for any others."""
    return over_seeds(lambda lane, _: lane, mesh, (lanes,), ())
