"""A server whose answers to tool calls are held back for as long as a file exists, so that a test sees what is sent
before the first is answered: `held_server.py FILE COMMAND ARGS…`.

Owns nothing of the server: every other line passes at once, unchanged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO


def forward(source: IO[bytes], child: subprocess.Popen[bytes], calls: set[object]) -> None:
    """Pass requests on, and note those that are calls."""
    assert child.stdin is not None
    for line in source:
        message = json.loads(line)
        if message.get("method") == "tools/call":
            calls.add(message["id"])
        child.stdin.write(line)
        child.stdin.flush()
    child.stdin.close()


def main() -> int:
    hold, command = Path(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    calls: set[object] = set()
    threading.Thread(target=forward, args=(sys.stdin.buffer, child, calls), daemon=True).start()
    assert child.stdout is not None
    for line in child.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            message = {}
        if "method" not in message and message.get("id") in calls:
            while hold.exists():
                time.sleep(0.002)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
