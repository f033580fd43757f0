"""Sharing of servers between sessions: the decision from a server's configuration and its profile."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.bridge.server_profiles import ServerProfiles
from asyncfc_mcp.bridge.sharing import relative_part, sharing_of, words_of
from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.effect_profiles import EffectProfile
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_roots import server_states, session_state


def spec(line: str, **more: Any) -> StdioSpec:
    command, *args = line.split()
    return StdioSpec(command, tuple(args), **more)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("./server", "its command"),
        ("bin/server", "its command"),
        (r".\server.exe", "its command"),
        ("server", None),
        ("/usr/bin/server", None),
        (r"C:\bin\server.exe", None),
        ("python server.py", "argument 1 of its command"),
        ("python -u src/server.py", "argument 2 of its command"),
        ("python /srv/server.py", None),
        ("python -m server", None),
        ("node dist/index.js", "argument 1 of its command"),
        ("npx -y @scope/server .", "argument 3 of its command"),
        ("npx -y @scope/server --root=../x", "argument 3 of its command"),
        ("npx -y @scope/server@1.2.3 --root /x --flag=./", "argument 5 of its command"),
        ("npx -y @scope/server --config=server.json", "argument 3 of its command"),
        ("npx -y @scope/server --config=/x/server.json", None),
        ("npx -y owner/package#v1", None),
        ("uvx mcp-server-git==2026.1", None),
        ("docker run -i mcp/server:1.0", None),
        ("x https://example.com/a.json", None),
        ("uv run server", "uv run"),
        ("uv run --directory /srv/x server", None),
        ("uv --directory ./x run server", "argument 2 of its command"),
        ("npm start", "npm start"),
        ("npm exec server", None),
        ("cargo run --manifest-path=/x/Cargo.toml", None),
    ],
)
def test_what_depends_on_the_working_directory(line: str, part: str | None):
    """Paths and projects do, names of packages, images and programs do not."""
    assert relative_part(spec(line)) == part


def test_a_directory_of_the_configuration_counts_for_relative_paths():
    """An absolute one makes all of them the same for every session; a relative one none of them."""
    assert relative_part(spec("./server", cwd="/srv")) is None
    assert relative_part(spec("server", cwd="sub")) == "its cwd"
    assert relative_part(spec("server", env={"DB": "./data", "URL": "a/b"})) == "its variable DB"


STATES = {
    state: EffectProfile(f"p-{state}", {}, (), state, "a browser") for state in ("none", "folder", "session", "shared")
}


@pytest.mark.parametrize(
    ("share", "line", "state", "per_session"),
    [
        ("auto", "server", None, False),
        ("auto", "server", "none", False),
        ("auto", "server", "shared", False),
        ("auto", "server", "folder", True),
        ("auto", "server", "session", True),
        ("auto", "./server", None, True),
        ("auto", "./server", "none", True),
        ("user", "./server", "session", False),
        ("session", "server", "none", True),
    ],
)
def test_the_setting_then_the_profile_then_the_command(share: Any, line: str, state: str | None, per_session: bool):
    """And the reason says which of them it was."""
    sharing = sharing_of(ServerConfig("s", spec(line), share=share), None if state is None else STATES[state])
    assert sharing.per_session is per_session
    if share != "auto":
        assert sharing.reason == f'"share": "{share}"'
    elif state in ("folder", "session"):
        assert sharing.reason == f"a browser (profile p-{state})"
    elif per_session:
        assert "working directory" in sharing.reason


def test_a_server_at_a_url_is_shared_unless_the_setting_says_otherwise():
    """Its sessions are the remote side's, and its address does not depend on a folder."""
    at_url = HttpSpec("http://h/mcp")
    assert not sharing_of(ServerConfig("s", at_url), STATES["session"]).per_session
    assert sharing_of(ServerConfig("s", at_url, share="session"), None).per_session


def test_a_well_known_server_is_known_by_its_command_line():
    """Before its first start, when nothing that it lists is known."""
    server = ServerConfig("browser", spec("npx -y @playwright/mcp@latest"))
    sharing = sharing_of(server, ServerProfiles().expect("auto", words_of(server)))
    assert sharing.per_session
    assert sharing.reason == "a browser with its tabs (profile playwright)"


def test_instances_have_places_of_their_own_in_the_state_tree(tmp_path: Path):
    """Apart for each conversation and the same in each run, but where the configuration says where the state is. Files
    are found from the session's folder, and are the same for all."""
    servers = [ServerConfig("s", spec("server")), ServerConfig("named", spec("server"), state="workspace")]
    common = server_states(servers)
    places: dict[str, list[ServerState]] = {"s": [], "named": []}
    for server in servers:
        for conversation in ("a", "b", "a"):
            started = replace(server, spec=spec("server").in_session(str(tmp_path / conversation), {"HOME": "/h"}))
            places[server.name].append(session_state(started, common[server.name], conversation))
    a, b, again = places["s"]
    assert not a.meets(b)
    assert a.root == again.root
    assert a.meets(common["s"])
    assert {each.root for each in places["named"]} == {common["named"].root}
    (of_a,), (of_b,) = a.locate(["x.txt"]) or [()], b.locate(["x.txt"]) or [()]
    assert (of_a[-2:], of_b[-2:]) == (("a", "x.txt"), ("b", "x.txt"))
    assert a.locate(["/shared"]) == b.locate(["/shared"])
