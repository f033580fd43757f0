"""The HTTP client of one wrapped server: connections, redirects within its origin, and bodies read in chunks.

Owns the settings of the HTTP library and converts its exceptions to `TransportFailure`. MCP is left to the transports.
Imported only if a server has a URL: importing the HTTP library is expensive.
"""

import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.lowlevel
import httpx2

from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.downstream.http.authorizer import Authorizer
from asyncfc_mcp.downstream.http.failures import UNWRITABLE, host_and_port, redirected, session_gone, transport_failure
from asyncfc_mcp.errors import NotAuthorized, TransportFailure, UnreadableAnswer
from asyncfc_mcp.quotation import said
from asyncfc_mcp.redaction import secrets_of
from asyncfc_mcp.suspension import SleepDetector, detect_dead_peer

logger = logging.getLogger(__name__)

CONNECT_S: Final = 30.0
"""Timeout for connecting and for writing. Reading has none: it takes as long as the tool, which `timeout_s` limits."""
KEEP_ALIVE_S: Final = 4.0
"""Idle connections are closed after this. Shorter than the 5 s of uvicorn and Node: if the server closes a connection
while a request is sent on it, the request may or may not have been received."""
SLEEP_POLL_S: Final = 5.0
"""Interval in which a connection that may be idle is checked for a sleep of the machine."""
MAX_REDIRECTS: Final = 5
MAX_ERROR_BYTES: Final = 64 * 1024
"""Bytes of an error page that are read."""
REFUSED_BODY_TIMEOUT_S: Final = 1.0
"""Timeout for reading the body of a response after which the request is sent again; then its connection is closed."""
MAX_REFUSALS: Final = 2
"""Refusals (401, 403) of one request after which it is sent again with other credentials."""
ENCODINGS: Final = ("gzip", "deflate")
"""Accepted compressions. A body with two of them is refused: no server sends one, and a small body could expand to an
unbounded intermediate result that the second decoder reduces to nothing."""
CHUNK_BYTES: Final = 16 << 10
"""Largest chunk of a body that is processed at once: a kilobyte may hold a hundred events or decompress to a
megabyte."""

_KEPT: Final = "asyncfc_mcp.start_of_body"
"""Extension of a response of which a part was read already."""
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


@dataclass(slots=True, eq=False)
class _Pool:
    """Connections of the HTTP library, and the number of requests that use them."""

    client: httpx2.AsyncClient
    requests: int = 0


class HttpClient:
    """Sends requests to one server over one connection pool.

    Args:
        spec: the server; its headers are added to every request.
        authorizer: adds credentials to the requests to the server's origin. A request that is refused for lack of them
            (401, 403) was not processed, and is sent again if the authorizer has others.

    Raises:
        TransportFailure: a configured header is not valid in HTTP.
    """

    def __init__(self, spec: HttpSpec, authorizer: Authorizer | None = None) -> None:
        headers = {key: value.strip() for key, value in spec.headers.items()}
        for key, value in headers.items():
            if not (_HEADER_NAME.fullmatch(key) and _HEADER_VALUE.fullmatch(value)):
                # The error names the header only: its value may be a secret.
                problem = (
                    "a line break or control character in its value" if _HEADER_NAME.fullmatch(key) else "no valid name"
                )
                raise TransportFailure(f"cannot be called: its header {key!r} has {problem}", sent=False)
        self.url = spec.url
        self.address = host_and_port(spec.url)
        """Host and port of the server, for log lines."""
        self._authorizer = authorizer
        self._secrets = secrets_of(headers=headers, url=spec.url)
        loopback = is_loopback(spec.url)
        self._proxied = not loopback and _has_proxy(spec.url)
        self._headers = [
            (key.encode(), value.encode())
            for key, value in {"accept-encoding": ", ".join(ENCODINGS), **headers}.items()
        ]
        self._loopback = loopback
        self._pool = self._new_pool()
        self._replaced: set[_Pool] = set()
        """Pools with requests from before a sleep."""
        self._sleeps = SleepDetector()
        self.on_wake: Callable[[], None] = lambda: None
        """Called after the machine was asleep, before the next request."""

    def _new_pool(self) -> "_Pool":
        return _Pool(
            httpx2.AsyncClient(
                headers=self._headers,
                timeout=httpx2.Timeout(CONNECT_S, read=None, pool=None),
                # No limit on connections: calls have their own limits, and long calls must not block others.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_S),
                # A proxy from the environment cannot reach a server on this machine's loopback interface.
                mounts=dict.fromkeys(("http://", "https://", "all://")) if self._loopback else None,
            )
        )

    async def __aenter__(self) -> "HttpClient":
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for pool in (self._pool, *self._replaced):
            await pool.client.aclose()

    async def watch_sleeps(self) -> None:
        """Look for sleeps of the machine now and then, until cancelled."""
        while True:
            await anyio.sleep(SLEEP_POLL_S)
            await self.check_sleep()

    async def check_sleep(self) -> None:
        """If the machine was asleep since the last look, drop the idle connections: their peers may have gone, and what
        is sent on them would be lost. Requests that are on their way keep theirs."""
        if not self._sleeps.has_slept():
            return
        logger.info("the machine was asleep: connections to %s are opened anew", self.address)
        before, self._pool = self._pool, self._new_pool()
        self.on_wake()
        if before.requests:
            self._replaced.add(before)
        else:
            await before.client.aclose()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any text."""
        return self._secrets if self._authorizer is None else (*self._secrets, *self._authorizer.secrets)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """Send a request and yield its response, whose body is not read yet.

        Raises:
            TransportFailure: there is no response, or (from within the block) it ended prematurely.
            SignInNeeded, NotAuthorized: the server asks for credentials that there are not, or refuses all of them.
        """
        response: httpx2.Response | None = None
        await self.check_sleep()
        pool = self._pool
        pool.requests += 1
        # Credentials belong to the origin of the configured URL, whatever URL the server names.
        authorizer = self._authorizer
        if authorizer is not None and url != self.url and not same_origin(self.url, url):
            authorizer = None
        try:
            added: Mapping[str, str] = {} if authorizer is None else await authorizer.headers()
            request = self._request(method, url, {**headers, **added}, body)
            hops = refusals = 0
            while True:
                response = await pool.client.send(request, stream=True)
                if response.next_request is not None:
                    if hops == MAX_REDIRECTS or not _within_origin(response):
                        raise redirected(response.status_code, url, str(response.next_request.url))
                    await read_start(response)
                    await response.aclose()
                    request, hops, response = response.next_request, hops + 1, None
                elif authorizer is not None and refusals == MAX_REFUSALS and response.status_code == 401:
                    raise NotAuthorized("it refuses the credentials that it asks for")
                elif (
                    authorizer is not None
                    and refusals < MAX_REFUSALS
                    and response.status_code in (401, 403)
                    and not await _has_lost_session(response)
                    and await authorizer.refused(
                        response.status_code, response.headers.get_list("www-authenticate"), added
                    )
                ):
                    await _keep_start(response)
                    await response.aclose()
                    added = await authorizer.headers()
                    request, hops, refusals, response = (
                        self._request(method, url, {**headers, **added}, body),
                        0,
                        refusals + 1,
                        None,
                    )
                else:
                    break
            yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as exc:
            answered = response is not None
            raise transport_failure(
                exc, self.url, answered=answered, connect_s=CONNECT_S, proxied=self._proxied
            ) from None
        finally:
            pool.requests -= 1
            with anyio.CancelScope(shield=True):
                if response is not None:
                    await response.aclose()
                if not pool.requests and pool in self._replaced:
                    self._replaced.remove(pool)
                    await pool.client.aclose()

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> httpx2.Request:
        # Encoded to bytes here: values chosen by the server (session and event IDs) need not be ASCII.
        try:
            encoded = [(key.encode(), value.encode(errors="surrogateescape")) for key, value in headers.items()]
            return self._pool.client.build_request(
                method, url, content=body, headers=encoded, extensions={"trace": _on_connection}
            )
        except ValueError:
            raise TransportFailure(UNWRITABLE, sent=False) from None


async def iter_body(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """Iterate over a decompressed body in chunks, with a checkpoint between those of one read.

    Raises:
        UnreadableAnswer: the body has a compression that was not requested, or cannot be decompressed. This is no
            `TransportFailure`: a retry would get the same response.
    """
    encodings = response.headers.get_list("content-encoding", split_commas=True)
    applied = [each for name in encodings if (each := name.strip().lower()) not in ("", "identity")]
    if len(applied) > 1 or not set(applied) <= set(ENCODINGS):
        raise UnreadableAnswer(f"has a compression that was not asked for ({said(', '.join(applied), 40)})")
    try:
        async for chunk in response.aiter_bytes():
            for start in range(0, len(chunk), CHUNK_BYTES):
                yield chunk[start : start + CHUNK_BYTES]
                if len(chunk) > CHUNK_BYTES:
                    await anyio.lowlevel.checkpoint()
    except httpx2.DecodingError:
        raise UnreadableAnswer("has a compression that cannot be read") from None


async def read_start(response: httpx2.Response, limit: int = MAX_ERROR_BYTES) -> bytes:
    """Read at most `limit` bytes of a body, or return what was kept of it; empty if its compression cannot be read."""
    if (kept := response.extensions.get(_KEPT)) is not None:
        return kept[:limit]
    parts: list[bytes] = []
    size = 0
    with suppress(UnreadableAnswer):
        async for chunk in iter_body(response):
            parts.append(chunk)
            size += len(chunk)
            if size >= limit:
                break
    return b"".join(parts)[:limit]


async def _keep_start(response: httpx2.Response) -> bytes:
    """Read the start of a body in a bounded time, and keep it for `read_start`."""
    kept = b""
    if _KEPT not in response.extensions:
        with anyio.move_on_after(REFUSED_BODY_TIMEOUT_S):
            kept = await read_start(response)
        response.extensions[_KEPT] = kept
    return response.extensions[_KEPT]


async def _has_lost_session(response: httpx2.Response) -> bool:
    """Return whether a refusal without a challenge is about the session of the request: some servers answer 401 then.
    Credentials do not change that, but a new session does."""
    if response.status_code != 401 or "www-authenticate" in response.headers:
        return False
    has_session = "mcp-session-id" in response.request.headers
    return session_gone(response.status_code, await _keep_start(response), (), has_session=has_session)


def content_type(response: httpx2.Response) -> str:
    """Return the media type of a response in lower case, without parameters; empty if there is none."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _on_connection(event: str, info: Mapping[str, Any]) -> None:
    """Have the loss of a new connection be noticed: a call may wait for hours, and so may a stream of events."""
    if event == "connection.connect_tcp.complete" and (stream := info.get("return_value")) is not None:
        detect_dead_peer(stream.get_extra_info("socket"))


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is a loopback address, which a proxy cannot reach for this process."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def same_origin(url: str, target: str) -> bool:
    """Return whether credentials for one URL may be sent to another: same scheme, host and port, or the upgrade from
    http to https of the same host on the default ports."""
    ours, theirs = urlsplit(url), urlsplit(target)
    if (ours.scheme, ours.hostname) == (theirs.scheme, theirs.hostname):
        usual = 443 if ours.scheme == "https" else 80
        return (ours.port or usual) == (theirs.port or usual)
    upgrade = (ours.scheme, theirs.scheme) == ("http", "https") and ours.hostname == theirs.hostname
    return upgrade and ours.port in (None, 80) and theirs.port in (None, 443)


def _within_origin(response: httpx2.Response) -> bool:
    """Return whether a redirect may be followed: it keeps the method, and the origin that headers and body are for."""
    target, sent = response.next_request, response.request
    assert target is not None
    if target.url.userinfo and target.url.userinfo != sent.url.userinfo:
        return False
    return target.method == sent.method and same_origin(str(sent.url), str(target.url))


def _has_proxy(url: str) -> bool:
    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")
