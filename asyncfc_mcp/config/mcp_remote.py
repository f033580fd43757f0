"""Entries that run mcp-remote, a program that connects a host to a server at a URL and signs in to it.

Pure. Owns its command line, and the equivalent entry with `url`: the bridge connects to such a server itself. Options
and packages of mcp-remote 0.1.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, Final, cast
from urllib.parse import urlsplit

from asyncfc_mcp.redaction import HIDDEN, shown_url

_PACKAGE: Final = re.compile(r"(?:npm:)?mcp-remote(?:@[^\s@/]+)?")
_LAUNCHERS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "npx": ((),), "bunx": ((),), "pnpx": ((),),
    "bun": (("x",),), "pnpm": (("dlx",),), "yarn": (("dlx",),), "npm": (("exec",), ("x",)), "deno": (("run",),),
}  # fmt: skip
"""Program → the words before its own options, for each way to run a package."""
_SWITCHES: Final = frozenset(
    {
        "-y", "--yes", "-q", "--quiet", "-s", "--silent", "--prefer-online", "--prefer-offline", "--bun",
        "--no-install", "-A", "--allow-all", "--",
    }
)  # fmt: skip
"""Options of launchers that do not change what is run."""
_IGNORED: Final = frozenset({"--debug", "--silent"})
"""Options about logs."""
_WITH_VALUE: Final = frozenset(
    {
        "--header", "--transport", "--host", "--callback-path", "--resource", "--static-oauth-client-info",
        "--static-oauth-client-metadata", "--auth-timeout", "--ignore-tool",
    }
)  # fmt: skip
_TRANSPORTS: Final = {"http-first": None, "http-only": "http", "sse-only": "sse", "sse-first": "sse"}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HEADER: Final = re.compile(r"([A-Za-z0-9_-]+):\s*(.*)")
_VARIABLE: Final = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}")
_CONNECTION: Final = re.compile(r"(?i)node_extra_ca_certs|node_options|node_tls_.*|(?:https?|all|no)_proxy")
"""Variables of the entry's `env` that change how mcp-remote connects; the bridge has only its own environment."""
_CALLBACK_PATH: Final = "/oauth/callback"


class _Inexpressible(Exception):
    """An option has no equivalent."""


def url_entry(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry with `url` that is equivalent to one that runs mcp-remote.

    Variables are kept, with those of the entry's `env` that are used.

    Args:
        entry: in canonical form, unexpanded.

    Returns:
        None if the entry runs another program, or if an option has no equivalent.
    """
    command, args, env = entry.get("command"), entry.get("args", []), entry.get("env", {})
    if not isinstance(command, str) or not isinstance(args, list) or not isinstance(env, Mapping):
        return None
    written = cast("list[Any]", args)
    if not all(isinstance(word, str) or type(word) is int for word in written):
        return None
    words = _arguments(command, [str(word) for word in written])
    if words is None:
        return None
    variables = cast("Mapping[str, Any]", env)
    if any(_CONNECTION.fullmatch(name) for name in variables):
        return None
    try:
        found = _read(words)
    except _Inexpressible:
        return None
    kept: dict[str, Any] = {}
    used = _VARIABLE.findall(json.dumps(found))
    while used:
        name = used.pop()
        if name in variables and name not in kept:
            kept[name] = variables[name]
            used += _VARIABLE.findall(str(variables[name]))
    return {**found, "env": {name: value for name, value in variables.items() if name in kept}} if kept else found


def _arguments(command: str, args: Sequence[str]) -> list[str] | None:
    """Return the arguments of mcp-remote in a command line; None if that runs something else."""
    words = [command, *args]
    if " " in command and _program(command) not in ("cmd", "mcp-remote", *_LAUNCHERS):
        words = [*_split(command), *args]
    if words and _program(words[0]) == "cmd" and len(words) > 1 and words[1].lower() == "/c":
        words = [*_split(words[2]), *words[3:]] if len(words) > 2 and " " in words[2] else words[2:]
    if not words:
        return None
    program, rest = _program(words[0]), words[1:]
    if program == "mcp-remote":
        return rest
    for before in _LAUNCHERS.get(program, ()):
        if tuple(rest[: len(before)]) == before:
            return _after_package(rest[len(before) :])
    return None


def _after_package(words: Sequence[str]) -> list[str] | None:
    """Return what follows the package in the arguments of a launcher."""
    index = 0
    packages: list[str] = []
    while index < len(words) and words[index].startswith("-"):
        option, mark, value = words[index].partition("=")
        if option in ("-p", "--package"):
            index += 0 if mark else 1
            packages.append(value if mark else "".join(words[index : index + 1]))
        elif words[index] not in _SWITCHES:
            return None
        index += 1
    if index >= len(words) or not _PACKAGE.fullmatch(words[index]):
        return None
    # With a package of its own, the word is the name of a program in it.
    if packages and (words[index] != "mcp-remote" or not all(_PACKAGE.fullmatch(each) for each in packages)):
        return None
    return list(words[index + 1 :])


def _read(words: Sequence[str]) -> dict[str, Any]:
    """Return the entry for the arguments of mcp-remote.

    Raises:
        _Inexpressible: an option is not known, or has no equivalent.
    """
    plain, switches, values = _options(words)
    url, *more = plain or [""]
    port = int(more[0]) if len(more) == 1 and re.fullmatch(r"[0-9]{1,5}", more[0]) else None
    if more and (port is None or not 0 < port < 65536):
        raise _Inexpressible
    # mcp-remote refuses such a URL as well.
    if not _usable(url, "--allow-http" in switches):
        raise _Inexpressible
    entry: dict[str, Any] = {"url": url}
    if kind := _TRANSPORTS.get(values.get("--transport", ["http-first"])[0]):
        entry["type"] = kind
    if headers := _headers(values.get("--header", [])):
        entry["headers"] = headers
    if oauth := _oauth(values, port):
        entry["oauth"] = oauth
    if ignored := values.get("--ignore-tool"):
        entry["excludeTools"] = list(dict.fromkeys(ignored))
    return entry


def _options(words: Sequence[str]) -> tuple[list[str], set[str], dict[str, list[str]]]:
    """Return the words that are no options, the switches, and the values of the other options."""
    plain: list[str] = []
    switches: set[str] = set()
    values: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            plain.append(word)
        elif word in _WITH_VALUE and rest:
            values.setdefault(word, []).append(rest.pop(0))
        elif word in _IGNORED or word in ("--allow-http", "--enable-proxy"):
            switches.add(word)
        else:
            raise _Inexpressible
    if any(len(given) > 1 for option, given in values.items() if option not in ("--header", "--ignore-tool")):
        raise _Inexpressible
    if values.get("--transport", ["http-first"])[0] not in _TRANSPORTS:
        raise _Inexpressible
    return plain, switches, values


def _usable(url: str, http: bool) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    local = parts.hostname in ("localhost", "127.0.0.1")
    # A variable may stand for any part of it.
    return "${" in url or (
        bool(parts.hostname) and parts.scheme in (("https", "http") if http or local else ("https",))
    )


def _headers(written: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in written:
        match = _HEADER.fullmatch(text)
        if match is None:
            raise _Inexpressible
        headers[match[1]] = match[2]
    return headers


def _oauth(values: Mapping[str, Sequence[str]], port: int | None) -> dict[str, Any]:
    """Return the sign-in. Where and at which path mcp-remote listens matters only to a client that was registered by
    hand."""
    oauth: dict[str, Any] = {}
    info = _json(values, "--static-oauth-client-info")
    metadata = _json(values, "--static-oauth-client-metadata")
    for key, value in info.items():
        if key in ("client_id", "client_secret") and isinstance(value, str):
            oauth[key] = value
        elif key not in ("redirect_uris", "client_name", "client_id_issued_at", "client_secret_expires_at", "scope"):
            raise _Inexpressible
    for key, value in metadata.items():
        if key == "scope" and isinstance(value, str):
            oauth["scopes"] = value.split()
        elif key not in ("client_name", "client_uri", "logo_uri", "redirect_uris"):
            raise _Inexpressible
    if resource := values.get("--resource"):
        oauth["resource"] = resource[0]
    host = values.get("--host", ["localhost"])[0]
    path = values.get("--callback-path", [_CALLBACK_PATH])[0]
    if host not in _LOOPBACK:
        raise _Inexpressible
    if "--static-oauth-client-info" in values and "client_id" not in oauth:
        raise _Inexpressible
    if info:
        oauth |= {"callback_host": host, "callback_path": path}
    if port is not None:
        oauth["callback_port"] = port
    return oauth


def _json(values: Mapping[str, Sequence[str]], option: str) -> dict[str, Any]:
    """Return the object that is the value of an option; one in a file cannot be read here."""
    if option not in values:
        return {}
    try:
        value: object = json.loads(values[option][0])
    except (ValueError, RecursionError):
        raise _Inexpressible from None
    if not isinstance(value, dict):
        raise _Inexpressible
    return cast("dict[str, Any]", value)


def shown_url_entry(entry: Mapping[str, Any]) -> str:
    """Return an entry of `url_entry` as JSON for a message, without secrets: of headers, environment and client secret
    only variables are shown, and of the URL no password and no query."""
    shown: dict[str, Any] = {}
    for key, value in entry.items():
        match key:
            case "url":
                shown[key] = shown_url(value)
            case "headers" | "env":
                shown[key] = {name: _shown_value(text) for name, text in value.items()}
            case "oauth":
                shown[key] = {name: _shown_value(it) if name == "client_secret" else it for name, it in value.items()}
            case _:
                shown[key] = value
    return json.dumps(shown, ensure_ascii=False)


def _shown_value(value: Any) -> str:
    """Return a value if it is one variable, which may follow the name of an authentication scheme."""
    text = str(value)
    return text if re.fullmatch(rf"(?:[A-Za-z]{{1,10}} )?{_VARIABLE.pattern}", text) else HIDDEN


def _program(word: str) -> str:
    """Return the name of a program, without its folder and the suffix that Windows adds."""
    return re.sub(r"(?i)\.(?:cmd|exe|bat|ps1)$", "", PureWindowsPath(word).name).lower()


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an unbalanced quote
        return []
