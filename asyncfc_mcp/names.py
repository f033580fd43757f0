"""Names of tools and prompts upstream: which name each has, so that hosts accept it and no two are the same.

Pure: the result depends on the configuration, on what each server lists, and on the names that were handed out before,
never on the order of a listing or of the servers' starts. Leaves the listings themselves to `catalog`.
"""

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

from asyncfc_mcp.config import ServerConfig

HOST_PREFIX: Final = "mcp__asyncfc__"
"""Prefix that hosts put before a tool's name, with this program under the name that the README gives it."""
NAME_LIMIT: Final = 63 - len(HOST_PREFIX)
"""The longest name that fits where the host allows 63 characters with its own prefix."""
SHORTEST_LIMIT: Final = 16
"""Shorter limits of hosts are not kept: nothing of a name would be left beside its hash."""
SERVER_LIMIT: Final = 24
"""The longest part of a name that stands for the server."""
SEPARATOR: Final = "__"
"""Stands between the server's part and the tool's. A server's part contains none, so the first one splits a name."""

Key = tuple[str, str]
"""Server, and its own name of the tool or prompt."""


@dataclass(slots=True)
class Handed:
    """Names that clients were given in this run. They lead where they led, or nowhere.

    Args:
        reserved: names that no tool may have.
    """

    reserved: frozenset[str] = frozenset()
    tools: dict[str, Key] = field(default_factory=dict[str, Key])
    prompts: dict[str, Key] = field(default_factory=dict[str, Key])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    """Short names for hosts that allow less → the names that they stand for."""


@dataclass(frozen=True, slots=True)
class Offering:
    """One server's names, as it lists them, without those that its configuration excludes."""

    config: ServerConfig
    names: Sequence[str]


def digest(text: str, digits: int = 8) -> str:
    """The first hexadecimal digits of a hash; lone surrogates are accepted."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def mapped(name: str) -> str:
    """The name in `[A-Za-z0-9_]`; a hash where no letter or digit would remain of it."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain.strip("_") or (name and plain == name) else f"x_{digest(name)}"


def _led(name: str) -> str:
    """The name with a first character that is a letter or `_`: some hosts refuse others."""
    return f"_{name}" if name[:1].isdigit() else name


def server_parts(servers: Iterable[ServerConfig]) -> dict[str, str]:
    """Server → the part of its names that stands for it: different for any two, also without regard to case.

    A path (`github.com/org/repo/src/memory`) is represented by its last segment, and a part that is too long is cut,
    both with digits of a hash; so is any that would equal another server's, except one that is the server's very name.
    """
    parts: dict[str, str] = {}
    for server in servers:
        part = re.sub(r"_{2,}", "_", _led(mapped(server.name))).rstrip("_") or f"x_{digest(server.name, 4)}"
        parts[server.name] = part if len(part) <= SERVER_LIMIT else _stem(server.name, SERVER_LIMIT)
    for digits in (4, 8, 16):
        groups: dict[str, list[str]] = {}
        for name, part in parts.items():
            groups.setdefault(part.lower(), []).append(name)
        for members in groups.values():
            keeper = _keeper(members, lambda name: parts[name] == name)
            for name in members:
                if name != keeper:
                    parts[name] = _stem(name, SERVER_LIMIT, digits)
    return parts


def _stem(name: str, limit: int, digits: int = 4) -> str:
    """The last segment of a server's name that has a letter or digit, cut, with digits of the whole name's hash."""
    segments = [segment for segment in re.split(r"[/\\]", name) if re.search(r"[A-Za-z0-9]", segment)]
    stem = re.sub(r"_{2,}", "_", _led(mapped(segments[-1] if segments else name)))
    return f"{stem[: limit - digits - 1].rstrip('_') or 'x'}_{digest(name, digits)}"


def _keeper(members: Sequence[str], is_exact: Callable[[str], bool]) -> str | None:
    """Of the names that would become one, the one that stays: the only one, else the only exact one, if there is one.

    Of several that are exact (they differ in case), it is the one in lower case.
    """
    if len(members) == 1:
        return members[0]
    exact = [name for name in members if is_exact(name)]
    if len(exact) > 1:
        exact = [name for name in exact if name == name.lower()]
    return exact[0] if len(exact) == 1 else None


class _Server:
    """Makes the names of one server."""

    def __init__(self, config: ServerConfig, part: str, limit: int) -> None:
        self.keeps = config.keep_names
        self._config, self._limit = config, limit
        self._own_prefix = part + SEPARATOR
        shared = config.prefix
        self._prefix = self._own_prefix if shared is None else re.sub(r"[^A-Za-z0-9_]", "_", shared)

    def plain(self, name: str) -> str:
        """The name that a tool has unless another has it."""
        return (self._config.prefix or "") + name if self.keeps else self._fitting(self._prefix, name)

    def is_exact(self, name: str) -> bool:
        """True if nothing of the tool's own name had to be changed."""
        return self.keeps or _led(self._prefix + mapped(name)) == self._prefix + name

    def others(self, name: str) -> Iterator[str]:
        """Names for a tool whose plain name another has, best first, without end."""
        if self._prefix != self._own_prefix:
            yield self._fitting(self._own_prefix, name)
        whole = _led(self._prefix + mapped(name))[: self._limit - 9]
        for number in count():
            yield f"{whole}_{digest(chr(0).join((self._config.name, name, str(number))))}"

    def _fitting(self, prefix: str, name: str) -> str:
        own = mapped(name)
        whole = _led(prefix + own)
        if len(whole) <= self._limit:
            return whole
        # The tool's name stays and the server's part gives way, down to one letter and the hash that tells it apart.
        room = self._limit - len(own) - len(SEPARATOR)
        if prefix and room >= 6:
            return f"{_stem(self._config.name, min(room, SERVER_LIMIT))}{SEPARATOR}{own}"
        return f"{whole[: self._limit - 9]}_{digest(prefix + name)}"


class Assigned(NamedTuple):
    """The outcome of `assign`."""

    names: dict[Key, str]
    displaced: dict[Key, str]


def assign(
    offerings: Iterable[Offering],
    parts: Mapping[str, str],
    *,
    reserved: Container[str] = (),
    held: Mapping[str, Key] | None = None,
    limit: int = NAME_LIMIT,
) -> Assigned:
    """The name of everything that is offered: no two are equal, also without regard to case (some clients fold it).

    What could not have the name that it would have by itself is in `displaced`, with that name.

    Of tools of one server whose names would be the same, one keeps it if it is its very own name; all others get a hash
    of theirs. Between servers the first of the configuration keeps it, and the others' get their server's part.

    Args:
        parts: of `server_parts`.
        reserved: names that none may have.
        held: names that were handed out → what they lead to. They lead to nothing else, even if that is gone.
    """
    offerings = list(offerings)
    servers = {o.config.name: _Server(o.config, parts[o.config.name], limit) for o in offerings}
    offered = {(o.config.name, name): None for o in offerings for name in o.names}
    names: dict[Key, str] = {}
    displaced: dict[Key, str] = {}
    taken = _Taken(reserved)
    for name, key in (held or {}).items():
        taken.add(name)
        # Two names of one tool are possible: the later is the one that it has now.
        if key in offered:
            names[key] = name
    waiting: list[Key] = []
    for offering in offerings:
        server = servers[offering.config.name]
        groups: dict[str, list[str]] = {}
        plains = {name: server.plain(name) for name in offering.names}
        for name, plain in plains.items():
            groups.setdefault(plain if server.keeps else plain.lower(), []).append(name)
        # Sorted, so that the order of the listing decides nothing.
        for group in sorted(groups):
            members = sorted(groups[group])
            keeper = _keeper(members, server.is_exact)
            for name in members:
                key = (offering.config.name, name)
                if key in names:
                    if names[key] != plains[name]:
                        displaced[key] = plains[name]
                elif name == keeper and taken.admit(plains[name], fold=not server.keeps):
                    names[key] = plains[name]
                else:
                    displaced[key] = plains[name]
                    waiting.append(key)
    # Only now: a name made of a hash must not take one that is some tool's own.
    for key in waiting:
        server = servers[key[0]]
        names[key] = next(other for other in server.others(key[1]) if taken.admit(other, fold=not server.keeps))
    return Assigned(names, displaced)


class _Taken:
    """Names that are given, compared without regard to case unless they are kept as they are."""

    def __init__(self, reserved: Container[str]) -> None:
        self._reserved = reserved
        self._exact: set[str] = set()
        self._folded: set[str] = set()

    def add(self, name: str) -> None:
        self._exact.add(name)
        self._folded.add(name.lower())

    def admit(self, name: str, *, fold: bool) -> bool:
        """Take a name, if it is free."""
        if name in self._reserved or name in self._exact or (fold and name.lower() in self._folded):
            return False
        self.add(name)
        return True
