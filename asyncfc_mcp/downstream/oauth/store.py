"""Interface of the store of credentials, which several processes of one user share.

Pure. Implementations: `file_store`, `keyring_store`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from asyncfc_mcp.downstream.oauth.records import Grant, Registration


class StoreUnusable(Exception):
    """The store cannot be read or written; the text says why, and shows no credential."""


class CredentialStore(Protocol):
    """Credentials of one user.

    A grant belongs to a server: its name in the configuration and its URL. A registration belongs to an issuer and a
    redirect URI. What was written is there after a crash, and is seen by other processes at their next read.
    """

    def load_grant(self, server: str, url: str) -> Grant | None:
        """Return the grant of a server; None if there is none, or it is not readable.

        Raises:
            StoreUnusable: the store cannot be read.
        """
        ...

    def save_grant(self, server: str, url: str, grant: Grant) -> None:
        """Replace the grant of a server.

        Raises:
            StoreUnusable: it was not written.
        """
        ...

    def drop_grant(self, server: str, url: str) -> None:
        """Drop the grant of a server, if there is one.

        Raises:
            StoreUnusable: it was not dropped.
        """
        ...

    def load_registration(self, issuer: str, redirect_uri: str | None) -> Registration | None:
        """Return the registration at an issuer; None if there is none, or it is not readable.

        Raises:
            StoreUnusable: the store cannot be read.
        """
        ...

    def save_registration(self, registration: Registration) -> None:
        """Replace the registration at its issuer.

        Raises:
            StoreUnusable: it was not written.
        """
        ...

    def drop_registration(self, issuer: str, redirect_uri: str | None) -> None:
        """Drop the registration at an issuer, if there is one.

        Raises:
            StoreUnusable: it was not dropped.
        """
        ...

    def version(self, server: str, url: str) -> object:
        """Return a value that differs once the grant of a server has changed. Cheap enough for every second."""
        ...

    @contextmanager
    def lock_nowait(self, server: str, url: str) -> Generator[bool]:
        """Hold the lock of a server's grant between processes while the block runs; yield false without it where
        another process or task has it. Released by the operating system if this process dies."""
        ...
