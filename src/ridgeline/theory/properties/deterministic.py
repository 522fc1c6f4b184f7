"""The deterministic policy gradient, and a Q whose maximum is known, on linear–quadratic control (12 and 13)."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ridgeline.algorithms.ddpg import policy_objective
from ridgeline.algorithms.naf import NormalisedAdvantage, cholesky_root
from ridgeline.critics import Regression, fit, td_target
from ridgeline.encoders import Architecture
from ridgeline.linear import Linear
from ridgeline.memory import Batch
from ridgeline.theory.lqr import LQR, Gain
from ridgeline.theory.property import QUICK_TO_COMPILE, Measured, proves
from ridgeline.types import ArraySpec, Continuous, EnvSpec

_STEPS = 400  # of a trajectory: γ^400 is 1e-18


class _LinearActor(eqx.Module):
    """u = −K x."""

    gain: Float[Array, "m n"]

    def __call__(self, obs: Float[Array, "n"]) -> Float[Array, "m"]:
        return -self.gain @ obs


class _QuadraticCritic(eqx.Module):
    """Q(x, u) = −zᵀHz, z = (x, u)."""

    matrix: Float[Array, "k k"]

    def __call__(self, obs: Float[Array, "n"], action: Float[Array, "m"]) -> Float[Array, ""]:
        z = jnp.concatenate([obs, action])
        return -z @ self.matrix @ z


def _visited(problem: LQR, K: Gain) -> tuple[Float[np.ndarray, "B n"], Float[np.ndarray, "B"]]:
    """States and weights γᵗ from starts whose second moment is X₀: the columns of its root, without noise."""
    states = [np.linalg.cholesky(problem.start).T]
    for _ in range(_STEPS - 1):
        states.append(states[-1] @ problem.closed_loop(K).T)
    weights = np.repeat(problem.gamma ** np.arange(_STEPS), len(states[0]))
    return np.concatenate(states), weights


def _stable_gain(problem: LQR, random: np.random.Generator) -> Gain:
    """A gain of noise, halved until the closed loop contracts; at 0 it does."""
    K = 0.2 * random.normal(size=(2, 3))
    while np.max(np.abs(np.linalg.eigvals(problem.closed_loop(K)))) > 0.98:
        K = K / 2
    return K


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


@proves(
    12,
    "E[∇μ ∇ₐQ] = ∇J on LQR; 0 at Riccati's gain; the critic's fixed point",
    ("ddpg", "td3"),
    "Lyapunov, Riccati",
)
def deterministic_gradient_is_exact(full: bool) -> list[Measured]:
    """On x′ = Ax + Bu the sum over a trajectory of γᵗ ∇_K Q(x, −Kx) is ∇J(K), solved from Lyapunov equations.

    The critic is fitted by the shipped regression on targets r + γ Q(x′, −Kx′) in turn: there it stays, and
    thither it goes.
    """
    random = np.random.default_rng(12)

    @jax.jit
    def gradient(gain: Array, matrix: Array, states: Array, weights: Array) -> Array:
        def objective(actor: _LinearActor) -> Float[Array, ""]:
            each = jax.vmap(policy_objective, (None, None, 0))(actor, _QuadraticCritic(matrix), states)
            return jnp.sum(weights * each)

        return jax.grad(objective)(_LinearActor(gain)).gain

    error = optimum = difference = 0.0
    scale = 1.0
    problems = [LQR.random(random) for _ in range(200 if full else 20)]
    for problem in problems:
        for K, best in ((_stable_gain(problem, random), False), (problem.optimal_gain(), True)):
            found = np.asarray(gradient(K, problem.action_value(K)[0], *_visited(problem, K)))
            if best:
                optimum = max(optimum, float(np.max(np.abs(found))) / scale)
                continue
            expected = problem.gradient(K)
            scale = float(np.max(np.abs(expected)))
            error = max(error, _relative(found, expected))
            moved = [problem.performance(K + sign * 1e-5 * expected / scale) for sign in (1, -1)]
            slope = (moved[0] - moved[1]) / 2e-5
            difference = max(difference, abs(slope / float(np.sum(expected**2) / scale) - 1))
    drift, distance = _critic_fixed_point(problems[0], random, 40 if full else 12)
    return [
        Measured("E[∇μ ∇ₐQ] against ∇J, relative", error, 1e-8),
        Measured("∇J against finite differences of J", difference, 1e-4),
        Measured("gradient at the Riccati gain, relative", optimum, 1e-8),
        Measured("TD errors of the closed-form critic", drift, 1e-10),
        Measured("critic after regressions against the closed form", distance, 1e-6),
    ]


def _critic_fixed_point(problem: LQR, random: np.random.Generator, rounds: int) -> tuple[float, float]:
    """The largest TD error of Q_K, and how far fitted Q-evaluation from 0 ends from it, relative.

    Off policy: actions are noise. A regression of a quadratic is solved by Newton's step, one gradient of the
    shipped loss at 0 and at every unit vector.
    """
    K = _stable_gain(problem, random)
    exact, _ = problem.action_value(K)
    count, size = 64, 5
    obs, action = random.normal(size=(count, 3)), random.normal(size=(count, 2))
    next_obs = obs @ problem.A.T + action @ problem.B.T
    costs = np.sum((obs @ problem.Q) * obs, 1) + np.sum((action @ problem.R) * action, 1)
    ones = np.ones(count)
    rows = (obs, action, -costs, next_obs, action, ones > 0, problem.gamma * ones, ones, np.zeros((count, 2), int))
    batch, actor = Batch(*map(jnp.asarray, rows)), _LinearActor(jnp.asarray(K))
    upper = np.triu_indices(size)

    def matrix_of(entries: Array) -> Array:
        half = jnp.zeros((size, size)).at[upper].set(entries)
        return (half + half.T) / 2

    def errors(entries: Array, static: Array) -> Float[Array, "B"]:
        """Q − y of the shipped regression, its parameters left alone by a rate of 0."""
        frozen = _QuadraticCritic(matrix_of(static))
        target = jax.vmap(lambda x: td_target(x, frozen(x.next_obs, actor(x.next_obs))))(batch)
        critics = Regression.begin((_QuadraticCritic(matrix_of(entries)),), "sgd")
        return fit(critics, batch, target, "sgd", 0.0, jnp.inf)[2]

    @jax.jit
    def solve(static: Array) -> tuple[Array, Array]:
        slopes = jax.jacobian(errors)(static, static)
        error = errors(static, static)
        return static - jnp.linalg.lstsq(slopes, error)[0], jnp.max(jnp.abs(error))

    scale = np.where(upper[0] == upper[1], 1.0, 2.0)
    drift = float(solve(jnp.asarray(exact[upper] * scale))[1])
    entries = jnp.zeros(len(upper[0]))
    for _ in range(20 * rounds):
        entries, _ = solve(entries)
    return drift, _relative(np.asarray(matrix_of(entries)), exact)


@proves(13, "NAF: argmax is μ, max is V, P ≻ 0; LQR is represented exactly", ("naf",), "closed form, grid")
def normalised_advantage_is_maximal(full: bool) -> list[Measured]:
    """Q − V is never above 0 and is 0 at μ alone; P is positive definite, also where L's outputs are extreme.

    On LQR the network whose V is −xᵀPx, whose μ is −Kx and whose PN is 2(R + γBᵀPB) is Q* to rounding.
    """
    random, size = np.random.default_rng(13), 2
    spec = EnvSpec("Plane", ArraySpec((3,)), Continuous(size, (True, False)))
    networks = 100 if full else 10
    axis = np.linspace(-1, 1, 41)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, 3 * axis), -1).reshape(-1, size))

    def one(key: Array) -> tuple[Array, ...]:
        network_key, obs_key, scale_key = jax.random.split(key, 3)
        network = NormalisedAdvantage.create(network_key, spec, Architecture((8,)))
        network = jax.tree.map(lambda w: w + 0.5 * jax.random.normal(scale_key, w.shape, w.dtype), network)
        obs = jax.random.normal(obs_key, (3,))
        mean, value = network.best_action(obs), network.best_value(obs)
        slope = jax.grad(network, argnums=1)(obs, mean)
        curvature = -jax.hessian(network, argnums=1)(obs, mean)
        values = jax.vmap(lambda a: network(obs, a))(grid)
        nearest = grid[jnp.argmax(values)]
        away = jnp.sum((grid - mean[None]) ** 2, 1) > 1e-12
        quadratic = jax.vmap(lambda a: value - 0.5 * (a - mean) @ curvature @ (a - mean))(grid)
        eigenvalues = jnp.linalg.eigvalsh(curvature)
        # A quadratic's best grid point is no further from μ, in P's metric, than the one next to μ.
        corner = jnp.clip(jnp.round(mean * jnp.array([20.0, 20 / 3])) / jnp.array([20.0, 20 / 3]), -3, 3)

        def metric(d: Array) -> Array:
            return d @ curvature @ d

        return (
            jnp.abs(network(obs, mean) - value),
            jnp.max(jnp.abs(slope)),
            jnp.max(jnp.where(away, values - value, -jnp.inf)),
            jnp.maximum(metric(nearest - mean) - metric(corner - mean), 0),
            jnp.max(jnp.abs(values - quadratic)) / jnp.max(jnp.abs(quadratic)),
            eigenvalues[0],
        )

    keys = jax.random.split(jax.random.key(13), networks)
    at_mean, slope, above, off_grid, shape, least = map(
        np.asarray, jax.jit(jax.vmap(one), compiler_options=QUICK_TO_COMPILE)(keys)
    )
    extremes = jnp.asarray(np.array(np.meshgrid(*[[-1e3, -5.0, 0.0, 5.0, 1e3]] * 2, [0.0])).reshape(3, -1).T)
    rooted = jax.jit(jax.vmap(lambda entries: cholesky_root(entries[jnp.array([0, 2, 1])], size)))
    roots = np.asarray(rooted(extremes))
    extreme = np.linalg.eigvalsh(roots @ np.swapaxes(roots, 1, 2))
    singular = np.sum(least < 1e-6) + np.sum(extreme < 1e-6)
    return [
        Measured("Q(s, μ) − V", float(at_mean.max()), 1e-12),
        Measured("∇ₐQ at μ", float(slope.max()), 1e-12),
        Measured("Q − V away from μ", float(above.max()), 0.0),
        Measured("argmax on a grid, in P's metric", float(off_grid.max()), 1e-9),
        Measured("Q against V − ½ (a − μ)ᵀP(a − μ), relative", float(shape.max()), 1e-12),
        Measured("P with an eigenvalue below 1e-6", float(singular), 0.0),
        Measured("Q* of LQR, relative", _represented(random, 100 if full else 10), 1e-10),
    ]


def _represented(random: np.random.Generator, count: int) -> float:
    """How far NAF's Q is from Q* of LQR, relative, with V, μ and P set to those of the Riccati solution."""
    spec = EnvSpec("LQR", ArraySpec((3,)), Continuous(2, (False, False)))
    # Its shapes alone: every weight is set below.
    network = eqx.filter_eval_shape(NormalisedAdvantage.create, jax.random.key(0), spec, Architecture(()))

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def evaluate(network: NormalisedAdvantage, obs: Array, action: Array) -> Float[Array, "B"]:
        return jax.vmap(network)(obs, action)

    worst = 0.0
    for _ in range(count):
        problem = LQR.random(random)
        K = problem.optimal_gain()
        H, _ = problem.action_value(K)
        P = problem.cost_to_go(K)
        root = np.linalg.cholesky(2 * H[3:, 3:])
        entries = np.where(np.eye(2) > 0, np.log(np.abs(root) + (np.eye(2) == 0)), root)[np.tril_indices(2)]
        # Features are x and all products xᵢxⱼ, so that V and μ are linear in them.
        first, second = np.zeros((12, 1)), np.zeros((12, 2))
        first[3:, 0], second[:3] = -P.reshape(-1), -K.T
        exact = dataclasses.replace(
            network,
            encoder=_Products(),
            value=Linear(jnp.asarray(first), jnp.zeros(1)),
            mean=Linear(jnp.asarray(second), jnp.zeros(2)),
            root=Linear(jnp.zeros((12, 3)), jnp.asarray(entries)),
        )
        z = random.normal(size=(50, 5))
        expected = -np.sum((z @ H) * z, 1)
        found = np.asarray(evaluate(exact, jnp.asarray(z[:, :3]), jnp.asarray(z[:, 3:])))
        worst = max(worst, _relative(found, expected))
    return worst


class _Products(eqx.Module):
    """X and every product of two of its entries."""

    def __call__(self, obs: Float[Array, "n"]) -> Float[Array, "k"]:
        return jnp.concatenate([obs, jnp.outer(obs, obs).reshape(-1)])
