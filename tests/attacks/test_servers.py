"""Servers that break: answers that are none, and messages without end. Each costs its own call, or its own server."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib

import psutil
import pytest

from tests.attacks.test_answers import breaking, give
from tests.support import hostile
from tests.support.client import RpcError, eventually, text_of
from tests.support.hostile_http import Exchange, HostileServer
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

SERVER = hostile.__file__
BOUND_S = 8.0
"""The longest that a broken answer may be waited for, on a machine that is busy."""


# --- messages without bound ------------------------------------------------------------------------------------------

LIMIT = 1 << 20
MEMORY = 150 << 20
"""More than this a bridge with a bound of 1 MB may never use, whatever is sent to it."""


class Memory:
    """The largest resident size of a process, sampled."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.most = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.most = max(self.most, self._process.memory_info().rss)
            self._over.wait(0.01)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


LINE = '"' + "0" * 60 + '",\n'
LONG: dict[str, tuple[str, str, bool | None, str]] = {
    # what it is: its head and tail, between which it is filled up, and if its request can be told; with what
    "ID first": ('{"jsonrpc":"2.0","id":%ID%,"result":{"a":"', '"}}', True, "0"),
    "ID behind a text": ('{"note":"x","id":%ID%,"jsonrpc":"2.0","result":{"a":"', '"}}', True, "0"),
    "ID last": ('{"result":{"a":"', '"},"jsonrpc":"2.0","id":%ID%}', True, "0"),
    "ID last, version first": ('{"jsonrpc":"2.0","result":{"a":"', '"},"id":%ID%}', True, "0"),
    "ID nowhere": ('{"result":{"a":"', '"},"jsonrpc":"2.0"}', False, "0"),
    "ID in between": ('{"result":{"a":"', '"},"id":%ID%,"x":1,"jsonrpc":"2.0"}', False, "0"),
    "a notification": ('{"jsonrpc":"2.0","method":"x","params":{"a":"', '"}}', None, "0"),
    "no JSON": ("loading ", "", None, "0"),
    "many lines, ID first": ('{\n"jsonrpc": "2.0",\n"id": %ID%,\n"result": {"a":[\n', '""\n]\n}\n}', True, LINE),
    "many lines, ID nowhere": ('{\n"result": {"a":[\n', '""\n]\n},\n"jsonrpc": "2.0"}', False, LINE),
}


@pytest.mark.parametrize("megabytes", [(2, 12), pytest.param((300,), marks=pytest.mark.attacks_long)], ids=str)
def test_a_long_line_ends_its_call_or_its_server(stage: Stage, megabytes: tuple[int, ...]):
    """As soon as it can be told which, with the reason; the next call is answered, and memory stays bounded."""
    most = max(megabytes)
    with breaking(stage, "stdio", max_message_bytes=most << 17) as bridge:
        bridge.wait_for_tools("bad__raw", "bad__give")
        bridge.outcome(bridge.submit("bad__give").id)
        for case, (head, tail, told, piece) in LONG.items():
            for size in megabytes:
                arguments = {"data": head, "fill": size << 20, "piece": piece, "tail": tail, "answer": told is None}
                with Memory(bridge.process.pid) as memory:
                    outcome = bridge.outcome(bridge.submit("bad__raw", arguments).id)
                    after = bridge.outcome(bridge.submit("bad__give", {"n": case}).id)
                assert after.get("structuredContent") == {"n": case}, (case, after)
                assert memory.most < MEMORY + (most << 18), case
                if told is None:
                    assert outcome["structuredContent"].get("answer"), text_of(outcome)
                else:
                    assert "max_message_bytes" in text_of(outcome), (case, text_of(outcome))
                    assert ("may or may not" in text_of(outcome)) is not told, (case, text_of(outcome))


@pytest.mark.parametrize("known", [True, False])
def test_a_line_without_end_ends_its_server(stage: Stage, known: bool):
    """It stops in the midst of it: the call ends, and the server is started again, since all that follows is lost."""
    head = LONG["ID first" if known else "ID nowhere"][0]
    with breaking(stage, "stdio", max_message_bytes=LIMIT) as bridge:
        bridge.wait_for_tools("bad__raw", "bad__give")
        started = time.monotonic()
        held = bridge.submit("bad__raw", {"data": head, "fill": 4 << 20, "stop": True})
        assert "max_message_bytes" in text_of(bridge.outcome(held.id)) or not known

        def given() -> bool:
            outcome = bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
            return (outcome.get("structuredContent") or {}).get("n") == 1

        eventually(given, "the server serves again")
        assert time.monotonic() - started < 20


def test_a_long_line_of_a_client_is_refused(stage: Stage):
    """The session goes on."""
    path = hostile.listing(stage.folder, [hostile.tool("give")])
    bridge = stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark)})
    bridge.wait_for_tools("bad__give")
    with Memory(bridge.process.pid) as memory:
        refused = bridge.start("ping", {"a": "x" * (100 << 20)})
        assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
    assert memory.most < 300 << 20
    with pytest.raises(RpcError, match="more than 67108864 bytes"):
        refused.result()


def zeros(exchange: Exchange, megabytes: int, encoding: str, kind: str, head: bytes) -> None:
    """A body of so many megabytes, compressed if asked for, and no end."""
    lines = [f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n"]
    lines += [f"content-encoding: {encoding}\r\n"] if encoding else []
    exchange.raw("".join(lines).encode() + b"\r\n")
    wbits = {"gzip": 31, "deflate": 15}
    packers = [zlib.compressobj(9, zlib.DEFLATED, wbits[name]) for name in encoding.split(", ") if name in wbits]
    try:
        for piece in [head, *[b"0" * (1 << 20)] * megabytes]:
            for packer in packers:
                piece = packer.compress(piece)
            exchange.raw(piece)
        for packer in packers:
            exchange.raw(packer.flush())
    except OSError:
        pass  # it is read no further
    exchange.close()


ENCODINGS = {
    # of an answer: what becomes of it
    "": "setting max_message_bytes",
    "gzip": "setting max_message_bytes",
    "deflate": "setting max_message_bytes",
    "gzip, gzip": "a compression that was not asked for (gzip, gzip)",
    "br": "a compression that was not asked for (br)",
    "zstd": "a compression that was not asked for (zstd)",
}


@pytest.mark.parametrize(
    ("megabytes", "limit"),
    [(20, 1 << 20), (80, 64 << 20), pytest.param(5000, 64 << 20, marks=pytest.mark.attacks_long)],
)
def test_a_long_answer_over_http_ends_its_call(stage: Stage, megabytes: int, limit: int):
    """Plain and compressed, a body and an event: one call fails, with the reason, and it is made once."""

    def long(exchange: Exchange) -> None:
        kind = exchange.arguments["kind"]
        head = (b"data: " if "event" in kind else b"") + b'{"jsonrpc":"2.0","id":1,"result":{"a":"'
        zeros(exchange, megabytes, exchange.arguments["encoding"], kind, head)

    with HostileServer({"long": long, "give": give}) as server:
        server.annotations = {"long": {"readOnlyHint": True}}
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": {"max_message_bytes": limit}}})
        bridge.wait_for_tools("bad__long", "bad__give")
        quiet = hostile.baseline(bridge)
        for kind in ("application/json", "text/event-stream"):
            for encoding, words in ENCODINGS.items():
                before = server.calls()
                arguments = {"kind": kind, "encoding": encoding}
                with Memory(bridge.process.pid) as memory, hostile.pulse(bridge) as measured:
                    outcome = bridge.outcome(bridge.submit("bad__long", arguments).id)
                    given = bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
                assert given["structuredContent"] == {"n": 1}
                assert words in text_of(outcome), (kind, encoding)
                assert server.calls() == before + 2, (kind, encoding)
                assert memory.most < MEMORY + 3 * limit
                hostile.assert_steady(measured, quiet)


# --- servers that stop reading, and servers that never answer ---------------------------------------------------------


def deaf(stage: Stage) -> Wire:
    path = hostile.listing(stage.folder, [hostile.tool("deaf"), hostile.tool("give")])
    bridge = stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark)}, max_wait_s=10)
    bridge.wait_for_tools("bad__deaf", "bad__give")
    return bridge


def test_a_server_that_closes_its_input_is_started_again(stage: Stage):
    """What it has not read is sent to its next process."""
    bridge = deaf(stage)
    for number in range(2):
        held = bridge.submit("bad__deaf", {"answers": True, "closes": True})
        assert bridge.outcome(held.id)["structuredContent"] == {"heard": True}
        assert bridge.outcome(bridge.submit("bad__give", {"n": number}).id)["structuredContent"] == {"n": number}


HANG = threading.Event()


def hang(exchange: Exchange) -> None:
    HANG.wait(60)


def test_calls_over_http_that_are_given_up_give_back_their_connections(stage: Stage):
    """Beyond 200 at a time they wait and say so; after they were cancelled or timed out the server serves as before."""
    with HostileServer({"hang": hang, "give": give}) as server:
        own = {"tools": {"hang": {"timeout_s": 8}}}
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": own}}, max_pending=1000)
        bridge.wait_for_tools("bad__hang", "bad__give")
        held = [bridge.submit("bad__hang") for _ in range(250)]
        eventually(lambda: server.calls() == 200, "200 calls arrived")
        assert [each.status for each in held] == ["running"] * 200 + ["waiting"] * 50
        for each in held[200:]:
            bridge.call("cancel_future", {"future_id": each.id})
        for each in held[200:]:
            assert "cancelled" in text_of(bridge.outcome(each.id))
        assert server.calls() == 200
        for each in held[:200]:
            assert "did not finish within 8 s" in text_of(bridge.outcome(each.id))
        assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
        HANG.set()
        eventually(lambda: len(server._open) <= 20, "connections are closed")


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_what_is_kept_on_disk_is_for_its_user_only(stage: Stage):
    """Logs, listings and counts: files 0600 in folders 0700, whatever the umask; and one that was there before."""
    before = os.umask(0)
    try:
        bridge = deaf(stage)
        bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
        bridge.close()
        kept = [each for name in ("cache", "logs", "state") for each in stage.folder.glob(f"{name}/**/*")]
        files = [each for each in kept if each.is_file()]
        assert len(files) >= 3
        assert {each.stat().st_mode & 0o777 for each in files} == {0o600}, files
        assert {each.parent.stat().st_mode & 0o777 for each in files} == {0o700}, files
        [listing] = [each for each in stage.folder.glob("cache/*.json") if not each.name.endswith(".shapes.json")]
        listing.chmod(0o644)
        deaf(stage)
        assert listing.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_in_place_of_what_is_kept_on_disk_are_not_followed(stage: Stage):
    """Somebody else may write to the folders: the server serves, and the file behind the links stays as it is."""
    bridge = deaf(stage)
    bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
    bridge.close()
    victim = stage.folder / "victim"
    victim.write_text("precious")
    links = [
        each for name in ("cache", "logs", "state") for each in stage.folder.glob(f"{name}/**/*") if each.is_file()
    ]
    for each in links:
        each.unlink()
        each.symlink_to(victim)
    bridge = deaf(stage)
    assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
    bridge.close()
    assert victim.read_text() == "precious"


ENDING: dict[str, str] = {
    # what each resumed stream brings before it ends, with its number
    "nothing": ": nothing\n\n",
    "IDs": "id: 1-{}\ndata:\n\n",
    "events with IDs": 'id: 1-{}\ndata: {{"jsonrpc":"2.0","method":"notifications/strange"}}\n\n',
    "events": 'data: {{"jsonrpc":"2.0","method":"notifications/strange"}}\n\n',
}


@pytest.mark.parametrize("brings", ENDING)
def test_the_stream_of_an_answer_that_ends_again_and_again_is_resumed_with_growing_pauses(stage: Stage, brings: str):
    """Though the server asks for none: at most seven times in the first three seconds, whatever it brings."""
    resumed: list[float] = []

    def begin(exchange: Exchange) -> None:
        exchange.stream("id: 1\nretry: 0\ndata:\n\n", end=True)

    def again(exchange: Exchange) -> bool:
        if exchange.method != "GET" or "last-event-id" not in exchange.headers:
            return False
        resumed.append(time.monotonic())
        exchange.stream(ENDING[brings].format(len(resumed)), end=True)
        return True

    with HostileServer({"begin": begin, "give": give}) as server:
        server.override = again
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": {"tools": {"begin": {"timeout_s": 3}}}}})
        bridge.wait_for_tools("bad__begin")
        outcome = bridge.outcome(bridge.submit("bad__begin").id)
        assert "did not finish within 3 s" in text_of(outcome)
        assert 1 <= len(resumed) <= 7


@pytest.mark.parametrize("brings", ENDING)
def test_a_stream_of_notifications_that_ends_again_and_again_is_opened_with_growing_pauses(stage: Stage, brings: str):
    """Though the server asks for none, and whatever it brings: the seventh time after more than a second and a half."""
    opened: list[float] = []

    def listen(exchange: Exchange) -> bool:
        if exchange.method != "GET":
            return False
        opened.append(time.monotonic())
        exchange.stream("retry: 0\n\n", ENDING[brings].format(len(opened)), end=True)
        return True

    with HostileServer({"give": give}) as server:
        server.override = listen
        bridge = stage.bridge({"bad": {"url": server.url}})
        bridge.wait_for_tools("bad__give")
        eventually(lambda: len(opened) >= 7, "the stream was opened again")
        assert opened[5] - opened[0] >= 0.05 * (2**5 - 1) - 0.1
        assert opened[6] - opened[5] >= 0.9
        assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
