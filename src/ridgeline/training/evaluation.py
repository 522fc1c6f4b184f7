"""Evaluation: whole greedy episodes from given starts, so that policies can be compared pair by pair."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from ridgeline.environments.host import notes_of
from ridgeline.training.devices import map_seeds, over_seeds
from ridgeline.types import Action, Algorithm, Carry, Environment, HostEnvironment, HostFactory, Obs

# An episode of an environment without a time limit is cut here, so that an evaluation ends.
LONGEST_EPISODE = 10_000


class Episodes(NamedTuple):
    """Undiscounted returns and lengths [S, E] of S seeds' policies over the same E starts."""

    returns: Float[Any, "S E"]
    lengths: Int[Any, "S E"]


def evaluation_keys(seed: int, count: int) -> Key[Array, "E"]:
    """One key an episode: the same starts for every policy that is evaluated with this seed."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), count), count)


def episode_seeds(seed: int, *path: int, count: int) -> np.ndarray:
    """`count` seeds in [0, 2³¹), spawned from a seed and a path of indices: no two uses share any."""
    words = np.random.SeedSequence((seed, *path)).generate_state(count, np.uint32)
    return (words >> np.uint32(1)).astype(np.int64)


class _Playing(NamedTuple):
    time: Int[Array, ""]
    state: PyTree[Array]
    obs: Obs
    carry: PyTree[Array]
    alive: Bool[Array, "E"]
    returns: Float[Array, "E"]
    lengths: Int[Array, "E"]


@functools.partial(jax.jit, static_argnames="mesh")
def play(
    algorithm: Algorithm[Any, Any],
    env: Environment[Any],
    policies: Any,
    keys: Key[Array, "E"],
    limit: Int[Array, ""],
    *,
    mesh: Mesh,
) -> Episodes:
    """Greedy episodes [S, E] of every seed's policy on a JAX environment, at most `limit` steps each."""
    return over_seeds(_play_one, mesh, (policies,), (algorithm, env, keys, limit))


def _play_one(policy: Any, shared: tuple[Any, ...]) -> Episodes:
    algorithm, env, keys, limit = shared
    count = keys.shape[0]
    acting = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**32 - 1)  # a step that no episode reaches
    state, obs = jax.vmap(env.reset)(jax.vmap(jax.random.fold_in, (0, None))(keys, 0))
    carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), algorithm.begin(env.spec))

    def step(at: _Playing) -> _Playing:
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, at.time + 1)
        act_keys = jax.vmap(jax.random.fold_in, (0, None))(acting, at.time + 1)
        action, carry = jax.vmap(algorithm.greedy, (0, None, 0, 0))(act_keys, policy, at.carry, at.obs)
        state, out = jax.vmap(env.step)(step_keys, at.state, action)
        returns = at.returns + jnp.where(at.alive, out.reward, 0)
        alive = at.alive & ~(out.terminated | out.truncated)
        return _Playing(at.time + 1, state, out.next_obs, carry, alive, returns, at.lengths + at.alive)

    start = _Playing(
        jnp.zeros((), jnp.int32),
        state,
        obs,
        carry,
        jnp.ones(count, bool),
        jnp.zeros(count),
        jnp.zeros(count, jnp.int32),
    )
    end = jax.lax.while_loop(lambda at: jnp.any(at.alive) & (at.time < limit), step, start)
    return Episodes(end.returns, end.lengths)


@jax.jit
def greedy_everywhere(
    algorithm: Algorithm[Any, Any], policies: Any, key: PRNGKeyArray, carry: Carry, obs: Obs
) -> tuple[Action, Carry]:
    """Greedy actions [S, K] of S policies, each for K environments."""
    keys = jax.random.split(key, jax.tree.leaves(obs)[0].shape[:2])
    return map_seeds(jax.vmap(algorithm.greedy, (0, None, 0, 0)), keys, policies, carry, obs)


def evaluate_compiled(
    algorithm: Algorithm[Any, Any], env: Environment[Any], policies: Any, seed: int, episodes: int, mesh: Mesh
) -> Episodes:
    """Greedy episodes [S, E] on a JAX environment, from starts that `seed` decides."""
    limit = env.spec.max_episode_steps or LONGEST_EPISODE
    keys = evaluation_keys(seed, episodes)
    played = play(algorithm, env, policies, keys, np.int32(limit), mesh=mesh)
    return jax.tree.map(np.asarray, played)


def evaluate_hosted(
    algorithm: Algorithm[Any, Any], factory: HostFactory, policies: Any, seed: int, episodes: int
) -> Episodes:
    """Greedy episodes [S, E] on host environments of their own, from starts that `seed` decides."""
    # Where only a row's first episode obeys its seed, every episode has a row of its own.
    slots = min(episodes, 16) if factory.reseeds else episodes
    env = factory.build(slots * jax.tree.leaves(policies)[0].shape[0])
    try:
        return play_hosted(algorithm, env, policies, seed, episodes, slots)
    finally:
        env.close()


def play_hosted(
    algorithm: Algorithm[Any, Any], env: HostEnvironment, policies: Any, seed: int, count: int, slots: int
) -> Episodes:
    """Greedy episodes [S, E] on a host environment with S · `slots` rows.

    Each policy works through the same list of `count` episode seeds; a row whose list is done idles.
    """
    num_seeds = env.num_envs // slots
    starts = episode_seeds(seed, 0, count=count)
    returns, lengths = np.zeros((num_seeds, count)), np.zeros((num_seeds, count), int)
    # Row k of a seed begins with episode k; `following` is the next episode that nobody has begun.
    episode = np.tile(np.arange(slots), (num_seeds, 1))
    following = np.full(num_seeds, slots)
    fresh = jax.tree.map(lambda x: np.asarray(x), algorithm.begin(env.spec))
    carry = jax.tree.map(lambda x: np.broadcast_to(x, (num_seeds, slots, *x.shape)), fresh)
    every = np.ones(env.num_envs, bool)
    obs = env.reset(starts[episode.ravel() % count], every)
    obs = jax.tree.map(np.array, obs)
    key, time = jax.random.key(seed), 0
    total, length = np.zeros((num_seeds, slots)), np.zeros((num_seeds, slots), int)
    while (episode < count).any():
        by_seed = jax.tree.map(lambda x: x.reshape(num_seeds, slots, *x.shape[1:]), obs)
        action, carry = greedy_everywhere(algorithm, policies, jax.random.fold_in(key, time), carry, by_seed)
        action = np.asarray(action)
        step = env.step(action.reshape(env.num_envs, *action.shape[2:]))
        time += 1
        total += step.reward.reshape(num_seeds, slots)
        length += 1
        endless = length >= LONGEST_EPISODE
        if endless.any():
            cut = f"an episode of an evaluation was cut after {LONGEST_EPISODE:,} steps"
            notes_of(env).say("endless", f"{cut}: give {env.spec.id} a time limit")
        ended = (step.terminated | step.truncated).reshape(num_seeds, slots) | endless
        obs = step.next_obs
        if ended.any():
            for s, k in zip(*np.nonzero(ended), strict=True):
                if episode[s, k] < count:
                    returns[s, episode[s, k]], lengths[s, episode[s, k]] = total[s, k], length[s, k]
                episode[s, k], following[s] = following[s], following[s] + 1
            total[ended], length[ended] = 0, 0
            carry = reset_rows(carry, ended, fresh)
            obs = begin_where(env, obs, starts[episode.ravel() % count], ended.ravel())
    return Episodes(returns, lengths)


def begin_where(env: HostEnvironment, obs: Obs, seeds: np.ndarray, mask: np.ndarray) -> Obs:
    """`obs`, copied before the environment may write over it, with new episodes' first ones wherever `mask`."""
    kept = jax.tree.map(np.array, obs)
    for mine, fresh in zip(jax.tree.leaves(kept), jax.tree.leaves(env.reset(seeds, mask)), strict=True):
        mine[mask] = fresh[mask]
    return kept


def reset_rows(carry: Carry, ended: np.ndarray, fresh: Carry) -> Carry:
    """A copy of a carry [S, K, ...] with `fresh` in the rows that ended."""

    def one(kept: Any, start: np.ndarray) -> np.ndarray:
        kept = np.array(kept)
        kept[ended] = start
        return kept

    return jax.tree.map(one, carry, fresh)
