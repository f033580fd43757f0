"""Configurations for tests: short ways to read one, and a sample value of every setting."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from asyncfc_mcp.config.levels import field_docs
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, OAuthSpec, ServerConfig, UnusableServer
from asyncfc_mcp.config.reader import load_config, parse_config
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.errors import ConfigError

FILE = "mcp.json"
Json = dict[str, Any]

VS_CODE = """
// Written by the command "MCP: Add Server"
{
  "inputs": [{"type": "promptString", "id": "key", "description": "API key", "password": true}],
  "servers": {
    "playwright": {"type": "stdio", "command": "npx", "args": ["-y", "@microsoft/mcp-server-playwright"],
      "env": {"PORT": 8931, "DEBUG": null}, "dev": {"watch": "build/**/*.js"}}, /* one of two */
    "github": {"type": "http", "url": "https://api.githubcopilot.com/mcp",},
  },
}
"""
"""Everything that VS Code writes: comments, commas at ends, numbers and null in `env`."""


def parse(value: object, environ: Mapping[str, str] | None = None) -> BridgeConfig:
    """Parse a configuration from a JSON value, or from a string that is its text."""
    return parse_config(value if isinstance(value, str) else json.dumps(value), FILE, environ or {})


def entry(value: Json, environ: Mapping[str, str] | None = None) -> ServerConfig:
    """Return the only server of a configuration with this entry."""
    (server,) = parse({"mcpServers": {"s": value}}, environ).servers
    return server


def signed_in(url: str, headers: Mapping[str, str] | None = None, kind: Literal["http", "sse"] = "http") -> HttpSpec:
    """Return the connection to a URL without credentials in the configuration, which is signed in to if it asks."""
    return HttpSpec(url, headers or {}, kind, OAuthSpec())


def left_out(value: Json, environ: Mapping[str, str] | None = None) -> str:
    """Return the reason why a server with this entry is left out, while another one of the file is usable."""
    config = parse({"mcpServers": {"s": value, "other": {"command": "x"}}}, environ)
    assert [server.name for server in config.servers] == ["other"]
    [unusable] = config.unusable
    assert isinstance(unusable, UnusableServer)
    assert unusable.name == "s"
    return unusable.reason


def section(own: Json, top: Json | None = None) -> ServerConfig:
    """Return a server with this `asyncfc` section, and with `top` at the top of the file."""
    (server,) = parse({"mcpServers": {"s": {"command": "x", "asyncfc": own}}, "asyncfc": top or {}}).servers
    return server


def refused(value: object, environ: Mapping[str, str] | None = None) -> str:
    """Return the error of an invalid configuration: one line that begins with the file."""
    with pytest.raises(ConfigError) as caught:
        parse(value, environ)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert said.startswith(f"{FILE}: ")
    assert "; expected " in said
    return said


def refused_section(own: Json) -> str:
    """Return the error of an invalid `asyncfc` section of a server."""
    return refused({"mcpServers": {"s": {"command": "x", "asyncfc": own}}})


def refused_file(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


WHERE = {
    name: [level for where, known, _, _ in field_docs() if known == name for level in where.split(", ")]
    for _, name, _, _ in field_docs()
}
"""Setting → the documented levels."""


def sample(kind: Any, default: object) -> Any:
    """Return a value of this type that is not the default."""
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word != default)
    if get_origin(kind) is tuple or any(get_origin(each) is tuple for each in get_args(kind)):
        return ["a/{x}"]
    if kind is str or str in get_args(kind):
        return f"not {default}"
    return not default if kind is bool else 3


SAMPLES: Mapping[str, Any] = {
    **{f.name: sample(f.type, f.default) for model in (Policy, Settings) for f in fields(model)},
    "engine": "postgresql://host/database",
    "secret": "not None, but longer",
    "replica": "not-None",
    "owner": "r1",
    "journal": False,
    "journal_max_bytes": 1 << 20,
    "log_max_bytes": 1 << 20,
    "profile": "git",
    "writes": [],
    "required_scopes": {"*": ["mcp"], "tools/call": ["mcp:call"]},
    "access": {"alice": {"allow": ["a"], "deny": ["*/b_*"]}},
    "host_profiles": {"h": {"timeout_s": 9, "single_conversation": True}},
    "prefix": "p_",
    "include": ["a*"],
    "exclude": ["b"],
    "tools": {"t": {"mode": "sync"}},
    "state": "workspace",
    "env_inherit": "safe",
    "share": "session",
    "start": "lazy",
    "idle_s": 5.0,
    "name": "find",
    "title": "Find",
    "description": "Finds.",
    "annotations": {"readOnlyHint": True},
    "arguments": {},
}
"""Setting → a value that is not its default."""


def at(level: str, own: Json) -> Json:
    """Return a configuration with this `asyncfc` section at the top, on a server or on a tool."""
    config: Json = {"mcpServers": {"s": {"command": "x"}}}
    if level == "top":
        config["asyncfc"] = own
    else:
        config["mcpServers"]["s"]["asyncfc"] = own if level == "server" else {"tools": {"t": own}}
    return config
