"""Placeholders of declared paths beyond the plain ones: optional, with a default, of the server, of folders above."""

import os
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.effects import Effect, conflict, declared_effect
from asyncfc_mcp.core.path_templates import arguments_of
from asyncfc_mcp.core.state_paths import MAX_DEPTH, ServerState
from asyncfc_mcp.core.state_roots import server_states
from tests.support.server_states import own_state


def effect(
    declared: str,
    arguments: dict[str, Any],
    state: ServerState | None = None,
    *,
    reads: bool = False,
    unknown: Any = (),
) -> Effect:
    """The effect of a call of a tool with one declared path; the values in `unknown` are references."""
    paths = ([declared], []) if reads else ([], [declared])
    template = declared_effect(state or own_state("s"), *paths, "declared", None)
    return template.bind(arguments, lambda value: value in unknown)


def local(folder: Path, *args: str, **env: str) -> ServerState:
    spec = StdioSpec("server", args=args, env=env, cwd=str(folder))
    return server_states([ServerConfig("s", spec)])["s"]


def meets(a: Effect, b: Effect) -> bool:
    return conflict(a, b) is not None


@pytest.mark.parametrize(
    ("declared", "arguments", "paths"),
    [
        ("x/{a?}", {"a": "1"}, [("s", "x", "1")]),
        ("x/{a?}", {}, []),
        ("x/{a?}", {"a": None}, []),
        ("x/{a?}/{b}", {"b": "1"}, []),
        ("x/{a?}", {"a": ""}, [("s", "x")]),
        ("x/{a?}", {"a": "ref"}, [("s", "x")]),
        ("x/{a=d/e}", {}, [("s", "x", "d", "e")]),
        ("x/{a=d}", {"a": None}, [("s", "x", "d")]),
        ("x/{a=d}", {"a": "1"}, [("s", "x", "1")]),
        ("x/{a.b?}", {"a": [{"b": "1"}, {}, {"b": "2"}]}, [("s", "x", "1"), ("s", "x", "2")]),
        ("x/{a.b?}", {"a": "text"}, [("s", "x")]),
        ("x/{a.b=d}", {"a": [{"b": "1"}, {}]}, [("s", "x", "1"), ("s", "x", "d")]),
        ("x/{a:nocase}", {"a": "OctoCat/STRASSE"}, [("s", "x", "octocat", "strasse")]),
        ("x/{a:other}", {"a:other": "1"}, [("s", "x", "1")]),
    ],
)
def test_optional_arguments_defaults_and_case(declared: str, arguments: dict[str, Any], paths: list[tuple[str, ...]]):
    """An argument that a call leaves out means nothing or its default; one that is not known yet means anything."""
    assert list(effect(declared, arguments, unknown=("ref",)).writes) == paths


def test_the_names_of_arguments_in_a_path():
    """Constants of the server are no arguments."""
    text = "x/{a}/{b.c?}/{d=1:nocase}{{no}}{--e:file}{$F:file}{*:file}"
    assert arguments_of(text) == {"a", "b.c", "d"}
    assert arguments_of(text, optional=False) == {"a"}


@pytest.mark.parametrize(
    ("args", "env", "declared", "name"),
    [
        (("--db", "one.db"), {}, "{--db=d.db:file}", "one.db"),
        (("--db=one.db",), {}, "{--db=d.db:file}", "one.db"),
        ((), {}, "{--db=d.db:file}", "d.db"),
        ((), {"DB": "one.db"}, "{$DB:file}", "one.db"),
    ],
)
def test_a_file_that_the_server_was_given(tmp_path: Path, args: Any, env: Any, declared: str, name: str):
    """By its command line or its environment, else the default: the same for every call, no argument of a call."""
    state = local(tmp_path, *args, **env)
    mine = effect(declared, {"--db": "other", "$DB": "other"}, state)
    assert meets(mine, effect("{p:file}", {"p": str(tmp_path / name)}, state))
    assert not meets(mine, effect("{p:file}", {"p": "other"}, state))
    assert not declared_effect(state, [], [declared], "declared", None).placeholders


def test_a_file_that_the_server_was_not_given(tmp_path: Path):
    """An optional one is none, another is every file."""
    state = local(tmp_path)
    assert effect("{--db?:file}", {}, state).writes == ()
    assert meets(effect("{--db:file}", {}, state), effect("{p:file}", {"p": "/any"}, state))
    assert meets(effect("{*:file}", {"*": "x"}, state), effect("{p:file}", {"p": "/any"}, state))


def test_a_folder_that_the_server_was_given_is_for_relative_names(tmp_path: Path):
    """An absolute name is declared on its own."""
    state = local(tmp_path, BOOKS=str(tmp_path / "books"))
    mine = effect("{$BOOKS?:file}/{p}", {"p": "a.xlsx"}, state)
    assert meets(mine, effect("{p:file}", {"p": str(tmp_path / "books" / "a.xlsx")}, state))
    assert not meets(mine, effect("{p:file}", {"p": str(tmp_path / "books" / "b.xlsx")}, state))
    assert effect("{$BOOKS?:file}/{p}", {"p": "/a.xlsx"}, state).writes == ()
    assert meets(
        effect("{$BOOKS?:file}/{p}", {"p": "ref"}, state, unknown=("ref",)), effect("{p:file}", {"p": "/x"}, state)
    )


def test_a_folder_that_is_made_with_those_above(tmp_path: Path):
    """What needs one of them waits, whatever it is called; what is beside them does not."""
    (tmp_path / "link").symlink_to("a")
    state = local(tmp_path)
    made = effect("{p:folders}", {"p": "a/b/c"}, state)

    def needs(path: str) -> bool:
        return meets(made, effect("{p:folder}", {"p": path}, state, reads=True))

    assert needs("a/x")
    assert needs("a/b/x")
    assert needs("link/x")
    assert needs(str(tmp_path / "a" / "x"))
    assert not needs("x")
    assert not needs("d/x")
    assert not needs("a/b/c/x/y")
    assert meets(made, effect("{p:file}", {"p": "."}, state, reads=True))
    assert meets(made, effect("{p:folder}", {"p": "ref"}, state, reads=True, unknown=("ref",)))
    deep = "/".join(["d"] * (2 * MAX_DEPTH))
    assert meets(effect("{p:folders}", {"p": f"{deep}/e"}, state), effect("{p:folder}", {"p": f"{deep}/f"}, state))


def test_folders_of_a_server_elsewhere_are_its_own():
    """Up to the top, since its folders are unknown."""
    state = server_states([ServerConfig("s", HttpSpec("https://x.example/mcp"))])["s"]
    made = effect("{p:folders}", {"p": "/a/b/c"}, state)
    assert meets(made, effect("{p:folder}", {"p": "/a/x"}, state, reads=True))
    assert not meets(made, effect("{p:folder}", {"p": "/x"}, state, reads=True))


def repository(folder: Path) -> None:
    (folder / ".git" / "worktrees" / "w").mkdir(parents=True)


def test_working_trees_of_one_repository_are_one(tmp_path: Path):
    """A linked one has its branches in common with the main one; another repository is another."""
    repository(tmp_path / "main")
    (tmp_path / "linked").mkdir()
    data = tmp_path / "main" / ".git" / "worktrees" / "w"
    (tmp_path / "linked" / ".git").write_text(f"gitdir: {data}\n")
    (data / "commondir").write_text("../..\n")
    repository(tmp_path / "other")
    state = local(tmp_path)

    def repo(path: str, *, reads: bool = False) -> Effect:
        return effect("{p:repository}", {"p": path}, state, reads=reads)

    assert meets(repo("linked"), repo("main", reads=True))
    assert meets(repo("main"), repo("linked", reads=True))
    assert meets(repo("main/.git/"), effect("{p:file}", {"p": "main/a.txt"}, state))
    assert meets(repo("linked/.git"), effect("{p:file}", {"p": "linked/a.txt"}, state))
    assert not meets(repo("other"), repo("linked", reads=True))
    assert meets(repo("$HOME/x"), repo("other")), "Git libraries expand variables"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"gitdir: \x00", b"x" * 100_000, b"gitdir: ../main/.git"])
def test_a_strange_file_in_place_of_the_data_is_no_problem(tmp_path: Path, content: bytes):
    """Whatever it is, the working tree itself is in the effect."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".git").write_bytes(content)
    state = local(tmp_path)
    assert meets(effect("{p:repository}", {"p": "r"}, state), effect("{p:file}", {"p": "r/a"}, state))


def test_a_pipe_in_place_of_the_data_is_not_opened(tmp_path: Path):
    """It would block the bridge."""
    (tmp_path / "r").mkdir()
    os.mkfifo(tmp_path / "r" / ".git")
    state = local(tmp_path)
    assert meets(effect("{p:repository}", {"p": "r"}, state), effect("{p:file}", {"p": "r/a"}, state))
