"""Formats of hosts' configuration files: key paths of the server tables, and the spellings of an entry's keys.

Pure. Owns the spellings. A key with the same meaning in all formats is accepted in every file; other keys of a host
(approvals, start-up timeouts) are left to the host. The spellings inside of `oauth` are `oauth_reader`'s.
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
"""Key paths of the servers: Claude, Cursor and most others; VS Code; Zed; Codex; VS Code's settings; Amp; opencode."""

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
    "include": ("includeTools", "include_tools", "enabledTools", "enabled_tools", "available_tools", "tools"),
    "exclude": ("excludeTools", "exclude_tools", "disabledTools", "disabled_tools"),
    "envFile": ("envFile", "env_file"),
    "oauth": ("oauth",),
    "auth": ("auth",),
    "scopes": ("scopes",),
    "oauth_resource": ("oauth_resource",),
}
"""Canonical key → the keys of hosts, in order of precedence."""
_CANONICAL: Final = {alias: key for key, aliases in _ALIASES.items() for alias in aliases}
ENTRY_KEYS: Final = frozenset({*_ALIASES, "asyncfc"}) - {"include", "exclude"}
_CODEX_KEYS: Final = frozenset({"bearer_token_env_var", "env_http_headers"})
_TIMEOUTS: Final[Mapping[str, float | None]] = {
    "tool_timeout_sec": 1.0,
    "timeoutMs": 0.001,
    "timeout_ms": 0.001,
    "timeout": None,
}
"""Timeouts of a call → seconds in their unit; None: seconds or milliseconds, which the number tells."""
_MAX_SECONDS: Final = 3600
"""Largest `timeout` in seconds: the most that Cline and Roo Code offer. Larger numbers are milliseconds (Gemini CLI,
LibreChat and others); small numbers of milliseconds are so taken for a longer time, never for a shorter one."""
_LONGEST: Final = 10**12
HOST_KEYS: Final = frozenset(
    {
        "alwaysAllow", "autoApprove", "autoStart", "authProviderType", "description", "dev", "env_vars",
        "gallery", "icon", "id", "initTimeout", "metadata", "name", "note", "required", "requiresOAuth", "sandbox",
        "sandboxEnabled", "settings", "source", "startup_timeout_ms", "startup_timeout_sec",
        "trust", "version", "watchPaths",
    }
)  # fmt: skip
"""Known keys of hosts that are not used here; they are no misspellings."""
_TYPES: Final[Mapping[str, str]] = {
    "stdio": "stdio", "local": "stdio", "command": "stdio", "process": "stdio", "stdin": "stdio",
    "http": "http", "https": "http", "streamable": "http", "streamablehttp": "http", "httpstream": "http",
    "httpstreamable": "http", "streaminghttp": "http",
    "sse": "sse", "httpsse": "sse", "legacysse": "sse",
    "remote": "remote", "url": "remote",
}  # fmt: skip
"""Spellings of a transport, lower-case without punctuation; `remote`: at a URL, which decides the transport."""

NOT_USED: Final = "ignored: not used by the bridge"

Note = Callable[[str, str], None]
"""Callback that receives the key of an entry and a warning about it."""


def transport(written: str) -> str | None:
    """Return `stdio`, `http`, `sse` or `remote`; None if the spelling is unknown."""
    return _TYPES.get(re.sub(r"[^a-z]", "", written.lower()))


def find_servers(root: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the key path and value of the server table: the first of `SERVER_TABLES` that exists.

    Two tables are returned if `servers` exists as well, since the file does not tell which one is meant.
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
    """Return an entry with canonical keys, whichever host it was written for.

    Args:
        note: called for each key that is ignored or ambiguous.
        braces: `{env:NAME}` and `{file:PATH}` are variables, as in opencode.
    """
    result: dict[str, Any] = {}
    used: dict[str, str] = {}
    for key, aliases in _ALIASES.items():
        for alias in aliases:
            if alias not in entry:
                continue
            if key not in used:
                used[key], result[key] = alias, entry[alias]
            elif entry[alias] != result[key]:
                note(alias, f"ignored: {used[key]!r} has the same meaning and is used")
    if "asyncfc" in entry:
        result["asyncfc"] = entry["asyncfc"]
    _command(result)
    _codex(entry, result)
    _timeout(entry, result, note, listing=braces)
    for key in ("include", "exclude"):
        if key in result and (names := _tools(result.pop(key))) is not None:
            result[key] = names
        elif key in used:
            note(used[key], NOT_USED)
    for key in entry:
        if key not in _CANONICAL and key not in _CODEX_KEYS and key not in _TIMEOUTS and key != "asyncfc":
            close = [] if key in HOST_KEYS else nearest(key, ENTRY_KEYS, at_most=1)
            note(key, f"{NOT_USED}{f'; did you mean {close[0]!r}?' if close else ''}")
    return cast("dict[str, Any]", _with_dollars(result)) if braces else result


def _command(result: dict[str, Any]) -> None:
    """Split a command that is a list (opencode) or an object (Zed)."""
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
    """Add headers whose values are in named environment variables (Codex)."""
    named: dict[str, Any] = {}
    if isinstance(table := entry.get("env_http_headers"), dict):
        named |= {key: f"${{env:{name}}}" for key, name in cast("dict[str, Any]", table).items()}
    if isinstance(name := entry.get("bearer_token_env_var"), str):
        named["Authorization"] = f"Bearer ${{env:{name}}}"
    if named:
        headers: Any = result.get("headers") or {}
        result["headers"] = {**named, **cast("dict[str, Any]", headers)} if isinstance(headers, dict) else headers


def _timeout(entry: Mapping[str, Any], result: dict[str, Any], note: Note, *, listing: bool) -> None:
    """Add `timeout_s`, the timeout of a call.

    Args:
        listing: a number in `timeout` limits the listing of tools, and not calls (opencode 1).
    """
    for key, unit in _TIMEOUTS.items():
        value: Any = entry.get(key)
        if isinstance(value, dict):  # opencode 2
            value, unit = cast("dict[str, Any]", value).get("request"), 0.001
        elif listing and value is not None:
            value = None
            note(key, NOT_USED)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST:
            note(key, NOT_USED)
        elif "timeout_s" not in result:
            result["timeout_s"] = value * (unit or (1.0 if value <= _MAX_SECONDS else 0.001))


def _tools(value: Any) -> tuple[str, ...] | None:
    """Return tool names as globs; None if the value is no list of names. `*` stays a glob; alone it selects all."""
    if not isinstance(value, list) or not value:
        return () if value == "*" else None
    names = cast("list[Any]", value)
    if not all(isinstance(name, str) for name in names):
        return None
    return () if "*" in names else tuple(glob.escape(name).replace("[*]", "*") for name in names)


def _with_dollars(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"(?<!\$)\{(env|file):([^{}]+)\}", r"${\1:\2}", value)
    if isinstance(value, list):
        return [_with_dollars(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {key: item if key == "asyncfc" else _with_dollars(item) for key, item in table.items()}
    return value


def split_command(command: str, is_program: Callable[[str], bool]) -> list[str] | None:
    """Return the words of a command that contains its arguments, as in `npx -y server`; None if it is one word.

    The program is the longest prefix for which `is_program` is true, since its path may contain spaces.
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
    except ValueError:  # an unbalanced quote
        return text.split()


def env_file(text: str) -> dict[str, str]:
    """Return the variables of a `.env` file."""
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
