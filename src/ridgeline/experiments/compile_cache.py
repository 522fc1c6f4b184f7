"""What XLA compiles, kept for the next process in a folder that is the user's alone.

    ~/.cache/ridgeline/compiled/KIND/    ($XDG_CACHE_HOME, ~/Library/Caches and %LOCALAPPDATA% where they are used)

It holds native code that runs as it is, so nobody else may write there. KIND is a digest of the programs and the
CPU: what was compiled for another is never loaded. `RIDGELINE_COMPILE_CACHE=0` turns it off, and where
`JAX_COMPILATION_CACHE_DIR` or JAX's configuration names a folder, that one is used, as it is.
"""

import hashlib
import importlib.metadata
import os
import stat
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from ridgeline.experiments.fingerprint import cpu

VARIABLE = "RIDGELINE_COMPILE_CACHE"
LIMIT = 1 << 30  # bytes; beyond it the oldest half goes
SHORTEST = 0.05  # seconds of compiling that are worth a file


def keep_compilations() -> tuple[str, ...]:
    """Keep what is compiled from now on; a line that says why not, where that cannot be."""
    if os.environ.get(VARIABLE) == "0" or jax.config.jax_compilation_cache_dir is not None:
        return ()
    try:
        folder = _private(_caches() / "ridgeline" / "compiled")
        _trim(folder)
        kind = f"{cpu()} {importlib.metadata.version('jaxlib')} {os.environ.get('XLA_FLAGS', '')}"
        folder = _private(folder / hashlib.sha256(kind.encode()).hexdigest()[:16])
    except OSError as error:
        return (f"nothing that is compiled is kept ({error.strerror or error}): {VARIABLE}=0 if that is intended",)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    compilation_cache.reset_cache()  # something may have been compiled already, when there was no folder
    return ()


def _caches() -> Path:
    """Where this system keeps a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _private(folder: Path) -> Path:
    """The folder, made where it is missing; `OSError` where somebody else could write there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise OSError(0, f"{folder} is not a folder of yours")
    if hasattr(os, "getuid") and found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _trim(folder: Path) -> None:
    """Remove the oldest files until half the limit is left, where it is exceeded."""
    files = []
    for path in folder.glob("*/*"):
        try:
            found = path.stat()
        except OSError:  # another process trims too
            continue
        files.append((found.st_mtime, found.st_size, path))
    size = sum(each[1] for each in files)
    if size <= LIMIT:
        return
    for _, bytes_, path in sorted(files):
        if size <= LIMIT // 2:
            return
        path.unlink(missing_ok=True)
        size -= bytes_
