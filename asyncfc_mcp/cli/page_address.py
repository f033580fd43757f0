"""Addresses of pages: that of a daemon, found by its configuration, and that of a bridge over HTTP.

Owns the choice among several daemons, and the errors of those that have no page. Leaves asking daemons to `daemons`,
and requests to `page_client`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asyncfc_mcp.cli import daemons
from asyncfc_mcp.cli.daemons import Found
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import one_line
from asyncfc_mcp.redaction import shown_url
from asyncfc_mcp.thin.place import PlaceUnsafe, daemon_name, source_words


class NoDaemon(BridgeError):
    """No daemon runs, or none of the configuration that was named."""

    def __init__(self, config: Path | None) -> None:
        of = "" if config is None else f" of {config}"
        missing = "" if config is None or config.exists() else ", and there is no such file"
        super().__init__(
            f"No daemon{of} runs{missing}. A session of a host starts it (`serve --shared`, see `asyncfc-mcp install`);"
            f" name a bridge over HTTP with --url URL"
        )


class SeveralDaemons(BridgeError):
    """Several daemons run, and none was named.

    Args:
        configurations: of each.
    """

    def __init__(self, configurations: Sequence[str]) -> None:
        super().__init__(
            f"Several daemons run; name the configuration of one of them with --config FILE: "
            f"{', '.join(map(one_line, configurations))}"
        )


class NoPage(BridgeError):
    """A daemon has no page to open.

    Args:
        daemon: its configuration.
        why: the reason and what to do.
    """

    def __init__(self, daemon: str, why: str) -> None:
        super().__init__(f"The daemon of {one_line(daemon)} shows no page: {one_line(why)}")


class NoAddress(BridgeError):
    """A URL is not that of a bridge."""

    def __init__(self, url: str) -> None:
        super().__init__(f"--url: {shown_url(url)!r} is no address of a bridge, such as http://127.0.0.1:8642/mcp")


@dataclass(frozen=True, slots=True)
class PageAddress:
    """A page.

    Args:
        url: its address, which ends with a slash.
        key: a one-time key, if there is one already.
        token: the bridge's token, with which requests are made, if there is one.
        is_local: it is a daemon's, on this machine.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    is_local: bool = False


def http_page(url: str, token: str | None = None) -> PageAddress:
    """Return the page of a bridge over HTTP.

    Args:
        url: that of its endpoint, or of its page.

    Raises:
        NoAddress: it is not one.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise NoAddress(url) from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.query:
        raise NoAddress(url)
    path = parts.path.rstrip("/")
    for end in ("/mcp", "/sse"):
        path = path.removesuffix(end)
    return PageAddress(f"{parts.scheme}://{parts.netloc}{path}/", token=token)


def daemon_page(environ: Mapping[str, str], cwd: str, config: Path | None = None) -> PageAddress:
    """Return the page of a daemon, with a key. It waits for the daemon's answer.

    Args:
        cwd: the working directory.
        config: the daemon's configuration; None where only one runs.

    Raises:
        NoDaemon: there is none.
        SeveralDaemons: one has to be named.
        NoPage: it does not answer, is of an older version, or has its page turned off.
    """
    try:
        found = daemons.find(environ)
    except PlaceUnsafe as exc:
        raise NoPage("this user", str(exc)) from None
    chosen = _chosen(found, environ, cwd, config)
    title = chosen.configuration
    if chosen.status is None:
        raise NoPage(title, f"{chosen.problem}; run `asyncfc-mcp daemon status`")
    if not daemons.ask(chosen, "page"):
        older = "unknown command" in chosen.problem
        why = "it is of an older version; run `asyncfc-mcp daemon restart`" if older else chosen.problem
        raise NoPage(title, why)
    answer: Mapping[str, Any] = chosen.status
    url, key = answer.get("url"), answer.get("key")
    if not isinstance(url, str) or not isinstance(key, str):
        raise NoPage(title, str(answer.get("problem") or "it is of another version"))
    return PageAddress(url, key, is_local=True)


def _chosen(found: Sequence[Found], environ: Mapping[str, str], cwd: str, config: Path | None) -> Found:
    if config is not None:
        found = [each for each in found if each.serves(config)]
        # One configuration has several daemons where the environments of sessions differ.
        own = daemon_name(source_words(str(config), None, ()), environ, cwd)
        found = sorted(found, key=lambda each: (each.place.name == own, each.about.get("since", 0)))[-1:]
    if not found:
        raise NoDaemon(config)
    if len(found) > 1:
        raise SeveralDaemons([each.configuration for each in found])
    return found[0]
