"""Ten servers of npm and PyPI as a user may have them, with a call of each that needs neither a network nor a browser.

Owns which they are. Installing them is left to `peers`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.peers import PeerMissing, npm_bin, provide_all, script_of

Json = dict[str, Any]


@dataclass(frozen=True)
class RealServer:
    """A server and one call of it.

    Args:
        command: with its arguments.
        tool, arguments: the call.
        env: variables of the server.
    """

    command: tuple[str, ...]
    tool: str
    arguments: Json = field(default_factory=dict[str, Any])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    fails: bool = False
    """The call is answered with an error, since there is no browser."""

    @property
    def entry(self) -> Json:
        """The server's entry in `mcpServers`."""
        return {"command": self.command[0], "args": list(self.command[1:]), "env": dict(self.env)}


def real_servers(folder: Path) -> dict[str, RealServer]:
    """Return the servers by name, with their data in a folder; without those that cannot be installed.

    Raises:
        PeerMissing: none of them can be installed.
    """
    found = provide_all(["npm", "npm_profiles", "server_time", "server_git", "server_sqlite", "markitdown", "excel"])
    places = {name: place for name, place in found.items() if isinstance(place, Path)}
    if not places:
        raise next(each for each in found.values() if isinstance(each, PeerMissing))
    repository = folder / "repository"
    if "server_git" in places and not repository.exists():
        subprocess.run(["git", "init", "-q", str(repository)], check=True)

    def npm(peer: str, program: str, *args: str) -> tuple[str, ...]:
        return ("node", npm_bin(places[peer], program), *args) if peer in places else ()

    def pypi(peer: str, program: str, *args: str) -> tuple[str, ...]:
        return (script_of(places[peer], program), *args) if peer in places else ()

    thought = {"thought": "One.", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": False}
    quiet = {"DISABLE_THOUGHT_LOGGING": "true"}
    zones = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "UTC"}
    servers = {
        "everything": RealServer(npm("npm", "mcp-server-everything"), "echo", {"message": "hello"}),
        "filesystem": RealServer(npm("npm", "mcp-server-filesystem", str(folder)), "list_allowed_directories"),
        "memory": RealServer(
            npm("npm", "mcp-server-memory"), "read_graph", env={"MEMORY_FILE_PATH": str(folder / "memory.jsonl")}
        ),
        "thinking": RealServer(
            npm("npm_profiles", "mcp-server-sequential-thinking"), "sequentialthinking", thought, quiet
        ),
        "browser": RealServer(npm("npm_profiles", "playwright-mcp", "--headless"), "browser_close", fails=True),
        "time": RealServer(pypi("server_time", "mcp-server-time"), "convert_time", zones),
        "git": RealServer(pypi("server_git", "mcp-server-git"), "git_status", {"repo_path": str(repository)}),
        "sqlite": RealServer(
            pypi("server_sqlite", "mcp-server-sqlite", "--db-path", str(folder / "data.db")), "list_tables"
        ),
        "markitdown": RealServer(
            pypi("markitdown", "markitdown-mcp"), "convert_to_markdown", {"uri": "data:text/plain;base64,aGVsbG8="}
        ),
        "excel": RealServer(
            pypi("excel", "excel-mcp-server", "stdio"),
            "create_workbook",
            {"path": str(folder / "book.xlsx"), "overwrite": True},
        ),
    }
    return {name: server for name, server in servers.items() if server.command}
