"""A bridge whose wall clock is wrong: `clocks.py SECONDS ARGS…` runs `asyncfc-mcp ARGS` with `time.time` moved."""

from __future__ import annotations

import sys
import time


def main() -> None:
    from asyncfc_mcp.cli.main import main as run

    moved_s, real = float(sys.argv.pop(1)), time.time

    def moved() -> float:
        return real() + moved_s

    time.time = moved
    sys.argv[0] = "asyncfc-mcp"
    run()


if __name__ == "__main__":
    main()
