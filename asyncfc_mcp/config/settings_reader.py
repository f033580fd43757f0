"""Reading of `asyncfc` sections: the settings of the bridge, of a server or of a tool.

Owns the checks of values against their declarations in `settings` and `hosts`, and the suggestion for an unknown key.
An unknown key is an error, because a setting that is silently ignored is worse than none.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from types import UnionType
from typing import Any, Final, Literal, cast, get_args, get_origin

from asyncfc_mcp.config.access import read_access
from asyncfc_mcp.config.checker import Checker, absolute, is_file_name, shown
from asyncfc_mcp.config.environment import NAME as VARIABLE_NAME
from asyncfc_mcp.config.environment import Inherit
from asyncfc_mcp.config.formats import ENTRY_KEYS
from asyncfc_mcp.config.hosts import HostProfile
from asyncfc_mcp.config.levels import EFFECTS, LEVELS, OF_STARTS, SERVER_KEYS, SPAWN_KEYS, TOP
from asyncfc_mcp.config.overrides import OVERRIDES, OverrideReader
from asyncfc_mcp.config.profile_files import AUTO, OFF, profile_names
from asyncfc_mcp.config.replicas import read_engine, read_name, read_secret
from asyncfc_mcp.config.settings import POLICY, SETTINGS
from asyncfc_mcp.errors import ConfigError, nearest
from asyncfc_mcp.protocol import CLIENT_METHODS

TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel", "tasks/list", "tasks/result"})
OAUTH_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
"""An OAuth scope (RFC 6749, section 3.3)."""
PROFILE: Final = {f.name: f for f in fields(HostProfile)}


def levels_of(key: str) -> str:
    """Return where a setting is allowed, in words; an empty string if it is no setting."""
    return " or ".join(level for level, keys in LEVELS.items() if key in keys)


def declares_state(*sections: Mapping[str, Any]) -> bool:
    """Return whether one of these sections declares state paths."""
    return any(section.get(key) is not None for section in sections for key in EFFECTS)


def declared(check: Checker, known: Field[Any], value: Any, path: str) -> Any:
    """Return the checked value of a setting that `model.setting` declares: its type is the field's, its bounds are in
    the field's metadata.

    Raises:
        ConfigError: the value is invalid.
    """
    if get_origin(known.type) is Literal:
        words: tuple[Any, ...] = get_args(known.type)
        if value not in words:
            close = nearest(value, words, at_most=1) if isinstance(value, str) else []
            hint = f" (nearest: {close[0]!r})" if close else ""
            raise check.fail(path, f"found {shown(value)}", f"one of {', '.join(map(repr, words))}{hint}")
        return value
    kinds = get_args(known.type) if isinstance(known.type, UnionType) else (known.type,)
    if any(get_origin(kind) is tuple for kind in kinds):
        return check.strings(value, path)  # None only says that the setting is absent
    if value is None and type(None) in kinds:
        return None
    if bool in kinds:
        return check.typed(value, path, bool, "true or false")
    if str in kinds:
        return check.typed(value, path, str, "a string")
    bounds = known.metadata
    return check.number(value, path, whole=int in kinds, least=bounds["minimum"], above=bounds["above"])


class SettingsReader:
    """Reads `asyncfc` sections of one file."""

    def __init__(self, check: Checker) -> None:
        self._check = check
        self._overrides = OverrideReader(check)
        self.own_variables: set[str] = set()
        """Environment variables from which secrets of the bridge itself were read."""

    def section(self, value: Any, path: str, level: str) -> dict[str, Any]:
        """Return the checked settings of one section.

        Args:
            level: one of `LEVELS`.

        Raises:
            ConfigError: a key is unknown or not allowed at this level, or a value is invalid.
        """
        section = cast("dict[str, Any]", self._check.typed(value, path, dict, "an object"))
        for key in section:
            if key not in LEVELS[level]:
                raise self._misplaced(key, f"{path}.{key}", level)
        return {key: self._setting(key, item, f"{path}.{key}", level) for key, item in section.items()}

    def _misplaced(self, key: str, path: str, level: str) -> ConfigError:
        if levels := levels_of(key):
            return self._check.fail(path, f"found {key!r} {level}", f"it {levels} only")
        if key in ENTRY_KEYS:
            return self._check.fail(path, f"unknown key {key!r}", 'it beside "url" or "command", outside of "asyncfc"')
        close = nearest(key, [*POLICY, *SETTINGS, *SERVER_KEYS, *SPAWN_KEYS, *OVERRIDES], at_most=1)
        if not close:
            expected = f"one of {', '.join(sorted(LEVELS[level]))}"
        elif close[0] in LEVELS[level]:
            expected = repr(close[0])
        else:
            expected = f"{close[0]!r}, {levels_of(close[0])} only"
        return self._check.fail(path, f"unknown key {key!r}", expected)

    def _setting(self, key: str, value: Any, path: str, level: str) -> Any:
        check = self._check
        if key in OVERRIDES:
            return self._overrides.read(key, value, path)
        match key:
            case "include" | "exclude":
                return check.strings(value, path)
            case "env_inherit":
                return self._env_inherit(value, path)
            case "state":
                return check.expanded(value, path, check.variables())
            case "profile":
                return self._profile(value, path)
            case "prefix":
                return check.typed(value, path, str, "a string")
            case "tools":
                tools = cast("dict[str, Any]", check.typed(value, path, dict, "an object: tool name → its settings"))
                return {tool: self.section(own, f"{path}.{tool}", "on a tool") for tool, own in tools.items()}
            case "access":
                return read_access(check, value, path)
            case "host_profiles":
                return self._profiles(value, path)
            case "required_scopes":
                return self._required_scopes(value, path)
            case "engine":
                return read_engine(check, value, path, self.own_variables)
            case "secret":
                return read_secret(check, value, path, self.own_variables)
            case "replica" if value is not None:
                return read_name(check, value, path, "a name of letters, digits, '.', '_' and '-'")
            case "owner":
                return read_name(check, value, path, "'any', 'auto' or the name of a replica")
            case "journal" if level == TOP:
                return self._journal(value, path)
            case _:
                return declared(self._check, POLICY.get(key) or OF_STARTS.get(key) or SETTINGS[key], value, path)

    def _profile(self, value: Any, path: str) -> str:
        if value not in (AUTO, OFF):
            names = profile_names()
            if value not in names:
                close = nearest(value, names, at_most=1) if isinstance(value, str) else []
                hint = f" (nearest: {close[0]!r})" if close else ""
                expected = f"{AUTO!r}, {OFF!r} or one of {', '.join(names)}{hint}"
                raise self._check.fail(path, f"found {shown(value)}", expected)
        return value

    def _journal(self, value: Any, path: str) -> str:
        """Return `auto`, `off` or an absolute path."""
        if isinstance(value, bool):  # as on a server or a tool
            return AUTO if value else OFF
        check, expected = self._check, f"{AUTO!r}, {OFF!r} or the path of a file, such as './journal.db'"
        text = check.expanded(value, path, check.variables()) if isinstance(value, str) else ""
        if text in (AUTO, OFF):
            return text
        # A misspelled `off` would write to the disk what must not be there.
        if not re.search(r"[./\\~]", text) or not is_file_name(text):
            raise check.fail(path, f"found {shown(value)}", expected)
        file = absolute(os.path.join(check.folder, os.path.expanduser(text)))
        if text.endswith(("/", os.sep)) or os.path.isdir(file):
            raise check.fail(path, f"found {shown(value)}, which is a folder", expected)
        return file

    def _env_inherit(self, value: Any, path: str) -> Inherit:
        if value in ("all", "safe"):
            return value
        if not isinstance(value, list):
            raise self._check.fail(path, f"found {shown(value)}", "'all', 'safe' or a list of variable names")
        names = self._check.strings(cast("list[Any]", value), path)
        for i, name in enumerate(names):
            if not VARIABLE_NAME.fullmatch(name):
                expected = "the name of a variable, or a prefix and *"
                raise self._check.fail(f"{path}[{i}]", f"found {shown(name)}", expected)
        return names

    def _required_scopes(self, value: Any, path: str) -> dict[str, tuple[str, ...]]:
        check = self._check
        methods = cast("dict[str, Any]", check.typed(value, path, dict, "an object: method → list of OAuth scopes"))
        found: dict[str, tuple[str, ...]] = {}
        for method, scopes in methods.items():
            here = f"{path}.{method}"
            # A misspelled method would stay open. Methods of servers' extensions are not known here.
            if method not in CLIENT_METHODS | TASK_METHODS | {"*"}:
                close = nearest(method, CLIENT_METHODS, at_most=1)
                if close or "/" not in method:
                    expected = repr(close[0]) if close else "a method of MCP, or '*' for all"
                    raise check.fail(here, f"unknown method {method!r}", expected)
            found[method] = check.strings(scopes, here)
            for i, scope in enumerate(found[method]):
                if not OAUTH_SCOPE.fullmatch(scope):
                    raise check.fail(f"{here}[{i}]", f"found {shown(scope)}", "an OAuth scope")
        return found

    def _profiles(self, value: Any, path: str) -> dict[str, dict[str, object]]:
        check = self._check
        profiles = cast("dict[str, Any]", check.typed(value, path, dict, "an object: client name → its profile"))
        for name, profile in profiles.items():
            here = f"{path}.{name}"
            for key, item in cast("dict[str, Any]", check.typed(profile, here, dict, "an object")).items():
                known = PROFILE.get(key)
                if known is None:
                    close = nearest(key, PROFILE, at_most=1)
                    expected = f"{close[0]!r}" if close else f"one of {', '.join(PROFILE)}"
                    raise check.fail(f"{here}.{key}", f"unknown key {key!r}", expected)
                declared(check, known, item, f"{here}.{key}")
        return profiles
