"""Where Q-learning diverges: DQN's own steps on (w, 2w) and on Baird's example, against what linear algebra says.

uv run python benchmarks/counterexamples.py  # seconds; draws docs/figures, prints what docs/algorithms/dqn.md says
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ridgeline.report.figure import Series, line_chart
from ridgeline.theory.counterexamples import Problem, baird, baird_matrix, expected_steps, two_states
from ridgeline.training.loop import DIVERGED

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
EPSILON, ABOVE, BELOW = 0.1, 0.99, 0.8  # γ on either side of 5/(6 − 4ε) = 0.893
REGRESSIONS, PERIOD, RATE = 60, 50, 0.3  # within a period the error of the regression shrinks by 0.25⁵⁰
STEPS, EVERY, ALPHA, GAMMA = 10_000, 100, 0.01, 0.99
SHOWN = [0, 6, 7, 8, 14]  # w₁, w₇, w₈, w₉, w₁₅: w₁ to w₆ stay equal, and so do w₉ to w₁₄


def largest_value(problem: Problem, path: np.ndarray) -> np.ndarray:
    """max |Q| [K] at weights [K, k]."""
    return np.max(np.abs(np.einsum("sai,ki->ksa", np.asarray(problem.features), path)), (1, 2))


def named(values: np.ndarray, gamma: float) -> int | None:
    """The first index at which the monitor speaks; every reward is 0."""
    over = np.flatnonzero(values * (1 - gamma) > DIVERGED)
    return int(over[0]) if len(over) else None


def line(name: str, x: np.ndarray, y: np.ndarray, parts: np.ndarray | None = None, dashed: bool = False) -> Series:
    """Positive numbers as their log₁₀, with those of their `parts` [S, K] as thin lines."""
    y = np.log10(y)
    return Series(name, x, y, y, y, y[None] if parts is None else np.log10(parts), dashed)


def two_state_figure() -> str:
    """w after each regression, above and below the threshold."""
    x = np.arange(REGRESSIONS + 1)
    series: list[Series] = []
    threshold = 5 / (6 - 4 * EPSILON)
    print(f"(w, 2w), ε = {EPSILON}: threshold {threshold:.4f}")
    for gamma in (ABOVE, BELOW):
        problem = two_states(jnp.asarray(gamma), jnp.asarray(EPSILON))
        path = np.asarray(expected_steps(problem, jnp.ones(1), RATE, REGRESSIONS * PERIOD, PERIOD))
        path = np.concatenate([np.ones((1, 1)), path[PERIOD - 1 :: PERIOD]])
        factor, found = gamma * (6 - 4 * EPSILON) / 5, (path[-1, 0]) ** (1 / REGRESSIONS)
        at = named(largest_value(problem, path), gamma)
        print(
            f"  γ = {gamma}: factor {found:.10f}, predicted {factor:.10f}; w ends at {path[-1, 0]:.4g}; named {at}"
        )
        series.append(line(f"γ = {gamma}", x, path[:, 0]))
        series.append(line(f"predicted {factor:.4g}ᵏ", x, factor**x, dashed=True))
    level = DIVERGED / (1 - ABOVE) / 2  # |Q| is 2w
    return line_chart(
        f"w of (w, 2w), ε = {EPSILON}",
        f"w grows with γ = {ABOVE} and shrinks with γ = {BELOW}, each by the predicted factor.",
        "regressions k",
        "log₁₀ w",
        series,
        bar=(np.log10(level), f"the monitor speaks above, if γ = {ABOVE}"),
    )


def baird_figure() -> str:
    """The norm of Baird's weights, against the one growing mode of the expected update."""
    problem, start = baird(GAMMA), np.ones(15)
    start[6] = 10
    path = np.asarray(jax.jit(lambda w: expected_steps(problem, w, ALPHA, STEPS))(jnp.asarray(start)))
    path = np.concatenate([start[None], path])
    roots, modes = np.linalg.eig(np.eye(15) - ALPHA * baird_matrix(problem))
    top = int(np.argmax(np.abs(roots)))
    share = np.linalg.solve(modes, start.astype(complex))[top] * modes[:, top]
    rho, steps = float(np.abs(roots[top])), np.arange(STEPS + 1)
    predicted, norm = np.linalg.norm(share) * rho**steps, np.linalg.norm(path, axis=1)
    at = named(largest_value(problem, path), GAMMA)
    assert at is not None
    half = STEPS // 2
    growth = (norm[-1] / norm[half]) ** (1 / (STEPS - half))
    print(f"Baird, α = {ALPHA}: ρ = {rho:.8f}, growth over the last half {growth:.8f}; named at step {at}")
    print(f"  ‖w‖ at {half}: {norm[half]:.5g}, {predicted[half]:.5g} predicted")
    print(f"  ‖w‖ at {STEPS}: {norm[-1]:.7g}, {predicted[-1]:.7g} predicted")
    shown = steps[::EVERY]
    return line_chart(
        "Baird's example",
        f"The norm of the weights over {STEPS} steps joins the predicted mode.",
        "gradient steps",
        "log₁₀ ‖w‖",
        [
            line("‖w‖", shown, norm[shown], np.abs(path[np.ix_(shown, SHOWN)].T)),
            line("the growing mode", shown, predicted[shown], dashed=True),
        ],
        bar=(np.log10(norm[at]), ""),  # a label would hide the curves
    )


if __name__ == "__main__":
    with jax.enable_x64(True):
        for name, draw in {"two-states": two_state_figure, "baird": baird_figure}.items():
            (FIGURES / f"dqn-{name}.svg").write_text(draw())
