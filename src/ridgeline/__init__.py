"""Deep reinforcement learning on JAX: each algorithm reads next to its paper, is proven, and is fast.

    import ridgeline

    run = ridgeline.train("ppo", "CartPole-v1", steps=100_000)
    print(run.result["eval"], run.report())

Names are imported when they are first used, so `import ridgeline` itself costs nothing.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.algorithms.ac import AC, SAC
    from ridgeline.algorithms.ddpg import DDPG, TD3
    from ridgeline.algorithms.dqn import DQN
    from ridgeline.algorithms.naf import NAF
    from ridgeline.algorithms.pg import PG, VPG
    from ridgeline.algorithms.ppo import PPO
    from ridgeline.algorithms.qsearch import QSearch
    from ridgeline.algorithms.trpo import TRPO
    from ridgeline.environments import make
    from ridgeline.errors import RidgelineError
    from ridgeline.experiments.finished import Run
    from ridgeline.experiments.loading import load_policy
    from ridgeline.experiments.policy import Policy
    from ridgeline.experiments.run import evaluate, forecast, resume, start, train
    from ridgeline.experiments.training import Training
    from ridgeline.memory import Replay
    from ridgeline.types import (
        Algorithm,
        ArraySpec,
        Continuous,
        Discrete,
        Environment,
        EnvSpec,
        MultiDiscrete,
        Step,
    )

_HOMES = {
    "AC": "algorithms.ac",
    "DDPG": "algorithms.ddpg",
    "TD3": "algorithms.ddpg",
    "NAF": "algorithms.naf",
    "QSearch": "algorithms.qsearch",
    "DQN": "algorithms.dqn",
    "PG": "algorithms.pg",
    "VPG": "algorithms.pg",
    "PPO": "algorithms.ppo",
    "TRPO": "algorithms.trpo",
    "SAC": "algorithms.ac",
    "make": "environments",
    "RidgelineError": "errors",
    "Policy": "experiments.policy",
    "load_policy": "experiments.loading",
    "Run": "experiments.finished",
    "Training": "experiments.training",
    "evaluate": "experiments.run",
    "forecast": "experiments.run",
    "resume": "experiments.run",
    "start": "experiments.run",
    "train": "experiments.run",
    "Replay": "memory",
    "Algorithm": "types",
    "ArraySpec": "types",
    "Continuous": "types",
    "Discrete": "types",
    "EnvSpec": "types",
    "Environment": "types",
    "MultiDiscrete": "types",
    "Step": "types",
}

__all__ = [
    "AC",
    "DDPG",
    "DQN",
    "NAF",
    "PG",
    "PPO",
    "SAC",
    "TD3",
    "TRPO",
    "VPG",
    "Algorithm",
    "ArraySpec",
    "Continuous",
    "Discrete",
    "EnvSpec",
    "Environment",
    "MultiDiscrete",
    "Policy",
    "QSearch",
    "Replay",
    "RidgelineError",
    "Run",
    "Step",
    "Training",
    "evaluate",
    "forecast",
    "load_policy",
    "make",
    "resume",
    "start",
    "train",
]

import_seconds = 0.0  # what importing the names used so far has cost


def __getattr__(name: str) -> Any:
    global import_seconds
    if name not in _HOMES:
        raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
    begun = time.perf_counter()
    value = getattr(importlib.import_module(f"ridgeline.{_HOMES[name]}"), name)
    import_seconds += time.perf_counter() - begun
    globals()[name] = value
    return value
