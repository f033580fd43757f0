"""Two spellings of one file always meet in the state tree, and two files never do."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core import file_paths, state_roots
from asyncfc_mcp.core.effects import Effect, conflict, declared_effect
from asyncfc_mcp.core.file_paths import MAX_FILES, FilePaths, LinkResolver, elsewhere
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_roots import folders_of, server_states, use_roots
from asyncfc_mcp.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there paths are read by their text")


def is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith("$f")


def state_of(spec: StdioSpec | HttpSpec, **more: Any) -> ServerState:
    return server_states([ServerConfig("s", spec, **more)])["s"]


def writing(state: ServerState, value: object, declared: str = "{path:file}") -> Effect:
    """The effect of a call that writes this file."""
    return declared_effect(state, None, [declared], "declared", None).bind({"path": value}, is_reference)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders, files and links: to files, folders, links, above themselves, to nothing, and in a circle."""
    root = tmp_path_factory.mktemp("world").resolve()
    for folder in ("data/sub/deep", "data/other", "outside/x"):
        (root / folder).mkdir(parents=True)
    for file in ("data/a", "data/b", "data/sub/a", "data/sub/deep/c", "outside/x/a", "data/A"):
        (root / file).write_text(file)
    for link, target in {
        "data/to_a": "a",
        "data/to_to_a": "to_a",
        "data/to_sub": "sub",
        "data/sub/up": "..",
        "data/to_outside": "../outside",
        "outside/back": str(root / "data"),
        "data/to_x": str(root / "outside/x/"),
        "data/to_nothing": "nothing/there",
        "data/circle": "circle2",
        "data/circle2": "circle",
    }.items():
        (root / link).symlink_to(target)
    return root


NAMES = [
    "a",
    "b",
    "c",
    "A",
    "sub",
    "deep",
    "other",
    "x",
    "to_a",
    "to_to_a",
    "to_sub",
    "up",
    "to_outside",
    "back",
    "to_x",
]
STEPS = st.lists(st.sampled_from([*NAMES, "..", ".", "", "new", "to_nothing"]), min_size=1, max_size=6)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, bool]:
    """Steps from the folder `data`, and whether they are given relative to it."""
    return "/".join(draw(STEPS)), draw(st.booleans())


@given(spellings(), spellings())
@settings(max_examples=600, deadline=None)
def test_spellings_of_one_file_always_conflict_and_of_two_never(
    world: Path, one: tuple[str, bool], other: tuple[str, bool]
):
    """The operating system's own resolution of both is the reference, as far as it can be determined."""
    data = world / "data"
    state = state_of(StdioSpec("x", (), {}, str(data)))
    texts = [text if relative else f"{data}/{text}" for text, relative in (one, other)]
    if not all(texts):
        return
    met = conflict(*(writing(state, text) for text in texts)) is not None
    paths = [os.path.join(data, text) for text in texts]
    physical = [os.path.realpath(path) for path in paths]
    by_text = [os.path.realpath(os.path.normpath(path)) for path in paths]
    for reading in (physical, by_text):
        first, second = (Path(path) for path in reading)
        if first == second or first in second.parents or second in first.parents:
            assert met, texts
    if not any(".." in text for text in texts) and physical == by_text:
        # A link's own place counts as well: moving the link there changes what is read through it.
        places = [
            {
                Path(real),
                *([Path(os.path.realpath(os.path.dirname(p.rstrip("/.")))) / os.path.basename(p.rstrip("/."))]),
            }
            for real, p in zip(physical, paths, strict=True)
        ]
        related = any(a == b or a in b.parents or b in a.parents for a in places[0] for b in places[1])
        if not related and not any("to_to" in text or "to_nothing" in text for text in texts):
            assert not met, texts


@pytest.mark.parametrize(
    "spelled",
    [
        "a", "./a", "sub/../a", "{data}/a", "{data}//sub/./../a", "to_a", "to_to_a", "to_sub/up/a", "to_outside/back/a",
        "file://{data}/a", "file://localhost{data}/a", "FILE:{data}/%61", "~/data/a", "{data}/../outside/back/a",
    ],
)  # fmt: skip
def test_these_are_one_file(world: Path, spelled: str):
    """Relative, absolute, by links, as a URI, from the home folder."""
    state = state_of(StdioSpec("x", (), {"HOME": str(world)}, str(world / "data")))
    value = spelled.format(data=world / "data")
    assert conflict(writing(state, value), writing(state, str(world / "data" / "a"))) is not None
    assert conflict(writing(state, value), writing(state, str(world / "data" / "b"))) is None


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("a", "b"), ("a", "ab"), ("sub/a", "a"), ("new/a", "new/b")])
def test_these_are_two_files(world: Path, one: str, other: str):
    """Case is kept, and a name that begins with another is none below it."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    assert conflict(writing(state, one), writing(state, other)) is None


def test_a_link_at_the_end_is_a_place_of_its_own(world: Path):
    """Moving or deleting a link changes the folder that it is in, wherever it leads."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    assert conflict(writing(state, "to_x"), writing(state, "to_x/..")) is not None
    lists = declared_effect(state, ["{path:file}"], None, "declared", None).bind({"path": "."}, is_reference)
    assert conflict(writing(state, "to_x"), lists) is not None


@pytest.mark.parametrize(
    "value",
    [
        "$f1", None, 7, {"a": 1}, "", [], ["a", "$f1"], ["a", 7], "a\0b", "\ud800", "circle", "x" * 5000, "file://host/a",
        ["many"] * (MAX_FILES + 1),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_known_is_every_file(world: Path, value: object):
    """An unfinished reference, no text, a name that no file can have, a circle, more than are looked at."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    assert writing(state, value).writes == (("file://",), ("s", "file://"))


def test_lists_are_each_of_their_files(world: Path):
    """A list conflicts with each of its files, and with no others."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    both = writing(state, ["a", "to_sub/a"])
    assert [conflict(both, writing(state, name)) is not None for name in ("a", "sub/a", "b")] == [True, True, False]


@pytest.mark.parametrize(
    ("declared", "arguments", "file"),
    [
        ("fs/{path:file}", {"path": "a"}, "a"),
        ("/x/{path:file}", {"path": "a"}, "a"),
        ("{path:file}/deep/c", {"path": "to_sub"}, "sub/deep/c"),
        ("{path:file}.bak", {"path": "a"}, "a.bak"),
        ("{folder:file}/{name}", {"folder": "to_sub", "name": "a"}, "sub/a"),
        ("{folder:file}/{name}", {"folder": "sub", "name": "../b"}, "b"),
        ("{files.path:file}", {"files": [{"path": "b"}]}, "b"),
    ],
)
def test_what_stands_before_a_file_does_not_matter_and_what_stands_behind_belongs_to_it(
    world: Path, declared: str, arguments: dict[str, Any], file: str
):
    """Links are followed in all of it."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    found = declared_effect(state, None, [declared], "declared", None).bind(arguments, is_reference)
    assert found.writes[0] == ("file://", *(world / "data" / file).parts[1:])


@pytest.mark.parametrize("name", ["/etc/x", "~/x", "", None, "$f1"])
def test_a_name_that_may_lead_out_of_its_folder_is_every_file(world: Path, name: object):
    """Some servers join an absolute name to the folder, others take it alone."""
    state = state_of(StdioSpec("x", (), {}, str(world / "data")))
    found = declared_effect(state, None, ["{folder:file}/{name}"], "declared", None)
    assert found.bind({"folder": "sub", "name": name}, is_reference).writes[0] == ("file://",)


@pytest.mark.parametrize("declared", ["{:file}", "{a:file}/{b:file}", "{a:file"])
def test_a_wrong_file_placeholder_is_refused(declared: str):
    """An error of the configuration, not another path."""
    with pytest.raises(ConfigError, match="writes"):
        writing(state_of(StdioSpec("x")), "a", declared)


def test_files_are_one_tree_for_all_servers_and_part_of_what_their_own_server_writes(world: Path):
    """A tool that says only that it writes meets the files of its own server, and no others."""
    data = str(world / "data")
    specs = [ServerConfig("a", StdioSpec("x", (), {}, data)), ServerConfig("b", StdioSpec("y", (), {}, "/"))]
    a, b = server_states(specs).values()
    file = writing(a, "to_a")
    assert conflict(file, writing(b, data + "/a")) is not None
    vague = [declared_effect(s, None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference) for s in (a, b)]
    assert [conflict(file, each) is not None for each in vague] == [True, False]


# --- folders of relative paths ---------------------------------------------------------------------------------------


def test_a_relative_path_is_looked_for_in_the_folders_that_a_server_was_given(world: Path):
    """`server-filesystem` takes it below those, other servers below their working directory."""
    data, outside = str(world / "data"), str(world / "outside")
    spec = StdioSpec("npx", ("-y", "pkg", data, f"--root={outside}", "--flag", str(world / "data/a")), {}, str(world))
    assert folders_of(spec) == [str(world), data, outside]
    state = state_of(spec)
    for folder in (str(world), data, outside):
        assert conflict(writing(state, "n"), writing(state, f"{folder}/n")) is not None
    assert conflict(writing(state, "n"), writing(state, f"{data}/m")) is None


def test_a_folder_on_a_network_mount_is_taken_without_a_look(monkeypatch: pytest.MonkeyPatch):
    """A mount that does not answer must not stop the start."""
    monkeypatch.setattr(state_roots, "network_mounts", lambda: frozenset(["/mnt/far"]))
    monkeypatch.setattr(os.path, "isdir", lambda path: pytest.fail(f"asked for {path}"))
    assert folders_of(StdioSpec("x", ("/mnt/far/data",), {}, "/")) == ["/", "/mnt/far/data"]


def test_the_clients_roots_are_such_folders_once_the_server_has_them(world: Path):
    """The server then works on them in place of those on its command line."""
    state = state_of(StdioSpec("x", (), {}, "/"))
    file = f"{world}/outside/n"
    assert conflict(writing(state, "n"), writing(state, file)) is None
    use_roots(state, {"roots": [{"uri": f"file://{world}/outside"}, {"uri": "https://x"}, {"uri": None}, 7]})
    assert conflict(writing(state, "n"), writing(state, file)) is not None


# --- servers elsewhere -----------------------------------------------------------------------------------------------

REMOTE = HttpSpec("https://example.com/mcp")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "./a", True),
        ("/a/b", "/a/x/../b", True),
        ("a", "b", False),
        ("C:\\Users\\a", "c:/users/A", True),
        ("\\\\host\\share\\a", "\\\\HOST\\share\\a", True),
        ("file:///C:/x/a", "C:\\x\\a", True),
        ("../a", "b", True),
        ("$f1", "b", True),
    ],
)
def test_files_of_a_server_at_a_url_are_its_own_and_read_by_their_text(one: str, other: str, same: bool):
    """Links on another machine are unknown here."""
    state = state_of(REMOTE)
    assert (conflict(writing(state, one), writing(state, other)) is not None) is same
    assert all(path[0] == "s" for path in writing(state, one).writes)


def test_with_a_folder_as_its_state_they_are_files_of_this_machine(world: Path):
    """So says the configuration."""
    there = state_of(REMOTE, state=f"files:{world}/data")
    here = state_of(StdioSpec("x", (), {}, "/"))
    assert conflict(writing(there, "to_a"), writing(here, f"{world}/data/a")) is not None
    assert conflict(writing(there, "a"), writing(here, f"{world}/data/b")) is None


# --- roots -----------------------------------------------------------------------------------------------------------


def vaguely(state: ServerState) -> Effect:
    """A tool that says only that it writes."""
    return declared_effect(state, None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (None, None, False),
        ("workspace", None, False),
        ("workspace", "workspace", True),
        ("workspace", "elsewhere", False),
        ("workspace", "workspace/db", True),
        ("workspace/a", "workspace/b", False),
        (None, "one", True),
        ("workspace", "one", False),
        ("files:/data", "files:/data/sub", True),
        ("files:/data", "files:/data2", False),
        ("files:/data", "data", False),
        ("files:/", "files:/data", True),
    ],
)
def test_servers_with_a_common_state_see_each_others_effects(one: str | None, other: str | None, meet: bool):
    """Servers without one do not share; a server's own name is its state."""
    servers = [ServerConfig(name, StdioSpec("x"), state=state) for name, state in (("one", one), ("two", other))]
    states = server_states(servers)
    assert (conflict(vaguely(states["one"]), vaguely(states["two"])) is not None) is meet


def test_a_folder_as_state_meets_the_files_in_it(world: Path):
    """All spellings of the folder and the file are equal."""
    git = state_of(StdioSpec("x"), state=f"files:{world}/outside/back")
    files = state_of(StdioSpec("x", (), {}, str(world)))
    assert conflict(vaguely(git), writing(files, "data/sub/new")) is not None
    assert conflict(vaguely(git), writing(files, "outside/x/a")) is None
    assert conflict(writing(git, "src"), writing(git, f"{world}/data/src")) is not None


def test_declared_paths_lie_below_the_state_of_their_server():
    """`/workspace/db` on one server is `db` on a server whose state is `workspace`."""
    states = server_states([ServerConfig("a", StdioSpec("x"), state="workspace"), ServerConfig("b", StdioSpec("x"))])
    below = declared_effect(states["a"], None, ["db/{t}"], "declared", None)
    absolute = declared_effect(states["b"], None, ["/workspace/db/{t}"], "declared", None)
    assert below.describe() == "writes /workspace/db/{t}"
    met = conflict(below.bind({"t": 1}, is_reference), absolute.bind({"t": 1}, is_reference))
    assert met == (("", "workspace", "db", "1"),) * 2


# --- file systems that do not answer ---------------------------------------------------------------------------------


@pytest.fixture
def hanging(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A network mount at `outside` that answers when the event is set."""
    answers, asked = threading.Event(), os.readlink

    def readlink(path: str) -> str:
        if path.startswith(str(world / "outside")):
            assert answers.wait(20)
        return asked(path)

    monkeypatch.setattr(os, "readlink", readlink)
    monkeypatch.setattr(file_paths, "network_mounts", lambda: frozenset([str(world / "outside")]))
    yield answers
    answers.set()


def test_a_mount_that_does_not_answer_is_waited_for_once_and_briefly(world: Path, hanging: threading.Event):
    """Its files count as every file then; local ones are known as ever."""
    paths = FilePaths([str(world)], "/", LinkResolver().resolve)
    for _ in range(100):  # each would wait again
        assert paths(["outside/x/a"]) is None
    assert paths(["data/to_outside/x/a"]) is None
    assert paths(["data/b"]) == [(world / "data/b").parts[1:]]


def test_a_mount_that_answers_is_read_like_any_other(world: Path, hanging: threading.Event):
    """Through a thread, with the same result."""
    hanging.set()
    paths = FilePaths([str(world)], "/", LinkResolver().resolve)
    assert paths(["outside/back/a"]) == [(world / "data/a").parts[1:]]


def test_network_mounts_are_found_in_the_systems_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With blanks in their names; without a table nothing is taken for local."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:50 / /mnt/a\\040b rw shared:2 - nfs4 host:/x rw\n"
        "41 22 0:51 / /home/me/cloud rw - fuse.sshfs me@host: rw\n"
        "42 22 0:52 / /proc rw - proc proc rw\n"
    )
    monkeypatch.setattr(file_paths, "_MOUNTS", str(table))
    assert file_paths.network_mounts() == {"/mnt/a b", "/home/me/cloud"}
    table.unlink()
    assert file_paths.network_mounts() is None


def test_elsewhere_is_bounded():
    """As the files of this machine are."""
    assert elsewhere([str(number) for number in range(MAX_FILES + 1)]) is None
    assert elsewhere([7]) is None
