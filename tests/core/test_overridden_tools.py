"""Tools are listed as they are overridden, and get the values of the configuration."""

from typing import Any

import pytest

from asyncfc_mcp.config.overrides import ArgumentOverride, ToolOverride
from asyncfc_mcp.core.catalog import Catalog, Source, ToolEntry
from asyncfc_mcp.core.overridden_tools import OverriddenTool, Preset, overridden, own_names
from tests.core.test_catalog import build, server, tool

SECRET = "s3cr3t-0123456789"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "q": {"type": "string", "description": "Query."},
        "limit": {"type": "integer"},
        "token": {"type": "string"},
        "place": {"$ref": "#/$defs/Place"},
    },
    "required": ["q", "token"],
    "additionalProperties": False,
    "$defs": {
        "Place": {"type": "object", "properties": {"at": {"$ref": "#/$defs/Point"}}},
        "Point": {"type": "object"},
    },
}
HIDDEN = ArgumentOverride(SECRET, hidden=True, secret=True)


def changed(schema: Any = SCHEMA, **arguments: ArgumentOverride) -> OverriddenTool:
    return overridden(tool(inputSchema=schema), ToolOverride(arguments=arguments))


def listed(override: ToolOverride, *more: dict[str, Any], raw: dict[str, Any] | None = None, **config: Any) -> Catalog:
    raw = raw or tool(inputSchema=SCHEMA, annotations={"readOnlyHint": False, "title": "Old", "x": 1})
    return build([Source(server(overrides={"search": override}, **config), tools=[raw, *more])])


def entry_of(override: ToolOverride, **more: Any) -> ToolEntry:
    return next(iter(listed(override, **more).tools.values()))


# --- words and hints -----------------------------------------------------------------------------------------------


def test_words_and_annotations_are_listed_as_overridden():
    """What is not overridden stays; the title also where older clients look for it."""
    entry = entry_of(ToolOverride(title="T", description="D", annotations={"readOnlyHint": True, "x": None}))
    assert (entry.listed["title"], entry.listed["description"]) == ("T", "D")
    assert entry.listed["annotations"] == {"readOnlyHint": True, "title": "T"}
    assert entry.read_only
    assert entry.repeatable
    assert entry.notes[0] == "title and description and annotations overridden"
    assert entry.listed["inputSchema"]["properties"].keys() >= SCHEMA["properties"].keys()


def test_a_renamed_tool_keeps_its_servers_part_and_is_called_by_the_servers_name():
    """In the list under its new name only."""
    catalog = listed(ToolOverride(name="find"), tool("other"))
    assert list(catalog.tools) == ["github__find", "github__other"]
    entry = catalog.tools["github__find"]
    assert (entry.tool, entry.own_name, entry.listed["name"]) == ("search", "find", "github__find")
    assert "renamed from search" in entry.notes
    assert list(listed(ToolOverride(name="find"), prefix="").tools) == ["find"]
    assert list(listed(ToolOverride(name="find-it"), keep_names=True, prefix="").tools) == ["find-it"]


def test_a_tool_is_not_renamed_to_the_name_of_another():
    """Both keep theirs, and a warning names both."""
    catalog = listed(ToolOverride(name="other"), tool("other"))
    assert list(catalog.tools) == ["github__search", "github__other"]
    (misfit,) = catalog.misfits
    assert "'search'" in misfit
    assert "'other'" in misfit
    assert misfit in catalog.notes


def test_names_that_clash_are_the_servers_own():
    """Through chains, too: the name that a renamed tool has left is free only if it really leaves it."""
    renames = {name: ToolOverride(name=new) for name, new in {"a": "b", "c": "a"}.items()}
    assert own_names(["a", "c"], renames) == ({"a": "b", "c": "a"}, [])
    names, remarks = own_names(["a", "b", "c"], renames)
    assert names == {"a": "a", "b": "b", "c": "c"}
    assert len(remarks) == 2


# --- arguments -----------------------------------------------------------------------------------------------------


def test_a_hidden_argument_is_not_listed_and_has_its_value():
    """Nor what only it refers to; the entry of the server is not changed."""
    tool_ = changed(token=HIDDEN, place=ArgumentOverride({"at": {}}, hidden=True))
    assert tool_.raw["inputSchema"] == {
        "type": "object",
        "properties": {name: SCHEMA["properties"][name] for name in ("q", "limit")},
        "required": ["q"],
        "additionalProperties": False,
    }
    assert "token" in SCHEMA["properties"]
    assert tool_.preset is not None
    assert tool_.preset.filled({"q": "x", "token": "mine"}) == {"q": "x", "token": SECRET, "place": {"at": {}}}
    assert tool_.preset.filled(None) == {"token": SECRET, "place": {"at": {}}}
    assert SECRET not in repr(tool_)


def test_a_default_is_listed_unless_it_is_a_secret():
    """The caller may set it; it is no longer required."""
    tool_ = changed(q=ArgumentOverride("all", description="What."), token=ArgumentOverride(SECRET, secret=True))
    schema = tool_.raw["inputSchema"]
    assert schema["properties"]["q"] == {"type": "string", "description": "What.", "default": "all"}
    assert schema["properties"]["token"] == {"type": "string"}
    assert "required" not in schema
    assert tool_.preset is not None
    assert tool_.preset.filled({"q": "x"}) == {"q": "x", "token": SECRET}
    assert tool_.preset.of_caller({"q": "x"}) == {"q": "x"}


def test_an_optional_argument_can_be_hidden_without_a_value():
    """Then it is never sent; a required one stays."""
    tool_ = changed(limit=ArgumentOverride(hidden=True), token=ArgumentOverride(hidden=True))
    assert "limit" not in tool_.raw["inputSchema"]["properties"]
    assert "token" in tool_.raw["inputSchema"]["properties"]
    assert tool_.preset is not None
    assert tool_.preset.filled({"limit": 3, "q": "x"}) == {"q": "x"}
    (misfit,) = tool_.misfits
    assert "'token'" in misfit
    assert "required" in misfit


def test_text_from_a_variable_has_the_type_that_the_tool_expects():
    """A variable is text, and a limit is a number; a value of a wrong type is remarked on, without the value."""
    preset = changed(limit=ArgumentOverride("5", secret=True)).preset
    assert preset is not None
    assert preset.defaults == {"limit": 5}
    (misfit,) = changed(limit=ArgumentOverride("many", secret=True)).misfits
    assert "'limit'" in misfit
    assert "many" not in misfit


@pytest.mark.parametrize(
    ("schema", "exists"),
    [
        (SCHEMA, False),
        ({**SCHEMA, "additionalProperties": True}, True),
        ({"type": "object"}, True),
        (None, True),
        ({"type": "object", "properties": {"q": {}}}, False),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"gone": {}}}}}, True),
        ({"anyOf": [{"properties": {"gone": {}}, "required": ["gone"]}, {"properties": {"q": {}}}]}, True),
    ],
)
def test_an_argument_that_does_not_exist_is_not_sent(schema: Any, exists: bool):
    """It is most likely misspelled; a tool that accepts others gets it."""
    tool_ = changed(schema, gone=ArgumentOverride("x", hidden=True))
    assert (tool_.preset is not None) is exists
    assert bool(tool_.misfits) is not exists
    assert "gone" not in str(tool_.raw["inputSchema"])


@pytest.mark.parametrize(
    "schema", [{"properties": 5}, {"properties": {"q": True}, "required": "q"}, {"required": [1]}, []]
)
def test_an_odd_schema_is_survived(schema: Any):
    """Whatever it declares."""
    changed(schema, q=ArgumentOverride("x", hidden=True), limit=ArgumentOverride(description="d"))


def test_a_setting_for_what_does_not_exist_is_a_warning():
    """It names the server, the tool and the argument."""
    catalog = build([Source(server(overrides={"gone": ToolOverride(name="x")}), tools=[tool()])])
    assert catalog.misfits == ("server 'github' has settings for tool 'gone', which it does not offer",)
    catalog = listed(ToolOverride(arguments={"gone": ArgumentOverride(1)}))
    assert catalog.misfits == (
        "server 'github' has settings for tool 'search': argument 'gone', which it does not have",
    )


def test_values_are_in_no_note_and_no_listing():
    """Only that there are some."""
    catalog = listed(ToolOverride(arguments={"token": HIDDEN, "q": ArgumentOverride(SECRET, secret=True)}))
    assert SECRET not in str((catalog.tool_list(), catalog.notes, [entry.notes for entry in catalog.tools.values()]))
    (entry,) = catalog.tools.values()
    assert entry.notes[:2] == ("argument token: hidden, with a fixed value", "argument q: with a default")


# --- errors of servers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"invalid token {SECRET}!",
        f"input_value={{'token': '{SECRET[:9]}...{SECRET[-8:]}'}}",
        f"{SECRET}{SECRET}",
        f"starts with {SECRET[:7]}",
    ],
)
def test_an_error_does_not_quote_a_secret(text: str):
    """Nor its beginning or end, as pydantic shortens the arguments that it refuses."""
    preset = Preset(secrets=(SECRET,))
    clean = preset.without_secrets({"content": [{"type": "text", "text": text}], "isError": True})
    assert clean["isError"] is True
    assert not any(SECRET[at : at + 6] in str(clean) for at in (0, len(SECRET) - 6))
    assert "…" in str(clean)


def test_other_text_of_an_error_stays():
    """To the letter."""
    error = {
        "content": [{"type": "text", "text": "no such repo"}],
        "isError": True,
        "structuredContent": {"n": [1, None]},
    }
    assert Preset(secrets=(SECRET,)).without_secrets(error) == error
