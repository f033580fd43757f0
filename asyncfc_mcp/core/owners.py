"""Owners of requests that name no server: the server for reading a resource or for a method of an extension.

Pure. The owner is the server that listed or declared the resource or extension. An error from it is final: if another
server were asked next, that one could impersonate the owner.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

from asyncfc_mcp.core.futures import Future

_LINKING_FUTURES: Final = 200
"""Maximum futures of a scope, newest first, whose results are searched for a link to a resource that no server
lists."""
_LINKING_BLOCKS: Final = 10_000
"""Maximum content blocks that are searched in all of them."""

Listed = Mapping[str, tuple[str, Mapping[str, Any]]]
"""URI or URI template → its server and its entry."""


SEARCHED_CHARS: Final = 8192
"""Maximum characters of a URI that is compared completely with templates; of a longer one, only the ends."""


def template_matches(template: str, uri: str) -> bool:
    """Return true where a URI may be an expansion of an RFC 6570 template. Lenient, since the server decides."""
    first, *rest = re.split(r"\{[^}]*\}", template)
    if not rest:
        return uri == template
    if not (uri.startswith(first) and uri.endswith(rest[-1])):
        return False
    if len(uri) > SEARCHED_CHARS:
        return True
    # Each literal at its first occurrence: a regex with many gaps would backtrack.
    at = len(first)
    for literal in rest[:-1]:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return len(uri) - len(rest[-1]) >= at


def resource_owner(
    uri: str, resources: Listed, templates: Listed, linked: Iterable[str], serving: Sequence[str]
) -> str | None:
    """Return the server that is asked for a resource; None if no server has resources.

    In this order: the server that lists it; the server with the most specific template that fits (longest text before
    its first variable), so that a template such as `{+uri}` does not capture other servers' URIs; a server whose result
    links to it; the server that lists the most similar URI of the same scheme; the first server with resources.

    Args:
        linked: servers whose results link to the resource.
        serving: servers with resources, in the order of the configuration.
    """
    if uri in resources:
        return resources[uri][0]
    fitting = [(template, server) for template, (server, _) in templates.items() if template_matches(template, uri)]
    if fitting:
        return max(fitting, key=lambda each: len(each[0].partition("{")[0]))[1]
    found = set(linked)
    for server in serving:
        if server in found:
            return server
    scheme = f"{uri.partition(':')[0]}:"
    nearest, owner = 0, None
    for listed in (resources, templates):
        for other, (server, _) in listed.items():
            if other.startswith(scheme) and (common := _common(uri, other)) > nearest:
                nearest, owner = common, server
    return owner or next(iter(serving), None)


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def linking(uri: str, futures: Iterable[Future]) -> set[str]:
    """Return the servers whose results link to a resource or contain it, among those in memory.

    Args:
        futures: newest first.
    """
    servers: set[str] = set()
    left = _LINKING_BLOCKS
    for future, _ in zip(futures, range(_LINKING_FUTURES), strict=False):
        if not future.loaded:
            continue
        content: Any = future.result.get("content") if future.result is not None else None
        if not isinstance(content, list) or future.server in servers:
            continue
        blocks: list[Any] = content  # pyright: ignore[reportUnknownVariableType]
        for block in blocks[:left]:
            if isinstance(block, dict) and uri in (block.get("uri"), _uri_of(block.get("resource"))):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
                servers.add(future.server)
                break
        left -= len(blocks)
        if left <= 0:
            break
    return servers


def _uri_of(resource: Any) -> Any:
    return resource.get("uri") if isinstance(resource, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def extension_owner(method: str, declared: Mapping[str, Iterable[str]]) -> str | None:
    """Return the server that is asked for a method that no version of MCP defines; None if it is ambiguous.

    An extension `com.example/search` owns methods that begin with its identifier, its name (`search/…`), or its vendor
    (`com.example/…`, `example/…`), in this order of precedence. The first server that declares it is asked. A method
    of no extension belongs to the only server that declares any.

    Args:
        declared: server → identifiers of its extensions, in the order of the configuration.
    """
    best, owner = inf, None
    for server, identifiers in declared.items():
        for identifier in identifiers:
            vendor, _, name = identifier.rpartition("/")
            words = (identifier, name, vendor, vendor.rpartition(".")[2])
            rank = next((rank for rank, word in enumerate(words) if _begins(word, method)), best)
            if rank < best:
                best, owner = rank, server
    some = [server for server, identifiers in declared.items() if any(True for _ in identifiers)]
    return owner or (some[0] if len(some) == 1 else None)


def _begins(word: str, method: str) -> bool:
    return bool(word) and method.startswith(word) and method[len(word) : len(word) + 1] in ("", "/", ".")
