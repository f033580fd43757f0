"""Other proxies, each in a virtual environment of its own under `.cache/`; never a dependency of this project.

A peer that cannot be installed or does not run is left out, and the results say so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness import REPO

CACHE: Final = Path(os.environ.get("ASYNCFC_BENCH_CACHE") or REPO / ".cache")
INSTALL_TIMEOUT_S: Final = 480


@dataclass(frozen=True)
class Proxy:
    """An installed peer."""

    name: str
    version: str
    python: Path

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.name} {self.version}"

    def stdio(self, server: Sequence[str]) -> list[str]:
        """Its command line, stdio → stdio."""
        if self.name == "FastMCP proxy":
            return [str(self.python), "-c", FASTMCP, "stdio", *server]
        return [str(self.python.parent / "longrun-mcp-proxy"), "stdio", "--", *server]

    def http(self, server: Sequence[str], port: int) -> list[str]:
        """Its command line, Streamable HTTP at /mcp → stdio."""
        if self.name == "FastMCP proxy":
            return [str(self.python), "-c", FASTMCP, str(port), *server]
        return [str(self.python.parent / "mcp-proxy"), "--port", str(port), "--log-level", "ERROR", "--", *server]


FASTMCP: Final = """
import sys
from fastmcp.server.server import create_proxy
where, command, *args = sys.argv[1:]
proxy = create_proxy({"mcpServers": {"default": {"command": command, "args": args}}})
if where == "stdio":
    proxy.run(show_banner=False)
else:
    proxy.run("http", host="127.0.0.1", port=int(where), show_banner=False, log_level="error")
"""
QUIET: Final = {"FASTMCP_LOG_LEVEL": "ERROR", "FASTMCP_CHECK_FOR_UPDATES": "off"}
REQUIREMENTS: Final = {
    "FastMCP proxy": ("fastmcp", "fastmcp>=4,<5"),
    "mcp-proxy": ("mcp-proxy", "mcp-proxy>=0.13"),
    "longrun-mcp-proxy": ("longrun-mcp-proxy", "longrun-mcp-proxy>=1.7"),
}


class Missing(Exception):
    """A peer could not be installed."""


def provide(name: str) -> Proxy:
    """The peer, installed on first use.

    Raises:
        Missing: it cannot be.
    """
    package, requirement = REQUIREMENTS[name]
    folder = CACHE / f"bench-{package}"
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    fingerprint = hashlib.sha256(f"{sys.version}\n{requirement}".encode()).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement])
        stamp.write_text(fingerprint)
    version = _run([str(python), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"])
    return Proxy(name, version.strip(), python)


def _run(command: list[str]) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, cwd=REPO
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{command[0]} took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(said[-1] if said else f"exit code {done.returncode}")
    return done.stdout


def provide_all(names: Sequence[str], notes: list[str]) -> list[Proxy]:
    """Install the peers; return those available, and a note about each of the others."""
    found: list[Proxy] = []
    for name in names:
        try:
            found.append(provide(name))
        except Missing as error:
            notes.append(f"{name} is not in these tables: {error}")
    return found
