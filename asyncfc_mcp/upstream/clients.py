"""Clients of the bridge as requests show them: scope, conversation, unread results, and measured time-outs.

Owns finding the client of a request again among earlier ones, and the record that is kept of it. Identities, which
decide whose names and questions are whose, are those of `callers`. Leaves waiting to `long_poll`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.hosts import UNKNOWN, HostProfile, profile_for
from asyncfc_mcp.core.futures import Future, Question
from asyncfc_mcp.core.identity import CallerIdentity, Principal, Scope
from asyncfc_mcp.core.shared_lru import SharedLru
from asyncfc_mcp.upstream.callers import CallerIdentities, conversation_key
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request import Progress, Request, Session

MAX_CLIENTS: Final = 4096
"""Bound on the clients whose records are kept; the least recently seen one is dropped, of the principal with most."""
SWEEP_AT: Final = 256
"""Unread futures of a client above which those that were read meanwhile are dropped."""


class Arrival:
    """A received call of a conversation, until it is submitted or refused."""

    __slots__ = ("_client", "_over", "future", "request_id")

    def __init__(self, client: "Client", request_id: object) -> None:
        self._client = client
        self._over = anyio.Event()
        self.request_id = request_id
        self.future: Future | None = None

    def end(self, future: Future | None = None) -> None:
        """Record the future of the call; None if it has none that results are read of. Only the first time counts."""
        if not self._over.is_set():
            self.future = future
            self._client.end_arrival(self)
            self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        await self._over.wait()


@dataclass(slots=True, eq=False)
class Client:
    """Record of one client: what it may see, its unread results, and how long it waits for an answer."""

    scope: Scope
    conversation: str | None = None
    profile: HostProfile = UNKNOWN
    learned_timeout_s: float | None = None
    """Learned upper bound of a wait, below the time after which the client cancelled one; None before that."""
    proven_s: float = 0.0
    """Learned lower bound: the client waited this long for an answer and received it."""
    unread_elsewhere: bool = False
    """Other replicas may have unread results of the conversation: `Clients.refresh` finds them."""
    _unread: dict[str, Future] = field(default_factory=dict[str, Future])
    """Futures of the conversation whose results were not received, in order of submission. Some may have been read
    since; they are dropped at the next look."""
    _ended: list[Future] = field(default_factory=list[Future])
    """Futures that ended since the last `take_ended`, in order of completion: candidates for inline delivery. Kept
    apart from the others, so that a look costs as much as has ended, not as much as is open."""
    _sweep_at: int = SWEEP_AT
    _arrivals: dict[Arrival, None] = field(default_factory=dict["Arrival", None])
    """Received calls that are not submitted, in order of receipt."""

    def arrive(self, request_id: object) -> Arrival:
        """Record a call that may have to wait before it is submitted. The caller must `end` what is returned."""
        arrival = Arrival(self, request_id)
        self._arrivals[arrival] = None
        return arrival

    def end_arrival(self, arrival: Arrival) -> None:
        self._arrivals.pop(arrival, None)

    def arrivals_before(self, request_id: object) -> list[Arrival]:
        """Return the calls that are received and not submitted, without those that were made after a request, as far as
        their numbers show that."""
        if not self._arrivals:
            return []
        number = request_id if type(request_id) is int else math.inf
        return [each for each in self._arrivals if not (type(each.request_id) is int and each.request_id >= number)]

    def waited(self, seconds: float) -> None:
        """Record that a request was answered after this time and had not been cancelled."""
        if seconds > self.proven_s:
            self.proven_s = seconds

    def follow(self, future: Future) -> None:
        """Count a future among the conversation's unread ones, once."""
        if future.key in self._unread:
            return
        self._unread[future.key] = future
        if future.done:
            self._ended.append(future)
        else:
            future.watchers.append(self._on_change)
        if len(self._unread) > self._sweep_at:
            self._sweep_at = max(SWEEP_AT, 2 * len(self.unread_futures()))

    def replace_unread(self, futures: Sequence[Future]) -> None:
        """Count these futures as unread, in this order; of those known before only them, and what has not ended."""
        before, self._unread = self._unread, {}
        for future in dict.fromkeys((*futures, *(each for each in before.values() if not each.done))):
            if future.key in before:
                self._unread[future.key] = future
            else:
                self.follow(future)
        self._ended = [future for future in self._ended if future.key in self._unread]
        for key, future in before.items():
            if key not in self._unread and self._on_change in future.watchers:
                future.watchers.remove(self._on_change)

    def _on_change(self, future: Future) -> None:
        if future.done:
            future.watchers.remove(self._on_change)
            self._ended.append(future)

    def unread_futures(self) -> list[Future]:
        """Return the conversation's futures that were not read, finished or not."""
        self._unread = {key: future for key, future in self._unread.items() if future.read_at is None}
        return list(self._unread.values())

    def offered(self, max_bytes: int) -> list[Future]:
        """Return the futures that `take_ended` would return now."""
        return [future for future in self._ended if future.read_at is None and future.size <= max_bytes]

    def take_ended(self, max_bytes: int) -> list[Future]:
        """Return the futures that ended since the last call and are unread, in order of completion, as far as their
        results have at most `max_bytes`. A larger one is not offered again; it stays unread."""
        if not self._ended:
            return []
        ended, self._ended = self._ended, []
        for future in ended:
            if future.read_at is not None:
                self._unread.pop(future.key, None)
        return [future for future in ended if future.read_at is None and future.size <= max_bytes]

    def wait_s(self, bridge: Bridge, asked: float | None = None, *, with_progress: bool = False) -> float:
        """Return the bound of a wait, in seconds.

        Args:
            asked: the bound that the client asked for.
            with_progress: progress is sent meanwhile, which resets the timeout of some hosts.
        """
        longest = bridge.settings.max_wait_s
        if not (with_progress and self.profile.progress_resets_timeout):
            longest = min(longest, max(self.profile.wait_s, self.proven_s))
        if self.learned_timeout_s is not None:
            longest = min(longest, self.learned_timeout_s)
        return longest if asked is None else min(asked, longest)


@dataclass(slots=True)
class Caller:
    """A client in the course of one request."""

    client: Client
    principal: Principal
    report: Progress | None = None
    """Sends progress; None where the request has no progress token."""
    put: Callable[[Question], bool] | None = None
    """Puts a question to the client at once, in the background, or returns False if that cannot be done; None where
    questions travel in answers."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Capabilities that the client declared: which questions may be put to it."""
    identity: CallerIdentity | None = None
    """The client among those of its scope, as far as they can be told apart."""
    namer: CallerIdentity | None = None
    """The caller among whose names those in the request are."""


class Clients:
    """Finds the client of each request.

    Args:
        put: puts a question to the client of a request at once; False if that cannot be done.
    """

    def __init__(self, bridge: Bridge, identities: CallerIdentities, put: Callable[[Request, Question], bool]) -> None:
        self._bridge = bridge
        self._identities = identities
        self._put = put
        self._known = SharedLru[tuple[str, str | None], Client](MAX_CLIENTS)
        """By scope; then by host and owner of the record."""
        self._last_key: tuple[object, ...] = ()
        self._last: Client | None = None

    def caller(self, request: Request) -> Caller:
        """Return the client of this request, with what belongs to the request alone."""
        put = None if request.modern else partial(self._put, request)
        identities = self._identities
        identity = identities.of(request)  # before the record: it decides which conversation a connection is
        return Caller(
            self._client(request),
            request.principal,
            request.report(),
            put,
            request.capabilities,
            identity,
            identities.namer(request),
        )

    async def refresh(self, client: Client) -> None:
        """Have the unread results of a conversation include those of other replicas."""
        if client.unread_elsewhere and client.conversation is not None:
            client.replace_unread(await self._bridge.engine.unread(client.scope, client.conversation))

    def _client(self, request: Request) -> Client:
        # This runs on every call, and most requests are from the client of the last one: its lookup is kept.
        key = request.scope, request.host, conversation_key(request.params), request.session, request.connection
        client = self._last
        # Without authentication, equal words may be those of another client.
        if client is None or key != self._last_key or not request.scope.listed:
            self._last, self._last_key = client, _ = self._find(*key), key
        return client

    def _find(
        self,
        scope: Scope,
        host: str | None,
        key: str | None,
        session: Session | None,
        connection: Connection | None,
    ) -> Client:
        engine = self._bridge.engine
        if connection is not None:
            of_session, lasting = connection.conversation, connection.process is not None
        else:
            of_session = session.identity.token if session is not None and session.id is not None else None
            # A session that another replica has opened may have futures there.
            lasting = of_session is not None and not engine.submits_nowait
        profile = profile_for(host, self._bridge.settings.host_profiles)
        conversation = None
        if key is not None and scope.listed:
            conversation = f"key:{key}"
        elif profile.single_conversation:
            conversation = of_session
        # A record belongs to a session where there is one: one client's time-out must not bound another's waits.
        owner = conversation or of_session
        if owner is None and not scope.listed:
            return Client(scope, None, profile)
        known = host or "", owner
        client = self._known.get(scope.key, known)
        if client is None:
            client = Client(scope, conversation, profile)
            if conversation is not None and (key is not None or lasting):
                unread = engine.unread_nowait(scope, conversation)
                client.unread_elsewhere = unread is None
                for future in unread or ():
                    client.follow(future)
            self._known.add(scope.key, known, client)
        return client
