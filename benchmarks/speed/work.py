"""The pieces of work, as ridgeline does them; `python -m benchmarks.speed.work NAME` does one, and prints JSON.

Each is written out, also where a preset is the same today: a preset may change, what is compared may not.
"""

import dataclasses
import json
import sys
import tempfile
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class Work:
    """What is learned where, and against whom. `record` is made when it is needed: it imports JAX."""

    name: str
    about: str
    env: str
    steps: int
    record: Any
    peers: dict[str, float]  # by name, how many times as fast as it we have to be
    seeds: int = 1
    backend: str | None = None


def pendulum_ppo() -> Any:
    from ridgeline import PPO

    return PPO(
        num_envs=4,
        rollout_length=1024,
        epochs=2,
        batch_size=256,
        gamma=0.9,
        learning_rate=1e-3,
        normalise_observations=True,
        shared=False,
        activation="relu",
        max_grad_norm=1e6,  # RLtools clips no gradient
        log_std=0.693,  # a deviation of 2
    )


def pendulum_ddpg() -> Any:
    from ridgeline import DDPG, Replay

    return DDPG(gamma=0.98, replay=Replay(capacity=20_000, batch_size=100, warmup=100, updates=1))


def pendulum_sac() -> Any:
    from ridgeline import SAC, Replay

    return SAC(num_envs=1, gamma=0.98, replay=Replay(capacity=20_000, batch_size=100, warmup=100, updates=1))


def cartpole_ppo() -> Any:
    from ridgeline import PPO

    return PPO(
        num_envs=8,
        rollout_length=32,
        epochs=20,
        batch_size=256,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=1e-3,
        learning_rate_anneal=1.0,
        clip_anneal=1.0,
        shared=False,
    )


def cartpole_dqn() -> Any:
    from ridgeline import DQN, Replay

    return DQN(
        num_envs=1,
        rollout_length=256,
        hidden=(256, 256),
        learning_rate=2.3e-3,
        epsilon_end=0.04,
        exploration_fraction=0.16,
        target_period=128,  # every ten environment steps, which is once for each burst of updates
        replay=Replay(capacity=100_000, batch_size=64, warmup=1_000, updates=128),
    )


def cartpole_dqn_64() -> Any:
    from ridgeline import DQN, Replay

    return DQN(
        num_envs=10,
        rollout_length=1,
        double=True,
        learning_rate=1e-3,
        epsilon_end=0.05,
        exploration_fraction=0.1,
        target_period=100,
        replay=Replay(capacity=100_000, batch_size=100, warmup=1_000, updates=5),
    )


def cartpole_trpo() -> Any:
    from ridgeline import TRPO

    return TRPO(
        num_envs=2,
        rollout_length=512,
        gae_lambda=0.98,
        damping=1e-3,
        learning_rate=1e-3,
        value_epochs=20,
        batch_size=512,
    )


def pendulum_ddpg_256() -> Any:
    from ridgeline import DDPG, Replay

    return DDPG(
        gamma=0.98, hidden=(256, 256), replay=Replay(capacity=100_000, batch_size=256, warmup=256, updates=1)
    )


def halfcheetah_ppo() -> Any:
    from ridgeline import PPO

    return PPO(
        num_envs=64,
        rollout_length=32,
        epochs=10,
        batch_size=256,
        normalise_observations=True,
        normalise_rewards=True,
        shared=False,
    )


WORKS = {
    work.name: work
    for work in (
        Work(
            "pendulum-ppo",
            "PPO, 4 environments × 1024, batch 256, 2 epochs, two networks 64 × 64",
            "Pendulum-v1",
            300_000,
            pendulum_ppo,
            {"rltools": 1.3, "sb3": 100.0, "sbx": 1.0},
        ),
        Work(
            "pendulum-ddpg-64",
            "DDPG, one update a step, 64 × 64, batch 100 (RLtools: SAC)",
            "Pendulum-v1",
            10_000,
            pendulum_ddpg,
            {"rltools": 2.5},
        ),
        Work(
            "pendulum-sac-64",
            "SAC, one update a step, 64 × 64, batch 100, two critics",
            "Pendulum-v1",
            10_000,
            pendulum_sac,
            {"rltools": 1.5},
        ),
        Work(
            "cartpole-ppo",
            "PPO, 8 environments × 32, batch 256, 20 epochs, two networks 64 × 64",
            "CartPole-v1",
            100_000,
            cartpole_ppo,
            {"rejax": 2.0, "sb3": 20.0, "sbx": 1.0},
        ),
        Work(
            "cartpole-dqn",
            "DQN, 128 updates every 256 steps, 256 × 256, batch 64",
            "CartPole-v1",
            50_000,
            cartpole_dqn,
            {"sbx": 3.0, "sb3": 3.0},
        ),
        Work(
            "cartpole-dqn-64",
            "DQN, 10 environments, 5 updates each step of all, 64 × 64, batch 100",
            "CartPole-v1",
            100_000,
            cartpole_dqn_64,
            {"rejax": 6.0},
        ),
        Work(
            "cartpole-trpo",
            "TRPO, 2 environments × 512, 20 critic epochs, two networks 64 × 64",
            "CartPole-v1",
            100_000,
            cartpole_trpo,
            {"sb3": 20.0},
        ),
        Work(
            "pendulum-ddpg",
            "DDPG, one update a step, 256 × 256, batch 256",
            "Pendulum-v1",
            5_000,
            pendulum_ddpg_256,
            {"sb3": 1.0, "sbx": 1.0},
        ),
        Work(
            "cartpole-ppo-seeds",
            "the same as cartpole-ppo, eight seeds",
            "CartPole-v1",
            100_000,
            cartpole_ppo,
            {},
            seeds=8,
        ),
        Work(
            "halfcheetah-ppo",
            "PPO, 64 environments × 32, batch 256, 10 epochs, EnvPool",
            "HalfCheetah-v5",
            200_000,
            halfcheetah_ppo,
            {},
            backend="envpool",
        ),
    )
}


def main() -> None:
    work = WORKS[sys.argv[1]]
    begun = time.perf_counter()
    import ridgeline

    with tempfile.TemporaryDirectory() as out:
        run = ridgeline.train(
            work.record(),
            work.env,
            steps=work.steps,
            seeds=work.seeds,
            backend=work.backend,
            evaluations=0,
            final_episodes=50,
            out=out,
            arrange=True,
        )
        result = run.result
    seconds = result["wall_seconds"]
    print(
        json.dumps(
            {
                "import": seconds["import"],
                "compile": seconds["compile"],
                "run": seconds["run"],
                "steps": result["steps"],
                "return": result["eval"]["iqm"],
                "inside": time.perf_counter() - begun,
            }
        )
    )


if __name__ == "__main__":
    main()
