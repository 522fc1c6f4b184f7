"""What a policy gains over another (properties 6 and 18)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ridgeline.distributions import log_prob
from ridgeline.returns import gae
from ridgeline.theory.mdp import MDP, TabularPolicy, softmax
from ridgeline.theory.property import Measured, proves

_GAMMA = 0.9


def _advantage(problem: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """E[δ | s, a] by GAE with λ = 0 of every transition, from the exact V^π."""
    value, rows = problem.state_values(policy), problem.transitions()
    terminated = ~rows.continues
    here, there = jnp.asarray(value[rows.obs]), jnp.asarray(value[rows.next_obs])
    delta = _errors(rows.reward[:, None], here[:, None], there[:, None], terminated[:, None])
    return np.sum(np.reshape(np.asarray(rows.weight * delta[:, 0]), problem.transition.shape), -1)


@jax.jit
def _errors(reward: Array, value: Array, next_value: Array, terminated: Array) -> Float[Array, "N 1"]:
    ended = jnp.ones_like(terminated)
    return jax.vmap(gae, (0, 0, 0, 0, 0, None, None))(reward, value, next_value, terminated, ended, _GAMMA, 0.0)


def _pairs(count: int, seed: int, actions: int = 2) -> list[tuple[MDP, np.ndarray, np.ndarray]]:
    """Random problems with the logits of two policies, from nearly equal to far apart."""
    random = np.random.default_rng(seed)
    shape = (3, actions)
    found = []
    for i in range(count):
        old = 2 * random.normal(size=shape)
        new = old + 10.0 ** random.uniform(-3, 0.5) * random.normal(size=shape)
        found.append((MDP.random(random, *shape, _GAMMA, ending=i % 2 == 0), old, new))
    return found


@proves(6, "J′ − J = E_{d′}[A] / (1 − γ)", ("ppo", "trpo", "vpg", "ac"), "linear solve")
def what_a_policy_gains_is_its_expected_advantage(full: bool) -> list[Measured]:
    """The performance-difference lemma (Kakade & Langford 2002, lemma 6.1), with the advantages of `gae`."""
    differences = []
    for problem, old, new in _pairs(10_000 if full else 200, 6):
        before, after = softmax(old), softmax(new)
        gained = problem.state_distribution(after) @ np.sum(after * _advantage(problem, before), 1) / (1 - _GAMMA)
        differences.append(abs(problem.performance(after) - problem.performance(before) - gained))
    return [Measured("J′ − J", float(np.max(differences)), 1e-12)]


@jax.jit
@jax.vmap
def _surrogate(
    new: Float[Array, "S A"], old: Float[Array, "S A"], visits: Float[Array, "S"], advantage: Float[Array, "S A"]
) -> tuple[Array, Array, Array]:
    """L(π′) − J(π), its gradient by the logits of π′, and KL(π ‖ π′) in the state where it is largest."""
    states, actions = jnp.arange(old.shape[0]), jnp.arange(old.shape[1])

    def logs(policy: TabularPolicy) -> Float[Array, "S A"]:
        return jax.vmap(lambda s: jax.vmap(lambda a: log_prob(policy.distribution(s), a))(actions))(states)

    before = logs(TabularPolicy(old))

    def gain(logits: Float[Array, "S A"]) -> Float[Array, ""]:
        ratio = jnp.exp(logs(TabularPolicy(logits)) - before)
        return jnp.sum(visits[:, None] * jnp.exp(before) * ratio * advantage) / (1 - _GAMMA)

    kl = jax.vmap(lambda s: TabularPolicy(old).distribution(s).kl(TabularPolicy(new).distribution(s)))(states)
    return gain(new), jax.grad(gain)(new), jnp.max(kl)


@proves(18, "J′ ≥ L(π′) − 4εγ/(1 − γ)² max KL(π ‖ π′)", ("trpo",), "exact values")
def the_surrogate_bounds_what_is_gained(full: bool) -> list[Measured]:
    """Schulman et al. (2015), theorem 1, ε = max |A|; at π′ = π, L is J and ∇L is ∇J."""
    pairs = _pairs(10_000 if full else 1_000, 18)
    before, after = [softmax(old) for _, old, _ in pairs], [softmax(new) for *_, new in pairs]
    problems, old, new = (list(x) for x in zip(*pairs, strict=True))
    visits = np.stack([p.state_distribution(pi) for p, pi in zip(problems, before, strict=True)])
    advantage = np.stack([_advantage(p, pi) for p, pi in zip(problems, before, strict=True)])
    gain, _, kl = map(np.asarray, _surrogate(np.stack(new), np.stack(old), visits, advantage))
    nothing, slope, _ = map(np.asarray, _surrogate(np.stack(old), np.stack(old), visits, advantage))
    exact = np.stack([p.policy_gradient(pi) for p, pi in zip(problems, before, strict=True)])
    each = zip(problems, before, after, strict=True)
    gained = np.array([p.performance(pi) - p.performance(mu) for p, mu, pi in each])
    worst = np.max(np.abs(advantage), (1, 2))
    bound = gain - 4 * worst * _GAMMA / (1 - _GAMMA) ** 2 * kl
    return [
        Measured("L(π′) − penalty above J′", float(np.max(np.maximum(bound - gained, 0))), 1e-12),
        Measured("L(π) − J", float(np.max(np.abs(nothing))), 1e-12),
        Measured("∇L − ∇J at π", float(np.max(np.abs(slope - exact))), 1e-12),
        Measured("the bound holds without its penalty", float(np.all(gain <= gained)), 0.0),
    ]
