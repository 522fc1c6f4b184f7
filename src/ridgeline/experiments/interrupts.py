"""Signals that a run obeys: SIGINT and SIGTERM stop it after saving, SIGUSR1 saves it and it goes on."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from ridgeline.errors import Stopped

_STOPS = (signal.SIGINT, signal.SIGTERM)
_SAVE = getattr(signal, "SIGUSR1", None)  # not on Windows


class Interrupts:
    """While entered, signals wait for what must be `whole` to end. A second one to stop leaves at once.

    Only the main thread can receive signals; elsewhere nothing is installed.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal to stop that waits
        self.save = False  # whether somebody asks for a checkpoint
        self._depth = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (*_STOPS, *([_SAVE] if _SAVE else [])):
                self._before[number] = signal.signal(number, self._receive)
            # Python runs handlers between two of its own instructions only: not while XLA compiles, or while an
            # environment hangs. A thread hears them at once.
            self._hear, self._tell = os.pipe()
            os.set_blocking(self._tell, False)
            self._wakeup = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
            self._listener = threading.Thread(target=self._listen, name="ridgeline signals", daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            self._before = {}
            os.close(self._tell)  # which ends the thread, once it has said what it heard
            self._listener.join()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """What is begun here is finished before a signal stops the run."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self.asked is not None and not self._depth:
            raise Stopped(self.asked)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == _SAVE:
            self.save = True
        elif self.asked is None:
            self.asked = number
            if not self._depth:
                raise Stopped(number)

    def _listen(self) -> None:
        heard = 0
        while word := os.read(self._hear, 1):
            if word[0] in _STOPS:
                heard += 1
                name = signal.Signals(word[0]).name
                if heard > 1:
                    _say(f"ridgeline: {name} again: stopped without saving")
                    os._exit(128 + word[0])
                _say(f"ridgeline: {name}: saving, then stopping (a second one leaves at once)")
        os.close(self._hear)


def _say(text: str) -> None:
    # Not print: its lock may be held by the thread that was interrupted.
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), (text + "\n").encode())
