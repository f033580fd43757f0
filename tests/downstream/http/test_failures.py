"""Reasons in words for requests over HTTP that failed."""

import socket
from datetime import UTC, datetime

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import encode_header_value

from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.downstream.http import sse
from asyncfc_mcp.downstream.http.client import HttpClient, is_loopback, same_origin
from asyncfc_mcp.downstream.http.failures import (
    first_text,
    redirected,
    refusal,
    retry_after,
    session_gone,
    transport_failure,
)
from asyncfc_mcp.downstream.http.mirrored_headers import header_value
from asyncfc_mcp.errors import RpcError, TransportFailure

SECRET = "s3cr3t-value"
URL = f"https://user:{SECRET}@host.example/mcp?token={SECRET}"


@pytest.mark.parametrize(
    "exc", [kind for kind in vars(httpx2).values() if isinstance(kind, type) and issubclass(kind, httpx2.RequestError)]
)
@pytest.mark.parametrize("answered", [False, True])
def test_no_reason_has_text_of_the_library(exc: type[httpx2.RequestError], answered: bool):
    """Whatever it quotes: header values, URLs. Nor is a class name a reason."""
    why = transport_failure(
        exc(f"Illegal header value b'{SECRET}'"), URL, answered=answered, connect_s=30, proxied=False
    )
    assert SECRET not in why.message
    assert exc.__name__ not in why.message
    assert " " in why.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"plain\n text", "plain text"),
        (b'{"error": "a", "error_description": "b"}', "a: b"),
        (b'{"error": {"code": 1, "message": "inner"}}', "inner"),
        (b'{"detail": [{"message": "field"}]}', "field"),
        (b'["first", "second"]', "first"),
        (b'{"other": 1}', '{"other": 1}'),
        (b"{broken", "{broken"),
        (b'\xef\xbb\xbf{"message": "bom"}', "bom"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"<html><head><title>T &amp; U</title><style>x{}</style></head><p>Body</p><script>no</script>", "T & U. Body"),
        (b"", ""),
    ],
)
def test_the_first_text_of_an_error_page(body: bytes, said: str):
    """The message of JSON in its usual forms, and the words of HTML."""
    assert first_text(body) == said


def test_what_is_quoted_is_bounded_and_has_no_secrets():
    """One line, and neither header values nor control characters."""
    body = f"no\r\n\x1b[2J {SECRET} https://h/p?token=other#x {'y' * 1000}".encode()
    text = refusal(400, {}, body, [SECRET]).message
    assert text.startswith("answered HTTP 400 Bad Request: no … https://h/p")
    assert "token" not in text
    assert len(text) < 240
    assert text.isprintable()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 1.5 ", 1.5),
        ("Thu, 26 Nov 2026 12:00:30 GMT", 30),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None):
    assert retry_after(value, datetime(2026, 11, 26, 12, tzinfo=UTC)) == seconds


def test_a_redirect_that_is_not_followed_is_named_without_its_query():
    """Where to, so that it can be set; and nothing that may be a token."""
    assert SECRET not in redirected(302, URL, f"https://u:{SECRET}@other.example/x?code={SECRET}").message
    assert "give up TLS" in redirected(307, URL, "http://host.example/mcp").message


@pytest.mark.parametrize(
    ("status", "body", "code", "has_session", "gone"),
    [
        (404, b"", None, True, True),
        (404, b"no such page", None, False, False),
        (404, b"", -32601, True, False),
        (400, b"No valid session ID provided", None, False, True),
        (400, b"Mcp-Session-Id header is required", None, False, True),
        (400, b"Bad Request: Missing session ID", None, True, True),
        (400, b"No transport found for sessionId", None, True, True),
        (404, b"Could not find session", None, False, True),
        (400, b"bad city", None, True, False),
        (403, b"invalid session", None, True, False),
        (500, b"session not found", None, True, False),
        (400, b"browser session not found", -32602, True, False),
        (400, b"Session expired", -32000, True, True),
        (400, b"Session expired", -32000, False, False),
        (400, b"Invalid or expired session", None, True, True),
        (401, b"Unauthorized: Session not found", None, True, True),
        (422, b"Unexpected message, expect initialize request", None, True, True),
        (400, b"Bad Request: Server not initialized", -32000, False, True),
        (404, b"Session 1f2e-3d not found", -32001, True, True),
        (400, b"Browser session expired while saving; 1 of 2 rows written", -32000, True, False),
        (400, b"tmux session not found", None, True, False),
        (400, b"Could not save: no valid session of the database", -32000, True, False),
    ],
)
def test_what_says_that_a_session_is_gone(status: int, body: bytes, code: int | None, has_session: bool, gone: bool):
    """A status and words before anything was processed; not an answer of a tool."""
    errors = [] if code is None else [RpcError(code, body.decode())]
    assert session_gone(status, body, errors, has_session=has_session) is gone


@given(st.text())
def test_names_are_written_in_headers_as_the_sdk_does(text: str):
    """Servers compare them with the body."""
    try:
        expected = encode_header_value(text)
    except UnicodeEncodeError:
        with pytest.raises(RpcError):
            header_value(text)
    else:
        assert header_value(text) == expected


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {SECRET}\r\nX: y"}, {f"bad name {SECRET[:3]}": "x"}])
def test_a_header_that_cannot_be_sent_is_named_without_its_value(headers: dict[str, str]):
    with pytest.raises(TransportFailure) as caught:
        HttpClient(HttpSpec("http://h/mcp", headers))
    assert SECRET not in str(caught.value)
    assert next(iter(headers)) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1/", True),
        ("http://LOCALHOST./", True),
        ("http://app.localhost/", True),
        ("http://127.9.9.9/", True),
        ("http://[::1]:8/", True),
        ("http://[::ffff:127.0.0.1]/", True),
        ("http://localhost.example/", False),
        ("http://10.0.0.1/", False),
        ("http://0x7f.1/", False),
    ],
)
def test_which_hosts_are_this_machine(url: str, loopback: bool):
    assert is_loopback(url) is loopback


@pytest.mark.parametrize(
    ("url", "target", "same"),
    [
        ("http://h/a", "http://h:80/b", True),
        ("http://h/a", "https://h/a", True),
        ("https://h/a", "http://h/a", False),
        ("http://h:8000/a", "https://h/a", False),
        ("http://h/a", "http://h:81/a", False),
        ("http://h/a", "http://h.evil/a", False),
        ("https://h/a", "https://H/a", True),
    ],
)
def test_where_credentials_may_be_sent(url: str, target: str, same: bool):
    """The configured origin, and its upgrade to TLS."""
    assert same_origin(url, target) is same


def test_an_event_stream_that_is_never_opened_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A server that accepts the connection and sends nothing: the start fails with a reason, to be tried again."""
    monkeypatch.setattr(sse, "OPEN_TIMEOUT_S", 0.1)

    async def start(port: int) -> None:
        async with HttpClient(HttpSpec(f"http://127.0.0.1:{port}/sse")) as http:
            async with sse.SseTransport(http, 1 << 20).open():
                raise AssertionError("it was opened")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(TransportFailure, match="did not open its event stream within") as caught:
            anyio.run(start, silent.getsockname()[1])
    assert not caught.value.sent
