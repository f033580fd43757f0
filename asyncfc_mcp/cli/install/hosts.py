"""Hosts into which the bridge is installed: their files, key paths and shapes of an entry, in one table.

Pure, apart from looking whether a host is there. Sources are named beside each host. Reading of entries is left to
`config.formats`, edits to `documents`.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from asyncfc_mcp.errors import BridgeError, nearest

Entry = dict[str, Any]
Shape = Callable[[str, str, Sequence[str]], Entry]
"""Function of a name, a command and its arguments that returns the entry."""
Scope = Literal["user", "project", "local"]
"""All projects; one project, in a file that it shares; one project, in the user's own file (Claude Code)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where hosts are looked for.

    Attributes:
        system: `sys.platform`.
        folder: the current folder, for files of a project.
    """

    home: Path
    folder: Path
    system: str
    environ: Mapping[str, str]

    def path(self, template: str) -> Path:
        """Return the path of a template: `~`, `$CONFIG` (settings of applications), `$XDG`, `${NAME:-default}`, or a
        path that is relative to the project."""
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: self.environ.get(match[1]) or match[2], template)
        text = text.replace("$CONFIG", self._settings).replace("$XDG", self._xdg)
        return self.home / text[2:] if text.startswith("~/") else self.folder / text

    @property
    def _xdg(self) -> str:
        if self.system == "win32":
            return self._settings
        return self.environ.get("XDG_CONFIG_HOME") or "~/.config"

    @property
    def _settings(self) -> str:
        match self.system:
            case "darwin":
                return "~/Library/Application Support"
            case "win32":
                return self.environ.get("APPDATA") or "~/AppData/Roaming"
            case _:
                return self.environ.get("XDG_CONFIG_HOME") or "~/.config"

    def program(self, name: str) -> str | None:
        """Return the path of a program; None if it is not on the PATH."""
        return shutil.which(name, path=self.environ.get("PATH", ""))


@dataclass(frozen=True, slots=True)
class OwnCommand:
    """A host's own command for its servers.

    Attributes:
        add, remove: its words, from name, entry and scope.
        default: it is used unless a file is asked for, since the running host writes its file as well.
        stdin: the entry is read from standard input, so that it is not in the list of processes.
    """

    program: str
    add: Callable[[str, Entry, Scope], Sequence[str]]
    remove: Callable[[str, Scope], Sequence[str]] | None
    default: bool = False
    stdin: bool = False

    def adding(self, name: str, entry: Entry, scope: Scope) -> tuple[list[str], str | None]:
        """Return the words of the command that adds an entry, and its standard input."""
        return [self.program, *self.add(name, entry, scope)], json.dumps(entry) if self.stdin else None


@dataclass(frozen=True, slots=True)
class Host:
    """One host.

    Attributes:
        user, project: templates of its files, in order of precedence: the first that exists, or else the first.
        windows: the same as `user`, where Windows has other places.
        signs: templates of files or folders that show that it is there.
        programs: commands that show the same.
        table: key path of the servers.
        lock: suffix of a folder that the host makes beside its file while it writes it.
        local: its file also has servers of single projects, at `projects`, the folder, `mcpServers`.
        note: what the user has to do for the change to take effect.
    """

    key: str
    name: str
    shape: Shape
    user: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    table: tuple[str, ...] = ("mcpServers",)
    windows: tuple[str, ...] = ()
    own: OwnCommand | None = None
    lock: str | None = None
    local: bool = False
    note: str = "Restart it to use the bridge."

    def users(self, machine: Machine) -> tuple[str, ...]:
        """Return the templates of its files for all projects."""
        return self.windows if self.windows and machine.system == "win32" else self.user

    def file(self, scope: Scope, machine: Machine) -> Path | None:
        """Return its file; None if it has none in this scope."""
        if scope == "local":
            return self.file("user", machine) if self.local else None
        paths = [machine.path(each) for each in (self.users(machine) if scope == "user" else self.project)]
        return next((path for path in paths if path.exists()), paths[0] if paths else None)

    def is_here(self, machine: Machine) -> bool:
        """Return whether the host is on this machine: one of its files, folders or programs exists."""
        signs = (*self.users(machine), *self.signs)
        return any(machine.path(sign).exists() for sign in signs) or any(map(machine.program, self.programs))


def plain(name: str, command: str, args: Sequence[str]) -> Entry:
    """Return the entry of Claude Desktop, Cursor and most others."""
    return {"command": command, "args": list(args)}


def typed(name: str, command: str, args: Sequence[str]) -> Entry:
    """Return the entry of Claude Code and VS Code."""
    return {"type": "stdio", "command": command, "args": list(args)}


def _copilot(name: str, command: str, args: Sequence[str]) -> Entry:
    return {"type": "local", "command": command, "args": list(args), "tools": ["*"]}


def _opencode(name: str, command: str, args: Sequence[str]) -> Entry:
    return {"type": "local", "command": [command, *args], "enabled": True}


def opencode_2(name: str, command: str, args: Sequence[str]) -> Entry:
    """Return the entry of opencode 2, which has no `enabled`."""
    return {"type": "local", "command": [command, *args]}


def _zed(name: str, command: str, args: Sequence[str]) -> Entry:
    return {"command": command, "args": list(args), "env": {}}


def _goose(name: str, command: str, args: Sequence[str]) -> Entry:
    return {
        "enabled": True, "type": "stdio", "name": name, "description": "Calls that answer with futures",
        "cmd": command, "args": list(args), "envs": {}, "env_keys": [], "timeout": 600,
    }  # fmt: skip


_DOT_CONFIG: Final = "${XDG_CONFIG_HOME:-~/.config}"
_RUNNING: Final = "New sessions use the bridge."

HOSTS: Final[Mapping[str, Host]] = {
    host.key: host
    for host in (
        # https://modelcontextprotocol.io/docs/develop/connect-local-servers; Linux: the unofficial builds' folder
        Host(
            "claude-desktop", "Claude Desktop", plain, ("$CONFIG/Claude/claude_desktop_config.json",),
            signs=("$CONFIG/Claude",), note="Quit and reopen it.",
        ),
        # https://code.claude.com/docs/en/mcp; a running session writes ~/.claude.json, too
        Host(
            "claude-code", "Claude Code", typed, ("${CLAUDE_CONFIG_DIR:-~}/.claude.json",), (".mcp.json",),
            ("${CLAUDE_CONFIG_DIR:-~/.claude}",), ("claude",),
            own=OwnCommand(
                "claude", lambda name, _, scope: ("mcp", "add-json", "--scope", scope, name, "-"),
                lambda name, scope: ("mcp", "remove", "--scope", scope, name), default=True, stdin=True,
            ),
            lock=".lock", local=True, note=_RUNNING,
        ),
        # https://cursor.com/docs/mcp
        Host("cursor", "Cursor", plain, ("~/.cursor/mcp.json",), (".cursor/mcp.json",), ("~/.cursor",), ("cursor",)),
        # https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
        Host(
            "vscode", "VS Code", typed, ("$CONFIG/Code/User/mcp.json",), (".vscode/mcp.json",),
            ("$CONFIG/Code/User",), ("code",), ("servers",),
            own=OwnCommand("code", lambda name, entry, _: ("--add-mcp", json.dumps({"name": name, **entry})), None),
            note="Start the server in its list of MCP servers.",
        ),
        # https://developers.openai.com/codex/mcp
        Host(
            "codex", "Codex", plain, ("${CODEX_HOME:-~/.codex}/config.toml",), (".codex/config.toml",),
            ("${CODEX_HOME:-~/.codex}",), ("codex",), ("mcp_servers",),
            own=OwnCommand(
                "codex", lambda name, entry, _: ("mcp", "add", name, "--", entry["command"], *entry["args"]),
                lambda name, _: ("mcp", "remove", name),
            ),
            note=_RUNNING,
        ),
        # https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md
        Host(
            "gemini", "Gemini CLI", plain, ("~/.gemini/settings.json",), (".gemini/settings.json",),
            programs=("gemini",), note=_RUNNING,
        ),
        # https://antigravity.google/docs/mcp; the first versions had a folder of their own
        Host(
            "antigravity", "Antigravity", plain,
            ("~/.gemini/config/mcp_config.json", "~/.gemini/antigravity/mcp_config.json"),
            (".agents/mcp_config.json",), ("~/.gemini/config", "~/.gemini/antigravity", "~/.antigravity"),
            ("agy", "antigravity"), note="Refresh its list of MCP servers.",
        ),
        # https://opencode.ai/docs/mcp-servers, https://opencode.ai/v2/docs/mcp-servers
        Host(
            "opencode", "opencode", _opencode,
            tuple(f"{_DOT_CONFIG}/opencode/{name}" for name in ("opencode.json", "opencode.jsonc", "config.json")),
            ("opencode.json", "opencode.jsonc", ".opencode/opencode.json"),
            (f"{_DOT_CONFIG}/opencode",), ("opencode",), ("mcp",), note=_RUNNING,
        ),
        # https://block.github.io/goose/docs/guides/config-files
        Host(
            "goose", "Goose", _goose, ("$XDG/goose/config.yaml",), windows=("$CONFIG/Block/goose/config/config.yaml",),
            signs=("$XDG/goose",), programs=("goose",), table=("extensions",), note=_RUNNING,
        ),
        # https://zed.dev/docs/ai/mcp, https://zed.dev/docs/configuring-zed
        Host(
            "zed", "Zed", _zed, ("$XDG/zed/settings.json",), (".zed/settings.json",), ("$XDG/zed",),
            ("zed", "zeditor"), ("context_servers",), note="It starts the server at once.",
        ),
        # https://www.jetbrains.com/help/junie/model-context-protocol-mcp.html
        Host(
            "junie", "Junie", plain, ("~/.junie/mcp/mcp.json",), (".junie/mcp/mcp.json",), ("~/.junie",), ("junie",),
        ),
        # https://docs.github.com/en/copilot/how-tos/copilot-cli/customize-copilot/add-mcp-servers
        Host(
            "copilot-cli", "Copilot CLI", _copilot, ("${COPILOT_HOME:-~/.copilot}/mcp-config.json",), (".mcp.json",),
            ("${COPILOT_HOME:-~/.copilot}",), ("copilot",), note=_RUNNING,
        ),
        # https://docs.windsurf.com/windsurf/cascade/mcp
        Host(
            "windsurf", "Windsurf", plain, ("~/.codeium/windsurf/mcp_config.json",),
            signs=("~/.codeium/windsurf",), programs=("windsurf",), note="Refresh its list of MCP servers.",
        ),
        # https://kiro.dev/docs/mcp/configuration
        Host(
            "kiro", "Kiro", plain, ("~/.kiro/settings/mcp.json",), (".kiro/settings/mcp.json",), ("~/.kiro",),
            ("kiro", "kiro-cli"), note="It reads the file again at once.",
        ),
        # https://lmstudio.ai/docs/app/mcp
        Host("lm-studio", "LM Studio", plain, ("~/.lmstudio/mcp.json",), signs=("~/.lmstudio",), programs=("lms",)),
    )
}  # fmt: skip
"""Hosts by the word that names them on the command line."""

PRINTED: Final[Mapping[str, str]] = {"jetbrains": "json", "librechat": "yaml", "open-webui": "json"}
"""Hosts whose settings are in a form or on another machine → the format that `--print` prints for them."""


class UnknownHost(BridgeError):
    """No host has this name."""

    def __init__(self, word: str) -> None:
        close = nearest(word, [*HOSTS, *PRINTED], at_most=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown host {word!r}{hint} Known are {', '.join([*HOSTS, *PRINTED])}")


class HostMissing(BridgeError):
    """A host is not on this machine."""

    def __init__(self, host: Host, machine: Machine) -> None:
        files = ", ".join(str(machine.path(sign)) for sign in (*host.users(machine)[:1], *host.signs))
        programs = "".join(f", and no `{program}` on the PATH" for program in host.programs[:1])
        super().__init__(
            f"{host.name} was not found here: there is no {files}{programs}; "
            f"to set it up by hand, run `asyncfc-mcp install {host.key} --print`"
        )


def host_named(word: str) -> Host:
    """Return the host of this name.

    Raises:
        UnknownHost: there is none.
    """
    host = HOSTS.get(word.lower())
    if host is None:
        raise UnknownHost(word)
    return host
