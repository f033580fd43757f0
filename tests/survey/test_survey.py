"""Schemas of real servers through the converters of real hosts: none refuses a tool because of the bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from asyncfc_mcp.schema.loosen import admit_references
from asyncfc_mcp.schema.trim import without_dialect
from asyncfc_mcp.schema.walk import all_schemas, at_pointer, pointer_of
from asyncfc_mcp.upstream.metatools import METATOOLS
from tests.support import peers
from tests.support.schemas import is_valid
from tests.survey import capture, rules, survey

Json = dict[str, Any]
REAL = survey.real_schemas()
LISTED = {name: survey.listed(schema) for name, schema in REAL.items()}
ROOTS: dict[str, Json] = {
    "one of two arguments": {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "name": {"type": "string"}},
        "oneOf": [{"required": ["id"]}, {"required": ["name"]}],
    },
    "union": {
        "type": "object",
        "anyOf": [
            {
                "type": "object",
                "properties": {"kind": {"type": "string", "enum": [kind]}, kind: {"type": "number"}},
                "required": ["kind", kind],
                "additionalProperties": False,
            }
            for kind in ("radius", "width")
        ],
    },
    "intersection": {
        "type": "object",
        "allOf": [{"type": "object", "properties": {name: {"type": "boolean"}}} for name in ("a", "b")],
    },
}
"""Roots that no captured server has."""


def assert_nothing_new(results: dict[str, list[Json]], expected: set[str]) -> None:
    """Each converter refuses no schema as listed that it takes as the server wrote it, and takes most of them."""
    assert results.keys() == expected
    names = list(REAL)
    for converter, bodies in results.items():
        verdicts = [survey.refusals(converter, body) for body in bodies]
        originals, now, own = verdicts[: len(names)], verdicts[len(names) : -len(OWN)], verdicts[-len(OWN) :]
        assert not any(own), f"{converter} refuses the bridge's own tools"
        assert survey.newly_refused(names, now, originals) == {}, converter
        assert sum(not verdict for verdict in originals) > 200, f"{converter} takes too few schemas to prove anything"


OWN = {name: tool.listed(name)["inputSchema"] for name, tool in METATOOLS.items()}
BOTH = [*REAL.values(), *LISTED.values(), *OWN.values()]


def test_enough_real_servers() -> None:
    """The survey is over many servers and tools, written with different SDKs."""
    assert len(capture.captured()) >= 15
    assert len(REAL) > 500


@pytest.mark.parametrize("host", survey.DIRECT)
def test_hosts_that_pass_schemas_on_refuse_nothing_new(host: str) -> None:
    """Rules of the model APIs, and of hosts that check a listing before any model sees it."""
    rule = survey.DIRECT[host]
    refused = {name: found for name, schema in LISTED.items() if (found := list(rule(schema)))}
    assert {name: found for name, found in refused.items() if not list(rule(REAL[name]))} == {}
    assert len(REAL) - len(refused) > 200
    assert not any(list(rule(schema)) for schema in OWN.values())


def test_the_bridges_own_tools_have_one_type_each() -> None:
    """Gemini refuses a whole request for a list of types, an `enum` without a type, or an alternative without one."""
    assert OWN
    for schema in OWN.values():
        assert not list(rules.gemini(schema))


@pytest.mark.parametrize("host", ["Messages API", "OpenAI functions"])
@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
def test_a_combination_at_the_root_is_accepted_as_listed(host: str, root: Json) -> None:
    """Both APIs refuse these roots as the servers write them."""
    rule = survey.DIRECT[host]
    assert list(rule(root))
    assert not list(rule(survey.listed(root)))


@pytest.mark.node
@pytest.mark.timeout(300)
def test_converters_on_npm_refuse_nothing_new(npm_converters: Path, llama_cpp: Path) -> None:
    """AI SDK for three makers, Google's SDK, and llama.cpp's grammars of 2025: complete requests, not sent."""
    results = survey.converted_npm(BOTH, npm_converters, llama_cpp)
    assert_nothing_new(
        results,
        {
            "ai-sdk google",
            "ai-sdk openai",
            "ai-sdk openai responses",
            "ai-sdk anthropic",
            "google-genai npm",
            "google-genai npm mcp",
            "llama.cpp 2025",
        },
    )


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_googles_sdk_refuses_nothing_new(google_genai: Path) -> None:
    """google-genai's own conversion of MCP tools, for both of its APIs."""
    results = survey.converted_pypi(BOTH, "google_genai", google_genai)
    assert_nothing_new(results, {"google-genai", "google-genai, opened", "google-genai for Vertex"})


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_the_agents_sdk_refuses_nothing_new(openai_agents: Path) -> None:
    """A schema that can be made strict still can."""
    results = survey.converted_pypi(BOTH, "openai_agents", openai_agents)
    assert_nothing_new(results, {"openai-agents", "openai-agents strict"})


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_pydantic_ai_refuses_nothing_new(pydantic_ai: Path) -> None:
    """Its transformers for OpenAI and Google."""
    results = survey.converted_pypi(BOTH, "pydantic_ai", pydantic_ai)
    assert_nothing_new(results, {"pydantic-ai openai", "pydantic-ai google"})


@pytest.mark.converters_long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("google_adk", {"google-adk"}),
        ("litellm", {"litellm gemini", "litellm anthropic"}),
        ("langchain", {"langchain openai", "langchain anthropic", "langchain gemini"}),
    ],
)
def test_large_frameworks_refuse_nothing_new(group: str, expected: set[str]) -> None:
    """Converters whose packages take hundreds of megabytes."""
    results = survey.converted_pypi(BOTH, group, peers.provide(survey.GROUPS[group]))
    assert_nothing_new(results, expected)


# --- what the rewriting keeps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_nothing_that_a_real_schema_says_is_lost(name: str) -> None:
    """Every position keeps its annotations beside it, its own schema as a branch, and its `$ref`s their targets."""
    schema = without_dialect(REAL[name])
    listed = admit_references(schema)
    assert listed.keys() == schema.keys() | {"type"}
    jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(listed)
    for _, part in all_schemas(listed):
        if (pointer := pointer_of(part.get("$ref"))) is not None:
            assert isinstance(at_pointer(listed, pointer), dict | bool)
    keep_position(schema, listed, {"$defs": listed.get("$defs", {})}, top=True)


def keep_position(original: Any, now: Any, defs: Json, *, top: bool = False) -> None:
    """Compare one position with what it was."""
    if not isinstance(original, dict):
        assert now == original
        return
    annotations = ("title", "description", "default", "examples", "deprecated")
    assert {word: now.get(word) for word in annotations} == {word: original.get(word) for word in annotations}
    if not top:
        assert is_valid("$f3.flights | min_by(@, &price).id", {**now, **defs})
    branch = now
    if "anyOf" in now and "anyOf" not in original and "oneOf" not in original:
        *branches, text = now["anyOf"]
        assert text in ({"type": "string"}, {"type": "string", "pattern": "^.*[$].*$"})
        [branch] = branches
    if isinstance(original.get("type"), list) and "anyOf" in branch:
        branch = {**branch["anyOf"][0], "type": original["type"]}
    for word, value in original.items():
        if word == "properties":
            assert branch[word].keys() == value.keys()
            for name, sub in value.items():
                keep_position(sub, branch[word][name], defs)
        elif word in ("items", "additionalProperties"):
            keep_position(value, branch[word], defs)
        elif word in ("anyOf", "oneOf"):
            branches = branch["anyOf"][0].get("anyOf", branch["anyOf"]) if "anyOf" in branch else []
            assert len(branches) >= len(value)
        elif word not in (*annotations, "$defs", "definitions", "$ref", "allOf"):
            assert branch[word] == value


# --- the servers themselves -------------------------------------------------------------------------------------------


@pytest.mark.node
@pytest.mark.peers
def test_captured_schemas_are_those_of_the_servers(npm: Path, server_time: Path, server_git: Path) -> None:
    """Three servers of npm and two of PyPI, started now, list what was captured."""
    commands = {
        "@modelcontextprotocol/server-everything": [peers.npm_bin(npm, "mcp-server-everything")],
        "@modelcontextprotocol/server-filesystem": [peers.npm_bin(npm, "mcp-server-filesystem"), "/tmp"],
        "@modelcontextprotocol/server-memory": [peers.npm_bin(npm, "mcp-server-memory")],
        "mcp-server-time": [peers.script_of(server_time, "mcp-server-time")],
        "mcp-server-git": [peers.script_of(server_git, "mcp-server-git")],
    }
    known = {name.rpartition("@")[0]: tools for name, tools in capture.captured().items()}
    for package, command in commands.items():
        assert capture.list_tools(command, {}, Path("/")) == known[package], package
