"""Roots of the servers in the state tree, and where their files are, from the configuration.

Owns reading `state`, and which folders a server may mean by a relative path. Which calls conflict is decided in
`ordering`.
"""

import os
from collections.abc import Iterable, Mapping
from typing import cast

from asyncfc_mcp.config import ServerConfig, StdioSpec
from asyncfc_mcp.file_paths import FilePaths, LinkResolver, elsewhere, network_mounts, path_text
from asyncfc_mcp.ordering import FILES, SHARED, Path, ServerState

_IN_FILES = "files:"


def server_states(servers: Iterable[ServerConfig]) -> dict[str, ServerState]:
    """The part of the state tree of each server."""
    links = LinkResolver()
    by_name = {server.name: server for server in servers}
    return {name: _state(server, by_name, links) for name, server in by_name.items()}


def _state(server: ServerConfig, others: dict[str, ServerConfig], links: LinkResolver) -> ServerState:
    root = _root(server, others, links)
    shared = server.state is not None
    folder = _folder(server)
    if isinstance(server.spec, StdioSpec):
        folders = [*folders_of(server.spec), *([folder] if folder is not None else [])]
        home = server.spec.env.get("HOME") or os.path.expanduser("~")
    elif folder is not None:
        folders, home = [folder], os.path.expanduser("~")
    else:
        return ServerState(server.name, root, (*root, *FILES), elsewhere, shared)
    return ServerState(server.name, root, FILES, FilePaths(folders, home, links.resolve), shared)


def _folder(server: ServerConfig) -> str | None:
    """The folder in which all of a server's state lies, if the configuration names one."""
    if server.state is None or not server.state.startswith(_IN_FILES):
        return None
    return server.state.removeprefix(_IN_FILES)


def _root(server: ServerConfig, others: dict[str, ServerConfig], links: LinkResolver) -> Path:
    if server.state is None:
        return (server.name,)
    if (folder := _folder(server)) is not None:
        # The last is what the links come to.
        return (*FILES, *(links.resolve([folder]) or [tuple(folder.strip(os.sep).split(os.sep))])[-1])
    first, *below = server.state.split("/")
    owner = others.get(first)
    if owner is not None and owner.state is None:  # "the same as that server"
        return (first, *below)
    return (*SHARED, first, *below)


def folders_of(spec: StdioSpec) -> list[str]:
    """Folders that a server may mean by a relative path: its working directory, and those that its command names.

    `@modelcontextprotocol/server-filesystem` takes a relative path below the folders it was given, others below their
    working directory, browsers below the folder for their downloads.
    """
    try:
        cwd = os.path.abspath(spec.cwd or "")
    except OSError:  # the folder that the bridge was started in is gone
        cwd = os.sep
    found = {cwd: None}
    remote = network_mounts() or ()  # not asked for anything: one that does not answer would stop the start
    for arg in spec.args:
        text = arg.partition("=")[2] if arg.startswith("-") and "=" in arg else arg
        folder = os.path.join(cwd, os.path.expanduser(text))
        if not text:
            continue
        # One that is named in full may be made by the server later.
        if (
            any(f"{folder}/".startswith(f"{mount}/") for mount in remote)
            or os.path.isdir(folder)
            or (text[0] in "/~" and not os.path.exists(folder))
        ):
            found[folder] = None
    return list(found)


def use_roots(state: ServerState, answer: Mapping[str, object]) -> None:
    """Take the client's roots into account that a server was given: `server-filesystem` works on them in place of the
    folders on its command line."""
    roots = answer.get("roots")
    if isinstance(state.locate, FilePaths) and isinstance(roots, list):
        entries = [cast("dict[str, object]", root) for root in cast("list[object]", roots) if isinstance(root, dict)]
        texts = [path_text(entry.get("uri")) for entry in entries]
        state.locate.roots = tuple(text for text in texts if text is not None and os.path.isabs(text))
