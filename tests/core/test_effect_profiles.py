"""Effect profiles: well-formed, in agreement with the real servers' tools, and never less careful than without them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.bridge.server_profiles import ServerProfiles
from asyncfc_mcp.config.profile_files import profile_names, profiles_of_servers, read_profile
from asyncfc_mcp.core.effect_profiles import PROCESS_STATES, EffectProfile
from asyncfc_mcp.core.effects import conflict, declared_effect
from asyncfc_mcp.core.path_templates import arguments_of
from tests.support.server_states import own_state

Json = dict[str, Any]
REPO = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).with_name("tool_lists")
"""Tools of the real servers: their arguments, those inside objects and lists of objects, and whether annotations say
that they write."""
STATE_KEYS = ("process_state", "process_state_note")
KEYS = {"about", "package", "servers", "order", "notes", "every", "open", "tools", *STATE_KEYS}


def real_tools(name: str) -> Mapping[str, Json]:
    return json.loads((LISTS / f"{name}.json").read_text())["tools"]


def definition(tool: str, arguments: list[str], writes: bool | None = None) -> Json:
    """Return a tool as a server lists it."""
    annotations = {} if writes is None else {"annotations": {"readOnlyHint": not writes}}
    return {
        "name": tool,
        "inputSchema": {"type": "object", "properties": {name: {} for name in arguments}},
        **annotations,
    }


def listing(name: str) -> list[Json]:
    return [definition(tool, real["arguments"]) for tool, real in real_tools(name).items()]


def test_every_profile_has_the_tools_of_a_real_server():
    """One list for each file, and nothing else; at least twenty."""
    assert profile_names() == sorted(path.stem for path in LISTS.glob("*.json"))
    assert len(profile_names()) >= 20


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_is_well_formed(name: str):
    """Known keys, texts where people read them, and paths that parse."""
    data = read_profile(name)
    assert set(data) <= KEYS
    assert all(data[key] for key in ("about", "package", "servers", "order", "tools"))
    state, note = (data.get(key) for key in STATE_KEYS)
    assert state in PROCESS_STATES
    assert note is None if state == "none" else isinstance(note, str) and note
    for declared in (*data["tools"].values(), data.get("every", {})):
        assert set(declared) <= {"arguments", "reads", "writes", "despite_annotations"}
        lists = [declared.get(key, []) for key in ("arguments", "reads", "writes")]
        assert all(isinstance(text, str) for texts in lists for text in texts)
        assert declared.get("despite_annotations", True) is True
    assert all(isinstance(why, str) and why for why in data.get("open", {}).values())
    for tool in EffectProfile.parse(name, data).tools.values():
        declared_effect(own_state("s"), None, None, "declared", None, None, tool)


@pytest.mark.parametrize("name", profile_names())
def test_every_placeholder_is_an_argument_of_the_real_tool(name: str):
    """Also one inside an object or a list; a misspelt one would never match."""
    for tool, profile in EffectProfile.parse(name, read_profile(name)).tools.items():
        real = real_tools(name)[tool]
        for placeholder in {each for text in (*profile.reads, *profile.writes) for each in arguments_of(text)}:
            first, _, below = placeholder.partition(".")
            assert first in real["arguments"], (tool, placeholder)
            assert not below or below in real.get("nested", {}).get(first, ()), (tool, placeholder)


@pytest.mark.parametrize("name", profile_names())
def test_every_tool_of_the_real_server_is_described_or_open(name: str):
    """What is left out is left out deliberately, with the reason; all arguments are known."""
    data = read_profile(name)
    real = real_tools(name)
    assert data["tools"].keys() | data.get("open", {}).keys() == real.keys()
    assert not data["tools"].keys() & data.get("open", {}).keys()
    for tool, declared in data["tools"].items():
        assert sorted(declared["arguments"]) == real[tool]["arguments"], tool


@pytest.mark.parametrize("name", profile_names())
def test_the_index_finds_the_profile_of_the_real_server(name: str):
    """By the name that it gives itself and its tools; no file is listed that does not exist."""
    data = read_profile(name)
    by_server = profiles_of_servers()
    assert {server for server, profiles in by_server.items() if name in profiles} == set(data["servers"])
    assert {each for profiles in by_server.values() for each in profiles} <= set(profile_names())
    for server in data["servers"]:
        chosen = ServerProfiles().choose("auto", {"name": server}, listing(name))
        assert chosen is not None
        assert chosen.name == name


@pytest.mark.parametrize("name", profile_names())
def test_a_tool_that_is_annotated_as_a_write_stays_one(name: str):
    """A profile makes effects finer; it does not take a write away, except where it says so."""
    profile = EffectProfile.parse(name, read_profile(name))
    for tool, real in real_tools(name).items():
        if tool in profile.tools and profile.tools[tool].despite_annotations:
            assert real["writes"], tool
            continue
        if not real.get("writes") or tool not in profile.tools:
            continue
        described = profile.tool(definition(tool, real["arguments"], writes=True))
        assert described is not None
        effect = declared_effect(own_state("s"), None, None, "declared", {"readOnlyHint": False}, None, described)
        assert effect.writes, tool


# --- whom a profile is for -------------------------------------------------------------------------------------------


def filesystem() -> EffectProfile:
    return EffectProfile.parse("filesystem", read_profile("filesystem"))


def test_a_server_of_that_name_with_other_tools_has_no_profile():
    """Half of its tools must be those that are described, with the arguments that the paths need."""
    choose = ServerProfiles().choose
    info = {"name": "secure-filesystem-server"}
    own = listing("filesystem")
    others = [definition(f"other_{number}", []) for number in range(len(own) + 1)]
    assert choose("auto", info, own + others[:-1]) is not None
    assert choose("auto", info, own + others) is None
    assert (
        choose("auto", info, [definition(tool["name"], ["file"]) for tool in own if tool["name"] != "x"][:-1]) is None
    )
    assert choose("auto", {"name": "another"}, own) is None
    assert choose("auto", {}, own) is None
    assert choose("auto", {"name": ["secure-filesystem-server"]}, own) is None
    assert choose("off", info, own) is None
    assert choose("auto", info, []) is None


def test_a_profile_can_be_given_to_a_server_of_another_name():
    """By the setting; tools and arguments have to agree all the same."""
    profile = ServerProfiles().choose("filesystem", {"name": "my files"}, listing("filesystem"))
    assert profile is not None
    assert profile.tool(definition("read_file", ["path"])) is not None
    assert profile.tool(definition("read_file", ["file"])) is None
    assert profile.tool(definition("something", ["path"])) is None


@pytest.mark.parametrize(
    "odd", [{}, {"name": 7}, {"name": "read_file"}, {"name": "read_file", "inputSchema": []},
            {"name": "read_file", "inputSchema": {"properties": ["path"]}}],
)  # fmt: skip
def test_an_odd_definition_is_not_described(odd: Json):
    """Servers send anything."""
    assert filesystem().tool(odd) is None
    assert filesystem().fits([odd]) == 0


def test_an_argument_that_is_not_known_adds_the_usual_effect():
    """A later version may name another file in it."""
    described = filesystem().tool(definition("read_file", ["path", "log_to"]))
    assert described is not None
    for annotations, more in (({"readOnlyHint": False}, (("s",),)), (None, ())):
        effect = declared_effect(own_state("s"), None, None, "declared", annotations, None, described)
        assert effect.source == "profile"
        assert "log_to" in effect.reason
        assert effect.bind({"path": "a"}, lambda value: False).writes == more


def test_an_annotation_that_says_more_is_believed():
    """A server of the same name and tools, one of which writes where the known one only reads."""
    described = filesystem().tool(definition("read_file", ["path"], writes=True))
    assert described is not None
    effect = declared_effect(own_state("s"), None, None, "declared", {"readOnlyHint": False}, None, described)
    assert effect.bind({"path": "a"}, lambda value: False).writes == (("s",),)


def test_config_wins_over_the_profile_and_the_profile_over_annotations():
    """`ordering: none` wins over all."""
    described = EffectProfile.parse("time", read_profile("time")).tool(definition("get_current_time", ["timezone"]))
    hints = {"readOnlyHint": True}
    cases = (
        (["x"], "declared", described),
        (None, "strict", described),
        (None, "strict", None),
        (None, "none", described),
    )
    sources = [
        declared_effect(own_state("s"), reads, None, ordering, hints, "a reason", profile).source
        for reads, ordering, profile in cases
    ]
    assert sources == ["config", "profile", "barrier", "off"]


def test_tools_that_are_not_described_keep_their_order_with_those_that_are():
    """One that only declares that it writes may write the files, too."""
    described = filesystem().tool(definition("read_file", ["path"]))
    own = declared_effect(own_state("s"), None, None, "declared", None, None, described)
    vague = declared_effect(own_state("s"), None, None, "declared", {"readOnlyHint": False})
    assert conflict(own.bind({"path": "a"}, lambda value: False), vague.bind({}, lambda value: False)) is not None


def test_the_page_about_profiles_is_up_to_date():
    """It is generated: `docs/make_profiles.py`."""
    printed = subprocess.run(
        [sys.executable, str(REPO / "docs" / "make_profiles.py"), "--print"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    assert printed.stdout == (REPO / "docs" / "profiles.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "profile"),
    [
        ("npx -y @playwright/mcp@latest --headless", "playwright"),
        ("npx -y @playwright/mcp-extra", None),
        ("npx -y not-@playwright/mcp", None),
        ("/usr/bin/node /opt/x/node_modules/@playwright/mcp/cli.js", "playwright"),
        ("python -m mcp_server_git", "git"),
        ("docker run -i --rm -v /r:/r mcp/git", "git"),
        ("python server.py /data/mcp/git", None),
        ("npx -y @modelcontextprotocol/server-filesystem /src/mcp-server-fetch", "filesystem"),
        ("uvx mcp-server-git --repository /r", "git"),
        ("uvx mcp-server-git==2026.1.1", "git"),
        ("/home/u/.local/bin/mcp-server-git", "git"),
        (r"C:\Scripts\mcp-server-git.exe", "git"),
        ("uvx mcp-server-gitea", None),
        ("npx chrome-devtools-mcp@latest", "chrome-devtools"),
        ("docker run -i --rm ghcr.io/github/github-mcp-server:v1", "github"),
        ("npx -y @brave/brave-search-mcp-server", "brave-search"),
        ("npx -y @modelcontextprotocol/server-brave-search", "brave-search"),
        ("python server.py", None),
    ],
)
def test_a_command_line_is_known_by_its_package(command: str, profile: str | None):
    """As a word of its own, with a version, as a path or as an image; not as a part of another name."""
    found = ServerProfiles().expect("auto", command.split())
    assert (found and found.name) == profile
    assert ServerProfiles().expect("off", command.split()) is None


def test_the_state_of_a_process_decides_on_instances_and_ends():
    """State of a session is neither shared nor ended; a folder is not shared; shared state is not ended."""
    profiles = {name: EffectProfile.parse(name, read_profile(name)) for name in profile_names()}
    assert {
        name: (profiles[name].is_per_session, profiles[name].is_stateless)
        for name in ("playwright", "sequential-thinking", "filesystem", "github", "fetch")
    } == {
        "playwright": (True, False),
        "sequential-thinking": (True, False),
        "filesystem": (True, True),
        "github": (False, False),
        "fetch": (False, True),
    }
