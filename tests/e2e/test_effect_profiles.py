"""Effect profiles over the real servers: calls of one turn that conflict give the sequential result, others overlap."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.core.test_effect_profiles import real_tools
from tests.support.peers import npm_bin, python_of, script_of
from tests.support.stage import Stage
from tests.support.turns import Turn, check

Servers = Mapping[str, tuple[Sequence[str], Mapping[str, str]]]
FIXED = {
    "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e@x", "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "e@x",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip
"""Environment in which two runs make the same commits."""


def git(folder: Path, *args: str) -> None:
    """Run Git with the author and the date of all tests."""
    command = ["git", "-C", str(folder), *args]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **FIXED})


def repository(folder: Path) -> None:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("a\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")


@pytest.mark.node
def test_filesystem(stage: Stage, npm: Path) -> None:
    """By real path; a move writes both names, a listing reads the folder, a folder is made with those above it."""

    def prepare(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "k.txt").write_text("k")
        (folder / "link").symlink_to("sub")
        (folder / "other").mkdir()

    check(
        stage,
        Turn(
            lambda folder: {"files": ([npm_bin(npm, "mcp-server-filesystem"), str(folder)], {})},
            [
                ("files", "write_file", {"path": "FOLDER/a.txt", "content": "a"}, True),
                ("files", "write_file", {"path": "FOLDER/b.txt", "content": "b"}, True),
                ("files", "list_directory", {"path": "FOLDER/other"}, True),
                ("files", "list_allowed_directories", {}, True),
                ("files", "read_text_file", {"path": "a.txt"}, False),
                ("files", "read_multiple_files", {"paths": ["FOLDER/sub/k.txt", "FOLDER/other/none.txt"]}, True),
                ("files", "read_multiple_files", {"paths": ["FOLDER/sub/k.txt", "FOLDER/b.txt"]}, False),
                ("files", "create_directory", {"path": "FOLDER/x/y/z"}, True),
                ("files", "write_file", {"path": "FOLDER/x/f.txt", "content": "f"}, False),
                ("files", "read_text_file", {"path": "FOLDER/x/none.txt"}, False),
                ("files", "write_file", {"path": "FOLDER/other/g.txt", "content": "g"}, False),
                ("files", "move_file", {"source": "FOLDER/link/k.txt", "destination": "FOLDER/m.txt"}, False),
                ("files", "read_text_file", {"path": "FOLDER/sub/k.txt"}, False),
                ("files", "read_text_file", {"path": "FOLDER/m.txt"}, False),
                (
                    "files",
                    "edit_file",
                    {"path": "FOLDER/m.txt", "edits": [{"oldText": "k", "newText": "n"}]},
                    False,
                ),
                ("files", "search_files", {"path": "FOLDER/x", "pattern": "**/*.txt"}, False),
                ("files", "directory_tree", {"path": "FOLDER"}, False),
                ("files", "read_media_file", {"path": "FOLDER/other/none.png"}, True),
            ],
            prepare,
        ),
    )


@pytest.mark.node
def test_memory(stage: Stage, npm: Path) -> None:
    """Every change reads and writes the whole graph; what only looks overlaps. The file is one of the file tree."""
    entity = {"name": "A", "entityType": "t", "observations": ["1"]}
    check(
        stage,
        Turn(
            lambda folder: {
                "memory": ([npm_bin(npm, "mcp-server-memory")], {"MEMORY_FILE_PATH": str(folder / "memory.jsonl")}),
                "files": ([npm_bin(npm, "mcp-server-filesystem"), str(folder)], {}),
            },
            [
                ("memory", "read_graph", {}, True),
                ("memory", "search_nodes", {"query": "A"}, True),
                ("memory", "create_entities", {"entities": [entity]}, False),
                ("memory", "create_entities", {"entities": [entity | {"name": "B"}]}, False),
                ("memory", "add_observations", {"observations": [{"entityName": "A", "contents": ["2"]}]}, False),
                ("memory", "create_relations", {"relations": [{"from": "A", "to": "B", "relationType": "r"}]}, False),
                ("memory", "open_nodes", {"names": ["A", "B"]}, False),
                ("files", "read_text_file", {"path": "FOLDER/memory.jsonl"}, False),
                ("memory", "delete_relations", {"relations": [{"from": "A", "to": "B", "relationType": "r"}]}, False),
                ("memory", "delete_observations", {"deletions": [{"entityName": "A", "observations": ["1"]}]}, False),
                ("memory", "delete_entities", {"entityNames": ["B"]}, False),
                ("memory", "read_graph", {}, False),
            ],
        ),
    )


@pytest.mark.node
@pytest.mark.peers
def test_git_and_files(stage: Stage, npm: Path, server_git: Path) -> None:
    """By repository, in the tree of files; a linked working tree belongs to its repository."""

    def prepare(folder: Path) -> None:
        repository(folder / "one")
        repository(folder / "two")
        git(folder / "one", "worktree", "add", "-q", "-b", "side", "../linked")

    one, two, linked = ({"repo_path": f"FOLDER/{name}"} for name in ("one", "two", "linked"))
    check(
        stage,
        Turn(
            lambda folder: {
                "files": ([npm_bin(npm, "mcp-server-filesystem"), str(folder)], {}),
                "git": ([script_of(server_git, "mcp-server-git")], FIXED),
            },
            [
                ("git", "git_status", two, True),
                ("git", "git_log", one, True),
                ("files", "read_text_file", {"path": "FOLDER/one/a.txt"}, True),
                ("files", "write_file", {"path": "FOLDER/one/b.txt", "content": "b\n"}, False),
                ("git", "git_add", {**one, "files": ["b.txt"]}, False),
                ("git", "git_diff_staged", one, False),
                ("git", "git_commit", {**one, "message": "second"}, False),
                ("git", "git_create_branch", {**linked, "branch_name": "new"}, False),
                ("git", "git_branch", {"repo_path": "FOLDER/one/.git", "branch_type": "local"}, False),
                ("git", "git_diff", {**two, "target": "main"}, True),
                ("git", "git_checkout", {**two, "branch_name": "none"}, False),
                ("files", "write_file", {"path": "FOLDER/two/a.txt", "content": "c\n"}, False),
                ("git", "git_diff_unstaged", two, False),
                ("git", "git_add", {**two, "files": ["a.txt"]}, False),
                ("git", "git_reset", two, False),
                ("git", "git_status", two, False),
                ("git", "git_show", {**one, "revision": "HEAD"}, False),
            ],
            prepare,
        ),
    )


@pytest.mark.node
@pytest.mark.peers
def test_sqlite_and_its_file(stage: Stage, npm: Path, server_sqlite: Path) -> None:
    """The database of the command line, wherever another server meets it; two databases are two."""
    sqlite = script_of(server_sqlite, "mcp-server-sqlite")
    check(
        stage,
        Turn(
            lambda folder: {
                "files": ([npm_bin(npm, "mcp-server-filesystem"), str(folder)], {}),
                "one": ([sqlite, "--db-path", str(folder / "one.db")], {}),
                "two": ([sqlite, "--db-path=two.db"], {}),
            },
            [
                ("one", "list_tables", {}, True),
                ("two", "create_table", {"query": "CREATE TABLE u (x TEXT)"}, True),
                ("one", "append_insight", {"insight": "one"}, True),
                ("one", "append_insight", {"insight": "two"}, False),
                ("one", "create_table", {"query": "CREATE TABLE t (x TEXT)"}, False),
                ("one", "write_query", {"query": "INSERT INTO t VALUES ('a')"}, False),
                ("one", "read_query", {"query": "SELECT * FROM t"}, False),
                ("one", "describe_table", {"table_name": "t"}, False),
                ("two", "write_query", {"query": "INSERT INTO u VALUES ('b')"}, False),
                ("two", "list_tables", {}, False),
                ("files", "move_file", {"source": "FOLDER/two.db", "destination": "FOLDER/three.db"}, False),
                ("files", "list_directory", {"path": "FOLDER"}, False),
            ],
        ),
    )


@pytest.mark.node
def test_everything(stage: Stage, npm: Path) -> None:
    """What only answers overlaps; what is kept for the session is in order."""
    data = {"data": "data:text/plain,x", "outputType": "resourceLink"}
    check(
        stage,
        Turn(
            lambda folder: {"everything": ([npm_bin(npm, "mcp-server-everything")], {})},
            [
                ("everything", "echo", {"message": "a"}, True),
                ("everything", "get-sum", {"a": 1, "b": 2}, True),
                ("everything", "get-tiny-image", {}, True),
                ("everything", "get-structured-content", {"location": "New York"}, True),
                ("everything", "trigger-long-running-operation", {"duration": 0.1, "steps": 1}, True),
                ("everything", "gzip-file-as-resource", {"name": "a.gz", **data}, True),
                ("everything", "gzip-file-as-resource", {"name": "b.gz", **data}, True),
                ("everything", "gzip-file-as-resource", {"name": "a.gz", **data}, False),
                ("everything", "toggle-simulated-logging", {}, True),
                ("everything", "toggle-subscriber-updates", {}, True),
                ("everything", "toggle-simulated-logging", {}, False),
                ("everything", "toggle-subscriber-updates", {}, False),  # off again: it keeps the server running
            ],
        ),
    )


@pytest.mark.peers
def test_time(stage: Stage, server_time: Path) -> None:
    """Nothing is touched."""
    convert = {"source_timezone": "Europe/Paris", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    check(
        stage,
        Turn(
            lambda folder: {"time": ([python_of(server_time), "-m", "mcp_server_time"], {})},
            [("time", "convert_time", convert, True), ("time", "convert_time", convert, True)],
        ),
    )


@pytest.mark.node
def test_the_fixtures_are_the_servers_own_lists(stage: Stage, npm: Path) -> None:
    """Tools and arguments of the servers that are installed for tests anyway."""
    for profile, command in (
        ("filesystem", [npm_bin(npm, "mcp-server-filesystem"), str(stage.folder)]),
        ("memory", [npm_bin(npm, "mcp-server-memory")]),
        ("everything", [npm_bin(npm, "mcp-server-everything")]),
    ):
        listed = stage.wire(command).tools()
        real = real_tools(profile)
        for tool, definition in listed.items():
            assert sorted(definition["inputSchema"].get("properties", {})) == real[tool]["arguments"], tool
        # One tool is listed to clients with tasks only.
        assert real.keys() - listed.keys() <= {"simulate-research-query"}
