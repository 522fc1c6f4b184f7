"""Gymnasium spaces: what they mean as specs, and the conversions of their values in NumPy.

Observations: nested Dict and Tuple become one flat dictionary with keys joined by "/", sorted; a lone array stays
an array. float64 and float16 become float32, integers int32, uint8 and bool stay, MultiBinary becomes float32.
Discrete and MultiDiscrete become int32 with `categories` (in row order), counted from 0. A top-level `action_mask`
becomes bool.

Actions: Discrete and MultiDiscrete are counted from 0, MultiBinary is a MultiDiscrete of 2s, a Box of any shape is
a vector whose doubly bounded entries mean [-1, 1].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from ridgeline.errors import NumericalError, UsageError, short
from ridgeline.specs import (
    ActionSpec,
    ArraySpec,
    Continuous,
    Discrete,
    MultiDiscrete,
    ObservationSpec,
)

# An array, or a flat dictionary of arrays.
type Obs = Any

# Some environments declare the largest float where they mean no bound; scaling by it would overflow.
UNBOUNDED = 1e30

FLOAT32_MAX = float(np.finfo(np.float32).max)


class MalformedError(Exception):
    """A value that its space does not allow. `row` is its environment; the adapter says which step it was."""

    def __init__(self, problem: str, row: int = 0):
        super().__init__(problem)
        self.row = row


class Leaf:
    """One array of an observation. `key` is empty where it is the whole; categories count from `start`."""

    def __init__(self, key: str, spec: ArraySpec, start: np.ndarray):
        self.key = key
        self.name = f"observation '{key}'" if key else "observation"
        self.spec = spec
        self._start = start
        self._counts = np.reshape(spec.categories, spec.shape) if spec.categories else None
        self._dtype = np.dtype(spec.dtype)
        self._kinds = "fiub" if self._dtype.kind == "f" else "iub"

    def read(self, value: Any, lead: tuple[int, ...] = ()) -> np.ndarray:
        """A fresh array [*lead, *shape] of the spec's dtype, or `MalformedError`."""
        try:
            array = np.asarray(value)
        except Exception as error:
            raise MalformedError(f"{self.name} is {short(value)}, expected an array") from error
        shape = lead + self.spec.shape
        if array.dtype.kind not in self._kinds:
            raise MalformedError(
                f"{self.name} is {short(value)} of dtype {array.dtype}, which cannot be read as {self._dtype}"
            )
        if array.shape != shape:
            raise MalformedError(f"{self.name} has shape {array.shape}, its space has {shape}")
        if self._counts is not None:
            return self._categories(array, lead, self._counts)
        if array.dtype == self._dtype:
            converted = array.copy()
        else:
            with np.errstate(over="ignore"):
                converted = array.astype(self._dtype)
        if self._dtype.kind == "f":
            self._require(np.isfinite(converted), array, lead, "a finite float32")
        elif array.dtype != self._dtype:
            self._require(converted == array, array, lead, f"what a {self._dtype} can hold")
        return converted

    def _categories(self, array: np.ndarray, lead: tuple[int, ...], counts: np.ndarray) -> np.ndarray:
        """The categories counted from 0."""
        counted = array.astype(np.int64) - self._start
        self._require((counted >= 0) & (counted < counts), array, lead, "one of the categories of its space")
        return np.asarray(counted, np.int32)

    def _require(self, good: Any, array: np.ndarray, lead: tuple[int, ...], expected: str) -> None:
        if not good.all():
            at = np.unravel_index(int(np.argmin(good)), good.shape)
            entry = [int(i) for i in at[len(lead) :]]
            where = f"{self.name}{entry}" if entry else self.name
            raise MalformedError(f"{where} is {array[at]!s}, expected {expected}", int(at[0]) if lead else 0)


def place(batch: Any, at: int | np.ndarray, rows: Any) -> None:
    """Write the observation of one environment, or of several, where it belongs in the batch."""
    if isinstance(batch, dict):
        for key, array in batch.items():
            array[at] = rows[key]
    else:
        batch[at] = rows


type Tree = Leaf | dict[str, Tree] | tuple[Tree, ...]


class Observations:
    """Reads the observations of one space.

    Raises: `UsageError`, from the constructor, where the space cannot be used.
    """

    spec: ObservationSpec

    def __init__(self, space: Space[Any]):
        self._leaves: dict[str, Leaf] = {}
        self._tree = self._plan(space, "")
        if not self._leaves:
            raise UsageError(f"observation space {short(space)} is empty: declare at least one array")
        if isinstance(self._tree, Leaf):
            self.spec = self._tree.spec
        else:
            self.spec = tuple((key, leaf.spec) for key, leaf in sorted(self._leaves.items()))

    def read(self, value: Any, lead: tuple[int, ...] = ()) -> Obs:
        """Fresh arrays [*lead, ...] in the form of `spec`.

        Raises: `MalformedError` where structure, shape, dtype or values (not finite, no such category) are wrong.
        """
        if isinstance(self._tree, Leaf):
            return self._tree.read(value, lead)
        found: dict[str, np.ndarray] = {}
        self._walk(self._tree, value, lead, "observation", found)
        return found

    def blank(self, rows: int) -> Obs:
        """Zeros [rows, ...] in the form of `spec`."""
        if isinstance(self.spec, ArraySpec):
            return np.zeros((rows, *self.spec.shape), self.spec.dtype)
        return {key: np.zeros((rows, *spec.shape), spec.dtype) for key, spec in self.spec}

    def _plan(self, space: Space[Any], key: str) -> Tree:
        def below(name: object) -> str:
            return f"{key}/{name}" if key else str(name)

        if isinstance(space, spaces.Dict):
            return {str(name): self._plan(inner, below(name)) for name, inner in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._plan(inner, below(i)) for i, inner in enumerate(space.spaces))
        if key in self._leaves:
            raise UsageError(f"observation space has two keys '{key}' once it is flattened: rename one of them")
        self._leaves[key] = Leaf(key, *_array_spec(space, key))
        return self._leaves[key]

    def _walk(self, tree: Tree, value: Any, lead: tuple[int, ...], name: str, found: Obs) -> None:
        if isinstance(tree, Leaf):
            found[tree.key] = tree.read(value, lead)
        elif isinstance(tree, dict):
            if not isinstance(value, Mapping) or set(value) != set(tree):
                keys = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else short(value)
                raise MalformedError(f"{name} is {keys}, expected a dictionary with keys {sorted(tree)}")
            for key, inner in tree.items():
                self._walk(inner, value[key], lead, f"{name}/{key}", found)
        else:
            if not isinstance(value, (tuple, list)) or len(value) != len(tree):
                raise MalformedError(f"{name} is {short(value)}, expected a tuple of {len(tree)}")
            for i, inner in enumerate(tree):
                self._walk(inner, value[i], lead, f"{name}/{i}", found)


def _array_spec(space: Space[Any], key: str) -> tuple[ArraySpec, np.ndarray]:
    """What one array holds, and what its categories count from."""
    zero = np.array(0)
    if key == "action_mask":
        if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Box) and space.dtype.kind in "iub"):
            return ArraySpec(tuple(map(int, space.shape)), "bool"), zero
        raise UsageError(
            f"observation space 'action_mask' is {short(space)}: the key is reserved for a MultiBinary or an "
            "integer Box of the actions that are allowed; rename it or change the space"
        )
    if isinstance(space, spaces.Box):
        kind = space.dtype.kind
        dtype = space.dtype.name if space.dtype.name in ("uint8", "bool") else {"f": "float32"}.get(kind, "int32")
        return ArraySpec(tuple(map(int, space.shape)), dtype), zero
    if isinstance(space, spaces.Discrete):
        return ArraySpec((), "int32", (int(space.n),)), np.array(int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        counts = tuple(int(n) for n in space.nvec.flat)
        return ArraySpec(tuple(space.nvec.shape), "int32", counts), np.asarray(space.start, np.int64)
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(tuple(map(int, space.shape)), "float32"), zero
    where = f"observation space '{key}'" if key else "observation space"
    raise UsageError(
        f"{where} is {short(space)}, which cannot be used: supported are Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict or Tuple of them; convert it with a gymnasium.ObservationWrapper"
    )


class Actions:
    """Writes canonical actions as the actions of one space.

    Raises: `UsageError`, from the constructor, where the space cannot be used.
    """

    spec: ActionSpec

    def __init__(self, space: Space[Any]):
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":
            self._low, self._high = (np.asarray(b, np.float64).ravel() for b in (space.low, space.high))
            bounded = (self._low > -UNBOUNDED) & (self._high < UNBOUNDED)
            low, high = np.where(bounded, self._low, -1.0), np.where(bounded, self._high, 1.0)
            self._scale, self._middle = (high - low) / 2, (high + low) / 2
            self.spec = Continuous(bounded.size, tuple(bounded.tolist()))
        elif isinstance(space, spaces.Discrete):
            self.spec = Discrete(int(space.n))
        elif isinstance(space, spaces.MultiDiscrete):
            self.spec = MultiDiscrete(tuple(int(n) for n in space.nvec.flat))
        elif isinstance(space, spaces.MultiBinary):
            self.spec = MultiDiscrete((2,) * int(np.prod(space.shape)))
        else:
            raise UsageError(
                f"action space is {short(space)}, which cannot be used: supported are Discrete, MultiDiscrete, "
                "MultiBinary and a Box of floats; convert it with a gymnasium.ActionWrapper"
            )
        self._start = np.ravel(getattr(space, "start", 0)).astype(np.int64)
        self._shape = tuple(map(int, space.shape or ()))
        self._dtype = np.dtype(space.dtype)

    def write(self, actions: np.ndarray, rows: int) -> np.ndarray:
        """[rows, ...] canonical actions as a fresh array [rows, *space.shape] of the space's dtype.

        Raises: `NumericalError` where one is not finite, `UsageError` where shape, dtype or range is wrong.
        """
        if isinstance(self.spec, Continuous):
            self._require_form(actions, (rows, self.spec.size), "fiu")
            written = self._rescale(actions)
        elif isinstance(self.spec, Discrete):
            self._require_form(actions, (rows,), "iu")
            written = self._count(actions, np.asarray(self.spec.count))
        else:
            self._require_form(actions, (rows, len(self.spec.counts)), "iu")
            written = self._count(actions, np.asarray(self.spec.counts))
        return written.astype(self._dtype).reshape(rows, *self._shape)

    def _require_form(self, actions: np.ndarray, shape: tuple[int, ...], kinds: str) -> None:
        if actions.shape != shape or actions.dtype.kind not in kinds:
            raise UsageError(
                f"actions have shape {actions.shape} and dtype {actions.dtype}, expected {shape} for {self.spec}: "
                "send one canonical action for each environment"
            )

    def _rescale(self, actions: np.ndarray) -> np.ndarray:
        finite = np.isfinite(actions)
        if not finite.all():
            row = int(np.argmin(finite.all(axis=1)))
            raise NumericalError(
                f"action of environment {row} is {short(actions[row])}: the policy has diverged; lower the "
                "learning rate or clip its gradients"
            )
        # Not np.clip: it costs five times as much on arrays this small.
        inside: np.ndarray = np.maximum(np.minimum(actions * self._scale + self._middle, self._high), self._low)
        return inside

    def _count(self, actions: np.ndarray, counts: np.ndarray) -> np.ndarray:
        bad = (actions < 0) | (actions >= counts)
        if bad.any():
            row = int(np.argwhere(bad)[0, 0])
            raise UsageError(
                f"action of environment {row} is {short(actions[row])}, outside {self.spec}: count from 0"
            )
        return actions + self._start
