"""Errors of the bridge: one base class, and one class per cause.

Owns every message: an error class takes IDs and values, and builds its own text from them: what happened, to what, and
what to do. Conversion to wire errors is left to `upstream.server`. One module, although it is long, so that each text
stands beside its neighbours and a cause has one place to look for.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from heapq import nlargest
from itertools import accumulate, islice
from typing import Any, Final

from asyncfc_mcp.quotation import REASON_LENGTH, one_line, said


class BridgeError(Exception):
    """Base class of all errors raised on purpose; `str(error)` can be shown to a user or a model."""


class RpcError(Exception):
    """A JSON-RPC error, received or to be sent. Not a `BridgeError`, since it is not shown to a model.

    Attributes:
        code, message, data: as on the wire; `data` is None if absent.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code, self.message, self.data = code, message, data
        super().__init__(message)

    @property
    def wire(self) -> dict[str, Any]:
        """The `error` member of a JSON-RPC message."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        return error if self.data is None else {**error, "data": self.data}


class TransportFailure(RpcError):
    """The transport of a request failed before its response arrived. Raised locally only: no received message becomes
    one, whatever its code, so that a server's own `-32000` is never mistaken for a closed connection.

    Args:
        how: a predicate with the peer as its subject, which can be shown to a user: "refused the connection",
            "broke off its answer". No class names, URLs with queries, or header values.
        sent: False only if the peer certainly received no part of the request. It may then be sent again, whatever it
            does; otherwise it may or may not have taken effect.
        code: the JSON-RPC code with which it is passed on.
    """

    def __init__(self, how: str, *, sent: bool = True, code: int = -32000) -> None:
        super().__init__(code, how)
        self.sent = sent


class UnreadableAnswer(RpcError):
    """A server's HTTP response cannot be parsed; a retry would not help.

    Args:
        how: a predicate with the answer as its subject.
    """

    def __init__(self, how: str) -> None:
        super().__init__(-32600, f"the answer {how}")


class ConnectionEnded(TransportFailure):
    """The connection ended before the response arrived, or before the request was sent."""

    def __init__(self, how: str = "closed the connection", *, sent: bool = True) -> None:
        super().__init__(how, sent=sent)


class RequestTimedOut(TransportFailure):
    """The response did not arrive within the timeout of the request."""

    def __init__(self, method: str, timeout_s: float) -> None:
        super().__init__(f"did not answer {method} within {timeout_s:g} s", code=-32001)


class HttpRefused(TransportFailure):
    """A server responded with an HTTP error status and without a JSON-RPC error.

    Args:
        said: the start of the body, without secrets.
        hint: the meaning of the status, or a remedy.
        retry_after_s: the requested delay before a retry.
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
        """True for a temporary condition: the same request may succeed later."""
        return self.status in (408, 409, 425, 429, 500, 502, 503, 504)

    @property
    def other_transport(self) -> bool:
        """True for a status that a server of the other HTTP transport sends."""
        return self.status in (200, 400, 404, 405, 406, 415, 501)


SCOPES_LENGTH: Final = 500
"""Characters of the scopes in the command of a sign-in. A server chooses them, and may ask for 200."""


class SignInNeeded(HttpRefused):
    """A server at a URL asks for credentials that only a sign-in by the user yields. It did not process the request.

    Args:
        server: its name in the configuration.
        scopes: that it asks for; empty if it does not say.
        why: what is wrong with the credentials that there are; empty without any.
    """

    def __init__(self, server: str, scopes: Sequence[str] = (), why: str = "", *, status: int = 401) -> None:
        name = server if re.fullmatch(r"[A-Za-z0-9_.@%+=:,/-]+", server) else f"'{server}'"
        because = f" ({why})" if why else ""
        self.command = f"asyncfc-mcp login {name}"
        if status == 403 and scopes:  # of a sign-in that works, only more is wanted
            self.command += f" --scope {shlex.quote(' '.join(_within(scopes, SCOPES_LENGTH)))}"
        TransportFailure.__init__(self, f"needs sign-in{because}: {self.command}", sent=False)
        self.status, self.retry_after_s = status, None
        self.server, self.scopes, self.why = server, tuple(scopes), why

    @property
    def reason(self) -> str:
        """The text for display after a status that says that a sign-in is needed."""
        return "; ".join(filter(None, [self.why, self.command]))


def _within(words: Sequence[str], limit: int) -> list[str]:
    """Return the words from the first one on that have no more than so many characters together."""
    lengths = accumulate(len(word) + 1 for word in words)
    return [word for word, length in zip(words, lengths, strict=True) if length <= limit]


class SignInFailed(BridgeError):
    """A sign-in to a server, or a request to its authorization server, did not succeed.

    `downstream.oauth.failures` has a class for each cause.

    Args:
        server: its name in the configuration.
        why: what happened, without any credential.
        advice: what to do; empty if trying again is all there is.
    """

    def __init__(self, server: str, why: str, advice: str = "") -> None:
        super().__init__(f"sign-in to {server!r} failed: {why}" + (f"; {advice}" if advice else ""))
        self.server, self.why = server, why


class CallerCredentialsRefused(SignInNeeded):
    """A server refused the credentials that it got of the caller (`${caller:NAME}`). It did not process the request.

    Args:
        names: headers of the caller's requests that have the credentials.
        status: 401, or 403.
    """

    def __init__(self, server: str, names: Sequence[str], status: int) -> None:
        headers = f"header{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        refused = f"refused the caller's credentials (HTTP {status})"
        TransportFailure.__init__(self, f"{refused}: check the {headers} of your client's requests", sent=False)
        self.status, self.retry_after_s = status, None
        self.server, self.scopes, self.command = server, (), ""
        self.why = f"it {refused}, from the {headers} of its requests"


class NotAuthorized(HttpRefused):
    """There are no credentials for a request, and no sign-in would help. The server did not process it.

    Args:
        why: a clause.
        status: of the refusal that asked for them.
    """

    def __init__(self, why: str, *, status: int = 401) -> None:
        TransportFailure.__init__(self, f"could not be authorized: {why}")
        self.status, self.retry_after_s = status, None


class SessionLost(HttpRefused):
    """The server no longer knows the session of a request, and did not process it."""

    def __init__(self, refused: HttpRefused, session: object) -> None:
        TransportFailure.__init__(self, refused.message, sent=False, code=refused.code)
        self.status, self.retry_after_s, self.session = refused.status, None, session


def nearest(wanted: str, known: Iterable[str], *, at_most: int = 3) -> list[str]:
    """Return the known words closest to `wanted`, best first; an empty list if none is close.

    A comparison takes 0.1 ms for a pair of long words, so only those with the most common characters are compared.
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
"""Maximum number of words considered: 20 ms (measured)."""


def _last_lines(stderr_tail: Sequence[str]) -> str:
    if len(stderr_tail) == 1 and stderr_tail[0].startswith("(log: "):
        return f" {stderr_tail[0]}"  # nothing was written; the log contains the starts
    return "".join(["\nIts last stderr lines:", *(f"\n  {line}" for line in stderr_tail)]) if stderr_tail else ""


def _literally(written: str) -> str:
    if written.startswith("{"):
        return ""
    return f"; for the text itself, write {written.replace('$', '$$', 1)}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)


# --- configuration -------------------------------------------------------------------------------------------------


class ConfigError(BridgeError):
    """A configuration is invalid. One line: file, key path, what was found, what was expected."""

    def __init__(self, file: str, path: str, found: str, expected: str) -> None:
        self.file, self.path, self.found, self.expected = file, path, found, expected
        where = f"{file}: {path}" if path else file
        super().__init__(one_line(f"{where}: {found}; expected {expected}"))


class DatabaseUnusable(BridgeError):
    """The database of the PostgreSQL engine cannot be used.

    Args:
        database: its URL without the password.
        reason: one line, usually the database's own.
    """

    def __init__(self, database: str, reason: str) -> None:
        self.database, self.reason = database, reason
        super().__init__(one_line(f"the database {database} cannot be used: {reason}"))


class JournalUnreadable(BridgeError):
    """The journal of futures cannot be read.

    Args:
        path: of its file.
        what: what is wrong with it.
        to_do: what the user can do.
    """

    def __init__(self, path: object, what: str, to_do: str) -> None:
        super().__init__(one_line(f"the journal of futures {path} cannot be read: {what}. {to_do}"))


class EngineNotInstalled(BridgeError):
    """The packages of the PostgreSQL engine are missing.

    Args:
        reason: the import that failed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            one_line(
                f"the engine postgresql:// needs packages that are not installed ({reason}): "
                f"pip install 'asyncfc-mcp[postgres]'"
            )
        )


class UnknownTool(BridgeError):
    """A call names a tool that is not listed.

    Args:
        absent: name and condition of each server whose tools are unknown because it is unavailable.
    """

    def __init__(self, name: str, known: Iterable[str], absent: Iterable[tuple[str, str]] = ()) -> None:
        self.name = name
        close = nearest(name, known)
        hint = f"did you mean {_listed(close)}?" if close else "call tools/list for the available tools"
        text = f"Unknown tool: {said(name)}; {hint}"
        for server, why in absent:
            stop = "" if text.endswith("?") else "."
            text += f"{stop} The tools of server {server} are unknown, since it is unavailable ({why})"
        super().__init__(text)


# --- futures -------------------------------------------------------------------------------------------------------


class UnknownFuture(BridgeError):
    """No future of the scope has this ID or name.

    Args:
        live: the nearest IDs and names that exist.
        fate: a predicate for an ID that existed once.
    """

    def __init__(self, ref: str, live: Sequence[str], fate: str | None = None) -> None:
        self.ref, self.live, self.fate = ref, tuple(live), fate
        shown = ref if len(ref) <= 200 else ref[:200] + "…"
        if fate is not None:
            super().__init__(
                f"{shown} {fate}; its result is not available here: call the tool again. list_futures shows all."
            )
            return
        if live:
            hint = f"Nearest: {_listed(live)}. list_futures shows all."
        else:
            hint = "There are no futures yet; every tool call returns the ID of one."
        super().__init__(f"Unknown future {shown!r}. {hint}")


class UnknownName(BridgeError):
    """A call names a future that does not exist: in `_after`, or as an argument that cannot be meant as text.

    Args:
        written: the argument; None for `_after`.
        live: the nearest IDs and names that exist.
        fate: a predicate for an ID that existed once.
    """

    def __init__(self, ref: str, written: str | None, live: Sequence[str] = (), fate: str | None = None) -> None:
        self.ref, self.written = ref, written
        where = "_after" if written is None else said(written)
        if fate is not None:
            super().__init__(f"not sent: {ref}, which {where} names, {fate}. Nothing was sent: call again without it")
            return
        what = f"no call has the name {said(ref)!r}, which {where} needs"
        hint = f". Nearest: {_listed(live)}" if live else ""
        literal = (
            "" if written is None or not written.startswith("$") else f". For the text itself, write ${said(written)}"
        )
        super().__init__(
            f"not sent: {what}{hint}{literal}. Nothing was sent: make that call first, or in the same turn"
        )


class NameInUse(BridgeError):
    """The name of a call (`_as`) belongs to an unfinished future."""

    def __init__(self, name: str, future_id: str) -> None:
        self.name, self.future_id = name, future_id
        super().__init__(
            f"The name {name!r} belongs to {future_id}, which is unfinished; "
            f"use another name, or await or cancel {future_id} first"
        )


class AmbiguousName(BridgeError):
    """Several callers use this name, and the intended future cannot be determined."""

    def __init__(self, name: str, future_ids: Sequence[str]) -> None:
        self.name, self.future_ids = name, tuple(future_ids)
        shown = " and ".join(future_ids[-5:]) + (f" and {len(future_ids) - 5} more" if len(future_ids) > 5 else "")
        super().__init__(
            f"The name {name!r} is ambiguous: {shown} have it, possibly from different callers. "
            f"Use the ID instead; the answer to the call has it"
        )


class ForeignName(BridgeError):
    """A reference in arguments to a name of another session or conversation."""

    def __init__(self, name: str, future_ids: Sequence[str]) -> None:
        self.name, self.future_ids = name, tuple(future_ids)
        shown = " and ".join(future_ids[-5:])
        super().__init__(
            f"not sent: the name {name!r} belongs to another session or conversation (future {shown}). "
            f"Write ${future_ids[-1]} for that value, or $${name} for the text itself"
        )


class StaleReference(BridgeError):
    """A reference in arguments to a future that no longer exists; `fate` is the reason."""

    def __init__(self, future_id: str, fate: str) -> None:
        self.future_id = future_id
        super().__init__(
            f"not sent: {future_id} {fate}; its result is not available here: call its tool again and use the new ID. "
            f"Write $${future_id} for the text itself"
        )


class InvalidName(BridgeError):
    """A name (`_as`) that no reference could use."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name!r} is not a valid name for a future: use a letter, then letters, digits, '_' or '-' (at most 64 "
            f"characters); no ID ('f' and a number), and not 'all' or 'this'"
        )


class InvalidTransition(BridgeError):
    """An event is not allowed in the state of a future. A bug of the bridge, never a user's error."""

    def __init__(self, future_id: str, state: str, event: str) -> None:
        super().__init__(f"future {future_id} is {state} and cannot {event}")


class TooManyCallers(BridgeError):
    """All connections for callers with servers of their own that the limit allows are in use."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} callers with connections of their own use the bridge; try again later")


class TooManyFutures(BridgeError):
    """The limit on unfinished futures or stored bytes is reached; the call was refused, no future was dropped."""

    def __init__(self, what: str, limit: str, setting: str) -> None:
        super().__init__(
            f"Refused: {what} (limit {limit}, setting {setting}). Nothing was sent. "
            f"Await or cancel unfinished futures, then call again"
        )


class InvalidArguments(BridgeError):
    """Arguments of a meta-tool, or a reserved argument (`_as`, `_wait`), are invalid."""

    def __init__(self, tool: str, problem: str) -> None:
        super().__init__(f"{tool}: {problem}")


class InvalidQuery(BridgeError):
    """A word of a query for calls is unknown, or its value is wrong.

    Args:
        word: name of the word.
        problem: what is wrong with it, and what is allowed.
    """

    def __init__(self, word: str, problem: str) -> None:
        self.word = word
        self.problem = problem
        super().__init__(f"{word[:40]!r}: {problem}")


class TooManyReferences(BridgeError):
    """Arguments contain more references, or text in their form, than are looked up."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"not sent: the arguments have more than {limit} references (`${{f:…}}`, `$name`); split the call, or set "
            '"references": "off" for this tool if they are text'
        )


# --- outcomes of calls ---------------------------------------------------------------------------------------------


class CallFailed(BridgeError):
    """Base class: a call ended without a result of its tool.

    Attributes:
        unwritten: its text is not written to the disk: it may quote a call of a tool with `journal: false`.
    """

    unwritten: bool = False

    @property
    def detail(self) -> str:
        """Text for use after a line that contains the tool and the state."""
        return str(self)

    @property
    def holds(self) -> list[object]:
        """Values that it keeps in memory."""
        return [str(self)]


class ToolFailed(CallFailed):
    """Base class: `what` is a predicate with the tool as its subject."""

    def __init__(self, tool: str, what: str) -> None:
        self._what = what
        super().__init__(f"{tool} {what}")

    @property
    def detail(self) -> str:
        return self._what


class ProtocolFailure(CallFailed):
    """The server responded with a JSON-RPC error, which is kept whole."""

    def __init__(self, tool: str, code: int, message: str, data: object = None) -> None:
        self.tool, self.code, self.message, self.data = tool, code, message, data
        super().__init__(f"{tool} failed: {self.detail}")

    @property
    def detail(self) -> str:
        return f"{said(self.message, REASON_LENGTH)} (JSON-RPC error {self.code})"

    @property
    def holds(self) -> list[object]:
        return [str(self), self.message, self.data]


class ServerUnavailable(CallFailed):
    """The server is unavailable; the call was not sent."""

    def __init__(self, server: str, reason: str) -> None:
        self.server, self.reason, self.how = server, reason, f"is not available ({reason})"
        end = "" if reason.endswith("?") else "."
        super().__init__(f"server {server!r} is not available: {reason}{end} The call was not sent; try again later")


class EntryBroken(BridgeError):
    """A changed configuration has an invalid entry for a server that runs: a slip must not end it."""

    def __init__(self, source: str, server: str, reason: str) -> None:
        super().__init__(f"{source}: server {server!r}: {reason}")


class ServerRemoved(CallFailed):
    """The configuration no longer has the server; the call was not sent."""

    def __init__(self, server: str) -> None:
        self.server = server
        super().__init__(
            f"not sent: server {server!r} was removed from the configuration before this call started; list the tools "
            "again"
        )


class ToolRemoved(CallFailed):
    """The configuration no longer lists the tool; the call was not sent."""

    def __init__(self, tool: str, server: str) -> None:
        self.tool, self.server = tool, server
        super().__init__(
            f"not sent: {tool} was left out by a change of the configuration of server {server!r} before this call "
            "started; list the tools again"
        )


class ServerChanged(CallFailed):
    """The server was ended for a change of the configuration while the call was running.

    Args:
        removed: it is not started again.
        drain_s: seconds that the call had to finish.
    """

    def __init__(self, server: str, drain_s: float, *, removed: bool) -> None:
        self.server = server
        what = "removed from the configuration" if removed else "restarted with a changed configuration"
        super().__init__(
            f"server {server!r} was {what}, and this call had not finished {drain_s:g} s after that (drain_s); it may "
            "or may not have taken effect"
        )


class RunsElsewhere(ServerUnavailable):
    """Another replica runs the server; nothing was sent."""

    def __init__(self, server: str) -> None:
        super().__init__(server, "another replica runs it")


class OwnConnectionGone(CallFailed):
    """The call needs its caller's own connection to the server, which there is not any more; it was not sent."""

    server: str


class SessionGone(OwnConnectionGone):
    """The server has an instance for each session, and the session of the call has ended, with its instance."""

    def __init__(self, server: str) -> None:
        self.server = server
        super().__init__(
            f"not sent: server {server!r} has an instance for each session, and the session of this call has ended; "
            f"call again in a session that runs"
        )


class CallerCredentialsGone(OwnConnectionGone):
    """The call needs its caller's credentials, which were kept in memory only and are gone; it was not sent."""

    def __init__(self, server: str) -> None:
        self.server = server
        super().__init__(
            f"not sent: server {server!r} gets its caller's credentials, which are kept in memory only and are gone; "
            f"call again"
        )


class NotRelayed(CallFailed):
    """The replica that runs the server has given no answer.

    Args:
        reason: a clause.
    """

    def __init__(self, server: str, reason: str) -> None:
        self.server, self.reason = server, reason
        super().__init__(f"server {server!r} runs at another replica: {reason}")


class NotSignedIn(ServerUnavailable):
    """The server has to be signed in to first, or again. It has not processed the call."""

    def __init__(self, server: str, needed: SignInNeeded) -> None:
        self.server, self.reason, self.how, self.needed = server, needed.message, needed.message, needed
        CallFailed.__init__(self, f"not sent: server {server!r} {needed.message}")


class NotSent(ServerUnavailable):
    """The connection failed before any part of the call reached the server, so it can be sent again."""

    def __init__(self, server: str, how: str, stderr_tail: Sequence[str] = ()) -> None:
        self.server, self.reason, self.how = server, f"it {how}", how
        CallFailed.__init__(
            self,
            f"not sent: server {server!r} {how} before any part of this call reached it, so it had no effect; "
            f"call again{_last_lines(stderr_tail)}",
        )


class ServerDied(CallFailed):
    """The connection to the server ended while the call was running."""

    def __init__(self, server: str, how: str, stderr_tail: Sequence[str] = ()) -> None:
        self.server, self.how, self.stderr_tail = server, how, tuple(stderr_tail)
        tail = _last_lines(stderr_tail)
        super().__init__(
            f"server {server!r} {how} while this call was running; the call may or may not have taken effect{tail}"
        )


class ServerRefused(CallFailed):
    """The server responded with an HTTP error status.

    Attributes:
        retry_after_s: the requested delay before a retry, if any.
        may_pass: the same call may succeed later.
        unprocessed: the status means that nothing was done (429), so any call may be retried.
    """

    def __init__(self, server: str, refused: HttpRefused) -> None:
        self.server, self.how, self.status = server, refused.message, refused.status
        self.retry_after_s, self.may_pass = refused.retry_after_s, refused.may_pass
        self.unprocessed = refused.status == 429
        effect = "; the call may or may not have taken effect" if refused.status >= 500 else ""
        super().__init__(f"server {server!r} refused this call: it {refused.message}{effect}")


class CallTimedOut(ToolFailed):
    """The call exceeded its `timeout_s`; the server was asked to cancel it."""

    def __init__(self, tool: str, timeout_s: float) -> None:
        super().__init__(
            tool,
            f"did not finish within {timeout_s:g} s (setting timeout_s) and was cancelled; "
            f"it may or may not have taken effect",
        )


class DependencyFailed(CallFailed):
    """A future in the call's arguments failed or was cancelled; the call was never sent.

    Args:
        dependency: the future that the call refers to.
        cause: the first future of the chain.
        reason: the failure of `cause`.
    """

    def __init__(self, dependency: str, cause: str, reason: str) -> None:
        self.dependency, self.cause, self.reason = dependency, cause, reason
        via = f" (because of {cause})" if cause != dependency else ""
        super().__init__(f"not sent: it needs {dependency}, which has no result{via}: {reason}")


class PredecessorFailed(CallFailed):
    """A call that had to complete first (`_after`) failed or was cancelled; the call was never sent.

    Args:
        written: the ID or name in `_after`.
        predecessor: its future.
        cause: the first future of the chain.
        reason: the failure of `cause`.
        cancelled: the future was cancelled; it did not fail.
    """

    def __init__(self, written: str, predecessor: str, cause: str, reason: str, *, cancelled: bool = False) -> None:
        self.predecessor, self.cause, self.reason = predecessor, cause, reason
        shown = predecessor if written == predecessor else f"{written} ({predecessor})"
        via = f" (because of {cause})" if cause != predecessor else ""
        how = "was cancelled" if cancelled else "failed"
        super().__init__(f"not sent: {shown} {how}{via}: {reason.removeprefix('cancelled; ')}")


class Stopped(CallFailed):
    """Fail-stop: an earlier write on the same state failed; the call was never sent."""

    def __init__(self, before: str, cause: str, reason: str) -> None:
        self.before, self.cause, self.reason = before, cause, reason
        via = f" (the first to fail was {cause})" if cause != before else ""
        super().__init__(f"not sent: {before} failed before it{via}: {reason}; call again if it is still needed")


class Cancelled(CallFailed):
    """The call was cancelled."""

    def __init__(self, *, sent: bool) -> None:
        self.effect = "it may or may not have taken effect" if sent else "it was never sent"
        super().__init__(f"cancelled; {self.effect}")

    @property
    def detail(self) -> str:
        return self.effect


class ReferenceFailed(CallFailed):
    """Base class: a reference in the arguments cannot be resolved against the future's value."""


class PathMissing(ReferenceFailed):
    """The path of a reference does not exist in the future's value.

    Args:
        there: a description of the deepest value that the path reaches.
    """

    def __init__(self, written: str, future: str, missing: str, there: str) -> None:
        self.written, self.future, self.missing = written, future, missing
        super().__init__(f"not sent: {written} does not exist: {future} has no {missing}; {there}{_literally(written)}")


class PathUnreadable(ReferenceFailed):
    """A reference is written wrongly.

    Args:
        position: character at which it is wrong, from 1; in the path of the object form. None for all of it.
        problem: what is wrong there, and what to write.
    """

    def __init__(self, written: str, position: int | None, problem: str) -> None:
        self.written, self.position = written, position
        where = "" if position is None else f" at character {position}"
        super().__init__(
            f"not sent: the path of {written} is not valid JMESPath{where}: {problem}{_literally(written)}"
        )


class ExpressionFailed(ReferenceFailed):
    """A reference selects or computes what its futures' values do not have.

    Args:
        position: character of the part that fails, from 1.
        problem: why, and what to write.
    """

    def __init__(self, written: str, position: int, problem: str) -> None:
        self.written, self.position = written, position
        super().__init__(f"not sent: {written} fails at character {position}: {problem}{_literally(written)}")


class ValueUnfit(ReferenceFailed):
    """A future's value cannot be converted to the type that the argument requires."""

    def __init__(self, written: str, future: str, expected: str, found: str) -> None:
        self.written, self.future, self.expected = written, future, expected
        super().__init__(f"not sent: {written} must be {expected}, but {future} {found}{_literally(written)}")


class ArgumentsTooLarge(ReferenceFailed):
    """The arguments exceed their limit after the values of futures were substituted."""

    def __init__(self, written: str, limit: int) -> None:
        self.written, self.limit = written, limit
        super().__init__(
            f"not sent: with the value of {written} the arguments exceed {limit} bytes "
            f"(setting max_argument_bytes); pass a part of it, or raise the setting"
        )


class NestedTooDeeply(ReferenceFailed):
    """Arguments or a future's value are nested too deeply to be serialised as JSON."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not sent: {what} is nested too deeply to be passed on")


class ArgumentsRejected(CallFailed):
    """After substitution the arguments violate the tool's own input schema; the call was never sent."""

    def __init__(self, tool: str, path: str, problem: str) -> None:
        self.tool, self.path = tool, path
        super().__init__(f"not sent: the arguments of {tool} do not match its schema at {path}: {problem}")


class Cycle(BridgeError):
    """Calls depend on each other in a cycle, so none could ever start."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(f"Refused: these calls wait for each other: {' → '.join(names)}. Nothing was sent")


class Unanswered(ToolFailed):
    """A server's question to its client was not answered in time."""

    def __init__(self, tool: str, question: str, timeout_s: float) -> None:
        super().__init__(
            tool,
            f"asked a question that was not answered within {timeout_s:g} s (setting question_timeout_s): "
            f"{question}. The call was cancelled. Await such a future, so that its question reaches the user",
        )


class NoClientToAsk(ToolFailed):
    """The server asked a question after its client had closed the connection."""

    def __init__(self, tool: str, question: str) -> None:
        super().__init__(
            tool,
            f"asked a question after its client had closed the connection, so the call was cancelled: "
            f"{question}. Keep standard input open until such a call has ended",
        )


class NotDrained(ToolFailed):
    """The client closed its input, or the bridge was asked to stop, and the call was unfinished at the end of the
    drain."""

    def __init__(self, tool: str, drain_s: float, *, sent: bool) -> None:
        effect = "it may or may not have taken effect" if sent else "it was never sent"
        super().__init__(
            tool,
            f"was unfinished {drain_s:g} s after the bridge had begun to stop (setting drain_s) and was cancelled; "
            f"{effect}",
        )


class Interrupted(CallFailed):
    """The bridge stopped while the call was running; its result is lost.

    Args:
        repeatable: another call of the tool with the same arguments changes nothing further.
    """

    def __init__(self, *, repeatable: bool = False) -> None:
        self.repeatable = repeatable
        advice = "it can be called again" if repeatable else "check that before calling again"
        super().__init__(
            f"interrupted: the bridge stopped while this call was running; it may or may not have taken effect; "
            f"{advice}"
        )


class NotResumed(CallFailed):
    """The bridge stopped while the call was waiting, and its next run cannot make the call; it was never sent.

    Args:
        reason: why not, as a clause: "server 'files' is not configured any more".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"not sent: the bridge stopped while this call was waiting, and now {reason}; "
            f"call again if it is still needed"
        )


class NotHere(CallFailed):
    """Only this replica knows the arguments of a call, and another one runs the server."""

    def __init__(self, server: str) -> None:
        super().__init__(
            f"not sent: its arguments are not written to the database (setting journal: false), so only the replica "
            f"that was asked can make the call, and another one runs server {server!r}; "
            f'set "owner": "any" on the server'
        )


class NotClaimed(CallFailed):
    """The journal cannot be written any more, and says that the call waits; this run has not sent it."""

    def __init__(self) -> None:
        super().__init__(
            "not sent: the journal cannot be written any more and says that this call waits, so the next run of the "
            "bridge sends it; if it were sent now, it would run twice"
        )


class RestoredFailure(CallFailed):
    """A failure of an earlier run of the bridge, or of another replica, of which only the texts are kept.

    Args:
        text: the message of the error.
        detail: its text for use after a line that contains the tool and the state.
        cause: ID of the future whose failure began the chain that it belongs to.
    """

    def __init__(self, text: str, detail: str, cause: str | None = None) -> None:
        self._detail = detail
        self.cause = cause
        super().__init__(text)

    @property
    def detail(self) -> str:
        return self._detail

    @property
    def holds(self) -> list[object]:
        return [str(self), self._detail]


class MalformedQuestion(ToolFailed):
    """A server's request for input is not valid MCP."""

    def __init__(self, tool: str, found: object) -> None:
        super().__init__(tool, f"sent an invalid request for input: inputRequests has {found!r:.80}")


class TooManyQuestions(ToolFailed):
    """A server asked more questions at once than are passed on to a client."""

    def __init__(self, tool: str, count: int, most: int) -> None:
        super().__init__(tool, f"asked {count} questions at once; at most {most} are passed on")


class AskedTooOften(ToolFailed):
    """A server asked questions without end."""

    def __init__(self, tool: str, most: int) -> None:
        super().__init__(
            tool, f"asked more than {most} times, so the call was ended; it may or may not have taken effect"
        )


class CannotAsk(ToolFailed):
    """The server sent a request for which the client has not declared the capability."""

    def __init__(self, tool: str, method: str) -> None:
        super().__init__(tool, f"sent {said(method, 80)}, for which this client has not declared the capability")
