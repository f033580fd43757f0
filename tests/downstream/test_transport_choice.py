"""The other HTTP transport is tried once where a refusal may mean that the server speaks only that one."""

import pytest

from asyncfc_mcp.downstream.transport_choice import TransportChoice
from asyncfc_mcp.errors import HttpRefused, TransportFailure

REFUSED = HttpRefused(405, "Method Not Allowed")


def test_a_process_has_no_other_transport():
    choice = TransportChoice(None)
    assert not choice.remote
    assert not choice.switch(REFUSED, "no")


@pytest.mark.parametrize(
    "exc", [HttpRefused(401, "Unauthorized"), TransportFailure("closed the connection"), OSError()]
)
def test_other_failures_keep_the_transport(exc: Exception):
    choice = TransportChoice("http")
    assert not choice.switch(exc, "why")
    assert choice.kind == "http"
    assert choice.take_reason("why") == "why"


@pytest.mark.parametrize(("kind", "other"), [("http", "sse"), ("sse", "http")])
def test_a_refusal_switches_once(kind: str, other: str):
    """Where both are refused, the configured one is next, and its reason is the one that users read."""
    choice = TransportChoice(kind)  # type: ignore[arg-type]
    assert choice.switch(REFUSED, "first")
    assert choice.kind == other
    assert not choice.switch(TransportFailure("broke"), "second")
    assert choice.kind == kind
    assert choice.take_reason("second") == "first"
    assert choice.take_reason("third") == "third", "given once"


def test_a_transport_that_works_is_kept():
    """A later failure is about that one."""
    choice = TransportChoice("http")
    assert choice.switch(REFUSED, "first")
    choice.confirm()
    assert choice.take_reason("later") == "later"
    assert choice.kind == "sse"
