"""Which sessions share a daemon, and where it works."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncfc_mcp.thin.place import Place, PlaceUnsafe, connect, daemon_folder, daemon_name, make_folder, source_words

HOME = "/"


def names(text: str, file: Path, *sessions: tuple[Mapping[str, str], str]) -> list[str]:
    """The daemons of sessions with a configuration, each with its environment and folder."""
    file.write_text(text)
    return [daemon_name(["--config", str(file)], environ, cwd) for environ, cwd in sessions]


@pytest.mark.parametrize(
    ("text", "one", "other", "shared"),
    [
        ("{}", {}, {"EDITOR": "vi", "CLAUDE_CODE_SESSION_ID": "7", "CLAUDE_CODE_TOKEN": "t"}, True),
        ('{"a": "${A}"}', {"A": "1", "B": "1"}, {"A": "1", "B": "2"}, True),
        ('{"a": "${A}"}', {"A": "1"}, {"A": "2"}, False),
        ('{"a": "${A:-x}"}', {}, {"A": ""}, False),
        ('{"a": "${env:A}"}', {"A": "1"}, {}, False),
        ('{"a": "{env:A}"}', {"A": "1"}, {}, False),
        ('{"a": "$A"}', {"A": "1"}, {}, False),
        ("{}", {"GITHUB_TOKEN": "1"}, {"GITHUB_TOKEN": "2"}, False),
        ("{}", {"AWS_PROFILE": "a"}, {}, False),
        ("{}", {"OPENAI_API_KEY": "a"}, {"OPENAI_API_KEY": "a", "TERM": "dumb"}, True),
        ("{}", {"ASYNCFC_STATE_DIR": "/a"}, {"ASYNCFC_STATE_DIR": "/b"}, False),
    ],
)
def test_sessions_share_a_daemon_if_its_servers_would_do_the_same(
    tmp_path: Path, text: str, one: Mapping[str, str], other: Mapping[str, str], shared: bool
) -> None:
    first, second = names(text, tmp_path / "mcp.json", (one, "/a"), (other, "/a"))
    assert (first == second) is shared


@pytest.mark.parametrize(
    ("text", "depends"),
    [
        ("{}", False),
        ('{"args": ["${workspaceFolder}/data"]}', True),
        ('{"args": ["${workspaceFolderBasename}"]}', True),
        ('{"cwd": "${PWD}"}', True),
        ('{"projects": {"/a": {"mcpServers": {}}}}', True),
    ],
)
def test_servers_that_depend_on_the_folder_of_the_session_have_a_daemon_there(
    tmp_path: Path, text: str, depends: bool
) -> None:
    """All others have one for all folders, which works in the home directory."""
    file = tmp_path / "mcp.json"
    first, second = names(text, file, ({"HOME": HOME}, "/usr"), ({"HOME": HOME}, "/etc"))
    assert (first != second) is depends
    words = ["--config", str(file)]
    assert daemon_folder(words, {"HOME": HOME}, "/usr") == ("/usr" if depends else HOME)


def test_a_command_has_a_daemon_in_its_folder() -> None:
    """Words of it may be relative paths. A URL means the same everywhere."""
    command, url = ["--", "python", "server.py"], ["--url", "https://example.com/mcp"]
    assert daemon_name(command, {}, "/usr") != daemon_name(command, {}, "/etc")
    assert daemon_folder(command, {"HOME": HOME}, "/usr") == "/usr"
    assert daemon_name(url, {}, "/usr") == daemon_name(url, {}, "/etc")
    assert daemon_folder(url, {"HOME": "/nowhere"}, "/usr") == "/"


def test_a_file_is_named_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, and through links."""
    file = tmp_path / "mcp.json"
    file.write_text("{}")
    (tmp_path / "link.json").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    expected = ["--config", os.path.realpath(file)]
    assert source_words("mcp.json", None, ()) == source_words(str(tmp_path / "link.json"), None, ()) == expected


def test_a_folder_that_is_a_link_is_not_used_to_connect(tmp_path: Path) -> None:
    """Although a daemon of this user listens where it leads: whoever made the link chooses which one."""
    own = tmp_path / "own"
    make_folder(str(own))
    (tmp_path / "link").symlink_to(own)
    place = Place(str(own), "n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place.socket)
        listener.listen()
        connect(place, 1.0).close()
        with pytest.raises(PlaceUnsafe, match="not a folder"):
            connect(Place(str(tmp_path / "link"), "n"), 1.0)
