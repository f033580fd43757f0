"""Futures named without number: in references, in `_wait`, in the bridge's own tools. Reading them stalls nobody."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from tests.support import hostile
from tests.support.stage import Stage

Json = dict[str, Any]
MANY = 200_000

TEXTS = {
    "unknown": "${f:zz}" * 1_000_000,
    "known": "${f:one}" * 1_000_000,
    "unclosed": "${f:" * 2_000_000,
    "path": "$one" + ".a" * 2_000_000,
    "indices": "$one" + "[0]" * 2_000_000,
    "braced-path": "${f:one" + ".a" * 2_000_000 + "}",
    "quoted": "${f:one['" * 1_000_000,
    "dollars": "$" * 5_000_000,
}
"""Text in arguments; `known` took 58 s for a future of 10 MB, and `indices` 16 s."""
WAITED: dict[str, object] = {
    "ids": [f"f{10**6 + n}" for n in range(MANY)],
    "names": [f"n{n}" for n in range(MANY)],
    "text": "a " * 2_000_000,
    "json": "[" * 2_000_000,
}
"""Values of `_wait` and the like; 4 to 8 s."""
OWN = {
    "await_future": lambda value: ("await_future", {"future_id": value}),
    "gather": lambda value: ("gather", {"future_ids": value}),
    "_wait": lambda value: ("bad__give", {"_wait": value}),
}


def steady(stage: Stage, name: str, arguments: Json) -> Json:
    """The answer to a call during which others are answered."""
    path = hostile.listing(stage.folder, [hostile.tool("give"), hostile.tool("many")])
    entry = stage.entry(sys.executable, hostile.__file__, path, stage.mark)
    bridge = stage.http_bridge({"bad": entry}, forward_wait_ms=20)
    client, other = bridge.client(), bridge.client()
    client.wait_for_tools("bad__give")
    client.call("bad__many", {"count": 1000, "_as": "one", "_wait": "this"})
    quiet = hostile.baseline(other)
    with hostile.pulse(other) as measured:
        started = time.monotonic()
        answer = client.call(name, arguments)
        took = time.monotonic() - started
    print(f"{took:.2f} s, {measured.longest:.3f} s without an answer")
    hostile.assert_steady(measured, quiet)
    return answer


@pytest.mark.parametrize("kind", TEXTS)
def test_text_with_references_without_number(stage: Stage, kind: str) -> None:
    """It is passed on as it is, or refused."""
    steady(stage, "bad__give", {"text": TEXTS[kind]})


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("kind", WAITED)
def test_futures_without_number_are_not_waited_for(stage: Stage, kind: str, own: str) -> None:
    """The answer says that there are too many, or what is unknown."""
    steady(stage, *OWN[own](WAITED[kind]))
