"""Checks of arguments in a process of their own, one after another, each in a limited time.

Owns the loop of that process: a line with a schema and arguments in, a line with the error or null out. Refuses to
outlive its parent by more than one check. `argument_checks` starts and ends it.
"""

import faulthandler
import json
import os
import signal
import sys
from collections import OrderedDict
from contextlib import suppress

from asyncfc_mcp.schema.validate import Validator

CPU_S = 1.5
"""Processor time of one check; then the process ends itself."""
WALL_S = 5.0
"""The same by the clock, which is what there is on Windows, and for a machine that is busy with other things."""
IDLE_S = 60.0
"""Time without a check after which the process ends itself."""
KEPT = 16
"""Compiled schemas that are kept."""
ALL_STEPS = 1 << 62


def main() -> None:
    """Check what stdin asks for until it ends."""
    with suppress(AttributeError, OSError):
        os.nice(5)  # the bridge itself goes first
    kept: OrderedDict[bytes, Validator] = OrderedDict()
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    nowhere = open(os.devnull, "w")
    while True:
        # A thread of C's, so that it ends the process in the midst of anything.
        faulthandler.dump_traceback_later(IDLE_S, exit=True, file=nowhere)
        schema = stdin.readline()
        arguments = stdin.readline()
        if not arguments:
            return
        faulthandler.dump_traceback_later(WALL_S, exit=True, file=nowhere)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
        validator = kept.pop(schema, None) or Validator(json.loads(schema))
        kept[schema] = validator
        if len(kept) > KEPT:
            kept.popitem(last=False)
        try:
            error = validator.first_error(json.loads(arguments), ALL_STEPS)
        except MemoryError:
            error = None
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        stdout.write(json.dumps(error).encode() + b"\n")
        stdout.flush()


if __name__ == "__main__":
    main()
