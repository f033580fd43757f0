"""Connections of callers: whose they are, which credentials they use, and when they end.

Over servers and directories that only remember what is done with them. What travels is tested in
`e2e/test_caller_credentials.py`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.bridge.caller_authorizer import CallerAuthorizer
from asyncfc_mcp.bridge.caller_connections import IDLE_S, MIN_IDLE_TO_EVICT_S, CallerConnections
from asyncfc_mcp.bridge.connected import Connected
from asyncfc_mcp.bridge.servers import Servers
from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL, OAUTH, PERSON, PUBLIC, TOKEN, Principal, Scope
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.errors import CallerCredentialsGone, CallerCredentialsRefused, TooManyCallers
from tests.support.virtual_time import on_virtual_time, run_on_virtual_time, settle

SPEC = HttpSpec("http://h/mcp", caller_headers={"Authorization": "Bearer ${caller:x-key}"})
SERVERS = (
    ServerConfig("common", StdioSpec("x")),
    ServerConfig("own", SPEC),
    ServerConfig("two", HttpSpec("http://h/2", caller_headers={"A": "${caller:x-key}", "B": "${caller:x-other}"})),
)
ALICE, BOB = Scope(f"{PERSON}alice"), Scope(f"{PERSON}bob")


class Server:
    """In place of a `Downstream`."""

    def __init__(self, name: str, authorizer: Any = None) -> None:
        self.name, self.authorizer = name, authorizer
        self.running = False
        self.renewals = 0
        self.level: str | None = None

    async def run(self) -> None:
        self.running = True
        try:
            await anyio.sleep_forever()
        finally:
            self.running = False

    def signed_in(self) -> None:
        self.renewals += 1

    def want_log_level(self, level: str | None) -> None:
        self.level = level


class Directory:
    """In place of a `Directory`."""

    def __init__(
        self, downstreams: Mapping[str, Any], lacking: Sequence[tuple[str, str]], session: object = None
    ) -> None:
        self.downstreams, self.lacking = downstreams, dict(lacking)
        self.updates: list[tuple[object, str]] = []
        self.observers: list[Any] = []
        self.fails = anyio.Event()

    async def run(self) -> None:
        await self.fails.wait()
        raise RuntimeError("an unforeseen listing")

    async def update(self, downstream: object, kind: str) -> None:
        self.updates.append((downstream, kind))

    def observe(self, observer: Any) -> None:
        self.observers.append(observer)


class NoCalls:
    """In place of an engine."""

    unfinished: Sequence[Any] = ()


class Bench:
    """Connections of callers to `SERVERS`."""

    def __init__(self, **options: Any) -> None:
        self.common = Server("common")
        self.subscribed: set[str] = set()
        self.callers = CallerConnections(
            SERVERS,
            cast("Any", {"common": self.common}),
            lambda configs, connect, key: Servers(configs, connect, cast("Any", NoCalls()), lambda: 0.0, key),
            cast("Any", self._connect),
            cast("Any", Directory),
            cast("Any", None),
            self.subscribed.__contains__,
            **options,
        )

    def _connect(self, server: ServerConfig, handler: object, authorizer: CallerAuthorizer) -> Server:
        return Server(server.name, authorizer)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[CallerConnections]:
        async with anyio.create_task_group() as tg:
            await tg.start(self.callers.run)
            yield self.callers
            tg.cancel_scope.cancel()


def principal(scope: Scope, key: str | None = None, **headers: str) -> Principal:
    return Principal(scope, headers={**({} if key is None else {"x-key": key}), **headers})


def own(connected: Connected) -> Any:
    return connected.downstreams["own"]


async def sent(server: Any) -> Mapping[str, str]:
    """Return the headers that a server would get now."""
    return await server.authorizer.headers()


@on_virtual_time
async def test_each_caller_has_a_connection_of_its_own():
    """To servers that get its credentials; the others are shared. It is found again by the next request."""
    async with Bench().open() as callers:
        alice, bob = callers.use(principal(ALICE, "a")), callers.use(principal(BOB, "b"))
        await settle()
        assert callers.use(principal(ALICE, "a")) is alice
        assert callers.current(principal(BOB, "b")) is bob
        assert own(alice) is not own(bob)
        assert alice.downstreams["common"] is bob.downstreams["common"]
        assert own(alice).running
        assert await sent(own(alice)) == {"Authorization": "Bearer a"}
        assert await sent(own(bob)) == {"Authorization": "Bearer b"}


@pytest.mark.parametrize("scope", [LOCAL, TOKEN, PUBLIC])
@on_virtual_time
async def test_who_is_not_one_person_is_told_apart_by_credentials(scope: Scope):
    """Without authentication, and with one token for all: equal credentials share a connection, others never do."""
    async with Bench().open() as callers:
        first, second = callers.use(principal(scope, "a")), callers.use(principal(scope, "b"))
        assert first is not second
        assert callers.use(principal(scope, "a")) is first
        assert await sent(own(first)) == {"Authorization": "Bearer a"}
        assert await sent(own(second)) == {"Authorization": "Bearer b"}


@pytest.mark.parametrize("scope", [ALICE, Scope(f"{OAUTH}https://issuer#sub")])
@on_virtual_time
async def test_a_newer_token_of_a_person_is_used_from_now_on(scope: Scope):
    """On the same connection, also for calls that wait, and where the server has refused the older one."""
    async with Bench().open() as callers:
        connected = callers.use(principal(scope, "old"))
        assert own(connected).renewals == 0
        assert callers.use(principal(scope, "new")) is connected
        assert own(connected).renewals == 1
        assert await sent(own(connected)) == {"Authorization": "Bearer new"}
        assert await sent(callers.downstream(connected.key, "own")) == {"Authorization": "Bearer new"}


@on_virtual_time
async def test_a_caller_that_lacks_a_header_has_no_connection_and_a_reason():
    """The reason names the headers. It shares nothing with the same person's requests that have them."""
    async with Bench().open() as callers:
        without = callers.use(principal(ALICE))
        directory = cast("Any", without.directory)
        assert set(without.downstreams) == {"common"}
        assert directory.lacking["own"] == "needs the header x-key of your client's requests"
        assert directory.lacking["two"] == "needs the headers x-key and x-other of your client's requests"
        some = callers.use(principal(ALICE, "a"))
        assert set(some.downstreams) == {"common", "own"}
        every = callers.use(principal(ALICE, "a", **{"x-other": "o"}))
        assert set(every.downstreams) == {"common", "own", "two"}
        assert await sent(every.downstreams["two"]) == {"A": "a", "B": "o"}
        assert len({without.key, some.key, every.key}) == 3
        with pytest.raises(CallerCredentialsGone):
            callers.downstream(without.key, "own")


@on_virtual_time
async def test_idle_connections_end_and_are_opened_again():
    """A call of an ended connection finds nothing in its place."""
    async with Bench().open() as callers:
        first = callers.use(principal(ALICE, "a"))
        await anyio.sleep(IDLE_S / 2)
        callers.use(principal(ALICE, "a"))
        await anyio.sleep(IDLE_S * 0.9)
        assert own(first).running
        await anyio.sleep(IDLE_S * 0.2)
        assert not own(first).running
        assert callers.current(principal(ALICE, "a")) is None
        with pytest.raises(CallerCredentialsGone, match="call again"):
            callers.downstream(first.key, "own")
        again = callers.use(principal(ALICE, "a"))
        assert again is not first
        assert again.key == first.key


def future_of() -> Future:
    return FutureStore(anyio.current_time).create(ALICE, tool="t", server="own")


@on_virtual_time
async def test_unfinished_calls_and_subscriptions_keep_connections():
    """However long they take, with the credentials of the latest request; after their end the time begins."""
    bench = Bench()
    async with bench.open() as callers:
        connected, future = callers.use(principal(ALICE, "a")), future_of()
        callers.hold(connected.key, future)
        await anyio.sleep(10 * IDLE_S)
        assert await sent(callers.downstream(connected.key, "own")) == {"Authorization": "Bearer a"}
        future.apply(Event.CANCEL)
        assert not future.watchers
        await anyio.sleep(IDLE_S * 0.9)
        assert own(connected).running
        bench.subscribed.add(connected.key)
        await anyio.sleep(10 * IDLE_S)
        assert own(connected).running
        bench.subscribed.clear()
        await anyio.sleep(IDLE_S)
        assert not own(connected).running


@on_virtual_time
async def test_callers_are_bounded_and_idle_ones_make_room():
    """The least recently used first; one with a call never; while all are in use, another caller is refused."""
    async with Bench(max_callers=2).open() as callers:
        first = callers.use(principal(ALICE, "a"))
        callers.hold(first.key, future_of())
        second = callers.use(principal(BOB, "b"))
        with pytest.raises(TooManyCallers):
            callers.use(principal(LOCAL, "c"))
        assert callers.use(principal(BOB, "b")) is second
        await anyio.sleep(MIN_IDLE_TO_EVICT_S)
        callers.use(principal(LOCAL, "c"))
        await settle()
        assert own(first).running
        assert not own(second).running


@on_virtual_time
async def test_a_failure_ends_the_connections_of_one_caller_only():
    """They are opened again by its next request."""
    async with Bench().open() as callers:
        alice, bob = callers.use(principal(ALICE, "a")), callers.use(principal(BOB, "b"))
        cast("Any", alice.directory).fails.set()
        await settle()
        assert not own(alice).running
        assert own(bob).running
        assert callers.use(principal(ALICE, "a")) is not alice


@on_virtual_time
async def test_a_changed_listing_of_a_shared_server_reaches_all_callers():
    """And what changes for one caller is reported as its."""
    async with Bench().open() as callers:
        alice, bob = callers.use(principal(ALICE, "a")), callers.use(principal(BOB, "b"))
        await callers.update(cast("Any", callers), "tools")
        assert [cast("Any", each.directory).updates for each in (alice, bob)] == [[(callers, "tools")]] * 2
        seen: list[Any] = []
        callers.observe(lambda connected, kinds: seen.append((connected, kinds)))
        cast("Any", bob.directory).observers[0](frozenset({"tools"}))
        assert seen == [(bob, frozenset({"tools"}))]


@on_virtual_time
async def test_a_log_level_applies_to_connections_that_are_opened_later():
    """Clients have set it before."""
    async with Bench().open() as callers:
        callers.log_level = "debug"
        connected = callers.use(principal(ALICE, "a"))
        await settle()
        assert own(connected).level == "debug"


# --- the authorizer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@on_virtual_time
async def test_refused_credentials_are_an_error_that_names_the_header(status: int):
    """And not the value. Newer ones are tried at once; `renewed` says that there are some."""
    headers = {"x-key": "hunter2-secret"}
    authorizer = CallerAuthorizer("own", SPEC, lambda: headers)
    refused = await authorizer.headers()
    assert not authorizer.renewed()
    with pytest.raises(CallerCredentialsRefused) as caught:
        await authorizer.refused(status, ["Bearer"], refused)
    assert f"HTTP {status}" in caught.value.message
    assert "x-key" in caught.value.message
    assert "x-key" in caught.value.reason
    assert "hunter2" not in f"{caught.value.message} {caught.value.reason} {caught.value!r}"
    assert caught.value.status == status
    assert not caught.value.sent
    assert not authorizer.renewed()
    headers = {"x-key": "newer"}
    assert authorizer.renewed()
    assert await authorizer.refused(status, ["Bearer"], refused)


@on_virtual_time
async def test_current_values_are_secrets():
    """Without the scheme before them, which is an ordinary word."""
    authorizer = CallerAuthorizer("own", SPEC, lambda: {"x-key": "Bearer dXNlcjpwYXNz", "cookie": "other-secret"})
    assert authorizer.secrets == ["dXNlcjpwYXNz"]


@on_virtual_time
async def test_bytes_that_are_not_ascii_are_sent_as_they_were_received():
    """Headers are received as Latin-1 and sent as UTF-8 with surrogates."""
    raw = "schlüssel".encode() + b"\xff"
    authorizer = CallerAuthorizer("own", SPEC, lambda: {"x-key": raw.decode("latin-1")})
    value = (await authorizer.headers())["Authorization"]
    assert value.encode(errors="surrogateescape") == b"Bearer " + raw


# --- whatever comes ------------------------------------------------------------------------------------------------

SCOPES = (LOCAL, TOKEN, PUBLIC, ALICE, BOB)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.sampled_from(SCOPES), st.sampled_from("abc")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, MIN_IDLE_TO_EVICT_S, IDLE_S]), st.none()),
        st.tuples(st.just("end"), st.integers(0, 5), st.none()),
    ),
    max_size=25,
)


@given(STEPS)
def test_no_call_is_ever_sent_with_credentials_of_another(steps: Sequence[tuple[str, Any, Any]]):
    """In any interleaving: a person's calls have the person's latest token, and those of others their own."""

    async def run() -> None:
        store = FutureStore(anyio.current_time)
        latest: dict[str, str] = {}
        calls: list[tuple[Scope, str, str, Future]] = []
        async with Bench(max_callers=3).open() as callers:
            for kind, what, token in steps:
                match kind:
                    case "use":
                        mine = f"{what.key}-{token}"
                        try:
                            connected = callers.use(principal(what, mine))
                        except TooManyCallers:
                            continue
                        latest[what.key] = mine
                        assert mine not in repr(connected)
                        future = store.create(what, tool="t", server="own")
                        callers.hold(connected.key, future)
                        calls.append((what, mine, connected.key, future))
                    case "wait":
                        await anyio.sleep(what)
                    case _ if what < len(calls):
                        calls.pop(what)[3].apply(Event.CANCEL)
                    case _:
                        pass
                for scope, mine, key, _ in calls:
                    expected = latest[scope.key] if scope in (ALICE, BOB) else mine
                    got = await sent(callers.downstream(key, "own"))
                    assert got == {"Authorization": f"Bearer {expected}"}

    run_on_virtual_time(run)


def test_keys_are_not_credentials():
    """They say nothing of the values, and differ between two runs of the program."""
    one, other = Bench().callers, Bench().callers
    key = one.key(principal(LOCAL, "hunter2"))
    assert "hunter2" not in key
    assert key == one.key(principal(LOCAL, "hunter2"))
    assert key != other.key(principal(LOCAL, "hunter2"))
