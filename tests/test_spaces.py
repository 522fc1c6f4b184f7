import numpy as np
import pytest
from gymnasium import spaces

from ridgeline.errors import NumericalError, UsageError
from ridgeline.spaces import Actions, MalformedError, Observations
from ridgeline.types import ArraySpec, Continuous, Discrete, MultiDiscrete


def box(shape=(3,), dtype=np.float32, low=-1, high=1):
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (box(), ArraySpec((3,))),
        (box(()), ArraySpec(())),
        (box((2, 3), np.float64), ArraySpec((2, 3))),
        (box((2,), np.float16), ArraySpec((2,))),
        (box((4, 4, 3), np.uint8, 0, 255), ArraySpec((4, 4, 3), "uint8")),
        (box((2,), np.int64, -9, 9), ArraySpec((2,), "int32")),
        (box((2,), np.int8), ArraySpec((2,), "int32")),
        (box((2,), bool, 0, 1), ArraySpec((2,), "bool")),
        (spaces.Discrete(5, start=2), ArraySpec((), "int32", (5,))),
        (spaces.MultiDiscrete([2, 3]), ArraySpec((2,), "int32", (2, 3))),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), ArraySpec((2, 2), "int32", (2, 3, 4, 5))),
        (spaces.MultiBinary(4), ArraySpec((4,))),
        (
            spaces.Dict({"z": box(), "a": spaces.Tuple([spaces.Discrete(2), spaces.Dict({"b": box()})])}),
            (("a/0", ArraySpec((), "int32", (2,))), ("a/1/b", ArraySpec((3,))), ("z", ArraySpec((3,)))),
        ),
        (
            spaces.Dict({"action_mask": spaces.MultiBinary(3), "x": box()}),
            (("action_mask", ArraySpec((3,), "bool")), ("x", ArraySpec((3,)))),
        ),
        (spaces.Dict({"action_mask": box((3,), np.int8, 0, 1)}), (("action_mask", ArraySpec((3,), "bool")),)),
    ],
)
def test_a_sample_of_every_space_reads_as_its_spec_says(space, spec):
    observations = Observations(space)
    assert observations.spec == spec
    space.seed(0)
    for _ in range(5):
        read = observations.read(space.sample())
        arrays = {"": read} if isinstance(spec, ArraySpec) else read
        specs = {"": spec} if isinstance(spec, ArraySpec) else dict(spec)
        assert arrays.keys() == specs.keys()
        for key, array in arrays.items():
            assert isinstance(array, np.ndarray)
            assert (array.shape, array.dtype.name) == (specs[key].shape, specs[key].dtype)


def test_values_survive_and_categories_count_from_zero():
    space = spaces.Dict({"n": spaces.Discrete(5, start=-2), "t": spaces.Tuple([box((2,), np.float64)])})
    read = Observations(space).read({"n": np.int64(1), "t": (np.array([0.25, -0.5]),)})
    assert read["n"] == 3
    np.testing.assert_array_equal(read["t/0"], np.array([0.25, -0.5], np.float32))
    counts = Observations(spaces.MultiDiscrete([3, 4], start=[1, 10])).read(np.array([3, 10]))
    np.testing.assert_array_equal(counts, [2, 0])


def test_a_read_array_is_never_the_environments_own():
    mine = np.ones(3, np.float32)
    read = Observations(box()).read(mine)
    mine[:] = 7
    np.testing.assert_array_equal(read, np.ones(3))


def test_values_outside_a_box_are_let_through():
    np.testing.assert_array_equal(Observations(box()).read(np.full(3, 5.0)), np.full(3, 5.0, np.float32))


@pytest.mark.parametrize(
    ("space", "value", "says"),
    [
        (box(), np.array([0, np.nan, 0]), r"observation\[1\] is nan"),
        (box(), np.array([0, 0, -np.inf]), r"observation\[2\] is -inf"),
        (box((1,), np.float64), np.array([1e300]), "finite float32"),
        (box(()), np.nan, "observation is nan"),
        (box(), np.zeros(4), r"shape \(4,\), its space has \(3,\)"),
        (box(), np.zeros((1, 3)), r"shape \(1, 3\)"),
        (box(), None, "observation is None"),
        (box(), "abc", "observation is 'abc' of dtype"),
        (box(), [[1], [2, 3]], "expected an array"),
        (box(), np.zeros(3, complex), "complex128"),
        (box((2,), np.int64), np.array([0.0, 1.0]), "cannot be read as int32"),
        (box((2,), np.int64), np.array([0, 2**40]), "what a int32 can hold"),
        (box((2,), np.uint8, 0, 255), np.array([0, 256]), "what a uint8 can hold"),
        (box((2,), np.uint8, 0, 255), np.array([0, -1]), "what a uint8 can hold"),
        (spaces.Discrete(3), 3, "observation is 3, expected one of the categories"),
        (spaces.Discrete(3, start=1), 0, "observation is 0, expected one of the categories"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), r"observation\[1\] is 3"),
        (spaces.Dict({"x": box()}), {"y": np.zeros(3)}, r"keys \['y'\], expected a dictionary with keys \['x'\]"),
        (spaces.Dict({"x": box()}), {"x": np.zeros(3), "y": 1}, r"keys \['x', 'y'\]"),
        (spaces.Dict({"x": box()}), np.zeros(3), "expected a dictionary"),
        (spaces.Dict({"x": box()}), {"x": np.array([0, np.nan, 0])}, r"observation 'x'\[1\] is nan"),
        (spaces.Tuple([box()]), (1, 2), "expected a tuple of 1"),
        (spaces.Dict({"t": spaces.Tuple([box()])}), {"t": None}, "observation/t is None"),
        (spaces.Dict({"action_mask": spaces.MultiBinary(2)}), {"action_mask": np.array([0, 2])}, "what a bool"),
    ],
)
def test_a_value_that_its_space_does_not_allow_is_refused(space, value, says):
    with pytest.raises(MalformedError, match=says) as caught:
        Observations(space).read(value)
    assert "\n" not in str(caught.value)


def test_a_batch_names_its_first_bad_row():
    batch = np.zeros((4, 3))
    batch[2, 1] = np.nan
    with pytest.raises(MalformedError, match=r"observation\[1\] is nan") as caught:
        Observations(box()).read(batch, (4,))
    assert caught.value.row == 2


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (spaces.Text(4), ["observation space is Text"]),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Text(4)})}), ["'a/b' is Text"]),
        (spaces.Sequence(spaces.Discrete(2)), ["Sequence"]),
        (spaces.Graph(box(), None), ["Graph"]),
        (spaces.OneOf([box(), box()]), ["OneOf"]),
        (spaces.Dict({"action_mask": box()}), ["action_mask", "reserved"]),
        (spaces.Dict({"a/b": box(), "a": spaces.Dict({"b": box()})}), ["two keys 'a/b'"]),
        (spaces.Tuple([]), ["empty"]),
    ],
)
def test_an_observation_space_that_cannot_be_used_is_named_in_one_line(space, names):
    with pytest.raises(UsageError) as caught:
        Observations(space)
    assert "\n" not in str(caught.value)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Dict({"x": box()}),
        spaces.Tuple([box()]),
        spaces.Sequence(box()),
        spaces.OneOf([box(), box()]),
        box((2,), np.int32, 0, 5),
    ],
)
def test_an_action_space_that_cannot_be_used_is_named_in_one_line(space):
    with pytest.raises(UsageError, match=f"action space is {type(space).__name__}") as caught:
        Actions(space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "spec", "canonical", "expected"),
    [
        (spaces.Discrete(3, start=-1), Discrete(3), [0, 2], [-1, 1]),
        (spaces.MultiDiscrete([2, 3], start=[5, 6]), MultiDiscrete((2, 3)), [[0, 0], [1, 2]], [[5, 6], [6, 8]]),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]]),
            MultiDiscrete((2, 3, 4, 5)),
            [[0, 1, 2, 3], [1, 2, 3, 4]],
            [[[0, 1], [2, 3]], [[1, 2], [3, 4]]],
        ),
        (spaces.MultiBinary((1, 2)), MultiDiscrete((2, 2)), [[0, 1], [1, 1]], [[[0, 1]], [[1, 1]]]),
        (box((1,), low=-2, high=6), Continuous(1, (True,)), [[-1], [0.5]], [[-2], [4]]),
        (box((1,), low=-2, high=6), Continuous(1, (True,)), [[-3], [9]], [[-2], [6]]),
        (box((), np.float64, 0, 10), Continuous(1, (True,)), [[0], [1]], [5, 10]),
        (
            spaces.Box(np.array([-np.inf, 0, -np.inf]), np.array([np.inf, np.inf, 3]), dtype=np.float64),
            Continuous(3, (False, False, False)),
            [[-50, -1, 4], [50, 7, 2]],
            [[-50, 0, 3], [50, 7, 2]],
        ),
        (
            spaces.Box(np.array([[0, -np.inf]], np.float32), np.array([[4, np.inf]], np.float32)),
            Continuous(2, (True, False)),
            [[-1, 7], [2, -7]],
            [[[0, 7]], [[4, -7]]],
        ),
        (spaces.Box(-3e38, 3e38, (1,)), Continuous(1, (False,)), [[0.5], [-2]], [[0.5], [-2]]),
        (spaces.Box(-1e308, 1e308, (1,), np.float64), Continuous(1, (False,)), [[0.5], [-2]], [[0.5], [-2]]),
    ],
)
def test_canonical_actions_become_the_spaces_own(space, spec, canonical, expected):
    actions = Actions(space)
    assert actions.spec == spec
    dtype = np.float32 if isinstance(spec, Continuous) else np.int32
    written = actions.write(np.array(canonical, dtype), 2)
    np.testing.assert_array_equal(written, expected)
    assert (written.dtype, written.shape) == (space.dtype, (2, *space.shape))
    for row in written:
        assert space.contains(np.asarray(row))


def test_rounding_never_leaves_the_box():
    high = np.float32(0.1) + np.arange(50, dtype=np.float32) * np.float32(0.3)
    space = spaces.Box(-high * np.float32(0.7), high)
    for edge in (-1.0, 1.0):
        assert space.contains(Actions(space).write(np.full((1, 50), edge, np.float32), 1)[0])


def test_written_actions_are_not_the_callers_array():
    mine = np.zeros((1, 2), np.float32)
    assert not np.shares_memory(Actions(spaces.Box(-np.inf, np.inf, (2,))).write(mine, 1), mine)


@pytest.mark.parametrize(
    ("space", "actions", "error", "says"),
    [
        (spaces.Discrete(2), np.array([0, 2]), UsageError, "action of environment 1 is .*2"),
        (spaces.Discrete(2), np.array([-1, 0]), UsageError, "action of environment 0"),
        (spaces.Discrete(2), np.array([0]), UsageError, r"shape \(1,\)"),
        (spaces.Discrete(2), np.array([0.0, 1.0]), UsageError, "float64"),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 2], [1, 3]]), UsageError, "action of environment 1"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 2]), UsageError, r"shape \(2,\)"),
        (box((2,)), np.array([[0.0, 0.0], [np.nan, 0.0]]), NumericalError, "action of environment 1 is .*nan"),
        (box((2,)), np.array([[0.0, np.inf], [0.0, 0.0]]), NumericalError, "action of environment 0"),
        (box((2,)), np.zeros((2, 1)), UsageError, r"shape \(2, 1\)"),
    ],
)
def test_actions_that_are_not_canonical_are_refused(space, actions, error, says):
    with pytest.raises(error, match=says) as caught:
        Actions(space).write(actions, 2)
    assert "\n" not in str(caught.value)
