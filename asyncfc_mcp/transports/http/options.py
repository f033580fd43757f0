"""Options of the endpoint over HTTP, as the command line gives them, and their contradictions.

Pure. Leaves their effects to `serve` and `auth`.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfc_mcp.errors import BridgeError

MCP_PATH: Final = "/mcp"
SSE_PATH: Final = "/sse"


class Refused(BridgeError):
    """The requested address would expose the tools to every client that can reach it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Refused to listen on {host} without a token: every client that can reach it could call your tools. "
            f"Set a token in an environment variable and pass --auth-token-env NAME (or use --auth-tokens or "
            f"--auth-jwt), listen on 127.0.0.1, or accept the risk with --insecure-no-auth"
        )


class UnusableOptions(BridgeError):
    """Options contradict each other, or one needs another.

    Args:
        what: what is missing or contradictory.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options of one endpoint.

    Args:
        token_env: the variable that held the token of all clients, if there is one.
        tokens: file with the tokens of persons.
        issuer: authorization server whose tokens are accepted.
        audiences: of which a token of that server must name one; empty for the resource identifiers.
        public_url: URL by which clients address the bridge.
        certificate, key: files in PEM, with which TLS is served.
        proxies: addresses and networks whose `X-Forwarded-*` headers are believed; `*` for all.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    streamable: bool = True
    sse: bool = False
    insecure: bool = False
    token_env: str | None = None
    tokens: Path | None = None
    issuer: str | None = None
    audiences: tuple[str, ...] = ()
    public_url: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxies: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are served, the main one first."""
        return (MCP_PATH,) * self.streamable + (SSE_PATH,) * self.sse

    @property
    def authenticated(self) -> bool:
        """True where a token is required."""
        return any(each is not None for each in (self.token_env, self.tokens, self.issuer))

    def check(self) -> None:
        """Check what can be checked without any file.

        Raises:
            Refused: the address is not a loopback address, and no authentication is configured.
            UnusableOptions: options contradict each other.
        """
        if not self.authenticated and not self.insecure and not is_loopback(self.host):
            raise Refused(self.host)
        if self.audiences and self.issuer is None:
            raise UnusableOptions("--audience is that of the tokens of --auth-jwt ISSUER, which is missing")
        if (self.certificate is None) != (self.key is None):
            missing = "--tls-key" if self.key is None else "--tls-cert"
            raise UnusableOptions(f"TLS needs both --tls-cert FILE and --tls-key FILE; {missing} is missing")
        if self.issuer is not None and self.public_url is None and is_unspecified(self.host):
            raise UnusableOptions(
                f"--auth-jwt with --host {self.host} needs --public-url URL: clients sign in for the address by which "
                f"they reach the bridge, such as https://mcp.example.com/mcp"
            )

    def base(self, port: int) -> str:
        """Return the URL of the server without a path.

        Args:
            port: the one that is listened on.
        """
        host = f"[{self.host.strip('[]')}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_unspecified(host: str) -> bool:
    """Return whether an address to listen on stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == ""
