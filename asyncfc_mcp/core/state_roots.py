"""Roots of servers in the state tree, and the places of their files, according to the configuration.

Owns parsing `state`, and the folders to which relative paths of a server may refer. `effects` decides which calls
conflict, and `file_paths` locates files. Reads the file system (which folders exist, and links), and writes nothing.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import cast

from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.file_paths import FilePaths, LinkResolver, elsewhere, network_mounts, path_text
from asyncfc_mcp.core.state_paths import FILES, SHARED, Path, ServerState

_IN_FILES = "files:"
_SESSION = "session:"


def server_states(servers: Iterable[ServerConfig]) -> dict[str, ServerState]:
    """Return the place of each server in the state tree."""
    links = LinkResolver()
    by_name = {server.name: server for server in servers}
    return {name: _state(server, by_name, links) for name, server in by_name.items()}


def session_state(server: ServerConfig, common: ServerState, conversation: str) -> ServerState:
    """Return the place of a server's instance for one session: what its process keeps is apart from that of other
    instances, unless the configuration says where its state is. Files are the same for all.

    Args:
        server: with the working directory and environment of the session.
        common: the place of the server itself.
        conversation: of the session; equal in other runs, where calls are in order with those of this run.
    """
    state = _state(server, {server.name: server}, LinkResolver())
    if common.shared:
        return replace(state, root=common.root, files=common.files)
    key = blake2b(conversation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return replace(state, root=(*common.root, f"{_SESSION}{key}"))


def _state(server: ServerConfig, others: dict[str, ServerConfig], links: LinkResolver) -> ServerState:
    root = _root(server, others, links)
    shared = server.state is not None
    folder = _folder(server)
    if isinstance(server.spec, StdioSpec):
        folders = [*folders_of(server.spec), *([folder] if folder is not None else [])]
        home = server.spec.environment(os.environ).get("HOME") or os.path.expanduser("~")
    elif folder is not None:
        folders, home = [folder], os.path.expanduser("~")
    else:
        return ServerState(server.name, root, (*root, *FILES), elsewhere, elsewhere, shared=shared)
    files = FilePaths(folders, home, links.resolve, links.resolve_repositories)
    return ServerState(server.name, root, FILES, files, files.repositories, partial(_option, server.spec), shared)


def _option(spec: StdioSpec | HttpSpec, name: str) -> list[str]:
    """Return the values of an option (`--name`) of a server's command line, or of a variable (`$NAME`)."""
    if not isinstance(spec, StdioSpec):
        return []
    if name.startswith("$"):
        value = spec.environment(os.environ).get(name[1:])
        return [value] if value else []
    following = zip(spec.args, spec.args[1:], strict=False)
    apart = [value for option, value in following if option == name]
    joined = [arg.partition("=")[2] for arg in spec.args if arg.startswith(f"{name}=")]
    return [value for value in (*apart, *joined) if value]


def _folder(server: ServerConfig) -> str | None:
    """Return the folder that contains all state of a server; None where the configuration names none."""
    if server.state is None or not server.state.startswith(_IN_FILES):
        return None
    return server.state.removeprefix(_IN_FILES)


def _root(server: ServerConfig, others: dict[str, ServerConfig], links: LinkResolver) -> Path:
    if server.state is None:
        return (server.name,)
    if (folder := _folder(server)) is not None:
        # The last place is the target of all links.
        return (*FILES, *(links.resolve([folder]) or [tuple(folder.strip(os.sep).split(os.sep))])[-1])
    first, *below = server.state.split("/")
    owner = others.get(first)
    if owner is not None and owner.state is None:  # the root of that server
        return (first, *below)
    return (*SHARED, first, *below)


def folders_of(spec: StdioSpec) -> list[str]:
    """Return the folders to which relative paths may refer: the working directory and those named in the command.

    `@modelcontextprotocol/server-filesystem` resolves a relative path against the folders it was given, others against
    their working directory, browsers against their folder for downloads.
    """
    try:
        cwd = os.path.abspath(spec.cwd or "")
    except OSError:  # the working directory of the bridge was removed
        cwd = os.sep
    found = {cwd: None}
    remote = network_mounts() or ()  # not accessed: one that does not respond would block the start
    for arg in spec.args:
        text = arg.partition("=")[2] if arg.startswith("-") and "=" in arg else arg
        folder = os.path.join(cwd, os.path.expanduser(text))
        if not text:
            continue
        # A folder with an absolute path may be created by the server later.
        if (
            any(f"{folder}/".startswith(f"{mount}/") for mount in remote)
            or os.path.isdir(folder)
            or (text[0] in "/~" and not os.path.exists(folder))
        ):
            found[folder] = None
    return list(found)


def use_roots(state: ServerState, answer: Mapping[str, object]) -> None:
    """Add the roots that a client returned to a server: `server-filesystem` uses them in place of the folders in its
    command line."""
    roots = answer.get("roots")
    if isinstance(state.locate, FilePaths) and isinstance(roots, list):
        entries = [cast("dict[str, object]", root) for root in cast("list[object]", roots) if isinstance(root, dict)]
        texts = [path_text(entry.get("uri")) for entry in entries]
        state.locate.roots = tuple(text for text in texts if text is not None and os.path.isabs(text))
