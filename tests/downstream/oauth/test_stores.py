"""Stores of credentials: one suite for each of them, and what holds for files and for keyrings only."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.downstream.oauth import keyring_store
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.keyring_store import PART_CHARS, KeyringStore
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.store import CredentialStore, StoreUnusable

SERVER, URL = "remote", "https://mcp.example/mcp?key=in-the-url"


class Entries:
    """A keyring in memory, as a backend of the library.

    Attributes:
        fails_at: number of the write that fails, from 1.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.writes = 0
        self.fails_at = 0

    def get_password(self, service: str, username: str, /) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str, /) -> None:
        self.writes += 1
        if self.writes == self.fails_at:
            raise RuntimeError(f"no: {password}")
        assert len(password) <= 1280, "Windows takes no more"
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str, /) -> None:
        del self.kept[service, username]


def grant(token: str = "access", **members: Any) -> Grant:
    return Grant(
        **{
            "issuer": "https://as.example",
            "token_endpoint": "https://as.example/token",
            "resource": "https://mcp.example/mcp",
            "client_id": "client",
            "access_token": token,
            "obtained_at": 1000.5,
            "scopes": ("read", "write"),
            "refresh_token": f"refresh-{token}",
            "expires_at": 2000.25,
            **members,
        }
    )


@pytest.fixture(params=["file", "keyring"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], CredentialStore]:
    """Return a function that opens the same store, as another process does."""
    backend = Entries()
    if request.param == "file":
        return lambda: FileStore(tmp_path / "oauth")
    return lambda: KeyringStore(tmp_path / "oauth", backend)


def test_what_was_written_is_read_by_another_process(opened: Callable[[], CredentialStore]):
    """Whole, also where a token is long; each entry by itself."""
    first, second = opened(), opened()
    assert first.load_grant(SERVER, URL) is None
    long = grant("x" * 5000)
    first.save_grant(SERVER, URL, long)
    first.save_grant("other", URL, grant("other"))
    assert second.load_grant(SERVER, URL) == long
    assert second.load_grant("other", URL) == grant("other")
    assert second.load_grant(SERVER, URL + "x") is None
    second.save_grant(SERVER, URL, grant("short"))
    assert first.load_grant(SERVER, URL) == grant("short")
    second.drop_grant(SERVER, URL)
    second.drop_grant(SERVER, URL)
    assert first.load_grant(SERVER, URL) is None
    assert first.load_grant("other", URL) == grant("other")


def test_a_registration_belongs_to_an_issuer_and_a_redirect(opened: Callable[[], CredentialStore]):
    """Another issuer never sees it."""
    store = opened()
    machine = Registration("https://as.example", "id-1", "registered", "client_secret_basic", "secret", None, 5.0)
    person = Registration("https://as.example", "id-2", "registered", redirect_uri="http://127.0.0.1:1/callback")
    store.save_registration(machine)
    store.save_registration(person)
    assert store.load_registration("https://as.example", None) == machine
    assert store.load_registration("https://as.example", "http://127.0.0.1:1/callback") == person
    assert store.load_registration("https://as.example/", None) is None
    assert store.load_registration("https://as.example", "http://127.0.0.1:2/callback") is None
    store.drop_registration("https://as.example", None)
    store.drop_registration("https://as.example", None)
    assert store.load_registration("https://as.example", None) is None
    assert store.load_registration("https://as.example", "http://127.0.0.1:1/callback") == person


def test_the_version_differs_after_each_change(opened: Callable[[], CredentialStore]):
    """Of this grant only, also where another process made it."""
    first, second = opened(), opened()
    seen = [first.version(SERVER, URL)]
    for change in (
        lambda: second.save_grant(SERVER, URL, grant("a")),
        lambda: second.save_grant(SERVER, URL, grant("b")),
        lambda: second.drop_grant(SERVER, URL),
        lambda: second.save_grant(SERVER, URL, grant("a")),
    ):
        change()
        seen.append(first.version(SERVER, URL))
    assert all(one != other for one, other in pairwise(seen))
    before = first.version(SERVER, URL)
    second.save_grant("other", URL, grant("c"))
    assert first.version(SERVER, URL) == before


def test_one_at_a_time_has_the_lock_of_a_grant(opened: Callable[[], CredentialStore]):
    """In one process as well; of another grant, another one has it."""
    first, second = opened(), opened()
    with first.lock_nowait(SERVER, URL) as held:
        assert held
        with second.lock_nowait(SERVER, URL) as again, second.lock_nowait("other", URL) as other:
            assert (again, other) == (False, True)
    with second.lock_nowait(SERVER, URL) as held:
        assert held


def _holds(folder: Path, pipe: Any) -> None:
    with FileStore(folder).lock_nowait(SERVER, URL) as held:
        pipe.send(held)
        pipe.recv()


def test_a_lock_ends_with_its_process(tmp_path: Path):
    """However that ends."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_holds, args=(tmp_path, theirs))
    process.start()
    try:
        assert ours.poll(60)
        assert ours.recv() is True
        with FileStore(tmp_path).lock_nowait(SERVER, URL) as held:
            assert not held
    finally:
        process.kill()
        process.join()
    with FileStore(tmp_path).lock_nowait(SERVER, URL) as held:
        assert held
    ours.close()
    theirs.close()
    process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_files_are_private_and_their_names_show_nothing(tmp_path: Path):
    """Mode 0600 in a folder of mode 0700."""
    store = FileStore(tmp_path / "oauth")
    store.save_grant(SERVER, URL, grant())
    store.save_registration(Registration("https://as.example", "id", "registered"))
    with store.lock_nowait(SERVER, URL):
        found = sorted((tmp_path / "oauth").iterdir())
        assert [each.stat().st_mode & 0o777 for each in found] == [0o600] * 3
        assert [each.suffix for each in found] == [".json", ".json", ".lock"]
        assert not any(part in each.name for each in found for part in (SERVER, "example"))
    assert (tmp_path / "oauth").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"for": null}', "[" * 100_000, "\xff"])
def test_a_file_that_is_no_entry_is_none(tmp_path: Path, text: str):
    """The next one replaces it."""
    store = FileStore(tmp_path)
    store.save_grant(SERVER, URL, grant())
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(text.encode("latin-1"))
    assert store.load_grant(SERVER, URL) is None
    store.save_grant(SERVER, URL, grant())
    assert store.load_grant(SERVER, URL) == grant()


def test_the_entry_of_another_server_is_none(tmp_path: Path):
    """Even if its file was copied to the place of this one."""
    store = FileStore(tmp_path)
    store.save_grant(SERVER, URL, grant())
    (file,) = tmp_path.glob("*.json")
    text = file.read_text()
    store.drop_grant(SERVER, URL)
    store.save_grant("other", URL, grant("other"))
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    assert store.load_grant("other", URL) is None


def test_what_a_killed_process_left_goes_with_the_grant(tmp_path: Path):
    """A part of a write has tokens, too."""
    store = FileStore(tmp_path)
    store.save_grant(SERVER, URL, grant())
    (file,) = tmp_path.glob("*.json")
    file.with_suffix(".12345.part").write_text("token")
    store.drop_grant(SERVER, URL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes do not hold here")
def test_a_folder_that_cannot_be_used_is_an_error_without_credentials(tmp_path: Path):
    """Of every operation that needs it."""
    store = FileStore(tmp_path)
    store.save_grant(SERVER, URL, grant("secret-token"))
    tmp_path.chmod(0)
    try:
        for use in (
            lambda: store.load_grant(SERVER, URL),
            lambda: store.save_grant(SERVER, URL, grant("secret-token")),
            lambda: store.drop_grant(SERVER, URL),
            lambda: store.lock_nowait(SERVER, URL).__enter__(),
        ):
            with pytest.raises(StoreUnusable) as failure:
                use()
            assert "secret-token" not in str(failure.value)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_write_to_a_keyring_that_fails_leaves_the_old_entry(tmp_path: Path, fails_at: int):
    """Whichever of its parts it is, and the error does not quote it."""
    backend = Entries()
    store = KeyringStore(tmp_path, backend)
    before, after = grant("a" * 3 * PART_CHARS, refresh_token=None), grant("b" * 3 * PART_CHARS, refresh_token=None)
    store.save_grant(SERVER, URL, before)
    backend.writes, backend.fails_at = 0, fails_at
    with pytest.raises(StoreUnusable, match="RuntimeError") as failure:
        store.save_grant(SERVER, URL, after)
    assert "bbb" not in str(failure.value)
    assert KeyringStore(tmp_path, backend).load_grant(SERVER, URL) == before


def test_nothing_is_left_in_a_keyring(tmp_path: Path):
    """Neither parts of earlier versions, nor of a dropped entry; and no credentials in the folder."""
    backend = Entries()
    store = KeyringStore(tmp_path, backend)
    for token in ("a" * 10_000, "b" * 5_000, "c"):
        store.save_grant(SERVER, URL, grant(token, refresh_token="hidden"))
    assert len(backend.kept) == 1
    store.save_grant(SERVER, URL, grant("d" * 5_000))
    store.drop_grant(SERVER, URL)
    assert backend.kept == {}
    assert not any("hidden" in each.read_text() for each in tmp_path.iterdir())


def test_an_entry_of_a_keyring_that_lacks_a_part_is_none(tmp_path: Path):
    """As one that was damaged."""
    backend = Entries()
    store = KeyringStore(tmp_path, backend)
    store.save_grant(SERVER, URL, grant("a" * 5_000))
    part = next(key for key, value in backend.kept.items() if "aaa" in value)
    del backend.kept[part]
    assert store.load_grant(SERVER, URL) is None


def test_the_keyring_of_the_system_is_that_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A system without one is an error that says what to do."""
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.backends import fail

    entries = Entries()

    class Backend(KeyringBackend):
        priority = 1  # pyright: ignore[reportAssignmentType]

        def get_password(self, service: str, username: str) -> str | None:
            return entries.get_password(service, username)

        def set_password(self, service: str, username: str, password: str) -> None:
            entries.set_password(service, username, password)

        def delete_password(self, service: str, username: str) -> None:
            entries.delete_password(service, username)

    before = keyring.get_keyring()
    try:
        keyring.set_keyring(Backend())
        KeyringStore(tmp_path).save_grant(SERVER, URL, grant())
        assert [service for service, _ in entries.kept] == ["asyncfc-mcp"]
        assert json.loads(next(iter(entries.kept.values())))["record"]["access_token"] == "access"
        keyring.set_keyring(fail.Keyring())
        with pytest.raises(StoreUnusable, match='"credentials": "file"'):
            KeyringStore(tmp_path).load_grant(SERVER, URL)
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(StoreUnusable, match=r"asyncfc-mcp\[keyring\]"):
        keyring_store.KeyringStore(tmp_path).load_grant(SERVER, URL)
