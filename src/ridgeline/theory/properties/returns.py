"""Returns and advantages (property 7)."""

import jax
import numpy as np

from ridgeline.returns import gae
from ridgeline.theory.property import Measured, proves

_T = 24


@proves(7, "GAE is its double sum; only a termination stops the bootstrap", ("ppo", "vpg", "trpo"), "slow loop")
def gae_is_its_double_sum(full: bool) -> list[Measured]:
    """Âₜ = Σₖ (γλ)ᵏ δₜ₊ₖ over random patterns of terminations and truncations.

    λ = 0 is the TD error, λ = 1 the Monte Carlo return minus V. A truncation bootstraps from V(s′), and cuts.
    """
    count = 10_000 if full else 1_000
    random = np.random.default_rng(7)
    reward, value, next_value = random.normal(size=(3, count, _T))
    often = random.uniform(0, 0.5, (2, count, 1))
    terminated, truncated = random.uniform(size=(2, count, _T)) < often
    ended = terminated | truncated
    # Inside an episode V(s′) is the next row's V(s), so that TD errors telescope; at its end it is its own.
    last = ended | (np.arange(_T) == _T - 1)
    next_value = np.where(last, next_value, np.roll(value, -1, axis=1))
    gamma, lambda_ = random.uniform(size=(2, count))
    shipped = jax.jit(jax.vmap(gae))

    def advantages(lambda_: np.ndarray) -> np.ndarray:
        return np.asarray(shipped(reward, value, next_value, terminated, ended, gamma, lambda_), float)

    def difference(actual: np.ndarray, expected: np.ndarray) -> float:
        return float(np.max(np.abs(actual - expected)))

    delta = reward + gamma[:, None] * np.where(terminated, 0, next_value) - value
    slow = double_sum(delta, ended, gamma * lambda_)
    bootstrap = np.where(last & ~terminated, gamma[:, None] * next_value, 0)
    monte_carlo = double_sum(reward + bootstrap, ended, gamma) - value
    with jax.enable_x64(False):
        narrow = advantages(lambda_)
    return [
        Measured("double sum", difference(advantages(lambda_), slow), 1e-12),
        Measured("λ = 0, TD error", difference(advantages(np.zeros(count)), delta), 1e-12),
        Measured("λ = 1, return − V", difference(advantages(np.ones(count)), monte_carlo), 1e-12),
        Measured("double sum, relative, in float32", difference(narrow, slow) / float(np.max(np.abs(slow))), 1e-6),
    ]


def double_sum(x: np.ndarray, ended: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Σₖ factorᵏ xₜ₊ₖ up to the end of the episode of row t, each sum on its own: O(T²), rows [B, T]."""
    result = np.zeros(x.shape)
    for t in range(x.shape[1]):
        going = np.ones(len(x), bool)
        for k in range(x.shape[1] - t):
            result[:, t] += np.where(going, factor**k * x[:, t + k], 0)
            going = going & ~ended[:, t + k]
    return result
