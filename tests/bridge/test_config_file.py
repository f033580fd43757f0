"""The configuration's file, followed while it is written in all the ways of editors."""

import json
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncfc_mcp.bridge import config_file
from asyncfc_mcp.bridge.config_file import ConfigFile
from asyncfc_mcp.config.changes import ConfigChanges, changes
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import load_config
from tests.support.virtual_time import until

pytestmark = pytest.mark.anyio


def text(*servers: str, **settings: Any) -> str:
    return json.dumps({"mcpServers": {name: {"command": name} for name in servers}, "asyncfc": settings})


class Followed:
    """A file, and what a bridge would use of it."""

    def __init__(self, path: Path, environ: dict[str, str] | None = None) -> None:
        self.path = path
        self.config = load_config(path, environ or {})
        self.reads = 0
        self.used = 0
        assert self.config.origin is not None
        self.file = ConfigFile(
            self.config, self.config.origin, self._use, lambda: self.config.settings.reload == "auto"
        )

    async def _use(self, config: BridgeConfig) -> ConfigChanges:
        found = changes(self.config, config)
        self.config = found.applied(self.config)
        self.used += bool(found.lines())
        return found

    @property
    def servers(self) -> list[str]:
        return [server.name for server in self.config.servers]

    async def looks(self, times: int = 3) -> None:
        """Return when the file was looked at so many times."""
        await anyio.sleep(times * (config_file.POLL_S + config_file.SETTLE_S))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_S", 0.02), ("SETTLE_S", 0.02), ("GRACE_S", 0.1)):
        monkeypatch.setattr(config_file, name, seconds)


@asynccontextmanager
async def following(path: Path, environ: dict[str, str] | None = None) -> AsyncGenerator[Followed]:
    followed = Followed(path, environ)
    async with anyio.create_task_group() as tg:
        tg.start_soon(followed.file.run)
        await followed.looks(1)
        yield followed
        tg.cancel_scope.cancel()


def in_place(path: Path, content: str) -> None:
    path.write_text(content)


def by_rename(path: Path, content: str) -> None:
    """As most editors do."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


def as_vim(path: Path, content: str) -> None:
    """The file is renamed to a backup, written anew, and the backup removed."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text(content)
    backup.unlink()


def removed_first(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content)


@pytest.mark.parametrize("write", [in_place, by_rename, as_vim, removed_first])
async def test_a_change_is_used_however_it_is_written(tmp_path: Path, write: Callable[[Path, str], None]):
    """Several times, since each way may change what is looked at."""
    path = tmp_path / "mcp.json"
    path.write_text(text("a"))
    async with following(path) as followed:
        for servers in (["a", "b"], ["b"], ["a"]):
            write(path, text(*servers))
            await until(lambda servers=servers: followed.servers == servers)
            assert followed.file.problem is None


async def test_a_file_that_is_touched_is_not_used_again(tmp_path: Path):
    """Its text counts, and not its time."""
    path = tmp_path / "mcp.json"
    path.write_text(text("a"))
    async with following(path) as followed:
        os.utime(path, (1, 1))
        by_rename(path, text("a"))
        await followed.looks()
        assert followed.used == 0


async def test_a_half_written_file_is_read_again_before_it_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing of it is used, not even where a part of it is a valid file."""
    path = tmp_path / "mcp.yaml"
    whole = "mcpServers:\n  a:\n    command: a\n  b:\n    command: b\n  c:\n    command: c\n"
    path.write_text(whole)
    async with following(path) as followed:
        seen: list[list[str]] = []
        with path.open("w") as file:
            for line in whole.replace("c:", "d:").splitlines(keepends=True):
                file.write(line)
                file.flush()
                seen.append(followed.servers)
                await anyio.sleep(config_file.SETTLE_S / 4)
        assert all(servers == ["a", "b", "c"] for servers in seen)
        await until(lambda: followed.servers == ["a", "b", "d"])
        assert not caplog.records


async def test_a_wrong_file_changes_nothing_and_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Until it is right again; another fault of it takes the place of the first."""
    path = tmp_path / "mcp.json"
    path.write_text(text("a"))
    async with following(path) as followed:
        in_place(path, "{")
        await until(lambda: followed.file.problem)
        await followed.looks()
        first = followed.file.problem
        in_place(path, text("a", max_wait_s="much"))
        await until(lambda: followed.file.problem != first)
        assert "max_wait_s" in (followed.file.problem or "")
        path.unlink()
        await until(lambda: "file not found" in (followed.file.problem or ""))
        await followed.looks()
        assert (followed.servers, followed.used) == (["a"], 0)
        path.write_text(text("a"))
        await until(lambda: followed.file.problem is None)
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
        assert caplog.text.count("cannot be used") == 3
        assert "right again: nothing has changed" in caplog.text


async def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path):
    """As where a configuration is mounted (Kubernetes), or one of several is chosen."""
    for name in "ab":
        (tmp_path / name).write_text(text(name))
    link = tmp_path / "mcp.json"
    link.symlink_to("a")
    async with following(link) as followed:
        other = tmp_path / "other"
        other.symlink_to("b")
        other.replace(link)
        await until(lambda: followed.servers == ["b"])


async def test_the_file_is_read_when_that_is_asked_for(tmp_path: Path):
    """Also where it has not changed: variables and files may have other values."""
    path, secret = tmp_path / "mcp.json", tmp_path / "token"
    secret.write_text("one")
    entry = {"command": "a", "env": {"T": f"${{file:{secret}}}"}}
    path.write_text(json.dumps({"mcpServers": {"a": entry}, "asyncfc": {"reload": "off"}}))
    async with following(path) as followed:
        secret.write_text("two")
        assert list((await followed.file.reload()).changed) == ["restarted: a"]
        assert list((await followed.file.reload()).changed) == []
        path.write_text(text("b", reload="off"))
        await followed.looks()
        assert followed.servers == ["a"], "it is not followed"
        followed.file.reload_soon()
        await until(lambda: followed.servers == ["b"])
        path.write_text("[")
        assert "mcp.json" in ((await followed.file.reload()).problem or "")
        assert followed.servers == ["b"]


async def test_settings_that_need_a_restart_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """They would be missed otherwise."""
    path = tmp_path / "mcp.json"
    path.write_text(text("a"))
    async with following(path) as followed:
        in_place(path, text("a", journal="off", max_wait_s=7))
        await until(lambda: followed.config.settings.max_wait_s == 7)
        assert "journal needs a restart" in caplog.text
        assert followed.config.settings.journal == "auto"
