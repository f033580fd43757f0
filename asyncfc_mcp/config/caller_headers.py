"""Headers of servers that come from each caller's own request: `${caller:NAME}` in a header of a URL.

Pure. Owns the templates: their check, the names that they need, and putting values in. Which request is a caller's is
left to the transports, sending to `bridge.caller_views`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig, StdioSpec, UnusableServer
from asyncfc_mcp.errors import ConfigError

AUTHORIZATION: Final = "authorization"

_PART: Final = re.compile(r"\$\{caller:([^{}]*)\}")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_PASSED_ON: Final = re.compile(
    r"host|connection|keep-alive|te|trailer|upgrade|transfer-encoding|content-.*|accept|accept-encoding|last-event-id"
    r"|mcp-.*",
    re.IGNORECASE,
)
"""Headers of one connection or of the protocol: a caller's would break the requests of the bridge."""


class InvalidTemplate(ValueError):
    """A template is invalid.

    Args:
        found, expected: see `ConfigError`.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


def is_template(text: str) -> bool:
    """Return whether the value of a header comes from callers."""
    return "${caller:" in text


def check_template(name: str, text: str) -> None:
    """Check a header with `${caller:NAME}`.

    Args:
        name: of the header that the server receives.

    Raises:
        InvalidTemplate: it cannot be sent.
    """
    if _NOT_PASSED_ON.fullmatch(name):
        raise InvalidTemplate("found ${caller:…} in a header that belongs to the connection", "another header")
    for written in _PART.findall(text):
        if not _NAME.fullmatch(written):
            raise InvalidTemplate("found ${caller:…} without the name of a header", "${caller:authorization}")
        if _NOT_PASSED_ON.fullmatch(written):
            found = f"found ${{caller:{written}}}, a header of the caller's own connection"
            raise InvalidTemplate(found, "a header with a credential, such as ${caller:authorization}")
    if "${" in _PART.sub("", text):
        # Values of variables are not mixed in: they may be secrets, and templates are shown.
        raise InvalidTemplate("found another ${…} beside ${caller:…}", "${caller:NAME} and plain text only")


def template_names(text: str) -> tuple[str, ...]:
    """Return the names of the caller's headers in a template, in lower case."""
    return tuple(name.lower() for name in _PART.findall(text))


def filled(text: str, headers: Mapping[str, str]) -> str:
    """Return the value of a header.

    Args:
        headers: those of the caller, by lower-case name.

    Raises:
        KeyError: the caller's request had no such header; with its name.
    """
    return _PART.sub(lambda match: headers[match[1].lower()], text)


def uses_callers(server: ServerConfig) -> bool:
    """Return whether a server receives headers of callers."""
    return isinstance(server.spec, HttpSpec) and bool(server.spec.caller_headers)


def caller_names(spec: StdioSpec | HttpSpec) -> tuple[str, ...]:
    """Return the names of the callers' headers that a server needs, in lower case."""
    if not isinstance(spec, HttpSpec):
        return ()
    return tuple(dict.fromkeys(name for text in spec.caller_headers.values() for name in template_names(text)))


def all_caller_names(servers: Iterable[ServerConfig]) -> tuple[str, ...]:
    """Return the names of all headers that servers need of callers: transports put them into `Principal.headers`."""
    return tuple(sorted({name for server in servers for name in caller_names(server.spec)}))


def without_callers(config: BridgeConfig) -> BridgeConfig:
    """Return the configuration for a bridge whose client sends no headers, as over stdio: servers that need them are
    unusable, also when it is read again.

    Raises:
        ConfigError: no other server is left.
    """
    unusable = [
        UnusableServer(
            server.name,
            f"it gets the caller's header {' and '.join(caller_names(server.spec))}, and a client over stdio sends no "
            "headers: serve it with --transport http",
        )
        for server in config.servers
        if uses_callers(server)
    ]
    if config.origin is not None:
        config = replace(config, origin=config.origin.adapted(without_callers))
    if not unusable:
        return config
    kept = tuple(server for server in config.servers if not uses_callers(server))
    if not kept:
        found = f"found no other server than {unusable[0].name!r}: {unusable[0].reason}"
        raise ConfigError(config.source, "", found, "a server with credentials of its own, or --transport http")
    return replace(config, servers=kept, unusable=(*config.unusable, *unusable))


def passes_on_authorization(servers: Iterable[ServerConfig]) -> str | None:
    """Return the name of a server that gets the callers' `Authorization` header; None if there is none."""
    return next((server.name for server in servers if AUTHORIZATION in caller_names(server.spec)), None)
