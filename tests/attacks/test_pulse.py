"""The measure of the attacks: it counts what a bridge does, not what a busy machine does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import hostile

STALL_S = 0.5
SERVER = """
import sys, time
for line in sys.stdin:
    if line == "spin\\n":
        until = time.process_time() + 0.5
        while time.process_time() < until: pass
    elif line == "block\\n":
        time.sleep(0.5)
    print(flush=True)
"""


class Line:
    """A process that answers each line by another one, in place of a bridge."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.next = "ping"

    def request(self, _method: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        line, self.next = self.next, "ping"
        self.process.stdin.write(line + "\n")
        self.process.stdout.readline()


@contextmanager
def line() -> Iterator[Line]:
    wire = Line()
    with wire.process:
        wire.request("ping")
        yield wire
        assert wire.process.stdin
        wire.process.stdin.close()


@contextmanager
def burners(number: int) -> Iterator[None]:
    """Processes that compute all the time."""
    with ExitStack() as stack:
        for _ in range(number):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


@pytest.mark.parametrize("how", ["spin", "block", "stop"])
def test_a_stall_counts_on_a_busy_machine_too(how: str):
    """Computing, blocking and standing still are all of the bridge's doing."""
    with burners(2), line() as wire, hostile.pulse(wire) as measured:
        if how == "stop":
            wire.process.send_signal(signal.SIGSTOP)
            threading.Timer(STALL_S, wire.process.send_signal, [signal.SIGCONT]).start()
        else:
            wire.next = how
        time.sleep(STALL_S)
    assert measured.longest > 0.8 * STALL_S


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs the kernel's count of run delays")
def test_waiting_for_a_processor_is_no_stall():
    """The clock rests for as long as this thread is kept from computing by others: what is left is its own time."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as stack:
        # One processor for all of them, so that they keep each other waiting on any machine.
        os.sched_setaffinity(0, {min(allowed)})
        stack.callback(os.sched_setaffinity, 0, allowed)
        stack.enter_context(burners(3))
        started, used = hostile.now_s(None), time.thread_time()
        began = time.monotonic()
        while time.thread_time() - used < 0.2:
            pass
        spent, passed = hostile.now_s(None) - started, time.monotonic() - began
    assert passed > 0.3
    assert spent < 0.2 + (passed - 0.2) / 2
