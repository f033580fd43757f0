"""The HTTP client of one wrapped server: connecting, redirects within its origin, and bodies with a bound.

Owns the settings of the HTTP library and turns its exceptions into failures in words. Leaves MCP to the transports that
use it. Imported only where a server has a URL.
"""

import re
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx2

from asyncfc_mcp.config import HttpSpec
from asyncfc_mcp.errors import TransportFailure
from asyncfc_mcp.http_errors import UNWRITABLE, failure, redirected
from asyncfc_mcp.redaction import secrets_of

CONNECT_S: Final = 30.0
"""For connecting and for writing; reading may take as long as a tool does, and `timeout_s` bounds that."""
KEEP_ALIVE_S: Final = 4.0
"""How long an idle connection is kept. Shorter than the 5 s of uvicorn and Node: a request on a connection that the
server closes at the same moment may or may not have been received."""
MAX_REDIRECTS: Final = 5
MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error page is read."""

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class HttpClient:
    """Requests to one server, on one pool of connections.

    Args:
        spec: the server; its headers are part of every request.

    Raises:
        TransportFailure: a header cannot be sent.
    """

    def __init__(self, spec: HttpSpec) -> None:
        headers = {key: value.strip() for key, value in spec.headers.items()}
        for key, value in headers.items():
            if not (_NAME.fullmatch(key) and _VALUE.fullmatch(value)):
                # By its name only: the value may be a secret.
                problem = "a line break or control character in its value" if _NAME.fullmatch(key) else "no valid name"
                raise TransportFailure(f"cannot be asked: its header {key!r} has {problem}", sent=False)
        self.url = spec.url
        self.secrets = secrets_of(headers=headers, url=spec.url)
        loopback = is_loopback(spec.url)
        self._proxied = not loopback and _has_proxy(spec.url)
        self._client = httpx2.AsyncClient(
            headers=[(key.encode(), value.encode()) for key, value in headers.items()],
            timeout=httpx2.Timeout(CONNECT_S, read=None, pool=None),
            # No bound on connections: calls have theirs, and a long call must not keep others waiting.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_S),
            # A proxy of the environment cannot reach what listens on this machine only.
            mounts=dict.fromkeys(("http://", "https://", "all://")) if loopback else None,
        )

    async def __aenter__(self) -> "HttpClient":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._client.__aexit__(*exc)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """The answer to one request, its body yet to be read.

        Raises:
            TransportFailure: there is none; or, from within the block, it broke off.
        """
        response: httpx2.Response | None = None
        try:
            request = self._request(method, url, headers, body)
            hops = 0
            while True:
                response = await self._client.send(request, stream=True)
                if response.next_request is None:
                    break
                if hops == MAX_REDIRECTS or not _within_origin(response):
                    raise redirected(response.status_code, url, str(response.next_request.url))
                await read_start(response)
                await response.aclose()
                request, hops, response = response.next_request, hops + 1, None
            yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as exc:
            answered = response is not None
            why = failure(exc, self.url, answered=answered, connect_s=CONNECT_S, proxied=self._proxied)
            raise why from None
        finally:
            if response is not None:
                with anyio.CancelScope(shield=True):
                    await response.aclose()

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> httpx2.Request:
        # As bytes: values that the server chose (session and event IDs) need not be ASCII.
        try:
            encoded = [(key.encode(), value.encode(errors="surrogateescape")) for key, value in headers.items()]
            return self._client.build_request(method, url, content=body, headers=encoded)
        except ValueError:
            raise TransportFailure(UNWRITABLE, sent=False) from None


async def read_start(response: httpx2.Response, limit: int = MAX_ERROR_BYTES) -> bytes:
    """The beginning of a body; all of it, if it is short."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        parts.append(chunk)
        size += len(chunk)
        if size >= limit:
            break
    return b"".join(parts)[:limit]


def content_type(response: httpx2.Response) -> str:
    """The media type of a body, without parameters; empty if the server names none."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def keep_alive(response: httpx2.Response) -> None:
    """Have the operating system probe the connection of a stream that may be silent for hours, so that its loss is
    noticed."""
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    if connection is not None:
        with suppress(OSError, AttributeError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine, which no proxy can reach for us."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def same_origin(url: str, target: str) -> bool:
    """Whether credentials for one URL may be sent to another: same scheme, host and port, or the same host's https
    on the usual ports."""
    ours, theirs = urlsplit(url), urlsplit(target)
    if (ours.scheme, ours.hostname) == (theirs.scheme, theirs.hostname):
        usual = 443 if ours.scheme == "https" else 80
        return (ours.port or usual) == (theirs.port or usual)
    upgrade = (ours.scheme, theirs.scheme) == ("http", "https") and ours.hostname == theirs.hostname
    return upgrade and ours.port in (None, 80) and theirs.port in (None, 443)


def _within_origin(response: httpx2.Response) -> bool:
    """Whether a redirect may be followed: it keeps the method, and the origin for which headers and body are meant."""
    target, sent = response.next_request, response.request
    assert target is not None
    if target.url.userinfo and target.url.userinfo != sent.url.userinfo:
        return False
    return target.method == sent.method and same_origin(str(sent.url), str(target.url))


def _has_proxy(url: str) -> bool:
    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")
