"""Newline-delimited JSON-RPC over file descriptors, with the stream interface of the SDK's transports.

Owns framing, parsing and writing, for both sides of the bridge: the SDK's own stdio transports hop a thread per
line (server) or pass every message through two memory streams (client). Refuses to know MCP: a message is
classified by the members that JSON-RPC gives it, and what it carries stays the plain value that came off the wire.
"""

import json
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, cast

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

_CHUNK: Final = 256 * 1024


class MalformedMessage(ValueError):
    """A line that is not one JSON-RPC message; `code` is the JSON-RPC error for it."""

    def __init__(self, code: int, problem: str, request_id: int | str | None = None) -> None:
        super().__init__(problem)
        self.code, self.request_id = code, request_id


def _valid_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode


def parse_message(line: bytes) -> JSONRPCMessage:
    """One JSON-RPC message.

    `json` and a look at the members, rather than the SDK's pydantic union: that one builds a message up to four
    times before it knows which it is, and refuses text that `json` can carry (lone surrogates).

    Raises:
        MalformedMessage: it is not JSON, or not one JSON-RPC 2.0 message.
    """
    try:
        value: Any = _decode(line.decode())
    except (ValueError, RecursionError) as exc:
        raise MalformedMessage(PARSE_ERROR, f"Parse error: {exc}") from None
    if not isinstance(value, dict):
        what = "a batch" if isinstance(value, list) else "not an object"
        raise MalformedMessage(INVALID_REQUEST, f"Invalid Request: {what}; send one JSON-RPC message per line")
    obj = cast("dict[str, Any]", value)
    request_id = obj.get("id")
    shown = request_id if _valid_id(request_id) else None
    if obj.get("jsonrpc") != "2.0":
        raise MalformedMessage(INVALID_REQUEST, 'Invalid Request: "jsonrpc" must be "2.0"', shown)
    if "method" in obj:
        method, params = obj["method"], obj.get("params")
        if not isinstance(method, str):
            raise MalformedMessage(INVALID_REQUEST, "Invalid Request: method must be a string", shown)
        if params is not None and not isinstance(params, dict):
            raise MalformedMessage(INVALID_REQUEST, "Invalid Request: params must be an object", shown)
        if "id" not in obj:
            return JSONRPCNotification.model_construct(jsonrpc="2.0", method=method, params=params)
        if shown is None:
            raise MalformedMessage(INVALID_REQUEST, "Invalid Request: id must be a string or an integer")
        return JSONRPCRequest.model_construct(jsonrpc="2.0", id=shown, method=method, params=params)
    if "result" in obj and shown is not None:
        if not isinstance(obj["result"], dict):
            raise MalformedMessage(INVALID_REQUEST, "Invalid Request: result must be an object", shown)
        return JSONRPCResponse.model_construct(jsonrpc="2.0", id=shown, result=obj["result"])
    if "error" in obj:
        try:
            error = ErrorData.model_validate(obj["error"])
        except ValueError:
            raise MalformedMessage(INVALID_REQUEST, "Invalid Request: malformed error", shown) from None
        return JSONRPCError.model_construct(jsonrpc="2.0", id=shown, error=error)
    raise MalformedMessage(INVALID_REQUEST, "Invalid Request: neither a request, a notification nor a response", shown)


def format_message(message: JSONRPCMessage) -> bytes:
    """The line for a message, newline included."""
    body: dict[str, Any] = {"jsonrpc": "2.0"}
    match message:
        case JSONRPCResponse():
            body["id"], body["result"] = message.id, message.result
        case JSONRPCError():
            body["id"], body["error"] = message.id, message.error.model_dump(by_alias=True, exclude_none=True)
        case JSONRPCRequest() | JSONRPCNotification():
            if isinstance(message, JSONRPCRequest):
                body["id"] = message.id
            body["method"] = message.method
            if message.params is not None:
                body["params"] = message.params
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form can carry it
        return json.dumps(body, separators=(",", ":")).encode() + b"\n"


class _Stream:
    """The context-manager half of the SDK's stream protocols."""

    async def aclose(self) -> None:
        raise NotImplementedError

    async def __aenter__(self):
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        await self.aclose()
        return None


class LineReader(_Stream):
    """Messages read from a source of bytes, one per line.

    Args:
        receive: the next bytes; raises `anyio.EndOfStream` at the end.
        on_malformed: told of every line that is no message. The stream goes on after it: one bad line is not the
            end of a connection.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes]],
        on_malformed: Callable[[MalformedMessage, bytes], Awaitable[None]],
    ) -> None:
        self._receive = receive
        self._on_malformed = on_malformed
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._closed = False

    async def receive(self) -> SessionMessage | Exception:
        while True:
            while self._lines:
                line = self._lines.popleft()
                if not line.strip():
                    continue
                try:
                    return SessionMessage(parse_message(line))
                except MalformedMessage as exc:
                    await self._on_malformed(exc, line)
            if self._closed:
                raise anyio.EndOfStream
            try:
                chunk = await self._receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                # A last line without its newline is still a line.
                self._closed = True
                if self._rest:
                    self._lines.append(b"".join(self._rest))
                    self._rest.clear()
                continue
            head, newline, tail = chunk.partition(b"\n")
            if not newline:
                self._rest.append(chunk)
                continue
            # Pieces of a long line are joined once, when its end is there: joining at every chunk is quadratic.
            self._rest.append(head)
            self._lines.append(b"".join(self._rest))
            *lines, last = tail.split(b"\n")
            self._lines.extend(lines)
            self._rest = [last] if last else []

    async def aclose(self) -> None:
        self._closed = True

    def __aiter__(self) -> "LineReader":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class LineWriter(_Stream):
    """Messages written to a sink of bytes, whole and one after another."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]], close: Callable[[], Awaitable[None]]) -> None:
        self._send, self._close = send, close
        self._lock = anyio.Lock()
        self._closed = False

    async def send(self, item: SessionMessage, /) -> None:
        await self.send_line(format_message(item.message))

    async def send_line(self, line: bytes) -> None:
        """Write one line.

        Raises:
            anyio.ClosedResourceError: `aclose` was called.
            anyio.BrokenResourceError: the other end is gone.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        # Half a line followed by another's would end the connection for everybody, so a line that was begun is
        # finished even if its sender is cancelled; the owner of the pipe ends that wait by closing it.
        async with self._lock:
            with anyio.CancelScope(shield=True):
                await self._send(line)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._close()


async def read_fd(fd: int) -> bytes:
    """The next bytes of a descriptor that can be waited on.

    Raises:
        anyio.EndOfStream: at its end.
    """
    await anyio.wait_readable(fd)
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""
    if not data:
        raise anyio.EndOfStream
    return data


async def write_fd(fd: int, data: bytes) -> None:
    """Write all of `data` to a non-blocking descriptor.

    Raises:
        anyio.BrokenResourceError: nobody reads any more.
    """
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                await anyio.wait_writable(fd)
    except OSError as exc:
        raise anyio.BrokenResourceError from exc


def approximate_size(value: Any) -> int:
    """Bytes of `value` as JSON, within a few per cent, without writing it."""
    total, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item) + 2
        elif isinstance(item, dict):
            entries = cast("dict[str, Any]", item)
            total += 2 + sum(len(key) + 4 for key in entries)
            stack.extend(entries.values())
        elif isinstance(item, list):
            elements = cast("list[Any]", item)
            total += 2 + len(elements)
            stack.extend(elements)
        elif isinstance(item, float):
            total += 8 if math.isfinite(item) else 4
        else:
            total += 4
    return total
