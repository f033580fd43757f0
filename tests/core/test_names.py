"""Names upstream: no two equal, always the same, and as close to the server's own as hosts allow."""

import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.core.catalog import Catalog, Source
from asyncfc_mcp.core.catalog_builder import CatalogBuilder
from asyncfc_mcp.core.names import (
    HOST_PREFIX,
    NAME_LIMIT,
    SHORTEST_STEM,
    Key,
    PublishedNames,
    ServerNames,
    assign,
    mapped,
    server_parts,
)
from tests.support.catalogs import built

RESERVED = frozenset({"await_future", "gather", "cancel_future", "list_futures"})
REPOSITORY = "github.com/modelcontextprotocol/servers/tree/main/src/memory"


def server(name: str, **more: Any) -> ServerConfig:
    return ServerConfig(name, StdioSpec("cmd"), **more)


def names_of(*offered: tuple[ServerConfig, list[str]], **more: Any) -> dict[Key, str]:
    parts = server_parts(config for config, _ in offered)
    return assign([ServerNames(config, tools) for config, tools in offered], parts, reserved=RESERVED, **more).names


def tools_of(config: ServerConfig, *tools: str) -> list[str]:
    names = names_of((config, list(tools)))
    return [names[config.name, tool] for tool in tools]


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (["get.user", "get_user"], ["get_user_71679bd8", "get_user"]),
        (["get.user", "get-user"], ["get_user_71679bd8", "get_user_057993e9"]),
        (["查询", "更新"], ["x_bcd6771e", "x_3055a035"]),
        (["Read", "read"], ["Read_4a76bda4", "read"]),
        (["Read", "READ"], ["Read_4a76bda4", "READ_76d84937"]),
        (["get-user"], ["get_user"]),
        (["3d"], ["3d"]),
        ([""], ["x_e3b0c442"]),
        (["_", "__"], ["_", "__"]),
    ],
)
def test_of_tools_whose_names_meet_only_the_exact_one_has_it(tools: list[str], expected: list[str]):
    """All others get a hash of their own; which ones, the order of the listing does not decide."""
    assert tools_of(server("u"), *tools) == [f"u__{name}" for name in expected]
    assert tools_of(server("u"), *reversed(tools)) == [f"u__{name}" for name in reversed(expected)]


@pytest.mark.parametrize(
    ("servers", "parts"),
    [
        (["my-files", "my_files"], ["my_files_f041", "my_files"]),
        (["my-files", "my.files"], ["my_files_f041", "my_files_06d0"]),
        (["my-files"], ["my_files"]),
        (["Files", "files"], ["Files_abc7", "files"]),
        (["a", "a__b", "a_"], ["a", "a_b", "a_571f"]),
        (["查询", "更新"], ["x_bcd6771e", "x_3055a035"]),
        (["123"], ["x_123"]),
        (["_private"], ["x_private"]),
        ([REPOSITORY], ["memory_b486"]),
        ([REPOSITORY, REPOSITORY.replace("memory", "fetch")], ["memory_b486", "fetch_167f"]),
        (["@modelcontextprotocol/server-sequential-thinking"], ["server_sequential_t_5a61"]),
        (["https://mcp.example.com/mcp/"], ["mcp_371b"]),
    ],
)
def test_parts_of_different_servers_differ(servers: list[str], parts: list[str]):
    """Of two equal names only an exact one is unchanged; a path is represented by its last segment."""
    assert server_parts(map(server, servers)) == dict(zip(servers, parts, strict=True))
    assert server_parts(map(server, reversed(servers))) == dict(zip(servers, parts, strict=True))


def test_a_tools_name_stays_and_the_servers_part_gives_way():
    """The model chooses by the tool's name; the server's part is only there to tell two apart."""
    assert tools_of(server(REPOSITORY), "read_graph") == ["memory_b486__read_graph"]
    long = "estimate_drive_feasibility_by_mileage"
    assert tools_of(server("vehicle_control"), long) == [f"vehicle__{long}"]
    assert tools_of(server("vehicle_control_and_more"), long) == [f"vehicle__{long}"]
    assert tools_of(server("transportation"), long) == [f"transporta__{long}"]
    assert tools_of(server("vehicle"), long) == [f"vehicle__{long}"]
    for letters in range(NAME_LIMIT - 12, NAME_LIMIT + 1):
        (name,) = tools_of(server("github_enterprise"), "x" * letters)
        assert name.removesuffix("x" * letters) in ("github__", "githu__", "gith__", "git__", "gi__", "g__", "")
        assert len(name) <= NAME_LIMIT


def test_a_shortened_part_is_no_other_servers():
    """Not the whole of one, nor what it may be shortened to, since hosts' rules for permissions name a part; digits of
    a hash then tell the two apart. A server with another beginning changes nothing."""
    long = "estimate_drive_feasibility_by_mileage"
    alone = names_of((server("vehicle_control"), [long]))
    for unrelated in ("music", "vacuum", "a_vehicle"):
        pairs = [(server("vehicle_control"), [long]), (server(unrelated), [long])]
        assert alone.items() <= names_of(*pairs).items() == names_of(*reversed(pairs)).items()
    longer = long + "xx"
    for near in ("vehicle", "vehicle_status", "Vehicle"):
        names = names_of((server("vehicle_control"), [long, longer]), (server(near), [long, longer, "x"]))
        assert names["vehicle_control", long] == f"vehicle_co__{long}"
        assert re.fullmatch(rf"veh_[0-9a-f]{{4}}__{longer}", names["vehicle_control", longer])
        assert names[near, "x"] == f"{near}__x"


def test_a_name_without_a_servers_part_does_not_look_like_another_servers():
    """A tool whose own name has a separator keeps its server's part, and is cut instead."""
    forged = "files__" + "x" * (NAME_LIMIT - 7)
    (name,) = tools_of(server("web"), forged)
    assert name.startswith("web__files__x")
    assert len(name) == NAME_LIMIT


def test_a_name_that_is_too_long_by_itself_keeps_its_beginning_and_gets_a_hash_of_the_whole():
    """Two that begin alike differ, and neither changes from one start to the next: permissions are saved by name."""
    base = "create_or_update_pull_request_review_comment_in_"
    one, two = tools_of(server("github"), base + "thread", base + "line")
    assert (len(one), len(two)) == (NAME_LIMIT, NAME_LIMIT)
    assert one != two
    assert one[:-9] == two[:-9] == ("github__" + base)[: NAME_LIMIT - 9]
    assert re.fullmatch(r"_[0-9a-f]{8}", one[-9:])
    exact = "x" * NAME_LIMIT
    assert tools_of(server("s", prefix=""), exact) == [exact]


def test_a_hash_does_not_take_a_name_that_is_some_tools_own():
    """Even if a server lists a tool under the very name that another would get."""
    taken = tools_of(server("u"), "get.user", "get-user")
    forged = [name.removeprefix("u__") for name in taken]
    names = tools_of(server("u"), "get.user", "get-user", *forged)
    assert names[2:] == taken
    assert len(set(names)) == 4


def test_a_name_that_was_handed_out_leads_to_nothing_else():
    """Not when a tool of exactly that name appears, nor after its own tool was removed."""
    config = server("u")
    held = {"u__get_user": ("u", "get.user")}
    later = {("u", "get.user"): "u__get_user", ("u", "get_user"): "u__get_user_fa3aff1f"}
    assert names_of((config, ["get_user", "get.user"]), held=held) == later
    del later["u", "get.user"]
    assert names_of((config, ["get_user"]), held=held) == later


TOOL_NAMES = (
    st.text(max_size=90)
    | st.text("aA_.-", max_size=4)
    | st.text("ab_", min_size=30, max_size=70)
    | st.sampled_from([*RESERVED, "查询", "更新", "\ud800", "3d", "_3d", "x_bcd6771e", "two__a", "a"])
)
SERVER_NAMES = (
    st.text(min_size=1, max_size=80)
    | st.text("aA_.-/", min_size=1, max_size=4)
    | st.sampled_from(["my-files", "my_files", REPOSITORY, "x/memory", "3", "two", "one"])
)
OFFERINGS = st.lists(
    st.tuples(
        SERVER_NAMES, st.sampled_from([None, None, "", "", "a__", "gh_"]), st.lists(TOOL_NAMES, unique=True, max_size=8)
    ),
    max_size=5,
    unique_by=lambda each: each[0],
)


@given(OFFERINGS, st.randoms(use_true_random=False))
@example([("a", None, ["b__c", "_x"]), ("a__b", None, ["c"]), ("a_", None, ["x"])], None)
@settings(deadline=None, max_examples=400)
def test_names_are_different_always_the_same_and_fit_for_hosts(offered: list[tuple[str, Any, list[str]]], random: Any):
    """For any servers and tools, in any order of the listings, even to a client that folds case."""
    pairs = [(server(name, prefix=prefix), tools) for name, prefix, tools in offered]
    names = names_of(*pairs)
    assert set(names) == {(config.name, tool) for config, tools in pairs for tool in tools}
    assert len({name.lower() for name in names.values()}) == len(names)
    for name in names.values():
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
        assert len(HOST_PREFIX + name) <= 63
        assert name not in RESERVED
    if random is not None:
        shuffled = [(config, random.sample(tools, len(tools))) for config, tools in pairs]
        assert names_of(*shuffled) == names


@given(
    st.lists(SERVER_NAMES, min_size=1, max_size=5, unique=True),
    st.lists(TOOL_NAMES, unique_by=lambda tool: mapped(tool).lower(), max_size=8),
    st.sampled_from([NAME_LIMIT, 46, 30]),
)
@settings(deadline=None, max_examples=300)
def test_a_tools_own_name_is_whole_where_it_fits(servers: list[str], tools: list[str], limit: int):
    """With a part of its server that no other server's is or could be shortened to, and that begins with a letter."""
    configs = [server(name) for name in servers]
    names = names_of(*[(config, tools) for config in configs], limit=limit)
    shown: dict[str, set[str]] = {config.name: set() for config in configs}
    for (name, tool), listed in names.items():
        own = mapped(tool)
        if len(own) <= limit - len("__") - SHORTEST_STEM:
            part, separator, rest = listed.partition("__")
            assert (separator + rest).endswith(own)
            assert rest == own
            assert part[0].isalpha()
            shown[name].add(part.lower())
    for one, other in combinations(shown.values(), 2):
        assert not one & other


@given(OFFERINGS, st.text("xyz_", min_size=1, max_size=30), st.lists(TOOL_NAMES, unique=True, max_size=8))
@settings(deadline=None, max_examples=200)
def test_a_server_with_another_beginning_renames_nothing(
    offered: list[tuple[str, Any, list[str]]], name: str, tools: Any
):
    """Permissions are saved by name. (Behind all others, so that it takes no name of a shared prefix.)"""
    pairs = [(server(f"a{other}", prefix=prefix), listed) for other, prefix, listed in offered]
    before = names_of(*pairs)
    assert before.items() <= names_of(*pairs, (server(f"q{name}"), tools)).items()


@given(OFFERINGS, OFFERINGS, st.sampled_from([NAME_LIMIT, 46, 30, 16]))
@settings(deadline=None, max_examples=300)
def test_what_was_handed_out_stays_through_any_change(
    before: list[tuple[str, Any, list[str]]], after: list[tuple[str, Any, list[str]]], limit: int
):
    """Listings change, servers vanish and others appear in their names' way: a name never means another tool. Short
    names for hosts that allow less are no exception."""
    builder, published = CatalogBuilder(), PublishedNames(RESERVED)
    meant: dict[str, Key] = {}
    for offered in (before, after, before):
        catalog = built(
            builder,
            [
                Source(server(name, prefix=prefix), tools=[{"name": tool} for tool in tools])
                for name, prefix, tools in offered
            ],
            published,
        )
        published.tools |= {name: (entry.server, entry.tool) for name, entry in catalog.tools.items()}
        short = catalog.short_names(limit, published) if limit < NAME_LIMIT else {}
        assert short == (catalog.short_names(limit, published) if limit < NAME_LIMIT else {})
        published.aliases |= {alias: name for name, alias in short.items()}
        shown = [short.get(name, name) for name in catalog.tools]
        assert len({name.lower() for name in shown}) == len(shown)
        assert all(len(name) <= limit for name in shown)
        for entry in catalog.tools.values():
            for name in {entry.name, short.get(entry.name, entry.name)}:
                assert meant.setdefault(name, (entry.server, entry.tool)) == (entry.server, entry.tool)
        assert {(e.server, e.tool) for e in catalog.tools.values()} == {
            (name, tool) for name, _, tools in offered for tool in tools
        }


def test_a_server_that_keeps_its_names_has_short_ones_for_hosts_that_allow_less():
    """`serve -- CMD` under Cursor."""
    long = "a" * 80
    catalog = built(CatalogBuilder(), [Source(server("s", prefix="", keep_names=True), tools=[{"name": long}])])
    assert list(catalog.tools) == [long]
    (alias,) = catalog.short_names(46, PublishedNames()).values()
    assert len(alias) == 46
    assert Catalog().short_names(46, PublishedNames()) == {}
