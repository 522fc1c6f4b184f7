"""What this machine has, and whether its JAX computes rightly."""

import importlib.metadata
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

_PACKAGES = ("jax", "jaxlib", "equinox", "numpy", "gymnasium", "envpool", "box2d", "mujoco")


def examine() -> int:
    """Print versions, devices and the checks; 0 if every check passes, 4 otherwise."""
    print(f"ridgeline {importlib.metadata.version('ridgeline')}, Python {platform.python_version()}")
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    for name in _PACKAGES:
        try:
            print(f"  {name:10} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name:10} not installed")
    print(f"  devices    {', '.join(str(device) for device in jax.devices())}")
    checks = {
        "batched products are right (jax 0.10.2 on CPUs is not)": products_are_right(),
        "small writes in a loop stay in place (jax 0.11.1 copies)": writes_stay_in_place(),
        "scan and single steps agree bit for bit": scans_agree(),
    }
    for name, passed in checks.items():
        print(f"  {'ok ' if passed else 'BAD'} {name}")
    if not all(checks.values()):
        print("upgrade: pip install -U 'jax>=0.12'")
        return 4
    return 0


def products_are_right() -> bool:
    """Σ (W r)² of many r at once equals NumPy's, which one release of JAX silently gets wrong."""
    rng = np.random.default_rng(0)
    w, r = rng.normal(size=(64, 64)).astype(np.float32), rng.normal(size=(100, 64)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda x: jnp.sum((w @ x) ** 2)))(r)
    return bool(np.allclose(found, ((r @ w.T) ** 2).sum(1), rtol=1e-3))


def writes_stay_in_place() -> bool:
    """A write of one number takes no longer in a large buffer than in a small one (a factor of 50 apart)."""

    def seconds(size: int) -> float:
        @jax.jit
        def fill(buffer: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, 2000, lambda i, b: b.at[i % size].set(1.0), buffer)

        buffer = jnp.zeros(size)
        fill(buffer).block_until_ready()
        begun = time.perf_counter()
        fill(buffer).block_until_ready()
        return time.perf_counter() - begun

    # The one copy that the call itself makes is allowed for: it takes about a millisecond.
    return seconds(1_000_000) < 50 * seconds(1_000) + 0.05


def scans_agree() -> bool:
    """Ten steps in a scan give the bits of ten single steps."""
    w = jax.random.normal(jax.random.key(0), (32, 32)) / 6

    def step(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    start = jnp.ones(32)
    scanned = jax.jit(lambda x: jax.lax.scan(lambda y, _: (step(y), None), x, None, 10)[0])(start)
    single = start
    for _ in range(10):
        single = jax.jit(step)(single)
    return bool(jnp.array_equal(scanned, single))
