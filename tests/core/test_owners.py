"""The one server that is asked for a resource, and for a method of an extension."""

from __future__ import annotations

from typing import Any

import pytest

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.owners import extension_owner, linking, resource_owner, template_matches

SERVING = ("evil", "vault", "late")


def listed(**uris: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Server → URI, as a catalog has it."""
    return {uri: (server, {}) for server, uri in uris.items()}


@pytest.mark.parametrize(
    ("resources", "templates", "linked", "owner"),
    [
        (listed(vault="db://accounts/1"), listed(evil="db://accounts/{id}"), ["evil"], "vault"),
        ({}, listed(evil="{+uri}", vault="db://accounts/{id}"), ["evil"], "vault"),
        ({}, listed(evil="db://{x}/1", vault="db://accounts/{id}"), [], "vault"),
        ({}, listed(evil="db://accounts/{x}", vault="db://accounts/{id}"), [], "evil"),
        (listed(evil="db://x"), {}, ["vault"], "vault"),
        (listed(evil="db://x", vault="db://accounts/2"), {}, [], "vault"),
        (listed(evil="other://accounts/1"), listed(vault="db://people/{id}"), [], "vault"),
        ({}, {}, ["late", "vault"], "vault"),
        ({}, {}, [], "evil"),
    ],
    ids=["listed", "specific", "longer", "first of two", "linked", "nearest", "scheme", "first linked", "nobody"],
)
def test_one_server_owns_a_resource(
    resources: dict[str, Any], templates: dict[str, Any], linked: list[str], owner: str
):
    """By what servers say of it, the most definite first."""
    assert resource_owner("db://accounts/1", resources, templates, linked, SERVING) == owner


def test_a_resource_belongs_to_nobody_where_no_server_has_any():
    """Then none is asked."""
    assert resource_owner("db://accounts/1", {}, {}, [], []) is None


def test_results_show_whose_a_resource_is():
    """By a link or by its contents; results of any other shape say nothing."""

    def ended(server: str, content: Any) -> Future:
        return Future("f1", LOCAL, "t", server, result={"content": content})

    futures = [
        ended("a", [{"type": "resource_link", "uri": "x://1"}]),
        ended("b", [{"type": "text"}, {"type": "resource", "resource": {"uri": "x://1"}}]),
        ended("c", [{"type": "resource", "resource": "x://1"}, None, "x://1"]),
        ended("d", "x://1"),
        Future("f2", LOCAL, "t", "e"),
    ]
    assert linking("x://1", futures) == {"a", "b"}
    assert linking("x://2", futures) == set()


@pytest.mark.parametrize(
    ("method", "owner"),
    [
        ("com.vault/notes", "vault"),
        ("com.vault/notes/read", "vault"),
        ("notes/read", "vault"),
        ("notes", "vault"),
        ("com.vault/other", "vault"),
        ("vault/other", "vault"),
        ("ui/open", "evil"),
        ("noteshop/read", None),
        ("secret/read", None),
    ],
)
def test_a_method_belongs_to_the_server_that_declared_its_extension(method: str, owner: str | None):
    """By the extension's identifier, its name, or its vendor; what fits none is not passed round."""
    declared = {"quiet": [], "evil": ["com.evil/ui"], "vault": ["com.vault/notes"], "copy": ["com.vault/notes"]}
    assert extension_owner(method, declared) == owner


def test_the_only_server_with_extensions_is_asked_for_all_methods():
    """Extensions need not name their methods after themselves; a server that declares none is never asked."""
    assert extension_owner("strange/request", {"quiet": [], "one": ["com.example/x"]}) == "one"
    assert extension_owner("strange/request", {"quiet": []}) is None


@pytest.mark.parametrize(
    ("template", "uri", "matches"),
    [
        ("note://{name}", "note://a", True),
        ("note://{name}", "note://a/b?c#d", True),
        ("note://{name}", "other://a", False),
        ("note://{name}/end", "note://a/end", True),
        ("note://{name}/end", "note://a/END", False),
        ("file:///{+path}", "file:///a/b\nc", True),
        ("a.b://{x}", "aXb://1", False),
        ("plain://x", "plain://x", True),
        ("plain://x", "plain://xy", False),
    ],
)
def test_a_template_is_taken_generously(template: str, uri: str, matches: bool):
    """The server has the last word, so only what cannot be is kept from it."""
    assert template_matches(template, uri) is matches
