"""Settings of the bridge: levels, precedence, values, and the generated documentation."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.config.checker import Checker
from asyncfc_mcp.config.levels import OF_STARTS, SERVER_KEYS, SPAWN_KEYS, field_docs
from asyncfc_mcp.config.model import StdioSpec
from asyncfc_mcp.config.overrides import OVERRIDES
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.config.settings import AccessEntry, Policy, Settings, setting
from asyncfc_mcp.config.settings_reader import declared
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import FILE, SAMPLES, WHERE, Json, at, parse, refused, refused_section, section

REPO = Path(__file__).resolve().parents[2]


def test_the_documentation_knows_every_setting() -> None:
    """Every field is a row, with its default, and has something to say; and nothing else is."""
    rows = {(name, level == "top"): (default, doc) for level, name, default, doc in field_docs()}
    declared = {f.name for model in (Policy, Settings) for f in fields(model)}
    names = {name for name, _ in rows}
    assert names == declared | set(SERVER_KEYS) | set(SPAWN_KEYS) | set(OVERRIDES) == set(SAMPLES)
    assert len(field_docs()) == len(rows) == len(names) + 1, "`journal` is two settings"
    for model in (Policy(), Settings()):
        for f in fields(model):
            assert rows[f.name, isinstance(model, Settings)][0] == getattr(model, f.name), f.name
    assert all(len(doc) > 10 and doc.endswith(".") for _, doc in rows.values())
    assert {level for levels in WHERE.values() for level in levels} == {"top", "server", "tool"}


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("level", ["top", "server", "tool"])
def test_a_setting_stands_where_it_is_documented_to(level: str, name: str) -> None:
    """There it is read; elsewhere it is an error that says where it belongs."""
    value = SAMPLES[name]
    if level not in WHERE[name]:
        said = refused(at(level, {name: value}))
        assert f"{name}: found {name!r} " in said
        for place, words in {"top": "at the top of the file", "server": "on a server", "tool": "on a tool"}.items():
            assert (words in said.partition("; expected it ")[2]) == (place in WHERE[name]), said
        return
    config = parse(at(level, {name: value}))
    (server,) = config.servers
    read = tuple(value) if isinstance(value, list) else value
    if name in SERVER_KEYS:
        if name == "tools":
            assert server.policy("t").mode == "sync"
        else:
            assert getattr(server, name) == read
    elif name in OVERRIDES:
        assert getattr(server.overrides["t"], name) == read
    elif name == "max_concurrency":
        assert (server.policy("t").max_concurrency, server.max_concurrency) == (
            (3, None) if level == "tool" else (None, 3)
        )
    elif name in SPAWN_KEYS:
        assert getattr(server if name in OF_STARTS else server.spec, name) == read
    elif (name, level) == ("journal", "top"):
        assert config.settings.journal == "off"
        assert server.policy("t").journal
    elif name == "access":
        assert config.settings.access == {"alice": AccessEntry(("a",), ("*/b_*",))}
    elif name == "required_scopes":
        assert config.settings.required_scopes == {"*": ("mcp",), "tools/call": ("mcp:call",)}
    elif WHERE[name] == ["top"]:
        assert getattr(config.settings, name) == read
    else:
        assert getattr(server.policy("t"), name) == read
        assert getattr(server.policy("other"), name) == (read if level != "tool" else getattr(Policy(), name))


def test_the_nearest_setting_wins() -> None:
    """Top below server below tool, setting by setting."""
    server = section(
        {"timeout_s": 2, "grace_ms": 2, "tools": {"t": {"timeout_s": 3}}},
        {"timeout_s": 1, "grace_ms": 1, "retries": 1},
    )
    assert (server.policy("t").timeout_s, server.policy("t").grace_ms, server.policy("t").retries) == (3, 2, 1)
    assert (server.policy("u").timeout_s, server.policy("u").grace_ms, server.policy("u").retries) == (2, 2, 1)
    assert server.tool_names == ("t",)


def test_null_takes_a_limit_away() -> None:
    """What is limited further up can be without limit further down."""
    server = section({"timeout_s": None, "tools": {"t": {"timeout_s": 1}}}, {"timeout_s": 1, "max_concurrency": 4})
    assert server.policy("u").timeout_s is None
    assert server.policy("t").timeout_s == 1
    assert section({"max_concurrency": None}, {"max_concurrency": 4}).max_concurrency is None


def test_max_concurrency_counts_what_it_stands_on() -> None:
    """On a tool the tool's calls, elsewhere the server's; a server's limit is not each tool's."""
    server = section({"max_concurrency": 4, "tools": {"t": {"max_concurrency": 2}}}, {"max_concurrency": 9})
    assert server.max_concurrency == 4
    assert server.policy("t").max_concurrency == 2
    assert server.policy("u").max_concurrency is None
    assert server.base.max_concurrency is None
    assert section({}, {"max_concurrency": 9}).max_concurrency == 9
    assert section({}, {"max_concurrency": 9}).policy("t").max_concurrency is None


def journal_of(value: object, file: str = FILE, environ: Mapping[str, str] | None = None) -> str:
    text = json.dumps({"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"journal": value}})
    return parse_config(text, file, environ or {}).settings.journal


def test_the_journal_is_a_file_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    """A host starts the bridge in any folder, so a relative path does not depend on it."""
    file = str(tmp_path / "mcp.json")
    assert journal_of("./j.db", file) == journal_of("j.db", file) == str(tmp_path / "j.db")
    assert journal_of("data/j", file) == str(tmp_path / "data" / "j")
    assert journal_of("${PLACE}/j.db", file, {"PLACE": str(tmp_path / "p")}) == str(tmp_path / "p" / "j.db")
    assert journal_of("~/j.db", file) == str(Path.home() / "j.db")
    assert journal_of(str(tmp_path / "j.db")) == str(tmp_path / "j.db")
    assert [journal_of(value) for value in ("auto", "off", True, False)] == ["auto", "off", "auto", "off"]
    assert Settings().journal == "auto"


@pytest.mark.parametrize("wrong", ["none", "Off", "disabled", "", None, 1, [], {"path": "j.db"}, "a\0.db", "\ud800.db"])
def test_what_may_be_a_misspelling_of_off_is_no_path(wrong: object) -> None:
    """Otherwise the disk would get what must not be there."""
    said = refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"journal": wrong}})
    assert said.startswith("mcp.json: asyncfc.journal: found ")
    assert said.endswith("expected 'auto', 'off' or the path of a file, such as './journal.db'")


def test_the_journal_is_no_folder(tmp_path: Path) -> None:
    """One that exists, or is spelled as one."""
    for folder in (str(tmp_path), f"{tmp_path}/new/"):
        said = refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"journal": folder}})
        assert "which is a folder" in said


def test_a_server_or_a_tool_can_be_left_out_of_the_journal() -> None:
    """There it is true or false; the nearest counts, and what is set at the top is another setting."""
    server = section({"journal": False, "tools": {"t": {"journal": True}}}, {"journal": "off"})
    assert (server.policy("t").journal, server.policy("u").journal) == (True, False)
    assert section({}, {"journal": False}).policy("t").journal
    assert 'asyncfc.journal: found "off"; expected true or false' in refused_section({"journal": "off"})
    assert "tools.t.journal: found null" in refused_section({"tools": {"t": {"journal": None}}})


def test_env_inherit_stands_at_the_top_or_on_a_server() -> None:
    """The nearest wins; a server at a URL has no process."""

    def inherit(own: Json, top: Json | None = None) -> object:
        spec = section(own, top).spec
        assert isinstance(spec, StdioSpec)
        return spec.env_inherit

    assert inherit({}) == "all"
    assert inherit({}, {"env_inherit": "safe"}) == "safe"
    assert inherit({"env_inherit": "all"}, {"env_inherit": "safe"}) == "all"
    assert inherit({"env_inherit": ["A", "AWS_*"]}) == ("A", "AWS_*")
    config = parse({"mcpServers": {"s": {"url": "http://x", "asyncfc": {"env_inherit": "safe"}}}})
    assert "no process" in config.warnings[0]


@pytest.mark.parametrize("wrong", ["none", "Safe", True, None, ["A=B"], [""], ["*"], ["A*B"], [1], {"A": "B"}])
def test_a_wrong_env_inherit_is_refused(wrong: object) -> None:
    """It would give a server more, or less, than was meant."""
    assert "asyncfc.env_inherit" in refused_section({"env_inherit": wrong})
    assert "on a tool" in refused_section({"tools": {"t": {"env_inherit": "safe"}}})


def test_nothing_said_of_effects_is_not_the_same_as_none() -> None:
    """An empty list says that nothing is touched."""
    assert section({}).policy("t").reads is None
    assert section({"reads": [], "writes": ["a"]}).policy("t").reads == ()


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"grace": 5}, ["asyncfc.grace: unknown key 'grace'", "'grace_ms'"]),
        ({"Mode": "sync"}, ["'mode'"]),
        ({"prefx": ""}, ["'prefix'"]),
        ({"tool": {}}, ["'tools'"]),
        ({"max_wait": 5}, ["'max_wait_s', at the top of the file only"]),
        ({"zzzzzzzz": 5}, ["one of ", "exclude", "writes"]),
        ({"tools": {"t": {"tmeout_s": 1}}}, ["asyncfc.tools.t.tmeout_s", "'timeout_s'"]),
        ({"tools": {"t": {"prefx": ""}}}, ["'prefix', on a server only"]),
    ],
)
def test_an_unknown_key_of_ours_is_an_error_that_names_the_nearest(own: Json, words: list[str]) -> None:
    """Unlike one in an entry that was copied: a setting that is silently ignored is worse than none."""
    said = refused_section(own)
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"mode": "async"}, ["mode: found \"async\"", "'future', 'sync'", "(nearest: 'sync')"]),
        ({"mode": None}, ["found null", "'future'"]),
        ({"mode": ["sync"]}, ["found a list", "'future'"]),
        ({"mode": {"a": 1}}, ["found an object"]),
        ({"ordering": "Strict"}, ["(nearest: 'strict')"]),
        ({"references": True}, ["references: found true", "'all'"]),
        ({"deliver": 1}, ["at the top of the file"]),
        ({"names": "yes"}, ["names: found \"yes\"", "true or false"]),
        ({"wait": 1}, ["wait: found 1", "true or false"]),
        ({"single_flight": None}, ["true or false"]),
        ({"reads": "a"}, ["reads: found \"a\"", "a list of strings"]),
        ({"reads": None}, ["reads: found null", "a list of strings"]),
        ({"writes": [1]}, ["writes[0]", "a string"]),
        ({"prefix": None}, ["prefix: found null", "a string"]),
        ({"include": "a*"}, ["include", "a list of strings"]),
        ({"tools": ["t"]}, ["tools: found a list", "tool name"]),
        ({"tools": {"t": None}}, ["tools.t", "an object"]),
        ({"max_concurrency": 0}, ["found 0", "a whole number, 1 or more"]),
        ({"max_concurrency": -1}, ["found -1"]),
        ({"max_concurrency": 1.5}, ["found 1.5", "a whole number"]),
        ({"max_concurrency": True}, ["found true"]),
        ({"max_concurrency": "4"}, ["found \"4\"", "a whole number"]),
        ({"timeout_s": 0}, ["found 0", "a number, more than 0"]),
        ({"timeout_s": "20s"}, ["found \"20s\"", "a number"]),
        ({"grace_ms": -0.5}, ["found -0.5", "0 or more"]),
        ({"grace_ms": None}, ["found null"]),
        ({"retries": 1.5}, ["found 1.5", "a whole number, 0 or more"]),
        ({"retries": 10**30}, ["a smaller number"]),
        ({"max_argument_bytes": 0}, ["1 or more"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_explained(own: Json, words: list[str]) -> None:
    """What was found and what would be right, with the nearest choice."""
    said = refused_section(own)
    assert said.startswith("mcp.json: mcpServers.s.asyncfc.")
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"question_timeout_s": 0}, ["more than 0"]),
        ({"max_pending": 0}, ["1 or more"]),
        ({"max_wait_s": -1}, ["found -1", "0 or more"]),
        ({"deliver": "on"}, ["'auto', 'inline', 'off'"]),
        ({"ttl_s": 0}, ["more than 0"]),
        ({"journal_max_bytes": 1000}, ["1048576 or more"]),
        ({"host_profiles": []}, ["host_profiles: found a list"]),
        ({"host_profiles": {"h": 1}}, ["host_profiles.h"]),
        (
            {"host_profiles": {"h": {"timeout": 1}}},
            ["host_profiles.h.timeout: unknown key 'timeout'; expected 'timeout_s'"],
        ),
        ({"host_profiles": {"h": {"zzz": 1}}}, ["one of single_conversation"]),
        ({"host_profiles": {"h": {"timeout_s": 0}}}, ["more than 0"]),
        ({"host_profiles": {"h": {"name_limit": 1.5}}}, ["a whole number"]),
        ({"host_profiles": {"h": {"single_conversation": "yes"}}}, ["true or false"]),
    ],
)
def test_a_wrong_value_at_the_top_is_explained(own: Json, words: list[str]) -> None:
    """The same for what concerns the bridge as a whole."""
    said = refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": own})
    assert said.startswith("mcp.json: asyncfc.")
    assert [word for word in words if word not in said] == [], said


def test_a_key_with_a_line_break_breaks_no_line() -> None:
    """Whatever the keys and values of a file are, an error is one printable line, and so is a warning."""
    nasty = "a\nb\r\u2028\x1b[2J\ud800"
    for value in (
        {"mcpServers": {nasty: {}}},
        {"mcpServers": {"s": {"command": "x", "asyncfc": {nasty: 1}}}},
        {"mcpServers": {"s": {"command": "x", "asyncfc": {"mode": nasty}}}},
        {"mcpServers": {"s": {"command": "x", "type": nasty}}},
        {"mcpServers": {"s": {"command": "${input:" + nasty + "}"}}},
        {"mcpServers": {"s": {"url": nasty}}},
    ):
        assert refused(value).isprintable()
    for warning in parse({"mcpServers": {"s": {"command": "x", nasty: 1}}, nasty: 1}).warnings:
        assert warning.isprintable()


# --- a new setting is one line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """A field of each kind, as `Policy` and `Settings` declare them."""

    region: str = setting("us", "A string.")
    zone: str | None = setting(None, "A string that may be absent.")
    paths: tuple[str, ...] | None = setting(None, "Strings.")
    workers: int = setting(4, "A whole number with a minimum.", minimum=1)
    few: int | None = setting(None, "A whole number with another minimum.", minimum=2)
    linger_s: float = setting(1.0, "A number that may be 0.")
    strict_timeout_s: float = setting(1.0, "A number above a bound.", above=True)
    lax_timeout_s: float = setting(1.0, "A number that may be 0, whatever its name ends in.")


def read_declared(name: str, value: object) -> Any:
    known = next(f for f in fields(Declared) if f.name == name)
    return declared(Checker("mcp.json", {}), known, value, f"asyncfc.{name}")


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("region", "eu", "eu"),
        ("region", "", ""),
        ("zone", None, None),
        ("zone", "a", "a"),
        ("paths", ["a"], ("a",)),
        ("workers", 1, 1),
        ("few", 2, 2),
        ("few", None, None),
        ("linger_s", 0, 0.0),
        ("strict_timeout_s", 0.1, 0.1),
        ("lax_timeout_s", 0, 0.0),
    ],
)
def test_a_declaration_is_enough_to_read_a_setting(name: str, value: object, read: object) -> None:
    """The type of the field and the bounds in its declaration, not its name, decide which values are valid."""
    assert read_declared(name, value) == read


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("region", 1, "region: found 1; expected a string"),
        ("region", None, "region: found null; expected a string"),
        ("zone", True, "zone: found true; expected a string"),
        ("paths", "a", "a list of strings"),
        ("workers", 0, "a whole number, 1 or more"),
        ("few", 1, "a whole number, 2 or more"),
        ("linger_s", -1, "a number, 0 or more"),
        ("strict_timeout_s", 0, "a number, more than 0"),
    ],
)
def test_a_declaration_is_enough_to_refuse_a_value(name: str, value: object, words: str) -> None:
    """The error names what was found and the bound of the declaration."""
    with pytest.raises(ConfigError, match=words):
        read_declared(name, value)


# --- the documentation ------------------------------------------------------------------------------------------


def test_the_page_about_configuration_is_up_to_date() -> None:
    """`docs/configuration.md` equals the output of `docs/make_configuration.py`."""
    script = REPO / "docs" / "make_configuration.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--print"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == ran.stdout, "run: .venv/bin/python docs/make_configuration.py"


def test_the_page_states_the_kind_and_the_bounds_of_a_setting() -> None:
    """Both are taken from the declaration."""
    spec = importlib.util.spec_from_file_location("make_configuration", REPO / "docs" / "make_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {f.name: script.values_of(f) for f in fields(Declared)} == {
        "region": "string",
        "zone": "string or `null`",
        "paths": "list of strings",
        "workers": "whole number ≥ 1",
        "few": "whole number ≥ 2 or `null`",
        "linger_s": "number",
        "strict_timeout_s": "number > 0",
        "lax_timeout_s": "number",
    }


def test_the_example_of_the_page_is_a_configuration() -> None:
    """What the page shows can be pasted."""
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    example_text = page.partition("```json\n")[2].partition("```")[0]
    config = parse(example_text, {"GITHUB_TOKEN": "t"})
    assert [server.name for server in config.servers] == ["github", "files"]
    assert not config.warnings
    assert config.servers[1].policy("read_file").timeout_s == 20


def test_the_examples_of_the_page_about_the_journal_are_configurations() -> None:
    """Each with a server beside it where it has none."""
    page = (REPO / "docs" / "journal.md").read_text(encoding="utf-8")
    blocks = [json.loads(block.partition("```")[0]) for block in page.split("```json\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        assert not parse({"mcpServers": {"s": {"command": "x"}}, **block}).warnings


@pytest.mark.parametrize(
    ("level", "example"),
    [
        ("top", '"asyncfc": {"journal": "off"}'),
        ("server", '"asyncfc": {"journal": false}'),
        ("server", '"asyncfc": {"tools": {"read_secret": {"journal": false}}}'),
    ],
)
def test_the_page_about_futures_says_how_to_keep_things_off_the_disk(level: str, example: str) -> None:
    """At the top, on a server, on a tool."""
    assert f"`{example}`" in (REPO / "docs" / "futures.md").read_text(encoding="utf-8")
    config = parse(at(level, json.loads(f"{{{example}}}")["asyncfc"]))
    assert config.settings.journal == "off" or not config.servers[0].policy("read_secret").journal
