"""Random calls of one turn to real servers: their results and the state behind them are those of the same calls one
after another."""

from __future__ import annotations

import json
import re
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.test_effect_profiles import FIXED, git, repository
from tests.support.client import Json, records
from tests.support.peers import npm_bin, script_of
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NUMBERS = count()
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""Random part of the name of a temporary file, in an error of the file server."""


def plain(result: Json, folder: Path) -> str:
    """The result as the client sees it, without the name of the folder."""
    shown = {key: result[key] for key in ("content", "structuredContent", "isError") if result.get(key)}
    return TEMPORARY.sub("", json.dumps(shown, sort_keys=True).replace(str(folder), "FOLDER"))


def at(folder: Path, arguments: Json) -> Json:
    return json.loads(json.dumps(arguments).replace("FOLDER", str(folder)))


def assert_same(
    bridge: Wire, direct: Wire, calls: list[tuple[str, Json]], folders: tuple[Path, Path] = (Path("-"), Path("-"))
) -> None:
    """Send the calls through the bridge without waiting, and make them directly one by one, each in a folder of its
    own; every result is the same."""
    mine, other = folders
    sent = [bridge.start_call(tool, at(mine, arguments)) for tool, arguments in calls]
    ids = [records(pending.result())[0]["future_id"] for pending in sent]
    results = [plain(bridge.outcome(future), mine) for future in ids]
    expected = [plain(direct.call(tool, at(other, arguments)), other) for tool, arguments in calls]
    assert list(zip(calls, results, strict=True)) == list(zip(calls, expected, strict=True))


# --- files -----------------------------------------------------------------------------------------------------------

PLACES = st.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/a", "link/a", "d/../b", "./a"])
PATHS = PLACES.map(lambda place: f"FOLDER/{place}")
TEXTS = st.sampled_from(["x", "y" * 200_000, "z"])


def call(tool: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Json]]:
    return st.fixed_dictionaries(arguments).map(lambda made: (tool, made))


FILE_CALLS = st.one_of(
    call("write_file", path=PATHS, content=TEXTS),
    call("write_file", path=PATHS, content=TEXTS),
    call("read_text_file", path=PATHS),
    call("read_multiple_files", paths=st.lists(PATHS, min_size=1, max_size=3)),
    call("edit_file", path=PATHS, edits=st.just([{"oldText": "x", "newText": "xx"}])),
    call("create_directory", path=PATHS),
    call("move_file", source=PATHS, destination=PATHS),
    call("list_directory", path=PATHS),
    call("directory_tree", path=PATHS),
    call("search_files", path=PATHS, pattern=st.just("**")),
)


@pytest.fixture(scope="module")
def files(shared_stage: Stage, npm: Path) -> tuple[Wire, Wire, Path]:
    root = (shared_stage.folder / "files").resolve()
    root.mkdir()
    entry = shared_stage.entry(npm_bin(npm, "mcp-server-filesystem"), str(root), asyncfc={"prefix": ""})
    bridge = shared_stage.bridge({"files": entry}, grace_ms=0)
    bridge.wait_for_tools("write_file")
    return bridge, shared_stage.direct(entry), root


def contents(folder: Path) -> Json:
    return {str(path.relative_to(folder)): path.is_file() and path.read_text() for path in sorted(folder.rglob("*"))}


@pytest.mark.node
@FEW
@given(st.lists(FILE_CALLS, min_size=2, max_size=12))
def test_files(files: tuple[Wire, Wire, Path], calls: list[tuple[str, Json]]) -> None:
    """Writes, moves and new folders among reads and listings, by several names of each file."""
    bridge, direct, root = files
    folders = (root / f"at once {(number := next(NUMBERS))}", root / f"in turn {number}")
    for folder in folders:
        (folder / "d").mkdir(parents=True)
        (folder / "link").symlink_to("d")
        (folder / "b").write_text("x")
    assert_same(bridge, direct, calls, folders)
    mine, other = (contents(folder) for folder in folders)
    assert mine == other
    for folder in folders:
        shutil.rmtree(folder)


# --- memory ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["A", "B", "C"])
RELATIONS = st.fixed_dictionaries({"from": NAMES, "to": NAMES, "relationType": st.just("knows")})
MEMORY_CALLS = st.one_of(
    call(
        "create_entities",
        entities=NAMES.map(lambda name: [{"name": name, "entityType": "t", "observations": ["0"]}]),
    ),
    call("create_relations", relations=st.lists(RELATIONS, min_size=1, max_size=2)),
    call("add_observations", observations=NAMES.map(lambda name: [{"entityName": name, "contents": [name * 1000]}])),
    call("delete_entities", entityNames=st.lists(NAMES, min_size=1, max_size=1)),
    call("delete_relations", relations=st.lists(RELATIONS, min_size=1, max_size=1)),
    call("read_graph"),
    call("open_nodes", names=st.lists(NAMES, min_size=1, max_size=2)),
    call("search_nodes", query=NAMES),
)


@pytest.fixture(scope="module")
def memories(shared_stage: Stage, npm: Path) -> tuple[Wire, Wire]:
    memory = npm_bin(npm, "mcp-server-memory")
    entries = [
        shared_stage.entry(
            memory, env={"MEMORY_FILE_PATH": str(shared_stage.folder / f"{way}.jsonl")}, asyncfc={"prefix": ""}
        )
        for way in ("at once", "in turn")
    ]
    bridge = shared_stage.bridge({"memory": entries[0]}, grace_ms=0)
    bridge.wait_for_tools("read_graph")
    return bridge, shared_stage.direct(entries[1])


@pytest.mark.node
@FEW
@given(st.lists(MEMORY_CALLS, min_size=2, max_size=12))
def test_memory(memories: tuple[Wire, Wire], calls: list[tuple[str, Json]]) -> None:
    """The graph grows from one example to the next, and stays the same in both."""
    assert_same(*memories, [*calls, ("read_graph", {})])


# --- git -------------------------------------------------------------------------------------------------------------

REPOSITORIES = st.sampled_from(["one", "one/.git", "two", "linked"]).map(lambda name: f"FOLDER/{name}")
GIT_CALLS = st.one_of(
    call("files__write_file", path=st.sampled_from(["FOLDER/one/a.txt", "FOLDER/two/a.txt"]), content=TEXTS),
    call("files__read_text_file", path=st.sampled_from(["FOLDER/one/a.txt", "FOLDER/two/a.txt"])),
    call("git__git_add", repo_path=REPOSITORIES, files=st.just(["a.txt"])),
    call("git__git_commit", repo_path=REPOSITORIES, message=st.sampled_from(["m", "n"])),
    call("git__git_checkout", repo_path=REPOSITORIES, branch_name=st.sampled_from(["main", "new", "side"])),
    call("git__git_create_branch", repo_path=REPOSITORIES, branch_name=st.just("new")),
    call("git__git_branch", repo_path=REPOSITORIES, branch_type=st.just("local")),
    call("git__git_log", repo_path=REPOSITORIES),
    call("git__git_status", repo_path=REPOSITORIES),
    call("git__git_diff_unstaged", repo_path=REPOSITORIES),
    call("git__git_reset", repo_path=REPOSITORIES),
)


class Both:
    """The servers of one configuration, without the bridge."""

    def __init__(self, wires: dict[str, Wire]) -> None:
        self._wires = wires

    def call(self, name: str, arguments: Json) -> Json:
        server, _, tool = name.partition("__")
        return self._wires[server].call(tool, arguments)


@pytest.fixture(scope="module")
def repositories(shared_stage: Stage, npm: Path, server_git: Path) -> tuple[Wire, Any, Path]:
    root = (shared_stage.folder / "repositories").resolve()
    root.mkdir()
    entries = {
        "files": shared_stage.entry(npm_bin(npm, "mcp-server-filesystem"), str(root)),
        "git": shared_stage.entry(script_of(server_git, "mcp-server-git"), env=FIXED),
    }
    bridge = shared_stage.bridge(entries, grace_ms=0)
    bridge.wait_for_tools("files__write_file", "git__git_add")
    return bridge, Both({name: shared_stage.direct(entry) for name, entry in entries.items()}), root


@pytest.mark.node
@pytest.mark.peers
@settings(FEW, max_examples=8)
@given(st.lists(GIT_CALLS, min_size=2, max_size=10))
def test_git_and_files(repositories: tuple[Wire, Any, Path], calls: list[tuple[str, Json]]) -> None:
    """Two repositories, one of them with a second working tree, and files in them."""
    bridge, direct, root = repositories
    folders = (root / f"at once {(number := next(NUMBERS))}", root / f"in turn {number}")
    for folder in folders:
        folder.mkdir()
        repository(folder / "one")
        repository(folder / "two")
        git(folder / "one", "worktree", "add", "-q", "-b", "side", "../linked")
    assert_same(bridge, direct, calls, folders)
    for folder in folders:
        shutil.rmtree(folder)
