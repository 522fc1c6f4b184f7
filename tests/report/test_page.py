import ast
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import ridgeline.report
from ridgeline.errors import FileError, StorageError
from ridgeline.report import page
from ridgeline.report.result import read_result, summary

VOID = {"meta", "path"}
HOSTILE = "</td><script>alert('x')</script>\"&\ud800"


class Page(HTMLParser):
    """Checks that tags match, and gathers text and tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture
def run(tmp_path):
    """Write a synthetic run folder; `config` and `result` change fields, None leaves the result out."""

    def build(
        seeds=10, points=30, value=lambda seed, k: float(seed + k), config=None, result=(), name="train/loss"
    ):
        numbers = list(range(seeds))
        shared = {"algorithm": "ppo", "env": "CartPole-v1", "backend": "jax", "steps": 30_720, "seeds": numbers}
        lines = [
            {
                "steps": 1024 * (k + 1),
                "seed": seed,
                "time/wall": 0.1 * k,
                "rollout/ep_rew_mean": value(seed, k),
                "rollout/ep_len_mean": value(seed, k),
                name: 1 / (k + 1),
                **({"eval/mean_reward": value(seed, k)} if k % 10 == 9 else {}),
            }
            for seed in numbers
            for k in range(points)
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st')
        record = {
            "schema": 1,
            "ridgeline": "0.1.0",
            **shared,
            "hyperparameters": {"gamma": 0.99, "network": {"hidden": [64, 64]}},
            "spec": {"id": shared["env"]},
            "machine": {},
            **(config or {}),
        }
        (tmp_path / "config.json").write_text(json.dumps(record))
        if result is not None:
            judged = {
                "iqm": 487.5,
                "low": 480.0,
                "high": 495.0,
                "per_seed": [480.0 + seed for seed in numbers],
                "episodes": 20,
                "max_over_training": None,
            }
            record = {
                **shared,
                "wall_seconds": {"import": 1.5, "compile": 2.25, "run": 8.0},
                "eval": judged,
                "reward_threshold": 475.0,
                "solved": True,
                **dict(result),
            }
            (tmp_path / "result.json").write_text(json.dumps(record))
        return tmp_path

    return build


def opened(folder):
    target = page.write(folder)
    assert target == folder / "report.html"
    return Page(target.read_text())


def test_ten_seeds(run):
    got = opened(run())
    assert "487.5" in got.words
    assert "Episode return, 95 % interval 480.0 to 495.0" in got.text
    assert "solved: threshold 475" in got.text
    assert "reward threshold 475" in got.text
    assert "38,400 steps/s" in got.text
    assert "ridgeline train ppo CartPole-v1 --steps 30720 --seeds 0 1 2 3 4 5 6 7 8 9" in got.words
    assert {"network.hidden", "[64, 64]", "2.25 s", "train/loss", "489.0"} <= set(got.words)
    assert "machine" not in got.words  # an empty record
    assert got.tags.count("svg") == 4  # the learning curve twice, episode length, loss
    assert got.text.count("environment steps") >= 4


def test_it_needs_nothing_from_outside(run):
    text = page.write(run()).read_text()
    assert not re.search(r"<script|<link|<img|@import|url\(|src=", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


def test_same_files_same_report(run):
    folder = run()
    first = page.write(folder).read_bytes()
    assert page.write(folder).read_bytes() == first


def test_one_seed_claims_no_interval(run):
    got = opened(run(seeds=1))
    assert "one seed, so no interval" in got.text
    assert "Interquartile mean of" not in got.text
    assert dict(summary(read_result(run(seeds=1) / "result.json")))["Episode return"].endswith("no interval)")


def test_no_finished_episode(run):
    missing = {"iqm": None, "low": None, "high": None, "per_seed": [None] * 3, "episodes": 0}
    got = opened(run(seeds=3, value=lambda seed, k: None, result={"eval": missing, "solved": None}))
    assert "no values yet" in got.words
    assert "–" in got.words
    assert "Episode return, not measured" in got.text
    assert "nan" not in got.text


def test_some_seeds_without_finished_episode(run):
    opened(run(seeds=4, value=lambda seed, k: float("nan") if k < 5 * seed else float(k)))


@pytest.mark.parametrize("scale", [1e300, 1.7e308, 1e-300, -1e12, 0.0])
def test_huge_and_tiny_values(run, scale):
    rng = np.random.default_rng(0)
    text = page.write(run(value=lambda seed, k: float(scale * rng.uniform(-1, 1)))).read_text()
    assert not re.search(r"[ ML](nan|inf)", text)


def test_no_rows_and_no_result(run):
    got = opened(run(points=0, result=None))
    assert "unfinished" in got.words


def test_a_run_that_was_stopped(run):
    got = opened(run(result=None))
    assert {"unfinished", "33.50", "30,720"} <= set(got.words)


def test_not_solved_and_best_on_the_way(run):
    folder = run(seeds=1, result={"solved": False})
    record = json.loads((folder / "result.json").read_text())
    record["eval"]["max_over_training"] = 499.0
    (folder / "result.json").write_text(json.dumps(record))
    rows = dict(summary(read_result(folder / "result.json")))
    assert rows["Solved"] == "no, the threshold is 475"
    assert rows["Best evaluation on the way"] == "499.0"
    assert "not solved: threshold 475" in opened(folder).text


def test_hostile_strings_stay_text(run):
    config = {
        "algorithm": HOSTILE,
        "env": HOSTILE,
        "ridgeline": HOSTILE,
        "hyperparameters": {HOSTILE: HOSTILE},
        HOSTILE: {HOSTILE: [HOSTILE]},
        "command": HOSTILE,
    }
    got = opened(run(config=config, name=f"train/{HOSTILE}"))
    assert "script" not in got.tags
    assert "<script>" in got.text


def test_warnings_are_shown_and_stay_text(run):
    got = opened(run(result={"warnings": ["seed 3: the critic diverges", HOSTILE]}))
    assert "Warning: seed 3: the critic diverges" in got.words
    assert "script" not in got.tags
    assert "Warning" not in opened(run()).text


def test_command_is_quoted(run):
    assert "'a b; rm -rf'" in opened(run(config={"env": "a b; rm -rf"})).text
    assert "ridgeline train 'x y'" in opened(run(config={"command": ["ridgeline", "train", "x y"]})).text


@pytest.mark.parametrize(
    "config",
    [{"schema": 2}, {"env": None}, {"seeds": "0"}, {"seeds": [0.5]}, {"steps": True}, {"steps": 10**400}],
)
def test_bad_config_is_one_line(run, config):
    with pytest.raises(FileError, match=r"config\.json: `\w+` is ") as caught:
        page.write(run(config=config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "result",
    [
        {"eval": 3},
        {"wall_seconds": {"run": "x"}},
        {"seeds": [1]},
        {"steps": -1},
        {"reward_threshold": "y"},
        {"warnings": [3]},
    ],
)
def test_bad_result_is_one_line(run, result):
    with pytest.raises(FileError, match=r"result\.json: ") as caught:
        page.write(run(result=result))
    assert "\n" not in str(caught.value)


def test_deep_nesting(run):
    folder = run()
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    record = json.dumps(json.loads((folder / "config.json").read_text()))[:-1]
    (folder / "config.json").write_text(f'{record}, "deep": {deep}}}')
    with pytest.raises(FileError, match=r"config\.json: JSON of more than 32 levels"):
        page.write(folder)


def test_a_folder_that_cannot_be_written(run):
    folder = run()
    (folder / "report.html").mkdir()
    with pytest.raises(StorageError, match=r"report\.html: cannot be written"):
        page.write(folder)
    assert not list(folder.glob(".report*"))


def test_missing_folder(tmp_path):
    with pytest.raises(FileError, match=r"config\.json: cannot be read"):
        page.write(tmp_path / "nowhere")


def test_the_package_needs_only_numpy():
    allowed = {"numpy", "ridgeline", *sys.stdlib_module_names}
    for path in Path(ridgeline.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in allowed
                assert not name.startswith("ridgeline") or name.startswith(
                    ("ridgeline.report.", "ridgeline.errors", "ridgeline.safe")
                )
