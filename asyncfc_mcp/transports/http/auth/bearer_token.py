"""Authentication without persons: nobody's, and one token for all clients of an endpoint.

Owns reading that token from the environment and comparing it. Leaves the tokens of persons to `token_file`.
"""

import hashlib
import re
from collections.abc import Mapping, MutableMapping
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.redaction import shown_name
from asyncfc_mcp.transports.http.auth.authenticator import Access, NotAuthenticated, Token

UNKNOWN: Final = "the token is not one of this bridge"
_SENDABLE: Final = re.compile(r"[!-~]+")


class MissingToken(BridgeError):
    """`--auth-token-env` names a variable that is not set."""

    def __init__(self, name: str) -> None:
        # The name is redacted, since it may be the token itself.
        super().__init__(f"--auth-token-env: the environment variable {shown_name(name)} is unset or empty")


class UnsendableToken(BridgeError):
    """The token contains a character that no client can send in a header, or only with an ambiguous quoting."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"--auth-token-env: the value of {shown_name(name)} {fault}, so no client can send it as a bearer token; "
            f"set it to letters, digits and signs of ASCII without spaces"
        )


class TokenTable:
    """Accepts tokens that are known beforehand, by their digests. Base class of authenticators."""

    def __init__(self, access: Mapping[bytes, Access]) -> None:
        self._access = access

    def known(self, token: Token) -> Access | None:
        """See `Authenticator`."""
        return self._access.get(token.digest)

    async def check(self, token: Token) -> Access:
        """See `Authenticator`."""
        if (access := self.known(token)) is None:
            raise NotAuthenticated(UNKNOWN)
        return access


class Principals(TokenTable):
    """Fixed principals of one endpoint, identified by their bearer tokens.

    Args:
        tokens: token → scope.
        anyone: scope of requests without a token, where none is required.
    """

    def __init__(self, tokens: Mapping[str, Scope] | None = None, *, anyone: Scope | None = None) -> None:
        super().__init__(
            {
                hashlib.sha256(token.encode()).digest(): Access(Principal(scope))
                for token, scope in (tokens or {}).items()
            }
        )
        self._anyone = None if anyone is None else Access(Principal(anyone))

    @property
    def anyone(self) -> Access | None:
        """See `Authenticator`."""
        return self._anyone

    @property
    def lapses(self) -> bool:
        """See `Authenticator`."""
        return False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """See `Authenticator`."""
        task_status.started()


def take_token(environ: MutableMapping[str, str], name: str) -> str:
    """Return the token in this variable and remove the variable, so that no process started later inherits it.

    Raises:
        MissingToken: the variable is not set or empty.
        UnsendableToken: no client could send the token.
    """
    token = environ.pop(name, "")
    if not token:
        raise MissingToken(name)
    if not _SENDABLE.fullmatch(token):
        raise UnsendableToken(name, _fault(token))
    return token


def _fault(token: str) -> str:
    if not token.strip():
        return "is blank"
    if token.endswith(("\n", "\r")):
        return "ends with a line end"
    if not token.isascii():
        return "has a character that is not ASCII"
    if token != token.strip():
        return "begins or ends with a space"
    return "has a space in it" if " " in token else "has a control character in it"
