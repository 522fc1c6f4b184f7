"""What PG's estimators are on average, every trajectory of a tiny problem enumerated (properties 1 to 4)."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ridgeline.algorithms.pg import surrogate, trajectory_weights
from ridgeline.returns import rewards_to_go
from ridgeline.theory.mdp import MDP, TabularPolicy, Trajectories, softmax
from ridgeline.theory.property import Measured, proves
from ridgeline.trajectories import importance_ratios, weighted_return

type Table = Float[np.ndarray, "S A"]
type Weights = Literal["trajectory", "per_decision", "truncated", "self_normalised", "per_step"]

_H = 4
_LIMIT = 1.5  # c of truncated weights


def _problem(seed: int) -> tuple[MDP, Table, Table, Trajectories]:
    """A decision process, logits of two policies, and all its trajectories."""
    random = np.random.default_rng(seed)
    mdp = MDP.random(random)
    logits, behaviour = random.normal(size=(2, *mdp.reward.shape))
    return mdp, logits, behaviour, mdp.trajectories(_H)


def _log_probs(logits: Float[Array, "S A"], s: Int[Array, "M H"], a: Int[Array, "M H"]) -> Float[Array, "M H"]:
    return jax.vmap(jax.vmap(lambda s, a: TabularPolicy(logits).distribution(s).log_prob(a)))(s, a)


@jax.jit
@jax.grad
def _gradient(logits: Array, s: Array, a: Array, chance: Array, psi: Array) -> Array:
    live = jnp.ones(psi.shape, bool)
    return jnp.sum(chance * jax.vmap(surrogate)(_log_probs(logits, s, a), psi, live))


def _mean_gradient(
    logits: Table, t: Trajectories, chance: Float[np.ndarray, "M"], psi: Array | np.ndarray
) -> Table:
    """E ∇ surrogate, each trajectory as likely as `chance` says."""
    return np.asarray(_gradient(*map(jnp.asarray, (logits, t.states[:, :-1], t.actions, chance, psi))))


def _to_go(t: Trajectories, gamma: float = 1.0) -> Float[Array, "M H"]:
    return _returns(jnp.asarray(t.rewards), jnp.asarray(gamma))


@jax.jit
def _returns(rewards: Array, gamma: Array) -> Array:
    ended = jnp.arange(_H) == _H - 1
    return jax.vmap(lambda r: rewards_to_go(r, ended, gamma))(rewards)


def _off_policy(logits: Table, behaviour: Table, t: Trajectories, kind: Weights, baseline: float = 0.0) -> Table:
    """E_b of the weighted gradient, weights and returns by the shipped functions."""
    arrays = map(jnp.asarray, (logits, behaviour, t.states[:, :-1], t.actions, t.rewards, baseline))
    psi = _weighted(*arrays, kind=kind)
    return _mean_gradient(logits, t, t.probability(softmax(behaviour)), psi)


@partial(jax.jit, static_argnames="kind")
def _weighted(
    logits: Array, behaviour: Array, s: Array, a: Array, rewards: Array, baseline: Array, *, kind: Weights
) -> Float[Array, "M H"]:
    live = jnp.ones(a.shape, bool)
    now, then = (_log_probs(x, s, a) for x in (logits, behaviour))
    ratios = jax.vmap(importance_ratios)(now, then, live)
    if kind == "per_step":
        weights = jnp.exp(now - then)
    elif kind == "per_decision":
        weights = ratios
    else:
        held = jnp.ones(len(ratios), bool)
        weights = jnp.broadcast_to(trajectory_weights(ratios[:, -1], held, kind, _LIMIT)[:, None], ratios.shape)
    return jax.vmap(lambda r, alive, w: weighted_return(r, alive, w, 1.0, baseline, kind == "per_decision"))(
        rewards, live, weights
    )


def _truncated(logits: Table, behaviour: Table, t: Trajectories) -> Table:
    """E_b min(P_π/P_b, c) Σₜ ∇log π Gₜ in NumPy: at γ = 1 and with no baseline."""
    pi, b = softmax(logits), softmax(behaviour)
    p, q = t.probability(pi), t.probability(b)
    scale = q * np.minimum(p / q, _LIMIT)
    total = np.zeros_like(logits)
    for step in range(_H):
        s, a = t.states[:, step], t.actions[:, step]
        gain = scale * t.rewards[:, step:].sum(1)
        np.add.at(total, (s, a), gain)
        np.add.at(total, (s,), -gain[:, None] * pi[s])
    return total


def _apart(one: Table, other: Table) -> float:
    return float(np.max(np.abs(one - other)))


@proves(1, "reward to go gives ∇J, with any state baseline", ("pg", "vpg"), "dynamic programming")
def the_gradient_is_unbiased(full: bool) -> list[Measured]:
    """γ = 1; all 3,888 trajectories of S = 3, A = 2, H = 4, in float64."""
    plain, based = [], []
    for seed in range(20 if full else 3):
        mdp, logits, _, t = _problem(seed)
        expected = mdp.finite_gradient(softmax(logits), _H, 1.0)
        chance, psi = t.probability(softmax(logits)), _to_go(t)
        baseline = jnp.asarray(np.random.default_rng(seed).normal(size=3))[t.states[:, :-1]]
        plain.append(_apart(_mean_gradient(logits, t, chance, psi), expected))
        based.append(_apart(_mean_gradient(logits, t, chance, psi - baseline), expected))
    return [Measured("reward to go", max(plain), 1e-10), Measured("with a state baseline", max(based), 1e-10)]


@proves(2, "importance weights are unbiased under a behaviour policy", ("pg",), "dynamic programming")
def importance_weights_are_unbiased(full: bool) -> list[Measured]:
    """One weight for a trajectory, or ρ_{0:t} for each decision; also with a constant baseline."""
    apart: dict[str, list[float]] = {}
    for seed in range(20 if full else 2):
        mdp, logits, behaviour, t = _problem(seed)
        expected = mdp.finite_gradient(softmax(logits), _H, 1.0)
        kinds: tuple[Weights, ...] = ("trajectory", "per_decision")
        for kind in kinds:
            for baseline in (0.0, 0.7):
                found = _off_policy(logits, behaviour, t, kind, baseline)
                apart.setdefault(f"{kind}, baseline {baseline}", []).append(_apart(found, expected))
    return [Measured(name, max(errors), 1e-10) for name, errors in apart.items()]


@proves(3, "truncated and per-step weights are biased by the enumerated amount", ("pg",), "enumeration")
def biased_weights_are_biased_as_predicted(full: bool) -> list[Measured]:
    """Truncated at c: NumPy. One ratio a step: Σₜ P_b(sₜ) π(a|s) (Q_b − E_π Q_b). Both vanish as π_b → π."""
    truncated, stepwise, smaller, vanishing = [], [], [], []
    for seed in range(20 if full else 2):
        mdp, logits, behaviour, t = _problem(seed)
        pi, b = softmax(logits), softmax(behaviour)
        exact = mdp.finite_gradient(pi, _H, 1.0)
        q = mdp.finite_action_values(b, _H, 1.0)
        centred = q - np.sum(pi * q, -1, keepdims=True)
        per_step = np.sum(mdp.finite_occupancy(b, _H)[..., None] * pi * centred, 0)
        kinds: tuple[Weights, ...] = ("truncated", "per_step")
        found = {kind: _off_policy(logits, behaviour, t, kind) for kind in kinds}
        truncated.append(_apart(found["truncated"], _truncated(logits, behaviour, t)))
        stepwise.append(_apart(found["per_step"], per_step))
        smaller.append(min(_apart(value, exact) for value in found.values()))
        near = logits + 1e-3 * (behaviour - logits)
        vanishing += [_apart(_off_policy(logits, near, t, kind), exact) / smaller[-1] for kind in kinds]
    return [
        Measured("truncated, against its enumeration", max(truncated), 1e-10),
        Measured("per step, against its closed form", max(stepwise), 1e-10),
        Measured("0.01 less the median bias", 0.01 - float(np.median(smaller)), 0.0),
        Measured("share of it left where π_b ≈ π", max(vanishing), 0.02),
    ]


@proves(4, "without γᵗ on states it is not ∇J_γ, by a known bias", ("pg", "vpg", "ppo", "trpo"), "enumeration")
def undiscounted_states_bias_the_gradient(full: bool) -> list[Measured]:
    """E[g] = Σₜ P(sₜ) π Aₜ, where ∇J_γ has γᵗ P(sₜ); at γ = 0.6."""
    gamma, pinned, bias = 0.6, [], []
    for seed in range(20 if full else 3):
        mdp, logits, _, t = _problem(seed)
        pi = softmax(logits)
        q = mdp.finite_action_values(pi, _H, gamma)
        advantage = q - np.sum(pi * q, -1, keepdims=True)
        usual = np.sum(mdp.finite_occupancy(pi, _H)[..., None] * pi * advantage, 0)
        found = _mean_gradient(logits, t, t.probability(pi), _to_go(t, gamma))
        pinned.append(_apart(found, usual))
        bias.append(_apart(found, mdp.finite_gradient(pi, _H, gamma)))
    return [
        Measured("against Σₜ P(sₜ) π Aₜ", max(pinned), 1e-10),
        Measured("0.01 less the median bias", 0.01 - float(np.median(bias)), 0.0),
    ]
