"""Command lines of sessions, which are read without the full parser."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from asyncfc_mcp.housekeeping.log_folder import daemon_log
from asyncfc_mcp.thin.launch import Launcher, Source, log_folder, open_log
from asyncfc_mcp.thin.main import session_of

posix = pytest.mark.skipif(os.name != "posix", reason="there is no daemon on Windows")


@posix
@pytest.mark.parametrize(
    ("words", "source"),
    [
        ("serve --shared --config a.json", Source("a.json", None, [])),
        ("serve --config=a.json --shared -v", Source("a.json", None, [])),
        ("serve --shared --url https://h/", Source(None, "https://h/", [])),
        ("serve --transport stdio --shared -- npx -y --shared x", Source(None, None, ["npx", "-y", "--shared", "x"])),
    ],
)
def test_a_session_is_recognised(words: str, source: Source):
    """In the forms that `install` and users write."""
    found = session_of(words.split())
    assert found is not None
    assert (found[0], found[1]) == (source, "-v" in words)


@pytest.mark.parametrize(
    "words",
    [
        "", "serve", "serve --config a", "inspect --shared --config a", "--help", "serve --shared",
        "serve --shared --config", "serve --shared --config=", "serve --shared --config a --url b",
        "serve --shared --config a -- b", "serve --shared --config a b", "serve --shared --config a --config b",
        "serve --shared --transport http --config a", "serve --shared --config a --auth-token-env X",
        "serve --shared=1 --config a", "serve --shared --help", "serve -- x --shared",
    ],
)  # fmt: skip
def test_other_command_lines_are_left_to_the_full_parser(words: str):
    """Which has the same option, and says what is wrong."""
    assert session_of(words.split()) is None


@posix
def test_what_a_session_creates_for_the_log_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may be the first that needs these folders."""
    state, config = tmp_path / "state", tmp_path / "mcp.json"
    monkeypatch.setenv("ASYNCFC_LOG_DIR", str(state / "log"))
    launcher = Launcher(Source(str(config), None, ()), {**os.environ, "ASYNCFC_RUNTIME_DIR": "/tmp/r"})
    assert Path(launcher.log) == daemon_log(state / "log", launcher.place.name)
    os.close(open_log(launcher.log))
    assert [each.stat().st_mode & 0o077 for each in (state, state / "log", Path(launcher.log))] == [0, 0, 0]


@posix
@pytest.mark.parametrize("environ", [{}, {"XDG_STATE_HOME": "/x"}, {"ASYNCFC_LOG_DIR": "/y"}])
def test_the_log_is_where_all_logs_are(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """Though the folder is worked out without the library that the bridge uses for it."""
    for name in ("XDG_STATE_HOME", "ASYNCFC_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    expected = environ.get("ASYNCFC_LOG_DIR") or platformdirs.user_log_dir("asyncfc-mcp")
    assert Path(log_folder(os.environ)) == Path(expected)
