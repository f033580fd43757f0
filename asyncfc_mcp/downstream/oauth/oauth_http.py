"""HTTP with authorization servers, and for the metadata of protected resources.

Owns which addresses may be asked, and the bounds of size and time. Its requests have neither the headers nor the tokens
of a server, and none is redirected to another origin. The meaning of answers is left to others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from socket import inet_aton
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlencode, urlsplit

import anyio
import httpx2

from asyncfc_mcp import __version__
from asyncfc_mcp.downstream.http.client import read_start, same_origin
from asyncfc_mcp.downstream.http.failures import phrase, transport_failure
from asyncfc_mcp.downstream.oauth.failures import AddressRefused, AuthorizationServerUnreachable
from asyncfc_mcp.errors import HttpRefused, TransportFailure

CONNECT_S: Final = 15.0
ANSWER_S: Final = 30.0
"""Timeout for a whole request with its answer: a server that drips bytes must not hold a sign-in."""
MAX_BYTES: Final = 256 << 10
"""Of an answer. Metadata and tokens have a few kilobytes; those with many scopes some tens."""
MAX_REDIRECTS: Final = 3
MAX_URL: Final = 2048

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv6 addresses of IPv4 addresses in networks without these (RFC 6052)."""
_LOOPBACK: Final = ("all://localhost", "all://127.0.0.1", "all://[::1]")


def address_problem(url: str, named_by: str) -> str:
    """Return why an address must not be used, as a predicate; empty if it may be.

    https, or http on loopback. A server elsewhere may not send requests to this machine or to a private network: they
    would come from inside of a firewall. That holds for addresses as such; a name's is known to the resolver only.

    Args:
        named_by: the URL of the server that named it. What it may ask of its own network, it may name.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        return "is not a valid URL"
    try:
        parts, own = urlsplit(url), urlsplit(named_by)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, parts, own = False, urlsplit(""), urlsplit("")
    if not valid or "\\" in url:
        return "is not a valid URL"
    if parts.username is not None or parts.password is not None:
        return "contains a user name"
    if parts.scheme not in ("https", "http"):
        return "is not an https URL"
    ours, theirs = _reach(own), _reach(parts)
    if theirs == "loopback":
        return "" if ours == "loopback" else "is on this machine, and the server is not"
    if parts.scheme != "https":
        return "is not an https URL"
    return "is in a private network, and the server is not" if theirs == "private" and ours == "public" else ""


def _reach(parts: SplitResult) -> str:
    """Return `loopback`, `private` or `public`, as far as the host of a URL says."""
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    address = _address(host.partition("%")[0])
    if address is None:
        return "public"
    if address.is_loopback:
        return "loopback"
    return "public" if address.is_global else "private"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is in any notation that resolvers take (`127.1`, `0x7f000001`, `2130706433`); of
    an IPv6 address with an IPv4 address in it, the latter. None for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        try:
            return IPv4Address(inet_aton(host))
        except OSError:
            return None
    if isinstance(address, IPv4Address):
        return address
    translated = IPv4Address(address.packed[12:]) if address in _NAT64 else None
    return address.ipv4_mapped or address.sixtofour or translated or address


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with at most `MAX_BYTES` of its body; a body that cannot be decompressed is empty."""

    status: int
    body: bytes

    def members(self) -> dict[str, Any] | None:
        """Return the JSON object in the body; None if it is something else."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return cast("dict[str, Any]", value) if isinstance(value, dict) else None


class OAuthHttp:
    """Requests of the sign-in to one server.

    Args:
        server: its name in the configuration, for errors.
        url: of the server.
    """

    def __init__(self, server: str, url: str) -> None:
        self.server, self.url = server, url
        self._client = httpx2.AsyncClient(
            headers={"user-agent": f"asyncfc-mcp/{__version__}", "accept": "application/json"},
            timeout=httpx2.Timeout(CONNECT_S, read=ANSWER_S),
            limits=httpx2.Limits(max_connections=8, keepalive_expiry=4.0),
            # A proxy from the environment cannot reach this machine's loopback interface.
            mounts=dict.fromkeys(_LOOPBACK),
        )

    async def __aenter__(self) -> "OAuthHttp":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._client.__aexit__(*exc)

    def check(self, url: str, what: str, named_by: str | None = None) -> str:
        """Return the URL if it may be used; see `address_problem`.

        Args:
            what: the address is of.
            named_by: None: the server.

        Raises:
            AddressRefused: it may not.
        """
        problem = address_problem(url, self.url if named_by is None else named_by)
        if problem:
            raise AddressRefused(self.server, what, url, problem)
        return url

    async def get(self, url: str, headers: Mapping[str, str] | None = None, *, follow: bool = True) -> Answer:
        """Read a URL that was checked.

        Args:
            follow: follow redirects within its origin. Every other redirect is the answer.

        Raises:
            AuthorizationServerUnreachable: there is no answer, or it has no end.
        """
        request = self._client.build_request("GET", url, headers=dict(headers or {}))
        return await self._request(request, url, follow=follow)

    async def post_form(self, url: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        """Send a form to a URL that was checked. No redirect is followed.

        Raises:
            AuthorizationServerUnreachable: see `get`. The request may or may not have been processed.
        """
        content = urlencode(params).encode()
        every = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
        return await self._request(self._client.build_request("POST", url, content=content, headers=every), url)

    async def post_json(self, url: str, value: Any) -> Answer:
        """Send a JSON value to a URL that was checked; see `post_form`."""
        return await self._request(self._client.build_request("POST", url, json=value), url)

    async def _request(self, request: httpx2.Request, url: str, *, follow: bool = True) -> Answer:
        answered = False
        try:
            with anyio.fail_after(ANSWER_S):
                hops = 0
                while True:
                    response = await self._client.send(request, stream=True)
                    answered = True
                    try:
                        target = response.next_request
                        if target is None or not follow or hops == MAX_REDIRECTS or not _within(request, target):
                            return Answer(response.status_code, await read_start(response, MAX_BYTES))
                    finally:
                        with anyio.CancelScope(shield=True):
                            await response.aclose()
                    request, hops = target, hops + 1
        except TimeoutError:
            failure = TransportFailure(f"did not answer within {ANSWER_S:g} s", sent=answered)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as exc:
            failure = transport_failure(exc, url, answered=answered, connect_s=CONNECT_S, proxied=False)
        raise AuthorizationServerUnreachable(self.server, url, failure)

    def temporary(self, url: str, answer: Answer) -> AuthorizationServerUnreachable | None:
        """Return the failure for a status that is not about the request; None for every other one."""
        if answer.status in (408, 425, 429) or answer.status >= 500:
            refused = HttpRefused(answer.status, phrase(answer.status))
            return AuthorizationServerUnreachable(self.server, url, refused)
        return None


def _within(request: httpx2.Request, target: httpx2.Request) -> bool:
    """Return whether a redirect may be followed: it repeats a GET at the same origin."""
    here, there = str(request.url), str(target.url)
    return request.method == target.method == "GET" and same_origin(here, there) and not address_problem(there, here)
