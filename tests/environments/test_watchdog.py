"""Calls that do not return: interrupted in the main thread, else the end of the process; and what is restored."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ridgeline.environments import make, watchdog
from ridgeline.environments.watchdog import Watch, allow, within
from ridgeline.errors import EnvironmentCrash, UsageError


def test_a_call_in_time_costs_nothing_and_leaves_nothing():
    before = signal.getsignal(signal.SIGURG)
    assert within(5.0, "it", lambda: 3) == 3
    assert signal.getsignal(signal.SIGURG) == before
    with pytest.raises(ZeroDivisionError):
        within(5.0, "it", lambda: 1 / 0)
    assert signal.getsignal(signal.SIGURG) == before


def test_a_handler_that_was_there_is_there_again_and_hears_its_own_signals():
    heard = []
    before = signal.signal(signal.SIGURG, lambda number, frame: heard.append(number))
    try:
        within(5.0, "it", lambda: signal.raise_signal(signal.SIGURG))
        assert heard == [signal.SIGURG]
        signal.raise_signal(signal.SIGURG)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGURG, before)


@pytest.mark.parametrize("caught", [(), Exception, BaseException])
def test_a_call_that_hangs_is_interrupted_even_if_it_catches_that(caught):
    def hang():
        try:
            time.sleep(60)
        except caught:
            return

    begun = time.monotonic()
    with pytest.raises(EnvironmentCrash, match=r"it did not return within 0.2 s"):
        within(0.2, "it", hang)
    assert time.monotonic() - begun < 10


def test_several_calls_of_one_watch_have_their_time_each():
    watch = Watch(0.6, lambda: "it")
    with watch:
        for _ in range(4):
            watch.began = time.monotonic()
            time.sleep(0.25)
    watch.close()


def test_the_time_between_calls_does_not_count():
    watch = Watch(0.2, lambda: "it")
    with watch:
        pass
    time.sleep(0.5)
    with watch:
        pass
    watch.close()


def test_the_thread_ends_with_what_it_watches():
    before = set(threading.enumerate())  # other hosts of this process may still be watched
    within(0.2, "it", lambda: None)
    begun = time.monotonic()
    while set(threading.enumerate()) - before and time.monotonic() - begun < 10:
        time.sleep(0.1)
    assert not set(threading.enumerate()) - before


def test_none_is_the_default_and_zero_is_for_ever():
    assert (allow(None), allow(0), allow(2.5)) == (watchdog.SECONDS, 0.0, 2.5)
    assert within(0.0, "it", lambda: time.sleep(0.1)) is None
    for bad in (-1, float("nan"), float("inf"), True):
        with pytest.raises(UsageError, match="env_timeout is"):
            allow(bad)


STUBBORN = """
import threading, time
from ridgeline.environments import watchdog
watchdog.GRACE = 0.3
def hang():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
def run():
    watchdog.within(0.3, "it", hang)
{start}
"""


@pytest.mark.parametrize("start", ["run()", "t = threading.Thread(target=run); t.start(); t.join()"])
def test_what_cannot_be_interrupted_ends_the_process_with_a_line(start):
    code = STUBBORN.format(start=start)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    line = "ridgeline: it did not return within 0.3 s: fix it, or allow more (--env-timeout)"
    assert done.stderr.strip() == f"{line}; it could not be interrupted"


STOPPED = """
import sys, time
from ridgeline.environments import watchdog
watchdog.GRACE = 0.5

def call():
    print("begun", flush=True)
    for _ in range(15):
        time.sleep(0.1)

watchdog.within(2.0, "it", call)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stopping a process is Unix's")
def test_a_process_that_was_stopped_did_not_hang():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0


@pytest.mark.parametrize("backend", ["envpool", "stepped", "gymnasium"])
def test_every_backend_is_watched(backend, monkeypatch):
    host = make("CartPole-v1", backend, env_timeout=0.3).build(1)
    try:
        host.reset(np.zeros(1, int), np.ones(1, bool))
        host.step(np.zeros(1, np.int32))
        target = {
            "envpool": (getattr(host, "_pool", None), "step"),
            "gymnasium": ((getattr(host, "_guards", None) or [None])[0], "call"),
            "stepped": (sys.modules.get("ridgeline.environments.stepped"), "_step"),
        }[backend]
        monkeypatch.setattr(*target, lambda *given: time.sleep(60))
        with pytest.raises(EnvironmentCrash, match=r"did not return within 0.3 s"):
            host.step(np.zeros(1, np.int32))
    finally:
        host.close()
