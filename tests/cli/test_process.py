"""Folders of this user: where the journal of a configuration is."""

import json
import logging
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from asyncfc_mcp.cli.process import hide_secrets, journal_path, log_to_stderr, shown_error
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import config_for_command, config_for_url, parse_config

TEXT = '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"journal": %s}}'


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ASYNCFC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def of_file(file: str, journal: str = '"auto"') -> BridgeConfig:
    return parse_config(TEXT % journal, file, {})


def path_of(config: BridgeConfig) -> Path:
    path = journal_path(config)
    assert path is not None
    return path


def test_each_configuration_has_a_journal_of_its_own(state: Path, tmp_path: Path):
    """In a folder with a readable name. The same file, however it is named, has the same journal."""
    path = path_of(of_file("mcp.json"))
    assert path == path_of(of_file(str(tmp_path / "mcp.json")))
    assert path.name == "journal.db"
    assert path.parent.parent == state / "journal"
    assert "mcp-json-" in path.parent.name
    others = [of_file("other.json"), config_for_command(["x"]), config_for_url("http://x/mcp")]
    assert len({path, *map(path_of, others)}) == 4


def test_a_command_has_a_journal_for_each_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Its waiting calls must not be made in another folder; those of a URL can be made from anywhere."""
    command, url = config_for_command(["server", "--root", "."]), config_for_url("http://x/mcp")
    before = path_of(command), path_of(url)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert path_of(command) != before[0]
    assert path_of(url) == before[1]


def test_the_configuration_says_where_the_journal_is(tmp_path: Path):
    """Or that there is none."""
    assert path_of(of_file("mcp.json", '"./own.db"')) == tmp_path / "own.db"
    assert journal_path(of_file("mcp.json", '"off"')) is None


def test_a_cache_folder_that_was_set_holds_the_journal_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As in a container with one volume; the state folder counts before it."""
    monkeypatch.setenv("ASYNCFC_CACHE_DIR", str(tmp_path / "cache"))
    assert path_of(of_file("mcp.json")).is_relative_to(tmp_path / "state")
    monkeypatch.delenv("ASYNCFC_STATE_DIR")
    assert path_of(of_file("mcp.json")).is_relative_to(tmp_path / "cache")


def test_the_names_of_folders_hold_no_secret():
    """Arguments of a command and queries of a URL are in the hash only."""
    secret: list[Any] = [config_for_command(["server", "--key", "hunter2"]), config_for_url("http://x/mcp?key=hunter2")]
    assert not [path for path in map(path_of, secret) if "hunter2" in str(path)]


def test_secrets_of_the_bridge_are_in_no_log_and_no_server(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Wherever a library quotes them."""
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    monkeypatch.setenv("OTHER", "1")
    settings = {"engine": "postgresql://u:${DB_PASSWORD}@h/db", "secret": "0123456789abcdef"}
    text = json.dumps({"mcpServers": {"s": {"command": "x"}}, "asyncfc": settings})
    with patch.object(logging.root, "handlers", []):
        log_to_stderr(verbose=False)
        hide_secrets(parse_config(text, "mcp.json", os.environ))
        logging.getLogger("asyncfc_mcp").warning("password=hunter22 refused, 0123456789abcdef")
        assert capsys.readouterr().err == "asyncfc-mcp: password=… refused, …\n"
        assert shown_error(ValueError("hunter22 at postgresql://u:x@h/db")) == "… at postgresql://h/db"
    assert "DB_PASSWORD" not in os.environ
    assert "OTHER" in os.environ


def test_a_database_needs_no_journal():
    """It keeps the futures."""
    text = '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"engine": "postgresql://h/db"}}'
    assert journal_path(parse_config(text, "mcp.json", {})) is None
