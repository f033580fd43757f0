"""Trimming of listings: dialects and titles that contain nothing for a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from asyncfc_mcp.schema.trim import without_dialect, without_echo


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "object", "properties": {"id": {"type": "string"}}}, False),
        ({"type": "object", "properties": {"pair": {"items": [{"type": "string"}]}}}, True),
        ({"type": "object", "dependencies": {"a": ["b"]}}, True),
        ({"type": "object", "properties": {"deep": {"anyOf": [{"$id": "x"}]}}}, True),
    ],
)
def test_the_dialect_is_left_out_where_it_makes_no_difference(schema: dict[str, Any], kept: bool):
    """`$schema` costs as many tokens as both of our own arguments, and is listed only where it means something."""
    said = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    assert without_dialect(said) == (said if kept else schema)
    unknown = {"$schema": "https://example.com/dialect", **schema}
    assert without_dialect(unknown) == unknown


@pytest.mark.parametrize(
    ("title", "name", "kept"),
    [
        ("statusArguments", "git_status", False),
        ("create_branchArguments", "git__git_create_branch", False),
        ("GitStatus", "git_status", False),
        ("SearchInput", "search", False),
        ("search_args", "web-search", False),
        ("search_v2Arguments", "search", True),
        ("create_branchArguments", "git_create_bra_0a1b2c3d", True),
        ("Web search", "web_search", True),
        ("Query", "search", True),
        ("Input", "search", True),
        ("", "search", True),
        (["search"], "search", True),
    ],
)
def test_a_title_that_says_the_tools_name_again_is_left_out(title: Any, name: str, kept: bool):
    """A title generated from the name contains nothing for a model; other words, and all other titles, are kept."""
    inside = {"title": {"type": "string", "title": "search"}, "search": {"type": "object", "title": "search"}}
    schema = {"type": "object", "title": title, "properties": inside}
    before = copy.deepcopy(schema)
    listed = without_echo(schema, name)
    assert listed == (before if kept else {"type": "object", "properties": inside})
    assert schema == before
    assert without_echo({"properties": inside}, "search") == {"properties": inside}
