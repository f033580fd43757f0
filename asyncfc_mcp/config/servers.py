"""Reading of server entries: an entry of a host and its `asyncfc` section → `ServerConfig`.

Owns what an invalid entry affects: its server only. An invalid `asyncfc` section affects the whole file. Hosts'
spellings are left to `formats`, connections to `specs`, settings to `settings_reader`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import unquote

from asyncfc_mcp.config.checker import Checker, absolute, kind_of, shown
from asyncfc_mcp.config.formats import canonical
from asyncfc_mcp.config.levels import NOT_AT_TOP, OF_STARTS
from asyncfc_mcp.config.mcp_remote import shown_url_entry, url_entry
from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec, UnusableServer
from asyncfc_mcp.config.overrides import OVERRIDES, OverrideReader, ToolOverride
from asyncfc_mcp.config.parsing import JsonObject, duplicate_keys
from asyncfc_mcp.config.settings import POLICY, Policy
from asyncfc_mcp.config.settings_reader import SettingsReader, declares_state, levels_of
from asyncfc_mcp.config.specs import SpecReader
from asyncfc_mcp.errors import ConfigError
from asyncfc_mcp.quotation import one_line

FAIL_STOP_NEEDS_PATHS: Final = '"stop" has no effect: no "reads" or "writes" are declared here'


def wrong_section(key: str) -> str | None:
    """Return the warning for a setting outside an `asyncfc` section; None if the key is no setting."""
    levels = levels_of(key)
    return f'ignored here: a setting of the bridge belongs in "asyncfc", {levels}' if levels else None


class ServerReader:
    """Reads the server entries of one file.

    Attributes:
        faults: errors that make one server unusable.
    """

    def __init__(self, check: Checker, settings: SettingsReader, top: Mapping[str, Any], *, braces: bool) -> None:
        """Args:
        top: the settings at the top of the file.
        braces: `{env:NAME}` is a variable, as in opencode.
        """
        self._check, self._settings, self._top, self._braces = check, settings, top, braces
        self._specs, self._overrides = SpecReader(check), OverrideReader(check)
        self.faults: list[ConfigError] = []

    def server(self, name: str, value: Any, path: str) -> ServerConfig | UnusableServer | None:
        """Return one server, the reason why its entry is unusable, or None if it is disabled.

        Raises:
            ConfigError: its `asyncfc` section is invalid. Ignoring a setting would be worse than not starting.
        """
        try:
            entry = self._entry(name, value, path)
        except ConfigError as exc:
            return self._unusable(name, exc)
        if entry is None:
            return None
        own = self._settings.section(entry.get("asyncfc", {}), f"{path}.asyncfc", "on a server")
        self._check_fail_stop(own, f"{path}.asyncfc")
        tools_path = f"{path}.asyncfc.tools"
        overrides = self._overrides.overrides(own.get("tools", {}), tools_path)
        try:
            spec = self._specs.spec(entry, path, [key for key in cast("dict[str, Any]", value) if key not in entry])
            own_env: Mapping[str, str] = spec.env if isinstance(spec, StdioSpec) else {}
            overrides = self._overrides.expanded(overrides, tools_path, own_env)
        except ConfigError as exc:
            return self._unusable(name, exc)
        if (direct := url_entry(entry)) is not None:
            instead = f'write {shown_url_entry(direct)} in place of "command" and "args"'
            self._check.warn(path, f"runs mcp-remote, but the bridge can connect and sign in by itself: {instead}")
        return self._configured(name, entry, own, path, spec, overrides)

    def _configured(
        self,
        name: str,
        entry: Mapping[str, Any],
        own: Mapping[str, Any],
        path: str,
        spec: StdioSpec | HttpSpec,
        overrides: Mapping[str, ToolOverride],
    ) -> ServerConfig:
        """Combine a connection with the settings of the server and of the top of the file."""
        top = self._top
        if isinstance(spec, StdioSpec):
            spec = replace(spec, env_inherit=own.get("env_inherit", top.get("env_inherit", "all")))
        elif "env_inherit" in own:
            self._check.warn(f"{path}.asyncfc.env_inherit", "no effect: no process is started for a URL")
        if "idle_s" in own and own.get("start", top.get("start")) == "eager":
            self._check.warn(f"{path}.asyncfc.idle_s", 'no effect: a server with "start": "eager" is not ended')
        if isinstance(spec, HttpSpec) and spec.caller_headers:
            for key in ("start", "idle_s"):
                if own.get(key) not in (None, "auto"):
                    problem = "no effect: with ${caller:…}, it is connected while a caller uses it, for each caller"
                    self._check.warn(f"{path}.asyncfc.{key}", problem)
        limit = own.get("max_concurrency", top.get("max_concurrency"))
        inherited = {key: item for key, item in top.items() if key not in NOT_AT_TOP}
        of_host = {key: entry[key] for key in ("timeout_s",) if key in entry}
        near = {**inherited, **of_host, **own}
        policy = {key: item for key, item in near.items() if key in POLICY and key != "max_concurrency"}
        state = self._state(own["state"], f"{path}.asyncfc.state", spec) if "state" in own else None
        if state is not None and "ordering" not in own and policy.get("ordering") != "none":
            # A server with shared state touches it, so tools without declared effects count as writes.
            policy["ordering"] = "strict"
        include, exclude = (own.get(key, entry.get(key, ())) for key in ("include", "exclude"))
        tools = {
            tool: {key: item for key, item in section.items() if key not in OVERRIDES}
            for tool, section in own.get("tools", {}).items()
        }
        return ServerConfig(
            name, spec, own.get("prefix"), include, exclude, limit,
            base=Policy(**policy), tools=tools, overrides=overrides, state=state, owner=own.get("owner"),
            **{key: near[key] for key in OF_STARTS if key in near},
        )  # fmt: skip

    def _check_fail_stop(self, own: Mapping[str, Any], path: str) -> None:
        """Warn of `on_failure: "stop"` without declared state paths, where it has no effect."""
        tools: dict[str, dict[str, Any]] = own.get("tools", {})
        if own.get("on_failure") == "stop" and not declares_state(own, *tools.values()):
            self._check.warn(f"{path}.on_failure", FAIL_STOP_NEEDS_PATHS)
        for tool, section in tools.items():
            if section.get("on_failure") == "stop" and not declares_state(own, section):
                self._check.warn(f"{path}.tools.{tool}.on_failure", FAIL_STOP_NEEDS_PATHS)

    def _state(self, text: str, path: str, spec: StdioSpec | HttpSpec) -> str:
        """Return `state` in the form of `ServerConfig`."""
        expected = 'a name such as "workspace", or "files:" and a folder'
        if match := re.fullmatch(r"files?:(//(?=/))?(.+)", text, re.DOTALL):
            folder = os.path.expanduser(unquote(match[2]) if match[1] else match[2])
            cwd = spec.cwd if isinstance(spec, StdioSpec) and spec.cwd is not None else ""
            return "files:" + absolute(os.path.join(cwd, folder))
        words = [word for word in re.split(r"[/\\]", text) if word not in ("", ".")]
        if not words or ".." in words or re.match("files?:", text) or re.search("[{}]", text):
            raise self._check.fail(path, f"found {shown(text)}", expected)
        if text[0] in "/~" and os.path.isdir(os.path.expanduser(text)):
            self._check.warn(path, f'{shown(text)} is a name here, not a folder; for the folder, write "files:{text}"')
        return "/".join(words)

    def _unusable(self, name: str, exc: ConfigError) -> UnusableServer:
        self.faults.append(exc)
        return UnusableServer(name, one_line(f"{exc.path}: {exc.found}; expected {exc.expected}"))

    def _entry(self, name: str, value: Any, path: str) -> dict[str, Any] | None:
        """Return the entry with canonical keys; None if it is disabled."""
        check = self._check
        if not isinstance(value, dict):
            raise check.fail(path, f"found {kind_of(value)}", 'an object with "command" or "url"')
        written = cast("dict[str, Any]", value)
        # Hosts write null for a key that is not set.
        written = JsonObject({key: item for key, item in written.items() if item is not None}, duplicate_keys(written))
        if not name.strip():
            raise check.fail(path, "the name of a server is empty", "a name")
        warnings: list[tuple[str, str]] = []

        def note(key: str, problem: str) -> None:
            warnings.append((f"{path}.{key}", wrong_section(key) or problem))

        entry = canonical(written, note, braces=self._braces)
        switches = {
            key: check.typed(entry[key], f"{path}.{key}", bool, "true or false")
            for key in ("disabled", "enabled")
            if key in entry
        }
        if switches.get("disabled") or not switches.get("enabled", True):
            check.warn(path, "the server is disabled and left out")
            return None
        for key, problem in warnings:
            check.warn(key, problem)
        check.unique_keys(written, path)
        return entry
