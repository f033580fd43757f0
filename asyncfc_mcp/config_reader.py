"""Reads the `mcpServers` JSON that hosts use, with our own settings in `asyncfc` sections.

Owns reading a file and saying exactly what is wrong with it. An entry that is wrong makes its server unusable and
leaves the others alone; unknown keys in our own sections are errors that name the nearest known key. Hosts' spellings
are left to `config_formats`, variables to `config_variables`. Starts nothing.
"""

import codecs
import json
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, get_origin
from urllib.parse import unquote, urlsplit

from asyncfc_mcp.config import (
    EFFECTS,
    LEVELS,
    POLICY,
    SERVER_KEYS,
    SETTINGS,
    SPAWN_KEYS,
    BridgeConfig,
    HttpSpec,
    Policy,
    ServerConfig,
    Settings,
    StdioSpec,
    UnusableServer,
)
from asyncfc_mcp.config_formats import canonical, env_file, find_servers, split_command, transport
from asyncfc_mcp.config_variables import Unset, Variables, is_script
from asyncfc_mcp.environment import NAME as VARIABLE_NAME
from asyncfc_mcp.environment import Inherit
from asyncfc_mcp.errors import ConfigError, nearest
from asyncfc_mcp.quotation import one_line
from asyncfc_mcp.redaction import shown_name, shown_url

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FAIL_STOP_NEEDS_PATHS: Final = '"stop" has no effect: no "reads" or "writes" are declared here'
_AT_LEAST_ONE: Final = frozenset(
    {
        "max_concurrency",
        "max_pending",
        "max_message_bytes",
        "max_argument_bytes",
        "max_connections",
        "max_connections_per_address",
    }
)
LARGEST: Final = 10**15
"""No setting may be larger: whatever it is a bound on, it would bound nothing."""
_PROFILE_KEYS: Final = {
    "single_conversation": bool,
    "timeout_s": float,
    "name_limit": int,
    "progress_resets_timeout": bool,
    "reads_instructions": bool,
}


class _Reader:
    """Reads one file's value, and knows where it is in it."""

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self.file, self.environ = file, environ
        self.warnings: list[str] = []
        self.faults: list[ConfigError] = []
        """Errors that make one server unusable."""

    def fail(self, path: str, found: str, expected: str) -> ConfigError:
        return ConfigError(self.file, path, found, expected)

    def warn(self, path: str, what: str) -> None:
        self.warnings.append(one_line(f"{self.file}: {path}: {what}"))

    def typed(self, value: Any, path: str, kind: type | tuple[type, ...], expected: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(path, f"found {_shown(value)}", expected)
        return value

    def strings(self, value: Any, path: str) -> tuple[str, ...]:
        items = cast("list[Any]", self.typed(value, path, list, "a list of strings"))
        return tuple(self.typed(item, f"{path}[{i}]", str, "a string") for i, item in enumerate(items))

    def plain_table(self, value: Any, path: str) -> dict[str, str]:
        """An object of strings, as it is written. Environment and headers hold secrets: no error shows a value."""
        if not isinstance(value, dict):
            raise self.fail(path, f"found {_kind(value)}", "an object of strings")
        table: dict[str, str] = {}
        for key, item in cast("dict[str, Any]", value).items():
            # VS Code takes whole numbers, too, and null for what shall not be set.
            if item is not None:
                table[key] = self.private(str(item) if type(item) is int else item, f"{path}.{key}")
        return table

    def private(self, value: Any, path: str) -> str:
        """A string of which an error shows nothing."""
        if not isinstance(value, str):
            raise self.fail(path, f"found {_kind(value)}", "a string")
        return value

    def unset(self, path: str, exc: Unset) -> ConfigError:
        return self.fail(path, exc.found, exc.expected)

    def expanded(self, value: Any, path: str, variables: Variables) -> str:
        """A string that must have a value for each of its variables."""
        try:
            return variables.expand(self.private(value, path), partial(self.left, path), strict=True)
        except Unset as exc:
            raise self.unset(path, exc) from None

    def expanded_word(self, value: Any, path: str, variables: Variables, *, script: bool = False) -> str:
        """A word of a command line: a variable that has no value stays, since the command may fill it in."""
        try:
            return variables.expand(self.private(value, path), partial(self.left, path), script=script)
        except Unset as exc:
            raise self.unset(path, exc) from None

    def left(self, path: str, what: str) -> None:
        self.warn(path, f"{what} stays as it is, since the environment has no such variable")

    def sendable(self, value: str, path: str, what: str) -> str:
        """Raises: ConfigError: a process cannot be given this text."""
        try:
            usable = "\0" not in value and bool(os.fsencode(value) or True)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise self.fail(path, f"found a character in {what} that no process can be given", "text without it")
        return value

    # --- our own sections ----------------------------------------------------------------------------------------

    def section(self, value: Any, path: str, level: str) -> dict[str, Any]:
        """The settings of one `asyncfc` section, checked; `level` is one of `LEVELS`."""
        section = cast("dict[str, Any]", self.typed(value, path, dict, "an object"))
        for key in section:
            if key not in LEVELS[level]:
                raise self._unknown(key, f"{path}.{key}", level)
        return {key: self._setting(key, item, f"{path}.{key}") for key, item in section.items()}

    def _unknown(self, key: str, path: str, level: str) -> ConfigError:
        if places := _places(key):
            return self.fail(path, f"{key!r} stands {level}", f"it {places} only")
        close = nearest(key, [*POLICY, *SETTINGS, *SERVER_KEYS, *SPAWN_KEYS], at_most=1)
        if not close:
            expected = f"one of {', '.join(sorted(LEVELS[level]))}"
        elif close[0] in LEVELS[level]:
            expected = repr(close[0])
        else:
            expected = f"{close[0]!r}, {_places(close[0])} only"
        return self.fail(path, f"unknown key {key!r}", expected)

    def _setting(self, key: str, value: Any, path: str) -> Any:
        if key in ("reads", "writes", "include", "exclude"):
            return self.strings(value, path)
        if key == "env_inherit":
            return self._env_inherit(value, path)
        if key == "state":
            return self.expanded(value, path, Variables(self.environ))
        if key == "prefix":
            return self.typed(value, path, str, "a string")
        if key == "tools":
            tools = cast("dict[str, Any]", self.typed(value, path, dict, "an object: tool name → its settings"))
            return {tool: self.section(own, f"{path}.{tool}", "on a tool") for tool, own in tools.items()}
        if key == "host_profiles":
            return self._profiles(value, path)
        known = POLICY.get(key) or SETTINGS[key]
        kinds: tuple[Any, ...] = get_args(known.type) or (known.type,)
        if get_origin(known.type) is Literal:
            if value not in kinds:
                close = nearest(value, kinds, at_most=1) if isinstance(value, str) else []
                hint = f" (nearest: {close[0]!r})" if close else ""
                raise self.fail(path, f"found {_shown(value)}", f"one of {', '.join(map(repr, kinds))}{hint}")
            return value
        if value is None and type(None) in kinds:
            return None
        if bool in kinds:
            return self.typed(value, path, bool, "true or false")
        least = 1 if key in _AT_LEAST_ONE else 0
        return self._number(value, path, whole=int in kinds, least=least, above=key.endswith("out_s"))

    def _number(self, value: Any, path: str, *, whole: bool, least: int, above: bool) -> int | float:
        """A number that is at least `least`, or above it."""
        expected = f"a {'whole ' if whole else ''}number, {f'more than {least}' if above else f'{least} or more'}"
        number = self.typed(value, path, int if whole else (int, float), expected)
        # Compared before it is converted: JSON knows NaN, and whole numbers that are larger than any float.
        if not (least < number if above else least <= number) or not number <= LARGEST:
            raise self.fail(path, f"found {_shown(value)}", expected if not number > LARGEST else "a smaller number")
        return number if whole else float(number)

    def _env_inherit(self, value: Any, path: str) -> Inherit:
        if value in ("all", "safe"):
            return value
        if not isinstance(value, list):
            raise self.fail(path, f"found {_shown(value)}", "'all', 'safe' or a list of names of variables")
        names = self.strings(cast("list[Any]", value), path)
        for i, name in enumerate(names):
            if not VARIABLE_NAME.fullmatch(name):
                expected = "the name of a variable, or its beginning and *"
                raise self.fail(f"{path}[{i}]", f"found {_shown(name)}", expected)
        return names

    def _profiles(self, value: Any, path: str) -> dict[str, dict[str, object]]:
        profiles = cast("dict[str, Any]", self.typed(value, path, dict, "an object: client name → its profile"))
        for name, profile in profiles.items():
            here = f"{path}.{name}"
            for key, item in cast("dict[str, Any]", self.typed(profile, here, dict, "an object")).items():
                kind = _PROFILE_KEYS.get(key)
                if kind is None:
                    close = nearest(key, _PROFILE_KEYS, at_most=1)
                    expected = f"{close[0]!r}" if close else f"one of {', '.join(_PROFILE_KEYS)}"
                    raise self.fail(f"{here}.{key}", f"unknown key {key!r}", expected)
                if kind is bool:
                    self.typed(item, f"{here}.{key}", bool, "true or false")
                else:
                    self._number(item, f"{here}.{key}", whole=kind is int, least=0, above=True)
        return profiles

    # --- server entries ------------------------------------------------------------------------------------------

    def server(
        self, name: str, value: Any, path: str, top: Mapping[str, Any], *, braces: bool
    ) -> ServerConfig | UnusableServer | None:
        """One server, what is wrong with its entry, or None where it is switched off.

        Raises:
            ConfigError: its `asyncfc` section is wrong; a setting of ours that is ignored would be worse than no start.
        """
        try:
            entry = self._entry(name, value, path, braces=braces)
        except ConfigError as exc:
            return self._unusable(name, exc)
        if entry is None:
            return None
        own = self.section(entry.get("asyncfc", {}), f"{path}.asyncfc", "on a server")
        self._check_fail_stop(own, f"{path}.asyncfc")
        try:
            spec = self._spec(entry, path, [key for key in cast("dict[str, Any]", value) if key not in entry])
        except ConfigError as exc:
            return self._unusable(name, exc)
        if isinstance(spec, StdioSpec):
            spec = replace(spec, env_inherit=own.get("env_inherit", top.get("env_inherit", "all")))
        elif "env_inherit" in own:
            self.warn(f"{path}.asyncfc.env_inherit", "it has no effect, since no process is started for a URL")
        limit = own.get("max_concurrency", top.get("max_concurrency"))
        policy = {key: item for key, item in {**top, **own}.items() if key in POLICY and key != "max_concurrency"}
        state = self._state(own["state"], f"{path}.asyncfc.state", spec) if "state" in own else None
        if state is not None and "ordering" not in own and policy.get("ordering") != "none":
            # A server with common state touches it: a tool that says nothing of that is taken as a write there.
            policy["ordering"] = "strict"
        include, exclude = (own.get(key, entry.get(key, ())) for key in ("include", "exclude"))
        return ServerConfig(
            name, spec, own.get("prefix"), include, exclude, limit,
            base=Policy(**policy), tools=own.get("tools", {}), state=state,
        )  # fmt: skip

    def _check_fail_stop(self, own: Mapping[str, Any], path: str) -> None:
        """Warn of `on_failure: "stop"` where no state is declared by path, since it has no effect there."""
        tools: dict[str, dict[str, Any]] = own.get("tools", {})
        if own.get("on_failure") == "stop" and not _declares(own, *tools.values()):
            self.warn(f"{path}.on_failure", FAIL_STOP_NEEDS_PATHS)
        for tool, section in tools.items():
            if section.get("on_failure") == "stop" and not _declares(own, section):
                self.warn(f"{path}.tools.{tool}.on_failure", FAIL_STOP_NEEDS_PATHS)

    def _state(self, text: str, path: str, spec: StdioSpec | HttpSpec) -> str:
        """`state` as it stands in `ServerConfig`."""
        expected = 'a name such as "workspace", or "files:" and a folder'
        if match := re.fullmatch(r"files?:(//(?=/))?(.+)", text, re.DOTALL):
            folder = os.path.expanduser(unquote(match[2]) if match[1] else match[2])
            cwd = spec.cwd if isinstance(spec, StdioSpec) and spec.cwd is not None else ""
            return "files:" + _absolute(os.path.join(cwd, folder))
        words = [word for word in re.split(r"[/\\]", text) if word not in ("", ".")]
        if not words or ".." in words or re.match("files?:", text) or re.search("[{}]", text):
            raise self.fail(path, f"found {_shown(text)}", expected)
        if text[0] in "/~" and os.path.isdir(os.path.expanduser(text)):
            self.warn(path, f'{_shown(text)} is a name here, not the folder; the folder is written "files:{text}"')
        return "/".join(words)

    def _unusable(self, name: str, exc: ConfigError) -> UnusableServer:
        self.faults.append(exc)
        return UnusableServer(name, one_line(f"{exc.path}: {exc.found}; expected {exc.expected}"))

    def _entry(self, name: str, value: Any, path: str, *, braces: bool) -> dict[str, Any] | None:
        """The entry with our names for its keys; None where it is switched off."""
        if not isinstance(value, dict):
            raise self.fail(path, f"found {_kind(value)}", 'an object with "command" or "url"')
        written = cast("dict[str, Any]", value)
        # Hosts write null for what is not set.
        written = _Table({key: item for key, item in written.items() if item is not None}, _doubles(written))
        if not name.strip():
            raise self.fail(path, "the name of a server is empty", "a name")
        remarks: list[tuple[str, str]] = []

        def note(key: str, what: str) -> None:
            if places := _places(key):
                what = f'ignored here; as a setting of the bridge it stands in "asyncfc", {places}'
            remarks.append((f"{path}.{key}", what))

        entry = canonical(written, note, braces=braces)
        switches = {
            key: self.typed(entry[key], f"{path}.{key}", bool, "true or false")
            for key in ("disabled", "enabled")
            if key in entry
        }
        if switches.get("disabled") or not switches.get("enabled", True):
            self.warn(path, "the server is disabled and left out")
            return None
        for key, what in remarks:
            self.warn(key, what)
        self.once(written, path)
        return entry

    def once(self, value: Any, path: str) -> None:
        """Raises: ConfigError: a key stands twice in an object below here, so that a part of it would be lost."""
        for double in _doubles(value):
            raise self.fail(f"{path}.{double}".lstrip("."), "the key stands twice in one object", "each key once")
        if isinstance(value, dict):
            for key, item in cast("dict[str, Any]", value).items():
                self.once(item, f"{path}.{key}")
        elif isinstance(value, list):
            for index, item in enumerate(cast("list[Any]", value)):
                self.once(item, f"{path}[{index}]")

    def _spec(self, entry: Mapping[str, Any], path: str, strange: Sequence[str]) -> StdioSpec | HttpSpec:
        # Forms that have both fields leave the other one empty.
        fields = {key: entry[key] for key in ("command", "url") if entry.get(key) is not None}
        if len(fields) == 2:
            fields = {key: item for key, item in fields.items() if item != ""}
        if len(fields) != 1:
            close = next((key for key in strange if nearest(key, ("command", "url"))), None)
            found = 'both "command" and "url"' if fields else 'neither "command" nor "url"'
            found += f", but {close!r}" if close is not None and not fields else ""
            raise self.fail(path, f"found {found}", "one of the two")
        kind = self._kind(entry, path, "command" in fields)
        texts = {**self._env_file(entry, path), **self.plain_table(entry.get("env", {}), f"{path}.env")}
        outer = Variables(self.environ)
        env = outer.table(
            texts,
            lambda key, what: self.left(f"{path}.env.{key}", what),
            lambda key, exc: self.unset(f"{path}.env.{key}", exc),
        )
        for key, text in env.items():
            if not key or re.search(r"[=\0]", key):
                raise self.fail(f"{path}.env", "found a name that no environment variable can have", "names without =")
            self.sendable(text, f"{path}.env.{key}", "a value")
            self._maybe_variable(texts[key], f"{path}.env.{key}")
        variables = Variables(self.environ, env)
        if "command" in fields:
            return self._command(entry, path, env, variables)
        headers: dict[str, str] = {}
        for key, text in self.plain_table(entry.get("headers", {}), f"{path}.headers").items():
            self._maybe_variable(text, f"{path}.headers.{key}")
            name, sent = self.header(key, self.expanded(text, f"{path}.headers.{key}", variables), f"{path}.headers")
            headers[name] = sent
        return self.remote(entry["url"], f"{path}.url", kind, headers, variables)

    def _kind(self, entry: Mapping[str, Any], path: str, is_command: bool) -> str | None:
        """The transport that the entry asks for, `http` or `sse`; None where its URL decides or it is a command."""
        if "type" not in entry:
            return None
        said = entry["type"]
        kind = transport(said) if isinstance(said, str) else None
        word = isinstance(said, str) and len(said) <= 24 and re.fullmatch(r"[A-Za-z][A-Za-z _+-]*", said) is not None
        shown = repr(said) if word else _kind(said)
        if kind is None:
            if not is_command or not word:
                raise self.fail(f"{path}.type", f"found {shown}", "'stdio', 'http', 'streamable-http' or 'sse'")
            self.warn(f"{path}.type", f"{shown} is not known here; the server is started as a command")
        elif is_command and kind != "stdio":
            raise self.fail(f"{path}.type", f'found {shown} beside "command"', "'stdio'")
        elif not is_command and kind == "stdio":
            raise self.fail(f"{path}.type", f'found {shown} beside "url"', "'http' or 'sse'")
        return kind if kind in ("http", "sse") else None

    def _env_file(self, entry: Mapping[str, Any], path: str) -> dict[str, str]:
        if "envFile" not in entry:
            return {}
        here = f"{path}.envFile"
        file = os.path.expanduser(self.expanded(entry["envFile"], here, Variables(self.environ)))
        try:
            return env_file(Path(file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as exc:
            self.warn(here, f"not read: {exc.strerror if isinstance(exc, OSError) else 'it is no text file'}")
            return {}

    def _maybe_variable(self, text: str, path: str) -> None:
        if match := re.fullmatch(r"(?:[A-Za-z]+ )?\$(?:env:)?([A-Za-z_][A-Za-z0-9_]*)", text):
            name = shown_name(match[1])
            self.warn(path, f"${name} stays as it is; a variable is written ${{{name}}}")

    def _command(self, entry: Mapping[str, Any], path: str, env: Mapping[str, str], variables: Variables) -> StdioSpec:
        command = self.expanded_word(entry["command"], f"{path}.command", variables)
        if not command.strip():
            raise self.fail(f"{path}.command", "found an empty string", "a command")
        command = _at_home(self.sendable(command, f"{path}.command", "it"))
        written = entry.get("args", [])
        if not isinstance(written, list):
            raise self.fail(f"{path}.args", f"found {_kind(written)}", "a list of strings")
        args: list[str] = []
        for i, each in enumerate(cast("list[Any]", written)):
            arg = str(each) if type(each) is int else each  # as in `env`
            script = is_script(command, args, i)
            word = self.expanded_word(arg, f"{path}.args[{i}]", variables, script=script)
            args.append(_at_home(self.sendable(word, f"{path}.args[{i}]", "it")))
        cwd = entry.get("cwd")
        if cwd is not None:
            cwd = os.path.expanduser(self.sendable(self.expanded(cwd, f"{path}.cwd", variables), f"{path}.cwd", "it"))
        search = env.get("PATH", self.environ.get("PATH"))

        def is_program(word: str) -> bool:
            return shutil.which(word, path=search) is not None or os.path.exists(os.path.join(cwd or "", word))

        if words := split_command(command, is_program):
            command, *first = (_at_home(word) for word in words)
            args = [*first, *args]
            self.warn(f"{path}.command", f"split at its spaces: the command is {command!r}, the rest are arguments")
        return StdioSpec(command, tuple(args), env, cwd)

    def header(self, name: str, value: str, path: str) -> tuple[str, str]:
        """A header as it is sent.

        Raises:
            ConfigError: it cannot be sent; by its name only.
        """
        name, value = name.strip(), value.strip()
        if not _HEADER_NAME.fullmatch(name):
            raise self.fail(path, "found a header whose name cannot be sent", "a name of letters, digits and '-'")
        if match := re.search(r"[^\t\x20-\x7e]", value):
            what = (
                "a line break" if match[0] in "\r\n" else "a control character" if match[0] < " " else "non-ASCII text"
            )
            raise self.fail(f"{path}.{name}", f"found {what} inside the value, which cannot be sent", "printable ASCII")
        return name, value

    def remote(
        self, written: Any, path: str, kind: str | None, headers: Mapping[str, str], variables: Variables
    ) -> HttpSpec:
        url = self.expanded(written, path, variables).strip()
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[\x00-\x1f\x7f]", url):
            raise self.fail(path, f"found {_shown_address(str(written).strip())}", "an http:// or https:// URL")
        if kind is None:
            kind = "sse" if urlsplit(url).path.rstrip("/").endswith("/sse") else "http"
        return HttpSpec(url, headers, cast("Any", kind))


def _at_home(word: str) -> str:
    """A word of a command line with `~/` at its start replaced, as a shell does it."""
    return os.path.expanduser(word) if word == "~" or word.startswith("~/") else word


class _Table(dict[str, Any]):
    """An object of the file, with the keys that stand in it twice."""

    def __init__(self, values: Mapping[str, Any], doubles: Sequence[str]) -> None:
        super().__init__(values)
        self.doubles = tuple(doubles)


def _doubles(value: Any) -> tuple[str, ...]:
    return value.doubles if isinstance(value, _Table) else ()


def _declares(*sections: Mapping[str, Any]) -> bool:
    """Whether one of these sections declares state paths."""
    return any(section.get(key) is not None for section in sections for key in EFFECTS)


def _places(key: str) -> str:
    """Where this setting may stand, in words; empty if it is none."""
    return " or ".join(level for level, keys in LEVELS.items() if key in keys)


def _kind(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return "a string"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return "a number"


def _shown_address(written: str) -> str:
    """What was written in place of a URL, as far as it is certainly an address."""
    scheme, mark, rest = shown_url(written).partition("://")
    if mark:
        host, slash, _ = rest.partition("/")
        return _shown(f"{scheme}{mark}{host}{slash and '/…'}")
    return (
        _shown(scheme)
        if re.match(r"(?:[\w-]+\.)+[a-z]{2,}(?:[:/]|$)|localhost\b|[a-z ]{1,12}$", scheme)
        else "a string"
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return _kind(cast("Any", value))
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _without_comments(text: str) -> str:
    """JSON with comments and trailing commas (as VS Code and Cursor write it) as JSON, line by line the same."""

    def keep(match: re.Match[str]) -> str:
        piece = match.group(0)
        return piece if piece[0] == '"' else re.sub(r"[^\n]", " ", piece)

    text = re.sub(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', keep, text, flags=re.DOTALL)
    return re.sub(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])', lambda m: m.group(0) if m.group(0)[0] == '"' else " ", text)


def load_config(path: Path, environ: Mapping[str, str]) -> BridgeConfig:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong that concerns more than one server.
    """
    file = str(path)
    try:
        data = path.read_bytes()
        # PowerShell writes UTF-16 where it is asked for a text file.
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(file, "", "there is no such file", "a configuration file") from None
    except IsADirectoryError:
        inside = [name for name in _FILES if (path / name).is_file()]
        hint = f" such as {path / inside[0]}" if inside else ""
        raise ConfigError(file, "", "found a folder", f"a configuration file{hint}") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(file, "", f"it cannot be read: {exc}", "a JSON file in UTF-8") from None
    return parse_config(text, file, environ)


_FILES: Final = (
    "mcp.json", ".mcp.json", "claude_desktop_config.json", "mcp-config.json", "settings.json", "config.json",
)  # fmt: skip
"""Names that hosts give to the file with their servers."""


def _value(text: str, file: str) -> Any:
    """The value that the text of a file holds. Raises: ConfigError: it holds none."""
    if not text.strip():
        raise ConfigError(file, "", "found an empty file", 'an object with "mcpServers"')
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        return json.loads(_without_comments(text), object_pairs_hook=_table)
    except json.JSONDecodeError as exc:
        raise ConfigError(file, "", f"line {exc.lineno}, column {exc.colno}: {exc.msg}", "JSON") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(file, "", str(exc), "TOML") from None
    except (RecursionError, ValueError) as exc:
        raise ConfigError(file, "", f"it is no usable JSON: {exc}"[:200], "JSON") from None


def _table(pairs: Sequence[tuple[str, Any]]) -> _Table:
    seen: set[str] = set()
    doubles = [key for key, _ in pairs if key in seen or seen.add(key)]
    return _Table(dict(pairs), doubles)


def parse_config(text: str, file: str, environ: Mapping[str, str]) -> BridgeConfig:
    """The configuration in `text`; `file` is what errors call it.

    What is wrong with one server's entry makes that server unusable, and the others are read.

    Raises:
        ConfigError: something concerns more than one server, is a setting of ours, or leaves no server.
    """
    reader = _Reader(file, environ)
    root = cast("dict[str, Any]", reader.typed(_value(text, file), "", dict, 'an object with "mcpServers"'))
    tables = find_servers(root)
    if len(tables) != 1:
        close = nearest("mcpServers", root, at_most=1)
        both = " and ".join(f'"{path}"' for path, _ in tables)
        found = f"both {both}" if tables else (f"found {close[0]!r}" if close else "no servers")
        raise ConfigError(file, "", found, '"mcpServers" (or "servers", as VS Code has it)')
    ((where, table),) = tables
    for double in _doubles(root):
        raise reader.fail(double, "the key stands twice in one object", "each key once")
    reader.once(root.get("asyncfc"), "asyncfc")
    top = reader.section(root.get("asyncfc", {}), "asyncfc", "at the top of the file")
    entries = cast("dict[str, Any]", reader.typed(table, where, dict, "an object: name → server"))
    for double in _doubles(entries):
        raise reader.fail(f"{where}.{double}", "the key stands twice in one object", "each key once")
    braces = where == "mcp"
    read = [reader.server(name, entry, f"{where}.{name}", top, braces=braces) for name, entry in entries.items()]
    foreign = [key for key in root if key not in (where.partition(".")[0], where, "asyncfc", "inputs", "$schema")]
    for key in foreign:
        if places := _places(key):
            reader.warn(key, f'ignored here; as a setting of the bridge it stands in "asyncfc", {places}')
    if others := [key for key in foreign if not _places(key)]:
        # In one line: a host's own settings file may have dozens.
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        reader.warn(", ".join(others[:5]) + more, "ignored, it means nothing to the bridge")
    kept = tuple(server for server in read if isinstance(server, ServerConfig))
    unusable = tuple(server for server in read if isinstance(server, UnusableServer))
    if not kept:
        if len(reader.faults) == 1:
            raise reader.faults[0]
        if reader.faults:
            reasons = "; ".join(str(fault).removeprefix(f"{file}: ") for fault in reader.faults[:3])
            more = f"; and {len(reader.faults) - 3} more" if len(reader.faults) > 3 else ""
            raise ConfigError(file, where, f"none of its servers can be used ({reasons}{more})", "at least one")
        found = f"all of its {len(entries)} servers are disabled" if entries else "there is no server to wrap"
        raise ConfigError(file, where, found, "at least one")
    if top.get("on_failure") == "stop" and not any(_declares(asdict(s.base), *s.tools.values()) for s in kept):
        reader.warn("asyncfc.on_failure", FAIL_STOP_NEEDS_PATHS)
    settings = Settings(**{key: item for key, item in top.items() if key in SETTINGS})
    return BridgeConfig(kept, settings, tuple(reader.warnings), file, unusable, f"file:{_absolute(file)}")


def _absolute(file: str) -> str:
    try:
        return os.path.abspath(file)
    except OSError:  # the folder that we were started in is gone
        return file


def _single(spec: StdioSpec | HttpSpec, name: str, identity: str, warnings: Sequence[str] = ()) -> BridgeConfig:
    server = ServerConfig(name, spec, prefix="", keep_names=True)
    return BridgeConfig((server,), warnings=tuple(warnings), source=spec.shown, identity=identity)


def config_for_command(argv: Sequence[str]) -> BridgeConfig:
    """One server that is a command; its tools keep their names."""
    warnings: list[str] = []
    if len(argv) == 1 and (split := split_command(argv[0], lambda word: shutil.which(word) is not None)):
        argv = split
        warnings.append(f"the command was split at its spaces: {argv[0]!r} is run with {len(argv) - 1} arguments")
    words = [word for word in argv if not word.startswith("-")] or ["server"]
    last = (
        words[1] if len(words) > 1 and Path(words[0]).name in ("npx", "uvx", "python", "python3", "node") else words[0]
    )
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"(?<=.)@[^/]*$", "", Path(last).name).removesuffix(".py"))
    return _single(StdioSpec(argv[0], tuple(argv[1:])), name or "server", f"command:{json.dumps(list(argv))}", warnings)


def config_for_url(url: str) -> BridgeConfig:
    """One server at a URL; its tools keep their names.

    Raises:
        ConfigError: it is no URL.
    """
    spec = _Reader("--url", {}).remote(url, "", None, {}, Variables({}))
    return _single(spec, urlsplit(url).hostname or "server", f"url:{url}")
