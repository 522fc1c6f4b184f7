"""What a result is exact on: the programs and the machine that compute it."""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

from ridgeline.experiments.cores import threads


def fingerprint() -> dict[str, Any]:
    """Versions, flags, devices and CPU. Where two are equal, so are the runs, bit for bit."""
    devices = jax.devices()
    return {
        "ridgeline": importlib.metadata.version("ridgeline"),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": importlib.metadata.version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "threads": threads(),
        "x64": bool(jax.config.jax_enable_x64),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Where two fingerprints differ, as a clause; empty where they do not."""
    names = [name for name in now if then.get(name) != now[name]]
    return ", ".join(f"{name} {then.get(name)!s:.60} → {now[name]!s:.60}" for name in names)


def cpu() -> str:
    """The CPU's name, and a digest of what it can do."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in facts.items()}
    flags = hashlib.sha256(known.get("flags", known.get("Features", "")).encode()).hexdigest()[:8]
    return f"{known.get('model name', platform.machine())} {flags}"
