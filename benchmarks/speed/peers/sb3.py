"""One piece of work by Stable-Baselines3, sb3-contrib or SBX: `python sb3.py LIBRARY WORK`; one line of JSON."""

import json
import sys
import time

begun = time.perf_counter()
library, work = sys.argv[1:]
if library == "sbx":
    from sbx import DDPG, DQN, PPO
else:
    import torch
    from stable_baselines3 import DDPG, DQN, PPO

    torch.set_num_threads(1)  # on networks this small it is the fastest
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402

imported = time.perf_counter()


def linear(value):
    return lambda left: value * left


def build():
    """The learner, and how many environment steps it takes."""
    if work == "pendulum-ppo":
        env = make_vec_env("Pendulum-v1", 4)
        how = {"n_steps": 1024, "batch_size": 256, "n_epochs": 2, "gamma": 0.9, "learning_rate": 1e-3}
        return PPO("MlpPolicy", env, **how), 300_000
    if work == "cartpole-ppo":
        env = make_vec_env("CartPole-v1", 8)
        how = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0}
        clip = 0.2 if library == "sbx" else linear(0.2)
        return PPO("MlpPolicy", env, learning_rate=linear(1e-3), clip_range=clip, **how), 100_000
    if work == "cartpole-dqn":
        how = {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
        return DQN("MlpPolicy", make_vec_env("CartPole-v1", 1), **how), 50_000
    if work == "cartpole-trpo":
        from sb3_contrib import TRPO

        how = {"n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "n_critic_updates": 20}
        return TRPO("MlpPolicy", make_vec_env("CartPole-v1", 2), learning_rate=1e-3, **how), 100_000
    if work == "pendulum-ddpg":
        how = {
            "learning_rate": 1e-3,
            "batch_size": 256,
            "buffer_size": 100_000,
            "learning_starts": 256,
            "gamma": 0.98,
            "train_freq": 1,
            "gradient_steps": 1,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
        return DDPG("MlpPolicy", make_vec_env("Pendulum-v1", 1), **how), 5_000
    raise SystemExit(f"no work {work!r}")


model, steps = build()
# What compiles does so in a first, shorter run of the same shapes; a fresh learner is then timed.
compile_begun = time.perf_counter()
if library == "sbx":
    model.learn(2_000 if work.endswith(("dqn", "ddpg")) else model.n_steps * model.n_envs)
    model, steps = build()
ready = time.perf_counter()
model.learn(steps)
ended = time.perf_counter()
returns, _ = evaluate_policy(model, make_vec_env(model.env.unwrapped.envs[0].spec.id, 10), 50)
print(
    json.dumps(
        {
            "import": imported - begun,
            "compile": ready - compile_begun,
            "run": ended - ready,
            "steps": steps,
            "return": float(returns),
        }
    )
)
