"""Access of principals to servers and tools, by the setting `access`.

Pure. Owns which entries apply to a principal and what they allow together: what an entry allows and none denies, and
nothing where no entry applies. Leaves the meaning of a pattern to `config.access`, and the parts of a catalog that a
principal sees to `bridge.views`.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import Final

from asyncfc_mcp.config.access import EVERYONE, GRANT, covers_server, tool_globs
from asyncfc_mcp.config.settings import AccessEntry
from asyncfc_mcp.core.identity import OAUTH, PERSON, Principal

MOST_KEPT: Final = 256
"""Bound on the combinations of entries whose decisions are kept: tokens with different grants make more of them."""

_FULL_KEYS: Final = (PERSON, OAUTH)


def applies(name: str, principal: Principal) -> bool:
    """Return true where the entry of this name applies to a principal.

    Names are chosen by whoever gives out tokens: the subject of a token that is called `*` or `scope:admin` is an
    ordinary name, and such an entry does not apply to it for that reason.
    """
    if name == EVERYONE:
        return True
    if name.startswith(GRANT):
        return principal.grants is not None and name.removeprefix(GRANT) in principal.grants
    if name.startswith(_FULL_KEYS):
        return name == principal.scope.key
    return name == principal.name


@dataclass(frozen=True, slots=True)
class _Server:
    """What some entries say about one server.

    Attributes:
        whole: it is allowed as a whole.
        allowed: matches the names of tools that are allowed apart from that.
        denied: matches the names of tools that are denied, behind the server's name and a slash.
        none: nothing of it is allowed.
    """

    whole: bool
    allowed: re.Pattern[str] | None
    denied: re.Pattern[str] | None
    none: bool


class Access:
    """What principals may use to whom the same entries apply."""

    def __init__(self, entries: Sequence[AccessEntry]) -> None:
        self._entries = entries
        self._servers: dict[str, _Server] = {}

    def serves(self, server: str) -> bool:
        """Return true where a server is allowed as a whole: its prompts, resources, instructions and extensions, and
        all its tools but those that are denied."""
        return self._server(server).whole

    def touches(self, server: str) -> bool:
        """Return true where anything of a server may be allowed."""
        return not self._server(server).none

    def allows(self, server: str, tool: str) -> bool:
        """Return true where a tool is allowed, by the server's own name for it."""
        rules = self._server(server)
        if rules.none or not (rules.whole or (rules.allowed is not None and rules.allowed.fullmatch(tool))):
            return False
        return rules.denied is None or rules.denied.fullmatch(f"{server}/{tool}") is None

    def _server(self, server: str) -> _Server:
        rules = self._servers.get(server)
        if rules is None:
            rules = self._servers[server] = _rules(self._entries, server)
        return rules


def _rules(entries: Sequence[AccessEntry], server: str) -> _Server:
    denied = [pattern for entry in entries for pattern in entry.deny]
    if any(_denies_server(pattern, server) for pattern in denied):
        return _Server(whole=False, allowed=None, denied=None, none=True)
    whole = any(entry.allow is None or any(covers_server(each, server) for each in entry.allow) for entry in entries)
    globs = [glob for entry in entries for pattern in entry.allow or () for glob in tool_globs(pattern, server)]
    of_tools = [pattern for pattern in denied if "/" in pattern]
    return _Server(whole, _one(globs), _one(of_tools, f"{server}/"), none=not (whole or globs))


def _denies_server(pattern: str, server: str) -> bool:
    """Like `covers_server`, and wider: a pattern with a slash also denies a server whose name it matches."""
    return covers_server(pattern, server) or fnmatchcase(server, pattern)


def _one(globs: Sequence[str], server: str = "") -> re.Pattern[str] | None:
    """Return one expression for several globs. A name with the signs of globs is also meant literally.

    Args:
        server: name of the server and a slash, with which globs may begin.
    """
    parts = [part for glob in globs for part in (translate(glob), rf"{re.escape(glob)}\Z")]
    parts += [re.escape(server) + translate(glob.removeprefix(server)) for glob in globs if glob.startswith(server)]
    return re.compile("|".join(f"(?:{part})" for part in parts)) if parts else None


class AccessRules:
    """The setting `access`: decisions for each principal."""

    def __init__(self, entries: Mapping[str, AccessEntry]) -> None:
        self._entries = entries
        self._known: OrderedDict[tuple[str, ...], Access] = OrderedDict()

    def of(self, principal: Principal) -> Access:
        """Return what a principal may use. The same object for all to whom the same entries apply, as long as it is
        kept."""
        names = tuple(name for name in self._entries if applies(name, principal))
        access = self._known.get(names)
        if access is None:
            access = self._known[names] = Access([self._entries[name] for name in names])
            if len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(names)
        return access

    def useless(self, *, people: Collection[str], tokens: bool) -> list[str]:
        """Return the names of entries that apply to nobody.

        Args:
            people: names of the persons that have a token of their own.
            tokens: tokens of an authorization server are accepted, whose subjects and scopes are not known.
        """
        names = {EVERYONE, *people, *(f"{PERSON}{name}" for name in people)}

        def may_apply(name: str) -> bool:
            if name in names:
                return True
            if name.startswith(GRANT):
                return tokens or bool(people)
            return tokens and not name.startswith(PERSON)

        return [name for name in self._entries if not may_apply(name)]
