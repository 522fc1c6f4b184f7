import dataclasses
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ridgeline.report.figure import Series, line_chart, ticks
from ridgeline.report.text import aligned, duration, plain, rate, tick_labels

SVG = "{http://www.w3.org/2000/svg}"


def series(lines, name="training"):
    lines = np.atleast_2d(np.asarray(lines, dtype=float))
    x = np.arange(1, lines.shape[1] + 1) * 1000
    return Series(name, x, lines.mean(0), lines.min(0), lines.max(0), lines)


def draw(*several, **options):
    return ET.fromstring(line_chart("title", "what it shows", "environment steps", "return", several, **options))


def classes(svg):
    return {path.get("class") for path in svg.iter(f"{SVG}path")}


def coordinates(path):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d"))]


def texts(svg):
    return ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]


def test_it_says_what_it_is_and_what_its_axes_mean():
    svg = draw(series([[1, 2, 3]]))
    assert svg.find(f"{SVG}title").text == "title"
    assert svg.find(f"{SVG}desc").text == "what it shows"
    assert {"environment steps", "return", "0", "1000", "2000", "3000"} <= set(texts(svg))
    assert "prefers-color-scheme: dark" in svg.find(f"{SVG}style").text


def test_points_stand_where_the_axes_say():
    svg = draw(series([[0, 50, 100]]), width=400, height=300)
    where = {text.text: (float(text.get("x")), float(text.get("y")) - 4) for text in svg.iter(f"{SVG}text")}
    centre = next(path for path in svg.iter(f"{SVG}path") if path.get("class") == "centre s0")
    axis = next(path for path in svg.iter(f"{SVG}path") if path.get("class") == "axis")
    _, bottom, x, y, _, top = coordinates(centre)
    assert bottom == coordinates(axis)[1]
    assert x == pytest.approx(where["2000"][0], abs=0.2)
    labels = [where[name][1] for name in ("40", "60")]
    assert y == pytest.approx(sum(labels) / 2, abs=0.2)
    assert top == pytest.approx(where["100"][1], abs=0.2)


def test_band_and_thin_lines_only_where_seeds_differ():
    assert not {"band f0", "seeds s0"} & classes(draw(series([[1, 2, 3]])))
    assert {"band f0", "seeds s0"} <= classes(draw(series([[1, 2, 3], [2, 3, 5]])))


def test_legend_for_several_series_and_bar_with_its_label():
    svg = draw(series([[1, 2]]), series([[2, 3]], "evaluation"), bar=(9.0, "threshold 9"))
    assert any("training" in text and "evaluation" in text for text in texts(svg))
    assert "threshold 9" in texts(svg)
    bar = next(path for path in svg.iter(f"{SVG}path") if path.get("class") == "bar")
    assert 0 < coordinates(bar)[1] < 360


@pytest.mark.parametrize(
    "lines",
    [
        np.zeros((2, 0)),
        np.full((3, 4), np.nan),
        [[5.0]],
        [[0.0, 0.0]],
        [[1e300, -1.7e308, 1.7e308]],
        [[1e-320, 2e-320]],
        [[1e16, 1e16 + 2]],
        [[np.nan, 1, np.nan, 3]],
        [[-3.0, -2.0], [np.nan, np.nan]],
    ],
)
def test_odd_values_stay_on_the_canvas(lines):
    with np.errstate(all="ignore"):
        odd = series(lines)
    svg = draw(odd, width=400, height=300)
    for path in svg.iter(f"{SVG}path"):
        assert "nan" not in path.get("d")
        assert "inf" not in path.get("d")
        assert all(-1 <= number <= 401 for number in coordinates(path))
    assert ("no values yet" in texts(svg)) == bool(np.all(np.isnan(odd.lines)))


def test_a_dashed_line_says_so_in_the_legend():
    svg = draw(series([[1, 2]]), dataclasses.replace(series([[1, 2]], "predicted"), dashed=True))
    assert {"centre s0", "centre dashed s1"} <= classes(svg)
    assert any("● training" in text and "╌ predicted" in text for text in texts(svg))


def test_lines_bridge_missing_points():
    svg = draw(series([[np.nan, 1, np.nan, 3]]))
    centre = next(path for path in svg.iter(f"{SVG}path") if path.get("class") == "centre s0")
    assert centre.get("d").count("L") == 1


def test_a_lone_point_is_a_dot():
    assert "centre dot s0" in classes(draw(series([[5.0]])))


def test_text_is_escaped():
    hostile = "</text><script>alert(1)</script>&"
    svg = line_chart(hostile, hostile, hostile, hostile, [series([[1, 2]], hostile)] * 2, bar=(1.0, hostile))
    assert "<script" not in svg
    assert hostile in texts(ET.fromstring(svg))


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 100, 5, [0, 20, 40, 60, 80, 100]),
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-7, 12, 4, [-5, 0, 5, 10]),
        (0, 100_352, 9, [10e3 * i for i in range(11)]),
        (0.93, 1.02, 4, [0.94, 0.96, 0.98, 1.0, 1.02]),
    ],
)
def test_ticks(low, high, most, expected):
    np.testing.assert_allclose(ticks(low, high, most), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 20e3, 40e3], ["0", "20k", "40k"]),
        ([0, 500e3, 1e6, 1.5e6], ["0", "500k", "1M", "1.5M"]),
        ([0, 500, 1000], ["0", "500", "1000"]),
        ([-0.5, 0, 0.5, 1], ["−0.5", "0", "0.5", "1.0"]),
        ([0.69314, 0.69316], ["0.69314", "0.69316"]),
        ([0, 1e-4, 2e-4], ["0", "1e−4", "2e−4"]),
        ([-1e20, 0, 1e20], ["−1e20", "0", "1e20"]),
        ([2e9, 4e9], ["2G", "4G"]),
        ([], []),
    ],
)
def test_tick_labels(values, expected):
    assert tick_labels(np.array(values, dtype=np.float64)) == expected


def test_numbers_in_words():
    assert aligned([498.24, -3.0, float("nan")]) == ["498.2", "−3.0", "–"]
    assert aligned([0.0, 0.25]) == ["0.0000", "0.2500"]
    assert aligned([12345.6]) == ["12,346"]
    assert aligned([1e30]) == ["1.000e+30"]
    assert [plain(v) for v in (475.0, -1.5, 1e4)] == ["475", "−1.5", "10,000"]
    assert [duration(s) for s in (0.456, 12.34, 200, 8040, float("nan"))] == [
        "0.46 s", "12.3 s", "3 min 20 s", "2 h 14 min", "–",
    ]  # fmt: skip
    assert [rate(r) for r in (124_878.0, 3.14159, float("nan"))] == ["125,000 steps/s", "3.1 steps/s", "–"]
