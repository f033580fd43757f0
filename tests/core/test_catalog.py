"""The catalog: every tool once, under a name that hosts accept, in the server's own words; and its copy on disk."""

import json
from typing import Any

import pytest

from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.catalog import Catalog, Source, ToolEntry, selected
from asyncfc_mcp.core.catalog_builder import CatalogBuilder
from asyncfc_mcp.core.names import PublishedNames
from tests.support.catalogs import built
from tests.support.tokens import count_tokens


def server(name: str = "github", **more: Any) -> ServerConfig:
    return ServerConfig(name, StdioSpec("cmd"), **more)


def tool(name: str = "search", **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": {"q": {"type": "string"}}}, **more}


def build(sources: list[Source], published: PublishedNames | None = None) -> Catalog:
    return built(CatalogBuilder(), sources, published)


def listed(config: ServerConfig, *tools: dict[str, Any]) -> Catalog:
    return build([Source(config, tools=tools)])


def list_tool(config: ServerConfig, raw: dict[str, Any]) -> ToolEntry:
    (entry,) = listed(config, raw).tools.values()
    return entry


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        (server(), "search", "github__search"),
        (server(prefix=""), "search", "search"),
        (server(prefix="gh_"), "search", "gh_search"),
        (server("my server"), "get.user-list", "my_server__get_user_list"),
        (server(prefix=""), "größe/übung", "gr__e__bung"),
        (server(prefix="", keep_names=True), "get.user-list", "get.user-list"),
        (server(prefix="", keep_names=True), "a" * 200, "a" * 200),
    ],
)
def test_a_tool_is_listed_under_its_servers_prefix_in_letters_that_hosts_accept(
    config: ServerConfig, name: str, expected: str
):
    """`server__tool` unless the config says otherwise; behind `serve -- CMD` names are left alone."""
    entry = list_tool(config, tool(name))
    assert (entry.name, entry.listed["name"]) == (expected, expected)
    assert (entry.server, entry.tool) == (config.name, name)


def test_who_was_handed_a_name_keeps_it():
    """A server cannot take over another's calls by offering its tools, too; not even one that comes first, nor after
    the other has stopped to offer it."""
    one, two = Source(server("one", prefix="")), Source(server("two", prefix=""), tools=[tool("victim")])
    builder = CatalogBuilder()
    first = built(builder, [one, two])
    published = PublishedNames(tools={name: (entry.server, entry.tool) for name, entry in first.tools.items()})
    thief = Source(one.config, tools=[tool("victim")])
    assert {name: e.server for name, e in built(builder, [thief, two], published).tools.items()} == {
        "one__victim": "one",
        "victim": "two",
    }
    assert list(built(builder, [thief, Source(two.config)], published).tools) == ["one__victim"]


def test_tools_of_one_name_are_both_reachable_and_the_first_server_of_the_config_has_the_plain_name():
    """Nothing ends, and `inspect` says what the other is called."""
    one, two = server("one", prefix=""), server("two", prefix="")
    catalog = build([Source(one, tools=[tool("a")]), Source(two, tools=[tool("a"), tool("b")])])
    assert [(name, entry.server) for name, entry in catalog.tools.items()] == [
        ("a", "one"),
        ("two__a", "two"),
        ("b", "two"),
    ]
    assert catalog.notes == ("tool 'a' of server 'two' is listed as 'two__a': another one is 'a'",)


def test_a_name_that_a_server_gives_twice_is_listed_once():
    """It is one tool: only the first could be meant by the name."""
    catalog = listed(server(), tool("a", title="1"), tool("a", title="2"))
    assert [entry.raw["title"] for entry in catalog.tools.values()] == ["1"]
    assert catalog.notes == ("server 'github' offers 'a' twice; the first is listed",)


def test_no_tool_takes_the_name_of_one_of_ours():
    """`serve -- CMD` keeps names, and a server may have a `gather` of its own: it is listed with the server's part."""
    catalog = build(
        [Source(server(prefix="", keep_names=True), tools=[tool("gather")])], PublishedNames(frozenset({"gather"}))
    )
    assert [(name, entry.tool) for name, entry in catalog.tools.items()] == [("github__gather", "gather")]


def test_an_entry_that_did_not_change_is_not_made_again():
    """A change of one server costs nothing for the tools of all others."""
    builder = CatalogBuilder()
    still, moving = Source(server("still"), tools=[tool()]), server("moving")
    before = built(builder, [still, Source(moving, tools=[tool("a")])])
    after = built(builder, [still, Source(moving, tools=[tool("b")])])
    assert after.tools["still__search"] is before.tools["still__search"]
    assert list(after.tools) == ["still__search", "moving__b"]


def test_a_tool_that_is_excluded_collides_with_nobody():
    """Between servers, and within one."""
    one, two = server("one", prefix=""), server("two", prefix="", exclude=("a", "b.c"))
    catalog = build([Source(one, tools=[tool("a")]), Source(two, tools=[tool("a"), tool("b.c"), tool("b-c")])])
    assert list(catalog.tools) == ["a", "b_c"]
    assert not catalog.notes


# --- which tools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        ((), (), ["read_file", "write_file", "move_file", "Read"]),
        (("read_*",), (), ["read_file"]),
        ((), ("move_*", "write_*"), ["read_file", "Read"]),
        (("*_file",), ("move_*",), ["read_file", "write_file"]),
        (("read_file", "Read"), (), ["read_file", "Read"]),
        (("[!r]*",), (), ["write_file", "move_file", "Read"]),
        (("nothing",), (), []),
    ],
)
def test_globs_choose_the_tools(include: tuple[str, ...], exclude: tuple[str, ...], kept: list[str]):
    """Over the server's own names, case counts, and `exclude` wins."""
    config = server(include=include, exclude=exclude)
    names = ["read_file", "write_file", "move_file", "Read"]
    assert [name for name in names if selected(config, name)] == kept
    assert [entry.tool for entry in listed(config, *map(tool, names)).tools.values()] == kept


def test_tools_come_in_the_order_of_the_config_and_of_their_server():
    """Whichever server answered first: the order is part of what a model's provider caches."""
    catalog = build([Source(server("z"), tools=[tool("b"), tool("a")]), Source(server("a"), tools=[tool("c")])])
    assert [each["name"] for each in catalog.tool_list()] == ["z__b", "z__a", "a__c"]


def test_settings_of_a_tool_that_does_not_exist_are_remarked_on():
    """A misspelt name in the config shows in `inspect`; not before the server has listed anything."""
    config = server(tools={"serach": {"timeout_s": 1}, "search": {"timeout_s": 2}})
    assert listed(config, tool("search")).notes == (
        "server 'github' has settings for tool 'serach', which it does not offer",
    )
    assert listed(config).notes == ()


@pytest.mark.parametrize("raw", [{}, {"name": None}, {"name": 7}, {"name": ["a"]}])
def test_a_tool_without_a_usable_name_is_left_out(raw: dict[str, Any]):
    """It could not be called."""
    assert list(listed(server(), raw, tool("good")).tools) == ["github__good"]


# --- how a tool is listed ------------------------------------------------------------------------------------------

FULL: dict[str, Any] = tool(
    title="Search",
    description="Searches.",
    annotations={"readOnlyHint": True, "x-hint": "kept"},
    icons=[{"src": "https://example.com/i.png"}],
    outputSchema={"type": "object"},
    execution={"taskSupport": "required"},
    _meta={"vendor/x": {"null": None}},
    **{"x-unknown": [1, None]},
)


def test_a_tool_keeps_its_own_words_but_for_what_a_handle_would_break():
    """Title, description, annotations, icons, `_meta` and unknown fields stay; `outputSchema` and task support go."""
    entry = list_tool(server(), FULL)
    kept = {
        key: value for key, value in FULL.items() if key not in ("name", "inputSchema", "outputSchema", "execution")
    }
    assert {key: value for key, value in entry.listed.items() if key not in ("name", "inputSchema")} == kept
    assert list(entry.listed)[: len(kept) - 1] == [key for key in FULL if key in entry.listed][: len(kept) - 1]
    assert entry.raw is FULL
    assert "outputSchema" in FULL


def test_an_input_schema_is_listed_without_a_title_made_of_the_name_it_is_listed_under():
    """Parameters keep theirs; the schema that arguments are checked against is the server's own."""
    schema = {"properties": {"q": {"title": "Q", "type": "string"}}, "type": "object", "title": "searchArguments"}
    raw = {"name": "search", "inputSchema": schema}
    entry = list_tool(server(), raw)
    assert entry.listed["inputSchema"].keys() == {"properties", "type"}
    assert arguments_of(entry)["q"] == {"title": "Q", "type": "string"}
    assert entry.input_schema["title"] == "searchArguments"
    long = "search_" * 20
    cut = list_tool(server(), {"name": long, "inputSchema": {**schema, "title": f"{long}Arguments"}})
    assert cut.listed["inputSchema"]["title"] == f"{long}Arguments"


def test_a_sync_tool_is_listed_as_it_is():
    """It answers with the real result, so its output schema holds, and nothing of ours is added."""
    entry = list_tool(server(base=Policy(mode="sync")), FULL)
    expected = {**FULL, "name": "github__search"}
    del expected["execution"]
    assert entry.listed == expected
    assert (entry.takes_as, entry.takes_wait) == (False, False)
    assert entry.takes_after, "accepted, though not listed"


def arguments_of(entry: ToolEntry) -> dict[str, Any]:
    return entry.listed["inputSchema"].get("properties", {})


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("wait", [True, False])
def test_our_arguments_are_offered_as_the_config_says(names: bool, wait: bool):
    """`_as` with `_after`, and `_wait`, each by itself; they cost about 20 tokens together, and none is required."""
    entry = list_tool(server(base=Policy(names=names, wait=wait)), tool())
    added = [name for name, on in (("_as", names), ("_after", names), ("_wait", wait)) if on]
    assert list(arguments_of(entry)) == ["q", *added]
    assert (entry.takes_as, entry.takes_after, entry.takes_wait) == (names, names, wait)
    assert "required" not in entry.listed["inputSchema"]
    bare = list_tool(server(base=Policy(names=False, wait=False)), tool())
    cost = len(json.dumps(entry.listed, separators=(",", ":"))) - len(json.dumps(bare.listed, separators=(",", ":")))
    assert cost / 4 <= 20


def test_hosts_that_need_no_types_get_our_arguments_in_fewer_tokens():
    """At most 20 of a public tokenizer for all three, and they may be lists; the rest of the entry is the same."""
    schema = {"type": "object", "properties": {"q": {"type": "string"}, "_as": {"type": "string"}}}
    for raw in (tool(), {"name": "t", "inputSchema": schema}):
        entry = list_tool(server(), raw)
        ours = [name for name in ("_as", "_after", "_wait") if name not in raw["inputSchema"].get("properties", {})]
        untyped = entry.listed_untyped["inputSchema"]["properties"]
        assert {name: untyped[name] for name in ours} == {name: {} for name in ours}
        assert list(untyped) == list(arguments_of(entry))
        assert {**untyped, **{name: {"type": "string"} for name in ours}} == arguments_of(entry)
        assert {**entry.listed_untyped, "inputSchema": None} == {**entry.listed, "inputSchema": None}
    entry, bare = list_tool(server(), tool()), list_tool(server(base=Policy(names=False, wait=False)), tool())
    sizes = [count_tokens(json.dumps(each, separators=(",", ":"))) for each in (entry.listed_untyped, bare.listed)]
    assert sizes[0] - sizes[1] <= 20
    sync = list_tool(server(base=Policy(mode="sync")), tool())
    assert sync.listed_untyped is sync.listed


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ({"type": "object", "properties": {"_as": {"type": "integer"}}}, ["_as"]),
        ({"type": "object", "properties": {"_wait": {}}, "required": ["_wait"]}, ["_wait"]),
        ({"type": "object", "properties": {"_as": {}, "_wait": {}}}, ["_as", "_wait"]),
        ({"type": "object", "properties": {"_after": {"type": "string", "format": "date"}}}, ["_after"]),
    ],
)
def test_our_arguments_yield_to_the_tools_own(schema: dict[str, Any], taken: list[str]):
    """Ours is then off for that tool, and `inspect` says so."""
    entry = list_tool(server(base=Policy(references="off")), {"name": "t", "inputSchema": schema})
    assert (entry.takes_as, entry.takes_wait) == ("_as" not in taken, "_wait" not in taken)
    assert entry.takes_after == ("_after" not in taken)
    assert entry.notes == tuple(f"{name} is the tool's own argument; ours is off" for name in taken)
    for name in taken:
        assert arguments_of(entry)[name] == schema["properties"][name]
    assert list(schema["properties"]) == taken, "the server's schema was changed in place"


@pytest.mark.parametrize(
    ("references", "annotations", "admitted"),
    [
        ("all", {}, True),
        ("read-only", {"readOnlyHint": True}, True),
        ("read-only", {"readOnlyHint": False}, False),
        ("read-only", {}, False),
        ("off", {"readOnlyHint": True}, False),
    ],
)
def test_references_are_admitted_where_the_config_lets_them_in(references: Any, annotations: Any, admitted: bool):
    """Else the schema is the server's, so that hosts refuse them before a call is made."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    entry = list_tool(
        server(base=Policy(references=references)), {"name": "t", "inputSchema": schema, "annotations": annotations}
    )
    assert (arguments_of(entry)["n"] != {"type": "integer"}) == admitted
    assert entry.input_schema is schema


@pytest.mark.parametrize("schema", [None, "object", [], 7])
def test_a_tool_without_a_usable_schema_takes_any_arguments(schema: Any):
    """The server judges them."""
    raw = {"name": "t"} if schema is None else {"name": "t", "inputSchema": schema}
    entry = list_tool(server(), raw)
    assert entry.listed["inputSchema"]["type"] == "object"
    assert set(arguments_of(entry)) == {"_as", "_after", "_wait"}


@pytest.mark.parametrize(
    ("annotations", "repeatable"),
    [
        ({"readOnlyHint": True}, True),
        ({"idempotentHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": False}, False),
        ({"idempotentHint": "true"}, False),
        ({}, False),
        (None, False),
        ("readOnlyHint", False),
    ],
)
def test_only_what_a_server_says_outright_can_be_repeated(annotations: Any, repeatable: bool):
    """Silence and nonsense are no permission to send a call twice."""
    assert list_tool(server(), tool(annotations=annotations)).repeatable is repeatable


# --- prompts and resources -----------------------------------------------------------------------------------------


def test_prompts_follow_the_same_rule_for_names():
    """Everything else is kept; tools and prompts do not collide with each other."""
    raw = {"name": "greet", "arguments": [{"name": "who"}], "x": None}
    catalog = build([Source(server(), tools=[tool("greet")], prompts=[raw, raw])])
    entry = catalog.prompts["github__greet"]
    assert entry.listed == {**raw, "name": "github__greet"}
    assert (entry.server, entry.prompt) == ("github", "greet")
    assert catalog.notes == ("server 'github' offers the prompt 'greet' twice; the first is listed",)


def test_a_uri_is_served_by_the_first_server_that_offers_it():
    """URIs are not changed; a shared one is remarked on."""
    one = Source(server("one"), resources=[{"uri": "a://x", "name": "1"}], templates=[{"uriTemplate": "a://{n}"}])
    two = Source(
        server("two"),
        resources=[{"uri": "a://x", "name": "2"}, {"uri": "b://y", "name": "2"}],
        templates=[{"uriTemplate": "b://{n}"}],
    )
    catalog = build([one, two])
    assert {uri: name for uri, (name, _) in catalog.resources.items()} == {"a://x": "one", "b://y": "two"}
    assert {uri: name for uri, (name, _) in catalog.templates.items()} == {"a://{n}": "one", "b://{n}": "two"}
    assert catalog.notes == ("a://x is offered by 'one' and 'two'; the first serves it",)
