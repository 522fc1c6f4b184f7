"""Where to start: hyper-parameters and a length for each algorithm on each environment.

An environment that is not listed gets the algorithm's general preset for its kind of actions and observations.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ridgeline.algorithms import by_name
from ridgeline.algorithms.ac import AC, SAC, ActionSource
from ridgeline.algorithms.ddpg import DDPG, TD3
from ridgeline.algorithms.dqn import DQN
from ridgeline.algorithms.naf import NAF
from ridgeline.algorithms.pg import PG, VPG
from ridgeline.algorithms.ppo import PPO
from ridgeline.algorithms.qsearch import QSearch
from ridgeline.algorithms.trpo import TRPO
from ridgeline.encoders import is_image
from ridgeline.memory import Replay
from ridgeline.types import Algorithm, Continuous, Discrete, EnvSpec, observation_parts


@dataclasses.dataclass(frozen=True)
class Preset:
    """Hyper-parameters, and for how many environment steps of each seed."""

    algorithm: Algorithm[Any, Any]
    steps: int


# log σ of the first actions on MuJoCo: where they cost much, wide ones make standing dearer than falling. Hopper's
# cost a thousandth of their square.
NARROW = -1.0
# Rollouts of 1,024 steps, V by 20 epochs, everything normalised.
MUJOCO_TRPO = TRPO(
    num_envs=16,
    rollout_length=64,
    value_epochs=20,
    batch_size=256,
    normalise_observations=True,
    normalise_rewards=True,
)
LUNAR_LANDERS = ("LunarLander-v3", "LunarLanderContinuous-v3")

PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(
        PPO(
            num_envs=8,
            rollout_length=32,
            epochs=20,
            batch_size=256,
            gamma=0.98,
            gae_lambda=0.8,
            learning_rate=1e-3,
            learning_rate_anneal=1.0,
            clip_anneal=1.0,
        ),
        100_000,
    ),
    ("ppo", "Pendulum-v1"): Preset(
        PPO(
            num_envs=4,
            rollout_length=1024,
            epochs=10,
            batch_size=256,
            gamma=0.9,
            learning_rate=1e-3,
            learning_rate_anneal=1.0,
            normalise_rewards=True,
            shared=False,
        ),
        100_000,
    ),
    **{
        ("ppo", env): Preset(
            PPO(
                num_envs=16,
                rollout_length=1024,
                epochs=8,
                batch_size=256,
                gamma=0.999,
                gae_lambda=0.98,
                entropy_coef=0.01,
                learning_rate=1e-3,
                learning_rate_anneal=1.0,
                normalise_observations=True,
                normalise_rewards=True,
                shared=False,
            ),
            1_000_000,
        )
        for env in LUNAR_LANDERS
    },
    ("pg", "CartPole-v1"): Preset(PG(num_envs=5), 200_000),
    ("vpg", "CartPole-v1"): Preset(VPG(), 200_000),
    **{
        ("pg", env): Preset(
            PG(
                num_envs=16,
                rollout_length=1_000,
                gamma=0.99,
                standardise=True,
                learning_rate=3e-3,
                normalise_observations=True,
            ),
            1_000_000,
        )
        for env in LUNAR_LANDERS
    },
    **{
        ("vpg", env): Preset(
            VPG(
                num_envs=16,
                rollout_length=1_000,
                gae_lambda=0.97,
                learning_rate=3e-3,
                value_updates=40,
                normalise_observations=True,
            ),
            1_000_000,
        )
        for env in LUNAR_LANDERS
    },
    **{
        (name, "Pendulum-v1"): Preset(
            dataclasses.replace(
                record, gamma=0.98, replay=Replay(capacity=20_000, batch_size=100, warmup=warmup, updates=1)
            ),
            20_000,
        )
        for name, record, warmup in (
            ("ddpg", DDPG(), 1_000),
            ("td3", TD3(), 1_000),
            ("naf", NAF(noise_scale=0.5), 4_000),  # with fewer uniform actions some seeds end in a corner
            ("qsearch", QSearch(population=19), 1_000),  # 100 rows × (3 × 19 + 1) values of Q an update
        )
    },
    ("trpo", "CartPole-v1"): Preset(
        TRPO(
            num_envs=8,
            rollout_length=128,
            gamma=0.98,
            gae_lambda=0.95,
            learning_rate=2e-3,
            value_epochs=20,
        ),
        100_000,
    ),
    ("trpo", "Pendulum-v1"): Preset(
        TRPO(
            num_envs=4,
            rollout_length=512,
            gamma=0.9,
            gae_lambda=0.95,
            max_kl=0.02,
            value_epochs=20,
            normalise_rewards=True,
        ),
        100_000,
    ),
    ("ppo", "MountainCar-v0"): Preset(
        PPO(
            num_envs=16,
            rollout_length=128,
            epochs=10,
            batch_size=256,
            gae_lambda=0.98,
            learning_rate=1e-3,
            learning_rate_anneal=1.0,
            normalise_observations=True,
            # Every reward is −1 until the car happens on the hill: scaled, V keeps up with them.
            normalise_rewards=True,
        ),
        1_000_000,
    ),
    ("trpo", "MountainCar-v0"): Preset(
        TRPO(
            num_envs=16,
            rollout_length=64,
            gae_lambda=0.95,
            value_epochs=20,
            normalise_observations=True,
            normalise_rewards=True,
        ),
        500_000,
    ),
    **{
        ("trpo", env): Preset(
            TRPO(
                num_envs=16,
                rollout_length=256,
                gamma=0.999,
                gae_lambda=0.98,
                max_kl=0.02,
                batch_size=256,
                learning_rate=1e-3,
                value_epochs=20,
                normalise_observations=True,
                normalise_rewards=True,
            ),
            1_000_000,
        )
        for env in LUNAR_LANDERS
    },
    ("dqn", "CartPole-v1"): Preset(
        DQN(
            num_envs=8,
            rollout_length=4,
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            epsilon_end=0.05,
            exploration_fraction=0.16,
            target_period=500,
            normalise_observations=True,
            replay=Replay(capacity=100_000, batch_size=64, warmup=1_000, updates=32, window=10),
        ),
        100_000,
    ),
    ("ppo", "Hopper-v5"): Preset(
        PPO(
            num_envs=16,
            rollout_length=256,
            epochs=16,
            batch_size=512,
            learning_rate=4e-4,
            learning_rate_anneal=1.0,
            value_coef=0.25,
            normalise_observations=True,
            normalise_rewards=True,
            shared=False,
        ),
        1_000_000,
    ),
    ("trpo", "Hopper-v5"): Preset(MUJOCO_TRPO, 1_000_000),
    ("dqn", "LunarLander-v3"): Preset(
        DQN(
            num_envs=8,
            rollout_length=4,
            learning_rate=1e-3,
            learning_rate_anneal=1.0,
            epsilon_end=0.05,
            exploration_fraction=0.2,
            target_period=500,
            double=True,
            normalise_observations=True,
            hidden=(128, 128),
            replay=Replay(capacity=100_000, batch_size=128, warmup=2_000, updates=8, window=5),
        ),
        300_000,
    ),
    ("dqn", "MountainCar-v0"): Preset(
        DQN(
            num_envs=4,
            rollout_length=4,
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            epsilon_end=0.05,
            exploration_fraction=0.4,
            target_period=600,
            normalise_observations=True,
            replay=Replay(capacity=50_000, batch_size=128, warmup=1_000, updates=16, window=5),
        ),
        120_000,
    ),
    ("ac", "MountainCar-v0"): Preset(
        AC(
            num_envs=4,
            rollout_length=4,
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            normalise_observations=True,
            # What finds the flag: Q starts too high, and a policy that follows it wholly, for 600 steps at a time.
            temperature=0.01,
            target_period=600,
            tau=1.0,
            next_action="expected",
            gradient_action="expected",
            replay=Replay(capacity=50_000, batch_size=128, warmup=1_000, updates=16, window=5),
        ),
        120_000,
    ),
    ("ac", "CartPole-v1"): Preset(
        AC(
            num_envs=8,
            rollout_length=4,
            next_action="expected",
            gradient_action="expected",
            critics=2,
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            temperature=0.3,  # with 0.01 the policy is deterministic too early, and some seeds stay near 200
            normalise_observations=True,
            # Five steps: with one, so few updates leave some seeds near 100. The memory holds the whole run.
            replay=Replay(capacity=200_000, batch_size=64, warmup=1_000, updates=4, window=5),
        ),
        200_000,
    ),
    ("ac", "Pendulum-v1"): Preset(
        AC(
            num_envs=4,
            gamma=0.98,
            critics=2,
            reparameterised=True,
            temperature=0.05,
            replay=Replay(capacity=100_000, batch_size=100, warmup=1_000, updates=2),
        ),
        100_000,
    ),
    ("sac", "MountainCar-v0"): Preset(
        SAC(
            num_envs=4,
            rollout_length=4,
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            normalise_observations=True,
            # As for AC, and one critic: the lower of two no longer starts too high.
            target_period=600,
            tau=1.0,
            critics=1,
            temperature=0.01,
            target_entropy_share=0.2,
            next_action="expected",
            gradient_action="expected",
            replay=Replay(capacity=50_000, batch_size=128, warmup=1_000, updates=16, window=5),
        ),
        120_000,
    ),
    ("sac", "CartPole-v1"): Preset(
        SAC(
            num_envs=8,
            rollout_length=4,
            next_action="expected",
            gradient_action="expected",
            learning_rate=2e-3,
            learning_rate_anneal=1.0,
            normalise_observations=True,
            replay=Replay(capacity=200_000, batch_size=64, warmup=1_000, updates=8, window=5),
        ),
        100_000,
    ),
    ("sac", "Pendulum-v1"): Preset(
        SAC(
            num_envs=1,
            rollout_length=1,
            gamma=0.98,
            learning_rate=1e-3,
            replay=Replay(capacity=20_000, batch_size=128, warmup=500, updates=1),
        ),
        20_000,
    ),
    ("ac", "LunarLander-v3"): Preset(
        AC(
            num_envs=8,
            next_action="expected",
            gradient_action="expected",
            critics=2,
            temperature=0.03,
            normalise_observations=True,
            replay=Replay(capacity=300_000, batch_size=128, warmup=5_000, updates=4, window=3),
        ),
        300_000,
    ),
    ("sac", "LunarLander-v3"): Preset(
        SAC(
            num_envs=8,
            next_action="expected",
            gradient_action="expected",
            learning_rate=1e-3,
            normalise_observations=True,
            replay=Replay(capacity=300_000, batch_size=128, warmup=5_000, updates=4, window=3),
        ),
        300_000,
    ),
    **{
        (name, "LunarLanderContinuous-v3"): Preset(
            dataclasses.replace(
                record,
                num_envs=8,
                normalise_observations=True,
                replay=Replay(capacity=300_000, batch_size=128, warmup=5_000, updates=4),
            ),
            300_000,
        )
        for name, record in (
            ("ac", AC(critics=2, reparameterised=True, temperature=0.03)),
            ("sac", SAC(learning_rate=1e-3)),
            ("naf", NAF(noise_scale=0.3)),
        )
    },
    **{
        (name, "LunarLanderContinuous-v3"): Preset(
            dataclasses.replace(
                record,
                num_envs=4,
                gamma=0.98,
                hidden=(128, 128),
                replay=Replay(capacity=200_000, batch_size=128, warmup=10_000, updates=4),
            ),
            300_000,
        )
        for name, record in (("ddpg", DDPG()), ("td3", TD3()))
    },
    ("qsearch", "LunarLanderContinuous-v3"): Preset(
        QSearch(
            num_envs=8,
            normalise_observations=True,
            replay=Replay(capacity=100_000, batch_size=100, warmup=2_000, updates=2, window=3),
        ),
        100_000,
    ),
}


def preset(name: str, spec: EnvSpec) -> Preset:
    """The preset of an algorithm for an environment; an unknown one starts from its defaults."""
    if (name, spec.id) in PRESETS:
        return PRESETS[name, spec.id]
    record: Any = by_name(name)
    return _GENERAL[name](spec) if name in _GENERAL else Preset(record(), 200_000)


def _general_ppo(spec: EnvSpec) -> Preset:
    """Atari's settings for images (Schulman et al. 2017, table 5), MuJoCo's otherwise, with normalisation."""
    if _has_image(spec):
        return Preset(PPO(num_envs=8, rollout_length=128, learning_rate=2.5e-4, entropy_coef=0.01), 1_000_000)
    continuous = isinstance(spec.action, Continuous)
    return Preset(
        PPO(
            num_envs=8,
            rollout_length=256,
            epochs=10,
            batch_size=64,
            learning_rate=3e-4,
            learning_rate_anneal=float(continuous),
            normalise_observations=True,
            normalise_rewards=continuous,
            shared=not continuous,
            log_std=NARROW if continuous else 0.0,
        ),
        1_000_000 if continuous else 500_000,
    )


def _general_trpo(spec: EnvSpec) -> Preset:
    """MuJoCo's settings: rollouts of 1,024 steps, KL ≤ 0.01, λ = 0.1, V by 20 epochs; wider rollouts of images."""
    if _has_image(spec):
        return Preset(TRPO(num_envs=8, rollout_length=128, value_epochs=4, learning_rate=2.5e-4), 1_000_000)
    continuous = isinstance(spec.action, Continuous)
    return Preset(
        dataclasses.replace(MUJOCO_TRPO, normalise_rewards=continuous, log_std=NARROW if continuous else 0.0),
        1_000_000 if continuous else 500_000,
    )


def _general_dqn(spec: EnvSpec) -> Preset:
    if _has_image(spec):
        replay = Replay(capacity=100_000, batch_size=32, warmup=20_000, updates=2)
        return Preset(DQN(num_envs=8, rollout_length=1, learning_rate=1e-4, replay=replay), 1_000_000)
    return Preset(DQN(hidden=(128, 128), double=True, replay=Replay(updates=4)), 200_000)


def _general_off_policy(record: DDPG | NAF | QSearch, spec: EnvSpec) -> Preset:
    """The sizes of the deterministic actor–critics on MuJoCo; images as DQN has them."""
    if _has_image(spec):
        replay = Replay(capacity=100_000, batch_size=32, warmup=20_000, updates=1)
        return Preset(dataclasses.replace(record, learning_rate=1e-4, replay=replay), 1_000_000)
    replay = Replay(capacity=1_000_000, batch_size=256, warmup=10_000, updates=1)
    return Preset(dataclasses.replace(record, hidden=(256, 256), replay=replay), 300_000)


def _general_ac(spec: EnvSpec) -> Preset:
    return _off_policy(AC(temperature=0.01, baseline=True), spec)


def _general_sac(spec: EnvSpec) -> Preset:
    return _off_policy(SAC(), spec)


def _off_policy(record: AC, spec: EnvSpec) -> Preset:
    """Sums over actions where they can be counted; images as DQN has them, otherwise SAC's own (256 × 256)."""
    source: ActionSource = "expected" if isinstance(spec.action, Discrete) else "policy"
    record = dataclasses.replace(record, next_action=source, gradient_action=source)
    if _has_image(spec):
        replay = Replay(capacity=100_000, batch_size=32, warmup=20_000, updates=2)
        slow = dataclasses.replace(record, num_envs=8, learning_rate=1e-4, actor_learning_rate=1e-4)
        return Preset(dataclasses.replace(slow, replay=replay), 1_000_000)
    replay = Replay(capacity=300_000, batch_size=256, warmup=5_000, updates=4)
    return Preset(dataclasses.replace(record, hidden=(256, 256), replay=replay), 300_000)


def _has_image(spec: EnvSpec) -> bool:
    return any(is_image(part) for _, part in observation_parts(spec.observation))


def _general_pg(spec: EnvSpec, kind: type[PG] = PG) -> Preset:
    """Whole episodes; an environment without a time limit gets one of 1,000 steps."""
    record = kind(rollout_length=spec.max_episode_steps or 1_000, normalise_observations=spec.id != "CartPole-v1")
    return Preset(record, 200_000)


_GENERAL: dict[str, Callable[[EnvSpec], Preset]] = {
    "pg": _general_pg,
    "vpg": lambda spec: _general_pg(spec, VPG),
    "ddpg": lambda spec: _general_off_policy(DDPG(), spec),
    "td3": lambda spec: _general_off_policy(TD3(), spec),
    "naf": lambda spec: _general_off_policy(NAF(), spec),
    "qsearch": lambda spec: _general_off_policy(QSearch(), spec),
    "trpo": _general_trpo,
    "ppo": _general_ppo,
    "dqn": _general_dqn,
    "ac": _general_ac,
    "sac": _general_sac,
}
