"""Which devices JAX computes on, decided before it starts."""

import contextlib

from ridgeline.errors import UsageError


def use_all_cores(device: str | None) -> None:
    """One XLA device a core, so that work is shared out; only the command line decides that.

    And none works in the background: whoever calls waits for the answer, which another thread gives later. JAX is
    not started yet: a run may want another number of devices (`arrange_cores`). Where it is, nothing changes.
    """
    import jax

    from ridgeline.experiments.cores import cores

    if device not in (None, "cpu", "gpu", "cuda", "tpu"):
        raise UsageError(f"no device {device!r}: choose cpu, gpu or tpu")
    if device is not None:
        jax.config.update("jax_platforms", "cuda" if device == "gpu" else device)
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())
    jax.config.update("jax_cpu_enable_async_dispatch", False)
