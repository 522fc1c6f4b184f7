"""Environments: pure-JAX ones, and adapters for Gymnasium and EnvPool. `make` finds one by its name."""

import difflib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ridgeline.errors import UsageError
from ridgeline.types import Environment, EnvSpec, HostFactory

if TYPE_CHECKING:
    import gymnasium

BACKENDS = ("jax", "envpool", "gymnasium", "gymnasium-async", "stepped")

type Named = str | Callable[[], Any] | Environment[Any] | HostFactory | gymnasium.Env[Any, Any]
type Found = Environment[Any] | HostFactory


def make(env: Named, backend: str | None = None, **options: Any) -> Found:
    """The environment of that name: one in pure JAX, or a factory of host environments.

    `env` is an id; `module:Id` or `module:callable`; a callable that returns a Gymnasium or a pure-JAX environment;
    a Gymnasium environment (which can only serve as one); or what this function returns. For an id the backend is
    the first of "jax", "envpool" and "gymnasium" that has it; `backend` may name another: "gymnasium-async" gives
    each environment a process, "stepped" steps a pure-JAX one from Python. `options` go to the backend.

    Raises: `UsageError` where there is no such environment, or not in that backend or with those options;
    `EnvironmentCrash` where the user's module or environment raises while it is made.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if isinstance(env, str):
        return _named(env, backend, options)
    if hasattr(env, "build"):
        _refuse(options, backend, "a factory")
        return env
    if _is_native(env):
        return _native(env, backend, options)
    return _gymnasium(env, backend, options)


def ids() -> dict[str, tuple[str, ...]]:
    """The ids that each backend has, sorted; one whose package is not installed is left out."""
    import gymnasium

    from ridgeline.environments.classic import CLASSICS

    found = {"jax": sorted(CLASSICS), "gymnasium": sorted(gymnasium.registry)}
    if _has_envpool():
        from ridgeline.environments import envpool

        found["envpool"] = sorted(envpool.ids())
    return {backend: tuple(names) for backend, names in found.items()}
