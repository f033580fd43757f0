"""Interface of what traces requests of clients, and the tracing of one request to its end.

Owns when a request has ended: with its answer, its error, or its cancellation. Leaves spans to `telemetry`; without a
tracer nothing of this is used.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import Deferred, RequestId

Params = Mapping[str, Any]


class RequestSpan(Protocol):
    """The trace of one request. It is current while it is entered; it is entered any number of times, one at a time."""

    params: Params | None
    """The parameters of the request, with its own trace context in `_meta`, in place of the client's."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...

    def end(self, result: Result) -> None:
        """End with an answer."""
        ...

    def fail(self, error: RpcError) -> None:
        """End with an error."""
        ...

    def crash(self, error: BaseException) -> None:
        """End without an answer."""
        ...


class RequestTracer(Protocol):
    """Traces the requests of all clients of one transport."""

    def begin(
        self,
        method: str,
        params: Params | None,
        request_id: RequestId | None,
        version: str | None = None,
        session: str | None = None,
    ) -> RequestSpan:
        """Begin the trace of a request that was received.

        Args:
            version: the protocol version of its session; None: the request names its own, or negotiates one.
            session: the ID of its session, if that has one.
        """
        ...

    def session(self, version: str) -> Callable[[], None]:
        """Begin a session; return what ends it."""
        ...


def traced(span: RequestSpan, answer: Callable[[Params | None], Result | Deferred]) -> Result | Deferred:
    """Answer a request within its trace, which ends with the answer.

    Raises:
        RpcError: see `answer`; the trace has ended.
    """
    with _ending(span), span:
        answered = answer(span.params)
    if isinstance(answered, Deferred):
        return _Traced(span, answered)
    span.end(answered)
    return answered


@contextmanager
def _ending(span: RequestSpan) -> Generator[None]:
    """End a trace with whatever the block raises."""
    try:
        yield
    except RpcError as exc:
        span.fail(exc)
        raise
    except BaseException as exc:
        span.crash(exc)
        raise


class _Traced(Deferred):
    """A deferred answer with which a trace ends."""

    __slots__ = ("_deferred", "_span")

    def __init__(self, span: RequestSpan, deferred: Deferred) -> None:
        self._span, self._deferred = span, deferred

    def add_done_callback(self, callback: Callable[[], None]) -> bool:
        return self._deferred.add_done_callback(callback)

    def remove_done_callback(self) -> None:
        self._deferred.remove_done_callback()

    def result_nowait(self) -> Result | None:
        with _ending(self._span):
            result = self._deferred.result_nowait()
        if result is not None:
            self._span.end(result)
        return result

    def __call__(self) -> Awaitable[Result]:
        return self._awaited()

    async def _awaited(self) -> Result:
        with _ending(self._span), self._span:
            result = await self._deferred()
        self._span.end(result)
        return result
