"""One-time keys, with which a browser gets a token of the page.

Owns their lifetime and number. A key is in the address that `asyncfc-mcp open` opens, and so in the arguments of a
browser's process, where other users of the machine can read it: it is good for one exchange, for a minute, and where
the system tells whose a connection is, for programs of the user who has asked for it. Leaves tokens to `page_tokens`.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from asyncfc_mcp.transports.http.auth.authenticator import Access

KEY_S: Final = 60.0
"""Time for which a key can be exchanged."""
MOST_KEYS: Final = 100
"""Bound on the keys that can be exchanged at a time."""
MOST_OWN: Final = 10
"""The same for one principal. With a further one, its oldest key is dropped."""
KEY_BYTES: Final = 32
ROOT: Final = 0


class TooManyKeys(Exception):
    """There are as many keys as there may be."""


@dataclass(frozen=True, slots=True)
class _Issued:
    access: Access
    user: int | None
    until: float


class Keys:
    """Keys that were given out and not exchanged yet.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._issued: dict[bytes, _Issued] = {}
        """SHA-256 of a key → what it stands for, the oldest first. The time of a look-up then says nothing of keys."""

    def issue(self, access: Access, user: int | None = None) -> str:
        """Return a new key.

        Args:
            access: with which it was asked for.
            user: the user on this machine who may exchange it; None for any.

        Raises:
            TooManyKeys: other principals have all that there may be.
        """
        self._drop_expired()
        scope = access.principal.scope
        own = [digest for digest, issued in self._issued.items() if issued.access.principal.scope == scope]
        if len(own) >= MOST_OWN:
            del self._issued[own[0]]
        elif len(self._issued) >= MOST_KEYS:
            raise TooManyKeys
        key = secrets.token_urlsafe(KEY_BYTES)
        self._issued[_digest(key)] = _Issued(access, user, self._clock() + KEY_S)
        return key

    def exchange(self, key: str, user_of: Callable[[], int | None] = lambda: None) -> Access | None:
        """Return what a key stands for; None if it is unknown, was exchanged, has expired, or is another user's. It
        cannot be exchanged again.

        Args:
            user_of: returns the user on this machine whose program asks; None where that is not known. The system's
                own (`ROOT`) may: forwarders of ports run as it. Called for a key that is known only.
        """
        self._drop_expired()
        digest = _digest(key)
        issued = self._issued.get(digest)
        if issued is None:
            return None
        # A stranger does not use it up.
        if issued.user is not None and user_of() not in (issued.user, ROOT, None):
            return None
        del self._issued[digest]
        return issued.access

    def _drop_expired(self) -> None:
        now = self._clock()
        for digest in [digest for digest, issued in self._issued.items() if issued.until <= now]:
            del self._issued[digest]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
