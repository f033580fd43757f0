"""Effect profiles in a bridge: by the server's own name, its tools and the setting."""

import json
from typing import Any

import pytest

from asyncfc_mcp.cli import inspect
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.errors import ConfigError
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time


def thinking(name: str = "sequential-thinking-server", **annotations: Any) -> Toy:
    """A server with the tool of the sequential thinking server, annotated as read-only."""
    toy = Toy(name)
    toy.listing.clear()
    arguments = ("thought", "nextThoughtNeeded", "thoughtNumber", "totalThoughts")
    schema = {"type": "object", "properties": {argument: {} for argument in arguments}}
    toy.add("sequentialthinking", toy._echo, schema=schema, annotations={"readOnlyHint": True, **annotations})
    return toy


def read(asyncfc: Any, top: Any = None) -> Any:
    servers = {"s": {"command": "x", "asyncfc": asyncfc}}
    return parse_config(json.dumps({"mcpServers": servers, "asyncfc": top or {}}), "mcp.json", {})


@pytest.mark.parametrize(
    ("name", "setting", "source", "profile"),
    [
        ("sequential-thinking-server", "auto", "profile", "sequential-thinking"),
        ("sequential-thinking-server", "off", "annotation", None),
        ("another", "auto", "annotation", None),
        ("another", "sequential-thinking", "profile", "sequential-thinking"),
        ("sequential-thinking-server", "time", "annotation", "time"),
    ],
)
@on_virtual_time
async def test_the_setting_and_the_name_choose(name: str, setting: str, source: str, profile: str | None):
    """`inspect` says where the effect of each tool is from."""
    async with bridge_over(thinking(name), server={"base": Policy(profile=setting)}) as bridge:
        facts = inspect.report(bridge)
    (tool,), (server,) = facts["tools"], facts["servers"]
    assert tool["effect_source"] == source
    assert server["profile"] == profile
    if source == "profile":
        assert tool["effect_from"] == "profile sequential-thinking"
        assert tool["touches"] == "write everything"
        assert "profile sequential-thinking" in inspect.render(facts)


def test_the_nearest_setting_wins():
    """At the top, or on a server; not on a tool, since a profile is of a server."""
    assert read({}).servers[0].base.profile == "auto"
    assert read({}, {"profile": "off"}).servers[0].base.profile == "off"
    assert read({"profile": "git"}, {"profile": "off"}).servers[0].base.profile == "git"
    with pytest.raises(ConfigError, match="at the top of the file or on a server only"):
        read({"tools": {"t": {"profile": "git"}}})


@pytest.mark.parametrize("wrong", ["filesystems", "index", "", 7, None, ["git"], "../profiles/git"])
def test_an_unknown_name_is_an_error_with_the_names(wrong: object):
    """In one line, with the nearest."""
    with pytest.raises(
        ConfigError, match=r"s\.asyncfc\.profile: found .*'auto', 'off' or one of .*filesystem, .*git"
    ) as said:
        read({"profile": wrong})
    assert ("nearest: 'filesystem'" in str(said.value)) == (wrong == "filesystems")


@pytest.mark.parametrize(
    ("own", "source"),
    [
        ({}, "profile"),
        ({"annotations": {"title": "T"}}, "profile"),
        ({"annotations": {"readOnlyHint": True}}, "annotation"),
        ({"arguments": {"thought": {"value": "x", "hidden": True}}}, "profile"),
    ],
)
@on_virtual_time
async def test_annotations_in_the_configuration_win_over_a_profile(own: Any, source: str):
    """Those that say what the tool does; other overrides leave the effect as it is."""
    (configured,) = read({"tools": {"sequentialthinking": own}}).servers
    async with bridge_over(thinking(), server={"overrides": configured.overrides}) as bridge:
        (tool,) = inspect.report(bridge)["tools"]
    assert tool["effect_source"] == source
