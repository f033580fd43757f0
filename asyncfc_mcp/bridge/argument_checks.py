"""Checks of arguments that may take long, off the event loop and in a limited time.

Owns the processes in which they run: at most `PROCESSES`, started when the first is needed, ended when a check is
given up and after a minute without any. Refuses to judge: a check that does not end in time, or cannot be made, accepts
the arguments, and the server judges them as it would without the bridge.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.schema.validate import Validator
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import writing

logger = logging.getLogger(__name__)

PROCESSES: Final = 2
START_S: Final = 15.0
"""Time until a process has answered for the first time, its start and imports included."""
CHECK_S: Final = 5.0
"""Time until a process that has answered before answers again; it ends itself after 1.5 s of processor time."""
QUEUE_S: Final = 2.0
"""Time that a check waits for others."""
OVERRUNS: Final = 3
"""Checks of one tool that are given up before its later calls are not checked."""
_ENVIRONMENT: Final = frozenset(
    ("PATH", "SYSTEMROOT", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP")
)
_PROGRAM: Final = "import sys; sys.path.append(sys.argv[1]); from asyncfc_mcp.bridge.check_process import main; main()"

Problem = tuple[str, str]
"""Where and how arguments break a schema, in words."""


_FOLDER: Final = str(Path(__file__).resolve().parents[2])


class _Gone(Exception):
    """The process ended, or took too long."""


class Checker:
    """The processes that check arguments."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._places = anyio.Semaphore(PROCESSES)

    async def first_error(self, validator: Validator, arguments: Mapping[str, Any], tool: str) -> Problem | None:
        """Return where and how the arguments break the schema; None if they do not, or if that was not found out.

        Args:
            tool: named in the log where the check is given up.
        """
        if validator.overruns >= OVERRUNS:
            return None
        with anyio.move_on_after(QUEUE_S) as queued:
            await self._places.acquire()
        if queued.cancelled_caught:
            logger.warning("%s is called with unchecked arguments: the checks of other calls take too long", tool)
            return None
        try:
            if validator.written is None:
                validator.written = format_message(dict(validator.schema))
            written = b"".join(await in_slices(writing(dict(arguments)))) + b"\n"
            return await self._answer(validator.written + written)
        except (_Gone, OSError, ValueError) as exc:
            validator.overruns += 1
            logger.warning("%s is called with unchecked arguments: their check took too long or failed (%r)", tool, exc)
            return None
        finally:
            self._places.release()

    async def _answer(self, question: bytes) -> Problem | None:
        while self._idle:
            process = self._idle.pop()
            if process.ended:  # in the pause between two checks
                await process.end()
                continue
            try:
                return await self._asked(process, question, CHECK_S)
            except _Gone as exc:
                if exc.args:  # it was given up, and did not end in that pause
                    raise
        return await self._asked(await _Process.start(), question, START_S)

    async def _asked(self, process: "_Process", question: bytes, limit_s: float) -> Problem | None:
        try:
            with anyio.fail_after(limit_s):
                answer = await process.ask(question)
        except BaseException as exc:
            await process.end()
            if isinstance(exc, TimeoutError):
                raise _Gone("no answer") from None
            raise
        self._idle.append(process)
        return answer

    async def aclose(self) -> None:
        """End the processes."""
        while self._idle:
            await self._idle.pop().end()


class _Process:
    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._fresh = True

    @classmethod
    async def start(cls) -> "_Process":
        """Raises `OSError`."""
        return cls(
            await anyio.open_process(
                [sys.executable, "-P", "-c", _PROGRAM, _FOLDER],
                stderr=None,
                env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT},
            )
        )

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def ask(self, question: bytes) -> Problem | None:
        """Raises `_Gone`, with an argument if the process had begun with the question."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        answer = b""
        try:
            await stdin.send(question)
            while not answer.endswith(b"\n"):
                answer += await stdout.receive()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            if self._fresh or self._process.returncode not in (None, 0, 1):
                raise _Gone(f"exit code {self._process.returncode}") from None
            raise _Gone from None
        self._fresh = False
        found = json.loads(answer)
        return None if found is None else (found[0], found[1])

    async def end(self) -> None:
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.aclose()
