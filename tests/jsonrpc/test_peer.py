"""The JSON-RPC peer: what is asked is answered, in both directions, and nothing that ends keeps anybody waiting."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest

from asyncfc_mcp.errors import ConnectionEnded, RequestTimedOut, RpcError
from asyncfc_mcp.jsonrpc.codec import MalformedMessage, format_message, parse_message
from asyncfc_mcp.jsonrpc.inbound import Inbound
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.outbound import GIVEN_UP_S
from asyncfc_mcp.jsonrpc.peer import DOUBT_S, MESSAGES_PER_TURN, Peer
from asyncfc_mcp.protocol import Deferred
from tests.support.inprocess_server import Pipe
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = pytest.mark.anyio


class Narrow(Pipe):
    """A pipe that takes nothing until it is opened, and then everything."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = anyio.Event()

    def send_nowait(self, data: bytes | memoryview) -> int:
        return super().send_nowait(data) if self.opened.is_set() else 0

    async def send(self, data: bytes | memoryview) -> None:
        await self.opened.wait()
        super().send_nowait(data)

    def close(self) -> None:
        super().close()
        self.opened.set()


@dataclass
class Wire:
    """A peer under test, and the far ends of its pipes."""

    peer: Peer
    into: Pipe
    out: Pipe
    log: list[str] = field(default_factory=list)
    notified: list[tuple[str, Any]] = field(default_factory=list)

    def say(self, *messages: dict[str, Any]) -> None:
        """Send messages to the peer, all in one piece."""
        self.into.send_nowait(b"".join(format_message({"jsonrpc": "2.0", **message}) for message in messages))

    async def hear(self) -> dict[str, Any]:
        """The next message that the peer sends."""
        with anyio.fail_after(5):
            while b"\n" not in self._heard:
                self._heard += await self.out.receive()
        line, _, self._heard = self._heard.partition(b"\n")
        return parse_message(line)

    _heard: bytes = b""


@asynccontextmanager
async def wire(out: Pipe | None = None, *, server: bool = False, **more: Any) -> AsyncGenerator[Wire]:
    """A peer that answers: `at_once`, `refuse` and `break` without waiting, `wait` in a task."""
    into, out = Pipe(), out or Pipe()

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        if not server:
            raise AssertionError(f"{exc}: {line!r}")

    it = Wire(Peer(LineReader(into, on_malformed, server=server), LineWriter(out), **more), into, out)

    def on_request(inbound: Inbound, method: str, params: Any) -> Any:
        it.log.append(f"{method} {inbound.request_id}")
        match method:
            case "at_once":
                return {"got": params}
            case "refuse":
                raise RpcError(-32055, "no", {"why": None})
            case "break":
                raise KeyError("a bug")
            case _:
                return Deferred(partial(wait, inbound))

    async def wait(inbound: Inbound) -> dict[str, Any]:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            it.log.append(f"cancelled {inbound.request_id}")
            raise
        return {}

    def on_notify(inbound: Inbound, method: str, params: Any) -> None:
        it.notified.append((method, params))

    async with anyio.create_task_group() as tg:
        await tg.start(it.peer.run, on_request, on_notify)
        try:
            yield it
        finally:
            tg.cancel_scope.cancel()
            into.close()
            out.close()


# --- asked by the other side -----------------------------------------------------------------------------------------


async def test_what_is_ready_is_answered_before_the_next_message_is_looked_at():
    """In order, and without a task in between."""
    async with wire() as it:
        it.say(*({"id": n, "method": "at_once", "params": {"n": n}} for n in range(3)))
        assert [await it.hear() for _ in range(3)] == [
            {"jsonrpc": "2.0", "id": n, "result": {"got": {"n": n}}} for n in range(3)
        ]


async def test_a_refusal_is_answered_as_the_error_that_it_is():
    """Code, message and data; `null` inside of data stays."""
    async with wire() as it:
        it.say({"id": "x", "method": "refuse"})
        assert (await it.hear())["error"] == {"code": -32055, "message": "no", "data": {"why": None}}


async def test_a_bug_is_answered_without_its_details(caplog: pytest.LogCaptureFixture):
    """They are in the log; the connection goes on."""
    async with wire() as it:
        it.say({"id": 1, "method": "break"}, {"id": 2, "method": "at_once"})
        assert (await it.hear())["error"] == {"code": -32603, "message": "Internal error"}
        assert (await it.hear())["result"] == {"got": None}
    assert "a bug" in caplog.text


async def test_a_request_that_is_cancelled_is_stopped_and_not_answered():
    """Also where its cancellation comes in the same piece, before its task has begun."""
    async with wire() as it:
        cancelled = {"method": "notifications/cancelled", "params": {"requestId": 1}}
        it.say({"id": 1, "method": "wait"}, cancelled, {"id": 2, "method": "at_once"})
        assert (await it.hear())["id"] == 2
        await settle()
        assert it.log == ["wait 1", "at_once 2", "cancelled 1"]
        assert [method for method, _ in it.notified] == ["notifications/cancelled"]


async def test_a_flood_of_quick_requests_lets_everybody_else_have_a_turn():
    """The event loop gets its turn after every few of them, however many come in one piece."""
    async with wire() as it:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(count)
            await settle()
            turns = 0
            it.say(*({"id": n, "method": "at_once"} for n in range(20 * MESSAGES_PER_TURN)))
            while len(it.log) < 20 * MESSAGES_PER_TURN:
                await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        assert turns >= 19


async def test_answers_wait_for_a_reader_that_is_slow_and_keep_their_order():
    """What cannot be written at once is not lost, and nothing passes it."""
    narrow = Narrow()
    async with wire(narrow) as it:
        it.say(*({"id": n, "method": "at_once"} for n in range(3)))
        await settle()
        it.say({"id": 3, "method": "at_once"})
        await settle()
        narrow.opened.set()
        assert [(await it.hear())["id"] for _ in range(4)] == [0, 1, 2, 3]


async def test_a_client_that_asks_and_does_not_read_is_read_from_no_more():
    """What it left unread is bounded; when it reads on, nothing is missing."""
    narrow = Narrow()
    async with wire(narrow, unsent_limit=1000) as it:
        for number in range(200):
            it.say({"id": number, "method": "at_once"})
        await settle()
        assert 10 < len(it.log) < 30
        narrow.opened.set()
        assert [(await it.hear())["id"] for _ in range(200)] == list(range(200))


async def test_the_end_of_a_client_that_does_not_read_is_noticed():
    """However much waits for it."""
    narrow = Narrow()
    async with wire(narrow, unsent_limit=10) as it:
        it.say({"id": 1, "method": "at_once"}, {"id": 2, "method": "at_once"})
        await settle()
        it.into.close()
        with anyio.fail_after(5):
            while not it.peer._closed:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.01)


# --- asked by us -----------------------------------------------------------------------------------------------------


class Outcome:
    """What a posted request came to."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, Any]] = []

    def __call__(self, outcome: Any) -> None:
        self.told.append((None, outcome) if isinstance(outcome, RpcError) else (outcome, None))


async def test_a_posted_request_is_told_its_result_or_its_error():
    """Once, whatever else comes under its number."""
    async with wire() as it:
        good, bad = Outcome(), Outcome()
        first, second = (
            it.peer.send_request_nowait("ask", {"a": 1}, good),
            it.peer.send_request_nowait("ask", None, bad),
        )
        assert await it.hear() == {"jsonrpc": "2.0", "id": first, "method": "ask", "params": {"a": 1}}
        assert await it.hear() == {"jsonrpc": "2.0", "id": second, "method": "ask"}
        it.say({"id": second, "error": {"code": -1, "message": "no"}}, {"id": first, "result": {"ok": True}})
        it.say({"id": first, "result": {"ok": False}})
        await settle()
        assert good.told == [({"ok": True}, None)]
        [(result, error)] = bad.told
        assert result is None
        assert error.wire == {"code": -1, "message": "no"}


@pytest.mark.parametrize(
    ("code", "message"), [(-32000, "rate limit reached"), (-32000, "Connection closed"), (-32001, "x")]
)
async def test_no_error_of_the_other_side_is_a_failure_of_the_transport(code: int, message: str):
    """Whatever its number and its words: a type tells that a connection ended, and no message becomes one."""
    async with wire() as it:
        outcome = Outcome()
        it.say({"id": it.peer.send_request_nowait("ask", None, outcome), "error": {"code": code, "message": message}})
        await settle()
        [(_, error)] = outcome.told
        assert type(error) is RpcError
        assert (error.code, error.message) == (code, message)


@on_virtual_time
async def test_a_broken_answer_ends_its_request_unless_the_answer_proper_arrives():
    """It may have been the cut-off copy in a server's debug output; nothing else waits for that."""
    async with wire(server=True) as it:
        outcomes = [Outcome(), Outcome(), Outcome()]
        ids = [it.peer.send_request_nowait("ask", None, outcome) for outcome in outcomes]
        for number in ids[:2]:
            it.into.send_nowait(b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,}}\n' % number)
        it.say({"id": ids[1], "result": {"a": 1}}, {"id": ids[2], "result": {"b": 1}})
        await settle()
        assert [outcome.told for outcome in outcomes] == [[], [({"a": 1}, None)], [({"b": 1}, None)]]
        await anyio.sleep(DOUBT_S)
        await settle()
        [(result, error)] = outcomes[0].told
        assert result is None
        assert "Invalid answer" in error.message
        assert [len(outcome.told) for outcome in outcomes] == [1, 1, 1]


async def test_an_abandoned_request_tells_the_other_side_and_nobody_else():
    """The answer that comes all the same is for nobody."""
    async with wire() as it:
        outcome = Outcome()
        number = it.peer.send_request_nowait("ask", None, outcome)
        assert number is not None
        it.peer.cancel_request(number, "changed my mind")
        it.peer.cancel_request(number, "said once")
        await it.hear()
        said = await it.hear()
        assert (said["method"], said["params"]) == (
            "notifications/cancelled",
            {"requestId": number, "reason": "changed my mind"},
        )
        it.say({"id": number, "result": {}})
        await settle()
        assert outcome.told == []


@on_virtual_time
async def test_a_request_that_was_given_up_may_still_be_worked_on():
    """Until it is answered, or for a bounded time; only who asked for it is kept."""

    @dataclass
    class Cause:
        asker: str

    async with wire() as it:
        numbers = [it.peer.send_request_nowait("ask", None, Outcome(), {"cause": Cause(name)}) for name in "abc"]
        first, second, third = (number for number in numbers if number is not None)
        assert it.peer.causes() == [Cause("a"), Cause("b"), Cause("c")]
        it.peer.cancel_request(first, "changed my mind")
        it.peer.cancel_request(second, "changed my mind")
        assert it.peer.causes() == [Cause("c"), "a", "b"]
        for number in (second, third):
            it.say({"id": number, "result": {}})
        await settle()
        assert it.peer.causes() == ["a"]
        await anyio.sleep(GIVEN_UP_S + 1)
        assert it.peer.causes() == []


async def test_the_end_of_the_connection_is_an_answer_to_everything_open():
    """Nobody waits for an answer that cannot come, and nothing more can be posted."""
    async with wire() as it:
        outcome = Outcome()
        it.peer.send_request_nowait("ask", None, outcome)
        it.into.close()
        await settle()
        [(result, error)] = outcome.told
        assert result is None
        assert isinstance(error, ConnectionEnded)
        assert error.sent
        assert it.peer.send_request_nowait("ask", None, outcome) is None
        with pytest.raises(ConnectionEnded) as caught:
            await it.peer.send_raw_request("ask", None)
        assert not caught.value.sent, "this one came after the end"
    assert len(outcome.told) == 1


async def test_nothing_is_posted_to_a_peer_that_does_not_read():
    """Whoever posts does something else then; what was asked for with `send_raw_request` waits."""
    narrow = Narrow()
    async with wire(narrow) as it:
        outcome = Outcome()
        assert it.peer.send_request_nowait("first", None, outcome) is not None
        assert it.peer.send_request_nowait("second", None, outcome) is None
        narrow.opened.set()
        assert (await it.hear())["method"] == "first"
        await settle()
        assert it.peer.send_request_nowait("third", None, outcome) is not None


async def test_a_request_that_cannot_be_written_after_all_has_ended():
    """The other side stopped reading for good, though it has not closed its own end."""
    narrow = Narrow()
    async with wire(narrow) as it:
        outcome = Outcome()
        assert it.peer.send_request_nowait("ask", None, outcome) is not None
        await settle()
        narrow.close()
        await settle()
        [(result, error)] = outcome.told
        assert result is None
        assert isinstance(error, ConnectionEnded)
        assert not error.sent, "no byte of it was written"
        assert it.peer.send_request_nowait("ask", None, outcome) is None, "at once, there is nobody to ask"
        assert not it.peer._closed


async def test_progress_and_the_result_behind_it_come_in_order():
    """Both in one piece: a server's last word of progress is not lost."""
    async with wire() as it:
        heard: list[Any] = []
        number = it.peer.send_request_nowait(
            "ask", None, heard.append, {"on_progress": lambda *said: heard.append(said)}
        )
        progress = {"method": "notifications/progress", "params": {"progressToken": number, "progress": 1}}
        it.say(progress, {"id": number, "result": {}})
        await settle()
        assert heard == [(1, None, None), {}]


async def test_a_connection_ends_though_answers_are_left_that_nobody_reads():
    """However many came in the last piece."""
    narrow = Narrow()
    async with wire(narrow) as it:
        it.say(*({"id": n, "method": "at_once"} for n in range(3 * MESSAGES_PER_TURN)))
        it.into.close()
        with anyio.fail_after(10):
            while not it.peer._closed:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.01)


async def test_progress_reaches_whoever_asked_for_it():
    """By the token that the request carried; numbers and text only."""
    async with wire() as it:
        heard: list[Any] = []

        def on_progress(progress: float, total: float | None, message: str | None) -> None:
            heard.append((progress, total, message))

        number = it.peer.send_request_nowait("ask", {"_meta": {"mine": 1}}, Outcome(), {"on_progress": on_progress})
        assert (await it.hear())["params"]["_meta"] == {"mine": 1, "progressToken": number}
        about = {"method": "notifications/progress"}
        it.say({**about, "params": {"progressToken": number, "progress": 1, "total": 2, "message": "half"}})
        it.say({**about, "params": {"progressToken": number, "progress": "much"}})
        it.say({**about, "params": {"progressToken": 99, "progress": 1}})
        await settle()
        assert heard == [(1, 2, "half")]


async def test_a_request_that_takes_too_long_is_given_up_and_the_other_side_told():
    """`RequestTimedOut`; the other side is told, unless the protocol forbids that."""
    async with wire() as it:
        with pytest.raises(RequestTimedOut, match=r"did not answer ask within 0\.01 s"):
            await it.peer.send_raw_request("ask", None, {"timeout": 0.01})
        assert [(await it.hear())["method"] for _ in range(2)] == ["ask", "notifications/cancelled"]
        with pytest.raises(RpcError):
            await it.peer.send_raw_request("initialize", None, {"timeout": 0.01, "cancel_on_abandon": False})
        await it.peer.notify("done", None)
        assert [(await it.hear())["method"] for _ in range(2)] == ["initialize", "done"]


# --- the end of the input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_up", [False, True])
async def test_requests_that_were_read_are_answered_after_the_end_of_input(given_up: bool):
    """While `at_end` runs; those that last are not waited for, and nothing more can be asked."""
    into, out = Pipe(), Pipe()
    gate, ended = anyio.Event(), anyio.Event()

    async def refuse(exc: MalformedMessage, line: bytes) -> None:
        raise AssertionError(f"{exc}: {line!r}")

    peer = Peer(LineReader(into, refuse), LineWriter(out))

    async def through() -> dict[str, Any]:
        await gate.wait()
        return {"through": True}

    async def forever() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    def on_request(inbound: Inbound, method: str, params: Any) -> Any:
        inbound.lasting = method == "listen"
        return Deferred(forever if inbound.lasting else through)

    async def at_end() -> None:
        ended.set()
        with pytest.raises(ConnectionEnded):
            await peer.send_raw_request("roots/list", None)
        await peer.answered()

    async with anyio.create_task_group() as tg:
        tg.start_soon(partial(peer.run, on_request, lambda *_: None, at_end=at_end))
        for number, method in ((1, "listen"), (2, "tools/call")):
            into.send_nowait(format_message({"jsonrpc": "2.0", "id": number, "method": method}))
        await settle()
        if given_up:
            peer.end_input()
        else:
            into._into.close()
        with anyio.fail_after(5):
            await ended.wait()
            gate.set()
            answer = await LineReader(out, refuse).receive()
    assert answer == {"jsonrpc": "2.0", "id": 2, "result": {"through": True}}
    into.close()
    out.close()


async def test_a_server_that_reads_no_more_has_its_last_word_and_then_the_connection_ends():
    """What it read before is still answered; each request says whether a part of it was written."""
    async with wire() as it:
        it.peer.drained = anyio.sleep_forever
        outcome = Outcome()
        number = it.peer.send_request_nowait("ask", None, outcome)
        it.out.close()
        assert it.peer.send_request_nowait("ask", None, outcome) is None
        with pytest.raises(ConnectionEnded, match="stopped reading its input") as caught:
            await it.peer.send_raw_request("ask", None)
        assert not caught.value.sent
        await settle()
        assert not it.peer._closed
        it.say({"id": number, "result": {"late": True}})
        await settle()
        assert outcome.told == [({"late": True}, None)]
        assert it.peer._closed
