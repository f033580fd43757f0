"""Error texts for failed HTTP requests and for HTTP error statuses.

Pure. Owns the mapping of HTTP library exceptions, statuses and error pages to texts for users and models. Texts never
include messages of the library: those may quote header values, and URLs with tokens in their queries. The consequences
for a call, such as a retry, are left to others.
"""

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlsplit

import httpx2

from asyncfc_mcp.errors import HttpRefused, RpcError, TransportFailure
from asyncfc_mcp.protocol import INVALID_REQUEST, METHOD_NOT_FOUND
from asyncfc_mcp.quotation import said
from asyncfc_mcp.redaction import shown_url, without_secrets

UNWRITABLE: Final = "could not be called: the URL or a header is not valid in an HTTP request"
INTERRUPTED: Final = "closed the connection before the end of its response"
SAID_CHARS: Final = 200
"""Length limit of a quote from an error page, in characters."""

_PREFACE: Final = r"\s*(?:(?:bad request|unauthorized|not found|invalid request|error)\b[\s:.,-]*)*"
_SESSION_GONE: Final = re.compile(
    _PREFACE + r"(?:the |this |your )?(?:mcp[ -]?)?session(?:[ -]?id)?"
    r"(?:[\s:]+['\"]?[\w-]{1,80}['\"]?)?[\s:]+(?:is |was |has |has been )?"
    r"(?:not found|expired|invalid|unknown|terminated|gone|closed|does not exist|not exist)\b",
    re.IGNORECASE,
)
"""Matches the beginning of an error text that reports the session of the request as unknown."""
_NO_SESSION: Final = re.compile(
    _PREFACE + r"(?:(?:no|invalid|unknown|expired|missing)(?: valid| active| or \w+)?(?: mcp)?[ -]session"
    r"|(?:the )?(?:mcp[ -])?session[ -]?id(?: header)?[\s:]+(?:is )?(?:required|missing)"
    r"|(?:could not|cannot|did not) find(?: \w+)? session|no transport found"
    r"|(?:the )?server (?:is )?not (?:been )?(?:yet )?initialized"
    r"|unexpected message, expect|expect(?:ed|ing)? initialize"
    r"|initialize (?:request )?(?:first|required))",
    re.IGNORECASE,
)
"""Matches the beginning of an error text that reports a missing session. Only the beginning is matched: a tool may have
sessions of its own and mention them in its error text."""
_TRANSPORT_CODES: Final = frozenset({-32000, -32001, INVALID_REQUEST, 400, 404})
"""JSON-RPC error codes with which servers reject a request before processing it."""


def quoted(text: str, secrets: Iterable[str]) -> str:
    """Return the beginning of a server's text, on one line and without secrets."""
    return said(without_secrets(text, secrets), SAID_CHARS)


def host_and_port(url: str) -> str:
    """Return host and port of a URL, for error texts."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    return f"{f'[{host}]' if ':' in host else host}:{_port(parts)}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


# --- exceptions ----------------------------------------------------------------------------------------------------


def transport_failure(exc: Exception, url: str, *, answered: bool, connect_s: float, proxied: bool) -> TransportFailure:
    """Convert an exception of the HTTP library.

    Args:
        answered: the response headers had been received.
        connect_s: the timeout for connecting and writing, in seconds.
        proxied: the connection uses a proxy.
    """
    where = host_and_port(url)
    via = " through the proxy that the environment sets" if proxied else ""
    match exc:
        case httpx2.ConnectTimeout():
            return TransportFailure(f"did not accept a connection at {where}{via} within {connect_s:g} s", sent=False)
        case httpx2.ProxyError():
            return TransportFailure(f"could not be reached{via}: the proxy refused", sent=False)
        case httpx2.ConnectError():
            return TransportFailure(f"could not be reached{via}: {_why_unreachable(exc, where)}", sent=False)
        case httpx2.LocalProtocolError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return TransportFailure(UNWRITABLE, sent=False)
        case httpx2.WriteTimeout():
            return TransportFailure(f"did not read the request within {connect_s:g} s")
        case httpx2.TimeoutException():
            return TransportFailure(f"did not answer at {where} in time")
        case httpx2.RemoteProtocolError() if not answered and "disconnected" not in str(exc):
            return TransportFailure(f"sent something that is not HTTP at {where}")
        case _ if answered:
            return TransportFailure(INTERRUPTED)
        case _:
            return TransportFailure("closed the connection without a response")


def _why_unreachable(exc: BaseException, where: str) -> str:
    causes = list(_causes(exc))
    for cause in causes:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its TLS certificate was not accepted ({cause.verify_message})"
            case ssl.SSLError():
                name = (cause.reason or "").lower().replace("_", " ")
                hint = "; is it an http:// URL?" if cause.reason == "WRONG_VERSION_NUMBER" else ""
                return f"no TLS connection to {where} ({name or 'handshake failed'}{hint})"
            case socket.gaierror():
                return f"the host name {where.rpartition(':')[0]} was not found (no network, or a wrong URL)"
            case _:
                pass
    for cause in causes:
        if isinstance(cause, ConnectionRefusedError):
            return f"connection refused by {where}"
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ECONNRESET, errno.EPIPE):
            return f"connection closed by {where} at once"
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"no connection to {where} ({os.strerror(cause.errno).lower()})"
    return f"no connection to {where}"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception, the members of groups, and all causes and contexts, each once."""
    todo: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", each).exceptions
        todo += [each.__cause__, each.__context__]


# --- statuses ------------------------------------------------------------------------------------------------------


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str], errors: Iterable[RpcError] = ()
) -> HttpRefused:
    """Convert an HTTP error status.

    Args:
        body: the beginning of the response body.
        secrets: values that must not be quoted from the body.
        errors: JSON-RPC errors in the body.
    """
    said = quoted(next((error.message for error in errors), "") or first_text(body), secrets)
    hint = ""
    if status == 401:
        details = _challenge(headers.get("www-authenticate", ""))
        said = said or quoted(details, secrets)
        hint = 'it needs a token: set "headers": {"Authorization": …} of this server in the config'
    wait_s = retry_after(headers.get("retry-after"), datetime.now(UTC))
    if wait_s is not None:
        hint = f"it asks to retry after {wait_s:.0f} s"
    code = METHOD_NOT_FOUND if status == 404 else -32000
    return HttpRefused(status, phrase(status), said, hint=hint, retry_after_s=wait_s, code=code)


def redirected(status: int, url: str, target: str) -> HttpRefused:
    """Return the failure for a redirect that is not followed."""
    downgrade = urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http"
    where = shown_url(target)
    hint = (
        f"its redirect to {where} would give up TLS and is not followed"
        if downgrade
        else f"its redirect to {where} is not followed; set that URL in the config if it is the right server"
    )
    return HttpRefused(status, phrase(status), "", hint=hint)


def phrase(status: int) -> str:
    """Return the standard reason phrase of a status; empty if there is none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def session_gone(status: int, body: bytes, errors: Iterable[RpcError], *, has_session: bool) -> bool:
    """Return whether an error response means that the server has no session for the request and has not processed it.

    Args:
        errors: JSON-RPC errors in the body. An error with a code that request handlers use is an answer, whatever its
            text: a tool may have sessions of its own.
        has_session: the request carried a session ID.
    """
    errors = list(errors)
    if any(error.code not in _TRANSPORT_CODES for error in errors):
        return False
    if status == 404 and has_session:
        return True
    if not 400 <= status < 500 or status == 403:
        return False
    said = " ".join(error.message for error in errors) or first_text(body)
    return _NO_SESSION.match(said) is not None or (has_session and _SESSION_GONE.match(said) is not None)


def first_text(body: bytes) -> str:
    """Return the text of an error page: the message in a JSON value, or the text content of HTML, title first."""
    text = body.decode("utf-8-sig", "replace").strip()
    if text.startswith(("{", "[", '"')):
        try:
            return _message_in(json.loads(text)) or text
        except (ValueError, RecursionError):
            return text
    if text.startswith("<"):
        text = re.sub(r"(?is)<(head|style|script)\b.*?</\1>|<!--.*?-->", " ", _with_title(text))
        text = unescape(re.sub(r"<[^>]*>", " ", text))
    return " ".join(text.split())


def _with_title(page: str) -> str:
    title = re.search(r"(?is)<title[^>]*>(.*?)</title>", page)
    return f"{title[1]}. {page}" if title is not None else page


def _message_in(value: Any) -> str:
    """Find the message in an error object under the keys that are usual for it; empty if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        return _message_in(entries[0]) if entries else ""
    if not isinstance(value, dict):
        return ""
    entry = cast("dict[str, Any]", value)
    found = [_message_in(entry[key]) for key in ("error", "error_description", "message", "detail") if key in entry]
    return ": ".join(dict.fromkeys(text for text in found if text))


def _challenge(header: str) -> str:
    """Return the error code and description of a `WWW-Authenticate` header, without its URLs."""
    found = dict(re.findall(r'(error(?:_description)?)="([^"]*)"', header))
    return ": ".join(found[key] for key in ("error", "error_description") if found.get(key))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Parse a `Retry-After` header, a number of seconds or a date; None if it is neither."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
