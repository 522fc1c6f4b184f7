"""Ways to find argmaxₐ f(a) of ONE function of an action a ∈ [−1, 1]ᵈ, by evaluating it.

1. sampling: the best of K uniform actions                                     `Sampling`
2. CEM: a Gaussian is refitted to the best of its own samples                  `CEM`, `refit`
3. CMA-ES: mean, step size and full covariance follow ranked samples           `CMAES`, `ask`, `tell`

Only the order of the values is used, so a strictly monotone transform of f changes nothing. A NaN ranks last,
below −∞. Write f for one action; `vmap` a maximiser over states.
"""

import dataclasses
import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ridgeline.errors import UsageError
from ridgeline.types import real, size

type Objective = Callable[[Float[Array, "d"]], Float[Array, ""]]


class Best(NamedTuple):
    """The best action that was evaluated, and its value (NaN where every value was)."""

    action: Float[Array, "d"]
    value: Float[Array, ""]


class Maximiser(eqx.Module):
    """A frozen record of hyper-parameters that finds argmaxₐ f(a) in the box [−1, 1]ᵈ."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """How often f is evaluated for one action."""

    def check(self) -> None:
        """Raise `UsageError` where a size is out of its range, or sizes do not fit each other."""
        for field in dataclasses.fields(self):
            low, _ = field.metadata["range"]
            value = getattr(self, field.name)
            if field.metadata.get("static") and value < low:
                raise UsageError(f"{type(self).__name__}: {field.name} is {value}: it must be at least {low}")

    @abstractmethod
    def __call__(self, key: PRNGKeyArray, f: Objective, size: int) -> Best:
        """The best action of `size` entries that was found."""


def ranking(values: Float[Array, "n"], count: int) -> Int[Array, "count"]:
    """Indices of the `count` largest values, the largest first; the first of equals before the others."""
    # Measured on a CPU under vmap: a third of argsort's time. But top_k calls NaN the largest.
    floor = float(np.finfo(values.dtype).min)
    return jax.lax.top_k(jnp.where(jnp.isnan(values), -jnp.inf, jnp.maximum(values, floor)), count)[1]


def best_of(actions: Float[Array, "n d"], values: Float[Array, "n"]) -> Best:
    """The action with the largest value."""
    first = ranking(values, 1)[0]
    return Best(actions[first], values[first])


def better_of(a: Best, b: Best) -> Best:
    """The one with the larger value; `a` where they are equal."""
    return best_of(jnp.stack([a.action, b.action]), jnp.stack([a.value, b.value]))


def clip(action: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """The nearest action in the box."""
    return jnp.clip(action, -1, 1)


class Sampling(Maximiser):
    """argmax over K uniform actions: random shooting."""

    count: int = size(60)  # K: actions drawn

    @property
    def evaluations(self) -> int:
        """K."""
        return self.count

    def __call__(self, key: PRNGKeyArray, f: Objective, size: int) -> Best:
        """The best of K uniform actions."""
        self.check()
        actions = jax.random.uniform(key, (self.count, size), minval=-1, maxval=1)
        return best_of(actions, jax.vmap(f)(actions))


def refit(elites: Float[Array, "n d"], min_std: Float[Array, ""] | float) -> tuple[Array, Array]:
    """μ = (1/n) Σ aᵢ, σ = √((1/n) Σ (aᵢ − μ)²) entry by entry, at least `min_std`: maximum likelihood."""
    return jnp.mean(elites, 0), jnp.maximum(jnp.std(elites, 0), min_std)


class CEM(Maximiser):
    """Cross-entropy method: μ, σ ← fit of the n best of K samples of N(μ, σ²) (de Boer et al. 2005, section 5).

    Samples are clipped into the box before they are evaluated and fitted. Returned is the best of all that was
    evaluated, the last mean included: on a smooth f the mean of the elites is closer to the maximum than any of
    them, and the best seen is what remains where the elites sit on two peaks and their mean between.
    """

    population: int = size(20, 2)  # K: samples in an iteration
    elites: int = size(5)  # n: how many of them are fitted
    iterations: int = size(3)  # refits
    initial_std: Float[Array, ""] | float = real(0.7, 1e-6)  # σ of the first iteration, about a mean of 0
    min_std: Float[Array, ""] | float = real(0.01, 0)  # floor of σ: keeps the search alive

    @property
    def evaluations(self) -> int:
        """Every sample, and the last mean."""
        return self.population * self.iterations + 1

    def check(self) -> None:
        """Sizes in their ranges, and no more elites than samples."""
        super().check()
        if self.elites > self.population:
            raise UsageError(f"cem: {self.elites} elites of {self.population} samples: lower elites")

    def __call__(self, key: PRNGKeyArray, f: Objective, size: int) -> Best:
        """The best of all samples and the last mean."""
        self.check()

        def iterate(carry: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Best]:
            mean, std = carry
            actions = clip(mean[None] + std[None] * jax.random.normal(key, (self.population, size), mean.dtype))
            values = jax.vmap(f)(actions)
            order = ranking(values, self.elites)
            return refit(actions[order], self.min_std), Best(actions[order[0]], values[order[0]])

        mean = jnp.zeros(size)
        start = (mean, jnp.full_like(mean, self.initial_std))
        (mean, _), seen = jax.lax.scan(iterate, start, jax.random.split(key, self.iterations))
        return better_of(Best(mean, f(mean)), best_of(seen.action, seen.value))


@dataclasses.dataclass(frozen=True)
class CMAConstants:
    """What the dimension and the population decide (Hansen 2016, table 1, as pycma 4.5 has them)."""

    weights: tuple[float, ...]  # wᵢ by rank: the positive ones sum to 1, the negative ones are active CMA's
    mu: int  # how many are positive
    mu_eff: float  # variance-effective selection mass: (Σ wᵢ)² / Σ wᵢ² over the positive ones
    c_sigma: float  # decay of the step-size path
    d_sigma: float  # damping of the step size
    c_c: float  # decay of the covariance path
    c_1: float  # learning rate of the rank-one update
    c_mu: float  # learning rate of the rank-μ update
    chi: float  # E‖N(0, I)‖
    gap: int  # generations between eigendecompositions


@functools.lru_cache
def cma_constants(dimension: int, population: int) -> CMAConstants:
    """Hansen (2016), eq. 49–58; c_σ, d_σ, the factor min(1, λ/6) of c₁ and the gap are pycma's.

    Negative weights are scaled so that C neither decays (α_μ⁻), nor follows too few samples (α_μeff⁻), nor loses
    its positive definiteness (α_posdef⁻): the least of the three (eq. 50–53).
    """
    n, raw = dimension, [math.log((population + 1) / 2) - math.log(i + 1) for i in range(population)]
    positive, negative = [w for w in raw if w > 0], [w for w in raw if w <= 0]
    mu_eff = sum(positive) ** 2 / sum(w**2 for w in positive)
    mu_eff_minus = sum(negative) ** 2 / sum(w**2 for w in negative)
    c_1 = min(1, population / 6) * 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff))
    scale = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    c_sigma = min(0.5, (mu_eff + 2) / (n + mu_eff + 3))
    inner = max(1, 3 * (1 - 0.5 ** (n / 9)))
    return CMAConstants(
        weights=tuple([w / sum(positive) for w in positive] + [scale * w / -sum(negative) for w in negative]),
        mu=len(positive),
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0, inner * math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
        c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
        c_1=c_1,
        c_mu=c_mu,
        chi=math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)),
        gap=max(1, math.ceil(1 / (c_1 + c_mu) / n / 10)),
    )


class CMAState(eqx.Module):
    """N(m, σ²C), the two evolution paths, and B, D of C = B D² Bᵀ as they were when last decomposed."""

    mean: Float[Array, "d"]  # m
    sigma: Float[Array, ""]  # σ: the step size
    covariance: Float[Array, "d d"]  # C
    step_path: Float[Array, "d"]  # p_σ
    covariance_path: Float[Array, "d"]  # p_c
    axes: Float[Array, "d d"]  # B: eigenvectors, in columns
    lengths: Float[Array, "d"]  # D: roots of the eigenvalues
    generation: Int[Array, ""]

    @classmethod
    def create(cls, mean: Float[Array, "d"], sigma: Float[Array, ""]) -> "CMAState":
        """C = I and paths of 0."""
        zero, eye = jnp.zeros_like(mean), jnp.eye(mean.size, dtype=mean.dtype)
        return cls(mean, sigma, eye, zero, zero, eye, jnp.ones_like(mean), jnp.zeros((), jnp.int32))


def decompose(state: CMAState) -> CMAState:
    """C = B D² Bᵀ."""
    values, axes = jnp.linalg.eigh((state.covariance + state.covariance.T) / 2)
    # Rounding may leave an eigenvalue below 0 where the others are 1/ε times larger.
    lengths = jnp.sqrt(jnp.maximum(values, float(np.finfo(values.dtype).eps) * values[-1]))
    return dataclasses.replace(state, axes=axes, lengths=lengths)


def ask(key: PRNGKeyArray, state: CMAState, constants: CMAConstants) -> tuple[CMAState, Float[Array, "λ d"]]:
    """xₖ = m + σ B D zₖ, zₖ ~ N(0, I) (Hansen 2016, eq. 38–40); C is decomposed first where that is due."""
    # `generation` is the same in every lane of a vmap, so this stays a branch there.
    due = (state.generation > 0) & (state.generation % constants.gap == 0)
    state = jax.lax.cond(due, decompose, lambda s: s, state)
    z = jax.random.normal(key, (len(constants.weights), state.mean.size), state.mean.dtype)
    return state, state.mean[None] + state.sigma * (z * state.lengths[None]) @ state.axes.T


def tell(
    state: CMAState, points: Float[Array, "λ d"], values: Float[Array, "λ"], constants: CMAConstants
) -> CMAState:
    """The state after one generation, from its points and their values: larger is better.

    With y = (x_{i:λ} − m)/σ and y_w = Σ_{i≤μ} wᵢ yᵢ (Hansen 2016, eq. 41–47; figure 6):

    m ← m + σ y_w; p_σ ← (1 − c_σ) p_σ + √(c_σ(2 − c_σ)μ_eff) C^{−½} y_w; σ ← σ exp(c_σ/d_σ (‖p_σ‖/χ − 1));
    p_c ← (1 − c_c) p_c + h_σ √(c_c(2 − c_c)μ_eff) y_w;
    C ← (1 − c₁ᵃ − c_μ Σ wⱼ) C + c₁ p_c p_cᵀ + c_μ Σ wᵢ° yᵢ yᵢᵀ, c₁ᵃ = c₁ (1 − (1 − h_σ) c_c (2 − c_c)).

    h_σ stalls p_c while p_σ is long, by pycma's bound; wᵢ° = wᵢ d/‖C^{−½}yᵢ‖² where wᵢ < 0. The change of ln σ
    is at most 1.
    """
    c, n = constants, state.mean.size
    weights = jnp.asarray(c.weights, state.mean.dtype)
    y = (points[ranking(values, len(c.weights))] - state.mean[None]) / state.sigma
    shift = weights[: c.mu] @ y[: c.mu]
    white = (y @ state.axes) / state.lengths[None]  # rows Bᵀ-rotated: as long as C^{−½} y
    white_shift = state.axes @ (weights[: c.mu] @ white[: c.mu])
    generation = state.generation + 1

    step_path = (1 - c.c_sigma) * state.step_path
    step_path = step_path + math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * white_shift
    squared = jnp.sum(step_path**2)
    warm = 1 - (1 - c.c_sigma) ** (2 * generation.astype(squared.dtype))  # p_σ begins at 0
    h = (squared / warm / n < 2 + 4 / (n + 1)).astype(squared.dtype)
    covariance_path = (1 - c.c_c) * state.covariance_path
    covariance_path = covariance_path + h * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * shift

    c_1a = c.c_1 * (1 - (1 - h) * c.c_c * (2 - c.c_c))
    # 1e-9 as pycma has it: a sample at the mean divides by no 0.
    bounded = jnp.where(weights < 0, weights * n / (jnp.sqrt(jnp.sum(white**2, 1)) + 1e-9) ** 2, weights)
    covariance = (1 - c_1a - c.c_mu * sum(c.weights)) * state.covariance
    covariance = covariance + c.c_1 * jnp.outer(covariance_path, covariance_path)
    covariance = covariance + c.c_mu * (bounded[None] * y.T) @ y
    change = c.c_sigma / c.d_sigma * (jnp.sqrt(squared) / c.chi - 1)
    return CMAState(
        mean=state.mean + state.sigma * shift,
        sigma=state.sigma * jnp.exp(jnp.clip(change, -1, 1)),
        covariance=covariance,
        step_path=step_path,
        covariance_path=covariance_path,
        axes=state.axes,
        lengths=state.lengths,
        generation=generation,
    )


class CMAES(Maximiser):
    """CMA-ES: covariance matrix adaptation (Hansen 2016, arXiv:1604.00772), for few dimensions.

    A point outside the box is judged by the nearest one inside, and learnt from as it was drawn. Returned is the
    best of all that was evaluated, the last mean included, as in `CEM`.
    """

    population: int = size(10, 4)  # λ: samples in a generation
    iterations: int = size(6)  # generations
    initial_std: Float[Array, ""] | float = real(0.5, 1e-6)  # σ of the first generation, about a mean of 0

    @property
    def evaluations(self) -> int:
        """Every sample, and the last mean."""
        return self.population * self.iterations + 1

    def __call__(self, key: PRNGKeyArray, f: Objective, size: int) -> Best:
        """The best of all samples and the last mean."""
        self.check()
        constants = cma_constants(size, self.population)

        def iterate(state: CMAState, key: PRNGKeyArray) -> tuple[CMAState, Best]:
            state, points = ask(key, state, constants)
            actions = clip(points)
            values = jax.vmap(f)(actions)
            return tell(state, points, values, constants), best_of(actions, values)

        mean = jnp.zeros(size)
        start = CMAState.create(mean, jnp.asarray(self.initial_std, mean.dtype))
        state, seen = jax.lax.scan(iterate, start, jax.random.split(key, self.iterations))
        mean = clip(state.mean)
        return better_of(Best(mean, f(mean)), best_of(seen.action, seen.value))


MAXIMISERS: dict[str, type[Maximiser]] = {"sampling": Sampling, "cem": CEM, "cma_es": CMAES}
