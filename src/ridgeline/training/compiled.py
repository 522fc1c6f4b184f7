"""The compiled runner: acting, environment and learning in one XLA program, seeds on a leading axis.

A Python loop calls `chunk` again and again, each for a number of iterations that is traced: the length of a chunk,
logging, evaluation and the run's total change neither the compiled code nor the stream of random numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt

from ridgeline.environments.base import Running, advance, start_episodes, where_ended
from ridgeline.training.devices import over_seeds
from ridgeline.training.summary import Summary, summarise
from ridgeline.types import Action, Algorithm, Environment, EnvSpec, Obs, Rollout, Steps, Transition


class Lane(NamedTuple):
    """All that one seed's training consists of; nothing else decides what happens next."""

    key: PRNGKeyArray
    state: PyTree[Array]
    running: Running
    carry: PyTree[Array]
    episode_return: Float[Array, "N"]


def key_for(seed_key: PRNGKeyArray, use: str) -> PRNGKeyArray:
    """The key of a seed for one named use."""
    return jax.random.fold_in(seed_key, ("init", "environments", "iterations").index(use))


def begin_lane(algorithm: Algorithm[Any, Any], env: Environment[Any], seed_key: PRNGKeyArray) -> Lane:
    """One seed before its first step."""
    streams = jax.random.split(key_for(seed_key, "environments"), algorithm.num_envs)
    running = start_episodes(env, streams, jnp.zeros(algorithm.num_envs, jnp.int32))
    state = algorithm.init(key_for(seed_key, "init"), env.spec)
    return Lane(seed_key, state, running, begin_carry(algorithm, env.spec), jnp.zeros(algorithm.num_envs))


def begin_carry(algorithm: Algorithm[Any, Any], spec: EnvSpec) -> PyTree[Array]:
    """The carry of N environments at the start of their episodes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (algorithm.num_envs, *x.shape)), algorithm.begin(spec))


def act_everywhere(
    algorithm: Algorithm[Any, Any], key: PRNGKeyArray, policy: Any, carry: Any, obs: Obs, steps: Steps
) -> tuple[Action, Any]:
    """One exploring action for each of N environments."""
    keys = jax.random.split(key, algorithm.num_envs)
    return jax.vmap(algorithm.act, (0, None, 0, 0, None))(keys, policy, carry, obs, steps)


def iteration_keys(seed_key: PRNGKeyArray, iteration: Int[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of one iteration, for acting (folded with the row) and for the update."""
    act_key, update_key = jax.random.split(jax.random.fold_in(key_for(seed_key, "iterations"), iteration))
    return act_key, update_key


def iterate(
    algorithm: Algorithm[Any, Any], env: Environment[Any], lane: Lane, steps: Steps
) -> tuple[Lane, Summary]:
    """T steps in each of N environments, then one update."""
    act_key, update_key = iteration_keys(lane.key, steps.iteration)
    policy, fresh_carry = algorithm.policy(lane.state), begin_carry(algorithm, env.spec)

    def row(at: tuple[Running, Any, Array], t: Int[Array, ""]) -> tuple[tuple[Running, Any, Array], Any]:
        running, carry, total = at
        now = steps._replace(taken=steps.taken + t * algorithm.num_envs)
        key = jax.random.fold_in(act_key, t)
        action, carry = act_everywhere(algorithm, key, policy, carry, running.obs, now)
        after, step = advance(env, running, action)
        transition = Transition(running.obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
        total, length = total + step.reward, running.elapsed + 1
        ended = transition.ended
        finished = (ended, jnp.where(ended, total, 0), jnp.where(ended, length, 0))
        carry = where_ended(ended, fresh_carry, carry)
        return (after, carry, jnp.where(ended, 0, total)), (transition, finished)

    start = (lane.running, lane.carry, lane.episode_return)
    (running, carry, total), (transitions, finished) = jax.lax.scan(
        row, start, jnp.arange(algorithm.rollout_length)
    )
    state, metrics = algorithm.update(update_key, lane.state, Rollout(transitions, lane.carry), steps)
    return Lane(lane.key, state, running, carry, total), summarise(
        algorithm.policy(state), metrics, *map(jnp.sum, finished)
    )


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="lanes")
def chunk(
    algorithm: Algorithm[Any, Any],
    env: Environment[Any],
    lanes: Lane,
    count: Int[Array, "S"],
    first: Int[Array, ""],
    total: Float[Array, ""],
    *,
    mesh: Mesh,
) -> tuple[Lane, Summary]:
    """`count` iterations of every seed, from the one numbered `first`; and what they amounted to."""
    rows = algorithm.num_envs * algorithm.rollout_length

    def one_seed(lane: Lane, count: Int[Array, ""], shared: tuple[Any, ...]) -> tuple[Lane, Summary]:
        algorithm, env, first, total = shared

        def body(i: Int[Array, ""], so_far: tuple[Lane, Summary]) -> tuple[Lane, Summary]:
            steps = Steps(i.astype(float) * rows, total, i)
            lane, summary = iterate(algorithm, env, so_far[0], steps)
            return lane, jax.tree.map(jnp.add, so_far[1], summary)

        shapes = jax.eval_shape(iterate, algorithm, env, lane, Steps(total, total, first))[1]
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(first, first + count, body, (lane, zero))

    return over_seeds(one_seed, mesh, (lanes, count), (algorithm, env, first, total))


@functools.partial(jax.jit, static_argnames="mesh")
def begin(algorithm: Algorithm[Any, Any], env: Environment[Any], seeds: UInt[Array, "S"], *, mesh: Mesh) -> Lane:
    """Every seed before its first step."""

    def one_seed(seed: UInt[Array, ""], shared: tuple[Any, Any]) -> Lane:
        return begin_lane(*shared, jax.random.key(seed))

    return over_seeds(one_seed, mesh, (seeds,), (algorithm, env))
