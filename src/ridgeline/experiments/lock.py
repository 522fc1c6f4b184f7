"""One process a run: a lock on its folder that ends with the process, however it ends."""

import os
import socket
import sys
from pathlib import Path

from ridgeline.errors import UsageError
from ridgeline.experiments.files import storing

if sys.platform != "win32":  # runs are not locked there
    import fcntl


class Lock:
    """A folder's lock, held until `release`. Raises `UsageError` that names who holds it.

    The system frees it when its process ends, so one that is found is never stale. The file stays: were it
    removed, two processes could each lock a file of that name.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / ".lock"
        with storing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
            os.close(self._descriptor)
            raise UsageError(f"run {folder} is in use by {holder}: wait for it or stop it") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the run."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
