"""Opening a policy, with JAX or without. Importing this imports neither JAX nor an algorithm."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ridgeline.errors import UsageError

if TYPE_CHECKING:
    from ridgeline.experiments.policy import Policy
    from ridgeline.numpy_policy import NumpyPolicy


@overload
def load_policy(path: str | Path, algorithm: Any = None, runtime: Literal["jax"] = "jax") -> "Policy": ...


@overload
def load_policy(path: str | Path, algorithm: None = None, *, runtime: Literal["numpy"]) -> "NumpyPolicy": ...


def load_policy(path: str | Path, algorithm: Any = None, runtime: str = "jax") -> Any:
    """Read a policy; no code in it is run. `policy(obs)` is then its greedy action, in the environment's terms.

    Pass the `algorithm` record if it has a custom encoder. With `runtime` "numpy" JAX is not imported.

    Raises: `FileError` where the file is damaged or its arrays are not those of the record; `UsageError` where the
    policy acts with JAX only.
    """
    if runtime == "jax":
        from ridgeline.experiments import policy

        return policy.load(path, algorithm)
    if runtime != "numpy":
        raise UsageError(f"runtime is {runtime!r}: choose 'jax' or 'numpy'")
    if algorithm is not None:
        raise UsageError("an algorithm's record needs JAX: leave it out, or choose runtime 'jax'")
    from ridgeline import numpy_policy

    return numpy_policy.load(path)
