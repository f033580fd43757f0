"""Names of two callers with one token are never mistaken for each other."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import hostile
from tests.support.client import HANDSHAKE, MODERN, Json, RpcError, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

SERVER = hostile.__file__
PAIRS: dict[str, tuple[Json, Json]] = {
    "sessions": ({"era": HANDSHAKE}, {"era": HANDSHAKE}),
    "conversations": ({"era": MODERN, "conversation": "a"}, {"era": MODERN, "conversation": "b"}),
    "conversations in sessions": (
        {"era": HANDSHAKE, "conversation": "a"},
        {"era": HANDSHAKE, "conversation": "b"},
    ),
    "names of clients": ({"era": MODERN, "name": "one"}, {"era": MODERN, "name": "two"}),
    "eras": ({"era": HANDSHAKE}, {"era": MODERN}),
}


def serve(stage: Stage) -> HttpBridge:
    tools = [hostile.tool("give"), hostile.tool("take", {"type": "object", "properties": {"text": {"type": "string"}}})]
    path = hostile.listing(stage.folder, tools)
    return stage.http_bridge({"s": stage.entry(sys.executable, SERVER, path, stage.mark)})


def given(client: HttpWire, future: str) -> Any:
    return client.outcome(future)["structuredContent"]


def name(client: HttpWire, page: str) -> str:
    """The ID of an ended call that this client named `doc`."""
    future = client.submit("s__give", {"page": page, "_as": "doc"}).id
    client.outcome(future)
    return future


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_each_caller_has_its_own(stage: Stage, pair: tuple[Json, Json]):
    """In references, lists of `_wait`, await, gather, cancel and resources."""
    bridge = serve(stage)
    clients = [bridge.client(**options) for options in pair]
    clients[0].wait_for_tools("s__give")
    ids = [name(client, page) for client, page in zip(clients, ("mine", "yours"), strict=True)]
    for client, own, page in zip(clients, ids, ("mine", "yours"), strict=True):
        assert given(client, client.submit("s__take", {"text": "$doc.page"}).id) == {"text": page}
        assert given(client, client.submit("s__take", {"text": "so ${f:doc.page}"}).id) == {"text": f"so {page}"}
        assert given(client, "doc") == {"page": page}
        assert f"{own} (doc)" in text_of(client.gather(["doc"]))
        assert f"{own} (doc)" in text_of(client.call("s__give", {"_wait": "doc"}))
        assert own in text_of(client.call("cancel_future", {"future_id": "doc"}))
        assert page in str(client.request("resources/read", {"uri": "future://doc"}))


def test_a_burst_waits_for_its_own_name(stage: Stage):
    """A reference that arrives before the call that it means does not take what another session named so."""
    bridge = serve(stage)
    one, two = bridge.client(), bridge.client()
    one.wait_for_tools("s__give")
    name(one, "not yours")
    with ThreadPoolExecutor(2) as pool:
        taking = pool.submit(two.submit, "s__take", {"text": "$doc.page"})
        giving = pool.submit(two.submit, "s__give", {"page": "own", "_as": "doc"})
        giving.result()
        taken = taking.result()
    assert given(two, taken.id) == {"text": "own"}


@pytest.mark.parametrize("escaped", ["$$doc", "$${f:doc} as text"])
def test_a_name_of_another_session_is_refused_and_text_can_be_meant(stage: Stage, escaped: str):
    """A reference to it says whose it is; reading it by name is possible; escaped it is text."""
    bridge = serve(stage)
    one, two = bridge.client(), bridge.client()
    one.wait_for_tools("s__give")
    held = name(one, "not yours")
    refused = two.call("s__take", {"text": "$doc.page"})
    assert refused["isError"]
    assert held in text_of(refused)
    assert given(two, two.submit("s__take", {"text": escaped}).id) == {"text": escaped[1:]}
    assert given(two, "doc") == {"page": "not yours"}
    one.close()
    assert given(two, two.submit("s__take", {"text": "$doc.page"}).id) == {"text": "not yours"}


def test_stateless_clients_of_one_name_are_told_that_a_name_is_ambiguous(stage: Stage):
    """Every use has both IDs: nobody can tell who gave the name the second time."""
    bridge = serve(stage)
    one, two = (bridge.client(era=MODERN) for _ in range(2))
    one.wait_for_tools("s__give")
    first = name(one, "mine")
    assert given(one, "doc") == {"page": "mine"}
    second = name(two, "yours")
    uses: list[tuple[str, Json]] = [
        ("s__take", {"text": "$doc.page"}),
        ("s__take", {"text": "so ${f:doc.page}"}),
        ("s__give", {"_wait": "doc"}),
        ("await_future", {"future_id": "doc"}),
        ("gather", {"future_ids": ["doc"]}),
        ("cancel_future", {"future_id": "doc"}),
    ]
    for client in (one, two):
        for tool, arguments in uses:
            answer = client.call(tool, arguments)
            assert answer["isError"], (tool, arguments)
            assert first in text_of(answer)
            assert second in text_of(answer)
        with pytest.raises(RpcError, match=f"{first} and {second}"):
            client.request("resources/read", {"uri": "future://doc"})
        assert given(client, client.submit("s__take", {"text": f"${first}.page"}).id) == {"text": "mine"}
        assert given(client, client.submit("s__take", {"text": "$$doc"}).id) == {"text": "$doc"}


def test_a_new_session_finds_the_name_of_an_ended_one(stage: Stage):
    """Clients open a session for each call, or reconnect; where two ended ones gave the name, both IDs are said."""
    bridge = serve(stage)
    ids: list[str] = []
    for page in ("first", "second"):
        client = bridge.client()
        client.wait_for_tools("s__give")
        ids.append(name(client, page))
        client.close()
        later = bridge.client()
        if page == "first":
            assert given(later, later.submit("s__take", {"text": "$doc.page"}).id) == {"text": "first"}
            assert given(later, "doc") == {"page": "first"}
        else:
            for tool, arguments in (("s__take", {"text": "$doc.page"}), ("await_future", {"future_id": "doc"})):
                assert f"{ids[0]} and {ids[1]}" in text_of(later.call(tool, arguments))
