"""Traffic of principals: their requests in a second, those that are answered at once, and the memory of their bodies.

Owns the refusal of those that are too many (429). Leaves the rates to `core.rates`, and connections, which belong to no
principal yet, to `connections`.
"""

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Self

import anyio

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.identity import Party, Principal, party_of
from asyncfc_mcp.core.rates import CommonRate, PartyRates, Rates
from asyncfc_mcp.core.retention import allowance
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_REQUEST
from asyncfc_mcp.transports.http.asgi import JsonRpcRefusal

if TYPE_CHECKING:
    from starlette.types import Message, Receive

RATE_OF_SEVERAL: Final = 1000.0
"""Default of `max_requests_per_s` where there are several principals."""
BUSY_S: Final = 1
"""`Retry-After` of a request beyond those that may be answered at once, in seconds."""

MOST_BODY_BYTES: Final = 512 << 20
"""Bytes of all bodies that are being received or parsed. After that, `max_result_bytes_total` counts them."""
ALWAYS_BYTES: Final = MOST_BODY_BYTES // 8
"""What each principal may have of them while there is room, whatever its share: one of the largest bodies."""
SMALL_BYTES: Final = 64 << 10
"""A body of this size is always received."""

_UNCOUNTED: Final[AbstractContextManager[object]] = nullcontext()


class Traffic:
    """Requests of one endpoint.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        rate, total = settings.max_requests_per_s, settings.max_requests_per_s_total
        common = None if total is None else CommonRate(total, settings.max_caller_share)
        self._several = Rates(PartyRates(RATE_OF_SEVERAL if rate is None else rate), common)
        self._only = Rates(None if rate is None else PartyRates(rate), common)
        self._limits_only = rate is not None or total is not None
        self._most, self._share = settings.max_connections, settings.max_caller_share
        self._answering: Counter[Party] = Counter()
        """Party → its requests that are being answered."""
        self._count = 0
        self._bodies: Counter[Party] = Counter()
        """Party → bytes of the bodies that are being received."""
        self._body_bytes = 0

    def request(self, principal: Principal) -> AbstractContextManager[object]:
        """Count a request, which is answered while the block lasts.

        Raises:
            Refusal: the principal has made too many.
        """
        party = party_of(principal.scope, None)
        if party is None and not self._limits_only:
            return _UNCOUNTED
        wait_s = (self._only if party is None else self._several).admit(party, self._clock())
        if wait_s > 0:
            seconds = math.ceil(wait_s)
            problem = f"Too many requests (max_requests_per_s, or that in all); try again in {seconds} s"
            raise _refused(problem, seconds)
        if party is None:
            return _UNCOUNTED
        own = self._answering[party]
        if own >= max(1, allowance(self._share, self._most - self._count)):
            problem = f"Too many requests: {own} of yours are being answered (max_caller_share of max_connections)"
            raise _refused(problem, BUSY_S)
        return _Answering(self, party)

    def count(self, party: Party, more: int) -> None:
        """Count requests that are being answered, more or fewer."""
        self._count += more
        self._answering[party] += more
        if not self._answering[party]:
            del self._answering[party]

    def body(self, principal: Principal) -> "Body":
        """Count the bytes of a body, which takes memory while the block lasts."""
        return Body(self, party_of(principal.scope, None))

    def count_bytes(self, party: Party, more: int) -> None:
        """Count bytes of bodies, more or fewer."""
        self._body_bytes += more
        self._bodies[party] += more
        if not self._bodies[party]:
            del self._bodies[party]

    def has_too_many_bytes(self, party: Party) -> bool:
        """Return true where the bodies of a party take more memory than it may have."""
        if self._body_bytes > MOST_BODY_BYTES:
            return True
        share = max(ALWAYS_BYTES, allowance(self._share, MOST_BODY_BYTES - self._body_bytes))
        return party is not None and self._bodies[party] > share


class Body:
    """The body of a request, while it is received and parsed in the block."""

    __slots__ = ("_party", "_size", "_traffic")

    def __init__(self, traffic: Traffic, party: Party) -> None:
        self._traffic, self._party, self._size = traffic, party, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._traffic.count_bytes(self._party, -self._size)

    def grow(self, size: int) -> None:
        """Count bytes that have been received.

        Raises:
            Refusal: bodies of this principal, or of all, take too much memory.
        """
        self._size += size
        self._traffic.count_bytes(self._party, size)
        if self._size > SMALL_BYTES and self._traffic.has_too_many_bytes(self._party):
            raise _refused("Too many large requests are being received (max_caller_share); try again", BUSY_S)

    def counting(self, receive: "Receive") -> "Receive":
        """Return what receives the same body, and counts it."""

        async def counted() -> "Message":
            part = await receive()
            self.grow(len(part.get("body", b"")))
            return part

        return counted


class _Answering:
    """A request of a party, which is being answered in the block."""

    __slots__ = ("_party", "_traffic")

    def __init__(self, traffic: Traffic, party: Party) -> None:
        self._traffic, self._party = traffic, party

    def __enter__(self) -> None:
        self._traffic.count(self._party, 1)

    def __exit__(self, *exc: object) -> None:
        self._traffic.count(self._party, -1)


def _refused(problem: str, retry_after_s: int) -> JsonRpcRefusal:
    return JsonRpcRefusal(429, RpcError(INVALID_REQUEST, problem), (b"retry-after", str(retry_after_s).encode()))
