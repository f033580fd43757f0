"""Upstream names of tools and prompts: unique, and accepted by hosts.

Pure: names depend on the configuration, on the listings, and on names that were published before, never on the order
of a listing or of the servers' starts. `catalog` owns the listings themselves.
"""

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise, takewhile
from typing import Final, NamedTuple

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.slices import Slices, at_once

HOST_PREFIX: Final = "mcp__asyncfc__"
"""Prefix that hosts add to a tool's name, where this program has the name from the README."""
NAME_LIMIT: Final = 63 - len(HOST_PREFIX)
"""Maximum characters of a name, for hosts that allow 63 with their own prefix."""
SHORTEST_LIMIT: Final = 16
"""Minimum limit: shorter limits of hosts are ignored, since only the hash of a name would fit."""
KEPT_LIMIT: Final = 256
"""Maximum characters of a name that is listed unchanged with `keep_names`."""
SHORTEST_STEM: Final = 6
"""Minimum characters of a server's part with a hash: a letter, and digits that tell it from others."""
SERVER_LIMIT: Final = 24
"""Maximum characters of the part of a name that represents the server."""
PAUSE_AFTER: Final = 200
"""Number of names between two pauses of work in slices."""
SEPARATOR: Final = "__"
"""Separates the server's part from the tool's. A server's part contains none, so the first one splits a name."""

Key = tuple[str, str]
"""Server, and its name for the tool or prompt."""


@dataclass(slots=True)
class PublishedNames:
    """Names that clients have received in this run. Each keeps its meaning, or has none.

    Args:
        reserved: names that tools must not have.
    """

    reserved: frozenset[str] = frozenset()
    tools: dict[str, Key] = field(default_factory=dict[str, Key])
    prompts: dict[str, Key] = field(default_factory=dict[str, Key])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    """Short names for hosts with lower limits → full names."""


@dataclass(frozen=True, slots=True)
class ServerNames:
    """Names listed by one server, without those that its configuration excludes."""

    config: ServerConfig
    names: Sequence[str]


def digest(text: str, digits: int = 8) -> str:
    """Return the first hexadecimal digits of a hash; lone surrogates are accepted."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def mapped(name: str) -> str:
    """Return the name in `[A-Za-z0-9_]`; a hash where no letter or digit would remain."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain.strip("_") or (name and plain == name) else f"x_{digest(name)}"


def _valid_start(name: str) -> str:
    """Return the name with a letter as its first character: some hosts and model APIs reject others."""
    return name if name[:1].isalpha() else f"x{name}" if name.startswith("_") else f"x_{name}"


def server_parts(servers: Iterable[ServerConfig]) -> dict[str, str]:
    """Return the part of upstream names that represents each server, unique also when case is ignored.

    A path (`github.com/org/repo/src/memory`) is represented by its last segment, and a part that is too long is cut;
    both get digits of a hash. So does a part that equals another server's, unless it is exactly the server's name.
    """
    parts: dict[str, str] = {}
    for server in servers:
        part = re.sub(r"_{2,}", "_", _valid_start(mapped(server.name))).rstrip("_") or f"x_{digest(server.name, 4)}"
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


def distinct_lengths(parts: Mapping[str, str]) -> dict[str, int]:
    """Return for each server the number of characters by which its part differs from all others, case ignored; one more
    than the part has where another one begins with the whole of it.

    A part that is shortened to fewer could be another server's, in a host's rule for permissions as well.
    """
    ordered = sorted((part.lower(), server) for server, part in parts.items())
    lengths = dict.fromkeys(parts, 1)
    for (one, first), (other, second) in pairwise(ordered):
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))) + 1
        lengths[first] = max(lengths[first], common)
        lengths[second] = max(lengths[second], common)
    return lengths


def _stem(name: str, limit: int, digits: int = 4) -> str:
    """Return the last segment of a server's name with a letter or digit, cut, with digits of the full name's hash."""
    segments = [segment for segment in re.split(r"[/\\]", name) if re.search(r"[A-Za-z0-9]", segment)]
    stem = re.sub(r"_{2,}", "_", _valid_start(mapped(segments[-1] if segments else name)))
    return f"{stem[: limit - digits - 1].rstrip('_') or 'x'}_{digest(name, digits)}"


def _keeper(members: Sequence[str], is_exact: Callable[[str], bool]) -> str | None:
    """Return the one of several equal names that is kept: the only one, else the only exact one; None without one.

    Of several exact ones (they differ in case), the one in lower case is kept.
    """
    if len(members) == 1:
        return members[0]
    exact = [name for name in members if is_exact(name)]
    if len(exact) > 1:
        exact = [name for name in exact if name == name.lower()]
    return exact[0] if len(exact) == 1 else None


class _Server:
    """Generates the names of one server."""

    def __init__(self, config: ServerConfig, part: str, distinct: int, limit: int) -> None:
        self.keeps = config.keep_names
        self._config, self._limit = config, limit
        self._part, self._distinct = part, distinct
        self._own_prefix = part + SEPARATOR
        shared = config.prefix
        self._prefix = self._own_prefix if shared is None else re.sub(r"[^A-Za-z0-9_]", "_", shared)

    def plain(self, name: str) -> str:
        """Return the name that a tool gets unless another has it."""
        return (self._config.prefix or "") + name if self._keeps(name) else self._fitting(self._prefix, name)

    def is_exact(self, name: str) -> bool:
        """Return true where no character of the tool's own name has to be changed."""
        return self._keeps(name) or _valid_start(self._prefix + mapped(name)) == self._prefix + name

    def _keeps(self, name: str) -> bool:
        """Return true where a name is kept unchanged: not if unprintable or too long for one line of text."""
        return self.keeps and name.isprintable() and len(name) <= KEPT_LIMIT

    def others(self, name: str) -> Iterator[str]:
        """Yield names for a tool whose plain name is taken, best first, endlessly."""
        if self._prefix != self._own_prefix:
            yield self._fitting(self._own_prefix, name)
        whole = _valid_start(self._prefix + mapped(name))[: self._limit - 9]
        for number in count():
            yield f"{whole}_{digest(chr(0).join((self._config.name, name, str(number))))}"

    def _fitting(self, prefix: str, name: str) -> str:
        """Return the name that fits: the server's part is shortened first, then left out, and last the tool's own name
        is cut."""
        own = mapped(name)
        whole = _valid_start(prefix + own)
        if len(whole) <= self._limit:
            return whole
        if prefix and (part := self._shortened(self._limit - len(own) - len(SEPARATOR))):
            return f"{part}{SEPARATOR}{own}"
        # With a separator in it, its beginning could be mistaken for another server's part.
        if prefix and len(own) <= self._limit and SEPARATOR not in own and _valid_start(own) == own:
            return own
        return f"{whole[: self._limit - 9]}_{digest(prefix + name)}"

    def _shortened(self, room: int) -> str | None:
        """Return the beginning of the server's part, whole words if one fits, or with digits of a hash where another
        server's part begins like that; None if there is no room."""
        if room >= len(self._part):
            return self._part
        cut = self._part[: max(0, room)]
        words = cut if self._part[len(cut)] == "_" else cut.rpartition("_")[0]
        for shortened in (words.rstrip("_"), cut.rstrip("_")):
            if len(shortened) >= self._distinct:
                return shortened
        return _stem(self._config.name, min(room, SERVER_LIMIT)) if room >= SHORTEST_STEM else None


class Assigned(NamedTuple):
    """Assigned names, and plain names that could not be assigned."""

    names: dict[Key, str]
    displaced: dict[Key, str]


@dataclass(frozen=True, slots=True)
class NamePlan:
    """Names that the tools, or prompts, of one server would have without other servers."""

    maker: _Server
    server: str
    names: frozenset[str]
    wishes: Sequence[tuple[str, str, bool]]
    """Own name, upstream name, and true where that may be assigned: to at most one of several equal names."""


def planning(server_names: ServerNames, part: str, distinct: int, limit: int = NAME_LIMIT) -> Slices[NamePlan]:
    """Plan the names of one server; valid while the server lists these names.

    Args:
        part: the server's part from `server_parts`.
        distinct: its length from `distinct_lengths`.
    """
    maker = _Server(server_names.config, part, distinct, limit)
    groups: dict[str, list[str]] = {}
    plains: dict[str, str] = {}
    for number, name in enumerate(dict.fromkeys(server_names.names)):
        plain = plains[name] = maker.plain(name)
        groups.setdefault(plain if maker.keeps else plain.lower(), []).append(name)
        if number % PAUSE_AFTER == 0:
            yield
    wishes: list[tuple[str, str, bool]] = []
    # Sorted, so that the order of the listing has no influence.
    for number, group in enumerate(sorted(groups)):
        members = sorted(groups[group])
        keeper = _keeper(members, maker.is_exact)
        wishes += [(name, plains[name], name == keeper) for name in members]
        if number % PAUSE_AFTER == 0:
            yield
    return NamePlan(maker, server_names.config.name, frozenset(plains), wishes)


def assigning(
    plans: Sequence[NamePlan], *, reserved: Container[str] = (), held: Mapping[str, Key] | None = None
) -> Slices[Assigned]:
    """Assign planned names; see `assign`."""
    offered = {plan.server: plan.names for plan in plans}
    names: dict[Key, str] = {}
    displaced: dict[Key, str] = {}
    taken = _Taken(reserved)
    for number, (name, key) in enumerate(list((held or {}).items())):
        taken.add(name)
        # A tool may have two names: the later one is current.
        if key[1] in offered.get(key[0], ()):
            names[key] = name
        if number % PAUSE_AFTER == 0:
            yield
    waiting: list[tuple[_Server, Key]] = []
    for plan in plans:
        fold = not plan.maker.keeps
        for number, (name, plain, may_have) in enumerate(plan.wishes):
            key = (plan.server, name)
            if key in names:
                if names[key] != plain:
                    displaced[key] = plain
            elif may_have and taken.admit(plain, fold=fold):
                names[key] = plain
            else:
                displaced[key] = plain
                waiting.append((plan.maker, key))
            if number % PAUSE_AFTER == 0:
                yield
    # Last, so that a name with a hash cannot take the own name of another tool.
    for number, (maker, key) in enumerate(waiting):
        names[key] = next(other for other in maker.others(key[1]) if taken.admit(other, fold=not maker.keeps))
        if number % PAUSE_AFTER == 0:
            yield
    return Assigned(names, displaced)


def assign(
    server_names: Iterable[ServerNames],
    parts: Mapping[str, str],
    *,
    reserved: Container[str] = (),
    held: Mapping[str, Key] | None = None,
    limit: int = NAME_LIMIT,
) -> Assigned:
    """Assign a unique name to everything that is offered, also when case is ignored (some clients do).

    `displaced` contains the plain name of everything that could not get it.

    Of equal names of one server's tools, an exact one is kept; all others get a hash. Between servers, the first one of
    the configuration keeps the name, and the names of the others get their server's part.

    Args:
        parts: from `server_parts`.
        reserved: names that must not be assigned.
        held: published names → their meanings. A name is not assigned to anything else, even after its tool was
            removed.
    """
    distinct = distinct_lengths(parts)
    plans = [
        at_once(planning(offered, parts[name], distinct[name], limit))
        for offered in server_names
        for name in (offered.config.name,)
    ]
    return at_once(assigning(plans, reserved=reserved, held=held))


class _Taken:
    """Names in use, compared without case unless names are kept."""

    def __init__(self, reserved: Container[str]) -> None:
        self._reserved = reserved
        self._exact: set[str] = set()
        self._folded: set[str] = set()

    def add(self, name: str) -> None:
        self._exact.add(name)
        self._folded.add(name.lower())

    def admit(self, name: str, *, fold: bool) -> bool:
        """Take a name if it is free; return whether it was."""
        if name in self._reserved or name in self._exact or (fold and name.lower() in self._folded):
            return False
        self.add(name)
        return True
