"""A watchdog for calls that may never return: environments that hang.

A call notes only when it began and that it ended; one thread for the whole process looks at that now and then. A
call that runs over its time in the main thread is interrupted by a signal, whose handler raises there. Where that
does not help (a C function that does not return, a call in another thread) the process ends after a grace. A C
function that hangs and keeps Python's lock stops the watchdog's thread too: only a process of its own
(`gymnasium-async`) guards against that.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ridgeline.errors import EnvironmentCrash, Interruption, UsageError

SECONDS = 60.0  # how long a call may take where nothing else is said
GRACE = 5.0  # how long an interrupted call may take to leave
# One that nobody else uses, and ignored by default, so that a late one harms nothing. Windows has none.
_SIGNAL = getattr(signal, "SIGURG", None)


class Overdue(Interruption):
    """Raised inside the call that took too long; it passes through an environment that catches every Exception."""


class Watch:
    """Watches one call at a time, `with watch: call()`; none where `seconds` is 0.

    Several calls may share the `with`, if each sets `began` to `time.monotonic()`.

    `doing` says in a few words what is being done; it is asked only where that hangs. Raises: `EnvironmentCrash`
    from a call in the main thread that took too long.
    """

    def __init__(self, seconds: float, doing: Callable[[], str]):
        self.seconds, self.doing = seconds, doing
        self.began: float | None = None
        self.interrupted: float | None = None
        self.in_main = False
        self._known = False

    def __enter__(self) -> None:
        if self.seconds:
            if not self._known:
                self._known = True
                self.in_main = threading.current_thread() is threading.main_thread()
                _DOG.watch(self)
            self.began = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.began = None
        if self.interrupted is not None:  # also where the environment caught what the handler raised
            self.interrupted = None
            raise EnvironmentCrash(self.line()) from None

    def close(self) -> None:
        """Nothing more will be watched."""
        self._known = False
        _DOG.forget(self)

    def line(self) -> str:
        """What to say of a call that hangs."""
        return f"{self.doing()} did not return within {self.seconds:g} s: fix it, or allow more (--env-timeout)"


def allow(seconds: float | int | None) -> float:
    """The seconds that a call may take, of what a user asked for; 0 is for ever.

    Raises: `UsageError` where it is no such number.
    """
    if seconds is None:
        return SECONDS
    if isinstance(seconds, bool) or not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"env_timeout is {seconds}: it must be a number of seconds, or 0 for ever")
    return float(seconds)


def within[T](seconds: float, doing: str, call: Callable[[], T]) -> T:
    """What the call returns. Raises: `EnvironmentCrash` where it takes longer."""
    watch = Watch(seconds, lambda: doing)
    try:
        with watch:
            return call()
    finally:
        watch.close()


class _Dog:
    """The thread, and the handler of the signal, while there is anything to watch."""

    def __init__(self) -> None:
        self.watches: set[Watch] = set()
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None
        self.before: Any = None
        self.listening = False
        self.resumed = 0.0  # when the process last went on after a stop

    def watch(self, watch: Watch) -> None:
        if watch.in_main and not self.listening and _SIGNAL is not None:
            self.before = signal.signal(_SIGNAL, self._interrupt)
            self.listening = True
        with self.lock:
            self.watches.add(watch)
            if self.thread is None:
                self.thread = threading.Thread(target=self._look, name="ridgeline-watchdog", daemon=True)
                self.thread.start()
        self.wake.set()  # it may wait for one that has longer

    def forget(self, watch: Watch) -> None:
        with self.lock:
            self.watches.discard(watch)
            none_in_main = not any(other.in_main for other in self.watches)
        if none_in_main and self.listening and threading.current_thread() is threading.main_thread():
            assert _SIGNAL is not None
            signal.signal(_SIGNAL, signal.SIG_DFL if self.before is None else self.before)
            self.listening = False

    def _look(self) -> None:
        looked, pause = time.monotonic(), 0.0
        while True:
            with self.lock:
                watches = list(self.watches)
                if not watches:
                    self.thread = None
                    return
            now = time.monotonic()
            if now - looked > pause + GRACE:
                self.resumed = now
            looked = now
            for watch in watches:
                began = watch.began  # once: it ends meanwhile
                if began is not None and now - max(began, self.resumed) > watch.seconds:
                    self._end(watch, now, max(began, self.resumed))
            pause = min(1.0, min(watch.seconds for watch in watches) / 4)
            self.wake.wait(pause)
            self.wake.clear()

    def _end(self, watch: Watch, now: float, began: float) -> None:
        reachable = watch.in_main and self.listening and hasattr(signal, "pthread_kill")
        if now - max(watch.interrupted or began + watch.seconds, self.resumed) > GRACE:
            print(f"\nridgeline: {watch.line()}; it could not be interrupted", file=sys.stderr, flush=True)
            os._exit(EnvironmentCrash.exit_code)
        if reachable:
            watch.interrupted = watch.interrupted or now
            signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL or 0)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is Watch.__exit__.__code__:
            return  # it has just returned
        for watch in list(self.watches):
            if watch.in_main and watch.began is not None and watch.interrupted is not None:
                raise Overdue(watch.line())
        if callable(self.before):
            self.before(number, frame)


_DOG = _Dog()
