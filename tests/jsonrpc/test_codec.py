"""Servers' mistakes: each costs its own call at most, and none where a client that people use accepts it.

Each case names the clients that accept it: `Python` is the Python SDK (1.30 and 2.3) and `TypeScript` the TypeScript
SDK (1.32), both tried over stdio against a server that does this; `Go` is the Go SDK, by its source; `httpx` and
`fetch` are what reads HTTP bodies in the first two. An answer that no client accepts is waited for until the client
gives up; here its call fails.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import Doubtful, MalformedMessage, Message, format_message, parse_from_server
from asyncfc_mcp.protocol import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR

RESULT = {"content": [{"type": "text", "text": "ok"}]}
OK = b'{"content":[{"type":"text","text":"ok"}]}'
HEAD = b'{"jsonrpc":"2.0","id":7,'


def answer(rest: bytes) -> bytes:
    return HEAD + rest + b"}"


def error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    return {"code": code, "message": message} | ({} if data is None else {"data": data})


ACCEPTED = {
    "a byte order mark (fetch, httpx)": (b"\xef\xbb\xbf" + answer(b'"result":' + OK), RESULT),
    "an ID as a float (TypeScript)": (b'{"jsonrpc":"2.0","id":7.0,"result":' + OK + b"}", RESULT),
    "an ID with an exponent (TypeScript)": (b'{"jsonrpc":"2.0","id":7e0,"result":' + OK + b"}", RESULT),
    "an ID as a string (Python, TypeScript)": (b'{"jsonrpc":"2.0","id":"7","result":' + OK + b"}", RESULT),
    "a carriage return (Python, TypeScript, Go)": (answer(b'"result":' + OK) + b"\r", RESULT),
    "a null error beside a result (Python)": (answer(b'"error":null,"result":' + OK), RESULT),
    "a null method beside a result (Python)": (answer(b'"method":null,"params":null,"result":' + OK), RESULT),
    "a batch (Go; 2025-03-26)": (b"[" + answer(b'"result":' + OK) + b"]", RESULT),
    "several lines (Go)": (json.dumps({"jsonrpc": "2.0", "id": 7, "result": RESULT}, indent=2).encode(), RESULT),
    "a key twice, of which the last counts (Python, TypeScript)": (
        b'{"jsonrpc":"2.0","id":9,"id":7,"result":' + OK + b"}",
        RESULT,
    ),
    "NaN and Infinity (Python)": (answer(b'"result":{"n":[NaN,Infinity,-Infinity,1]}'), {"n": [None, None, None, 1]}),
    "a Latin-1 byte (TypeScript)": (answer(b'"result":{"t":"caf\xe9"}'), {"t": "caf\N{REPLACEMENT CHARACTER}"}),
    "half a surrogate pair (TypeScript)": (answer(b'"result":{"t":"a\\ud83dz"}'), {"t": "a\ud83dz"}),
    "content as text (passed on; Python and TypeScript judge it)": (
        answer(b'"result":{"content":"ok"}'),
        {"content": "ok"},
    ),
    "no content (TypeScript)": (answer(b'"result":{}'), {}),
    "a raw tab in a text (none)": (answer(b'"result":{"t":"a\tb"}'), {"t": "a\tb"}),
}
REFUSED = {
    "a code as a float (Python, TypeScript)": (b'"error":{"code":-32603.0,"message":"m"}', error(-32603, "m")),
    "an error beside a null result (Python)": (b'"result":null,"error":{"code":-5,"message":"m"}', error(-5, "m")),
    "an error beside a result (Python)": (b'"result":{},"error":{"code":-5,"message":"m"}', error(-5, "m")),
    "a code as a number in a string": (b'"error":{"code":"-5","message":"m"}', error(-5, "m")),
    "a code as a word": (
        b'"error":{"code":"E42","message":"m","data":1}',
        error(INTERNAL_ERROR, "m", {"code": "E42", "message": "m", "data": 1}),
    ),
    "a code between two numbers": (
        b'"error":{"code":1.5,"message":"m"}',
        error(INTERNAL_ERROR, "m", {"code": 1.5, "message": "m"}),
    ),
    "no code": (b'"error":{"message":"m"}', error(INTERNAL_ERROR, "m", {"message": "m"})),
    "a null message": (b'"error":{"code":-5,"message":null,"data":[1]}', error(-5, "no reason given", [1])),
    "an object as message": (b'"error":{"code":-5,"message":{"a":[1]}}', error(-5, '{"a":[1]}')),
    "an error as text": (b'"error":"went wrong"', error(INTERNAL_ERROR, "went wrong")),
    "an error as a list": (b'"error":["went","wrong"]', error(INTERNAL_ERROR, '["went","wrong"]')),
    "a result as text": (b'"result":"text"', error(INVALID_REQUEST, "Invalid answer: result must be an object")),
    "a null result": (b'"result":null', error(INVALID_REQUEST, "Invalid answer: result must be an object")),
    "neither": (b'"result":null,"error":null', error(INVALID_REQUEST, "Invalid answer: result must be an object")),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_a_client_accepts_is_accepted(case: str):
    """The result, and under the ID of the request."""
    data, result = ACCEPTED[case]
    [message] = parse_from_server(data)
    assert isinstance(message, dict)
    assert str(message["id"]) == "7"
    assert message["result"] == result
    assert message.get("error") is None


@pytest.mark.parametrize("case", REFUSED)
def test_an_answer_that_fails_keeps_the_servers_words(case: str):
    """As an error that every client can read, with what the server said in it."""
    rest, expected = REFUSED[case]
    [message] = parse_from_server(answer(rest))
    assert isinstance(message, dict)
    assert message["id"] == 7
    assert message["error"] == expected


@pytest.mark.parametrize("version", [b"", b'"jsonrpc":"1.0",', b'"jsonrpc":2.0,'])
def test_an_answer_of_another_version_fails_its_call(version: bytes):
    """No client accepts it, and all wait for it; its call fails at once."""
    [message] = parse_from_server(b"{" + version + b'"id":7,"result":{}}')
    assert isinstance(message, dict)
    assert message["error"] == error(INVALID_REQUEST, 'Invalid answer: "jsonrpc" must be "2.0"')


@pytest.mark.parametrize("depth", [250, 900])
def test_deep_results_are_read_and_written(depth: int):
    """As the TypeScript SDK does; the Python SDK refuses them."""
    data = answer(b'"result":{"x":' + b"[" * depth + b"1" + b"]" * depth + b"}")
    [message] = parse_from_server(data)
    assert isinstance(message, dict)
    assert format_message(message) == data + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(answer(b'"result":{"a":1,}'), id="a trailing comma"),
        pytest.param(answer(b'"result":{"a":1'), id="cut off"),
        pytest.param(answer(b'"result":{"x":' + b"[" * 3000 + b"]" * 3000 + b"}"), id="3,000 levels"),
        pytest.param(b'{"id":7,"jsonrpc":"2.0","error":{', id="ID first"),
        pytest.param(b'{"result":{"a":1,},"jsonrpc":"2.0","id":7}', id="ID last, as TypeScript servers write"),
        pytest.param(b'\xef\xbb\xbf { "jsonrpc" : "2.0" , "id" : 7.0 , "result" : nothing }', id="spaces"),
    ],
)
def test_an_answer_that_is_no_json_fails_its_call(data: bytes):
    """Where the ID stands at one of the two ends; doubtful, since it may be a copy in debug output."""
    [refused] = parse_from_server(data)
    assert isinstance(refused, MalformedMessage)
    assert isinstance(refused.ends, Doubtful)
    assert refused.ends["id"] == 7
    assert refused.ends["error"]["code"] == PARSE_ERROR


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'DEBUG {"jsonrpc":"2.0","id":7,"result":{}}', id="debug output"),
        pytest.param(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{', id="a request"),
        pytest.param(b'{"jsonrpc":"2.0","result":{"id":7,"b', id="an ID in the result"),
        pytest.param(b'{"jsonrpc":"2.0","result":{"a":{},"id":7}', id="an ID at the end of the result"),
        pytest.param(b'{"id":7,"name":"x","result":', id="an object with an ID"),
        pytest.param(b'{"jsonrpc":"2.0","id":[7],"result":{', id="an ID that is none"),
    ],
)
def test_a_broken_line_ends_no_request_that_it_may_not_be_about(data: bytes):
    """The number of another call may stand anywhere in it."""
    [refused] = parse_from_server(data)
    assert isinstance(refused, MalformedMessage)
    assert refused.ends is None


def test_messages_that_were_written_into_one_line_are_each_read():
    """As threads of a server do that print a text and its line end separately."""
    first, second = {"jsonrpc": "2.0", "id": 1, "result": {}}, {"jsonrpc": "2.0", "id": 2, "result": {"a": 1}}
    assert parse_from_server(json.dumps(first).encode() + json.dumps(second).encode()) == [first, second]


def test_what_is_wrong_in_a_batch_costs_the_rest_nothing():
    """Entries that are no messages are reported, the others read."""
    good = {"jsonrpc": "2.0", "id": 1, "result": {}}
    read = parse_from_server(json.dumps([7, good, {"jsonrpc": "2.0", "id": 2.0, "result": None}]).encode())
    assert isinstance(read[0], MalformedMessage)
    assert read[1] == good
    assert isinstance(read[2], dict)
    assert (read[2]["id"], "error" in read[2]) == (2, True)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_mutated_answer_ends_at_most_its_own_request(data: st.DataObject):
    """Bytes changed, cut out or put in anywhere but in the ID: nothing is read that names another request."""
    result = data.draw(
        st.dictionaries(st.sampled_from(["id", "result", "error", "a"]), st.integers(1, 9) | st.text(max_size=5))
    )
    whole: Message = {"jsonrpc": "2.0", "id": 4711, "result": {"inner": result, "list": [{"id": 12}, {}]}}
    line = bytearray(json.dumps(whole, ensure_ascii=False).encode(errors="surrogatepass"))
    first = line.index(b"4711") + 4
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(first, len(line)))
        match data.draw(st.sampled_from("cut change insert".split())):
            case "cut":
                del line[at : at + data.draw(st.integers(1, 9))]
            case "change" if at < len(line):
                line[at] = data.draw(st.sampled_from(b'{}[],:"\\ \x00\xff\n5'))
            case _:
                line[at:at] = data.draw(st.sampled_from([b"}", b'"', b"\n", b"NaN", b"\xc3", b"{", b",", b"null"]))
    if bytes(line[:first]).endswith(b"4711") and line[first : first + 1].isdigit():
        return  # another ID
    for each in parse_from_server(bytes(line)):
        about = each.ends if isinstance(each, MalformedMessage) else each
        assert about is None or about["id"] in (4711, None)
