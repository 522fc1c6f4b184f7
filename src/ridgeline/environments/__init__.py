"""Environments: pure-JAX ones, and adapters for Gymnasium and EnvPool. `make` finds one by its name."""

import importlib.util
import itertools
from typing import Any, TypeGuard

from ridgeline.environments.base import native_spaces
from ridgeline.environments.host import load, near
from ridgeline.environments.watchdog import SECONDS, allow
from ridgeline.errors import UsageError, short
from ridgeline.specs import own_spaces
from ridgeline.types import Environment, EnvSpec, HostFactory

BACKENDS = ("jax", "envpool", "gymnasium", "gymnasium-async", "stepped")

type Found = Environment[Any] | HostFactory


def make(env: Any, backend: str | None = None, *, env_timeout: float | int | None = None, **options: Any) -> Found:
    """The environment of that name: one in pure JAX, or a factory of host environments.

    `env` is an id; `module:Id` or `module:callable`; a callable that returns a Gymnasium or pure-JAX environment;
    a Gymnasium environment (which can only serve as one); or what this function returns. For an id the backend is
    the first of "jax", "envpool" and "gymnasium" that has it; `backend` may name another: "gymnasium-async" gives
    each environment a process, "stepped" steps a pure-JAX one from Python. `options` go to the backend.
    `env_timeout` is how many seconds a call of a host environment may take: 60 where it is None, 0 for ever.

    Raises: `UsageError` where there is no such environment, or not in that backend or with those options;
    `EnvironmentCrash` where the user's module or environment raises while it is made.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if env_timeout is not None:
        options["env_timeout"] = allow(env_timeout)
    if isinstance(env, str):
        return _named(env, backend, options)
    if _is_factory(env):
        _refuse(options, backend, "a factory")
        return env
    if _is_native(env):
        return _native(env, backend, options)
    return _gymnasium(env, backend, options)


def spaces_of(env: Found) -> dict[str, Any]:
    """The spaces of what `make` returns, as JSON: the terms of the environment itself."""
    if hasattr(env, "build"):
        return getattr(env, "spaces", None) or own_spaces(env.spec)
    return native_spaces(env)


def ids() -> dict[str, tuple[str, ...]]:
    """The ids that each backend has, sorted; one whose package is not installed is left out."""
    import gymnasium

    from ridgeline.environments.classic import CLASSICS

    found = {"jax": sorted(CLASSICS), "gymnasium": sorted(gymnasium.registry)}
    if _has_envpool():
        from ridgeline.environments import envpool

        found["envpool"] = sorted(envpool.ids())
    return {backend: tuple(names) for backend, names in found.items()}


def _named(name: str, backend: str | None, options: dict[str, Any]) -> Found:
    """The environment of that id, `module:Id` or `module:callable`."""
    from ridgeline.environments.classic import CLASSICS

    module, _, member = name.rpartition(":")
    if module:
        return _imported(module, member, backend, options)
    if name in CLASSICS and backend in (None, "jax", "stepped"):
        return _native(CLASSICS[name](), backend, options)
    if backend in ("jax", "stepped"):
        raise UsageError(f"no pure-JAX environment {name!r}: {near(name, list(CLASSICS))}")
    if backend == "envpool" or (backend is None and _has_envpool()):
        from ridgeline.environments import envpool

        if backend == "envpool" or name in envpool.ids():
            return envpool.EnvPoolFactory(name, **options)
    import gymnasium

    if backend is None and name not in gymnasium.registry:
        raise UsageError(f"unknown environment {name!r}: {near(name, {*itertools.chain(*ids().values())})}")
    return _gymnasium(name, backend, options)


def _imported(module: str, member: str, backend: str | None, options: dict[str, Any]) -> Found:
    """What a user's module registers or holds under that name."""
    import gymnasium

    loaded = load(module)
    if member in gymnasium.registry:
        return _gymnasium(member, backend, options)
    if isinstance(found := getattr(loaded, member, None), str | None):
        hint = near(member, [*gymnasium.registry, *dir(loaded)])
        raise UsageError(f"module {module} neither registers nor holds {member!r}: {hint}")
    return make(found, backend, **options)


def _gymnasium(env: Any, backend: str | None, options: dict[str, Any]) -> Found:
    """A factory of Gymnasium environments, or the pure-JAX environment that the callable returns."""
    import gymnasium

    from ridgeline.environments.guard import close_quietly, construct
    from ridgeline.environments.gymnasium import GymnasiumFactory

    if not (isinstance(env, str | gymnasium.Env) or callable(env)):
        raise UsageError(f"{short(env)} is not an environment: pass an id, an environment or what returns one")
    if callable(env):
        timeout = options.get("env_timeout", SECONDS)
        built = construct(env, timeout=timeout)
        if _is_native(built):
            return _native(built, backend, options)
        close_quietly(built, timeout)
    if backend not in (None, "gymnasium", "gymnasium-async"):
        raise UsageError(f"backend {backend!r} cannot run {short(env)}: leave it out or choose 'gymnasium'")
    return GymnasiumFactory(env, "async" if backend == "gymnasium-async" else "sync", **options)


def _native(env: Environment[Any], backend: str | None, options: dict[str, Any]) -> Found:
    """The pure-JAX environment itself, or its factory."""
    if backend not in (None, "jax", "stepped"):
        raise UsageError(f"backend {backend!r} cannot run the pure-JAX environment {env.spec.id}: leave it out")
    timeout = options.pop("env_timeout", None)  # compiled, it cannot be watched
    _refuse(options, None, f"the pure-JAX environment {env.spec.id}")
    if backend != "stepped":
        return env
    from ridgeline.environments.stepped import SteppedFactory

    return SteppedFactory(env, timeout)


def _refuse(options: dict[str, Any], backend: str | None, what: str) -> None:
    if options or backend:
        given = ", ".join([*options, *(["backend"] if backend else [])])
        raise UsageError(f"{what} takes no options ({given}): leave them out or name another backend")


def _is_factory(env: object) -> TypeGuard[HostFactory]:
    return not isinstance(env, type) and hasattr(env, "build")


def _is_native(env: object) -> TypeGuard[Environment[Any]]:
    """Whether it is a pure-JAX environment; a class of them is not one yet."""
    return not isinstance(env, type) and isinstance(getattr(env, "spec", None), EnvSpec) and hasattr(env, "step")


def _has_envpool() -> bool:
    """Whether EnvPool is installed, without the seconds that importing it takes."""
    return importlib.util.find_spec("envpool") is not None
