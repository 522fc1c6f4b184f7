"""Whether an environment keeps its promises: built, reset and stepped with random actions under the guard.

What makes it unusable is an error, and the last row; what only makes it awkward is a note with what to do.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ridgeline.environments import Found, make
from ridgeline.environments.host import notes_of
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.errors import RidgelineError, UsageError
from ridgeline.experiments.presets import PRESETS
from ridgeline.training.runner import check_environment
from ridgeline.types import (
    ActionSpec,
    Continuous,
    Discrete,
    EnvSpec,
    HostEnvironment,
    HostFactory,
    Obs,
    observation_parts,
)

LONGEST = 1_000  # steps after which an episode is left
REPEATED = 200  # steps of the episodes that are played twice
SLOW = 3_000  # steps a second, below which an algorithm with a memory is worth its updates
STYLES = {"ok": "green", "note": "yellow", "FAIL": "red"}


class Row(NamedTuple):
    """One thing that was checked: ok, note or FAIL, what was found, and what to do."""

    name: str
    verdict: str
    found: str
    advice: str = ""


class Played(NamedTuple):
    """An episode: its observations (one more than steps), rewards, and both flags of each step."""

    observations: list[Obs]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    actions: np.ndarray

    @property
    def ended(self) -> bool:
        """Whether it came to its end before it was left."""
        return bool(self.terminated[-1] or self.truncated[-1])


def check(name: str, backend: str | None, episodes: int, env_timeout: float) -> None:
    """Check an environment, print a table, and what to train on it.

    Raises: what makes it unusable, after its row: `UsageError`, `ContractError` or `EnvironmentCrash`.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}: it must be at least 1")
    rows: list[Row] = []
    failure: RidgelineError | None = None
    command, stage = "", "construction"
    try:
        begun = time.perf_counter()
        env = make(name, backend, env_timeout=env_timeout)
        rows.append(
            Row("construction", "ok", f"{env.spec.id}, {_backend(env)}, {time.perf_counter() - begun:.2f} s")
        )
        if not isinstance(env, HostFactory):
            stage = "traces in JAX"
            check_environment(env)
            rows.append(Row("traces in JAX", "ok", "shapes and dtypes as its spec says"))
        factory = env if isinstance(env, HostFactory) else SteppedFactory(env)
        rows.extend(_spaces(env.spec))
        stage = "contract"
        for row in _examine(factory, episodes):
            rows.append(row)
            if row.name == "speed":
                command = suggest(name, env, backend, float(row.found.split()[0].replace(",", "")))
    except RidgelineError as error:
        failure = error
        problem, _, advice = str(error).rpartition("; ") if "; " in str(error) else str(error).rpartition(": ")
        rows.append(Row(stage, "FAIL", problem, advice))
    _print(rows)
    if failure is not None:
        raise failure
    Console().print(Text.assemble("\nto train on it: ", (command, "bold")), soft_wrap=True)


def suggest(name: str, env: Found, backend: str | None, steps_per_second: float) -> str:
    """A command that trains on it: with a preset if there is one, else by the kind of actions and the speed."""
    tuned = [algorithm for algorithm, known in PRESETS if known == env.spec.id]
    slow = isinstance(env, HostFactory) and steps_per_second < SLOW
    general = {Continuous: "sac", Discrete: "dqn"}.get(type(env.spec.action), "ppo") if slow else "ppo"
    chosen = tuned[0] if tuned else general
    return f"ridgeline train {chosen} {name}" + (f" --backend {backend}" if backend else "")


def _spaces(spec: EnvSpec) -> Iterator[Row]:
    parts = [
        f"{key + ': ' if key else ''}{part.dtype}{list(part.shape)}" + (" categories" if part.categories else "")
        for key, part in observation_parts(spec.observation)
    ]
    yield Row("observations", "ok", ", ".join(parts))
    action = spec.action
    if isinstance(action, Continuous):
        free = action.size - sum(action.bounded)
        advice = "bound it (gymnasium.wrappers.RescaleAction) if there is a bound" if free else ""
        unbounded = f", {free} of them unbounded" if free else ""
        yield Row("actions", "note" if free else "ok", f"{action.size} continuous{unbounded}", advice)
    elif isinstance(action, Discrete):
        yield Row("actions", "ok", f"{action.count} to choose from")
    else:
        yield Row("actions", "ok", f"{len(action.counts)} choices at once, of {list(action.counts)}")


def _examine(factory: HostFactory, episodes: int) -> Iterator[Row]:
    """Rows about what it does; the first broken promise is raised."""
    spec, rng = factory.spec, np.random.default_rng(0)
    host = factory.build(1)
    try:
        _play(host, 0, rng, 1)  # what compiles or loads at the first call is not its speed
        begun = time.perf_counter()
        played = [_play(host, seed, rng, LONGEST) for seed in range(episodes)]
        seconds = time.perf_counter() - begun
        steps = sum(len(episode.rewards) for episode in played)
        yield Row("contract", "ok", f"{steps:,} steps of {episodes} episodes, every value checked")
        for extreme in _extremes(spec.action):
            _play(host, episodes, rng, REPEATED, extreme)
        for line in notes_of(factory).take().values():
            problem, _, done = line.rpartition(": ")
            yield Row("made to fit", "note", problem, done)
        yield _limit(spec, factory.backend, played)
        yield _determinism(factory)
        yield _replay(factory, host)
    finally:
        host.close()
    yield _reward_scale(played)
    yield from _observation_scale(spec, played)
    if isinstance(spec.action, Continuous) and any(spec.action.bounded):
        actions = np.concatenate([episode.actions for episode in played])[:, list(spec.action.bounded)]
        share = float((np.abs(actions) >= 1).mean())
        yield Row(
            "actions at bounds", "ok", f"{share:.0%} of an untrained Gaussian policy's are clipped to a bound"
        )
    returns = np.array([episode.rewards.sum() for episode in played])
    low, high = np.quantile(rng.choice(returns, (2_000, episodes)).mean(1), (0.025, 0.975))
    found = f"mean {returns.mean():.4g} [{low:.4g}, {high:.4g}] over {episodes} episodes"
    left = sum(not episode.ended for episode in played)
    yield Row(
        "random return", "note" if left else "ok", found, f"{left} were left after {LONGEST:,} steps" * bool(left)
    )
    speed = steps / max(seconds, 1e-9)
    slower = " (compiled with the algorithm it is far faster)" if factory.backend == "stepped" else ""
    yield Row("speed", "ok", f"{speed:,.0f} steps/s, one environment, {factory.backend}{slower}")


def _play(
    host: HostEnvironment, seed: int, rng: np.random.Generator, most: int, action: np.ndarray | None = None
) -> Played:
    """One episode with random actions, or always the same one."""
    every = np.ones(1, bool)
    observations = [jax.tree.map(np.copy, host.reset(np.array([seed]), every))]
    rewards: list[float] = []
    terminated: list[bool] = []
    truncated: list[bool] = []
    actions: list[np.ndarray] = []
    while len(rewards) < most:
        chosen = _random(host.spec.action, observations[-1], rng) if action is None else action
        step = host.step(chosen)
        observations.append(jax.tree.map(np.copy, step.next_obs))
        rewards.append(float(step.reward[0]))
        terminated.append(bool(step.terminated[0]))
        truncated.append(bool(step.truncated[0]))
        actions.append(chosen[0])
        if terminated[-1] or truncated[-1]:
            break
    return Played(observations, np.array(rewards), np.array(terminated), np.array(truncated), np.array(actions))


def _random(spec: ActionSpec, obs: Obs, rng: np.random.Generator) -> np.ndarray:
    """One random action [1, ...]: normal as an untrained policy's, or any that the mask allows."""
    if isinstance(spec, Continuous):
        return rng.standard_normal((1, spec.size)).astype(np.float32)
    counts = (spec.count,) if isinstance(spec, Discrete) else spec.counts
    mask = obs["action_mask"][0] if isinstance(obs, dict) and "action_mask" in obs else np.ones(sum(counts), bool)
    begins = np.cumsum((0, *counts[:-1]))
    chosen = [rng.choice(np.flatnonzero(mask[b : b + n])) for b, n in zip(begins, counts, strict=True)]
    return np.array(chosen if isinstance(spec, Discrete) else [chosen], np.int32)


def _extremes(spec: ActionSpec) -> list[np.ndarray]:
    """Every entry at its lowest, and at its highest; none where a mask might forbid it."""
    if isinstance(spec, Continuous):
        return [np.full((1, spec.size), sign, np.float32) for sign in (-1, 1)]
    return []


def _limit(spec: EnvSpec, backend: str, played: list[Played]) -> Row:
    ended = sum(episode.ended for episode in played)
    longest = max(len(episode.rewards) for episode in played)
    cut = sum(bool(episode.truncated[-1]) for episode in played)
    ends = f"{ended} of {len(played)} episodes ended, {cut} of them cut, the longest after {longest:,} steps"
    if spec.max_episode_steps is not None:
        return Row("time limit", "ok", f"{spec.max_episode_steps:,} steps, counted by ridgeline; {ends}")
    if cut:
        return Row("time limit", "ok", f"the environment's own; {ends}")
    if ended == len(played):
        return Row("time limit", "ok", f"none; {ends}")
    advice = "wrap it in gymnasium.wrappers.TimeLimit" if backend.startswith("gym") else "set max_episode_steps"
    return Row("time limit", "note", f"none; {ends}", advice)


def _determinism(factory: HostFactory) -> Row:
    """The same seed and actions in fresh instances."""
    twice = []
    for _ in range(2):
        host = factory.build(1)
        try:
            twice.append(_play(host, 7, np.random.default_rng(7), REPEATED))
        finally:
            host.close()
    difference = _difference(*twice)
    if difference is None:
        return Row("determinism", "ok", f"seed 7 in two instances: {len(twice[0].rewards)} steps, bit for bit")
    return Row(
        "determinism",
        "note",
        f"seed 7 in two instances: {difference}",
        "draw only from self.np_random, or runs cannot be repeated",
    )


def _replay(factory: HostFactory, host: HostEnvironment) -> Row:
    """An episode again, in an instance that has played others meanwhile."""
    if not factory.reseeds:
        return Row("replay", "note", f"{factory.backend} cannot seed an episode again", "a resumed run differs")
    first = _play(host, 7, np.random.default_rng(7), REPEATED)
    _play(host, 8, np.random.default_rng(8), REPEATED)
    difference = _difference(first, _play(host, 7, np.random.default_rng(7), REPEATED))
    if difference is None:
        return Row("replay", "ok", "an episode is the same from its seed, whatever was played before")
    return Row(
        "replay",
        "note",
        f"an episode replayed from its seed: {difference}",
        "let reset set all there is, or a resumed run differs",
    )


def _difference(one: Played, other: Played) -> str | None:
    """Where two episodes part, or None."""
    for t, pair in enumerate(zip(one.observations, other.observations, strict=False)):
        same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        if not same:
            return f"the observation {f'of step {t}' if t else 'of reset'} differs"
        if t < min(len(one.rewards), len(other.rewards)):
            for field in ("rewards", "terminated", "truncated"):
                if getattr(one, field)[t] != getattr(other, field)[t]:
                    return f"{field.rstrip('s')} of step {t + 1} differs"
    return None if len(one.rewards) == len(other.rewards) else "their lengths differ"


def _reward_scale(played: list[Played]) -> Row:
    rewards = np.concatenate([episode.rewards for episode in played])
    found = f"{rewards.mean():.3g} ± {rewards.std():.3g} a step, from {rewards.min():.3g} to {rewards.max():.3g}"
    if rewards.std() == 0 and len({len(episode.rewards) for episode in played}) == 1:
        return Row(
            "rewards", "note", found, "every episode earns the same: random actions find nothing to learn from"
        )
    largest = float(np.abs(rewards).max())
    if largest > 100 or 0 < largest < 0.01:
        return Row("rewards", "note", found, "scale them to about 1, or --normalise-rewards (ppo, trpo)")
    return Row("rewards", "ok", found)


def _observation_scale(spec: EnvSpec, played: list[Played]) -> Iterator[Row]:
    for key, part in observation_parts(spec.observation):
        if not part.dtype.startswith("float"):
            continue
        chosen = [obs[key] if isinstance(obs, dict) else obs for episode in played for obs in episode.observations]
        values = np.concatenate(chosen).reshape(len(chosen), -1)
        name = f"observation scale{' ' + repr(key) if key else ''}"
        spread = values.std(0)
        found = (
            f"from {values.min():.3g} to {values.max():.3g}, deviations {spread.min():.2g} to {spread.max():.2g}"
        )
        constant = int((spread == 0).sum())
        if constant:
            found += f", {constant} of {spread.size} never change"
        if np.abs(values).max() > 10 or spread.max() > 5:
            yield Row(name, "note", found, "--normalise-observations")
        else:
            yield Row(name, "ok", found)


def _backend(env: Found) -> str:
    return env.backend if isinstance(env, HostFactory) else "jax"


def _print(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("check", "", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(row.name, Text(row.verdict, STYLES[row.verdict]), Text(row.found), Text(row.advice))
    Console().print(table)
