"""Overrides of tools: their keys and values, variables in them, and what contradicts each other."""

import json
from typing import Any

import pytest

from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.overrides import NO_VALUE, ArgumentOverride, ToolOverride
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.errors import ConfigError

SECRET = "s3cr3t-0123456789"


def read(tools: Any, *, entry: Any = None, others: Any = None, **own: Any) -> BridgeConfig:
    server = {"command": "cmd", **(entry or {}), "asyncfc": {"tools": tools, **own}}
    return parse_config(json.dumps({"mcpServers": {"s": server, **(others or {})}}), "f.json", {"T": SECRET, "N": "5"})


def override(**of_tool: Any) -> ToolOverride:
    return read({"x": of_tool}).servers[0].overrides["x"]


def test_overrides_are_read_beside_settings():
    """Of a tool; those of others are its own."""
    own = {"description": "D", "title": "T", "annotations": {"readOnlyHint": True, "title": None}, "name": "find"}
    (server,) = read(
        {"x": {**own, "timeout_s": 3, "arguments": {"a": {"value": None}, "b": {"hidden": True}}}, "y": {}}
    ).servers
    assert server.overrides["x"] == ToolOverride(
        "find", "T", "D", own["annotations"], {"a": ArgumentOverride(None), "b": ArgumentOverride(hidden=True)}
    )
    assert server.overrides["x"].arguments["b"].value is NO_VALUE
    assert server.policy("x").timeout_s == 3
    assert (set(server.overrides), server.tool_names) == ({"x"}, ("x", "y"))


def test_variables_in_values_are_expanded():
    """From the environment and the entry's own `env`, in lists and objects, too; their texts are secrets."""
    value = {"a": ["${T}", "x${N}"], "b": 1}
    server = read(
        {"x": {"arguments": {"q": {"value": value}, "own": {"value": "${OWN}"}}}}, entry={"env": {"OWN": "own-value"}}
    ).servers[0]
    arguments = server.overrides["x"].arguments
    assert arguments["q"].value == {"a": [SECRET, "x5"], "b": 1}
    assert arguments["own"].value == "own-value"
    assert arguments["q"].secret
    assert SECRET in server.secrets
    assert SECRET not in repr(server)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("token", "plain text", True),
        ("q", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", True),
        ("q", "plain text", False),
        ("token", "short", False),
    ],
)
def test_values_that_look_like_secrets_are(name: str, value: str, secret: bool):
    """By the name of the argument or their form; a word such as an owner's name is none."""
    found = override(arguments={name: {"value": value, "hidden": True}})
    assert (value in found.secrets) is secret


def test_a_variable_without_a_value_leaves_out_the_server():
    """As elsewhere in an entry; the others run."""
    config = read({"x": {"arguments": {"q": {"value": "${GONE}"}}}}, others={"t": {"command": "c"}})
    assert [server.name for server in config.servers] == ["t"]
    assert "s.asyncfc.tools.x.arguments.q.value" in config.unusable[0].reason
    assert "GONE" in config.unusable[0].reason


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({"x": {"nme": "a"}}, ["tools.x.nme", "'name'"]),
        ({"x": {"name": "a b"}}, ["tools.x.name", "letter"]),
        ({"x": {"name": ""}}, ["tools.x.name"]),
        ({"x": {"name": 5}}, ["tools.x.name", "a string"]),
        ({"x": {"title": None}}, ["tools.x.title", "a string"]),
        ({"x": {"annotations": {"readonlyHint": True}}}, ["annotations.readonlyHint", "readOnlyHint"]),
        ({"x": {"annotations": {"readOnlyHint": "yes"}}}, ["annotations.readOnlyHint", "true, false or null"]),
        ({"x": {"arguments": ["a"]}}, ["tools.x.arguments"]),
        ({"x": {"arguments": {"a": SECRET}}}, ["arguments.a", "value"]),
        ({"x": {"arguments": {"a": {"hide": True}}}}, ["arguments.a.hide", "'hidden'"]),
        ({"x": {"arguments": {"a": {"hidden": 1}}}}, ["arguments.a.hidden", "true or false"]),
        ({"x": {"arguments": {"a": {"description": 1}}}}, ["arguments.a.description"]),
        # Contradictions name both.
        ({"x": {"name": "a"}, "y": {"name": "a"}}, ["tools.y.name", "'x'", "'y'"]),
        ({"x": {"name": "a"}, "y": {"name": "A"}}, ["tools.y.name", "'x'"]),
        ({"x": {"name": "y"}, "y": {"timeout_s": 1}}, ["tools.x.name", "'y'"]),
        ({"x": {"title": "A", "annotations": {"title": "B"}}}, ["title", "annotations.title"]),
        ({"x": {"annotations": {"readOnlyHint": True, "destructiveHint": True}}}, ["readOnlyHint", "destructiveHint"]),
        ({"x": {"arguments": {"a": {"hidden": True, "description": "d"}}}}, ["hidden", "description"]),
    ],
)
def test_an_invalid_override_is_an_error(tools: Any, words: list[str]):
    """It says where, what was found, and what is expected; no value of an argument."""
    with pytest.raises(ConfigError) as caught:
        read(tools)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert SECRET not in str(caught.value)


def test_overrides_belong_to_tools():
    """Not to a server, nor to the top of the file."""
    with pytest.raises(ConfigError, match="on a tool only"):
        read({}, description="D")
    with pytest.raises(ConfigError, match="on a tool only"):
        parse_config(json.dumps({"mcpServers": {"s": {"command": "c"}}, "asyncfc": {"annotations": {}}}), "f.json", {})


def test_one_name_for_tools_of_two_servers_is_an_error_where_their_prefixes_are_equal():
    """It names both places."""
    other = {"command": "c", "asyncfc": {"prefix": "", "tools": {"y": {"name": "find"}}}}
    with pytest.raises(ConfigError) as caught:
        read({"x": {"name": "find"}}, others={"t": other}, prefix="")
    assert "mcpServers.s.asyncfc.tools.x.name" in str(caught.value)
    assert "mcpServers.t.asyncfc.tools.y.name" in str(caught.value)
    assert len(read({"x": {"name": "find"}}, others={"t": other}).servers) == 2


def test_tools_that_swap_their_names_are_no_contradiction():
    """Each has one of its own."""
    (server,) = read({"x": {"name": "y"}, "y": {"name": "x"}}).servers
    assert [each.name for each in server.overrides.values()] == ["y", "x"]
