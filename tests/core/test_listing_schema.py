"""Listings as MCP's schema has them: no entry of one server costs a client the entries of all others."""

import copy
import json
from random import Random
from typing import Any

import mcp_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import _v2025_11_25, _v2026_07_28
from pydantic import AnyUrl, TypeAdapter
from pydantic_core import from_json

from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.catalog import Catalog, Source
from asyncfc_mcp.core.catalog_builder import CatalogBuilder
from asyncfc_mcp.core.listing_schema import DEPTH_LIMIT, conform
from asyncfc_mcp.jsonrpc.codec import format_message
from tests.support.catalogs import built
from tests.support.odd_listings import RIGHT, deep, odd

MODELS = {"tools": "Tool", "prompts": "Prompt", "resources": "Resource", "resourceTemplates": "ResourceTemplate"}


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "t", "inputSchema": {"type": "object"}, **more}


def listed(raw: dict[str, Any], **policy: Any) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The tool beside a good one, which is always there, and the remarks."""
    config = ServerConfig("s", StdioSpec("cmd"), prefix="", base=Policy(**policy))
    catalog = built(CatalogBuilder(), [Source(config, tools=[raw, tool(name="good")])])
    assert catalog.tools["good"].listed
    entry = next((entry for name, entry in catalog.tools.items() if name != "good"), None)
    return entry and entry.listed, catalog.repairs.get("s", ())


@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_right_is_passed_on_as_it_is(kind: str):
    """The very same object, unknown fields and their nulls included, and no remark."""
    for entry in RIGHT[kind]:
        before = copy.deepcopy(entry)
        assert conform(kind, entry) == (entry, ())
        assert conform(kind, entry)[0] is entry
        assert entry == before


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        (tool(description=None), "description", None),
        (tool(title=5), "title", None),
        (tool(annotations={"readOnlyHint": None, "title": "A", "x": None}), "annotations", {"title": "A", "x": None}),
        (tool(annotations={"readOnlyHint": "yes"}), "annotations", {}),
        (tool(annotations=[]), "annotations", None),
        (tool(icons=[None, {"src": 5}, {"src": "a", "sizes": "48x48"}]), "icons", [{"src": "a"}]),
        (tool(icons={"src": "a"}), "icons", None),
        (tool(_meta="x"), "_meta", None),
        (tool(_meta={"a": None}), "_meta", {"a": None}),
        (tool(execution={"taskSupport": "sometimes"}), "execution", None),
        ({"name": "t"}, "inputSchema", {"type": "object"}),
        ({"name": "t", "inputSchema": None}, "inputSchema", {"type": "object"}),
        ({"name": "t", "inputSchema": True}, "inputSchema", {"type": "object"}),
        ({"name": "t", "inputSchema": {}}, "inputSchema", {"type": "object"}),
        ({"name": "t", "inputSchema": {"type": ["object", "null"]}}, "inputSchema", {"type": "object"}),
        ({"name": "t", "inputSchema": {"type": "string"}}, "inputSchema", {"type": "object"}),
        (
            {"name": "t", "inputSchema": {"type": "object", "required": None, "properties": None}},
            "inputSchema",
            {"type": "object"},
        ),
        (
            {"name": "t", "inputSchema": {"type": "object", "required": ["a", None, 5]}},
            "inputSchema",
            {"type": "object", "required": ["a"]},
        ),
        (
            {"name": "t", "inputSchema": {"type": "object", "properties": {"a": None, "b": True, "c": False, "d": 5}}},
            "inputSchema",
            {"type": "object", "properties": {"a": {}, "b": {}, "c": {"not": {}}, "d": {}}},
        ),
        (
            {
                "name": "t",
                "inputSchema": {
                    "type": "object",
                    "properties": {"a": {"type": "string", "enum": None, "default": None, "anyOf": [{"title": None}]}},
                },
            },
            "inputSchema",
            {"type": "object", "properties": {"a": {"type": "string", "default": None, "anyOf": [{}]}}},
        ),
        ({"name": "t", "inputSchema": {"type": "object", "x": deep(150)}}, "inputSchema", {"type": "object"}),
        (tool(outputSchema={"type": "object", "properties": {"a": {"type": "any"}}}), "outputSchema", None),
        (tool(outputSchema={"type": "object", "properties": {"a": {"$ref": "#/x"}}}), "outputSchema", None),
        (tool(outputSchema={"type": ["object", "null"]}), "outputSchema", {"type": "object"}),
        (tool(outputSchema={"type": "object", "required": None}), "outputSchema", {"type": "object"}),
        (tool(**{"x-deep": deep(300)}), "x-deep", None),
    ],
)
def test_a_field_that_is_wrong_is_mended_or_left_out(raw: dict[str, Any], field: str, value: Any):
    """Nothing else of the tool changes, with `mode: sync` and with futures."""
    before = copy.deepcopy(raw)
    entry, _ = listed(raw, mode="sync")
    assert entry is not None
    assert entry.get(field) == value
    rest = {"execution", field}
    assert {k: v for k, v in entry.items() if k not in rest} == {
        "inputSchema": {"type": "object"}, **{k: v for k, v in raw.items() if k not in rest}
    } or field == "inputSchema"  # fmt: skip
    assert raw == before
    future, _ = listed(raw, references="off", names=False, wait=False)
    assert future is not None
    if field != "outputSchema":
        assert future.get(field) == (None if field == "execution" else value)


@pytest.mark.parametrize(
    ("raw", "remarks"),
    [
        (tool(description=None, title=None, annotations=None, icons=None, _meta=None, outputSchema=None), []),
        (tool(title=5), ["tool t: title is not text (5) and is left out"]),
        (
            tool(annotations={"readOnlyHint": "yes"}),
            ["tool t: annotations.readOnlyHint is not true or false ('yes') and is left out"],
        ),
        (
            {"name": "t", "inputSchema": {"type": "string"}},
            ['tool t: inputSchema.type is listed as "object": arguments are one'],
        ),
        ({"name": 7, "inputSchema": {}}, [
            "tool (no name): name is not text (7) and is left out",
            "tool (no name): it has no usable name and is left out",
        ]),
    ],
)  # fmt: skip
def test_what_is_changed_beyond_nulls_is_remarked_on(raw: dict[str, Any], remarks: list[str]):
    """With the field and its value, for `inspect` and one line of the log."""
    assert list(listed(raw)[1]) == remarks


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("prompts", {"name": "p", "arguments": None, "description": None}, {"name": "p"}),
        ("prompts", {"name": "p", "arguments": [{"name": "a", "required": None}, {}, None]},
         {"name": "p", "arguments": [{"name": "a"}]}),
        ("prompts", {"name": None}, None),
        ("resources", {"uri": "a://b"}, {"uri": "a://b", "name": "a://b"}),
        ("resources", {"uri": "a://b", "name": None, "size": 3.0, "mimeType": None},
         {"uri": "a://b", "name": "a://b", "size": 3}),
        ("resources", {"uri": "a://b", "name": "b", "size": "3"}, {"uri": "a://b", "name": "b"}),
        ("resources", {"uri": "a://b", "name": "b", "size": True}, {"uri": "a://b", "name": "b"}),
        ("resources", {"uri": "no uri", "name": "b"}, None),
        ("resources", {"uri": "", "name": "b"}, None),
        ("resources", {"name": "b"}, None),
        ("resources", {"uri": "a://b", "name": "b", "annotations": {
            "audience": ["user", "model"], "priority": 5, "lastModified": "yesterday", "x": 1}},
         {"uri": "a://b", "name": "b", "annotations": {"audience": ["user"], "x": 1}}),
        ("resourceTemplates", {"uriTemplate": "a://{b}"}, {"uriTemplate": "a://{b}", "name": "a://{b}"}),
        ("resourceTemplates", {"uriTemplate": None, "name": "b"}, None),
    ],
)  # fmt: skip
def test_prompts_resources_and_templates_are_held_to_the_schema_too(
    kind: str, raw: dict[str, Any], expected: dict[str, Any] | None
):
    """An entry that cannot be mended is left out, alone."""
    assert conform(kind, raw)[0] == expected


def test_an_output_of_no_object_is_listed_to_those_who_know_it():
    """2026-07-28 allows any root; clients of before would refuse the whole listing."""
    config = ServerConfig("s", StdioSpec("cmd"), prefix="", base=Policy(mode="sync"))
    catalog = built(CatalogBuilder(), [Source(config, tools=[tool(outputSchema={"type": "array"})])])
    assert catalog.tool_list(modern=True) == [tool(outputSchema={"type": "array"})]
    assert catalog.tool_list(modern=False) == [tool()]


def test_a_call_is_held_to_the_servers_own_schema():
    """Listings are for clients; hints that are null have no effect."""
    raw = tool(annotations={"readOnlyHint": None, "idempotentHint": None}, inputSchema={"type": ["object", "null"]})
    config = ServerConfig("s", StdioSpec("cmd"), prefix="")
    (entry,) = built(CatalogBuilder(), [Source(config, tools=[raw])]).tools.values()
    assert entry.raw is raw
    assert entry.input_schema == {"type": ["object", "null"]}
    assert not entry.repeatable


def all_of(catalog: Catalog) -> list[tuple[str, bool, dict[str, Any]]]:
    """Kind, whether for clients of 2026-07-28, and entry, of everything that is listed."""
    return [
        *(("tools", modern, entry) for modern in (True, False) for entry in catalog.tool_list(modern=modern)),
        *(("prompts", False, entry.listed) for entry in catalog.prompts.values()),
        *(("resources", False, entry) for _, entry in catalog.resources.values()),
        *(("resourceTemplates", False, entry) for _, entry in catalog.templates.values()),
    ]


def assert_every_client_takes(kind: str, entry: dict[str, Any], *, modern: bool) -> None:
    """Rules from the schemas of MCP and of its SDKs."""
    line = format_message({"jsonrpc": "2.0", "id": 1, "result": {kind: [entry]}})
    parsed = from_json(line, allow_inf_nan=False)["result"][kind][0]
    assert parsed == json.loads(line)["result"][kind][0]
    strict = {"strict": True}
    getattr(_v2026_07_28, MODELS[kind]).model_validate(parsed, **strict)
    if not modern:
        getattr(_v2025_11_25, MODELS[kind]).model_validate(parsed, **strict)
    getattr(mcp_types, MODELS[kind]).model_validate(parsed, **strict)
    assert_no_nulls(parsed, MODELS[kind])
    if kind == "tools":
        assert all(isinstance(each, dict) for each in parsed["inputSchema"].get("properties", {}).values())
    if kind == "resources":
        TypeAdapter(AnyUrl).validate_python(parsed["uri"])


def assert_no_nulls(entry: dict[str, Any], model: str) -> None:
    """The models take null for what is not there; the schema does not."""
    fields = {field.alias or name for name, field in getattr(mcp_types, model).model_fields.items()}
    assert not [key for key, value in entry.items() if value is None and key in fields]
    annotations = "ToolAnnotations" if model == "Tool" else "Annotations"
    parts = [(entry.get("annotations") or {}, annotations), *((icon, "Icon") for icon in entry.get("icons") or [])]
    if model == "Tool":
        parts.append((entry.get("execution") or {}, "ToolExecution"))
    for part, name in parts:
        known = {field.alias or each for each, field in getattr(mcp_types, name).model_fields.items()}
        assert not [key for key, value in part.items() if value is None and key in known]
    for schema in (entry.get("inputSchema", {}), entry.get("outputSchema", {})):
        assert not [key for key in ("type", "properties", "required", "$schema") if schema.get(key, 0) is None]


@given(st.randoms(use_true_random=False), st.sampled_from(["future", "sync"]), st.sampled_from(["all", "off"]))
@settings(deadline=None, max_examples=600)
def test_whatever_a_server_lists_every_client_takes_the_listing(random: Random, mode: Any, references: Any):
    """Any JSON in any place of any entry: it is mended or left out, and what stands beside it is there."""
    config = ServerConfig("s", StdioSpec("cmd"), base=Policy(mode=mode, references=references))
    odd_ones = {kind: [odd(kind, random), *RIGHT[kind]] for kind in RIGHT}
    catalog = built(
        CatalogBuilder(),
        [
            Source(
                config,
                odd_ones["tools"],
                odd_ones["prompts"],
                odd_ones["resources"],
                odd_ones["resourceTemplates"],
            )
        ],
    )
    assert {"s__search", "s__plain"} <= catalog.tools.keys()
    assert catalog.prompts.keys() >= {"s__greet"}
    assert catalog.resources.keys() >= {"file:///a/b.txt"}
    assert catalog.templates.keys() >= {"note://{name}"}
    for kind, modern, entry in all_of(catalog):
        assert_every_client_takes(kind, entry, modern=modern)


def test_depth_is_bounded_below_what_parsers_take():
    """A schema at the bound is listed as it is; one beyond it without its contents."""
    at = {"type": "object", "x": deep(DEPTH_LIMIT - 3)}
    assert listed(tool(inputSchema=at), mode="sync") == (tool(inputSchema=at), ())
    entry, remarks = listed(tool(inputSchema=deep(DEPTH_LIMIT + 1)), mode="sync")
    assert entry == tool()
    assert remarks == (f"tool t: inputSchema is nested more than {DEPTH_LIMIT} levels deep and is left out",)
