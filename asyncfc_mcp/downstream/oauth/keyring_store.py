"""Store of credentials in the keyring of the operating system.

Owns the entries of the service `asyncfc-mcp`, and their division into parts where a keyring limits their size. The
folder holds no credentials: locks, and a file for each grant that shows other processes that it has changed. The
library is imported with the first access, which may take long, and may ask the user to unlock the keyring: it is to be
made in a thread.
"""

import json
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar, cast

from asyncfc_mcp.downstream.oauth.file_store import entry_name, file_version, lock_file, parsed, written
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.store import StoreUnusable
from asyncfc_mcp.private_files import make_folder, replace_private

SERVICE: Final = "asyncfc-mcp"
PART_CHARS: Final = 1200
"""Longest value of one entry: Windows allows 2,560 bytes of UTF-16, and access tokens alone may be longer."""

_R = TypeVar("_R", Grant, Registration)


class Backend(Protocol):
    """The part of a keyring's backend that is used."""

    def get_password(self, service: str, username: str, /) -> str | None: ...

    def set_password(self, service: str, username: str, password: str, /) -> None: ...

    def delete_password(self, service: str, username: str, /) -> None: ...


class KeyringStore:
    """Implements `store.CredentialStore`.

    Args:
        folder: of locks and versions.
        backend: None is the keyring that the library chooses.
    """

    def __init__(self, folder: Path, backend: Backend | None = None) -> None:
        self._folder = folder
        self._backend = backend

    def load_grant(self, server: str, url: str) -> Grant | None:
        return self._load(Grant, entry_name("grant", server, url), [server, url])

    def save_grant(self, server: str, url: str, grant: Grant) -> None:
        name = entry_name("grant", server, url)
        self._write(name, written(grant, [server, url]))
        self._changed(name)

    def drop_grant(self, server: str, url: str) -> None:
        name = entry_name("grant", server, url)
        self._write(name, None)
        self._changed(name)

    def load_registration(self, issuer: str, redirect_uri: str | None) -> Registration | None:
        return self._load(Registration, entry_name("client", issuer, redirect_uri), [issuer, redirect_uri])

    def save_registration(self, registration: Registration) -> None:
        key = [registration.issuer, registration.redirect_uri]
        self._write(entry_name("client", *key), written(registration, key))

    def drop_registration(self, issuer: str, redirect_uri: str | None) -> None:
        self._write(entry_name("client", issuer, redirect_uri), None)

    def version(self, server: str, url: str) -> object:
        return file_version(self._folder / f"{entry_name('grant', server, url)}.version")

    @contextmanager
    def lock_nowait(self, server: str, url: str) -> Generator[bool]:
        with lock_file(self._folder / f"{entry_name('grant', server, url)}.lock") as held:
            yield held

    def _changed(self, name: str) -> None:
        try:
            make_folder(self._folder)
            replace_private(self._folder / f"{name}.version", [secrets.token_hex(8).encode()])
        except OSError as exc:
            raise StoreUnusable(f"{self._folder} cannot be written: {exc.strerror}") from None

    def _load(self, record: type[_R], name: str, key: list[str | None]) -> _R | None:
        with _readable("read"):
            backend = self._keyring()
            text = backend.get_password(SERVICE, name)
            if text is None:
                return None
            parts = [backend.get_password(SERVICE, part) for part in _parts_of(text, name)]
        if parts:
            text = "".join(part or "" for part in parts)
        with suppress(ValueError):
            return parsed(record, text, key)
        return None

    def _write(self, name: str, text: str | None) -> None:
        """Write an entry, or delete it. The entry itself is written last, so that a crash leaves the old one or the new
        one: its parts have names of their own in each version."""
        with _readable("written"):
            backend = self._keyring()
            before = backend.get_password(SERVICE, name)
            if text is None:
                if before is not None:
                    backend.delete_password(SERVICE, name)
            elif len(text) <= PART_CHARS:
                backend.set_password(SERVICE, name, text)
            else:
                version, parts = secrets.token_hex(4), range(0, len(text), PART_CHARS)
                index = json.dumps({"parts": len(parts), "version": version})
                for part, start in zip(_parts_of(index, name), parts, strict=True):
                    backend.set_password(SERVICE, part, text[start : start + PART_CHARS])
                backend.set_password(SERVICE, name, index)
            for part in _parts_of(before or "", name):
                with suppress(Exception):  # what is left of an earlier version is found by nobody
                    backend.delete_password(SERVICE, part)

    def _keyring(self) -> Backend:
        if self._backend is None:
            self._backend = _system_keyring()
        return self._backend


def _system_keyring() -> Backend:
    try:
        import keyring
        from keyring.backends.fail import Keyring as NoKeyring
    except ImportError:
        raise StoreUnusable(
            '"credentials": "keyring" needs a package that is not installed: pip install \'asyncfc-mcp[keyring]\''
        ) from None
    found = keyring.get_keyring()
    if isinstance(found, NoKeyring):
        raise StoreUnusable('this system has no keyring that can be used; set "credentials": "file"')
    return cast("Backend", found)


def _parts_of(text: str, name: str) -> list[str]:
    """Return the names of the entries that hold the parts of an entry; none if it is not divided."""
    try:
        index = json.loads(text)
        return [f"{name}.{index['version']}.{number}" for number in range(min(int(index["parts"]), 1000))]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


@contextmanager
def _readable(what: str) -> Generator[None]:
    """Convert whatever a backend raises; its text may quote an entry, so only its type is shown."""
    try:
        yield
    except StoreUnusable:
        raise
    except Exception as exc:  # noqa: BLE001 - backends raise errors of the libraries below them
        raise StoreUnusable(f"the keyring cannot be {what} ({type(exc).__name__})") from None
