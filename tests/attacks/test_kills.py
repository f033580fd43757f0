"""A bridge that is killed with SIGKILL while its servers start: none of them is left."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.client import eventually
from tests.support.stage import Stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")

STUBBORN = "trap '' TERM HUP; while :; do sleep 0.05; done"
"""Reads no input, so its end is not noticed, and ignores SIGTERM."""
LEFT_S = 10.0
"""Two seconds after SIGTERM the guard kills; the rest is room for a busy machine."""


def start_and_kill(stage: Stage, config: Path, delay_s: float) -> None:
    """Kill a bridge so long after it started its first process."""
    bridge = subprocess.Popen(
        [sys.executable, "-m", "asyncfc_mcp", "serve", "--config", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in stage.env.items() if name != "ASYNCFC_TEST_MARK"},
    )
    seen = psutil.Process(bridge.pid)
    eventually(lambda: seen.children() or bridge.poll() is not None, "a process of the bridge's own")
    time.sleep(delay_s)
    bridge.kill()
    bridge.communicate()


def left(stage: Stage) -> list[int]:
    return [each.pid for each in psutil.process_iter(["cmdline"]) if stage.mark in (each.info["cmdline"] or [])]


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=[pytest.mark.attacks_long, pytest.mark.timeout(300)])])
def test_servers_that_were_just_started_end_with_a_killed_bridge(stage: Stage, kills: int):
    """However soon after a start it is killed: 0 to 20 ms, most of them within the first."""
    servers = {f"stubborn{number}": {"command": "/bin/sh", "args": ["-c", STUBBORN, stage.mark]} for number in range(3)}
    config = stage.config(servers)
    chance = random.Random(7)
    for number in range(kills):
        start_and_kill(stage, config, chance.uniform(0, 0.02 if number % 3 == 0 else 0.004))
    eventually(lambda: not left(stage), "all servers ended", seconds=LEFT_S)
