"""Requests under way between a host and the daemon, and what becomes of them when the daemon ends.

Owns the rules of a loss: which requests are sent again, and what is answered to the others, so that no call is made
twice; and the state of a connection that the next daemon has to be given again. Pure. Standard library only. Sockets
and lines are left to `relay`.
"""

import json
from typing import Any, Final, NamedTuple, cast

from asyncfc_mcp.thin.messages import ERROR, NOTIFICATION, REQUEST, RESULT, Id, Message

INTERNAL_ERROR: Final = -32603
REPEATABLE: Final = frozenset(
    {
        "initialize", "ping", "server/discover", "subscriptions/listen", "logging/setLevel", "completion/complete",
        "tools/list", "prompts/list", "resources/list", "resources/templates/list",
        "resources/subscribe", "resources/unsubscribe", "tasks/get", "tasks/list", "tasks/result",
    }
)  # fmt: skip
"""Requests that change nothing when they are sent again. Not `resources/read` and `prompts/get`: a server may do
anything there."""
REPEATABLE_TOOLS: Final = frozenset({"await_future", "gather", "list_futures"})
MOST_SENT_AGAIN: Final = 8
"""Losses in a row after which a request is not sent once more: it may be the reason for them."""
MODERN_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
"""Key of `_meta` that requests of 2026-07-28 have, and others do not."""
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
OWN_ID: Final = "asyncfc-again-"
"""Beginning of the IDs of requests of the thin process itself."""
LISTS: Final = ("tools", "prompts", "resources")

UNCERTAIN: Final = (
    "The asyncfc-mcp daemon ended while this call was being handled. The call may or may not have taken effect: check "
    "before you repeat it. list_futures shows whether it was accepted."
)
NOT_SENT: Final = "The asyncfc-mcp daemon ended before it had received this call, which has not been made. Repeat it."
WAITED: Final = "The asyncfc-mcp daemon ended again and again while it handled this call. Call it again later."
UNANSWERED: Final = "the asyncfc-mcp daemon ended while this request was being handled"


class Sent:
    """A request of the host that has no answer yet.

    Args:
        line: its bytes, for as long as it may be sent again; None for one that was too long to keep.
    """

    __slots__ = ("again", "line", "message", "modern")

    def __init__(self, message: Message, line: bytes | None) -> None:
        self.message, self.line, self.again = message, line, 0
        meta: Any = (message.params or {}).get("_meta")
        self.modern = isinstance(meta, dict) and MODERN_VERSION in meta
        if line is not None:
            # Parsed parameters are needed no more, apart from the filter of a stream of notifications.
            kept: dict[str, Any] = {}
            if message.method == "tools/call":
                kept["name"] = message.tool
            elif message.method in ("subscriptions/listen", "resources/subscribe", "resources/unsubscribe"):
                kept = message.params or {}
            self.message = message._replace(params=kept)

    @property
    def repeatable(self) -> bool:
        """True if sending it again makes no call twice."""
        return self.message.method in REPEATABLE or self.message.tool in REPEATABLE_TOOLS


class Loss(NamedTuple):
    """What follows from the end of a daemon.

    Attributes:
        to_host: lines for the host.
        again: requests to be sent to the next daemon, in order.
    """

    to_host: list[bytes]
    again: list[Sent]


class Conversation:
    """What host and daemon have exchanged, as far as the next daemon, or the host after a loss, has to know of it."""

    def __init__(self) -> None:
        self._requests: dict[Id, Sent] = {}
        self._questions: set[str] = set()
        """Requests of the daemon that the host has not answered."""
        self._dead: set[str] = set()
        """Such requests of daemons that have ended."""
        self._initialize: bytes | None = None
        self._level: bytes | None = None
        self._resources: dict[str, bytes] = {}
        self._changing: list[str] = []
        """Lists of which the host expects to be told when they change."""
        self._announced: set[tuple[str, Id | None]] = set()
        """Lists that the host was told to read again and has not read since; with the request on whose stream it was
        told, if it was on one."""
        self.initialized: bytes | None = None
        """The host's `notifications/initialized`."""

    # -- what passes

    def request(self, message: Message, line: bytes | None) -> Sent:
        """Note a request of the host. One with an ID that is in use takes its place, as it does in the daemon."""
        assert message.id is not None, "a request has one"
        if self._announced and message.method.endswith("/list"):
            kind = message.method.partition("/")[0]
            self._announced = {each for each in self._announced if each[0] != kind}
        sent = self._requests[message.id] = Sent(message, line)
        return sent

    def is_open(self, sent: Sent) -> bool:
        """Return whether a request has no answer yet, and was not cancelled."""
        assert sent.message.id is not None, "a request has one"
        return self._requests.get(sent.message.id) is sent

    def cancelled(self, message: Message) -> None:
        """Note a `notifications/cancelled` of the host: no answer is needed."""
        request_id: Any = (message.params or {}).get("requestId")
        if isinstance(request_id, int | str):
            self._requests.pop(request_id, None)

    def answered_by_host(self, message: Message) -> bool:
        """Note an answer of the host; return False if the daemon that has asked has ended."""
        key = str(message.id)
        self._questions.discard(key)
        if key in self._dead:
            self._dead.discard(key)
            return False
        return True

    def from_daemon(self, message: Message, line: bytes) -> None:
        """Note a message of the daemon.

        Args:
            line: all of it, unless it is a long one.
        """
        if message.id is None:
            return
        if message.kind == REQUEST:
            self._dead.discard(str(message.id))
            self._questions.add(str(message.id))
        elif message.kind in (RESULT, ERROR):
            sent = self._requests.pop(message.id, None)
            if sent is not None and message.kind == RESULT:
                self._succeeded(sent, line)

    def is_known_change(self, message: Message, line: bytes) -> bool:
        """Return whether a message of the daemon says only that a list has changed which the host is to read again
        anyhow."""
        if not self._announced or message.kind != NOTIFICATION or not message.method.endswith("/list_changed"):
            return False
        params: Any = json.loads(line).get("params")
        meta: Any = cast("dict[str, Any]", params).get("_meta") if isinstance(params, dict) else None
        stream: Any = cast("dict[str, Any]", meta).get(SUBSCRIPTION) if isinstance(meta, dict) else None
        kind = message.method.split("/")[1]
        return isinstance(stream, Id | None) and (kind, stream) in self._announced

    def _succeeded(self, sent: Sent, line: bytes) -> None:
        """Note what a connection has in the daemon beside its requests."""
        if sent.line is None:
            return
        match sent.message.method:
            case "initialize":
                self._initialize, self._changing = sent.line, _changing(line)
            case "logging/setLevel":
                self._level = sent.line
            case "resources/subscribe":
                self._resources[_uri(sent)] = sent.line
            case "resources/unsubscribe":
                self._resources.pop(_uri(sent), None)
            case _:
                pass

    @property
    def waits(self) -> bool:
        """True while a request of the host has no answer."""
        return bool(self._requests)

    # -- a daemon has ended

    def lost(self, unsent: set[Sent]) -> Loss:
        """Return what follows from the end of the daemon.

        Args:
            unsent: requests that it has certainly not received.
        """
        to_host: list[bytes] = []
        again: list[Sent] = []
        for key in sorted(self._questions):
            written = int(key) if key.lstrip("-").isdecimal() else key
            reason = "the asyncfc-mcp daemon that asked has ended"
            to_host.append(notification("notifications/cancelled", {"requestId": written, "reason": reason}))
        self._dead |= self._questions
        self._questions = set()
        for sent in list(self._requests.values()):
            if sent not in unsent:
                sent.again += 1
            if sent.line is not None and (sent in unsent or (sent.repeatable and sent.again <= MOST_SENT_AGAIN)):
                again.append(sent)
            else:
                to_host.append(self.refuse(sent))
        return Loss(to_host, again)

    def refuse(self, sent: Sent, reason: str = "") -> bytes:
        """End a request, and return the answer for the host.

        Args:
            reason: why it was not sent to any daemon; without one, it was sent, and nothing is known of it.
        """
        self._requests.pop(cast("Id", sent.message.id), None)
        if reason:
            failed = {"code": INTERNAL_ERROR, "message": reason}
            return _failed_call(sent, reason) if sent.message.method == "tools/call" else _answer(sent, error=failed)
        if sent.message.method != "tools/call":
            return _answer(sent, error={"code": INTERNAL_ERROR, "message": UNANSWERED})
        return _failed_call(sent, WAITED if sent.repeatable else UNCERTAIN)

    def abandon(self) -> list[Sent]:
        """Return the requests that wait for an answer, oldest first."""
        return list(self._requests.values())

    # -- the next daemon

    def settled(self) -> None:
        """Note that a daemon has lived on for a while after what was sent to it again."""
        for sent in self._requests.values():
            sent.again = 0

    @property
    def handshake(self) -> bytes | None:
        """The request by which the connection was opened, with an ID of this program; None if it is not open yet, or
        needs none (2026-07-28)."""
        return None if self._initialize is None else _with_id(self._initialize, f"{OWN_ID}initialize")

    def restored(self) -> list[bytes]:
        """Return the lines that follow the answer to `handshake`."""
        lines = [] if self.initialized is None else [self.initialized]
        wanted = [*([] if self._level is None else [self._level]), *self._resources.values()]
        return lines + [_with_id(line, f"{OWN_ID}{number}") for number, line in enumerate(wanted)]

    def changes(self) -> list[bytes]:
        """Return notifications for the host that what was listed by the last daemon may have changed."""
        stale: list[tuple[str, Id | None]] = []
        if self.initialized is not None:
            stale += [(kind, None) for kind in self._changing]
        for sent in self._requests.values():
            if sent.message.method == "subscriptions/listen":
                wanted: Any = (sent.message.params or {}).get("notifications")
                if isinstance(wanted, dict):
                    filters = cast("dict[str, Any]", wanted)
                    stale += [(kind, sent.message.id) for kind in LISTS if filters.get(f"{kind}ListChanged") is True]
        # The answer to a list that is being read may be taken for the one after the change.
        reading = {each.message.method.partition("/")[0] for each in self._requests.values() if _lists(each)}
        self._announced = {each for each in stale if each[0] not in reading}
        return [
            notification(f"notifications/{kind}/list_changed", None if on is None else {"_meta": {SUBSCRIPTION: on}})
            for kind, on in stale
        ]


def _lists(sent: Sent) -> bool:
    return sent.message.method.endswith("/list")


def is_own(message: Message) -> bool:
    """Return whether an answer of the daemon is to a request of the thin process."""
    return isinstance(message.id, str) and message.id.startswith(OWN_ID) and message.kind in (RESULT, ERROR)


def _failed_call(sent: Sent, text: str) -> bytes:
    """Return the answer to a `tools/call` that a daemon has not answered."""
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    return _answer(sent, result={"resultType": "complete", **result} if sent.modern else result)


def _answer(sent: Sent, **outcome: Any) -> bytes:
    return _line({"jsonrpc": "2.0", "id": sent.message.id, **outcome})


def notification(method: str, params: dict[str, Any] | None) -> bytes:
    """Return the line of a notification."""
    return _line({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _with_id(line: bytes, request_id: str) -> bytes:
    return _line({**json.loads(line), "id": request_id})


def _uri(sent: Sent) -> str:
    return str((sent.message.params or {}).get("uri"))


def _changing(line: bytes) -> list[str]:
    """Return the lists of whose changes an `initialize` result says that they are announced."""
    try:
        capabilities: Any = json.loads(line)["result"]["capabilities"]
        return [kind for kind in LISTS if kind in capabilities and capabilities[kind].get("listChanged") is True]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
