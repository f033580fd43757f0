"""Captures the input schemas of real servers: installs them, starts each, and writes what `tools/list` returns.

`python -m tests.survey.capture FOLDER` installs into FOLDER (2 GB, some minutes) and rewrites `captured.json.gz`.
Servers that need a key get an invented one: listing tools needs none. The tests use the captured file, and compare it
with the servers that the end-to-end tests have installed anyway.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import peers

CAPTURED = Path(__file__).with_name("captured.json.gz")
TIMEOUT_S = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A server of a registry and how it is started."""

    package: str
    version: str
    program: str
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    also: tuple[str, ...] = ()
    """Requirements that the package does not state."""

    @property
    def name(self) -> str:
        """Name in the captured file."""
        return f"{self.package}@{self.version}"


LOCKED = (
    Server("@modelcontextprotocol/server-everything", "2026.8.31", "mcp-server-everything"),
    Server("@modelcontextprotocol/server-filesystem", "2026.8.31", "mcp-server-filesystem", ("/tmp",)),
    Server("@modelcontextprotocol/server-memory", "2026.8.31", "mcp-server-memory"),
)
"""Servers from the lock file of the end-to-end tests: what these list depends on their version of zod."""
NPM = (
    Server("@modelcontextprotocol/server-sequential-thinking", "2026.8.31", "mcp-server-sequential-thinking"),
    Server("@modelcontextprotocol/server-github", "2025.4.8", "mcp-server-github"),
    Server(
        "@modelcontextprotocol/server-slack",
        "2025.4.25",
        "mcp-server-slack",
        env={"SLACK_BOT_TOKEN": "x", "SLACK_TEAM_ID": "T0"},
    ),
    Server("@modelcontextprotocol/server-puppeteer", "2025.5.12", "mcp-server-puppeteer"),
    Server(
        "@modelcontextprotocol/server-gitlab",
        "2025.4.25",
        "mcp-server-gitlab",
        env={"GITLAB_PERSONAL_ACCESS_TOKEN": "x"},
    ),
    Server("@playwright/mcp", "0.0.83", "playwright-mcp", ("--caps", "vision,pdf,testing,devtools,storage,network")),
    Server("chrome-devtools-mcp", "1.11.0", "chrome-devtools-mcp", ("--no-usage-statistics",)),
    Server("@notionhq/notion-mcp-server", "2.5.2", "notion-mcp-server", env={"NOTION_TOKEN": "ntn_x"}),
    Server("@upstash/context7-mcp", "4.1.1", "context7-mcp"),
    Server("firecrawl-mcp", "3.26.0", "firecrawl-mcp", env={"FIRECRAWL_API_KEY": "fc-x"}),
    Server("tavily-mcp", "0.2.22", "tavily-mcp", env={"TAVILY_API_KEY": "tvly-x"}),
    Server("exa-mcp-server", "3.4.1", "exa-mcp-server", env={"EXA_API_KEY": "x"}),
    Server("@wonderwhy-er/desktop-commander", "0.2.52", "desktop-commander"),
    Server("mcp-server-kubernetes", "4.1.7", "mcp-server-kubernetes"),
    Server("@brave/brave-search-mcp-server", "2.1.4", "brave-search-mcp-server", env={"BRAVE_API_KEY": "x"}),
    Server("airtable-mcp-server", "1.14.0", "airtable-mcp-server", env={"AIRTABLE_API_KEY": "pat.x"}),
    Server("@cyanheads/git-mcp-server", "2.15.3", "git-mcp-server"),
    Server("@zereight/mcp-gitlab", "2.1.64", "mcp-gitlab", env={"GITLAB_PERSONAL_ACCESS_TOKEN": "x"}),
)
PYPI = (
    Server("mcp-server-fetch", "2026.10.24", "mcp-server-fetch"),
    Server("mcp-server-git", "2026.10.19", "mcp-server-git"),
    Server("mcp-server-time", "2026.10.19", "mcp-server-time"),
    Server(
        "mcp-server-sqlite",
        "2025.4.25",
        "mcp-server-sqlite",
        ("--db-path", "/tmp/asyncfc-capture.db"),
        also=("mcp==1.30.0",),
    ),
    Server(
        "mcp-atlassian", "0.23.1", "mcp-atlassian", env={"JIRA_URL": "https://x.invalid", "JIRA_PERSONAL_TOKEN": "x"}
    ),
)


def list_tools(command: list[str], env: dict[str, str], cwd: Path) -> dict[str, Json]:
    """The input schemas that a server on standard streams lists, by tool. Raises RuntimeError if it ends first."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    stopper = threading.Timer(TIMEOUT_S, process.kill)
    stopper.start()
    try:

        def send(message: Json) -> None:
            assert process.stdin
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()

        def request(number: int, method: str, params: Json) -> Json:
            assert process.stdout
            send({"id": number, "method": method, "params": params})
            for line in process.stdout:
                message = json.loads(line) if line.lstrip().startswith("{") else {}
                if message.get("id") == number and "method" not in message:
                    return message["result"]
            raise RuntimeError("the server ended")

        client = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "capture", "version": "1"},
        }
        request(1, "initialize", client)
        send({"method": "notifications/initialized"})
        tools: dict[str, Json] = {}
        cursor: Json = {}
        while True:
            page = request(2, "tools/list", cursor)
            tools |= {tool["name"]: tool["inputSchema"] for tool in page["tools"]}
            if not page.get("nextCursor"):
                return tools
            cursor = {"cursor": page["nextCursor"]}
    finally:
        stopper.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def commands(folder: Path) -> dict[str, tuple[Server, list[str]]]:
    """Install all servers; the command of each."""
    found: dict[str, tuple[Server, list[str]]] = {}
    npm = folder / "npm"
    npm.mkdir(parents=True, exist_ok=True)
    packages = [server.name for server in NPM]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--loglevel=error"]
    subprocess.run(["npm", "install", *options, *packages], cwd=npm, check=True)
    for server in NPM:
        found[server.name] = server, [str(npm / "node_modules" / ".bin" / server.program), *server.arguments]
    locked = peers.provide("npm")
    for server in LOCKED:
        found[server.name] = server, [peers.npm_bin(locked, server.program), *server.arguments]
    for server in PYPI:
        venv = folder / server.package
        if not (venv / "bin" / server.program).exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, f"{server.package}=={server.version}", *server.also], check=True)
        found[server.name] = server, [str(venv / "bin" / server.program), *server.arguments]
    return found


def captured() -> dict[str, dict[str, Json]]:
    """The captured schemas: server → tool → input schema."""
    return json.loads(gzip.decompress(CAPTURED.read_bytes()))


def main() -> int:
    """Capture all servers; one that cannot be listed is named and left out."""
    folder = Path(sys.argv[1]).resolve()
    schemas: dict[str, dict[str, Json]] = {}
    missing = 0
    for name, (server, command) in commands(folder).items():
        try:
            schemas[name] = dict(sorted(list_tools(command, server.env, folder).items()))
            print(f"{name}: {len(schemas[name])} tools")
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            missing += 1
            print(f"{name}: {error!r}")
    text = json.dumps(dict(sorted(schemas.items())), ensure_ascii=False, separators=(",", ":"))
    CAPTURED.write_bytes(gzip.compress(text.encode(), mtime=0))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
