"""Store of credentials in private files, one for each grant and each registration.

Owns their names (hashes, so that a listing of the folder shows no servers), their JSON, and the locks beside them. A
file is on the disk before the credentials in it are used: a server that rotates refresh tokens accepts only the last
one, so one that is lost in a crash would cost the user another sign-in.
"""

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.store import StoreUnusable
from asyncfc_mcp.private_files import is_at, make_folder, open_private, read_private, replace_private, try_lock

_R = TypeVar("_R", Grant, Registration)


class FileStore:
    """Implements `store.CredentialStore` in a folder of this user.

    The locks are those of the operating system, which release themselves when a process dies. (Rejected: the library
    filelock, which is the same system call here, with a dependency more.)

    Args:
        folder: created when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_grant(self, server: str, url: str) -> Grant | None:
        return self._load(Grant, *_grant_key(server, url))

    def save_grant(self, server: str, url: str, grant: Grant) -> None:
        self._save(*_grant_key(server, url), grant)

    def drop_grant(self, server: str, url: str) -> None:
        self._drop(*_grant_key(server, url))

    def load_registration(self, issuer: str, redirect_uri: str | None) -> Registration | None:
        return self._load(Registration, *_registration_key(issuer, redirect_uri))

    def save_registration(self, registration: Registration) -> None:
        self._save(*_registration_key(registration.issuer, registration.redirect_uri), registration)

    def drop_registration(self, issuer: str, redirect_uri: str | None) -> None:
        self._drop(*_registration_key(issuer, redirect_uri))

    def version(self, server: str, url: str) -> object:
        return file_version(self._path(*_grant_key(server, url)))

    @contextmanager
    def lock_nowait(self, server: str, url: str) -> Generator[bool]:
        with lock_file(self._path(*_grant_key(server, url)).with_suffix(".lock")) as held:
            yield held

    def _path(self, kind: str, *key: str | None) -> Path:
        return self._folder / f"{entry_name(kind, *key)}.json"

    def _load(self, record: type[_R], kind: str, *key: str | None) -> _R | None:
        try:
            return parsed(record, read_private(self._path(kind, *key)), list(key))
        except FileNotFoundError:
            return None
        except ValueError:
            return None
        except OSError as exc:
            raise StoreUnusable(f"the stored credentials cannot be read: {_reason(exc)}") from None

    def _save(self, kind: str, *key_and_record: Any) -> None:
        *key, record = key_and_record
        path = self._path(kind, *key)
        try:
            make_folder(self._folder)
            replace_private(path, [written(record, key).encode()], durable=True)
        except OSError as exc:
            raise StoreUnusable(f"the credentials cannot be stored: {_reason(exc)}") from None

    def _drop(self, kind: str, *key: str | None) -> None:
        path = self._path(kind, *key)
        try:
            path.unlink(missing_ok=True)
            for part in self._folder.glob(f"{path.stem}.*.part"):  # of a process that was killed while it wrote
                part.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreUnusable(f"the stored credentials cannot be deleted: {_reason(exc)}") from None


def _grant_key(server: str, url: str) -> tuple[str, str, str]:
    return "grant", server, url


def _registration_key(issuer: str, redirect_uri: str | None) -> tuple[str, str, str | None]:
    return "client", issuer, redirect_uri


def entry_name(kind: str, *key: str | None) -> str:
    """Return the name of an entry, which shows its kind only: `grant-…` or `client-…`."""
    return f"{kind}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}"


def written(record: Grant | Registration, key: list[str | None]) -> str:
    """Return an entry as it is stored."""
    return json.dumps({"for": key, "record": record.to_json()})


def parsed(record: type[_R], text: str, key: list[str | None]) -> _R | None:
    """Return the record in a stored entry; None if it is the entry of something else.

    Raises:
        ValueError: it is malformed.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict) or content.get("for") != key:  # pyright: ignore[reportUnknownMemberType]
        return None
    return record.from_json(content.get("record"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def file_version(path: Path) -> object:
    """Return a value that differs once a file was replaced; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def lock_file(path: Path) -> Generator[bool]:
    """Hold the lock of a file while the block runs; yield false where it is held already.

    Raises:
        StoreUnusable: it cannot be locked.
    """
    try:
        make_folder(path.parent)
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        raise StoreUnusable(f"the stored credentials cannot be locked: {_reason(exc)}") from None
    try:
        try:
            # A lock that was removed as unused at this moment counts as held: the caller tries again.
            held = try_lock(descriptor) and is_at(descriptor, path)
        except OSError as exc:
            raise StoreUnusable(f"the stored credentials cannot be locked: {_reason(exc)}") from None
        yield held
    finally:
        os.close(descriptor)  # and the lock with it


def _reason(exc: OSError) -> str:
    return f"{exc.strerror or type(exc).__name__} ({exc.filename or 'file'})"
