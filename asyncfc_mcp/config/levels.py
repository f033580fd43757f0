"""Levels of `asyncfc` sections: the settings that are allowed at the top, on a server and on a tool, with their docs.

Pure. The settings themselves are left to `settings`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, Final

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.overrides import OVERRIDES
from asyncfc_mcp.config.settings import POLICY, SETTINGS

OF_STARTS: Final = {f.name: f for f in fields(ServerConfig) if f.metadata}
"""Settings of the instances of a server and of their starts."""
SERVER_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prefix": 'Prefix of the server\'s tool and prompt names. Default: `server__`; `""`: none.',
        "include": "Globs of the tools to list. Default: all.",
        "exclude": "Globs of the tools to leave out.",
        "state": (
            "Root of the state that the server reads and writes, in place of its own root: a name that servers with "
            "shared state have in common, such as `workspace`, or `files:` and the folder that the server works on."
        ),
        "owner": (
            "Replica that runs the server, with the URL of a database as `engine`. `any`: each one runs it, or calls "
            "it; `auto`: one at a time; or the name of the `replica` that does. Default: `any` for a server at a URL, "
            "otherwise `auto`, since a process may have state of its own."
        ),
        "share": OF_STARTS["share"].metadata["doc"],
        "tools": "Settings of individual tools, by the server's own names for them.",
    }
)
SPAWN_KEYS: Final[Mapping[str, tuple[Any, str]]] = MappingProxyType(
    {
        "env_inherit": (
            "all",
            "Variables of the bridge's environment that a server's process inherits: `all`, `safe` (the SDKs' list, "
            "locale, temporary folder, proxies, certificates, folders of package managers), or a list of names in "
            "addition to the safe ones; `AWS_*` matches every name with that prefix.",
        ),
        **{key: (OF_STARTS[key].default, OF_STARTS[key].metadata["doc"]) for key in ("start", "idle_s")},
    }
)
"""Settings of starts of servers, allowed at the top or on a server: name → default and documentation."""
OF_SERVERS: Final = frozenset({"max_message_bytes", "profile"})
"""Policy settings that are not allowed on a tool."""
EFFECTS: Final = ("reads", "writes")
"""Settings that declare state paths."""
NOT_AT_TOP: Final = frozenset({*EFFECTS, "journal"})
"""Policy settings that are not allowed at the top: there, `journal` is a setting of the bridge."""
TOP: Final = "at the top of the file"
LEVELS: Final[Mapping[str, frozenset[str]]] = {
    TOP: frozenset(SETTINGS) | frozenset(SPAWN_KEYS) | frozenset(POLICY) - NOT_AT_TOP,
    "on a server": frozenset(POLICY) | frozenset(SERVER_KEYS) | frozenset(SPAWN_KEYS),
    "on a tool": (frozenset(POLICY) - OF_SERVERS) | frozenset(OVERRIDES),
}
"""Levels of `asyncfc` sections → the settings allowed there."""


def field_docs() -> list[tuple[str, str, Any, str]]:
    """Return every setting: its levels, name, default and documentation."""
    rows: list[tuple[str, str, Any, str]] = []
    for key, known in SETTINGS.items():
        rows.append(("top", key, {} if known.default is MISSING else known.default, known.metadata["doc"]))
    for key, known in POLICY.items():
        level = "server, tool" if key in NOT_AT_TOP else "top, server" if key in OF_SERVERS else "top, server, tool"
        rows.append((level, key, known.default, known.metadata["doc"]))
    rows += [("tool", key, None, doc) for key, (_, doc) in OVERRIDES.items()]
    rows += [("server", key, None, doc) for key, doc in SERVER_KEYS.items()]
    rows += [("top, server", key, default, doc) for key, (default, doc) in SPAWN_KEYS.items()]
    return rows
