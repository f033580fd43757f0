"""Five sessions of a real client on one daemon with ten servers that other people wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import mcp_types as types
import psutil
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.support.client import eventually
from tests.support.real_servers import RealServer, real_servers
from tests.support.stage import MARK, Stage

SESSIONS = 5
SHARED = {"memory", "time", "markitdown"}
"""Servers that keep nothing of a session: neither thoughts nor a browser, roots of a client or a working directory."""

pytestmark = [pytest.mark.node, pytest.mark.peers, pytest.mark.slow]


class Company:
    """Sessions of the SDK's client that share a daemon."""

    def __init__(self, stage: Stage, run_folder: str) -> None:
        self.stage = stage
        self.folder = stage.folder / "data"
        self.folder.mkdir()
        self.servers = real_servers(self.folder)
        entries = {name: self._marked(server) for name, server in self.servers.items()}
        self.config = stage.folder / "mcp.json"
        self.config.write_text(json.dumps({"mcpServers": entries, "asyncfc": {"grace_ms": 0}}))
        self.env = stage.env | {"ASYNCFC_RUNTIME_DIR": run_folder}

    def _marked(self, server: RealServer) -> object:
        entry = server.entry
        return entry | {"env": {**entry["env"], MARK: self.stage.mark}}

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Client]:
        """A session of its own."""
        command = ["-m", "asyncfc_mcp", "serve", "--shared", "--config", str(self.config)]
        parameters = StdioServerParameters(command=sys.executable, args=command, env=self.env, cwd=self.stage.folder)
        info = types.Implementation(name="company", version="1")
        async with Client(stdio_client(parameters), client_info=info) as client:
            await client.list_tools()
            yield client

    def processes(self, words: Sequence[str]) -> list[psutil.Process]:
        """The processes whose command lines have these words."""
        found: list[psutil.Process] = []
        for process in self.stage.alive():
            with suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                if all(word in line for word in words):
                    found.append(process)
        return found

    @property
    def daemons(self) -> list[psutil.Process]:
        return self.processes(["asyncfc_mcp", "daemon", "run"])

    @property
    def thin(self) -> list[psutil.Process]:
        return self.processes(["serve", "--shared"])

    def count(self, name: str) -> int:
        """The processes of a server."""
        return len(self.processes(self.servers[name].command))


async def use(client: Client, servers: Mapping[str, RealServer]) -> None:
    """Call every server at once, and wait for all."""
    for name, server in servers.items():
        await client.call_tool(f"{name}__{server.tool}", {**server.arguments, "_as": name})
    done = await client.call_tool("gather", {"future_ids": list(servers)})
    assert done.structured_content is not None
    states = {name: each["status"] for name, each in zip(servers, done.structured_content["results"], strict=True)}
    expected = {name: "failed" if server.fails else "completed" for name, server in servers.items()}
    assert states == expected, done.content


def test_five_sessions_share_ten_servers(
    stage: Stage, npm: Path, npm_profiles: Path, server_time: Path, server_git: Path, server_sqlite: Path,
    markitdown: Path, excel: Path,
) -> None:  # fmt: skip
    """There is one daemon and one process of each server, or one for each session where it has state of a session. A
    session that is killed takes its own with it and nothing else; after the daemon was killed, all go on."""
    with TemporaryDirectory(prefix="run-") as run_folder:  # paths of sockets are short
        _live(Company(stage, run_folder))


def _live(company: Company) -> None:
    assert len(company.servers) == 10

    async def story() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(company.session()) for _ in range(SESSIONS)]
            async with anyio.create_task_group() as tg:
                for client in clients:
                    tg.start_soon(use, client, company.servers)
            assert len(company.daemons) == 1
            counts = {name: company.count(name) for name in company.servers}
            assert counts == {name: 1 if name in SHARED else SESSIONS for name in company.servers}
            # Another host's crash: its session ends, with what was its own.
            company.thin[0].kill()
            eventually(lambda: company.count("thinking") == SESSIONS - 1, "the servers of the session have ended")
            left = [client for client in clients if await _lives(client)]
            assert len(left) == SESSIONS - 1
            company.daemons[0].kill()
            async with anyio.create_task_group() as tg:
                for client in left:
                    tg.start_soon(use, client, company.servers)
            assert len(company.daemons) == 1

    try:
        anyio.run(story)
    finally:
        stop = company.stage.run("daemon", "stop", env=company.env)
        assert stop.code == 0, stop.stderr


async def _lives(client: Client) -> bool:
    with anyio.move_on_after(20):
        try:
            await client.list_tools()
        except Exception:  # noqa: BLE001 - whatever a client that has lost its server raises
            return False
        return True
    return False
