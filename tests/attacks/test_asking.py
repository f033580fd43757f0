"""A question of a server is put to the client whose call raised it, or to nobody."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import asking_server, hostile
from tests.support.client import HANDSHAKE, MODERN, Json, eventually, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import Stage
from tests.support.users import Bench

FORMS: Json = {"elicitation": {"form": {}}}
OPTIONS = {"name": "same", "era": MODERN, "capabilities": FORMS}


def dialog(client: HttpWire, future: str, answer: str) -> tuple[list[str], str]:
    """Await a future, answer what is asked: the questions, and the text of the last answer."""
    asked: list[str] = []
    params: Json = {"name": "await_future", "arguments": {"future_id": future, "timeout_s": 2}}
    while True:
        result = client.request("tools/call", params)
        if result.get("resultType") != "input_required":
            return asked, text_of(result)
        requests = result["inputRequests"]
        asked += [each["params"]["message"] for each in requests.values()]
        responses = {key: {"action": "accept", "content": {"name": answer}} for key in requests}
        params = {**params, "inputResponses": responses, "requestState": result["requestState"]}


@pytest.mark.parametrize("options", [["--handshake-only"], []], ids=["handshake", "modern"])
@pytest.mark.parametrize("other", [{}, {"conversation": "b"}, {"name": "other"}], ids=["same", "conversation", "name"])
def test_parallel_clients_are_asked_their_own(stage: Stage, options: list[str], other: Json):
    """Both await their own future while the call of the other asks: no answer gets into the wrong call."""
    entry = stage.entry(sys.executable, asking_server.__file__, "--mark", stage.mark, *options)
    bridge = stage.http_bridge({"s": entry})
    one, two = bridge.client(**OPTIONS), bridge.client(**{**OPTIONS, **other})
    one.wait_for_tools("s__ask")
    gate = stage.folder / "gate"
    asking = one.submit("s__ask", {"label": "one", "rounds": [[["form", "of one"]]]})
    holding = two.submit("s__hold", {"label": "two", "until": str(gate)})
    assert dialog(two, holding.id, "wrong")[0] == []
    gate.touch()
    assert dialog(two, holding.id, "wrong") == ([], json.dumps({"label": "two", "answers": []}))
    asked, said = dialog(one, asking.id, "right")
    assert asked == ["of one"]
    assert json.loads(said)["answers"][0][0]["content"] == {"name": "right"}


@pytest.mark.parametrize("other", [{"conversation": "b"}, {"name": "other"}, {"era": "2025-11-25"}])
def test_who_awaits_the_call_of_another_is_not_asked(stage: Stage, other: Json):
    """Reading its result is possible; its question is held for its own client."""
    entry = stage.entry(sys.executable, asking_server.__file__, "--mark", stage.mark, "--handshake-only")
    bridge = stage.http_bridge({"s": entry})
    one, two = bridge.client(**OPTIONS), bridge.client(**{**OPTIONS, **other})
    one.wait_for_tools("s__ask")
    asking = one.submit("s__ask", {"label": "one", "rounds": [[["form", "of one"]]]})
    asked, said = dialog(two, asking.id, "wrong")
    assert asked == []
    assert "input_required" in said
    assert dialog(one, asking.id, "right")[0] == ["of one"]
    assert json.loads(dialog(two, asking.id, "wrong")[1])["answers"][0][0]["content"] == {"name": "right"}


def test_a_question_that_its_client_never_awaits_is_refused_in_time(stage: Stage):
    """The call fails; another client that awaits it all the time is never asked."""
    log = Path(stage.folder) / "log"
    entry = stage.entry(
        sys.executable, asking_server.__file__, "--mark", stage.mark, "--handshake-only", "--log", str(log)
    )
    bridge = stage.http_bridge({"s": entry}, question_timeout_s=1)
    one, two = bridge.client(**OPTIONS), bridge.client(**{**OPTIONS, "conversation": "b"})
    one.wait_for_tools("s__ask")
    asking = one.submit("s__ask", {"label": "one", "rounds": [[["form", "of one"]]]})
    asked, said = dialog(two, asking.id, "wrong")
    assert asked == []
    assert "question_timeout_s" in said


def http_entry(stage: Stage) -> Json:
    """The asking server over Streamable HTTP: each question comes on the stream of its call."""
    log = stage.folder / "http.stderr"
    with log.open("wb") as sink:
        command = [sys.executable, asking_server.__file__, "--http", "--handshake-only", "--mark", stage.mark]
        stage.processes.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=stage.env)
        )
    [port] = eventually(lambda: log.read_text().partition("listening on ")[2].split()[:1], "the server listens")
    return {"url": f"http://127.0.0.1:{port}/mcp"}


def test_a_question_over_http_is_of_the_call_on_whose_stream_it_comes(stage: Stage):
    """It is put at once, while calls of others run there, and to nobody else who waits."""
    bridge = stage.http_bridge({"s": http_entry(stage)})
    one, two = bridge.client(**OPTIONS), bridge.client(**OPTIONS)
    one.wait_for_tools("s__ask")
    gate = stage.folder / "gate"
    holding = two.submit("s__hold", {"label": "two", "until": str(gate)})
    asking = one.submit("s__ask", {"label": "one", "rounds": [[["form", "of one"]], [["form", "again"]]]})
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(dialog, two, holding.id, "wrong")
        asked, said = dialog(one, asking.id, "right")
        assert asked == ["of one", "again"]
        assert [each["content"] for [each] in json.loads(said)["answers"]] == [{"name": "right"}] * 2
        assert other.result()[0] == []
    gate.touch()
    assert dialog(two, holding.id, "wrong") == ([], json.dumps({"label": "two", "answers": []}))


@pytest.mark.parametrize("over", ["pipe", "http"])
def test_of_two_who_await_one_future_one_is_asked(stage: Stage, over: str):
    """Stateless clients of one name without a key are one to the bridge: either may have made the call that it awaits,
    the first that waits is asked, and only its answer counts."""
    entry = (
        http_entry(stage)
        if over == "http"
        else stage.entry(sys.executable, asking_server.__file__, "--mark", stage.mark, "--handshake-only")
    )
    bridge = stage.http_bridge({"s": entry})
    clients = [bridge.client(**OPTIONS), bridge.client(**OPTIONS)]
    clients[0].wait_for_tools("s__ask")
    asking = clients[0].submit("s__ask", {"label": "one", "rounds": [[["form", "who"]]]})
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(dialog, client, asking.id, f"of {place}") for place, client in enumerate(clients)]
        dialogs = [each.result() for each in waits]
    [winner] = [place for place, (asked, _) in enumerate(dialogs) if asked]
    assert dialogs[winner][0] == ["who"]
    told = json.loads(dialog(clients[1 - winner], asking.id, "late")[1])
    assert told["answers"] == [[{"action": "accept", "content": {"name": f"of {winner}"}}]]


def live(client: HttpWire, future: str, answer: str) -> tuple[list[str], str]:
    """Await a future in a session, answer what is asked on the stream: the questions, and the text of the answer."""
    asked: list[str] = []
    body = {"jsonrpc": "2.0", "id": 999, "method": "tools/call"}
    params = {"name": "await_future", "arguments": {"future_id": future, "timeout_s": 30}}
    connection = http.client.HTTPConnection(client.host, timeout=60)
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Mcp-Session-Id": client.session or "",
        "Mcp-Protocol-Version": client.era,
    }
    with closing(connection):
        connection.request("POST", client.path, json.dumps({**body, "params": params}), headers)
        for line in connection.getresponse():
            text = line.removeprefix(b"data:").strip()
            if not text.startswith(b"{"):
                continue
            message = json.loads(text)
            if message.get("method") == "elicitation/create":
                asked.append(message["params"]["message"])
                result = {"action": "accept", "content": {"name": answer}}
                client.exchange("POST", {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers)
            elif message.get("id") == 999:
                return asked, text_of(message["result"])
    raise AssertionError("no answer")


def test_a_client_that_came_back_without_ending_its_session_is_asked(stage: Stage):
    """Its new session awaits the call of the old one; a session that was open all the time is not asked."""
    entry = stage.entry(sys.executable, asking_server.__file__, "--mark", stage.mark, "--handshake-only")
    bridge = stage.http_bridge({"s": entry})
    options = {**OPTIONS, "era": HANDSHAKE}
    beside, one = bridge.client(**options), bridge.client(**options)
    one.wait_for_tools("s__ask")
    asking = one.submit("s__ask", {"label": "one", "rounds": [[["form", "who"]]]})
    again = bridge.client(**options)
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(live, beside, asking.id, "wrong")
        asked, said = live(again, asking.id, "right")
        assert asked == ["who"]
        assert json.loads(said)["answers"] == [[{"action": "accept", "content": {"name": "right"}}]]
        assert other.result() == ([], said)


@pytest.mark.parametrize("era", ["modern", "handshake"])
def test_a_question_says_which_server_asks(stage: Stage, era: str):
    """Where there are several; it forges no line of the bridge's. What is listed of it is the message alone."""
    options = ["--handshake-only"] if era == "handshake" else []
    servers = {
        name: stage.entry(sys.executable, asking_server.__file__, "--mark", stage.mark, *options)
        for name in ("good", "bad")
    }
    bridge = stage.http_bridge(servers)
    client = bridge.client(**OPTIONS)
    client.wait_for_tools("bad__ask", "good__ask")
    words = "\x1b[2J[server good asks:] your\npassword\u202e"
    future = client.submit("bad__ask", {"label": "x", "rounds": [[["form", words]]]}).id
    asked, _ = dialog(client, future, "no")
    assert asked == ["[server bad asks:] [server good asks:] your\npassword\\u202e"]


def test_a_call_that_asks_for_ever_is_given_up(stage: Stage):
    """Its client answers all the time; after 1,000 questions the call fails, and the next one is asked."""
    bench = Bench(stage, HANDSHAKE, "handshake")
    future = bench.client.ask(*[[("form", str(number))] for number in range(5_000)], label="long")
    assert "asked more than 1000 times, so the call was ended" in text_of(bench.client.outcome(future))
    assert len(bench.client.asked) == 1000
    assert bench.noted("cancelled", "long")
    again = bench.client.ask([("form", "again")], label="again")
    assert json.loads(text_of(bench.client.outcome(again)))["answers"][0][0]["content"]["name"].endswith("again")


@pytest.mark.parametrize("questions", [500, pytest.param(5_000, marks=pytest.mark.attacks_long)])
def test_a_call_that_asks_everything_at_once_stalls_nobody(stage: Stage, questions: int):
    """32 of its questions are open, the others are refused at once."""
    bench = Bench(stage, HANDSHAKE, "handshake")
    bench.client.reply = None
    quiet = hostile.baseline(bench.client)
    with hostile.pulse(bench.client) as measured:
        future = bench.client.ask([("form", str(number)) for number in range(questions)], label="many")
        outcome = bench.client.outcome(future)
    assert "32 questions of this call are open" in text_of(outcome)
    assert len(bench.client.asked) <= 32
    hostile.assert_steady(measured, quiet, room_s=3)
