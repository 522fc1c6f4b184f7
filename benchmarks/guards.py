"""What it costs to check every value that crosses the border to a host environment.

    uv run python benchmarks/guards.py          # measures and writes benchmarks/results/guards.json
    uv run python benchmarks/guards.py --quick  # a tenth of it, printed only

Whole training runs of PPO, two of them in one process, with the same seeds, so that they learn the same: one on
the shipped adapter, one on an adapter of this file that checks nothing (the library has no switch for that).
Chunks of iterations alternate, which goes first alternates too, so that both see the same machine. A ratio below 1
says how much of the unguarded throughput is left; its interval is a bootstrap over pairs. On a machine that others
use, the ratio of processor time (all threads) says more: it is given beside.
"""

import dataclasses
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from ridgeline.environments import make
from ridgeline.environments.host import Clock
from ridgeline.experiments.presets import preset
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import prepare
from ridgeline.types import EnvSpec, Step

RESULTS = Path(__file__).parent / "results" / "guards.json"
CASES = (("gymnasium", 8), ("gymnasium", 16), ("envpool", 64))
PAIRS, SECONDS = 100, 0.1  # chunks of each adapter, and about how long one lasts


class Unguarded:
    """The least that an adapter for CartPole must do: whatever comes is passed on."""

    reseeds = True

    def __init__(self, backend: str, spec: EnvSpec) -> None:
        self.backend, self.spec, self.reseeds = backend, spec, backend == "gymnasium"

    def build(self, num_envs: int) -> Any:
        return (UnguardedRows if self.backend == "gymnasium" else UnguardedPool)(self.spec, num_envs)


class UnguardedRows:
    """Gymnasium environments one after another."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self.spec, self.num_envs, self.clock = spec, num_envs, Clock(num_envs, spec.max_episode_steps)
        self.envs = [
            gymnasium.make(spec.id, max_episode_steps=-1, disable_env_checker=True) for _ in range(num_envs)
        ]

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
        obs = np.zeros((self.num_envs, 4), np.float32)
        for i in np.flatnonzero(mask).tolist():
            obs[i] = self.envs[i].reset(seed=int(seeds[i]))[0]
        self.clock.start(mask)
        return obs

    def step(self, actions: np.ndarray) -> Step:
        obs = np.empty((self.num_envs, 4), np.float32)
        reward = np.empty(self.num_envs, np.float32)
        terminated = np.empty(self.num_envs, np.bool_)
        truncated = self.clock.tick()
        sent = actions.astype(np.int64)
        for i, env in enumerate(self.envs):
            obs[i], reward[i], terminated[i], cut, _ = env.step(sent[i])
            truncated[i] |= cut
        return Step(obs, reward, terminated, truncated)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class UnguardedPool:
    """EnvPool's environments."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self.spec, self.num_envs, self.clock = spec, num_envs, Clock(num_envs, spec.max_episode_steps)
        self.pool: Any = None

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import envpool

        if self.pool is None:
            self.pool = envpool.make_gymnasium(
                self.spec.id,
                num_envs=self.num_envs,
                seed=[int(seed) for seed in seeds],
                max_episode_steps=(self.spec.max_episode_steps or 0) + 1,
            )
        self.clock.start(mask)
        obs = np.zeros((self.num_envs, 4), np.float32)
        rows = np.flatnonzero(mask).astype(np.int32)
        if rows.size:
            found, info = self.pool.reset(rows)
            obs[info["env_id"]] = found
        return obs

    def step(self, actions: np.ndarray) -> Step:
        obs, reward, terminated, truncated, _ = self.pool.step(actions)
        return Step(obs, reward, terminated, truncated | self.clock.tick())

    def close(self) -> None:
        self.pool.close()


def measure(backend: str, num_envs: int, pairs: int) -> dict[str, Any]:
    """Medians of environment steps per second with and without guards, and the ratio of pairs."""
    factory = make("CartPole-v1", backend)
    record = preset("ppo", factory.spec).algorithm
    algorithm = prepare(dataclasses.replace(record, num_envs=num_envs))
    runners = [Hosted(algorithm, f, (0,)) for f in (factory, Unguarded(backend, factory.spec))]
    each = num_envs * record.rollout_length
    for runner in runners:  # compiles, and lets the policy leave the short episodes of its beginning
        runner.run(0, 20, 1e6)
    begun = time.perf_counter()
    runners[0].run(20, 5, 1e6)
    runners[1].run(20, 5, 1e6)
    count = max(1, round(SECONDS / ((time.perf_counter() - begun) / 10)))
    speeds, work = np.zeros((pairs, 2)), np.zeros((pairs, 2))
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            begun, busy = time.perf_counter(), time.process_time()
            runners[which].run(25 + pair * count, count, 1e6)
            speeds[pair, which] = count * each / (time.perf_counter() - begun)
            work[pair, which] = time.process_time() - busy
    for runner in runners:
        runner.close()
    ratios = speeds[:, 0] / speeds[:, 1]
    draws = np.random.default_rng(0).choice(ratios, (2_000, pairs))
    low, high = np.quantile(np.median(draws, 1), (0.025, 0.975))
    return {
        "backend": backend,
        "num_envs": num_envs,
        "guarded": float(np.median(speeds[:, 0])),
        "unguarded": float(np.median(speeds[:, 1])),
        "ratio": float(np.median(ratios)),
        "interval": [float(low), float(high)],
        "pairs": pairs,
        "ratio_of_processor_time": float(np.median(work[:, 1] / work[:, 0])),
        "stepping": stepping(backend, num_envs),
    }


def stepping(backend: str, num_envs: int, steps: int = 500) -> dict[str, float]:
    """Microseconds of one step of all environments, of the adapters alone: no policy, no learning."""
    factory = make("CartPole-v1", backend)
    hosts = {"guarded": factory.build(num_envs), "unguarded": Unguarded(backend, factory.spec).build(num_envs)}
    seeds, every = np.arange(num_envs), np.ones(num_envs, bool)
    actions = np.random.default_rng(0).integers(0, 2, (steps, num_envs)).astype(np.int32)
    best = dict.fromkeys(hosts, np.inf)
    for _ in range(5):
        for name, host in hosts.items():
            host.reset(seeds, every)
            begun = time.perf_counter()
            for row in actions:
                step = host.step(row)
                ended = step.terminated | step.truncated
                if ended.any():
                    host.reset(seeds, ended)
            best[name] = min(best[name], (time.perf_counter() - begun) / steps * 1e6)
    for host in hosts.values():
        host.close()
    return best


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    measured = []
    for backend, num_envs in CASES:
        found = measure(backend, num_envs, PAIRS // 5 if quick else PAIRS)
        low, high = found["interval"]
        stepping_alone = " against ".join(f"{x:.0f} µs" for x in found["stepping"].values())
        print(
            f"{backend:9} × {num_envs:2}: {found['guarded']:,.0f} steps/s guarded, {found['unguarded']:,.0f} "
            f"unguarded, ratio {found['ratio']:.3f} [{low:.3f}, {high:.3f}], of processor time "
            f"{found['ratio_of_processor_time']:.3f}; adapters alone {stepping_alone}",
            flush=True,
        )
        measured.append(found)
    if not quick:
        about = {"machine": platform.platform(), "python": platform.python_version(), "numpy": np.__version__}
        RESULTS.write_text(json.dumps({**about, "cases": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
