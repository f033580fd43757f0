"""Interface of what traces requests that go to wrapped servers.

Pure interface; without a tracer, `_meta` is passed on as the client sent it. Leaves spans to `telemetry`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.protocol import RequestId


class Outgoing(Protocol):
    """Traces what the bridge sends. The trace context that it returns replaces the client's in `_meta`."""

    def of_call(self, call: Call) -> Mapping[str, str]:
        """Return the trace context of a call that is about to be sent, for its `_meta`."""
        ...

    def on_request_id(self, call: Call) -> Callable[[RequestId], None]:
        """Return what takes the ID of the request with which a call is sent."""
        ...

    def request(self, server: str, method: str, params: Mapping[str, Any]) -> AbstractContextManager[Mapping[str, str]]:
        """Trace a request that is no call, while the block lasts; gives the trace context for its `_meta`.

        Args:
            params: as the client sent them.
        """
        ...
