"""How long JAX has spent compiling in this process."""

import jax

_SPENT = {"seconds": 0.0}


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    # Tracing is left out: its events nest, and their sum would count a second twice.
    if event.endswith(("backend_compile_duration", "jaxpr_to_mlir_module_duration")):
        _SPENT["seconds"] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compiling_seconds() -> float:
    """Seconds of lowering and of XLA's compiler since this module was imported."""
    return _SPENT["seconds"]
