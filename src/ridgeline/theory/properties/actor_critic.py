"""The off-policy actor–critic with a Q critic: what it learns, and from what (properties 10 and 11)."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.algorithms.ac import AC, ActionSource
from ridgeline.critics import Regression, fit, td_target
from ridgeline.memory import Batch
from ridgeline.theory.mdp import MDP, TabularCritic, TabularPolicy, softmax
from ridgeline.theory.property import Measured, proves

_S, _A, _GAMMA = 3, 2, 0.9
_SYSTEMS = ("ac", "sac")
type Table = Float[Array, "S A"]


def _with_next_actions(batch: Batch, behaviour: Table) -> Batch:
    """Every (s, a, s′, a′) as a row, its weight μ(a|s) P(s′|s, a) μ(a′|s′), of mean 1."""
    rows = jax.tree.map(lambda x: jnp.repeat(x, _A, axis=0), batch)
    a = jnp.tile(jnp.arange(_A), batch.reward.size)
    weight = rows.weight * behaviour[rows.obs, rows.action] * behaviour[rows.next_obs, a]
    return dataclasses.replace(rows, next_action=a, weight=weight / jnp.mean(weight))


def _learned(source: ActionSource, logits: Table, behaviour: Table, table: Table, batch: Batch) -> Table:
    """Many expected SGD steps of AC's critic on a table, the static copy moved after each."""
    record = AC(next_action=source)
    actor, batch = TabularPolicy(logits), _with_next_actions(batch, behaviour)

    def step(table: Table, _: None) -> tuple[Table, None]:
        critics = (TabularCritic(table),)
        value = jax.vmap(lambda x: record.next_value(None, actor, critics, x, jnp.zeros(())))(batch)
        target = jax.vmap(td_target)(batch, value)
        state = fit(Regression.begin(critics, "sgd"), batch, target, "sgd", 2.0, 1e9)[0]
        return state.critics[0].table, None

    return jax.lax.scan(step, table, None, 10_000)[0]


def _relative(actual: np.ndarray, expected: np.ndarray) -> Float[np.ndarray, "problems"]:
    """max |actual − expected| / max |expected| of each problem."""
    return np.max(np.abs(actual - expected), (1, 2)) / np.max(np.abs(expected), (1, 2))


def _problems(seed: int, count: int) -> tuple[list[MDP], np.ndarray, np.ndarray]:
    """Random decision processes, half of them with a terminal state; a policy's logits, and a behaviour's."""
    random = np.random.default_rng(seed)
    found = [MDP.random(random, _S, _A, _GAMMA, ending=i % 2 == 1) for i in range(count)]
    return found, random.normal(size=(count, _S, _A)), random.normal(size=(count, _S, _A))


@proves(10, "AC's critic with a′ ~ π has fixed point Q^π, with the stored a′ it has not", _SYSTEMS, "linear solve")
def the_critic_values_the_policy(full: bool) -> list[Measured]:
    """Whatever full support the memory has; with the stored action the critic is Q^μ, off by exactly Q^μ − Q^π."""
    problems, logits, others = _problems(10, 200 if full else 20)
    behaviour = np.stack([softmax(other) for other in others])
    batch = jax.tree.map(lambda *x: jnp.stack(x), *[problem.transitions() for problem in problems])
    q = np.stack([problem.action_values(softmax(x)) for problem, x in zip(problems, logits, strict=True)])
    q_memory = np.stack([problem.action_values(b) for problem, b in zip(problems, behaviour, strict=True)])

    def learned(source: ActionSource, start: np.ndarray) -> np.ndarray:
        run: Callable[..., Array] = jax.jit(jax.vmap(lambda *x: _learned(source, *x)))
        return np.asarray(run(logits, behaviour, start, batch))

    start = np.random.default_rng(1).normal(size=q.shape)
    expected, memory = learned("expected", start), learned("memory", start)
    count = 100_000 if full else 20_000
    value = np.einsum("sa,sa->s", softmax(logits[0]), q[0])

    @jax.jit
    def drawn(x: Batch) -> Float[Array, "rows"]:
        keys = jax.random.split(jax.random.key(10), count)
        actor, critics = TabularPolicy(jnp.asarray(logits[0])), (TabularCritic(jnp.asarray(q[0])),)

        def one(x: Batch, key: Array) -> Array:
            noise = actor.distribution(x.next_obs).noise(key)
            return AC().next_value(noise, actor, critics, x, jnp.zeros(()))

        return jnp.mean(jax.vmap(lambda x: jax.vmap(partial(one, x))(keys))(x), 1)

    row = jax.tree.map(lambda x: x[:_S], problems[0].transitions())
    off = np.max(np.abs(drawn(row) - value))
    spread = np.max(np.abs(q[0][:, 0] - q[0][:, 1])) / 2 / np.sqrt(count)
    return [
        Measured("summed over a′: Q^π", float(np.max(_relative(expected, q))), 1e-8),
        Measured("drawn a′: the same in the mean, in standard errors", float(off / spread), 5.0),
        Measured("stored a′: Q^μ", float(np.max(_relative(memory, q_memory))), 1e-8),
        Measured("stored a′: 0.01 less the median bias", 0.01 - float(np.median(_relative(memory, q))), 0.0),
    ]


def _ascent(record: AC, theta: Array, features: Array, critic: Table, visits: Array, chance: Table) -> Array:
    """Σₛ d(s) Σₐ μ(a|s) of the shipped gradient at (s, a), by θ where the logits are φ(s, a)ᵀ θ."""
    s, a = (x.reshape(-1) for x in jnp.indices((_S, _A)))
    keys = jax.random.split(jax.random.key(0), s.size)

    def loss(theta: Array) -> Float[Array, ""]:
        actor, critics = TabularPolicy(features @ theta), (TabularCritic(critic),)

        def one(key: PRNGKeyArray, s: Array, a: Array) -> Float[Array, ""]:
            noise = actor.distribution(s).noise(key)
            return record.actor_loss(noise, key, actor, critics, s, a, jnp.zeros(()))[0]

        return jnp.sum(visits[s] * chance[s, a] * jax.vmap(one)(keys, s, a))

    return -jax.grad(loss)(theta)


@proves(11, "AC's actor with the exact Q gives ∇J, with compatible features too", _SYSTEMS, "linear solve")
def the_actor_ascends_the_objective(full: bool) -> list[Measured]:
    """States weighed by d_π/(1 − γ), actions enumerated. Compatible: f_w = wᵀ ∇log π, w by least squares."""
    problems, logits, others = _problems(11, 1_000 if full else 100)
    random = np.random.default_rng(2)
    tables = np.broadcast_to(np.eye(_S * _A).reshape(_S, _A, -1), (len(problems), _S, _A, _S * _A))
    few = random.normal(size=(len(problems), _S, _A, 2))
    thetas = random.normal(size=(len(problems), 2))
    errors: dict[str, list[float]] = {}

    def ascent(record: AC) -> Callable[..., Array]:
        return jax.jit(lambda *x: _ascent(record, *x))

    summed, scored = ascent(AC(gradient_action="expected")), ascent(AC(gradient_action="memory"))
    baseline = ascent(AC(gradient_action="memory", baseline=True))

    def note(name: str, actual: Array, expected: np.ndarray) -> None:
        errors.setdefault(name, []).append(float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected))))

    for i, problem in enumerate(problems):
        pi, mu = softmax(logits[i]), softmax(others[i])
        q, visits = problem.action_values(pi), problem.state_distribution(pi) / (1 - _GAMMA)
        theta, gradient = logits[i].reshape(-1), problem.policy_gradient(pi).reshape(-1)
        note("summed over a", summed(theta, tables[i], q, visits, pi), gradient)
        note("a ~ π", scored(theta, tables[i], q, visits, pi), gradient)
        note("a ~ π, baseline", baseline(theta, tables[i], q, visits, pi), gradient)
        for name, shipped, psi in (
            ("a of the memory", scored, q),
            ("a of the memory, baseline", baseline, problem.advantages(pi)),
        ):
            found = shipped(theta, tables[i], q, visits, mu)
            flow = mu * psi
            exact = visits[:, None] * (flow - pi * flow.sum(1, keepdims=True))
            note(f"{name}: the biased gradient", found, exact.reshape(-1))
            note(name, found, gradient)
        pi = softmax(few[i] @ thetas[i])
        q, visits = problem.action_values(pi), problem.state_distribution(pi) / (1 - _GAMMA)
        score = few[i] - np.einsum("sa,sak->sk", pi, few[i])[:, None]
        root = np.sqrt(visits[:, None] * pi).reshape(-1, 1)
        w = np.linalg.lstsq(root * score.reshape(-1, 2), root[:, 0] * q.reshape(-1), rcond=None)[0]
        gradient = np.einsum("sak,sa->k", few[i], problem.policy_gradient(pi))
        note("compatible features", scored(thetas[i], few[i], score @ w, visits, pi), gradient)
        note("other features", scored(thetas[i], few[i], few[i] @ w[::-1], visits, pi), gradient)
    biased = ("a of the memory", "a of the memory, baseline", "other features")
    return [Measured(name, max(found), 1e-9) for name, found in errors.items() if name not in biased] + [
        Measured(f"{name}: problems without a bias", float(np.mean(np.array(errors[name]) < 0.01)), 0.05)
        for name in biased
    ]
