"""The setting `access`: reading it, and the meaning of its patterns.

A pattern is a glob of servers, or of servers and their tools (`server/tool`). Owns which servers and tools one pattern
covers. Leaves the decision for a principal to `core.access`.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, cast

from asyncfc_mcp.config.checker import Checker
from asyncfc_mcp.config.settings import AccessEntry
from asyncfc_mcp.errors import nearest

EVERYONE: Final = "*"
"""Name of the entry that applies to every principal."""
GRANT: Final = "scope:"
"""Beginning of the name of an entry for holders of an OAuth scope."""
KEYS: Final = ("allow", "deny")


def covers_server(pattern: str, server: str) -> bool:
    """Return true where a pattern covers a server as a whole, and so all its tools.

    A pattern with a slash is one of tools, unless it is exactly the name of a server: names of servers may have
    slashes.
    """
    return pattern == server or ("/" not in pattern and fnmatchcase(server, pattern))


def tool_globs(pattern: str, server: str) -> list[str]:
    """Return the globs of a server's tools in a pattern `server/tool`; none where it is one of another server. Each
    slash may be the one between the two."""
    found: list[str] = []
    at = pattern.find("/")
    while at >= 0:
        if pattern[:at] == server or fnmatchcase(server, pattern[:at]):
            found.append(pattern[at + 1 :])
        at = pattern.find("/", at + 1)
    return found


def read_access(check: Checker, value: Any, path: str) -> dict[str, AccessEntry] | None:
    """Return the checked setting.

    Raises:
        ConfigError: it has another form.
    """
    if value is None:
        return None
    table = cast("dict[str, Any]", check.typed(value, path, dict, "an object: principal → allow and deny"))
    return {name: _entry(check, name, entry, f"{path}.{name}") for name, entry in table.items()}


def _entry(check: Checker, name: str, value: Any, path: str) -> AccessEntry:
    if name.strip() in ("", GRANT) or name != name.strip():
        expected = f"the name of a principal, '{GRANT}' and an OAuth scope, or '{EVERYONE}'"
        raise check.fail(path, f"found the name {name!r:.80}", expected)
    entry = cast("dict[str, Any]", check.typed(value, path, dict, "an object with allow or deny"))
    for key in entry:
        if key not in KEYS:
            close = nearest(key, KEYS, at_most=1) or KEYS
            raise check.fail(f"{path}.{key}", f"unknown key {key!r:.80}", " or ".join(map(repr, close)))
    allow = _patterns(check, entry["allow"], f"{path}.allow") if "allow" in entry else None
    return AccessEntry(allow, _patterns(check, entry.get("deny", []), f"{path}.deny"))


def _patterns(check: Checker, value: Any, path: str) -> tuple[str, ...]:
    patterns = check.strings(value, path)
    for number, pattern in enumerate(patterns):
        server, slash, tool = pattern.partition("/")
        if not server or (slash and not tool):
            raise check.fail(f"{path}[{number}]", f"found {pattern!r:.80}", "'server' or 'server/tool'")
    return patterns


def warn_of_access(check: Checker, entries: Mapping[str, AccessEntry] | None, servers: Iterable[str]) -> None:
    """Warn of patterns that match no server, and of access that nobody has.

    Args:
        servers: names of all servers, also of those that are unusable or disabled.
    """
    if entries is None:
        return
    servers = list(servers)
    for name, entry in entries.items():
        for key, patterns in zip(KEYS, (entry.allow or (), entry.deny), strict=True):
            for number, pattern in enumerate(patterns):
                if not any(covers_server(pattern, each) or tool_globs(pattern, each) for each in servers):
                    close = nearest(pattern.partition("/")[0], servers, at_most=1)
                    hint = f" (nearest: {close[0]!r})" if close else ""
                    check.warn(f"asyncfc.access.{name}.{key}[{number}]", f"{pattern!r} matches no server{hint}")
    if not entries:
        check.warn("asyncfc.access", "without an entry, nobody may use anything")
