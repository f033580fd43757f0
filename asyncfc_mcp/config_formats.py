"""The formats in which hosts write their servers, as one: where the servers are in a file, and what a key means.

Pure. Owns the spellings. A key that means the same everywhere is understood in every file; what a host does with its
own keys beyond that (approvals, time limits, sign-in) is left to the host.
"""

import glob
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from asyncfc_mcp.errors import nearest

SERVER_TABLES: Final[tuple[tuple[str, ...], ...]] = (
    ("mcpServers",), ("servers",), ("context_servers",), ("mcp_servers",), ("mcp", "servers"), ("mcp.servers",),
    ("amp.mcpServers",), ("mcp",),
)  # fmt: skip
"""Where servers stand: Claude, Cursor and most others; VS Code; Zed; Codex; VS Code's settings; Amp; opencode."""

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "command": ("command", "cmd"),
    "args": ("args",),
    "env": ("env", "environment", "envs"),
    "cwd": ("cwd", "workingDirectory", "working_directory", "workdir"),
    "url": ("httpUrl", "http_url", "url", "serverUrl", "server_url", "uri", "baseUrl"),
    "headers": ("headers", "http_headers", "httpHeaders"),
    "type": ("type", "transport", "transportType"),
    "disabled": ("disabled",),
    "enabled": ("enabled", "isActive"),
    "include": ("includeTools", "include_tools", "enabledTools", "enabled_tools", "tools"),
    "exclude": ("excludeTools", "exclude_tools", "disabledTools", "disabled_tools"),
    "envFile": ("envFile", "env_file"),
}
"""Our name of a key → the names that hosts have for it, the one that counts first."""
_OURS: Final = {alias: ours for ours, aliases in _ALIASES.items() for alias in aliases}
ENTRY_KEYS: Final = frozenset({*_ALIASES, "asyncfc"}) - {"include", "exclude"}
_CODEX_KEYS: Final = frozenset({"bearer_token_env_var", "env_http_headers"})
HOST_KEYS: Final = frozenset(
    {
        "alwaysAllow", "auth", "autoApprove", "autoStart", "authProviderType", "description", "dev", "env_vars",
        "gallery", "icon", "id", "initTimeout", "metadata", "name", "note", "oauth", "required", "sandbox",
        "sandboxEnabled", "scopes", "settings", "source", "startup_timeout_ms", "startup_timeout_sec", "timeout",
        "tool_timeout_sec", "trust", "version", "watchPaths",
    }
)  # fmt: skip
"""Keys of an entry that hosts are known to have for themselves: no misspellings."""
_TYPES: Final[Mapping[str, str]] = {
    "stdio": "stdio", "local": "stdio", "command": "stdio", "process": "stdio", "stdin": "stdio",
    "http": "http", "https": "http", "streamable": "http", "streamablehttp": "http", "httpstream": "http",
    "httpstreamable": "http", "streaminghttp": "http",
    "sse": "sse", "httpsse": "sse", "legacysse": "sse",
    "remote": "remote", "url": "remote",
}  # fmt: skip
"""Spellings of a transport, in small letters without punctuation; `remote`: at a URL, which decides."""

Note = Callable[[str, str], None]
"""Takes the key of an entry and a remark about it."""


def transport(written: str) -> str | None:
    """`stdio`, `http`, `sse` or `remote`; None where the spelling is not known."""
    return _TYPES.get(re.sub(r"[^a-z]", "", written.lower()))


def find_servers(root: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The tables of servers that a file has, by their key paths: the first of `SERVER_TABLES` that is there.

    `mcpServers` beside `servers` are two, since nothing says which is meant.
    """
    found: list[tuple[str, Any]] = []
    for path in SERVER_TABLES:
        value: Any = root
        for key in path:
            value = cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else None
        if value is not None and (not found or path == ("servers",)):
            found.append((".".join(path), value))
    return found


def canonical(entry: Mapping[str, Any], note: Note, *, braces: bool = False) -> dict[str, Any]:
    """An entry with the keys that the reader knows, whichever host wrote it.

    Args:
        note: told of what is left out or ambiguous.
        braces: `{env:NAME}` is a variable, as in opencode.
    """
    result: dict[str, Any] = {}
    used: dict[str, str] = {}
    for ours, aliases in _ALIASES.items():
        for alias in aliases:
            if alias not in entry:
                continue
            if ours not in used:
                used[ours], result[ours] = alias, entry[alias]
            elif entry[alias] != result[ours]:
                note(alias, f"ignored, since {used[ours]!r} says the same thing")
    if "asyncfc" in entry:
        result["asyncfc"] = entry["asyncfc"]
    _command(result)
    _codex(entry, result)
    for ours in ("include", "exclude"):
        if ours in result and (names := _tools(result.pop(ours))) is not None:
            result[ours] = names
        elif ours in used:
            note(used[ours], "ignored, it means nothing to the bridge")
    for key in entry:
        if key not in _OURS and key not in _CODEX_KEYS and key != "asyncfc":
            close = [] if key in HOST_KEYS else nearest(key, ENTRY_KEYS, at_most=1)
            note(key, f"ignored, it means nothing to the bridge{f'; did you mean {close[0]!r}?' if close else ''}")
    return cast("dict[str, Any]", _with_dollars(result)) if braces else result


def _command(result: dict[str, Any]) -> None:
    """A command may be a list (opencode) or an object (Zed)."""
    command: Any = result.get("command")
    if isinstance(command, list) and command and "args" not in result:
        result["command"], result["args"] = command[0], command[1:]
    elif isinstance(command, dict) and "path" in command:
        table = cast("dict[str, Any]", command)
        result["command"] = table["path"]
        for key in ("args", "env"):
            if table.get(key) is not None:
                result.setdefault(key, table[key])


def _codex(entry: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Headers that name the environment variable which holds their value."""
    named: dict[str, Any] = {}
    if isinstance(table := entry.get("env_http_headers"), dict):
        named |= {key: f"${{env:{name}}}" for key, name in cast("dict[str, Any]", table).items()}
    if isinstance(name := entry.get("bearer_token_env_var"), str):
        named["Authorization"] = f"Bearer ${{env:{name}}}"
    if named:
        headers: Any = result.get("headers") or {}
        result["headers"] = {**named, **cast("dict[str, Any]", headers)} if isinstance(headers, dict) else headers


def _tools(value: Any) -> tuple[str, ...] | None:
    """Names of tools as our globs; None where it is no list of names. `*` is a glob, and all tools are no choice."""
    if not isinstance(value, list) or not value:
        return () if value == "*" else None
    names = cast("list[Any]", value)
    if not all(isinstance(name, str) for name in names):
        return None
    return () if "*" in names else tuple(glob.escape(name).replace("[*]", "*") for name in names)


def _with_dollars(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"(?<!\$)\{env:([^{}]+)\}", r"${env:\1}", value)
    if isinstance(value, list):
        return [_with_dollars(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {key: item if key == "asyncfc" else _with_dollars(item) for key, item in table.items()}
    return value


def split_command(command: str, is_program: Callable[[str], bool]) -> list[str] | None:
    """The words of a command that holds its arguments, as in `npx -y server`; None where it is one word.

    The longest beginning that `is_program` is the program, since its path may hold spaces.
    """
    if " " not in command.strip() or is_program(command):
        return None
    pieces = command.split(" ")
    for count in range(len(pieces) - 1, 0, -1):
        if is_program(start := " ".join(pieces[:count]).strip("'\"")):
            return [start, *_split(" ".join(pieces[count:]))]
    return None


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote without its partner
        return text.split()


def env_file(text: str) -> dict[str, str]:
    """The variables of a `.env` file."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$", line)
        if match is None:
            continue
        value = match[2]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = re.sub(r"\s+#.*$", "", value)
        found[match[1]] = value
    return found
