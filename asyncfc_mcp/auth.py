"""The token of a bridge over HTTP: taken out of the environment, and held to what a client can send.

Owns reading it. Refuses to know requests: they are compared with it in `exchange`.
"""

import re
from collections.abc import MutableMapping
from typing import Final

from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.redaction import shown_name

_SENDABLE: Final = re.compile(r"[!-~]+")


class MissingToken(BridgeError):
    """`--auth-token-env` names a variable that is not set."""

    def __init__(self, name: str) -> None:
        # Its name may be the token itself.
        super().__init__(f"--auth-token-env: the environment variable {shown_name(name)} is not set or empty")


class UnsendableToken(BridgeError):
    """The token has a character that no client can send in a header, or only by quoting that differs."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"--auth-token-env: the value of {shown_name(name)} {fault}, so no client can send it as a bearer token; "
            f"set it to letters, digits and signs of ASCII without spaces"
        )


def take_token(environ: MutableMapping[str, str], name: str) -> str:
    """The token in this variable, which is removed: no process that is started from now on inherits it.

    Raises:
        MissingToken: there is none.
        UnsendableToken: no client could send it.
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
