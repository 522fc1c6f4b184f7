"""Ways to find argmaxₐ Q(s, a) on one and the same critic: how much of Q they miss, what an action costs, and how
well each of them learns.

    uv run python benchmarks/maximisers.py            # what is not yet in benchmarks/results/maximisers.json
    uv run python benchmarks/maximisers.py draw       # figures and tables from it

Two tasks: Pendulum-v1, whose action is one number, and `Pond`, whose action has two. The critic is DDPG's after
training; NAF's network is fitted to that critic's values. Raw results go to benchmarks/results.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ridgeline
from ridgeline.algorithms.ddpg import DDPG
from ridgeline.algorithms.naf import NAF, NormalisedAdvantage
from ridgeline.algorithms.qsearch import QSearch
from ridgeline.critics import Regression, fit
from ridgeline.encoders import Architecture
from ridgeline.environments.classic import Pendulum
from ridgeline.maximisers import CEM, CMAES, Best, Maximiser, Sampling, best_of
from ridgeline.memory import Batch, Replay
from ridgeline.report import figure
from ridgeline.training.runner import Compiled, prepare
from ridgeline.types import ArraySpec, Continuous, EnvSpec, Step

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "maximisers.json"
DOCS = HERE.parent / "docs"
STEPS, SEEDS, STATES = 10_000, tuple(range(5)), 256
BUDGETS = (12, 24, 48, 96, 192)  # values of Q for one action


class PondState(NamedTuple):
    place: jax.Array
    velocity: jax.Array


class Pond(eqx.Module):
    """Swim from the left bank to the right one around a whirl in the middle: the way is up or down, not through.

    v ← 0.8 v + 0.1 a; p ← p + v, kept in [−1, 1]²; reward −‖p − (0.8, 0)‖ − 2 exp(−‖p‖² / 0.05).
    Observation [p, v].
    """

    spec = EnvSpec("Pond-v0", ArraySpec((4,)), Continuous(2, (True, True)), 40)

    def reset(self, key: jax.Array) -> tuple[PondState, jax.Array]:
        x, y = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
        state = PondState(jnp.stack([x - 0.8, y]), jnp.zeros(2))
        return state, jnp.concatenate(state)

    def step(self, key: jax.Array, state: PondState, action: jax.Array) -> tuple[PondState, Step]:
        velocity = 0.8 * state.velocity + 0.1 * jnp.clip(action, -1, 1)
        place = jnp.clip(state.place + velocity, -1, 1)
        distance = jnp.sqrt(jnp.sum((place - jnp.array([0.8, 0.0])) ** 2) + 1e-12)
        reward = -distance - 2 * jnp.exp(-jnp.sum(place**2) / 0.05)
        state = PondState(place, velocity)
        return state, Step(jnp.concatenate(state), reward, jnp.array(False), jnp.array(False))


class Grid(Maximiser):
    """The best of so many evenly spaced values in every entry."""

    points: int = eqx.field(default=61, static=True)
    entries: int = eqx.field(default=1, static=True)

    @property
    def evaluations(self) -> int:
        return self.points**self.entries

    def __call__(self, key: jax.Array, f: Any, size: int) -> Best:
        axes = [jnp.linspace(-1, 1, self.points)] * size
        actions = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, size)
        return best_of(actions, jax.vmap(f)(actions))


class GridSearch(QSearch):
    """Q-learning by search over a grid of 61 actions, or of 8 × 8."""

    entries: int = eqx.field(default=1, static=True)

    @property
    def search(self) -> Maximiser:
        return Grid(61 if self.entries == 1 else 8, self.entries)


TASKS = {"Pendulum-v1": Pendulum(), "Pond-v0": Pond()}
COMMON = {
    "gamma": 0.98,
    "hidden": (32, 32),
    "replay": Replay(capacity=STEPS, batch_size=64, warmup=1_000),
}


def learners(task: str) -> dict[str, Any]:
    entries = TASKS[task].spec.action.size
    return {
        "DDPG": DDPG(**COMMON),
        "NAF": NAF(noise_scale=0.5, **COMMON),
        "sampling": QSearch(maximiser="sampling", **COMMON),
        "CEM": QSearch(maximiser="cem", **COMMON),
        "CMA-ES": QSearch(maximiser="cma_es", population=10, iterations=6, initial_std=0.5, **COMMON),
        "grid": GridSearch(entries=entries, **COMMON),
    }


def search_of(name: str, budget: int) -> Maximiser:
    """A search that evaluates Q about so often: three iterations of CEM, populations of six for CMA-ES."""
    if name == "sampling":
        return Sampling(budget)
    return CEM(budget // 3, max(2, budget // 12), 3) if name == "CEM" else CMAES(6, budget // 6)


def learning_curve(task: str, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        run = ridgeline.train(
            learners(task)[name],
            TASKS[task],
            steps=STEPS,
            seeds=SEEDS,
            out=out,
            evaluations=20,
            evaluation_episodes=20,
            final_episodes=100,
        )
        curves = run.curves.only("eval/mean_reward", 20)
        iqm, low, high = curves.iqm("eval/mean_reward")
    curve = {"steps": curves.steps.tolist()} | {
        key: [round(float(v), 2) for v in values] for key, values in (("iqm", iqm), ("low", low), ("high", high))
    }
    return {"eval": run.result["eval"], "seconds": run.result["wall_seconds"], "curve": curve}


def trained_critic(task: str) -> tuple[Any, Any, jax.Array]:
    """DDPG's actor and critic after training (seed 0), and states from its memory."""
    env = TASKS[task]
    runner = Compiled(prepare(DDPG(**COMMON)), env, (0,))
    runner.run(0, STEPS, float(STEPS))
    state = jax.tree.map(lambda x: x[0], runner.states)
    obs = state.memory.data.obs.reshape(-1, *env.spec.observation.shape)
    chosen = jax.random.choice(jax.random.key(1), obs, (4_000,), replace=False)
    return state.learner.actor, state.learner.critic.critics[0], chosen


def fitted_naf(task: str, critic: Any, states: jax.Array) -> tuple[Any, float]:
    """NAF's network regressed onto the critic's values of uniform actions; the share of variance it explains."""
    env, steps, count = TASKS[task], 6_000, 256
    architecture = Architecture((32, 32), "relu")
    network = NormalisedAdvantage.create(jax.random.key(2), env.spec, architecture)
    size = env.spec.action.size

    def draw(key: jax.Array) -> Batch:
        row_key, action_key = jax.random.split(key)
        obs = jax.random.choice(row_key, states, (count,))
        action = jax.random.uniform(action_key, (count, size), minval=-1, maxval=1)
        ones, index = jnp.ones(count), jnp.zeros((count, 2), jnp.int32)
        return Batch(obs, action, ones, obs, action, ones > 0, ones, ones, index)

    def one(at: Any, step: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        key, rate = step
        batch = draw(key)
        target = jax.vmap(critic)(batch.obs, batch.action)
        return fit(at, batch, target, "adam", rate, 10.0)[0], None

    keys, rates = jax.random.split(jax.random.key(3), steps), jnp.linspace(3e-3, 1e-5, steps)
    begin = Regression.begin((network,), "adam")
    network = jax.jit(lambda at: jax.lax.scan(one, at, (keys, rates))[0])(begin).critics[0]
    batch = draw(jax.random.key(4))
    q, fitted = jax.vmap(critic)(batch.obs, batch.action), jax.vmap(network)(batch.obs, batch.action)
    return network, float(1 - jnp.var(q - fitted) / jnp.var(q))


def seconds_of(function: Any, *arguments: Any, repeats: int = 300) -> float:
    """The least time of a call: what others on the machine add to it is left out."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - begun)
    return min(times)


def gaps(task: str) -> dict[str, Any]:
    actor, critic, states = trained_critic(task)
    naf, explained = fitted_naf(task, critic, states)
    size, obs = TASKS[task].spec.action.size, states[:STATES]
    fine = Grid(2_001 if size == 1 else 201, size)
    keys = jax.random.split(jax.random.key(5), STATES)

    def everything(s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        axes = [jnp.linspace(-1, 1, fine.points)] * size
        q = jax.vmap(lambda a: critic(s, a))(jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, size))
        return jnp.max(q), jnp.mean(q), jnp.min(q)

    best, mean, _ = map(np.asarray, jax.jit(lambda x: jax.lax.map(everything, x))(obs))
    spread = np.maximum(best - mean, 1e-6)
    rows: list[dict[str, Any]] = []

    def measure(name: str, evaluations: int, find: Any) -> None:
        """`find(key, s)` is the action; it is judged by the critic."""
        reached = np.asarray(jax.jit(jax.vmap(lambda k, s: critic(s, find(k, s))))(keys, obs))
        gap = best - reached
        one = seconds_of(find, keys[0], obs[0])
        many = seconds_of(jax.vmap(find), keys, obs, repeats=30) / STATES
        rows.append(
            {
                "method": name,
                "evaluations": evaluations,
                "gap_mean": float(gap.mean()),
                "gap_p95": float(np.quantile(gap, 0.95)),
                "share_mean": float((gap / spread).mean()),
                "share_p95": float(np.quantile(gap / spread, 0.95)),
                "microseconds_one": 1e6 * one,
                "microseconds_batch": 1e6 * many,
            }
        )
        print(task, rows[-1], flush=True)

    measure("DDPG's actor", 0, lambda k, s: actor(s))
    measure("NAF, fitted", 0, lambda k, s: naf.best_action(s))
    for name in ("sampling", "CEM", "CMA-ES"):
        for budget in BUDGETS:
            search = search_of(name, budget)
            measure(name, search.evaluations, lambda k, s, m=search: m(k, lambda a: critic(s, a), size).action)
    for points in (12, 24, 48, 96, 192) if size == 1 else (4, 5, 7, 10, 14):
        grid = Grid(points, size)
        measure("grid", grid.evaluations, lambda k, s, m=grid: m(k, lambda a: critic(s, a), size).action)
    return {
        "rows": rows,
        "spread_mean": float(spread.mean()),
        "naf_explained_variance": explained,
        "reference": fine.evaluations,
    }


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"gaps": {}, "curves": {}}


def save(known: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def series(name: str, x: list[int], centre: Any, low: Any, high: Any) -> figure.Series:
    centre, low, high = (np.array(values, float) for values in (centre, low, high))
    return figure.Series(name, np.array(x), centre, low, high, np.zeros((0, len(x))))


def draw(known: dict[str, Any]) -> None:
    folder = DOCS / "figures"
    folder.mkdir(exist_ok=True)
    for task, found in known["gaps"].items():
        lines, rows = [], found["rows"]
        for name in ("sampling", "CEM", "CMA-ES", "grid"):
            mine = [row for row in rows if row["method"] == name]
            shares = [100 * row["share_mean"] for row in mine]
            lines.append(series(name, [row["evaluations"] for row in mine], shares, shares, shares))
        actor = 100 * next(row["share_mean"] for row in rows if row["method"] == "DDPG's actor")
        chart = figure.line_chart(
            f"Maximisation gap on {task}",
            "Mean over states of (max Q − Q(s, â)) / (max Q − mean Q), in percent, on one critic.",
            "values of Q for one action",
            "gap, % of max Q − mean Q",
            lines,
            bar=(actor, f"DDPG's actor {actor:.2g} %"),
        )
        (folder / f"maximisers-gap-{task}.svg").write_text(chart)
    for task, found in known["curves"].items():
        for group, names in (
            ("searches", ("sampling", "CEM", "CMA-ES", "grid")),
            ("networks", ("DDPG", "NAF", "CEM")),
        ):
            lines = [
                series(name, *(found[name]["curve"][key] for key in ("steps", "iqm", "low", "high")))
                for name in names
                if name in found
            ]
            chart = figure.line_chart(
                f"Learning on {task}: {group}",
                "Return of greedy episodes: interquartile mean over seeds with its 95 % bootstrap interval.",
                "environment steps of each seed",
                "episode return",
                lines,
            )
            (folder / f"maximisers-learning-{group}-{task}.svg").write_text(chart)


def tables(known: dict[str, Any]) -> str:
    lines = []
    for task, found in known["gaps"].items():
        lines += [
            f"\n{task}: max Q − mean Q is {found['spread_mean']:.3g} on average; NAF explains "
            f"{100 * found['naf_explained_variance']:.1f} % of the critic's variance.\n",
            "| method | values of Q | gap, mean | gap, 95th percentile | share of spread, mean "
            "| µs, one state | µs a state, 256 together |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in found["rows"]:
            lines.append(
                f"| {row['method']} | {row['evaluations'] or '–'} | {row['gap_mean']:.2g} | {row['gap_p95']:.2g} "
                f"| {100 * row['share_mean']:.2g} % | {row['microseconds_one']:.0f} "
                f"| {row['microseconds_batch']:.2f} |"
            )
    for task, found in known["curves"].items():
        lines += [
            f"\n{task}:\n",
            "| learner | final return: IQM [95 % interval] | lowest seed | run |",
            "|---|---|---|---|",
        ]
        for name, row in found.items():
            e = row["eval"]
            lines.append(
                f"| {name} | {e['iqm']:.1f} [{e['low']:.1f}, {e['high']:.1f}] | {min(e['per_seed']):.1f} "
                f"| {row['seconds']['run']:.0f} s |"
            )
    return "\n".join(lines)


def main() -> None:
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    known = load()
    if "draw" not in sys.argv:
        for task in TASKS:
            if task not in known["gaps"]:
                known["gaps"][task] = gaps(task)
                save(known)
        for task in TASKS:
            known["curves"].setdefault(task, {})
            for name in learners(task):
                if name not in known["curves"][task]:
                    known["curves"][task][name] = learning_curve(task, name)
                    print(task, name, known["curves"][task][name]["eval"], flush=True)
                    save(known)
    draw(known)
    print(tables(known))


if __name__ == "__main__":
    main()
