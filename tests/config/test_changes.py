"""Changes between two configurations."""

from dataclasses import fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.changes import AT_RESTART, changes, lost_servers
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig, StdioSpec, UnusableServer
from asyncfc_mcp.config.settings import AccessEntry, Policy, Settings

SPECS = st.one_of(
    st.builds(StdioSpec, st.sampled_from(["a", "b"]), env=st.dictionaries(st.just("K"), st.sampled_from(["1", "2"]))),
    st.builds(HttpSpec, st.sampled_from(["http://a/", "http://b/"])),
)
POLICIES = st.builds(
    Policy,
    timeout_s=st.sampled_from([None, 1.0]),
    max_message_bytes=st.sampled_from([1, 64 << 20]),
    mode=st.sampled_from(["future", "sync"]),
)


def servers(name: str) -> st.SearchStrategy[ServerConfig]:
    return st.builds(
        ServerConfig,
        st.just(name),
        SPECS,
        exclude=st.sampled_from([(), ("x",)]),
        base=POLICIES,
        share=st.sampled_from(["auto", "session"]),
    )


NAMES = st.lists(st.sampled_from("pqrs"), unique=True, min_size=1)
SERVERS = NAMES.flatmap(lambda names: st.tuples(*map(servers, names)))
SETTINGS = st.builds(
    Settings,
    max_wait_s=st.sampled_from([1.0, 2.0]),
    access=st.sampled_from([None, {"*": AccessEntry(("p",))}]),
    required_scopes=st.sampled_from([{}, {"*": ("mcp",)}]),
)
CONFIGS = st.builds(
    BridgeConfig,
    SERVERS,
    SETTINGS,
    warnings=st.sampled_from([(), ("look",)]),
    unusable=st.sampled_from([(), (UnusableServer("z", "wrong"),)]),
)


@given(CONFIGS, CONFIGS)
def test_the_changes_of_two_configurations_lead_from_the_first_to_the_second(old: BridgeConfig, new: BridgeConfig):
    """Nothing of the second is lost, whatever the first was, and no server is in two groups."""
    found = changes(old, new)
    assert found.applied(old) == new
    assert not found.needs_restart
    touched = [*(s.name for s in (*found.added, *found.restarted, *found.updated)), *found.removed]
    assert len(touched) == len(set(touched))
    unchanged = [server for server in new.servers if server in old.servers]
    assert not {server.name for server in unchanged} & set(touched)


@given(CONFIGS)
def test_no_change_is_no_work(config: BridgeConfig):
    """A file that was touched, or written as it was, has nothing restarted."""
    assert changes(config, config).lines() == []


def other(value: Any) -> Any:
    """Another value of a setting."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case None:
            return "x"
        case str():
            return value + "x"
        case _:
            return {"x": "x"}


def test_settings_that_need_a_restart_are_named_and_do_not_count():
    """Each setting either applies, or is said to count later."""
    old = BridgeConfig((ServerConfig("a", StdioSpec("a")),))
    for each in fields(Settings):
        value = other(getattr(old.settings, each.name))
        found = changes(old, replace(old, settings=replace(old.settings, **{each.name: value})))
        if each.name in AT_RESTART:
            assert found.needs_restart == (each.name,)
            assert found.applied(old) == old
        else:
            assert found.needs_restart == ()
            assert getattr(found.applied(old).settings, each.name) == value


def test_servers_of_one_replica_at_a_time_change_at_the_next_start():
    """With a database, which replica runs a process was agreed at the start; its policy can change at once."""
    file, url = ServerConfig("file", StdioSpec("a")), ServerConfig("url", HttpSpec("http://a/"))
    old = BridgeConfig((file, url), Settings(engine="postgresql://db/x"))
    added, moved = ServerConfig("more", StdioSpec("b")), ServerConfig("url", HttpSpec("http://b/"))
    found = changes(old, replace(old, servers=(replace(file, exclude=("x",)), moved, added)))
    assert [server.name for server in found.updated] == ["file"]
    assert [server.name for server in found.restarted] == ["url"]
    assert found.needs_restart == ("server more",)
    gone = changes(old, replace(old, servers=(url,)))
    assert gone.needs_restart == ("server file",)
    assert gone.applied(old).servers == (url, file)


def test_the_first_server_with_credentials_of_callers_counts_at_the_next_start():
    """Others follow it at once. One that gets such credentials only now stays as it was."""
    plain = ServerConfig("p", HttpSpec("http://a/"))
    caller = ServerConfig("p", HttpSpec("http://a/", caller_headers={"X-Key": "${caller:x-key}"}))
    another = replace(caller, name="q")
    found = changes(BridgeConfig((plain,)), BridgeConfig((caller, another)))
    assert found.needs_restart == ("server p", "server q")
    assert found.applied(BridgeConfig((plain,))).servers == (plain,)
    assert changes(BridgeConfig((caller,)), BridgeConfig((caller, another))).added == (another,)


def test_an_entry_that_became_invalid_is_told_from_a_new_one_that_is():
    """A slip in the entry of a running server is an error of the file; a new server is left out as at the start."""
    old = BridgeConfig((ServerConfig("a", StdioSpec("a")), ServerConfig("b", StdioSpec("b"))))
    new = BridgeConfig((old.servers[0],), unusable=(UnusableServer("b", "wrong"), UnusableServer("c", "wrong")))
    assert [each.name for each in lost_servers(old, new)] == ["b"]
