"""Entries of hosts: the one that starts the bridge, and those that the bridge takes over.

Pure. Owns which entries are the bridge itself, which can move into its configuration, and what changes on the way.
Values are moved as they are; only variables in a spelling of one host are rewritten.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Final, cast

from asyncfc_mcp.config.formats import HOST_KEYS, canonical, transport
from asyncfc_mcp.config.mcp_remote import url_entry

PROGRAM: Final = "asyncfc-mcp"
_ONLY_HOST: Final = re.compile(r"\$\{(?:input|command|config|prompt):")
_DOLLARS: Final = ("gemini", "copilot-cli", "antigravity")
"""Hosts that expand `$NAME` in the values of `env` and `headers`."""
_GOOSE_SERVERS: Final = ("stdio", "sse", "streamable_http")
_OF_PROCESSES: Final = frozenset(
    {
        "command", "cmd", "args", "env", "environment", "envs", "envFile", "env_file", "cwd", "workingDirectory",
        "working_directory", "workdir", "type", "transport", "transportType",
    }
)  # fmt: skip
"""Keys of an entry that concern its process."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A server that stays in its host, and the reason."""

    name: str
    reason: str


def _ignore(key: str, problem: str) -> None:
    """Drop a warning about a key."""


def words_of(entry: Any) -> list[str]:
    """Return the command line of an entry; empty if it has none."""
    if not isinstance(entry, dict):
        return []
    read = canonical(cast("dict[str, Any]", entry), _ignore)
    args: Any = read.get("args")
    words: list[Any] = [read.get("command"), *(cast("list[Any]", args) if isinstance(args, list) else [])]
    return [str(word) for word in words if isinstance(word, str | int)]


def is_bridge(entry: Any) -> bool:
    """Return whether an entry starts this program."""
    words = words_of(entry)
    return any(PurePath(word.replace("\\", "/")).name.removesuffix(".exe") == PROGRAM for word in words[:4]) or (
        "-m" in words[:4] and "asyncfc_mcp" in words[:4]
    )


def target_of(entry: Any) -> tuple[str, ...]:
    """Return what an entry connects to: its command line, or its URL; empty if it has neither, or is disabled."""
    if not isinstance(entry, dict):
        return ()
    read = canonical(cast("dict[str, Any]", entry), _ignore)
    if read.get("disabled") is True or read.get("enabled") is False:
        return ()
    url: Any = read.get("url")
    return tuple(words_of(entry)) or ((url,) if isinstance(url, str) else ())


def config_of(entry: Any) -> str | None:
    """Return the configuration file that an entry of the bridge names."""
    words = words_of(entry)
    return next((after for word, after in pairwise(words) if word == "--config"), None)


def taken_over(host: str, name: str, entry: Any, *, direct: bool = False) -> dict[str, Any] | Kept:
    """Return an entry for the bridge's configuration, or why it cannot move there.

    Args:
        direct: an entry that runs mcp-remote becomes one with the URL that mcp-remote connects to.
    """
    if not isinstance(entry, dict):
        return Kept(name, "it is no entry of a server")
    written = cast("dict[str, Any]", entry)
    if host == "goose" and written.get("type", "stdio") not in _GOOSE_SERVERS:
        return Kept(name, "it is a part of Goose")
    if written.get("env_keys"):
        return Kept(name, "its secrets are in Goose's keyring, which only Goose reads")
    if any(_ONLY_HOST.search(text) for text in _texts(written)):
        return Kept(name, "it has a variable that only the host can resolve (${input:…})")
    read = canonical(written, _ignore)
    if not read.get("command") and not read.get("url"):
        return Kept(name, "it has neither a command nor a URL")
    moved = {key: item for key, item in written.items() if key not in HOST_KEYS}
    if host == "opencode":
        moved = cast("dict[str, Any]", _rewritten(moved, r"(?<!\$)\{env:([^{}]+)\}"))
        if not isinstance(moved.get("timeout"), dict):
            moved.pop("timeout", None)  # of the listing of tools
    if host in _DOLLARS:
        for key in ("env", "headers"):
            if key in moved:
                moved[key] = _rewritten(moved[key], r"\$([A-Za-z_][A-Za-z0-9_]*)")
    return _direct(moved) if direct else moved


def same_server(entry: Any, configured: Any) -> bool:
    """Return whether an entry of a host is the server that the bridge's configuration has, in whatever spelling.

    Settings of the bridge on the configured entry make no difference if the host's has none.
    """
    if not isinstance(entry, dict) or not isinstance(configured, dict):
        return False
    one, other = _meaning(cast("dict[str, Any]", entry)), _meaning(cast("dict[str, Any]", configured))
    if "asyncfc" not in one:
        other.pop("asyncfc", None)
    return one == other


def _meaning(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without what makes no difference."""
    read = canonical(entry, _ignore)
    kind: Any = read.get("type")
    if isinstance(kind, str) and transport(kind) == ("stdio" if "command" in read else "remote"):
        del read["type"]
    said: dict[str, Any] = {"args": [], "env": {}, "headers": {}, "disabled": False, "enabled": True}
    return {key: item for key, item in read.items() if key not in said or item != said[key]}


def _direct(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the URL in place of mcp-remote; the entry itself if it runs another program."""
    found = url_entry(canonical(entry, _ignore))
    if found is None:
        return entry
    rest = {key: item for key, item in entry.items() if key not in _OF_PROCESSES and key not in found}
    return {**found, **rest}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items: Sequence[Any] = ()
    if isinstance(value, dict):
        items = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list):
        items = cast("list[Any]", value)
    return [text for item in items for text in _texts(item)]


def _rewritten(value: Any, pattern: str) -> Any:
    """Return a value with the variables of a pattern written as `${NAME}`."""
    if isinstance(value, str):
        return re.sub(pattern, r"${\1}", value)
    if isinstance(value, list):
        return [_rewritten(item, pattern) for item in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {key: _rewritten(item, pattern) for key, item in cast("dict[str, Any]", value).items()}
    return value
