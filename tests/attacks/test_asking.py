"""A question of a server is put to the client whose call raised it, or to nobody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import asking_server
import pytest
from e2e.harness import MODERN, HttpWire, Json, Stage, text_of

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
