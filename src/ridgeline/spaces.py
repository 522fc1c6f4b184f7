"""Gymnasium spaces: what they mean as specs, and the conversions of their values in NumPy.

Observations: nested Dict and Tuple become one flat dictionary with keys joined by "/", sorted; a lone array stays
an array. float64 and float16 become float32, integers int32, uint8 and bool stay, MultiBinary becomes float32.
Discrete and MultiDiscrete become int32 with `categories` (in row order), counted from 0. A top-level `action_mask`
becomes bool.

Actions: Discrete and MultiDiscrete are counted from 0, MultiBinary is a MultiDiscrete of 2s, a Box of any shape is
a vector whose doubly bounded entries mean [-1, 1].
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from ridgeline.errors import UsageError, short
from ridgeline.specs import (
    ACTION_MASK,
    FLOAT32_MAX,
    ActionSpec,
    ArraySpec,
    Continuous,
    Discrete,
    MultiDiscrete,
    ObservationSpec,
    require_actions,
)

# An array, or a flat dictionary of arrays.
type Obs = Any

# Some environments declare the largest float where they mean no bound; scaling by it would overflow.
UNBOUNDED = 1e30
SMALL = 4096


class MalformedError(Exception):
    """A value that its space does not allow. `row` is its environment; the adapter says which step it was."""

    def __init__(self, problem: str, row: int = 0):
        super().__init__(problem)
        self.row = row


# What to say, once, of a value that was made to fit: a key for its kind, the line, and the row it is about.
type Note = Callable[[str, str, int], None]


def say_nothing(key: str, text: str, row: int) -> None:
    """A `Note` for those whom nobody listens to."""


class Leaf:
    """One array of an observation. `key` is empty where it is the whole; categories count from `start`.

    Values are taken as they arrive (`put`, or all rows at once), and checked together (`canonical`).
    """

    def __init__(self, key: str, space: Space[Any], note: Note, choices: tuple[int, ...]):
        self.key = key
        self.name = f"observation '{key}'" if key else "observation"
        self.spec, self._start = _array_spec(space, key)
        self._note = note
        self._choices = choices if key == ACTION_MASK else ()
        self._is_mask = key == ACTION_MASK
        self._counts = np.reshape(self.spec.categories, self.spec.shape) if self.spec.categories else None
        self._dtype = np.dtype(self.spec.dtype)
        self._declared = np.dtype(space.dtype)
        self._kinds = "fiub" if self._dtype.kind == "f" else "iub"
        self._bounds = _bounds(space, self._declared, self.name)
        self._spread: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        if 0 in self.spec.shape:
            raise UsageError(f"{self.name} has shape {self.spec.shape}, which holds nothing: leave it out")
        if self._is_mask and choices and self.spec.shape != (sum(choices),):
            raise UsageError(
                f"observation space 'action_mask' has shape {self.spec.shape}, and there are {sum(choices)} "
                "actions: give it one entry for each action"
            )

    def blank(self, rows: int) -> np.ndarray:
        """Room for values of so many rows, as they arrive."""
        return np.empty((rows, *self.spec.shape), self._declared)

    def put(self, raw: np.ndarray, row: int, value: Any) -> None:
        """Write one row's value into `blank`, or raise `MalformedError`."""
        if (
            type(value) is np.ndarray
            and value.dtype == self._declared
            and value.shape == self.spec.shape
            and value.flags.c_contiguous
        ):
            raw[row] = value
        elif self._counts is not None and type(value) is int and abs(value) < 2**31 and not self.spec.shape:
            raw[row] = np.int64(value)
        else:
            raw[row] = self._fit(value, (), row)

    def fits(self, rows: np.ndarray) -> bool:
        """Whether rows [N, ...] are of the declared dtype and shape."""
        return rows.dtype == self._declared and rows.shape[1:] == self.spec.shape

    def read(self, value: Any, lead: tuple[int, ...] = ()) -> np.ndarray:
        """A fresh array [*lead, *shape] of the spec's dtype, or `MalformedError`."""
        whole = type(value) is np.ndarray and value.dtype == self._declared
        if not (whole and value.shape == lead + self.spec.shape):
            value = self._fit(value, lead, 0)
        return self.canonical(value, lead)

    def canonical(self, array: np.ndarray, lead: tuple[int, ...], fresh: bool = False) -> np.ndarray:
        """Arrived values [*lead, *shape], checked, in the spec's dtype; a new array unless `fresh`.

        Raises: `MalformedError` for the first value that is not finite or no category.
        """
        if self._counts is not None:
            return self._categories(array, lead, self._counts)
        if array.dtype == self._dtype:
            converted = array if fresh else array.copy()
        else:
            with np.errstate(over="ignore"):
                converted = array.astype(self._dtype)
        if self._dtype.kind == "f":
            if not np.logical_and.reduce(self._inside(converted), axis=None):  # .all() costs twice as much
                self._require(np.isfinite(converted), array, lead, "a finite float32")
                self._stray(converted, array, lead)
        else:
            if self._dtype != array.dtype:
                self._require(converted == array, array, lead, f"what a {self._dtype} can hold")
            if self._bounds is not None and not self._inside(array).all():
                self._stray(array, array, lead)
        if self._is_mask:
            self._require_a_choice(converted, lead)
        return converted

    def _fit(self, value: Any, lead: tuple[int, ...], row: int) -> np.ndarray:
        """An array of the declared dtype, of a value that is none yet."""
        try:
            array = np.asarray(value)
        except Exception as error:
            raise MalformedError(f"{self.name} is {short(value)}, expected an array", row) from error
        shape = lead + self.spec.shape
        if array.dtype.kind not in self._kinds:
            raise MalformedError(
                f"{self.name} is {short(value)} of dtype {array.dtype}, which cannot be read as {self._dtype}", row
            )
        if array.shape != shape:
            raise MalformedError(f"{self.name} has shape {array.shape}, its space has {shape}", row)
        if isinstance(value, np.ma.MaskedArray):
            self._require(~np.ma.getmaskarray(value), array, lead, "a value that is not masked")
        self._say_what_is_odd(value, array, row)
        if array.dtype == self._declared:
            return array
        with np.errstate(over="ignore", invalid="ignore"):
            fitted = array.astype(self._declared)
        if self._declared.kind == "f":
            self._require(np.isfinite(fitted) | ~np.isfinite(array), array, lead, f"a finite {self._declared}")
        else:
            self._require(fitted == array, array, lead, f"what a {self._declared} can hold")
        return fitted

    def _say_what_is_odd(self, value: Any, array: np.ndarray, row: int) -> None:
        """Not odd: a number for a scalar, an integer of another width for a category, any 0 and 1 for a mask."""
        if (
            self._counts is not None
            or self._is_mask
            or (not self.spec.shape and not isinstance(value, np.ndarray))
        ):
            return
        if not isinstance(value, np.ndarray):
            self._note(self.key + ":type", f"{self.name} is a {type(value).__name__}: read as an array", row)
        elif array.dtype != self._declared:
            what = f"{self.name} is {_name(array.dtype)} and its space {_name(self._declared)}: converted"
            self._note(self.key + ":dtype", what, row)
        elif type(value) is not np.ndarray:
            what = f"{self.name} is a {type(value).__name__}: read as a plain array"
            self._note(self.key + ":type", what, row)
        elif not value.flags.c_contiguous:
            self._note(self.key + ":order", f"{self.name} is not contiguous in memory: copied into order", row)

    def _inside(self, array: np.ndarray) -> np.ndarray:
        """Where values are within the bounds of the space, which what is not finite never is."""
        if self._bounds is None:
            return np.asarray(np.isfinite(array))
        if array.shape not in self._spread:
            spread = tuple(np.broadcast_to(bound, array.shape) for bound in self._bounds)
            if array.size > SMALL:
                return np.asarray((array >= spread[0]) & (array <= spread[1]))
            # Of one shape, small arrays are compared in half the time.
            self._spread[array.shape] = spread[0].copy(), spread[1].copy()
        low, high = self._spread[array.shape]
        return np.asarray((array >= low) & (array <= high))

    def _stray(self, values: np.ndarray, array: np.ndarray, lead: tuple[int, ...]) -> None:
        """Say that a value is out of bounds, and check only that values are finite from now on."""
        if self._bounds is None:
            return
        low, high = (np.broadcast_to(bound, array.shape) for bound in self._bounds)
        at = self._first(self._inside(values))
        self._note(
            self.key + ":bounds",
            f"{self._entry(at, lead)} is {array[at]!s}, outside its space's [{low[at]!s}, {high[at]!s}]: passed "
            "on as it is",
            int(at[0]) if lead else 0,
        )
        self._bounds = None

    def _require_a_choice(self, mask: np.ndarray, lead: tuple[int, ...]) -> None:
        ends = np.cumsum(self._choices or (mask.shape[-1] if mask.ndim else 1,))
        for begin, end in zip([0, *ends], ends, strict=False):
            some = mask.reshape(*lead, -1)[..., begin:end].any(-1)
            if not some.all():
                row = int(np.argmin(some)) if lead else 0
                raise MalformedError(f"{self.name} forbids all of actions {begin} to {end - 1}: allow one", row)

    def _categories(self, array: np.ndarray, lead: tuple[int, ...], counts: np.ndarray) -> np.ndarray:
        """The categories counted from 0."""
        counted = array.astype(np.int64) - self._start
        self._require((counted >= 0) & (counted < counts), array, lead, "one of the categories of its space")
        return np.asarray(counted, np.int32)

    def _require(self, good: Any, array: np.ndarray, lead: tuple[int, ...], expected: str) -> None:
        if not good.all():
            at = self._first(good)
            problem = f"{self._entry(at, lead)} is {array[at]!s}, expected {expected}"
            raise MalformedError(problem, int(at[0]) if lead else 0)

    def _first(self, good: Any) -> tuple[Any, ...]:
        """The index of the first value that is not good."""
        return np.unravel_index(int(np.argmin(good)), good.shape)

    def _entry(self, at: tuple[Any, ...], lead: tuple[int, ...]) -> str:
        entry = [int(i) for i in at[len(lead) :]]
        return f"{self.name}{entry}" if entry else self.name


def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} of foreign byte order"


def _bounds(space: Space[Any], declared: np.dtype[Any], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds that a Box or MultiBinary sets, as values are compared with them; None where it sets none."""
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, np.float32), np.ones(space.shape, np.float32)
    if not isinstance(space, spaces.Box):
        return None
    require_bounds(space, f"{name} space")
    if declared.kind == "f":
        with np.errstate(over="ignore"):
            low, high = (np.asarray(np.asarray(b).astype(np.float32)) for b in (space.low, space.high))
        if (low == -np.inf).all() and (high == np.inf).all():
            return None
        largest = np.float32(FLOAT32_MAX)
        return np.asarray(np.maximum(low, -largest)), np.asarray(np.minimum(high, largest))
    if declared.kind == "b":
        return None
    full = np.iinfo(declared)
    if (space.low == full.min).all() and (space.high == full.max).all():
        return None
    return np.asarray(space.low), np.asarray(space.high)


def require_bounds(space: spaces.Box, name: str) -> None:
    """Raise `UsageError` where a bound is no number, or a low one above its high one."""
    bad = ~(np.asarray(space.low) <= np.asarray(space.high))  # also where one is NaN
    if bad.any():
        at = tuple(np.argwhere(bad)[0])
        raise UsageError(
            f"{name} has low {space.low[at]!s} and high {space.high[at]!s} at {[int(i) for i in at]}: mend its "
            "bounds"
        )


def place(batch: Any, at: int | np.ndarray, rows: Any) -> None:
    """Write the observation of one environment, or of several, where it belongs in the batch."""
    if isinstance(batch, dict):
        for key, array in batch.items():
            array[at] = rows[key]
    else:
        batch[at] = rows


type Tree = Leaf | dict[str, Tree] | tuple[Tree, ...]


class Observations:
    """Reads the observations of one space. `note` hears what was made to fit; `choices` are those of a mask.

    Raises: `UsageError`, from the constructor, where the space cannot be used.
    """

    spec: ObservationSpec

    def __init__(self, space: Space[Any], note: Note = say_nothing, choices: tuple[int, ...] = ()):
        self._leaves: dict[str, Leaf] = {}
        self._note, self._choices = note, choices
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

        def read(leaf: Leaf, value: Any) -> None:
            found[leaf.key] = leaf.read(value, lead)

        self._walk(self._tree, value, "observation", read)
        return found

    def arriving(self, rows: int) -> dict[str, np.ndarray]:
        """Room for the observations of so many rows as they arrive: `putter` fills it, `canonical` reads it."""
        return {key: leaf.blank(rows) for key, leaf in self._leaves.items()}

    def putter(self, raw: dict[str, np.ndarray]) -> Callable[[int, Any], None]:
        """What writes one row's observation as it arrives; values are not looked at yet.

        It raises `MalformedError` where structure, shape or dtype are wrong.
        """
        tree = self._tree
        if isinstance(tree, Leaf):
            return functools.partial(tree.put, raw[""])

        def put(row: int, value: Any) -> None:
            self._walk(tree, value, "observation", lambda leaf, part: leaf.put(raw[leaf.key], row, part))

        return put

    def together(self, values: Sequence[Any]) -> dict[str, np.ndarray] | None:
        """What `putter` would fill, of all rows' plain arrays at once; None where they are not of that kind."""
        if not isinstance(self._tree, Leaf):
            return None
        try:
            found = np.array(values)
        except ValueError:  # of several shapes
            return None
        return {"": found} if self._tree.fits(found) else None

    def canonical(self, raw: dict[str, np.ndarray], rows: int) -> Obs:
        """What `putter` filled, checked, in the form of `spec`; `raw` is not to be used again.

        Raises: `MalformedError` for the first value that is not finite or no category.
        """
        lead = (rows,)
        if isinstance(self._tree, Leaf):
            return self._tree.canonical(raw[""], lead, True)
        return {key: leaf.canonical(raw[key], lead, True) for key, leaf in self._leaves.items()}

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
        self._leaves[key] = Leaf(key, space, self._note, self._choices)
        return self._leaves[key]

    def _walk(self, tree: Tree, value: Any, name: str, take: Callable[[Leaf, Any], None]) -> None:
        if isinstance(tree, Leaf):
            take(tree, value)
        elif isinstance(tree, dict):
            if not isinstance(value, Mapping) or set(value) != set(tree):
                keys = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else short(value)
                raise MalformedError(f"{name} is {keys}, expected a dictionary with keys {sorted(tree)}")
            for key, inner in tree.items():
                self._walk(inner, value[key], f"{name}/{key}", take)
        else:
            if not isinstance(value, (tuple, list)) or len(value) != len(tree):
                raise MalformedError(f"{name} is {short(value)}, expected a tuple of {len(tree)}")
            for i, inner in enumerate(tree):
                self._walk(inner, value[i], f"{name}/{i}", take)


def _array_spec(space: Space[Any], key: str) -> tuple[ArraySpec, np.ndarray]:
    """What one array holds, and what its categories count from."""
    zero = np.array(0)
    if key == ACTION_MASK:
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
            require_bounds(space, "action space")
            if 0 in space.shape:
                raise UsageError(f"action space has shape {space.shape}, which holds nothing: there is no action")
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
        # The choices of an action mask, in its order; none where actions are continuous.
        self.choices = _choices(self.spec)
        if not isinstance(self.spec, Continuous) and not self.choices:
            raise UsageError(f"action space is {short(space)}, which holds nothing: there is no action")
        if any(not 0 < count < 2**31 for count in self.choices):
            raise UsageError(f"action space is {short(space)}: every choice must be of 1 to 2**31 - 1 actions")
        self._start = np.ravel(getattr(space, "start", 0)).astype(np.int64)
        self._shifts = bool(self._start.any())
        self._shape = tuple(map(int, space.shape or ()))
        self._dtype = np.dtype(space.dtype)
        few = isinstance(self.spec, Discrete) and self.spec.count <= SMALL
        self._table = (
            np.arange(self.choices[0]).astype(self._dtype) + self._dtype.type(self._start[0]) if few else None
        )

    def write(self, actions: np.ndarray, rows: int) -> np.ndarray:
        """[rows, ...] canonical actions as a fresh array [rows, *space.shape] of the space's dtype.

        Raises: `NumericalError` where one is not finite, `UsageError` where shape, dtype or range is wrong.
        """
        if self._table is not None and actions.dtype == np.int32 and actions.shape == (rows,):
            # One call checks and converts. As an unsigned number a negative one is too large as well.
            with contextlib.suppress(IndexError):
                return self._table.take(actions.view(np.uint32))
        require_actions(self.spec, actions, rows)
        if isinstance(self.spec, Continuous):
            scaled = actions * self._scale + self._middle
            # Not np.clip: it costs five times as much on arrays this small.
            written = np.maximum(np.minimum(scaled, self._high), self._low)
        else:
            written = actions + self._start if self._shifts else actions
        return written.astype(self._dtype).reshape(rows, *self._shape)


def _choices(spec: ActionSpec) -> tuple[int, ...]:
    if isinstance(spec, Continuous):
        return ()
    return (spec.count,) if isinstance(spec, Discrete) else spec.counts
