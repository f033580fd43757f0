"""Who listens is told what they asked for, once, and holds up nobody."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial, wraps
from inspect import Signature, signature
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from asyncfc_mcp.bridge.server_requests import OnNotification
from asyncfc_mcp.core.catalog import Catalog
from asyncfc_mcp.core.futures import Event, Future, Question
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL, PUBLIC, CallerIdentity, ClientProcess, Principal, Scope
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.errors import ProtocolFailure
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.list_changes import ANNOUNCE_S
from asyncfc_mcp.upstream.listeners import LEVELS, LOG_DELIVERY_S, MAX_QUEUED_NOTIFICATIONS, RequestLogListener
from asyncfc_mcp.upstream.listeners import Listener as _Listener
from asyncfc_mcp.upstream.notifications import COALESCE_S, LOGS_PER_S, UNSUBSCRIBE_S
from asyncfc_mcp.upstream.notifications import NotificationHub as _NotificationHub
from tests.support.virtual_time import on_virtual_time, settle

UPDATED = "notifications/resources/updated"
MESSAGE = "notifications/message"


class Ear:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.open = anyio.Event()
        self.open.set()

    async def __call__(self, method: str, params: Mapping[str, Any] | None) -> None:
        await self.open.wait()
        self.told.append((method, dict(params or {})))

    def methods(self) -> list[str]:
        return [method for method, _ in self.told]

    def uris(self) -> list[str]:
        return [params["uri"] for method, params in self.told if method == UPDATED]


class Everything:
    """The view of a principal that may use everything."""

    restricted = False
    credentials = None
    catalog = Catalog()

    def serves(self, server: str) -> bool:
        return True

    def credentials_for(self, server: str) -> str | None:
        return None


class FakeBridge:
    """The part of a bridge that listeners know."""

    def __init__(self) -> None:
        self.store = FutureStore(anyio.current_time)
        self._on_lists: Callable[[Any, frozenset[str]], None] = lambda *_: None
        self.on_notification: OnNotification | None = None
        self.config = SimpleNamespace(servers=[SimpleNamespace(name="toy")])
        self._view = view = Everything()
        self.views = SimpleNamespace(of=lambda principal: view, whole=lambda principal: view, everything=view)
        self.directory = self.forwarding = self
        self.server_requests = SimpleNamespace(observe=self.observe_notifications)
        self.engine = self
        self.asked: list[tuple[str, str]] = []
        self.refuses = False
        self.users: set[Scope] = set()
        self.answers = anyio.Event()
        self.answers.set()

    def observe_lists(self, observer: Callable[[Any, frozenset[str]], None]) -> None:
        self._on_lists = observer

    def observe_reload(self, observer: Callable[[Any], None]) -> None: ...

    def on_lists(self, kinds: frozenset[str]) -> None:
        self._on_lists(self._view, kinds)

    async def find(self, scope: Scope, ref: str, namer: Any = None) -> Future | None:
        return self.store.find(scope, ref, namer)

    def observe_notifications(self, observer: Any) -> None:
        self.on_notification = observer

    async def owner_of(self, scope: Scope, uri: str, view: Any) -> str:
        return "toy"

    async def subscribe(self, scope: Scope, server: str, uri: str, credentials: str | None) -> None:
        self.asked.append(("subscribe", uri))
        if self.refuses:
            raise ProtocolFailure("resources/subscribe", -32055, "no")

    async def unsubscribe(self, server: str, uri: str, credentials: str | None) -> None:
        self.asked.append(("unsubscribe", uri))
        await self.answers.wait()

    def users_of(self, server: str) -> set[Scope]:
        return self.users

    async def say(self, method: str, *, server: str = "toy", **params: Any) -> None:
        """A server notifies."""
        assert self.on_notification is not None
        if (rest := self.on_notification(server, method, params, None)) is not None:
            await rest()

    def future(self, name: str | None = None, scope: Scope = LOCAL) -> Future:
        return self.store.create(scope, tool="t", server="toy", name=name)


class Room:
    """Listeners around a fake bridge, with a task group in which they run."""

    def __init__(self, tg: anyio.abc.TaskGroup, scope: Scope = LOCAL) -> None:
        self.bridge: Any = FakeBridge()
        self.scope = scope
        self.documents: dict[str, str] = {}
        """Instructions of servers that are resources."""
        instructions: Any = SimpleNamespace(documents=lambda view: dict(self.documents))
        self.hub = _NotificationHub(
            self.bridge, instructions, lambda future, asks: {"taskId": future.id, "status": future.state.value}
        )
        self.tg = tg
        self.listeners: list[_Listener] = []
        tg.start_soon(self.hub.run)

    def listener(self, *lists: str, running: bool = True, **options: Any) -> tuple[_Listener, Ear]:
        ear = Ear()
        return self.add(_Listener(ear, lambda: Principal(self.scope), lists=lists, **options), running=running), ear

    def add(self, listener: _Listener, *, running: bool = True) -> _Listener:
        self.hub.add(listener)
        self.listeners.append(listener)
        if running:
            self.tg.start_soon(listener.run)
        return listener

    async def clear(self) -> None:
        """Everybody leaves."""
        for listener in self.listeners:
            await self.hub.discard(listener)
        self.tg.cancel_scope.cancel()


def in_a_room(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a room one that runs on the virtual clock, with every listener discarded at its end."""

    @on_virtual_time
    @wraps(test)
    async def run(**fixtures: Any) -> None:
        async with anyio.create_task_group() as tg:
            room = Room(tg)
            await test(room, **fixtures)
            await room.clear()

    asked = [each for each in signature(test).parameters.values() if each.name != "room"]
    run.__signature__ = Signature(asked)  # pyright: ignore[reportFunctionMemberAccess]
    return run


# --- list changes --------------------------------------------------------------------------------------------------


@in_a_room
async def test_a_burst_of_changes_is_told_once_to_those_who_asked(room: Room):
    """Within a moment, however many; templates are resources to a client; who did not ask hears nothing."""
    _, both = room.listener("tools", "resources")
    _, prompts = room.listener("prompts")
    for kind in ("tools", "resources", "resourceTemplates", "tools"):
        room.bridge.on_lists(frozenset({kind}))
    await anyio.sleep(2 * COALESCE_S)
    assert both.methods() == ["notifications/resources/list_changed", "notifications/tools/list_changed"]
    assert prompts.told == []
    await anyio.sleep(ANNOUNCE_S[0])
    room.bridge.on_lists(frozenset({"prompts", "tools"}))
    await anyio.sleep(2 * COALESCE_S)
    assert prompts.methods() == ["notifications/prompts/list_changed"]
    assert both.methods()[2:] == ["notifications/tools/list_changed"]


@in_a_room
async def test_a_list_that_never_stops_changing_is_announced_ever_more_rarely(room: Room):
    """At once, then with pauses that grow to a bound, each kind for itself; after a calm it is at once again."""
    told: list[tuple[float, str]] = []

    async def notify(method: str, params: Mapping[str, Any] | None) -> None:
        told.append((anyio.current_time(), method.split("/")[1]))

    room.add(_Listener(notify, lambda: Principal(room.scope), lists=("tools", "prompts")))
    began = anyio.current_time()
    for number in range(6000):
        room.bridge.on_lists(frozenset({"tools", "prompts"} if number == 3000 else {"tools"}))
        await anyio.sleep(0.01)
    at = [when for when, kind in told if kind == "tools"]
    assert at[0] - began == pytest.approx(COALESCE_S)
    pauses = [after - before for before, after in pairwise(at)]
    assert pauses[:5] == sorted(pauses[:5])
    assert all(ANNOUNCE_S[1] <= pause <= ANNOUNCE_S[1] + 2 * COALESCE_S for pause in pauses[6:])
    assert len(at) < 20
    (prompts,) = [when for when, kind in told if kind == "prompts"]
    assert prompts - began <= 30 + 3 * COALESCE_S
    await anyio.sleep(3 * ANNOUNCE_S[1])
    told.clear()
    changed = anyio.current_time()
    room.bridge.on_lists(frozenset({"tools"}))
    await anyio.sleep(1)
    assert told == [(pytest.approx(changed + COALESCE_S), "tools")]


@in_a_room
async def test_everything_on_a_stream_carries_its_stamp(room: Room):
    """So that a client knows which of its streams speaks; `_meta` of the server's own notification does not go on."""
    listener, ear = room.listener("tools", stamp={"s": 7})
    await room.hub.subscribe(listener, "a://b")
    room.bridge.on_lists(frozenset({"tools"}))
    await room.bridge.say(UPDATED, uri="a://b", title="x", _meta={"s": "theirs"})
    await anyio.sleep(1)
    assert ear.told == [
        (UPDATED, {"uri": "a://b", "title": "x", "_meta": {"s": 7}}),
        ("notifications/tools/list_changed", {"_meta": {"s": 7}}),
    ]


# --- a listener that does not read ---------------------------------------------------------------------------------


@in_a_room
async def test_a_listener_that_does_not_read_holds_up_nobody(room: Room):
    """Telling never waits; what does not fit its backlog is lost to it alone."""
    deaf, deaf_ear = room.listener("tools")
    deaf_ear.open = anyio.Event()
    asleep, _ = room.listener("tools", running=False)
    lively, lively_ear = room.listener("tools")
    for listener in (deaf, asleep, lively):
        await room.hub.subscribe(listener, "a://b")
    for _ in range(3 * MAX_QUEUED_NOTIFICATIONS):
        await room.bridge.say(UPDATED, uri="a://b")
        await settle()
    await settle()
    assert len(lively_ear.told) == 3 * MAX_QUEUED_NOTIFICATIONS
    deaf_ear.open.set()
    await settle()
    await anyio.sleep(1)
    assert MAX_QUEUED_NOTIFICATIONS <= len(deaf_ear.told) <= MAX_QUEUED_NOTIFICATIONS + 2


@in_a_room
async def test_a_listener_that_cannot_be_told_costs_the_others_nothing(room: Room, caplog: pytest.LogCaptureFixture):
    """What sending raises ends neither its own loop nor anybody else's."""

    class Broken(Ear):
        async def __call__(self, method: str, params: Mapping[str, Any] | None) -> None:
            await super().__call__(method, params)
            raise OSError("gone")

    broken, ear = Broken(), room.listener()[1]
    room.add(_Listener(broken, lambda: LOCAL_PRINCIPAL, lists=()))
    for _ in range(2):
        await room.bridge.say(MESSAGE, level="error", data="x")
        await settle()
    assert len(broken.told) == len(ear.told) == 2


@in_a_room
async def test_what_was_told_before_the_end_is_still_sent(room: Room):
    """Closing a listener ends its loop after its backlog; telling it later does no harm."""
    ear = Ear()
    listener = _Listener(ear, lambda: LOCAL_PRINCIPAL, lists=())
    ended = anyio.Event()

    async def run() -> None:
        await listener.run()
        ended.set()

    room.tg.start_soon(run)
    await settle()
    listener.enqueue("one")
    listener.close()
    listener.enqueue("two")
    await ended.wait()
    assert ear.methods() == ["one"]


# --- resources -----------------------------------------------------------------------------------------------------


@in_a_room
async def test_a_server_is_subscribed_to_once_for_all_and_until_the_last_has_gone(room: Room):
    """However many listen, and however often one says so."""
    one, _ = room.listener()
    two, _ = room.listener()
    for listener in (one, two, one):
        await room.hub.subscribe(listener, "a://b")
    await room.hub.unsubscribe(one, "a://b")
    await room.hub.unsubscribe(one, "a://b")
    assert room.bridge.asked == [("subscribe", "a://b")]
    await room.hub.discard(two)
    assert room.bridge.asked == [("subscribe", "a://b"), ("unsubscribe", "a://b")]
    await room.hub.subscribe(one, "a://b")
    assert room.bridge.asked[-1] == ("subscribe", "a://b")


@in_a_room
async def test_instructions_that_are_resources_are_announced_and_watched_here(room: Room):
    """A new one changes the list of resources; another text is an update. No server is asked for either, nor may one
    announce it."""
    uri = "asyncfc://docs/toy"
    listener, ear = room.listener("resources")
    await room.hub.subscribe(listener, uri)
    room.documents[uri] = "Long."
    room.bridge.on_lists(frozenset({"tools"}))
    await anyio.sleep(2 * COALESCE_S)
    assert ear.methods() == ["notifications/resources/list_changed"]
    room.documents[uri] = "Longer."
    room.bridge.on_lists(frozenset())
    await room.bridge.say("notifications/resources/updated", uri=uri)
    await anyio.sleep(2 * COALESCE_S)
    assert ear.methods()[1:] == ["notifications/resources/updated"]
    await room.hub.unsubscribe(listener, uri)
    assert room.bridge.asked == []


@in_a_room
async def test_what_a_server_refuses_is_not_subscribed_to(room: Room):
    """The refusal is told each time, and nothing is undone at the end that was never done."""
    listener, _ = room.listener()
    room.bridge.refuses = True
    for _ in range(2):
        with pytest.raises(ProtocolFailure):
            await room.hub.subscribe(listener, "a://b")
    await room.hub.discard(listener)
    assert room.bridge.asked == [("subscribe", "a://b")] * 2


@in_a_room
async def test_a_server_that_does_not_answer_delays_an_end_only_for_a_moment(room: Room):
    """Its resources are let go of side by side, so a silent one costs the others nothing."""
    listener, _ = room.listener()
    for uri in ("a://1", "a://2", "a://3"):
        await room.hub.subscribe(listener, uri)
    room.bridge.answers = anyio.Event()
    began = anyio.current_time()
    await room.hub.discard(listener)
    assert anyio.current_time() - began == pytest.approx(UNSUBSCRIBE_S)
    assert sorted(room.bridge.asked[3:]) == [("unsubscribe", f"a://{n}") for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("wanted", "uri", "told"),
    [
        ("a://b", "a://b", True),
        ("a://b", "a://b/c", True),
        ("a://b", "a://b#part", True),
        ("a://b", "a://b?page=2", True),
        ("a://b/", "a://b/c", True),
        ("a://b", "a://bc", False),
        ("a://b/c", "a://b", False),
        ("a://b", "A://b", False),
    ],
)
def test_a_part_of_what_was_subscribed_to_is_told_and_a_neighbour_is_not(wanted: str, uri: str, told: bool):
    """Servers may name a part of the resource; that another one's name begins alike means nothing."""

    @in_a_room
    async def check(room: Room) -> None:
        listener, ear = room.listener()
        await room.hub.subscribe(listener, wanted)
        await room.bridge.say(UPDATED, uri=uri)
        await room.bridge.say(UPDATED, uri=7)
        await settle()
        assert ear.uris() == ([uri] if told else [])

    check()


# --- futures -------------------------------------------------------------------------------------------------------


@in_a_room
async def test_a_future_is_told_of_when_it_settles_and_never_again(room: Room):
    """Not when it starts; under the URI that was subscribed to; no server is asked for it."""
    listener, ear = room.listener()
    future = room.bridge.future("nap")
    for uri in ("future://f1", "future://nap", "future://nobody", "future://f1?offset=3"):
        await room.hub.subscribe(listener, uri)
    future.apply(Event.START)
    future.changed()
    await settle()
    assert ear.told == []
    future.apply(Event.COMPLETE)
    future.changed()
    await settle()
    assert ear.uris() == ["future://f1", "future://nap"]
    assert future.watchers == []
    assert room.bridge.asked == []


@in_a_room
async def test_a_future_that_has_settled_already_is_told_of_at_once(room: Room):
    """It may have ended while the subscription was on its way, and nothing will change any more."""
    future = room.bridge.future()
    future.apply(Event.CANCEL)
    listener, ear = room.listener()
    await room.hub.subscribe(listener, "future://f1")
    await settle()
    assert ear.uris() == ["future://f1"]
    assert future.watchers == []


@in_a_room
async def test_another_scopes_future_is_not_told_of(room: Room):
    """Listening is no way around the scope."""
    future = room.bridge.future(scope=Scope("token"))
    listener, ear = room.listener()
    await room.hub.subscribe(listener, "future://f1")
    future.apply(Event.CANCEL)
    await settle()
    assert ear.told == []


@in_a_room
async def test_a_task_is_told_of_at_every_change_of_its_state(room: Room):
    """Whole, each state once, and not for progress within one."""
    listener, ear = room.listener(stamp={"s": 1})
    future = room.bridge.future()
    room.hub.follow(listener, future)
    future.apply(Event.START)
    future.progress = (1, None, None)
    future.changed()
    future.questions["q1"] = Question("q1", "roots/list", {})
    future.apply(Event.ASK)
    future.apply(Event.ANSWER)
    future.apply(Event.COMPLETE)
    await settle()
    assert set(ear.methods()) == {"notifications/tasks"}
    assert [params["status"] for _, params in ear.told] == ["running", "input_required", "running", "completed"]
    assert {(params["taskId"], params["_meta"]["s"]) for _, params in ear.told} == {("f1", 1)}


@in_a_room
async def test_nothing_is_left_of_a_listener_who_has_gone(room: Room):
    """Neither among those who are told nor on any future."""
    listener, ear = room.listener("tools")
    future = room.bridge.future()
    room.hub.follow(listener, future)
    await room.hub.subscribe(listener, "future://f1")
    assert len(future.watchers) == 2
    await room.hub.discard(listener)
    assert future.watchers == []
    future.apply(Event.START)
    room.bridge.on_lists(frozenset({"tools"}))
    await room.bridge.say(MESSAGE, level="error", data="x")
    await anyio.sleep(1)
    assert ear.told == []
    await room.hub.discard(listener)


# --- log messages --------------------------------------------------------------------------------------------------


@in_a_room
async def test_a_log_message_of_any_size_is_passed_on_short(room: Room):
    """It is written for each listener: ten messages of 5 MB to twenty of them took 5 s at a time."""
    _, ear = room.listener()
    await room.bridge.say(MESSAGE, level="error", data="x" * 10_000)
    for data in ("x" * 5_000_000, ["x" * 5_000_000], {"a": [1] * 100_000}):
        await room.bridge.say(MESSAGE, level="error", logger="l" * 100_000, data=data)
    await settle()
    sizes = [len(str(params)) for _, params in ear.told]
    assert sizes[0] > 10_000
    assert all(size < 10_000 for size in sizes[1:])
    assert [params["level"] for _, params in ear.told] == ["error"] * 4
    assert "(a message of 5" in ear.told[1][1]["data"]


@in_a_room
async def test_log_messages_go_to_connections_that_want_their_level(room: Room):
    """Who set no level gets what the server sends; streams get nothing; unknown levels pass."""
    silent, silent_ear = room.listener()
    picky, picky_ear = room.listener()
    picky.level = "error"
    _, stream_ear = room.listener(stamp={"s": 1})
    for level in (*LEVELS, "loud"):
        await room.bridge.say(MESSAGE, level=level, data=level)
    await settle()
    assert [params["data"] for _, params in silent_ear.told] == [*LEVELS, "loud"]
    assert [params["data"] for _, params in picky_ear.told] == [*LEVELS[LEVELS.index("error") :], "loud"]
    assert stream_ear.told == []
    assert silent.level is None


@on_virtual_time
async def test_where_nobody_is_authenticated_no_log_is_told():
    """The messages of a server that strangers share may speak of anybody's calls."""
    async with anyio.create_task_group() as tg:
        room = Room(tg, PUBLIC)
        _, ear = room.listener()
        request = Ear()
        async with room.hub.logging_to(RequestLogListener(Principal(PUBLIC), request, "debug", None), ["toy"]):
            await room.bridge.say(MESSAGE, level="error", data="x")
        await settle()
        assert ear.told == request.told == []
        await room.clear()


@in_a_room
async def test_the_least_severe_level_of_all_is_asked_of_servers(room: Room):
    """None while nobody said one."""
    one, _ = room.listener()
    two, _ = room.listener()
    assert room.hub.least_level() is None
    one.level, two.level = "error", "info"
    assert room.hub.least_level() == "info"
    await room.hub.discard(two)
    assert room.hub.least_level() == "error"


@in_a_room
async def test_a_server_that_logs_without_end_is_cut_short_and_others_are_not(room: Room):
    """So many a second of each server; the next second is a new one."""
    _, ear = room.listener()
    for second in range(2):
        for number in range(3 * LOGS_PER_S):
            await room.bridge.say(MESSAGE, level="info", data=f"{second}-{number}", server="noisy")
        await room.bridge.say(MESSAGE, level="info", data=f"{second}", server="quiet")
        await anyio.sleep(1)
    data = [params["data"] for _, params in ear.told]
    assert [each for each in data if "-" not in each] == ["0", "1"]
    for second in range(2):
        kept = [each for each in data if each.startswith(f"{second}-")]
        assert kept == [f"{second}-{number}" for number in range(LOGS_PER_S)]


@in_a_room
async def test_a_request_that_waits_hears_its_servers_on_its_own_stream(room: Room):
    """2026-07-28: of the level that it asked for, and only if it asked; nothing after it, and nothing of others."""
    asked, unasked = Ear(), Ear()
    async with (
        room.hub.logging_to(RequestLogListener(LOCAL_PRINCIPAL, asked, "warning", None), ["toy", "toy"]),
        room.hub.logging_to(RequestLogListener(LOCAL_PRINCIPAL, unasked, None, None), ["toy"]),
    ):
        await room.bridge.say(MESSAGE, level="info", data="low")
        await room.bridge.say(MESSAGE, level="error", data="high")
        await room.bridge.say(MESSAGE, level="error", data="other", server="other")
    await room.bridge.say(MESSAGE, level="error", data="late")
    assert [params["data"] for _, params in asked.told] == ["high"]
    assert unasked.told == []


@in_a_room
async def test_a_connection_with_a_request_that_waits_is_told_once(room: Room):
    """Before 2026-07-28: with the request, by the level of the connection, and not beside it again."""
    connection = object()
    listener, ear = room.listener(connection=connection)
    listener.level = "error"
    request = Ear()
    async with room.hub.logging_to(RequestLogListener(LOCAL_PRINCIPAL, request, None, connection), ["toy"]):
        await room.bridge.say(MESSAGE, level="info", data="low")
        await room.bridge.say(MESSAGE, level="error", data="high")
    await settle()
    assert [params["data"] for _, params in request.told] == ["high"]
    assert ear.told == []


@in_a_room
async def test_a_request_that_does_not_take_its_messages_holds_up_nobody(room: Room):
    """It is given a moment for each; the others hear as if it were not there."""
    stuck, other = Ear(), Ear()
    stuck.open = anyio.Event()
    _, ear = room.listener()
    async with (
        room.hub.logging_to(RequestLogListener(LOCAL_PRINCIPAL, stuck, "debug", None), ["toy"]),
        room.hub.logging_to(RequestLogListener(LOCAL_PRINCIPAL, other, "debug", None), ["toy"]),
    ):
        began = anyio.current_time()
        await room.bridge.say(MESSAGE, level="error", data="x")
        assert anyio.current_time() - began == pytest.approx(LOG_DELIVERY_S)
    await settle()
    assert len(other.told) == len(ear.told) == 1


@in_a_room
@pytest.mark.parametrize(
    ("users", "hear"), [([], "ab"), (["a"], "a"), (["b"], "b"), (["a", "b"], ""), (["a", "public"], "")]
)
async def test_log_messages_reach_the_only_principal_that_uses_the_server(room: Room, users: list[str], hear: str):
    """A message names no call, so a server that two principals use could tell one of the other's calls."""
    scopes = {"a": Scope("a"), "b": Scope("b"), "public": PUBLIC}
    ears, requests = {name: Ear() for name in "ab"}, {name: Ear() for name in "ab"}
    for name, ear in ears.items():
        room.add(_Listener(ear, partial(Principal, scopes[name]), lists=()))
    room.bridge.users = {scopes[name] for name in users}
    async with (
        room.hub.logging_to(RequestLogListener(Principal(scopes["a"]), requests["a"], "debug", None), ["toy"]),
        room.hub.logging_to(RequestLogListener(Principal(scopes["b"]), requests["b"], "debug", None), ["toy"]),
    ):
        await room.bridge.say(MESSAGE, level="error", data="x")
    await settle()
    assert "".join(name for name, ear in ears.items() if ear.told) == hear
    assert "".join(name for name, ear in requests.items() if ear.told) == hear


@in_a_room
@pytest.mark.parametrize(("working", "hear"), [("a", "a"), ("b", "b"), ("ab", ""), ("", "")])
async def test_log_messages_reach_the_session_whose_request_the_server_works_on(room: Room, working: str, hear: str):
    """Of several sessions at a daemon, which are one principal; none of them while that is not known."""
    lines = {name: Connection(ClientProcess(name, "/", {})) for name in "ab"}
    for name, line in lines.items():
        line.identity = CallerIdentity("host", apart=True, token=f"key:{name}")
    ears, requests = {name: Ear() for name in "ab"}, {name: Ear() for name in "ab"}
    for name, ear in ears.items():
        room.add(_Listener(ear, lambda: LOCAL_PRINCIPAL, lists=(), line=lines[name]))
    room.bridge.users = {LOCAL}
    room.bridge.askers_at = lambda server: {lines[name].identity for name in working}
    listening = [RequestLogListener(LOCAL_PRINCIPAL, requests[name], "debug", None, line=lines[name]) for name in "ab"]
    async with room.hub.logging_to(listening[0], ["toy"]), room.hub.logging_to(listening[1], ["toy"]):
        await room.bridge.say(MESSAGE, level="error", data="x")
    await settle()
    assert "".join(name for name, ear in ears.items() if ear.told) == hear
    assert "".join(name for name, ear in requests.items() if ear.told) == hear


# --- servers with a connection for each caller ---------------------------------------------------------------------


class OfCaller(Everything):
    """The view of a caller with a connection of its own."""

    def __init__(self, credentials: str) -> None:
        self.credentials = credentials

    def credentials_for(self, server: str) -> str | None:
        return self.credentials


@in_a_room
async def test_what_a_connection_of_one_caller_announces_reaches_that_caller_only(room: Room):
    """Changes of lists and resources, and log messages; also where both callers asked for the same."""
    views: dict[str, Any] = {name: OfCaller(f"key of {name}") for name in "ab"}

    def view_of(principal: Principal) -> Any:
        return views[principal.scope.key]

    room.bridge.views = SimpleNamespace(of=view_of, whole=view_of, everything=Everything())
    ears, requests = {name: Ear() for name in "ab"}, {name: Ear() for name in "ab"}
    for name, ear in ears.items():
        listener = room.add(_Listener(ear, partial(Principal, Scope(name)), lists=("tools",)))
        listener.level = "debug"
        await room.hub.subscribe(listener, "x://same")
    assert room.bridge.asked == [("subscribe", "x://same")] * 2
    told = room.bridge.on_notification
    for method, params in ((UPDATED, {"uri": "x://same"}), (MESSAGE, {"level": "error", "data": "of b"})):
        async with (
            room.hub.logging_to(RequestLogListener(Principal(Scope("a")), requests["a"], "debug", None), ["toy"]),
            room.hub.logging_to(RequestLogListener(Principal(Scope("b")), requests["b"], "debug", None), ["toy"]),
        ):
            for credentials in ("key of b", "key of somebody else"):
                if (rest := told("toy", method, params, credentials)) is not None:
                    await rest()
    room.bridge._on_lists(views["b"], frozenset({"tools"}))
    await anyio.sleep(2 * COALESCE_S)
    await settle()
    assert ears["a"].told == requests["a"].told == []
    assert sorted(ears["b"].methods()) == [MESSAGE, UPDATED, "notifications/tools/list_changed"]
    assert requests["b"].methods() == [MESSAGE]
