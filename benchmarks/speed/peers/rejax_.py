"""One piece of work by Rejax: `python rejax_.py WORK`; one line of JSON."""

import json
import sys
import time

begun = time.perf_counter()
import jax  # noqa: E402
import rejax  # noqa: E402

imported = time.perf_counter()
WORK = {
    "cartpole-ppo": (
        "ppo",
        100_000,
        {
            "num_envs": 8,
            "num_steps": 32,
            "num_epochs": 20,
            "num_minibatches": 1,
            "learning_rate": 1e-3,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "clip_eps": 0.2,
            "ent_coef": 0.0,
        },
    ),
    "cartpole-dqn-64": (
        "dqn",
        100_000,
        {
            "num_envs": 10,
            "buffer_size": 100_000,
            "fill_buffer": 1_000,
            "batch_size": 100,
            "num_epochs": 5,
            "learning_rate": 1e-3,
            "gamma": 0.99,
            "target_update_freq": 100,
            "eps_end": 0.05,
            "exploration_fraction": 0.1,
        },
    ),
}
name, steps, how = WORK[sys.argv[1]]
# No evaluation on the way but the one at the end.
algorithm = rejax.get_algo(name).create(
    env="CartPole-v1", total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True, **how
)
train = jax.jit(algorithm.train).lower(jax.random.key(0)).compile()
ready = time.perf_counter()
_, (_, returns) = jax.block_until_ready(train(jax.random.key(0)))
ended = time.perf_counter()
print(
    json.dumps(
        {
            "import": imported - begun,
            "compile": ready - imported,
            "run": ended - ready,
            "steps": steps,
            "return": float(returns[-1].mean()),
        }
    )
)
