"""Tokens of persons: the file, its protection, and what a change of it ends."""

import logging
import os
from pathlib import Path

import pytest

from asyncfc_mcp.transports.http.auth import token_file
from asyncfc_mcp.transports.http.auth.authenticator import Access, NotAuthenticated, Token
from asyncfc_mcp.transports.http.auth.token_file import (
    InvalidName,
    TokenFile,
    UnusableTokenFile,
    new_token,
    read_tokens,
)
from tests.support.virtual_time import on_virtual_time


@pytest.fixture(autouse=True)
def _private_files():
    before = os.umask(0o077)
    yield
    os.umask(before)


def access_of(file: TokenFile, text: str) -> Access | None:
    token = Token.of(f"Bearer {text}".encode())
    assert token is not None
    return file.known(token)


@pytest.mark.parametrize("name", ["alice", "a.b-c_d+e@example.org", "7"])
@pytest.mark.parametrize("scopes", [(), ("mcp", "tools:call")])
def test_a_new_token_is_admitted_by_its_line(tmp_path: Path, name: str, scopes: tuple[str, ...]):
    """As the person of that name; the line does not hold it."""
    token, line = new_token(name, scopes)
    path = tmp_path / "tokens.toml"
    path.write_text(f"# persons\n{line}\n")
    access = access_of(TokenFile(path), token)
    assert access is not None
    assert access.principal.scope.key == f"person:{name}"
    assert access.principal.name == name
    assert access.principal.grants == (frozenset(scopes) if scopes else None)
    assert token not in line
    assert token[4:] not in line
    assert len(token) > 43
    assert new_token(name)[0] != token


@pytest.mark.parametrize("name", ["", "a b", "*", "scope:admin", "oauth:x", "-a", "a" * 65, "ä", "a\n", "a/b"])
def test_a_name_is_a_word(name: str):
    """None that access rules, keys of futures or a terminal could take for something else."""
    with pytest.raises(InvalidName):
        new_token(name)


HASH = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("alice", "not valid TOML"),
        (f'alice = "{HASH}"\nalice = "{OTHER}"', "is a name there twice"),
        (f'alice = "{HASH}"\nbob = "{HASH}"', "one token for two persons"),
        ('alice = "afc_secret"', "no hash of a token for alice"),
        ('alice = ["sha256:ab"]', "no hash of a token for alice"),
        (f'alice = "{HASH.upper()}"', "no hash of a token for alice"),
        ("alice = []", "no hash of a token for alice"),
        ("alice = 7", "no hash of a token for alice"),
        (f'alice = {{ tokens = "{HASH}", scope = ["a"] }}', "unknown key for alice: scope"),
        (f'alice = {{ tokens = "{HASH}", scopes = "a" }}', "no list of OAuth scopes"),
        (f'alice = {{ tokens = "{HASH}", scopes = ["a b"] }}', "no list of OAuth scopes"),
        (f'"scope:a" = "{HASH}"', "cannot be the name"),
        ('afc_verysecret = "alice"', "no hash of a token for …"),
    ],
)
def test_a_wrong_file_is_refused_with_words_and_without_secrets(tmp_path: Path, text: str, fault: str):
    """At the start; a pasted token is not repeated."""
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(UnusableTokenFile) as refused:
        TokenFile(path)
    assert fault in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "abab" not in str(refused.value)


def test_a_person_may_have_several_tokens():
    """So that one is replaced without a gap."""
    principals = read_tokens(f'alice = ["{HASH}", "{OTHER}"]\n')
    assert {principal.name for principal in principals.values()} == {"alice"}
    assert len(principals) == 2


def test_a_file_is_missing_or_a_folder(tmp_path: Path):
    """It says so, and does not start."""
    for path in (tmp_path / "nothing.toml", tmp_path):
        with pytest.raises(UnusableTokenFile):
            TokenFile(path)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_file_that_everybody_can_write_to_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Whoever can write to it has access. One that others can read is used, with a warning."""
    path = tmp_path / "tokens.toml"
    path.write_text(f'alice = "{HASH}"\n')
    for mode, words in ((0o644, "read by every user"), (0o660, "written by its group"), (0o600, "")):
        caplog.clear()
        path.chmod(mode)
        TokenFile(path)
        assert (words in caplog.text) if words else not caplog.text
    path.chmod(0o602)
    with pytest.raises(UnusableTokenFile):
        TokenFile(path)


@on_virtual_time
async def test_who_is_removed_loses_access_at_once(tmp_path: Path):
    """Access that streams and sessions refer to is revoked; others keep the very same."""
    path = tmp_path / "tokens.toml"
    (alice, hers), (bob, his) = new_token("alice"), new_token("bob")
    path.write_text(f"{hers}\n{his}\n")
    file = TokenFile(path)
    removed, kept = access_of(file, alice), access_of(file, bob)
    assert removed is not None
    path.write_text(f"# {hers}\n{his}\n")
    file.refresh()
    assert removed.revoked
    assert access_of(file, alice) is None
    assert access_of(file, bob) is kept
    token = Token.of(f"Bearer {alice}".encode())
    assert token is not None
    with pytest.raises(NotAuthenticated):
        await file.check(token)


def test_two_changes_in_one_moment_are_both_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Even if the file system gives them one time, and the file has one size."""
    path = tmp_path / "tokens.toml"
    (alice, hers), (amber, other) = new_token("alice"), new_token("amber")
    path.write_text(hers)
    state = (1, 1, 1, 1)
    monkeypatch.setattr(token_file, "_state_of", lambda found: state)
    file = TokenFile(path)
    path.write_text(other)
    file.refresh()
    assert access_of(file, alice) is None
    assert access_of(file, amber) is not None


def test_a_token_that_moves_to_another_person_is_another_access(tmp_path: Path):
    """Streams of the first one end; other scopes of the same person are in force at once."""
    path = tmp_path / "tokens.toml"
    token, line = new_token("alice")
    path.write_text(line)
    file = TokenFile(path)
    first = access_of(file, token)
    assert first is not None
    path.write_text(f"alice = {{ tokens = [{line.partition(' = ')[2]}], scopes = ['read'] }}")
    file.refresh()
    assert access_of(file, token) is first
    assert first.principal.grants == {"read"}
    path.write_text(line.replace("alice", "bob"))
    file.refresh()
    assert first.revoked
    moved = access_of(file, token)
    assert moved is not None
    assert moved.principal.name == "bob"


def test_a_broken_file_changes_nothing_and_a_missing_one_admits_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """One wrong line must not lock everybody out. A file that is away for a moment is being saved."""
    caplog.set_level(logging.ERROR)
    path = tmp_path / "tokens.toml"
    token, line = new_token("alice")
    path.write_text(line)
    file = TokenFile(path)
    path.write_text(line + "\nbob = \n")
    file.refresh()
    assert access_of(file, token) is not None
    assert "stay valid" in caplog.text
    path.unlink()
    file.refresh()
    assert access_of(file, token) is not None
    path.write_text(line)
    file.refresh()
    path.unlink()
    for _ in range(2):
        file.refresh()
    assert access_of(file, token) is None
    path.write_text(line)
    file.refresh()
    assert access_of(file, token) is not None
