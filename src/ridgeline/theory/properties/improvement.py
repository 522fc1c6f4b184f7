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


@jax.jit
def _errors(reward: Array, value: Array, next_value: Array, terminated: Array) -> Float[Array, "N 1"]:
    """δ of transitions [N, 1], each a trajectory of its own: GAE with λ = 0."""
    ended = jnp.ones_like(terminated)
    return jax.vmap(gae, (0, 0, 0, 0, 0, None, None))(reward, value, next_value, terminated, ended, _GAMMA, 0.0)


def _advantages(problems: list[MDP], policies: list[np.ndarray]) -> Float[np.ndarray, "P S A"]:
    """E[δ | s, a] of every transition, from the exact V^π."""
    value = np.stack([problem.state_values(policy) for problem, policy in zip(problems, policies, strict=True)])
    chance = np.stack([problem.transition for problem in problems])
    reward = np.stack([problem.reward for problem in problems])[..., None]
    terminal = np.stack([problem.terminal for problem in problems])[:, None, None]
    rows = (reward, value[:, :, None, None], value[:, None, None], terminal)
    columns = [np.broadcast_to(x, chance.shape).reshape(-1, 1) for x in rows]
    return np.sum(chance * np.asarray(_errors(*columns)).reshape(chance.shape), -1)


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
    problems, old, new = zip(*_pairs(10_000 if full else 200, 6), strict=True)
    before, after = [softmax(x) for x in old], [softmax(x) for x in new]
    advantage = _advantages(list(problems), before)
    differences = []
    for problem, mu, pi, a in zip(problems, before, after, advantage, strict=True):
        gained = problem.state_distribution(pi) @ np.sum(pi * a, 1) / (1 - _GAMMA)
        differences.append(abs(problem.performance(pi) - problem.performance(mu) - gained))
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
    problems, old, new = zip(*_pairs(10_000 if full else 1_000, 18), strict=True)
    before, after = [softmax(x) for x in old], [softmax(x) for x in new]
    visits = np.stack([p.state_distribution(pi) for p, pi in zip(problems, before, strict=True)])
    advantage = _advantages(list(problems), before)
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
