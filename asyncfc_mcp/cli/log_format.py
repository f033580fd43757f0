"""Formats of the log: text for people, or one JSON object a line for programs.

Owns both, and that neither holds secrets or control characters. Leaves where the log goes to `process`.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from asyncfc_mcp.quotation import one_line, shortened, without_escapes
from asyncfc_mcp.redaction import without_secrets

FORMAT_VARIABLE: Final = "ASYNCFC_LOG_FORMAT"
"""Environment variable with the format, where a host starts the program."""
FORMATS: Final = ("text", "json")
LOG_LINE_LENGTH: Final = 4000
"""Maximum length of a logged line, in characters."""
_SERVER: Final = re.compile(r"\bservers? %r")
"""The place of a server's name in a message before its values are put in."""
_PLACE: Final = re.compile(r"%[^%]")
_CALL: Final = re.compile(r"\bf[0-9]+\b|\bf-[0-9a-f]{8,}\b")


def use_format(environ: MutableMapping[str, str], given: str | None) -> None:
    """Use a format that the command line gives, in this process and those that it starts of this program."""
    if given is not None:
        environ[FORMAT_VARIABLE] = given


def formatter(environ: Mapping[str, str], shown: str) -> "Redacted":
    """Return the formatter that the environment asks for.

    Args:
        shown: format of the text.
    """
    return JsonLines() if environ.get(FORMAT_VARIABLE, "").strip().lower() == "json" else Redacted(shown)


def notice(environ: Mapping[str, str], text: str) -> str:
    """Return a line that is no warning, such as an address that is listened on, in the form that the environment asks
    for."""
    record = logging.LogRecord("asyncfc_mcp", logging.INFO, __file__, 0, text, None, None)
    return formatter(environ, "asyncfc-mcp: %(message)s").format(record)


class Redacted(logging.Formatter):
    """Formatter that removes secrets and control characters: libraries log whole URLs, and messages quote servers.

    Attributes:
        secrets: of the bridge itself.
    """

    secrets: Sequence[str] = ()

    def format(self, record: logging.LogRecord) -> str:
        # Lines after the first are indented, so that none looks like a separate message.
        return "\n  ".join(self._lines(super().format(record)))

    def _lines(self, text: str) -> list[str]:
        lines = without_secrets(text, self.secrets).splitlines()
        return [shortened(one_line(without_escapes(line.expandtabs(4))), LOG_LINE_LENGTH) for line in lines]


class JsonLines(Redacted):
    """One JSON object a line: `time` (UTC), `level`, `logger` and `message`; `server`, `call` and `error` where there
    are any; `trace_id` and `span_id` within a request that is traced."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": " ".join(self._lines(record.getMessage())),
        }
        if (server := _server_of(record)) is not None:
            line["server"] = " ".join(self._lines(server))
        if (call := _CALL.search(line["message"])) is not None:
            line["call"] = call[0]
        if record.exc_info:
            line["error"] = self._lines(self.formatException(record.exc_info))
        return json.dumps(line | _trace(), ensure_ascii=False)


def _server_of(record: logging.LogRecord) -> str | None:
    """Return the server that a message names."""
    template, values = str(record.msg), record.args
    found = _SERVER.search(template)
    if found is None or not isinstance(values, tuple):
        return None
    index = len(_PLACE.findall(template[: found.start()]))
    return str(values[index]) if index < len(values) else None


def _trace() -> dict[str, str]:
    """Return the IDs of the present span; nothing where there is no telemetry, which is not loaded for this."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}
