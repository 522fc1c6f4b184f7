"""Which devices JAX computes on, decided before it starts."""

import os

from ridgeline.errors import UsageError


def use_all_cores(device: str | None) -> None:
    """One XLA device a core, so that seeds are shared out; only the command line decides that.

    And none works in the background: whoever calls waits for the answer, which another thread gives later.
    """
    import jax

    if device not in (None, "cpu", "gpu", "cuda", "tpu"):
        raise UsageError(f"no device {device!r}: choose cpu, gpu or tpu")
    if device is not None:
        jax.config.update("jax_platforms", "cuda" if device == "gpu" else device)
    jax.config.update(
        "jax_num_cpu_devices", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.devices()
    except Exception as error:  # which one depends on the platform
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"device {device or 'cpu'} is not to be had here: {reason}") from None
