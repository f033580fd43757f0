"""Public documents of an authorization server, over HTTP.

Owns the limits of a fetch: time, size, no redirect. Leaves which documents are fetched, and when, to `signing_keys`.
Imported only where tokens of an authorization server are accepted, since it loads the HTTP client.
"""

import ssl
from typing import Final

import anyio
import httpx2

from asyncfc_mcp.transports.http.auth.signing_keys import FetchFailed

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 1 << 20
MOST_CAUSES: Final = 100
"""Exceptions behind one that are looked at."""


async def fetch_document(url: str) -> bytes:
    """Return the document at a URL.

    Raises:
        FetchFailed: there is none, or it cannot be fetched.
    """
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        with anyio.fail_after(TIMEOUT_S):
            # A redirect is not followed: it may lead to an address where everybody can change what is fetched.
            async with (
                httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                if response.status_code != 200:
                    missing = 400 <= response.status_code < 500 and response.status_code not in (408, 425, 429)
                    raise FetchFailed(url, f"answered HTTP {response.status_code}", missing=missing)
                data = b""
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise FetchFailed(url, f"is larger than {MAX_BYTES >> 20} MB")
                return data
    except TimeoutError:
        raise FetchFailed(url, f"did not answer within {TIMEOUT_S:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        raise FetchFailed(url, f"cannot be reached ({_reason(exc)})") from None


def _reason(exc: BaseException) -> str:
    """Return why a request failed, without texts of the HTTP library, which may quote URLs."""
    todo: list[BaseException | None] = [exc]
    for each in todo:  # as it grows
        match each:
            case None:
                continue
            case ssl.SSLCertVerificationError():
                return f"its TLS certificate was not accepted: {each.verify_message}"
            case OSError(errno=int(), strerror=str(reason)):
                return reason.lower()
            case BaseExceptionGroup():
                todo += each.exceptions
            case _:
                pass
        todo += [each.__cause__, each.__context__]
        if len(todo) > MOST_CAUSES:
            break
    return type(exc).__name__
