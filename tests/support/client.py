"""JSON-RPC clients of a bridge, apart from how their bytes travel, and the shapes of its answers.

Knows the names of the bridge's tools and nothing of its code: neither `asyncfc_mcp` nor the SDK is imported, so a
mistake of theirs cannot hide itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]
MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"
PATIENCE = 30.0
"""Seconds after which something that must happen counts as lost. Never a measure of speed."""


class RpcError(Exception):
    """The peer answered with a JSON-RPC error, kept whole."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error


def canonical(value: object) -> str:
    """Canonical JSON: the form in which two results are compared byte for byte."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def eventually(check: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """The first truthy value of `check`, polled; fails when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {seconds:g} s: {what} (last: {value!r})")
        time.sleep(0.02)


@dataclass(frozen=True)
class Handle:
    """The handle in an answer of a wrapped tool."""

    id: str
    status: str
    tool: str
    result: Json

    @classmethod
    def of(cls, result: Json) -> Handle:
        """Read it from `_meta`, and hold the other two places to the same story."""
        (record,) = records(result)
        handle = cls(record["future_id"], record["status"], record["tool"], result)
        assert handle.id in text_of(result), "the text does not name the future"
        structured = result.get("structuredContent")
        if structured is not None:
            assert structured["future_id"] == handle.id
            assert structured["status"] == handle.status
            assert structured.get("tool", handle.tool) == handle.tool
        return handle


def records(result: Json) -> list[Json]:
    """The machine-readable records of an answer."""
    return result["_meta"]["asyncfc/futures"]


def text_of(result: Json) -> str:
    """All text blocks, joined."""
    return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")


class Caller:
    """What every client of ours can do, however its bytes travel."""

    def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        on_progress: Callable[[Json], None] | None = None,
        timeout: float = PATIENCE,
    ) -> Json:
        """The result of one request. Raises RpcError."""
        raise NotImplementedError

    def call(self, tool: str, arguments: Json | None = None, **options: Any) -> Json:
        """The raw result of a `tools/call`."""
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}}, **options)

    def submit(self, tool: str, arguments: Json | None = None, **options: Any) -> Handle:
        """Call a wrapped tool and read its handle."""
        return Handle.of(self.call(tool, arguments, **options))

    def await_future(self, future: str, **options: Any) -> Json:
        """One `await_future`, whatever it answers."""
        arguments = {"future_id": future} | {k: options.pop(k) for k in ("timeout_s",) if k in options}
        return self.call("await_future", arguments, **options)

    def outcome(self, future: str) -> Json:
        """`await_future` until it answers with the result itself."""
        while True:
            result = self.await_future(future)
            if "asyncfc/futures" not in (result.get("_meta") or {}):
                return result
            (record,) = records(result)
            if record["status"] in ("failed", "cancelled"):
                return result

    def gather(self, futures: Sequence[str], **arguments: Any) -> Json:
        """One `gather`."""
        return self.call("gather", {"future_ids": list(futures), **arguments})

    def all_pages(self, method: str, key: str) -> list[Json]:
        """Every item of a paginated list."""
        items: list[Json] = []
        cursor: Json = {}
        while True:
            result = self.request(method, cursor)
            items += result[key]
            if not result.get("nextCursor"):
                return items
            cursor = {"cursor": result["nextCursor"]}

    def tools(self) -> dict[str, Json]:
        """All tools by name."""
        return {tool["name"]: tool for tool in self.all_pages("tools/list", "tools")}

    def wait_for_tools(self, *names: str) -> dict[str, Json]:
        """All tools, once `names` are among them."""
        found: dict[str, Json] = {}

        def listed() -> bool:
            found.clear()
            found.update(self.tools())
            return set(names) <= set(found)

        eventually(listed, f"tools/list shows {', '.join(names)}")
        return found
