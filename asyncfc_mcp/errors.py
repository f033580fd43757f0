"""Every failure that the bridge itself reports: one base class and one class per cause.

An error class takes ids and facts, never prose, and builds its own message: what happened, to what,
and what to do about it. Turning these into wire errors is `server`'s job, done once.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from typing import Any, Final

from asyncfc_mcp.quotation import REASON_LENGTH, one_line, said


class BridgeError(Exception):
    """Base of all errors that this program raises on purpose; `str(error)` is fit to show to a person or a model."""


class RpcError(Exception):
    """A JSON-RPC error: what another side answered, or what is answered to it.

    No `BridgeError`: it travels, and is not shown to a model.

    Attributes:
        code, message, data: as on the wire; `data` is None where there is none.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code, self.message, self.data = code, message, data
        super().__init__(message)

    @property
    def wire(self) -> dict[str, Any]:
        """The `error` of a JSON-RPC message."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        return error if self.data is None else {**error, "data": self.data}


class TransportFailure(RpcError):
    """A request without an answer because of its transport. Raised on our side only: no message of the other side
    becomes one, whatever its code, so that a server's own `-32000` is never taken for a closed connection.

    Args:
        how: a predicate whose subject is the other side, fit to show to a user: "refused the connection",
            "broke off its answer". No class names, no URLs with queries, no header values.
        sent: False only where it is certain that the other side received no part of the request. The request may then
            be sent again, whatever it does; otherwise it may or may not have taken effect.
        code: as which it is passed on, if it is.
    """

    def __init__(self, how: str, *, sent: bool = True, code: int = -32000) -> None:
        super().__init__(code, how)
        self.sent = sent


class ConnectionEnded(TransportFailure):
    """The connection ended before the answer arrived, or had ended before the request could be sent."""

    def __init__(self, how: str = "closed the connection", *, sent: bool = True) -> None:
        super().__init__(how, sent=sent)


class RequestTimedOut(TransportFailure):
    """The answer did not arrive within the time limit of the request."""

    def __init__(self, method: str, timeout_s: float) -> None:
        super().__init__(f"did not answer {method} within {timeout_s:g} s", code=-32001)


class HttpRefused(TransportFailure):
    """A server answered a request with an HTTP status that is no success, and without a JSON-RPC error.

    Args:
        said: the beginning of its body, without secrets.
        hint: what the status asks for, or what to do about it.
        retry_after_s: the pause that it asks for.
    """

    def __init__(
        self,
        status: int,
        phrase: str,
        said: str = "",
        *,
        hint: str = "",
        retry_after_s: float | None = None,
        sent: bool = True,
        code: int = -32000,
    ) -> None:
        how = f"answered HTTP {status} {phrase}".rstrip() + "".join(
            f"{mark}{text}" for mark, text in ((": ", said), ("; ", hint)) if text
        )
        super().__init__(how, sent=sent, code=code)
        self.status, self.retry_after_s = status, retry_after_s

    @property
    def may_pass(self) -> bool:
        """It is about the moment, so that the same request may succeed later."""
        return self.status in (408, 409, 425, 429, 500, 502, 503, 504)

    @property
    def other_transport(self) -> bool:
        """It is what a server answers that speaks the other of the two HTTP transports."""
        return self.status in (200, 400, 404, 405, 406, 415, 501)


class SessionLost(HttpRefused):
    """The server does not know the session of a request any more, and has not processed it."""

    def __init__(self, refused: HttpRefused, session: object) -> None:
        TransportFailure.__init__(self, refused.message, sent=False, code=refused.code)
        self.status, self.retry_after_s, self.session = refused.status, None, session


def nearest(wanted: str, known: Iterable[str], *, at_most: int = 3) -> list[str]:
    """The known words closest to `wanted`, best first; empty when none is close.

    Comparing takes 0.1 ms for a pair of long words, so it is done for those that share most characters only.
    """
    wanted = wanted[:_COMPARED_CHARACTERS]
    letters = set(wanted)

    def likeness(word: str) -> int:
        return len(letters.intersection(word)) - abs(len(word) - len(wanted)) // 2

    some = [word for word in islice(known, _MOST_KNOWN) if len(word) <= 2 * _COMPARED_CHARACTERS]
    if len(some) > _COMPARED_WORDS:
        some = nlargest(_COMPARED_WORDS, some, likeness)
    return get_close_matches(wanted, some, n=at_most, cutoff=0.5)


_COMPARED_CHARACTERS: Final = 64
_COMPARED_WORDS: Final = 100
_MOST_KNOWN: Final = 20_000
"""Words that are looked at: 20 ms (measured)."""


def _last_lines(stderr_tail: Sequence[str]) -> str:
    if len(stderr_tail) == 1 and stderr_tail[0].startswith("(log: "):
        return f" {stderr_tail[0]}"  # nothing was written, and the log holds the starts
    return "".join(["\nIts last stderr lines:", *(f"\n  {line}" for line in stderr_tail)]) if stderr_tail else ""


def _literally(written: str) -> str:
    return f"; if you meant the text itself, write ${written}" if written.startswith("$") else ""


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)


# --- configuration -------------------------------------------------------------------------------------------------


class ConfigError(BridgeError):
    """A configuration file is wrong. One line: file, key path, what was found, what was expected."""

    def __init__(self, file: str, path: str, found: str, expected: str) -> None:
        self.file, self.path, self.found, self.expected = file, path, found, expected
        where = f"{file}: {path}" if path else file
        super().__init__(one_line(f"{where}: {found}; expected {expected}"))


class UnknownTool(BridgeError):
    """A call names a tool that is not listed.

    Args:
        absent: server and condition of each server whose tools are not known, since it is not up.
    """

    def __init__(self, name: str, known: Iterable[str], absent: Iterable[tuple[str, str]] = ()) -> None:
        self.name = name
        close = nearest(name, known)
        hint = f"; did you mean {_listed(close)}?" if close else "; call tools/list to see what there is"
        hint += "".join(f". Server {server} is not up, and its tools are not known ({why})" for server, why in absent)
        super().__init__(f"Unknown tool: {said(name)}{hint}")


# --- futures -------------------------------------------------------------------------------------------------------


class UnknownFuture(BridgeError):
    """No future of this ID or name can be seen from here.

    `fate` is the reason, if the ID was given once.
    """

    def __init__(self, ref: str, live: Sequence[str], fate: str | None = None) -> None:
        self.ref = ref
        shown = ref if len(ref) <= 200 else ref[:200] + "…"
        if fate is not None:
            super().__init__(f"{shown} {fate}; its result is not here: call the tool again. list_futures shows all.")
            return
        if live:
            hint = f"Nearest: {_listed(live)}. list_futures shows all."
        else:
            hint = "You have no futures yet; every tool call answers with the ID of one."
        super().__init__(f"Unknown future {shown!r}. {hint}")


class NameInUse(BridgeError):
    """A call wants a name (`_as`) whose future has not ended yet."""

    def __init__(self, name: str, future_id: str) -> None:
        self.name, self.future_id = name, future_id
        super().__init__(
            f"The name {name!r} belongs to {future_id}, which has not ended yet; "
            f"choose another name, or await or cancel {future_id} first"
        )


class AmbiguousName(BridgeError):
    """A name that several callers gave, used where it cannot be told which of them is meant."""

    def __init__(self, name: str, future_ids: Sequence[str]) -> None:
        self.name, self.future_ids = name, tuple(future_ids)
        shown = " and ".join(future_ids[-5:]) + (f" and {len(future_ids) - 5} more" if len(future_ids) > 5 else "")
        super().__init__(
            f"The name {name!r} is ambiguous: {shown} have it, and their callers may be different ones. "
            f"Use the ID of the one that you mean; its answer had it"
        )


class ForeignName(BridgeError):
    """A reference in arguments to a name that only another session or conversation gave."""

    def __init__(self, name: str, future_ids: Sequence[str]) -> None:
        self.name, self.future_ids = name, tuple(future_ids)
        shown = " and ".join(future_ids[-5:])
        super().__init__(
            f"not sent: the name {name!r} was given by another session or conversation (to {shown}), not by this one. "
            f"Write ${future_ids[-1]} for that value, or $${name} for the text itself"
        )


class StaleReference(BridgeError):
    """A reference in arguments to an ID whose future is gone; `fate` is the reason."""

    def __init__(self, future_id: str, fate: str) -> None:
        self.future_id = future_id
        super().__init__(
            f"not sent: {future_id} {fate}; its result is not here: call its tool again and refer to that. "
            f"Write $${future_id} for the text itself"
        )


class InvalidName(BridgeError):
    """A name (`_as`) that could not be referred to."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name!r} cannot name a future: use a letter, then letters, digits, '_' or '-', at most 64, "
            f"and nothing that looks like an ID ('f' and a number), and not all or this"
        )


class InvalidTransition(BridgeError):
    """An event reached a future in a state that does not know it. A bug of ours, never of a user."""

    def __init__(self, future_id: str, state: str, event: str) -> None:
        super().__init__(f"future {future_id} is {state} and cannot {event}")


class TooManyFutures(BridgeError):
    """A bound on unfinished futures or stored bytes is reached; the submission was refused, nothing was dropped."""

    def __init__(self, what: str, limit: str, setting: str) -> None:
        super().__init__(
            f"Refused: {what} (limit {limit}, setting {setting}). Nothing was started. "
            f"Await or cancel futures that you have, then call again"
        )


class InvalidArguments(BridgeError):
    """Arguments of one of the bridge's own tools, or a reserved argument, are wrong."""

    def __init__(self, tool: str, problem: str) -> None:
        super().__init__(f"{tool}: {problem}")


# --- outcomes of calls ---------------------------------------------------------------------------------------------


class CallFailed(BridgeError):
    """Base: the call ended without a result of the tool's own. `kind` is stable, for machines."""

    kind = "error"

    @property
    def detail(self) -> str:
        """Its text behind a line that has the tool and the state already."""
        return str(self)


class ToolFailed(CallFailed):
    """Base: `what` is the predicate of a sentence whose subject is the tool."""

    def __init__(self, tool: str, what: str) -> None:
        self._what = what
        super().__init__(f"{tool} {what}")

    @property
    def detail(self) -> str:
        return self._what


class ProtocolFailure(CallFailed):
    """The downstream answered with a JSON-RPC error, kept whole."""

    kind = "protocol"

    def __init__(self, tool: str, code: int, message: str, data: object = None) -> None:
        self.tool, self.code, self.message, self.data = tool, code, message, data
        super().__init__(f"{tool} failed: {self.detail}")

    @property
    def detail(self) -> str:
        return f"{said(self.message, REASON_LENGTH)} (JSON-RPC error {self.code})"


class ServerUnavailable(CallFailed):
    """The downstream server cannot be reached; the call was not sent."""

    kind = "unavailable"

    def __init__(self, server: str, reason: str) -> None:
        self.server, self.reason, self.how = server, reason, f"is not available ({reason})"
        super().__init__(f"server {server!r} is not available: {reason}. The call was not sent; try again later")


class NotSent(ServerUnavailable):
    """The connection failed before any part of the call reached the server, so the call can be sent again."""

    def __init__(self, server: str, how: str, stderr_tail: Sequence[str] = ()) -> None:
        self.server, self.reason, self.how = server, f"it {how}", how
        CallFailed.__init__(
            self,
            f"not sent: server {server!r} {how} before any part of this call reached it, so it had no effect; "
            f"call again{_last_lines(stderr_tail)}",
        )


class ServerDied(CallFailed):
    """The connection to the downstream ended while the call was running."""

    kind = "died"

    def __init__(self, server: str, how: str, stderr_tail: Sequence[str] = ()) -> None:
        self.server, self.how, self.stderr_tail = server, how, tuple(stderr_tail)
        tail = _last_lines(stderr_tail)
        super().__init__(
            f"server {server!r} {how} while this call was running; the call may or may not have taken effect{tail}"
        )


class ServerRefused(CallFailed):
    """The downstream answered with an HTTP status that is no success.

    Attributes:
        retry_after_s: the pause that it asks for, if it names one.
        may_pass: the same call may succeed later.
        unprocessed: the status says that nothing was done (429), so that any call may be made again.
    """

    kind = "refused"

    def __init__(self, server: str, refused: HttpRefused) -> None:
        self.server, self.how, self.status = server, refused.message, refused.status
        self.retry_after_s, self.may_pass = refused.retry_after_s, refused.may_pass
        self.unprocessed = refused.status == 429
        effect = "; the call may or may not have taken effect" if refused.status >= 500 else ""
        super().__init__(f"server {server!r} refused this call: it {refused.message}{effect}")


class CallTimedOut(ToolFailed):
    """The call took longer than its `timeout_s`; the downstream was told to cancel it."""

    kind = "timeout"

    def __init__(self, tool: str, timeout_s: float) -> None:
        super().__init__(
            tool,
            f"did not finish within {timeout_s:g} s (setting timeout_s) and was cancelled; "
            f"it may or may not have taken effect",
        )


class Interrupted(CallFailed):
    """The bridge stopped while the call was running."""

    kind = "interrupted"

    def __init__(self, tool: str) -> None:
        super().__init__(f"the bridge stopped while {tool} was running; it may or may not have taken effect")


class DependencyFailed(CallFailed):
    """A future that this call's arguments refer to failed or was cancelled; the call was never sent.

    `cause` is the first future of the chain, `reason` why that one ended.
    """

    kind = "dependency"

    def __init__(self, dependency: str, cause: str, reason: str) -> None:
        self.dependency, self.cause, self.reason = dependency, cause, reason
        via = f" (because of {cause})" if cause != dependency else ""
        super().__init__(f"not sent: it needs {dependency}, which has no result{via}: {reason}")


class Stopped(CallFailed):
    """Fail-stop: a write before this one, on the same state, failed; this call was never sent."""

    kind = "stopped"

    def __init__(self, before: str, cause: str, reason: str) -> None:
        self.before, self.cause, self.reason = before, cause, reason
        via = f" (the first to fail was {cause})" if cause != before else ""
        super().__init__(f"not sent: {before} failed before it{via}: {reason}; submit again if you still want it")


class Cancelled(CallFailed):
    """Somebody cancelled the call."""

    kind = "cancelled"

    def __init__(self, *, sent: bool) -> None:
        self.effect = "it may or may not have taken effect" if sent else "it was never sent"
        super().__init__(f"cancelled; {self.effect}")

    @property
    def detail(self) -> str:
        return self.effect


class ReferenceFailed(CallFailed):
    """A reference in the arguments could not be resolved against the value it points into."""

    kind = "reference"


class PathMissing(ReferenceFailed):
    """A reference's path leads to nothing in the future's value.

    `there` says what stands at the deepest point that the path reaches.
    """

    def __init__(self, written: str, future: str, missing: str, there: str) -> None:
        self.written, self.future, self.missing = written, future, missing
        super().__init__(
            f"not sent: {written} points at nothing: {future} has no {missing}; {there}{_literally(written)}"
        )


class PathUnreadable(ReferenceFailed):
    """The object form of a reference carries a path that is none."""

    def __init__(self, written: str, future: str) -> None:
        self.written, self.future = written, future
        super().__init__(
            f"not sent: the path of {written} cannot be read; "
            f"write it like items[0].id, with a key that is no plain word in brackets and quotes"
        )


class ValueUnfit(ReferenceFailed):
    """A future's value cannot be turned into what is expected where the reference stands."""

    def __init__(self, written: str, future: str, expected: str, found: str) -> None:
        self.written, self.future, self.expected = written, future, expected
        super().__init__(f"not sent: {written} should give {expected}, but {future} {found}{_literally(written)}")


class ArgumentsTooLarge(ReferenceFailed):
    """With the values of futures in place, the arguments exceed their bound."""

    def __init__(self, written: str, limit: int) -> None:
        self.written, self.limit = written, limit
        super().__init__(
            f"not sent: with {written} in place the arguments are larger than {limit} bytes "
            f"(setting max_argument_bytes); pass a part of it, or raise the setting"
        )


class NestedTooDeeply(ReferenceFailed):
    """Arguments or a value of a future are nested more deeply than JSON can be written here."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not sent: {what} is nested too deeply to be passed on")


class ArgumentsRejected(CallFailed):
    """After resolution the arguments do not fit the tool's own input schema; the call was never sent."""

    kind = "arguments"

    def __init__(self, tool: str, path: str, problem: str) -> None:
        self.tool, self.path = tool, path
        super().__init__(f"not sent: the arguments of {tool} do not fit its schema at {path}: {problem}")


class Cycle(BridgeError):
    """Calls refer to each other in a circle, so none could ever start."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(f"Refused: these calls wait for each other: {' → '.join(names)}. Nothing was started")


class Unanswered(ToolFailed):
    """The server asked its client something and nobody answered in time."""

    kind = "unanswered"

    def __init__(self, tool: str, question: str, timeout_s: float) -> None:
        super().__init__(
            tool,
            f"asked something that nobody answered within {timeout_s:g} s (setting question_timeout_s): "
            f"{question}. The call was cancelled. Await such a future, so that its question can be put to the user",
        )


class NobodyToAnswer(ToolFailed):
    """The server asked its client something after that had closed its input."""

    kind = "unanswered"

    def __init__(self, tool: str, question: str) -> None:
        super().__init__(
            tool,
            f"asked something, and its client had closed the connection already, so the call was cancelled: "
            f"{question}. Keep standard input open until such a call has ended",
        )


class NotDrained(ToolFailed):
    """The client closed its input, and the call had not ended in the time that was left."""

    kind = "cancelled"

    def __init__(self, tool: str, drain_s: float, *, sent: bool) -> None:
        effect = "it may or may not have taken effect" if sent else "it was never sent"
        super().__init__(
            tool,
            f"had not ended {drain_s:g} s after its client closed the connection (setting drain_s) and was "
            f"cancelled; {effect}",
        )


class MalformedQuestion(ToolFailed):
    """A server asked for input in a form that the protocol does not have."""

    kind = "malformed_question"

    def __init__(self, tool: str, found: object) -> None:
        super().__init__(tool, f"asked for input in a form that is not MCP's: inputRequests has {found!r:.80}")


class TooManyQuestions(ToolFailed):
    """A server asked for more at once than a client can be expected to answer."""

    kind = "too_many_questions"

    def __init__(self, tool: str, count: int, most: int) -> None:
        super().__init__(tool, f"asked {count} questions at once; at most {most} are passed on")


class CannotAsk(ToolFailed):
    """The server needs an answer that this client cannot give."""

    kind = "cannot_ask"

    def __init__(self, tool: str, method: str) -> None:
        super().__init__(tool, f"sent {said(method, 80)}, which this client has not declared that it can answer")
