"""Servers that work on one folder: calls of one turn, sent without waiting, come to what they come to one by one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Json, records, text_of
from tests.support.peers import npm_bin, script_of
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

ROUNDS = 5
LARGE = 1_000_000
"""Characters of a file that takes a while to write."""

FILES = {
    "read_text_file": {"reads": ["{path:file}"]},
    "get_file_info": {"reads": ["{path:file}"]},
    "list_directory": {"reads": ["{path:file}"]},
    "write_file": {"writes": ["{path:file}"]},
    "edit_file": {"writes": ["{path:file}"]},
    "move_file": {"writes": ["{source:file}", "{destination:file}"]},
    "create_directory": {"writes": ["{path:file}"]},
}
SETTINGS: dict[str, Callable[[Path], tuple[Json, Json]]] = {
    "one name": lambda folder: ({"state": "workspace"}, {"state": "workspace"}),
    "files and a folder": lambda folder: (
        {"state": f"files:{folder.parent}", "tools": FILES},
        {"state": f"files:{folder}"},
    ),
    "files and repo_path": lambda folder: ({"tools": FILES}, {"writes": ["{repo_path:file}"]}),
    "the folder for both": lambda folder: ({"state": f"files:{folder}"}, {"state": f"files:{folder}/."}),
}
"""`asyncfc` of the file server and of the other one."""


def outcomes(wire: Wire, calls: list[tuple[str, Json]]) -> list[Json]:
    """Send all calls without waiting for an answer; then collect the results, in order."""
    sent = [wire.start_call(tool, arguments) for tool, arguments in calls]
    ids = [records(pending.result())[0]["future_id"] for pending in sent]
    return [wire.outcome(future) for future in ids]


def git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def repository(folder: Path) -> Path:
    """A repository with a file that differs between two branches."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for key, value in (("user.name", "n"), ("user.email", "e@x")):
        git(folder, "config", key, value)
    (folder / "a.txt").write_text("on main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    git(folder, "checkout", "-qb", "other")
    (folder / "a.txt").write_text("on other")
    git(folder, "commit", "-qam", "second")
    git(folder, "checkout", "-q", "main")
    return folder.resolve()


@pytest.mark.node
@pytest.mark.peers
@pytest.mark.parametrize("setting", SETTINGS)
def test_files_and_git_on_one_folder(stage: Stage, npm: Path, server_git: Path, setting: str) -> None:
    """A commit holds what was written before it; a read behind a checkout sees the other branch."""
    folder = repository(stage.folder / "repo")
    repo = {"repo_path": str(folder)}
    of_files, of_git = SETTINGS[setting](folder)
    bridge = stage.bridge(
        {
            "files": stage.entry(
                npm_bin(npm, "mcp-server-filesystem"), str(folder), asyncfc={"prefix": "", **of_files}
            ),
            "git": stage.entry(script_of(server_git, "mcp-server-git"), asyncfc={"prefix": "", **of_git}),
        }
    )
    bridge.wait_for_tools("write_file", "git_add")

    for number in range(ROUNDS):
        name, content = f"new{number}.txt", f"{number}" * LARGE
        results = outcomes(
            bridge,
            [
                ("write_file", {"path": str(folder / name), "content": content}),
                ("git_add", {**repo, "files": [name]}),
                ("git_commit", {**repo, "message": f"adds {name}"}),
                ("git_checkout", {**repo, "branch_name": "other"}),
                ("read_text_file", {"path": "a.txt"}),
                ("git_checkout", {**repo, "branch_name": "main"}),
                ("read_text_file", {"path": str(folder / "a.txt")}),
            ],
        )
        assert not [text_of(result) for result in results if result.get("isError")]
        assert [text_of(result) for result in (results[4], results[6])] == ["on other", "on main"]
        assert git(folder, "show", f"main:{name}") == content
        assert git(folder, "log", "-1", "--format=%s", "main").strip() == f"adds {name}"
    assert git(folder, "status", "--porcelain") == ""


@pytest.mark.node
@pytest.mark.peers
@pytest.mark.parametrize("state", ["workspace", "files:{folder}"])
def test_a_database_and_the_size_of_its_file(stage: Stage, npm: Path, server_sqlite: Path, state: str) -> None:
    """The tools of this server say nothing of their effects: with a common state they count as writes."""
    folder = (stage.folder / "data").resolve()
    folder.mkdir()
    database = folder / "x.db"
    own = {"prefix": "", "state": state.format(folder=folder)}
    bridge = stage.bridge(
        {
            "files": stage.entry(npm_bin(npm, "mcp-server-filesystem"), str(folder), asyncfc=own),
            "sqlite": stage.entry(
                script_of(server_sqlite, "mcp-server-sqlite"), "--db-path", str(database), asyncfc=own
            ),
        }
    )
    bridge.wait_for_tools("get_file_info", "write_query")
    calls: list[tuple[str, Json]] = [("create_table", {"query": "CREATE TABLE t (x TEXT)"})]
    for number in range(ROUNDS):
        insert = f"INSERT INTO t VALUES ('{str(number) * 200_000}')"
        calls += [("write_query", {"query": insert}), ("get_file_info", {"path": str(database)})]
    results = outcomes(bridge, calls)
    assert not [text_of(result) for result in results if result.get("isError")]
    sizes = [int(text_of(result).partition("size: ")[2].split()[0]) for result in results[2::2]]
    assert all(after - before >= 200_000 for before, after in zip([0, *sizes], sizes, strict=False))
    assert sizes[-1] == database.stat().st_size


@pytest.mark.node
def test_spellings_of_one_file(stage: Stage, npm: Path) -> None:
    """Writes and reads of one file by other names of it keep their order; the last write stays."""
    folder = (stage.folder / "data").resolve()
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("sub")
    (folder / "sub" / "also.txt").symlink_to("a.txt")
    (folder / "sub" / "a.txt").write_text("")
    files = stage.entry(
        npm_bin(npm, "mcp-server-filesystem"),
        str(folder),
        env={"HOME": str(folder)},
        asyncfc={"prefix": "", "tools": FILES},
    )
    bridge = stage.bridge({"files": files})
    bridge.wait_for_tools("write_file")
    names = ["sub/a.txt", f"{folder}/sub/a.txt", "link/a.txt", "link/../sub//./a.txt", "link/also.txt", "~/sub/a.txt"]
    calls: list[tuple[str, Json]] = []
    for number, (writes, reads) in enumerate(zip(names, [*names[1:], names[0]], strict=True)):
        content = f"{number} " * (LARGE // (number + 1))  # each is written quicker than the one before
        calls += [("write_file", {"path": writes, "content": content}), ("read_text_file", {"path": reads})]
    results = outcomes(bridge, calls)
    assert not [text_of(result) for result in results if result.get("isError")]
    for (_, written), result in zip(calls[::2], results[1::2], strict=True):
        assert text_of(result) == written["content"]
    assert (folder / "sub" / "a.txt").read_text() == calls[-2][1]["content"]


@pytest.mark.node
@pytest.mark.parametrize("grace_ms", [0, 1000])
def test_a_failed_edit_does_not_cancel_the_write_of_another_file(stage: Stage, npm: Path, grace_ms: int) -> None:
    """By annotation both touch the whole server; directly both are made, too."""
    folder = (stage.folder / "data").resolve()
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    bridge = stage.bridge(
        {"files": stage.entry(npm_bin(npm, "mcp-server-filesystem"), str(folder), asyncfc={"prefix": ""})},
        grace_ms=grace_ms,
    )
    bridge.wait_for_tools("write_file")
    edit = {"path": str(folder / "a.txt"), "edits": [{"oldText": "not there", "newText": "y"}]}
    write = {"path": str(folder / "b.txt"), "content": "B"}
    failed, written = outcomes(bridge, [("edit_file", edit), ("write_file", write)])
    assert failed["isError"] is True
    assert not written.get("isError")
    assert (folder / "b.txt").read_text() == "B"
