"""Reads the `mcpServers` JSON that hosts use, with our own settings in `asyncfc` sections.

Owns reading a file and saying exactly what is wrong with it: unknown keys in our own sections are errors that name the
nearest known key, unknown keys of a copied server entry are warnings. Starts nothing.
"""

import codecs
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, get_origin
from urllib.parse import urlsplit

from asyncfc_mcp.config import (
    EFFECTS,
    LEVELS,
    POLICY,
    SERVER_KEYS,
    SETTINGS,
    BridgeConfig,
    HttpSpec,
    Policy,
    ServerConfig,
    Settings,
    StdioSpec,
)
from asyncfc_mcp.errors import ConfigError, nearest, one_line

_ENTRY_KEYS: Final = frozenset(
    {"command", "args", "env", "cwd", "url", "headers", "type", "asyncfc", "disabled", "enabled"}
)
KINDS: Final = ("command", "url")
"""Keys of which an entry has exactly one."""
_HOST_KEYS: Final = frozenset(
    {"alwaysAllow", "autoApprove", "description", "dev", "envFile", "gallery", "oauth", "timeout", "trust", "version"}
)
"""Keys of an entry that hosts are known to have for themselves: no misspellings."""
_TYPES: Final[Mapping[str, str]] = {
    "stdio": "stdio", "http": "http", "streamable-http": "http", "streamableHttp": "http", "streamable_http": "http",
    "sse": "sse",
}  # fmt: skip
_VARIABLE: Final = re.compile(
    r"\$\{(?:(?P<asked>(?:input|command|config):[^}]*)|(?P<slash>/)"
    r"|(?:env:(?P<env>[^}:]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))(?::-(?P<default>(?:[^{}]|\{[^{}]*\})*))?)\}"
)
FAIL_STOP_NEEDS_PATHS: Final = '"stop" has no effect: no "reads" or "writes" are declared here'
LARGEST: Final = 10**15
"""No setting may be larger: whatever it is a bound on, it would bound nothing."""
_PROFILE_KEYS: Final = {
    "single_conversation": bool,
    "timeout_s": float,
    "name_limit": int,
    "progress_resets_timeout": bool,
}


class _Reader:
    """Reads one file's value, and knows where it is in it."""

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self.file, self.environ = file, environ
        self.warnings: list[str] = []

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

    def table(self, value: Any, path: str) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.fail(path, f"found {_kind(value)}", "an object of strings")
        items = cast("dict[str, Any]", value)
        # VS Code takes whole numbers, too, and null for what shall not be set.
        texts = {key: str(item) if type(item) is int else item for key, item in items.items() if item is not None}
        return {key: self.expanded(text, f"{path}.{key}") for key, text in texts.items()}

    def expanded(self, value: Any, path: str) -> str:
        if not isinstance(value, str):  # environment and headers hold secrets: an error shows none of them
            raise self.fail(path, f"found {_kind(value)}", "a string")

        def variable(match: re.Match[str]) -> str:
            if match["slash"]:
                return os.sep
            if match["asked"]:
                raise self.fail(
                    path, f"found ${{{match['asked']}}}, which only the host can fill in", "an environment variable"
                )
            name, default = match["env"] or match["name"], match["default"]
            found = self.environ.get(name)
            if default is not None:
                return found or self.expanded(default, path)
            if found is None:
                found = _of_the_host(name)
            if found is None:
                raise self.fail(
                    path,
                    f"found ${{{name}}}, and the environment has no {name}",
                    f"{name} to be set, or ${{{name}:-default}}",
                )
            return found

        return _VARIABLE.sub(variable, value)

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
        close = nearest(key, [*POLICY, *SETTINGS, *SERVER_KEYS], at_most=1)
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
        least = 1 if key in ("max_concurrency", "max_pending", "max_argument_bytes") else 0
        return self._number(value, path, whole=int in kinds, least=least, above=key.endswith("out_s"))

    def _number(self, value: Any, path: str, *, whole: bool, least: int, above: bool) -> int | float:
        """A number that is at least `least`, or above it."""
        expected = f"a {'whole ' if whole else ''}number, {f'more than {least}' if above else f'{least} or more'}"
        number = self.typed(value, path, int if whole else (int, float), expected)
        # Compared before it is converted: JSON knows NaN, and whole numbers that are larger than any float.
        if not (least < number if above else least <= number) or not number <= LARGEST:
            raise self.fail(path, f"found {_shown(value)}", expected if not number > LARGEST else "a smaller number")
        return number if whole else float(number)

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

    def server(self, name: str, value: Any, path: str, top: Mapping[str, Any]) -> ServerConfig | None:
        entry = cast("dict[str, Any]", self.typed(value, path, dict, 'an object with "command" or "url"'))
        if not name.strip():
            raise self.fail(path, "the name of a server is empty", "a name")
        # Hosts write null for what is not set.
        entry = {key: item for key, item in entry.items() if item is not None}
        switches = {
            key: self.typed(entry[key], f"{path}.{key}", bool, "true or false")
            for key in ("disabled", "enabled")
            if key in entry
        }
        if switches.get("disabled") or not switches.get("enabled", True):
            self.warn(path, "the server is disabled and left out")
            return None
        for key in entry:
            if key in _ENTRY_KEYS:
                continue
            if places := _places(key):
                self.warn(f"{path}.{key}", f'ignored here; as a setting of the bridge it stands in "asyncfc", {places}')
                continue
            close = [] if key in _HOST_KEYS else nearest(key, _ENTRY_KEYS, at_most=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            self.warn(f"{path}.{key}", f"ignored, it means nothing to the bridge{hint}")
        spec = self._spec(entry, path)
        own = self.section(entry.get("asyncfc", {}), f"{path}.asyncfc", "on a server")
        self._check_fail_stop(own, f"{path}.asyncfc")
        limit = own.get("max_concurrency", top.get("max_concurrency"))
        policy = {key: item for key, item in {**top, **own}.items() if key in POLICY and key != "max_concurrency"}
        return ServerConfig(
            name, spec, own.get("prefix"), own.get("include", ()), own.get("exclude", ()), limit,
            base=Policy(**policy), tools=own.get("tools", {}),
        )  # fmt: skip

    def _check_fail_stop(self, own: Mapping[str, Any], path: str) -> None:
        """Warn of `on_failure: "stop"` where no state is declared by path, since it has no effect there."""
        tools: dict[str, dict[str, Any]] = own.get("tools", {})
        if own.get("on_failure") == "stop" and not _declares(own, *tools.values()):
            self.warn(f"{path}.on_failure", FAIL_STOP_NEEDS_PATHS)
        for tool, section in tools.items():
            if section.get("on_failure") == "stop" and not _declares(own, section):
                self.warn(f"{path}.tools.{tool}.on_failure", FAIL_STOP_NEEDS_PATHS)

    def _spec(self, entry: Mapping[str, Any], path: str) -> StdioSpec | HttpSpec:
        kind = None
        if "type" in entry:
            said = self.typed(entry["type"], f"{path}.type", str, "a string")
            kind = _TYPES.get(said)
            if kind is None:
                raise self.fail(f"{path}.type", f"found {said!r}", "'stdio', 'http', 'streamable-http' or 'sse'")
        if ("command" in entry) == ("url" in entry):
            strange = [key for key in entry if key not in _ENTRY_KEYS]
            close = next((key for key in strange if key.lower().endswith("url") or nearest(key, KINDS)), None)
            found = 'both "command" and "url"' if "command" in entry else 'neither "command" nor "url"'
            found += f", but {close!r}" if close is not None and "command" not in entry else ""
            raise self.fail(path, f"found {found}", "one of the two")
        if "command" in entry:
            if kind not in (None, "stdio"):
                raise self.fail(f"{path}.type", f'found {entry["type"]!r} beside "command"', "'stdio'")
            command = self.expanded(entry["command"], f"{path}.command")
            if not command.strip():
                raise self.fail(f"{path}.command", "found an empty string", "a command")
            args = self.typed(entry.get("args", []), f"{path}.args", list, "a list of strings")
            cwd = entry.get("cwd")
            return StdioSpec(
                command,
                tuple(self.expanded(arg, f"{path}.args[{i}]") for i, arg in enumerate(args)),
                self.table(entry.get("env", {}), f"{path}.env"),
                None if cwd is None else os.path.expanduser(self.expanded(cwd, f"{path}.cwd")),
            )
        if kind == "stdio":
            raise self.fail(f"{path}.type", "found 'stdio' beside \"url\"", "'http' or 'sse'")
        return self.remote(entry["url"], f"{path}.url", kind, self.table(entry.get("headers", {}), f"{path}.headers"))

    def remote(self, written: Any, path: str, kind: str | None, headers: Mapping[str, str]) -> HttpSpec:
        url = self.expanded(written, path)
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            # As it was written, and without what may be a secret.
            shown = re.sub(r"//[^/@]*@", "//…@", str(written).partition("?")[0])
            raise self.fail(path, f"found {_shown(shown)}", "an http:// or https:// URL")
        if kind is None:
            kind = "sse" if urlsplit(url).path.rstrip("/").endswith("/sse") else "http"
        return HttpSpec(url, headers, cast("Any", kind))


def _declares(*sections: Mapping[str, Any]) -> bool:
    """Whether one of these sections declares state paths."""
    return any(section.get(key) is not None for section in sections for key in EFFECTS)


def _places(key: str) -> str:
    """Where this setting may stand, in words; empty if it is none."""
    return " or ".join(level for level, keys in LEVELS.items() if key in keys)


def _of_the_host(name: str) -> str | None:
    """What Cursor and VS Code fill in for a variable of theirs."""
    try:
        match name:
            case "userHome":
                return os.path.expanduser("~")
            case "workspaceFolder":
                return os.getcwd()
            case "workspaceFolderBasename":
                return os.path.basename(os.getcwd())
            case "pathSeparator":
                return os.sep
            case _:
                return None
    except OSError:  # the folder that we were started in is gone
        return None


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
        ConfigError: it cannot be read, or something in it is wrong.
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
        raise ConfigError(file, "", "found a folder", "a configuration file") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(file, "", f"it cannot be read: {exc}", "a JSON file in UTF-8") from None
    return parse_config(text, file, environ)


def parse_config(text: str, file: str, environ: Mapping[str, str]) -> BridgeConfig:
    """The configuration in `text`; `file` is what errors call it.

    Raises:
        ConfigError: something in it is wrong.
    """

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise ConfigError(file, key, "the key stands twice in one object", "each key once")
            table[key] = value
        return table

    if not text.strip():
        raise ConfigError(file, "", "found an empty file", 'an object with "mcpServers"')
    try:
        value = json.loads(_without_comments(text), object_pairs_hook=unique)
    except json.JSONDecodeError as exc:
        raise ConfigError(file, "", f"line {exc.lineno}, column {exc.colno}: {exc.msg}", "JSON") from None
    except (RecursionError, ValueError) as exc:
        raise ConfigError(file, "", f"it is no usable JSON: {exc}"[:200], "JSON") from None
    reader = _Reader(file, environ)
    root = cast("dict[str, Any]", reader.typed(value, "", dict, 'an object with "mcpServers"'))
    keys = [key for key in ("mcpServers", "servers") if key in root]
    if len(keys) != 1:
        close = nearest("mcpServers", root, at_most=1)
        found = 'both "mcpServers" and "servers"' if keys else (f"found {close[0]!r}" if close else "no servers")
        raise ConfigError(file, "", found, '"mcpServers" (or "servers", as VS Code has it)')
    top = reader.section(root.get("asyncfc", {}), "asyncfc", "at the top of the file")
    entries = cast("dict[str, Any]", reader.typed(root[keys[0]], keys[0], dict, "an object: name → server"))
    servers = [reader.server(name, entry, f"{keys[0]}.{name}", top) for name, entry in entries.items()]
    foreign = [key for key in root if key not in (*keys, "asyncfc", "inputs")]
    for key in foreign:
        if places := _places(key):
            reader.warn(key, f'ignored here; as a setting of the bridge it stands in "asyncfc", {places}')
    if others := [key for key in foreign if not _places(key)]:
        # In one line: a host's own settings file may have dozens.
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        reader.warn(", ".join(others[:5]) + more, "ignored, it means nothing to the bridge")
    kept = tuple(server for server in servers if server is not None)
    if not kept:
        found = f"all of its {len(entries)} servers are disabled" if entries else "there is no server to wrap"
        raise ConfigError(file, keys[0], found, "at least one")
    if top.get("on_failure") == "stop" and not any(_declares(asdict(s.base), *s.tools.values()) for s in kept):
        reader.warn("asyncfc.on_failure", FAIL_STOP_NEEDS_PATHS)
    settings = Settings(**{key: item for key, item in top.items() if key in SETTINGS})
    return BridgeConfig(kept, settings, tuple(reader.warnings), file)


def _single(spec: StdioSpec | HttpSpec, name: str, source: str) -> BridgeConfig:
    return BridgeConfig((ServerConfig(name, spec, prefix="", keep_names=True),), source=source)


def config_for_command(argv: Sequence[str]) -> BridgeConfig:
    """One server that is a command; its tools keep their names."""
    words = [word for word in argv if not word.startswith("-")] or ["server"]
    last = (
        words[1] if len(words) > 1 and Path(words[0]).name in ("npx", "uvx", "python", "python3", "node") else words[0]
    )
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"(?<=.)@[^/]*$", "", Path(last).name).removesuffix(".py"))
    return _single(StdioSpec(argv[0], tuple(argv[1:])), name or "server", " ".join(argv))


def config_for_url(url: str) -> BridgeConfig:
    """One server at a URL; its tools keep their names.

    Raises:
        ConfigError: it is no URL.
    """
    spec = _Reader("--url", {}).remote(url, "", None, {})
    return _single(spec, urlsplit(url).hostname or "server", url)
