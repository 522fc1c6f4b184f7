import json

import numpy as np
import pytest

from ridgeline.errors import FileError
from ridgeline.report import curves


def row(steps, seed, **metrics):
    return json.dumps({"steps": steps, "seed": seed, **metrics})


@pytest.fixture
def read(tmp_path):
    def from_lines(*lines, end="\n"):
        path = tmp_path / "metrics.jsonl"
        text = "\n".join(lines) + end
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return curves.read(path)

    return from_lines


def test_rows_become_arrays(read):
    got = read(row(20, 4, a=3), row(10, 4, a=1), row(10, 2, a=0.5, b=7), row(20, 2, a=2))
    assert got.steps.tolist() == [10, 20]
    assert got.seeds == (2, 4)
    np.testing.assert_array_equal(got.values["a"], [[0.5, 2], [1, 3]])
    np.testing.assert_array_equal(got.values["b"], [[7, np.nan], [np.nan, np.nan]])


def test_missing_values_are_nan(read):
    got = read(row(1, 0, a=None, b=1.0), '{"steps": 2, "seed": 0, "a": NaN, "b": Infinity}', row(3, 0, a=10**400))
    assert np.all(np.isnan(got.values["a"]))
    np.testing.assert_array_equal(got.values["b"], [[1, np.nan, np.nan]])
    assert got.get("unheard of").shape == (1, 3)


@pytest.mark.parametrize("tail", ['{"steps": 2, "se', "{", '{"steps": 2, "seed": 0, "a": 1', "\x00\x00"])
def test_torn_tail_is_ignored(read, tail):
    assert read(row(1, 0, a=1.0), tail, end="").steps.tolist() == [1]


def test_complete_last_line_without_newline_counts(read):
    assert read(row(1, 0), row(2, 0), end="").steps.tolist() == [1, 2]


def test_row_logged_again_after_a_resume_counts(read):
    assert read(row(1, 0, a=1), row(1, 0, a=2)).values["a"].tolist() == [[2]]


def test_no_rows(read):
    got = read("")
    assert (got.seeds, len(got.steps)) == ((), 0)
    assert all(len(part) == 0 for part in got.iqm("rollout/ep_rew_mean"))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "7",
        row("1", 0),
        row(True, 0),
        row(1.5, 0),
        row(-1, 0),
        row(2**63, 0),
        '{"steps": 1}',
        row(1, 0, a="x\ny"),
        row(1, 0, a=True),
        row(1, 0, a=[1]),
        "[" * 200_000,
        "1" * 5000,
    ],
)
def test_damage_is_one_line_that_says_where(read, line):
    with pytest.raises(FileError) as caught:
        read(row(1, 0), line, row(2, 0))
    message = str(caught.value)
    assert "metrics.jsonl, line 2: " in message
    assert "\n" not in message
    assert len(message) < 400


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(row(1, 0).encode() + b"\n\xff\xfe\n")
    with pytest.raises(FileError, match="line 2"):
        curves.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileError, match=r"metrics\.jsonl"):
        curves.read(tmp_path / "metrics.jsonl")


def test_iqm_over_seeds(read):
    got = read(*(row(step, seed, a=float(seed * step)) for seed in range(8) for step in (1, 2)))
    iqm, low, high = got.iqm("a")
    np.testing.assert_allclose(iqm, [3.5, 7])
    assert np.all(low < iqm)
    assert np.all(iqm < high)


def test_only_keeps_the_points_that_have_values(read):
    got = read(*(row(step, 0, a=1.0, **({"b": 1.0} if step % 10 == 0 else {})) for step in range(1, 1001)))
    assert got.only("b", 200).steps.tolist() == list(range(10, 1001, 10))
    thin = got.only("a", 50)
    assert len(thin.steps) == 50
    assert (thin.steps[0], thin.steps[-1]) == (1, 1000)
