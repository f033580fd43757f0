"""One message as bytes: what is written is read again, and what is no message is refused with the right code."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import MalformedMessage, Message, format_message, parse_message
from asyncfc_mcp.protocol import INVALID_REQUEST, PARSE_ERROR
from tests.support.json_values import JSON, MESSAGES, nested


@given(MESSAGES)
@example({"jsonrpc": "2.0", "id": 1, "result": {"\ud800": "\udfff and \u2028", "n": 2**70, "f": 1e-7, "z": -0.0}})
@example({"jsonrpc": "2.0", "id": "", "result": {"unknown": [None, {}, [], ""]}})
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_again(message: Message):
    """One line for each message, whatever text and numbers it carries, unknown members included."""
    line = format_message(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    again = parse_message(line)
    assert again == message
    assert json.dumps(again) == json.dumps(message)  # 1 is not 1.0, and -0.0 not 0


def test_text_is_written_as_it_is():
    """No escapes where none are needed: they would double what a model's provider counts and what is sent."""
    line = format_message({"jsonrpc": "2.0", "method": "Grüße, 世界 🌍"})
    assert line == '{"jsonrpc":"2.0","method":"Grüße, 世界 🌍"}\n'.encode()


def test_whatever_was_nested_shallowly_enough_to_be_read_can_be_written():
    """Even deeper in the program, and inside of an answer that wraps it: an answer must not end the connection."""
    deepest = 0
    for depth in range(0, 4000, 10):
        body = b'{"jsonrpc":"2.0","id":1,"result":{"value":' + b"[" * depth + b'"core"' + b"]" * depth + b"}}"
        try:
            parsed = parse_message(body)
        except MalformedMessage:
            break
        deepest = depth
    else:
        pytest.fail("the reader has no limit to test against")
    parsed = nested(deepest)
    wrapped = {**parsed, "result": {"results": [{"result": parsed["result"]}]}}

    def deeper(frames: int) -> bytes:
        return deeper(frames - 1) if frames else format_message(wrapped)

    line = deeper(100)
    assert line.count(b"[") == deepest + 1
    assert line.endswith(b'"core"' + b"]" * deepest + b"}}]}}\n")


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_beyond_double_precision_stays_json(number: str):
    """Python reads it as infinity, for which JSON has no word; a line that says so would end the connection."""
    line = format_message(parse_message(b'{"jsonrpc":"2.0","id":1,"result":{"n":[%s,"Infinity"]}}' % number.encode()))

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    assert json.loads(line, parse_constant=refuse)["result"] == {"n": [float(number), "Infinity"]}


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"Loading model... 100%", PARSE_ERROR, None),
        (b'{"half": ', PARSE_ERROR, None),
        (b"\xff\xfe\x00 not UTF-8", PARSE_ERROR, None),
        (b' \xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":NaN}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":Infinity}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":' + b"9" * 5000 + b"}}", PARSE_ERROR, None),
        (b"[" * 100_000, PARSE_ERROR, None),
        (b"7", INVALID_REQUEST, None),
        (b"null", INVALID_REQUEST, None),
        (b"[]", INVALID_REQUEST, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', INVALID_REQUEST, None),
        (b"{}", INVALID_REQUEST, None),
        (b'{"id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":"1.0","id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":2.0,"id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":"2.0"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":"a"}', INVALID_REQUEST, "a"),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":null}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":null,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1,"result":"text"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"result":null}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":"text"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"message":"no code"}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"m"}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":null}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"},"result":{}}', INVALID_REQUEST, 1),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
def test_what_is_no_message_gets_the_code_and_the_id_of_its_answer(line: bytes, code: int, request_id: object):
    """-32700 for what is not JSON, -32600 for JSON that is no JSON-RPC; the ID is answered where there is one."""
    with pytest.raises(MalformedMessage) as caught:
        parse_message(line)
    assert caught.value.code == code
    assert caught.value.request_id == request_id
    assert type(caught.value.request_id) is type(request_id)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_no_line_raises_anything_but_malformed_message(line: bytes):
    """Whatever a server prints."""
    try:
        message = parse_message(line)
    except MalformedMessage:
        return
    assert message["jsonrpc"] == "2.0"
