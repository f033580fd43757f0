"""Clients behind proxies: whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, and what they say.

Pure. Everybody can send these headers, so they count only from the proxies that are named. `X-Forwarded-Host` and
`Forwarded` never count: the bridge is addressed by `--public-url`, and by no header.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from asyncfc_mcp.quotation import said
from asyncfc_mcp.transports.http.asgi import Header
from asyncfc_mcp.transports.http.options import UnusableOptions

MOST_HOPS: Final = 32
"""Addresses that are looked at; a longer chain is made up."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Proxies that are believed.

    Args:
        values: addresses, networks (`10.0.0.0/8`), or `*` for all.

    Raises:
        UnusableOptions: one is neither.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self._all = "*" in values
        try:
            self._networks = [ipaddress.ip_network(value, strict=False) for value in values if value != "*"]
        except ValueError as exc:
            raise UnusableOptions(
                f"--forwarded-allow-ips: {said(str(exc))}; expected addresses or networks of proxies, separated by "
                f"commas, or * for all"
            ) from None

    def trusts(self, address: Address) -> bool:
        """Return whether a proxy at this address is believed."""
        address = getattr(address, "ipv4_mapped", None) or address
        return self._all or any(address in network for network in self._networks)

    def trusts_peer(self, peer: str) -> bool:
        """Return whether the peer of a connection is a proxy that is believed."""
        address = _address(peer)
        return address is not None and self.trusts(address)

    def client_of(self, headers: Sequence[Header]) -> tuple[str | None, str | None]:
        """Return the client's address and scheme in the headers of a request that a trusted proxy has sent; None for
        what they do not say.

        Each proxy appends the address that it was connected from, so the client is the last one that is no trusted
        proxy; what stands before it may be made up. Where all are trusted, it is the first.
        """
        hops = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1").split(",")
        client: Address | None = None
        for hop in reversed(hops[-MOST_HOPS:]):
            address = _address(hop)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        schemes = b",".join(value for name, value in headers if name == b"x-forwarded-proto").decode("latin-1")
        scheme = schemes.rpartition(",")[2].strip().lower()
        return None if client is None else str(client), scheme if scheme in ("http", "https") else None


def _address(text: str) -> Address | None:
    """Return an address that may have a port, or brackets."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
