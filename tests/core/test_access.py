"""What principals may use: the entries that apply to them, and what these allow together."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.access import covers_server, tool_globs
from asyncfc_mcp.config.settings import AccessEntry
from asyncfc_mcp.core.access import MOST_KEPT, Access, AccessRules, applies
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL, PUBLIC, TOKEN, Principal, Scope

ALICE = Principal(Scope("person:alice"), "alice")
SERVERS = ("github", "jira", "git", "a/b", "a")
TOOLS = ("get_issue", "get", "delete_repo", "x/delete_y", "b/get")


def rules(**entries: dict[str, list[str]]) -> AccessRules:
    made = {name.replace("scope_", "scope:").replace("everyone", "*"): entry for name, entry in entries.items()}
    return AccessRules(
        {
            name: AccessEntry(tuple(entry["allow"]) if "allow" in entry else None, tuple(entry.get("deny", ())))
            for name, entry in made.items()
        }
    )


def subject(name: str, *grants: str) -> Principal:
    return Principal(Scope(f"oauth:https://issuer.test#{name}"), name, frozenset(grants))


# --- entries -------------------------------------------------------------------------------------------------------


def test_who_has_no_entry_may_use_nothing():
    """As soon as there is the setting, also without any entry."""
    for each in (rules(bob={}), rules()):
        for principal in (ALICE, LOCAL_PRINCIPAL, Principal(PUBLIC), Principal(TOKEN), subject("alice2")):
            access = each.of(principal)
            assert not access.touches("github")
            assert not access.serves("github")
            assert not access.allows("github", "get")


def test_an_entry_without_allow_allows_everything():
    """Which is not an empty one: that allows nothing."""
    assert rules(alice={}).of(ALICE).serves("github")
    assert not rules(alice={"allow": []}).of(ALICE).touches("github")


def test_entries_by_name_by_grant_and_for_all_apply_together():
    """A grant counts only for a token that has it."""
    each = rules(alice={"allow": ["jira"]}, scope_ops={"allow": ["git"]}, everyone={"allow": ["a"]})
    assert [server for server in SERVERS if each.of(ALICE).serves(server)] == ["jira", "a"]
    assert [server for server in SERVERS if each.of(subject("alice", "ops")).serves(server)] == ["jira", "git", "a"]
    assert [server for server in SERVERS if each.of(subject("x", "op")).serves(server)] == ["a"]
    assert [server for server in SERVERS if each.of(LOCAL_PRINCIPAL).serves(server)] == ["a"]


@pytest.mark.parametrize("name", ["*", "scope:ops", "person:alice", "oauth:https://issuer.test#alice"])
def test_the_subject_of_a_token_cannot_be_called_like_an_entry_of_another_kind(name: str):
    """Who chooses the subject chooses no rights with it."""
    assert not applies(name, subject(name)) or name == "*"
    assert not applies("scope:ops", subject("scope:ops"))
    assert not applies("alice", subject("*"))


def test_a_full_key_tells_two_principals_of_one_name_apart():
    """A person of the token file, and the subject of an authorization server."""
    assert applies("alice", ALICE)
    assert applies("alice", subject("alice"))
    assert applies("person:alice", ALICE)
    assert not applies("person:alice", subject("alice"))
    assert applies("oauth:https://issuer.test#alice", subject("alice"))
    assert not applies("oauth:https://issuer.test#alice", ALICE)


def test_what_one_entry_denies_no_other_allows():
    """Whichever is first."""
    each = rules(alice={"allow": ["github"]}, everyone={"deny": ["*/delete_*"]})
    assert each.of(ALICE).allows("github", "get")
    assert not each.of(ALICE).allows("github", "delete_repo")
    assert each.of(ALICE).allows("jira", "get")  # the entry for all has no `allow`
    assert not each.of(ALICE).allows("jira", "delete_repo")


# --- patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "servers", "tools"),
    [
        ("github", {"github"}, {("github", tool) for tool in TOOLS}),
        ("git*", {"github", "git"}, {(server, tool) for server in ("github", "git") for tool in TOOLS}),
        ("github/get_*", set(), {("github", "get_issue")}),
        ("*/get", set(), {(server, "get") for server in SERVERS}),
        ("a/b", {"a/b"}, {("a/b", tool) for tool in TOOLS}),
        ("a/b/get", set(), {("a/b", "get"), ("a", "b/get")}),
        ("a/*", set(), {("a", tool) for tool in TOOLS}),
        ("GitHub", set(), set()),
        ("github/", set(), set()),
    ],
)
def test_a_pattern_allows_servers_or_tools(pattern: str, servers: set[str], tools: set[tuple[str, str]]):
    """A slash in it makes it one of tools, unless it is the name of a server."""
    access = rules(alice={"allow": [pattern]}).of(ALICE)
    assert {server for server in SERVERS if access.serves(server)} == servers
    assert {(server, tool) for server in SERVERS for tool in TOOLS if access.allows(server, tool)} == tools
    assert {server for server in SERVERS if access.touches(server)} >= servers | {server for server, _ in tools}


def test_denied_tools_leave_the_server_and_a_denied_server_nothing():
    """Prompts and resources are the server's."""
    access = rules(alice={"allow": ["github", "jira"], "deny": ["jira", "github/delete_*"]}).of(ALICE)
    assert access.serves("github")
    assert not access.allows("github", "delete_repo")
    assert not access.touches("jira")
    assert not access.allows("jira", "get")


def test_names_with_signs_of_globs_are_meant_literally_as_well():
    """A denied name cannot escape by them."""
    access = rules(alice={"deny": ["s[1]/t[2]", "s[1]/u*"]}).of(ALICE)
    assert not access.allows("s[1]", "t[2]")
    assert not access.allows("s[1]", "u3")
    assert access.allows("s[1]", "v")
    assert rules(alice={"allow": ["s[1]/t[2]"]}).of(ALICE).allows("s[1]", "t[2]")


patterns = st.lists(st.text("ab/*?", min_size=1, max_size=6), max_size=3)
names = st.text("ab/", min_size=1, max_size=4)
entries = st.lists(st.builds(AccessEntry, st.none() | patterns.map(tuple), patterns.map(tuple)), max_size=3)


@given(entries, names, names)
def test_nothing_is_allowed_that_no_entry_allows_or_that_one_denies(some: list[AccessEntry], server: str, tool: str):
    """As by the words of the documentation, written out for one tool."""
    access = Access(some)
    allowed = any(
        entry.allow is None
        or any(
            covers_server(each, server) or any(fnmatchcase(tool, glob) for glob in tool_globs(each, server))
            for each in entry.allow
        )
        for entry in some
    )
    denied = any(
        fnmatchcase(server, each) or ("/" in each and fnmatchcase(f"{server}/{tool}", each))
        for entry in some
        for each in entry.deny
    )
    assert access.allows(server, tool) == (allowed and not denied)
    assert access.touches(server) or not (access.serves(server) or access.allows(server, tool))


@given(entries, st.builds(AccessEntry, st.just(()), patterns.map(tuple)), names, names)
def test_an_entry_that_only_denies_never_adds_anything(
    some: list[AccessEntry], more: AccessEntry, server: str, tool: str
):
    """Neither a tool nor a server as a whole."""
    before, after = Access(some), Access([*some, more])
    assert before.allows(server, tool) or not after.allows(server, tool)
    assert before.serves(server) or not after.serves(server)


# --- bounds, and what is said of entries ---------------------------------------------------------------------------


def test_decisions_are_shared_and_bounded():
    """Tokens with ever other grants do not fill the memory."""
    each = AccessRules({f"scope:{number}": AccessEntry() for number in range(10)})
    assert each.of(subject("a", "1")) is each.of(subject("b", "1", "other"))
    for number in range(1 << 10):
        each.of(subject("a", *(str(bit) for bit in range(10) if number >> bit & 1)))
    assert len(each._known) == MOST_KEPT  # pyright: ignore[reportPrivateUsage]


def test_entries_that_apply_to_nobody_are_found():
    """Over stdio all but `*`; with an authorization server its subjects and scopes are unknown."""
    each = AccessRules({name: AccessEntry() for name in ("alice", "person:bob", "oauth:i#s", "scope:x", "*", "carol")})
    assert each.useless(people=(), tokens=False) == ["alice", "person:bob", "oauth:i#s", "scope:x", "carol"]
    assert each.useless(people=("alice", "bob"), tokens=False) == ["oauth:i#s", "carol"]
    assert each.useless(people=("alice",), tokens=True) == ["person:bob"]
