"""Rules of a loss of the daemon, without one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncfc_mcp.thin.conversation import MOST_SENT_AGAIN, REPEATABLE, Conversation, Sent
from asyncfc_mcp.thin.messages import of_daemon, of_host


def sent(conversation: Conversation, method: str, request_id: int | str = 1, **params: Any) -> Sent:
    line = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode() + b"\n"
    return conversation.request(of_host(line), line)


@pytest.mark.parametrize("method", ["tools/call", "resources/read", "prompts/get", "tasks/cancel", "x/y"])
def test_what_may_have_an_effect_is_sent_once(method: str):
    """Unless the daemon has certainly not received it."""
    conversation = Conversation()
    request = sent(conversation, method, name="write")
    assert conversation.lost({request}).again == [request]
    loss = conversation.lost(set())
    assert not loss.again
    (answer,) = map(json.loads, loss.to_host)
    assert answer["id"] == 1
    assert ("result" in answer) is (method == "tools/call")
    assert not conversation.lost(set()).to_host


@pytest.mark.parametrize("method", sorted(REPEATABLE))
def test_what_has_none_is_sent_again_but_not_for_ever(method: str):
    """It may be the reason for the end of every daemon that gets it."""
    conversation = Conversation()
    request = sent(conversation, method)
    for _ in range(MOST_SENT_AGAIN):
        assert conversation.lost(set()).again == [request]
    assert not conversation.lost(set()).again
    assert not conversation.waits


def test_a_daemon_that_lives_on_is_no_reason_to_give_a_request_up():
    """A stream of notifications is open for weeks."""
    conversation = Conversation()
    request = sent(conversation, "subscriptions/listen")
    for _ in range(3 * MOST_SENT_AGAIN):
        conversation.settled()
        assert conversation.lost(set()).again == [request]


def test_a_request_that_was_cancelled_has_no_answer():
    """Neither from a daemon nor from us."""
    conversation = Conversation()
    sent(conversation, "tools/call", "a", name="write")
    conversation.cancelled(of_host(b'{"method":"notifications/cancelled","params":{"requestId":"a"}}'))
    assert conversation.lost(set()) == ([], [])


def test_an_answer_to_a_daemon_that_has_ended_is_dropped_once():
    """The next one may ask with the same ID."""
    conversation = Conversation()
    question, answer = b'{"jsonrpc":"2.0","id":3,"method":"roots/list"}', of_host(b'{"id":3,"result":{}}')
    conversation.from_daemon(of_daemon(question), question)
    assert len(conversation.lost(set()).to_host) == 1
    assert not conversation.answered_by_host(answer)
    conversation.from_daemon(of_daemon(question), question)
    assert conversation.answered_by_host(answer)
