"""How many devices and threads JAX computes one run with, decided before it starts."""

import os
from typing import Any

import jax

from ridgeline.encoders import is_image
from ridgeline.errors import UsageError
from ridgeline.types import EnvSpec, observation_parts

THREADS = "PJRT_NPROC"  # what XLA's CPU client reads as it starts: the threads that share out one program's work
# Rows and width from which on a product gains more from a second thread than the handing over costs. Below, runs
# took 1.05 to 1.6 times as long with two threads as with one; at both, 0.7 times.
_LARGE = 256


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> str:
    """How many share out one program's work, by what the environment says."""
    return os.environ.get(THREADS) or os.environ.get("NPROC") or str(cores())


def arrange_cores(algorithm: Any, spec: EnvSpec, num_seeds: int) -> None:
    """A CPU device for each seed, at most one a core; where products are small, no more threads than devices.

    None computes in the background: who waits for the answer needs no other thread to give it. Where JAX has
    started already, or the user has said how many threads there are, that stays as it is.

    Raises: `UsageError` where the platform that was chosen is not to be had.
    """
    devices = min(cores(), num_seeds)
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # JAX has started
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "NPROC" not in os.environ and not has_large_products(algorithm, spec):
        os.environ.setdefault(THREADS, str(devices))
    try:
        jax.devices()
    except Exception as error:  # which one depends on the platform
        reason = " ".join(str(error).split())[:120] or "JAX finds none"
        raise UsageError(f"device {jax.config.jax_platforms or 'cpu'} is not to be had here: {reason}") from None


def has_large_products(algorithm: Any, spec: EnvSpec) -> bool:
    """Whether a gradient step may gain from threads: wide layers of many rows may, images, and custom encoders."""
    hidden, encoder = getattr(algorithm, "hidden", None), getattr(algorithm, "encoder", None)
    images = any(is_image(part) for _, part in observation_parts(spec.observation))
    if hidden is None or encoder is not None or images:
        return True
    record = algorithm if hasattr(algorithm, "batch_size") else getattr(algorithm, "replay", None)
    rows = getattr(record, "batch_size", algorithm.num_envs * algorithm.rollout_length)
    return bool(rows >= _LARGE and max(hidden, default=0) >= _LARGE)
