"""Reading of a server entry's connection: the command with its environment, or the URL with its headers.

Owns the transport, command lines, environments, headers and URLs of an entry in canonical form (`formats.canonical`),
and which servers are signed in to; how is left to `oauth_reader`. Starts nothing.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from asyncfc_mcp.config.caller_headers import InvalidTemplate, check_template, is_template
from asyncfc_mcp.config.checker import Checker, kind_of, shown
from asyncfc_mcp.config.formats import env_file, split_command, transport
from asyncfc_mcp.config.model import HttpSpec, OAuthSpec, StdioSpec
from asyncfc_mcp.config.oauth_reader import OAuthReader
from asyncfc_mcp.config.variables import Variables, is_script
from asyncfc_mcp.errors import nearest
from asyncfc_mcp.redaction import shown_name, shown_url

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class SpecReader:
    """Reads connections of one file. Each method raises `ConfigError` for an invalid entry."""

    def __init__(self, check: Checker) -> None:
        self._check = check
        self._oauth = OAuthReader(check)

    def spec(self, entry: Mapping[str, Any], path: str, unknown: Sequence[str]) -> StdioSpec | HttpSpec:
        """Return the connection of an entry.

        Args:
            unknown: keys of the entry that are not recognised, among which a misspelling is searched.
        """
        check = self._check
        # Forms that show both fields leave one of them empty.
        fields = {key: entry[key] for key in ("command", "url") if entry.get(key) is not None}
        if len(fields) == 2:
            fields = {key: item for key, item in fields.items() if item != ""}
        if len(fields) != 1:
            close = next((key for key in unknown if nearest(key, ("command", "url"))), None)
            found = 'both "command" and "url"' if fields else 'neither "command" nor "url"'
            found += f", but {close!r}" if close is not None and not fields else ""
            raise check.fail(path, f"found {found}", "one of the two")
        kind = self._transport(entry, path, "command" in fields)
        variables = check.variables()
        env = self._environment(entry, path, variables)
        variables = variables.of_entry(env)
        if "command" in fields:
            self._oauth.refuse(entry, path)
            return self._command(entry, path, env, variables)
        headers: dict[str, str] = {}
        caller_headers: dict[str, str] = {}
        for key, text in check.secret_table(entry.get("headers", {}), f"{path}.headers").items():
            self._warn_of_other_form(text, f"{path}.headers.{key}")
            if is_template(text):
                name, sent = self._header(key, text, f"{path}.headers")
                caller_headers[name] = self._caller_header(name, sent, f"{path}.headers.{name}")
                continue
            value = check.expanded(text, f"{path}.headers.{key}", variables)
            name, sent = self._header(key, value, f"{path}.headers")
            headers[name] = sent
        for name in {name.lower() for name in headers} & {name.lower() for name in caller_headers}:
            raise check.fail(f"{path}.headers", f"found the header {name!r} twice", "each header once")
        spec = self.remote(entry["url"], f"{path}.url", kind, headers, variables)
        authorized = spec.oauth is None or bool(caller_headers)
        oauth = self._oauth.read(entry, path, variables, authorized=authorized)
        credentials = tuple(sorted(variables.credentials))
        return replace(spec, oauth=oauth, caller_headers=caller_headers, credentials=credentials)

    def _transport(self, entry: Mapping[str, Any], path: str, is_command: bool) -> str | None:
        """Return the transport that an entry selects, `http` or `sse`; None for a command, or if the URL decides."""
        if "type" not in entry:
            return None
        check, written = self._check, entry["type"]
        kind = transport(written) if isinstance(written, str) else None
        word = (
            isinstance(written, str)
            and len(written) <= 24
            and re.fullmatch(r"[A-Za-z][A-Za-z _+-]*", written) is not None
        )
        found = repr(written) if word else kind_of(written)
        if kind is None:
            if not is_command or not word:
                raise check.fail(f"{path}.type", f"found {found}", "'stdio', 'http', 'streamable-http' or 'sse'")
            check.warn(f"{path}.type", f"{found} is not a known transport; the server is started as a command")
        elif is_command and kind != "stdio":
            raise check.fail(f"{path}.type", f'found {found} beside "command"', "'stdio'")
        elif not is_command and kind == "stdio":
            raise check.fail(f"{path}.type", f'found {found} beside "url"', "'http' or 'sse'")
        return kind if kind in ("http", "sse") else None

    # --- commands ----------------------------------------------------------------------------------------------

    def _environment(self, entry: Mapping[str, Any], path: str, variables: Variables) -> dict[str, str]:
        """Return the variables of `envFile` and `env`, expanded."""
        check = self._check
        texts = {**self._env_file(entry, path), **check.secret_table(entry.get("env", {}), f"{path}.env")}
        env = variables.table(
            texts,
            lambda key, variable: check.unexpanded(f"{path}.env.{key}", variable),
            lambda key, exc: check.unset(f"{path}.env.{key}", exc),
        )
        for key, text in env.items():
            if not key or re.search(r"[=\0]", key):
                raise check.fail(f"{path}.env", "found an invalid name of an environment variable", "names without =")
            check.process_text(text, f"{path}.env.{key}", "a value")
            self._warn_of_other_form(texts[key], f"{path}.env.{key}")
        return env

    def _env_file(self, entry: Mapping[str, Any], path: str) -> dict[str, str]:
        if "envFile" not in entry:
            return {}
        here = f"{path}.envFile"
        file = os.path.expanduser(self._check.expanded(entry["envFile"], here, self._check.variables()))
        try:
            return env_file(Path(file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is no text file"
            self._check.warn(here, f"the file was not read: {reason}")
            return {}

    def _warn_of_other_form(self, text: str, path: str) -> None:
        """Warn of `$NAME` or `$env:NAME`, which is not expanded."""
        if match := re.fullmatch(r"(?:[A-Za-z]+ )?\$(?:env:)?([A-Za-z_][A-Za-z0-9_]*)", text):
            name = shown_name(match[1])
            self._check.warn(path, f"${name} is kept as text; to use the variable, write ${{{name}}}")

    def _command(self, entry: Mapping[str, Any], path: str, env: Mapping[str, str], variables: Variables) -> StdioSpec:
        check = self._check
        command = check.expanded_word(entry["command"], f"{path}.command", variables)
        if not command.strip():
            raise check.fail(f"{path}.command", "found an empty string", "a command")
        command = _expand_home(check.process_text(command, f"{path}.command", "it"))
        written = entry.get("args", [])
        if not isinstance(written, list):
            raise check.fail(f"{path}.args", f"found {kind_of(written)}", "a list of strings")
        args: list[str] = []
        for i, each in enumerate(cast("list[Any]", written)):
            arg = str(each) if type(each) is int else each  # as in `env`
            script = is_script(command, args, i)
            word = check.expanded_word(arg, f"{path}.args[{i}]", variables, script=script)
            args.append(_expand_home(check.process_text(word, f"{path}.args[{i}]", "it")))
        cwd = entry.get("cwd")
        if cwd is not None:
            folder = check.expanded(cwd, f"{path}.cwd", variables)
            cwd = os.path.expanduser(check.process_text(folder, f"{path}.cwd", "it"))
        search = env.get("PATH", check.environ.get("PATH"))

        def is_program(word: str) -> bool:
            return shutil.which(word, path=search) is not None or os.path.exists(os.path.join(cwd or "", word))

        if words := split_command(command, is_program):
            command, *first = (_expand_home(word) for word in words)
            args = [*first, *args]
            check.warn(f"{path}.command", f"split at spaces: the command is {command!r}, the rest are arguments")
        return StdioSpec(command, tuple(args), env, cwd, credentials=tuple(sorted(variables.credentials)))

    # --- URLs --------------------------------------------------------------------------------------------------

    def _header(self, name: str, value: str, path: str) -> tuple[str, str]:
        """Return a header as it is sent; an error shows its name only."""
        name, value = name.strip(), value.strip()
        if not _HEADER_NAME.fullmatch(name):
            raise self._check.fail(path, "found an invalid header name", "a name of letters, digits and '-'")
        if match := re.search(r"[^\t\x20-\x7e]", value):
            character = (
                "a line break" if match[0] in "\r\n" else "a control character" if match[0] < " " else "non-ASCII text"
            )
            found = f"found {character} in the value, which cannot be sent"
            raise self._check.fail(f"{path}.{name}", found, "printable ASCII")
        return name, value

    def _caller_header(self, name: str, text: str, path: str) -> str:
        """Return the template of a header with `${caller:NAME}`."""
        try:
            check_template(name, text)
        except InvalidTemplate as exc:
            raise self._check.fail(path, exc.found, exc.expected) from None
        return text

    def remote(
        self, written: Any, path: str, kind: str | None, headers: Mapping[str, str], variables: Variables
    ) -> HttpSpec:
        """Return the connection to a URL, with sign-in if the configuration gives it no credentials.

        Args:
            kind: `http` or `sse`; None: decided by the path of the URL.
        """
        url = self._check.expanded(written, path, variables).strip()
        parts = urlsplit("")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[\x00-\x1f\x7f]", url):
            raise self._check.fail(path, f"found {_shown_address(str(written).strip())}", "an http:// or https:// URL")
        if kind is None:
            kind = "sse" if urlsplit(url).path.rstrip("/").endswith("/sse") else "http"
        authorized = parts.username is not None or any(name.lower() == "authorization" for name in headers)
        return HttpSpec(url, headers, cast("Any", kind), None if authorized else OAuthSpec())


def _expand_home(word: str) -> str:
    """Expand `~/` at the start of a word of a command line, as a shell does."""
    return os.path.expanduser(word) if word == "~" or word.startswith("~/") else word


def _shown_address(written: str) -> str:
    """Return an invalid URL for a message: only the part that is certainly an address, and no secret."""
    scheme, mark, rest = shown_url(written).partition("://")
    if mark:
        host, slash, _ = rest.partition("/")
        return shown(f"{scheme}{mark}{host}{slash and '/…'}")
    return (
        shown(scheme) if re.match(r"(?:[\w-]+\.)+[a-z]{2,}(?:[:/]|$)|localhost\b|[a-z ]{1,12}$", scheme) else "a string"
    )
