"""The memory of off-policy algorithms (property 20)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ridgeline.memory import Batch, Memory
from ridgeline.theory.property import QUICK_TO_COMPILE, Measured, needs, proves
from ridgeline.theory.ring import NUMBERS, SlowMemory, Stream, filled
from ridgeline.types import Transition

_GAMMA, _WINDOWS = 0.9, (1, 3)
_OFF_POLICY = ("dqn", "ac", "sac", "ddpg", "td3", "naf", "qsearch")


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_TO_COMPILE)
def _histories(rows: int, rollouts: Transition) -> list[Batch]:
    """Rollouts [B, C, T, N] one after another: the windows [B, C, age, column] after each, for each n."""
    ages, columns = jnp.arange(rows), jnp.arange(rollouts.reward.shape[-1])

    def add(memory: Memory, x: Transition) -> tuple[Memory, list[Batch]]:
        memory = memory.add(x)
        grid = [
            jax.vmap(lambda a, n=n: jax.vmap(lambda c: memory.window(a, c, n, _GAMMA))(columns))(ages)
            for n in _WINDOWS
        ]
        return memory, grid

    start = Memory.create(NUMBERS, rows, len(columns))
    return jax.vmap(lambda x: jax.lax.scan(add, start, x)[1])(rollouts)


@functools.partial(jax.jit, static_argnums=2)
def _rows_drawn(memory: Memory, key: Array, count: int) -> Float[Array, "rows columns"]:
    """How often each cell of the ring was the start of a sampled window."""
    row, column = memory.sample(key, count, 3, _GAMMA).index.T
    return jnp.zeros((memory.rows, memory.columns)).at[row, column].add(1)


def _compare(rows: int, ends: Int[np.ndarray, "B C T N"]) -> dict[str, float]:
    """The largest difference of each field to the slow memory's; `next_action` counts where one follows."""
    worst = dict[str, float]()
    streams = [Stream() for _ in ends]
    rollouts = [[stream.rollout(x) for x in history] for stream, history in zip(streams, ends, strict=True)]
    stacked = jax.tree.map(
        lambda *x: np.stack(x).reshape(ends.shape), *[x for history in rollouts for x in history]
    )
    found = jax.tree.map(np.asarray, _histories(rows, stacked))
    for b, history in enumerate(rollouts):
        slow = SlowMemory(rows, ends.shape[-1])
        for c, x in enumerate(history):
            slow.add(x)
            for n, batch in zip(_WINDOWS, found, strict=True):
                wanted = slow.windows(n, _GAMMA)
                for name, expected in wanted.items():
                    actual = getattr(batch, name)[b, c, : len(expected)]
                    actual = np.where(wanted["continues"], actual, 0) if name == "next_action" else actual
                    error = float(np.max(np.abs(actual.astype(float) - expected)))
                    worst[name] = max(worst.get(name, 0.0), error)
    return worst


@proves(20, "samples are uniform, true windows; none crosses an episode or the head", _OFF_POLICY, "deque")
def the_memory_is_a_deque(full: bool) -> list[Measured]:
    """Capacities 1 to 7, rollouts that wrap, random ends: every window of 1 and 3 steps is the one walked to."""
    random, worst = np.random.default_rng(20), dict[str, float]()
    for rows in range(1, 8):
        # As long as the ring, or of a length that does not divide it; enough of them to wrap twice.
        length = next((t for t in (5, 4, 3, 2) if t < rows and rows % t), rows)
        shape = (100 if full else 8, 2 + 2 * rows // length, length, 1 + rows % 3)
        for name, error in _compare(rows, random.choice([0, 0, 0, 0, 1, 2, 3], shape)).items():
            worst[name] = max(worst.get(name, 0.0), error)
    stats, chances, draws = needs("scipy.stats"), [], 30_000
    for written in (1, 3):  # partly filled, and wrapped
        memory, slow = filled(6, 3, [random.choice([0, 0, 1, 2], (4, 3)) for _ in range(written)])
        drawn, held = np.asarray(_rows_drawn(memory, jax.random.key(written), draws)), len(slow.columns[0])
        chances.append(stats.chisquare(drawn[:held].ravel(), np.full(held * 3, draws / held / 3)).pvalue)
        worst["rows never written"] = max(worst.get("rows never written", 0.0), float(np.sum(drawn[held:])))
    exact = ("reward", "discount")
    return [
        *(Measured(name, error, 1e-6 if name in exact else 0.0) for name, error in worst.items()),
        Measured("improbability of uniform starts", float(-np.log10(min(chances))), 4.0),
    ]
