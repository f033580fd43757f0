"""Expressions in references, as clients of each era send them over each transport; none holds up other calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import hostile
from tests.support.client import HANDSHAKE, MODERN, text_of
from tests.support.stage import Stage

FLIGHTS = [{"id": "A", "price": 168}, {"id": "B", "price": 99.5}, {"id": "C", "price": 120}]


@pytest.fixture(scope="module", params=["stdio", "http"])
def bridge(request: pytest.FixtureRequest, shared_stage: Stage) -> Any:
    """A bridge over one of the transports."""
    entry = {"toy": {**shared_stage.toy(), "asyncfc": {"prefix": ""}}}
    if request.param == "http":
        return shared_stage.http_bridge(entry)
    return entry


@pytest.fixture(params=[HANDSHAKE, MODERN])
def client(request: pytest.FixtureRequest, bridge: Any, shared_stage: Stage) -> Iterator[Any]:
    """A client of one of the eras."""
    if isinstance(bridge, dict):
        opened = shared_stage.bridge(bridge, era=request.param)
    else:
        opened = bridge.client(era=request.param)
    try:
        opened.wait_for_tools("echo")
        yield opened
    finally:
        opened.close()


def echoed(client: Any, text: Any, **more: Any) -> Any:
    """The text that the tool got; it is sent and awaited as a model would."""
    result = client.outcome(client.submit("echo", {"text": text, **more}).id)
    assert not result.get("isError"), text_of(result)
    return json.loads(text_of(result))["text"]


def test_a_call_picks_and_computes_with_what_another_gives(client: Any) -> None:
    """In one turn: whole arguments, inside text, in the object form, and over several futures."""
    name = f"flights{time.monotonic_ns()}"
    client.submit("echo", {"text": "x", "flights": FLIGHTS, "_as": name})
    assert echoed(client, f"${name}.arguments.flights | min_by(@, &price).id") == "B"
    assert echoed(client, f"length(${name}.arguments.flights)") == "3"
    assert echoed(client, f"Take ${{f:{name}.arguments.flights[?price > 150] | [0].id}}!") == "Take A!"
    path = "arguments.flights[*].price | round(sum(@), 1)"
    assert echoed(client, {"$future": name, "path": path}) == "387.5"
    assert echoed(client, f"sub(400, sum(${name}.arguments.flights[*].price))") == "12.5"
    assert echoed(client, f"$${name}.arguments | keys(@)") == f"${name}.arguments | keys(@)"
    assert echoed(client, "$HOME | grep x") == "$HOME | grep x"


def test_a_call_fails_unsent_where_a_key_is_missing_or_the_expression_is_wrong(client: Any) -> None:
    """With the keys that exist, or with the position."""
    name = f"flights{time.monotonic_ns()}"
    client.submit("echo", {"text": "x", "flights": FLIGHTS, "_as": name})
    for written, words in (
        (f"${name}.arguments.flights | min_by(@, &prize).id", 'no element has prize; the first has the keys "id"'),
        (f"${name}.arguments.flihgts[0]", 'arguments has the keys "text", "flights"'),
        (f"${name}.arguments.flights[?id = 'A']", "a comparison is written =="),
    ):
        handle = client.submit("echo", {"text": written})
        result = client.outcome(handle.id)
        assert result.get("isError")
        assert words in text_of(result)
        assert "not sent" in text_of(result)


def test_no_expression_holds_up_others(shared_stage: Stage) -> None:
    """While 20,000 rows are sorted, joined and nested, a ping is answered at once."""
    wire = shared_stage.bridge({"toy": {**shared_stage.toy(), "asyncfc": {"prefix": ""}}})
    wire.wait_for_tools("echo")
    rows = [{"id": n, "price": n * 7919 % 20_011, "name": f"row {n}"} for n in range(20_000)]
    wire.call("echo", {"text": "x", "rows": rows, "_as": "big", "_wait": "this"})
    quiet_s = hostile.baseline(wire)
    with hostile.pulse(wire) as measured:
        ids = [
            wire.submit("echo", {"text": f"$big.arguments.rows | {rest}"}).id
            for rest in (
                "sort_by(@, &name)[*].id | [0]",
                "map(&sort_by(@, &price), [@, @, @, @]) | [0] | [0].id",
                "[*].[id, price, [id, price, [name]]][] | length(@)",
                "[*].name | join(',', @) | length(@)",
                "[@, @] | [@, @] | [@, @] | [@, @] | [@, @] | [@, @] | [@, @]",
                "[?contains(name, '99')].id | sum(@)",
                "to_string(@) | length(@)",
            )
        ]
        for future in ids:
            text = text_of(wire.outcome(future))
            assert len(text) < 2000
    hostile.assert_steady(measured, quiet_s)
