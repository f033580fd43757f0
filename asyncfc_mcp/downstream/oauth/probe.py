"""One request to a server, to learn how it asks for a sign-in.

Owns a request that does nothing, whatever the server is. Its headers are the server's own, since a gateway may want
them; it is not redirected. Reading the challenge is left to `challenges`.
"""

from dataclasses import dataclass
from typing import Final

import anyio

from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.downstream.http.client import HttpClient
from asyncfc_mcp.errors import TransportFailure, UnreadableAnswer

PROBE_S: Final = 15.0
_PING: Final = b'{"jsonrpc":"2.0","id":"sign-in","method":"ping"}'
_HEADERS: Final = {"accept": "application/json, text/event-stream"}


@dataclass(frozen=True, slots=True)
class Probe:
    """Status of a response, and the values of its `WWW-Authenticate`; 0 without a response."""

    status: int
    challenges: tuple[str, ...] = ()


async def probe(spec: HttpSpec) -> Probe:
    """Send a request without a token. A server that cannot be reached yields no challenge: its metadata may be."""
    try:
        async with HttpClient(spec) as client:
            with anyio.fail_after(PROBE_S):
                return await _sse(client, spec) if spec.kind == "sse" else await _post(client, spec)
    except (TransportFailure, UnreadableAnswer, TimeoutError):
        return Probe(0)


async def _post(client: HttpClient, spec: HttpSpec) -> Probe:
    headers = {**_HEADERS, "content-type": "application/json"}
    async with client.stream("POST", spec.url, headers, _PING) as response:
        return Probe(response.status_code, tuple(response.headers.get_list("www-authenticate")))


async def _sse(client: HttpClient, spec: HttpSpec) -> Probe:
    async with client.stream("GET", spec.url, {"accept": "text/event-stream"}) as response:
        return Probe(response.status_code, tuple(response.headers.get_list("www-authenticate")))
