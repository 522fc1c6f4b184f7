"""Host environments brought back to where they were: their episodes played again from their seeds."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ridgeline.training.evaluation import begin_where
from ridgeline.types import HostEnvironment, Obs


def replay(
    env: HostEnvironment,
    seeds: Int[np.ndarray, "N"],
    actions: Sequence[np.ndarray],
    length: Int[np.ndarray, "N"],
    total: Float[np.ndarray, "N"],
    obs: Obs,
) -> Bool[np.ndarray, "N"]:
    """Do again what was done; which rows have come to the same return and the same observation, bit for bit.

    `actions` are those of all rows [N, ...], the newest last; `length` is how many of them each row's episode has
    had. They come to their ends together: a row with fewer plays along from its seed until its turn comes.
    """
    known = length <= len(actions)
    longest = int(length[known].max(initial=0))
    begins = np.where(known, longest - length, longest)
    played = [*actions][len(actions) - longest :]
    found, ended = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    now = jax.tree.map(np.array, env.reset(seeds, np.ones(env.num_envs, bool)))
    for t in range(longest + 1):
        again = (begins == t) | ended if t else ended
        if again.any():
            now = begin_where(env, now, seeds, again)
        found[begins == t] = 0
        if t < longest:
            step = env.step(played[t])
            found += step.reward
            ended = np.asarray(step.terminated | step.truncated)
            known &= ~ended | (begins > t)  # an episode that still ran cannot have ended
            now = jax.tree.map(np.array, step.next_obs)
    same = known & (found == total)
    for is_, was in zip(jax.tree.leaves(now), jax.tree.leaves(obs), strict=True):
        same &= (is_ == was).reshape(len(same), -1).all(1)
    return same
