"""Every algorithm on the probes: sizes with which it learns them in seconds, and how it misses the answers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ridgeline.algorithms import REGISTRY
from ridgeline.critics import least, least_values
from ridgeline.environments.probes import Probe
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.errors import UsageError
from ridgeline.memory import Replay
from ridgeline.training.runner import make_runner, prepare
from ridgeline.types import Action, Algorithm, Carry, Discrete, Environment, EnvSpec, Obs

GAMMA = 0.9
SEEN = {0: (0.0,), 1: (-1.0, 1.0), 2: (0.0, 1.0), 3: (0.0,), 4: (-1.0, 1.0)}
CHOOSING = (3, 4)  # the probes where the action matters

# Learns any probe within `LEARNED` iterations; whatever uses it shares its compilations.
LEARNED = 200
QUICK = {
    "num_envs": 8,
    "rollout_length": 4,
    "epochs": 6,
    "value_epochs": 6,
    "batch_size": 32,
    "gamma": GAMMA,
    "learning_rate": 1e-2,
    "max_grad_norm": 10.0,
    "epsilon_end": 0.5,
    "target_period": 10,
    "log_std": -1.5,
    "value_learning_rate": 3e-2,
    "hidden": (16,),
    "replay": Replay(capacity=512, batch_size=32, warmup=64, updates=6),
}
# Where an algorithm needs other sizes than these to learn as fast.
_OFF_POLICY = {"learning_rate": 1e-2, "tau": 0.2}
# A smooth critic, and enough gradient steps for the actor to follow it: 20 seeds of 20 learn.
_SMOOTH = _OFF_POLICY | {
    "activation": "silu",
    "replay": Replay(capacity=512, batch_size=32, warmup=64, updates=12),
}
_DETERMINISTIC = _SMOOTH | {"noise_scale": 0.3}
QUICK_OF: dict[str, dict[str, Any]] = {
    "ppo": {"learning_rate_anneal": 1.0},
    "pg": {"num_envs": 32, "learning_rate": 3e-2},
    "vpg": {"num_envs": 32, "learning_rate": 3e-2},
    "ac": _SMOOTH | {"actor_learning_rate": 3e-3},
    # Soft values are no true values: the temperature is 0 here.
    "sac": _SMOOTH | {"actor_learning_rate": 3e-3, "temperature": 0.0, "tune_temperature": False},
    "ddpg": _DETERMINISTIC | {"actor_learning_rate": 1e-2},
    "td3": _DETERMINISTIC | {"actor_learning_rate": 1e-2, "target_noise": 0.0},
    "naf": _DETERMINISTIC,
    "qsearch": _DETERMINISTIC | {"population": 16, "iterations": 2},
}


def critic_value(state: Any, obs: Obs, action: Action) -> Float[Array, "..."]:
    """Q(s, ·) of discrete actions, else Q(s, a)."""
    critics = state.learner.critic.critics
    discrete = isinstance(getattr(critics[0], "spec", None), Discrete)
    return least_values(critics, obs) if discrete else least(critics, obs, action)


# What an algorithm's state holds to be worth: V(s), Q(s, a*), or Q(s, a) for each a. PG holds nothing.
VALUES: dict[str, Callable[[Any, Obs, Action], Float[Array, "..."]]] = {
    "dqn": lambda state, obs, action: state.learner.online(obs),
    "ac": critic_value,
    "sac": critic_value,
    "ddpg": critic_value,
    "td3": critic_value,
    "naf": critic_value,
    "qsearch": critic_value,
    "trpo": lambda state, obs, action: state.critic.critics(obs),
    "ppo": lambda state, obs, action: state.policy.network.state_value(obs),
    "vpg": lambda state, obs, action: state.value.critics(obs),
}


def shrunk(record: type[Algorithm[Any, Any]], sizes: dict[str, Any], **changes: Any) -> Any:
    """The record with those of `sizes` that are fields of it, and all the changes."""
    fields = {field.name for field in dataclasses.fields(record)}
    return prepare(record(**{k: v for k, v in sizes.items() if k in fields} | changes))


def quick(name: str, **changes: Any) -> Any:
    """A registered algorithm's record that learns fast on environments as small as the probes."""
    return shrunk(REGISTRY[name], QUICK, **QUICK_OF.get(name, {}) | changes)


def accepts(algorithm: Algorithm[Any, Any], spec: EnvSpec) -> bool:
    """Whether the record can work on such an environment."""
    try:
        algorithm.check(spec)
    except UsageError:
        return False
    return True


def kinds(algorithm: Algorithm[Any, Any]) -> list[bool]:
    """Which probes suit it: those with two actions (False), those with a continuous one (True)."""
    return [continuous for continuous in (False, True) if accepts(algorithm, Probe(0, continuous).spec)]


def train(
    algorithm: Algorithm[Any, Any],
    env: Environment[Any],
    seeds: tuple[int, ...],
    hosted: bool,
    iterations: int = LEARNED,
) -> PyTree[Array]:
    """The states [S] of every seed after some iterations."""
    runner = make_runner(algorithm, SteppedFactory(env) if hosted else env, seeds)
    runner.run(0, iterations, float(iterations * algorithm.num_envs * algorithm.rollout_length))
    states = runner.states
    runner.close()
    return states


def registered(algorithm: Algorithm[Any, Any]) -> str:
    """Its name in the registry; empty where it has none."""
    return next((name for name, record in REGISTRY.items() if type(algorithm) is record), "")


@jax.jit
def answers(
    algorithm: Algorithm[Any, Any], states: PyTree[Array], carry: Carry, obs: Float[Array, "X 1"]
) -> tuple[Array, Float[Array, "..."]]:
    """Greedy actions and values [S, X] at the observations; NaN where nothing is known of a value."""
    value = VALUES.get(registered(algorithm), lambda state, obs, action: jnp.full((), jnp.nan))

    def answer(state: Any, x: Float[Array, "1"]) -> tuple[Action, Float[Array, "..."]]:
        policy = algorithm.policy(state)
        action, _ = algorithm.greedy(jax.random.key(0), policy, carry, x)
        return action, value(state, x, action)

    return jax.vmap(jax.vmap(answer, (None, 0)), (0, None))(states, obs)


def misses(algorithm: Algorithm[Any, Any], env: Probe, states: PyTree[Array]) -> dict[str, Float[np.ndarray, "S"]]:
    """By how much each seed's greedy action and value miss the true ones, at worst over what it sees."""
    index = int(env.index)
    carry = algorithm.begin(env.spec)
    actions, values = map(np.asarray, answers(algorithm, states, carry, jnp.array([[-1.0], [0.0], [1.0]])))
    found: dict[str, list[np.ndarray]] = {"value": [], "action": []}
    for x in SEEN[index]:
        obs, at = jnp.array([x]), int(x) + 1
        if values.ndim == 2:
            true = np.asarray(env.value(obs, GAMMA))
        else:
            true = np.array([env.action_value(obs, jnp.asarray(a), GAMMA) for a in range(values.shape[-1])])
        found["value"].append(values[:, at] - true)
        found["action"].append(actions[:, at] - np.asarray(env.optimal_action(obs)))
    wanted = ["value"] * (registered(algorithm) in VALUES) + ["action"] * (index in CHOOSING)

    def worst(name: str) -> Float[np.ndarray, "S"]:
        return np.max([np.abs(x * 1.0).reshape(len(x), -1).max(1) for x in found[name]], 0)

    return {name: worst(name) for name in wanted}
