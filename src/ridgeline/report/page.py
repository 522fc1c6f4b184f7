"""The report of a run: one HTML file that opens offline, holds no script and asks nothing of any server."""

import contextlib
import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.errors import FileError, StorageError
from ridgeline.report.curves import Curves, read, shorten
from ridgeline.report.figure import STYLE, Series, line_chart
from ridgeline.report.result import PHASES, Result, field, read_result, seeds_of, summary
from ridgeline.report.text import aligned, counted, duration, interval, plain, rate
from ridgeline.safe import read_json

SCHEMA = 1
RETURN, EVALUATION, LENGTH = "rollout/ep_rew_mean", "eval/mean_reward", "rollout/ep_len_mean"
POINTS = 200  # drawn per line: more than a screen resolves
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # no script runs, whatever a file says
UNITS = {
    "approx_kl": "nats",
    "clip_fraction": "fraction of samples",
    "critic_loss": "return²",
    "entropy": "nats",
    "entropy_loss": "nats",
    "ep_len_mean": "steps per episode",
    "explained_variance": "fraction of variance",
    "grad_norm": "norm",
    "learning_rate": "per update",
    "n_updates": "updates",
    "value_loss": "return²",
}
PAGE_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
main { max-width: 940px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 26px; line-height: 1.25; letter-spacing: -.01em; margin: 2px 0 26px; }
h1 span, .quiet, figcaption, th, footer { color: var(--quiet); }
h1 span { font-weight: 400; }
h2 { font-size: 17px; margin: 48px 0 12px; }
p { margin: 0; }
.headline { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 20px; }
.headline strong { font-size: 52px; line-height: 1.1; font-weight: 650; letter-spacing: -.02em; }
.badge { border: 1px solid currentColor; border-radius: 99px; padding: 1px 12px; font-size: 13px; font-weight: 600;
  color: var(--quiet); }
.badge.solved { color: var(--good); }
.warning { color: var(--s1); margin-top: 12px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px 24px; margin: 26px 0 0;
  padding: 16px 0; border: solid var(--rule); border-width: 1px 0; }
dt { color: var(--quiet); font-size: 13px; }
dd { margin: 0; font-weight: 600; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; margin-top: 8px; max-width: 76ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 28px 32px; }
.narrow { display: none; }
@media (max-width: 640px) { main { padding: 24px 16px 40px; } .wide { display: none; } .narrow { display: block; }
  .headline strong { font-size: 42px; } }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
th { text-align: left; font-weight: 500; font-size: 13px; vertical-align: bottom; }
td, th { padding: 5px 16px 5px 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
.number, .value { text-align: right; }
.number { white-space: nowrap; }
pre { margin: 0; padding: 14px 16px; border: 1px solid var(--rule); border-radius: 6px; white-space: pre-wrap;
  font: 13px/1.6 ui-monospace, monospace; }
footer { margin-top: 56px; font-size: 13px; }
"""


def write(folder: Path | str) -> Path:
    """Write `report.html` into a run folder, from its `config.json`, `metrics.jsonl` and `result.json`.

    Without `result.json` (the run goes on, or was stopped) the report says so and shows the rest. An older report
    is replaced at once. `FileError`: a file cannot be used; `StorageError`: the folder cannot be written.
    """
    folder = Path(folder)
    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    if config.get("schema") != SCHEMA:
        raise FileError(
            f"{where}: `schema` is {shorten(config.get('schema'))}, this version reads {SCHEMA}; "
            "open it with the version that wrote it"
        )
    curves = read(folder / "metrics.jsonl")
    result = read_result(folder / "result.json") if (folder / "result.json").exists() else None
    target = folder / "report.html"
    _replace(target, render(config, curves, result, where))
    return target


def render(config: dict[str, Any], curves: Curves, result: Result | None, where: str = "config.json") -> str:
    """The page as a string. Everything that came from a file is escaped."""
    algorithm, env = (field(config, name, str, where) for name in ("algorithm", "env"))
    title = f"{algorithm} on {env}"
    body = [
        f'<header><p class="quiet">ridgeline run</p><h1>{escape(algorithm)} <span>on</span> {escape(env)}</h1>',
        *(_headline(result) if result else _unfinished(curves)),
        "</header>",
        *_learning(curves, title, result.reward_threshold if result else math.nan),
        *_training(curves, title),
        *(_results(result, curves) if result else ()),
        "<h2>Configuration</h2>",
        '<div class="grid">',
        *_records(config),
        "</div>",
        f"<h2>Reproduce</h2><pre>{escape(command(config, where))}</pre>",
        f"<footer>ridgeline {escape(_shown(config.get('ridgeline', '')))}. "
        "Made from config.json, metrics.jsonl and result.json in this folder.</footer>",
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def command(config: dict[str, Any], where: str = "config.json") -> str:
    """The command line that repeats a run: the one recorded, or one made from the configuration."""
    recorded = config.get("command")
    if isinstance(recorded, str):
        return recorded
    if isinstance(recorded, list):
        return shlex.join(map(str, recorded))
    algorithm, env = (field(config, name, str, where) for name in ("algorithm", "env"))
    steps, seeds = field(config, "steps", int, where), seeds_of(config, where)
    return shlex.join(["ridgeline", "train", algorithm, env, "--steps", f"{steps}", "--seeds", *map(str, seeds)])


def _headline(result: Result) -> Iterator[str]:
    iqm, low, high = aligned([result.iqm, result.low, result.high])
    count = len(result.seeds)
    yield f'<div class="headline"><strong>{iqm}</strong><div><p>Episode return, {interval(count, low, high)}</p>'
    mean = f"Interquartile mean of {count} seeds, " if count > 1 else ""
    yield f'<p class="quiet">{mean}{counted(result.episodes, "evaluation episode")} per seed</p></div>'
    if result.solved is not None:
        verdict = f"{'solved' if result.solved else 'not solved'}: threshold {plain(result.reward_threshold)}"
        yield f'<span class="badge {"solved" if result.solved else "open"}">{verdict}</span>'
    yield "</div>"
    for text in result.warnings:
        yield f'<p class="warning">Warning: {escape(text)}</p>'
    yield from _facts(row for row in summary(result) if row[0] not in ("Episode return", "Solved", "Evaluation"))


def _unfinished(curves: Curves) -> Iterator[str]:
    latest = [series[-1:] for series in curves.only(RETURN, POINTS).iqm(RETURN)]
    iqm, low, high = aligned(float(v[0]) if len(v) else math.nan for v in latest)
    spread = interval(len(curves.seeds), low, high)
    yield f'<div class="headline"><strong>{iqm}</strong><div><p>Episode return while training, {spread}</p>'
    yield '<p class="quiet">The latest, over the seeds so far</p></div>'
    yield '<span class="badge">unfinished</span></div>'
    steps = f"{int(curves.steps[-1]):,}" if len(curves.steps) else "0"
    yield from _facts([("Steps per seed so far", steps), ("Seeds", f"{len(curves.seeds)}")])


def _facts(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows) + "</dl>"


def _learning(curves: Curves, title: str, threshold: float) -> Iterator[str]:
    """The learning curve, drawn for a wide and for a narrow window so that its text stays readable in both."""
    series = [_series(curves, RETURN, "training")]
    if not np.all(np.isnan(curves.get(EVALUATION))):
        series.append(_series(curves, EVALUATION, "evaluation"))
    bar = None if math.isnan(threshold) else (threshold, f"reward threshold {plain(threshold)}")
    yield "<h2>Learning curve</h2><figure>"
    for kind, width, height in (("wide", 892, 380), ("narrow", 400, 320)):
        yield f'<div class="{kind}">{_chart(title, "episode return", series, bar, width, height)}</div>'
    yield f"<figcaption>{_caption(len(curves.seeds), len(series) > 1)}</figcaption></figure>"


def _training(curves: Curves, title: str) -> Iterator[str]:
    """A small chart for every metric of training that the run logged."""
    names = [LENGTH, *(name for name in curves.values if name.startswith("train/"))]
    yield '<h2>Training metrics</h2><div class="grid">'
    for name in names:
        unit = UNITS.get(name.rsplit("/", 1)[-1])
        label = f"{name} ({unit})" if unit else name
        chart = _chart(title, label, [_series(curves, name, name)], None, 430, 240)
        yield f"<figure>{chart}</figure>"
    yield "</div>"


def _results(result: Result, curves: Curves) -> Iterator[str]:
    training = {seed: _last(row) for seed, row in zip(curves.seeds, curves.get(RETURN), strict=True)}
    judged = aligned(result.per_seed)
    trained = aligned(training.get(seed, math.nan) for seed in result.seeds)
    rows = [(f"{s}", *cells) for s, *cells in zip(result.seeds, judged, trained, strict=True)]
    times = [(name, duration(result.seconds[name])) for name in PHASES]
    times.append(("speed, all seeds together", rate(result.steps_per_second)))
    yield '<h2>Results</h2><div class="grid"><div>'
    yield _table("Episode return of each seed", ("seed", "evaluation", "training, latest"), rows)
    yield "</div><div>"
    yield _table("Time and speed", (), times)
    yield "</div></div>"


def _records(config: dict[str, Any]) -> Iterator[str]:
    """One table for the run itself and one for each nested record of the configuration."""
    parts = {name: value for name, value in config.items() if isinstance(value, dict)}
    rest = {name: value for name, value in config.items() if name not in parts and name != "command"}
    for name, record in {**parts, "run": rest}.items():
        rows = [(key, _shown(value)) for key, value in _flat(record)]
        if rows:
            yield f"<div>{_table(name, (), rows)}</div>"


def _series(curves: Curves, name: str, label: str) -> Series:
    chosen = curves.only(name, POINTS)
    return Series(label, chosen.steps, *chosen.iqm(name), chosen.get(name))


def _chart(
    title: str, label: str, series: Sequence[Series], bar: tuple[float, str] | None, width: int, height: int
) -> str:
    count = len(series[0].lines)
    ends = ", ".join(f"{s.name} ends at {aligned([_last(s.centre)])[0]}" for s in series)
    description = f"Line chart of {label} over environment steps, {counted(count, 'seed')}: {ends}."
    return line_chart(
        f"{label}, {title}",
        description,
        "environment steps",
        label,
        series,
        bar=bar,
        width=width,
        height=height,
        style="",
    )


def _caption(count: int, evaluated: bool) -> str:
    spread = f"Bold: interquartile mean over {count} seeds. Band: its 95 % bootstrap interval, point by point. "
    policies = "Training returns are of the exploring policy"
    return (
        f"{spread}Thin: each seed. {policies}" if count > 1 else f"One seed: no interval can be given. {policies}"
    ) + (", evaluation returns of the greedy one." if evaluated else ".")


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells after the first stand to the right; with a head they are numbers, which never wrap."""
    kind = "number" if head else "value"

    def line(cells: Sequence[str], tag: str) -> str:
        first, *rest = (escape(cell) for cell in cells)
        return (
            f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="{kind}">{c}</{tag}>' for c in rest) + "</tr>"
        )

    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table>"


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict) and value and prefix.count(".") < 4:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _last(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else math.nan


def _replace(target: Path, text: str) -> None:
    temporary = target.with_name(f".report-{os.getpid()}.html")
    try:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"{target}: cannot be written ({error.strerror}); check its rights and space"
        ) from error
