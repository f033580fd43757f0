"""Files of hosts whose servers are not simply in one table: projects of Claude Code, extensions of Goose.

Pure, apart from the current folder. Owns which entries of a file are its servers. Key paths are left to `formats`.
"""

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, cast

from asyncfc_mcp.config.formats import find_servers
from asyncfc_mcp.config.parsing import JsonObject, duplicate_keys, is_yaml

GOOSE: Final = "extensions"
_GOOSE_SERVERS: Final = ("stdio", "sse", "streamable_http")
"""Types of Goose's extensions that are MCP servers; the others (`builtin`, `platform`, …) are parts of Goose."""


def server_tables(root: Mapping[str, Any], file: str, folder: str | None = None) -> list[tuple[str, Any]]:
    """Return the key path and value of the server table, as `find_servers` does, with what a host keeps elsewhere.

    Args:
        folder: the folder whose project counts in Claude Code's file; the current one by default.
    """
    tables = find_servers(root)
    if not tables and is_yaml(file) and isinstance(root.get(GOOSE), dict):
        return [(GOOSE, goose_servers(cast("dict[str, Any]", root[GOOSE])))]
    projects = root.get("projects")
    if PurePath(file).name == ".claude.json" and isinstance(projects, dict):
        own = _project_servers(cast("dict[str, Any]", projects), _current_folder() if folder is None else folder)
        general: Any = root.get("mcpServers", {})
        if own is not None and isinstance(general, dict):
            duplicates = (*duplicate_keys(general), *duplicate_keys(own))
            return [("mcpServers", JsonObject({**cast("dict[str, Any]", general), **own}, duplicates))]
    return tables


def goose_servers(extensions: Mapping[str, Any]) -> dict[str, Any]:
    """Return Goose's extensions that are MCP servers."""

    def is_server(entry: Any) -> bool:
        return not isinstance(entry, dict) or cast("dict[str, Any]", entry).get("type", "stdio") in _GOOSE_SERVERS

    return {name: entry for name, entry in extensions.items() if is_server(entry)}


def _project_servers(projects: Mapping[str, Any], folder: str) -> dict[str, Any] | None:
    """Return the servers of the project that a folder belongs to, the innermost one."""
    for path in (folder, *map(str, PurePath(folder).parents)):
        project: Any = projects.get(path)
        servers: Any = cast("dict[str, Any]", project).get("mcpServers") if isinstance(project, dict) else None
        if isinstance(servers, dict) and servers:
            return cast("dict[str, Any]", servers)
    return None


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def has_braces(root: Mapping[str, Any], where: str) -> bool:
    """Return whether `{env:NAME}` is a variable: in files of opencode, whose version 2 has VS Code's key path."""
    return where == "mcp" or (where == "mcp.servers" and "opencode" in str(root.get("$schema", "")))
