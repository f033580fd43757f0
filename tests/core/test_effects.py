"""Effects: declared paths, bound to arguments, and where they come from."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.effects import (
    NOTHING,
    Effect,
    conflict,
    declared_effect,
)
from asyncfc_mcp.core.state_paths import MAX_DEPTH, MAX_PATHS, Path
from asyncfc_mcp.errors import ConfigError
from tests.support.server_states import own_state

ROOT = ("s",)


def is_reference(value: object) -> bool:
    return (isinstance(value, str) and ("$f" in value or "${f:f" in value)) or (
        isinstance(value, dict) and "$future" in value
    )


def bound(path: str, arguments: dict[str, object]) -> list[Path]:
    """The paths that a tool of server `s`, which declares that it writes `path`, has for these arguments."""
    return list(declared_effect(own_state("s"), None, [path], "declared", None).bind(arguments, is_reference).writes)


@pytest.mark.parametrize(
    ("reads", "writes", "order", "annotations", "expected"),
    [
        (None, None, "declared", {"readOnlyHint": True}, Effect((ROOT,), (), "annotation")),
        (None, None, "declared", {"readOnlyHint": True, "destructiveHint": True}, Effect((ROOT,), (), "annotation")),
        (None, None, "declared", {"readOnlyHint": False}, Effect((), (ROOT,), "annotation")),
        (None, None, "declared", {"destructiveHint": True}, Effect((), (ROOT,), "annotation")),
        (None, None, "declared", {"destructiveHint": False, "title": "t"}, Effect((), (), "nothing said")),
        (None, None, "declared", {"readOnlyHint": None}, Effect((), (), "nothing said")),
        (None, None, "declared", None, NOTHING),
        (None, None, "strict", None, Effect((), (ROOT,), "strict")),
        (None, None, "strict", {"idempotentHint": True}, Effect((), (ROOT,), "strict")),
        (None, None, "strict", {"readOnlyHint": True}, Effect((ROOT,), (), "annotation")),
        (["a"], None, "strict", {"readOnlyHint": False}, Effect((("s", "a"),), (), "config")),
        (None, ["a"], "declared", {"readOnlyHint": True}, Effect((), (("s", "a"),), "config")),
        ([], [], "strict", {"destructiveHint": True}, Effect((), (), "config")),
        (["a"], ["b"], "none", {"readOnlyHint": False}, Effect((), (), "off")),
    ],
)
def test_effect_comes_from_config_then_annotations_then_ordering(reads, writes, order, annotations, expected):
    """The nearest source wins; only `ordering: none` wins over the config."""
    assert declared_effect(own_state("s"), reads, writes, order, annotations).bind({}, is_reference) == expected


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("", ROOT),
        (".", ROOT),
        ("fs", ("s", "fs")),
        ("fs/", ("s", "fs")),
        ("./fs//x", ("s", "fs", "x")),
        ("fs/../x", ("s", "x")),
        ("fs\\x", ("s", "fs", "x")),
        ("a{{b}}", ("s", "a{b}")),
        ("{{path}}", ("s", "{path}")),
        ("cafe\u0301", ("s", "caf\u00e9")),
    ],
)
def test_declared_paths_are_normalised_under_the_servers_root(declared, path):
    """Two spellings of one declared path are one path."""
    assert bound(declared, {"path": "never"}) == [path]


def test_a_leading_slash_means_state_shared_between_servers():
    """Tools of two servers that declare one absolute path conflict on it; relative paths of two servers never do."""
    one = declared_effect(own_state("git"), None, ["/repo/{path}"], "declared", None).bind({"path": "a"}, is_reference)
    two = declared_effect(own_state("files"), ["/repo"], None, "declared", None).bind({}, is_reference)
    assert conflict(one, two) == (("", "repo", "a"), ("", "repo"))
    apart = [
        declared_effect(own_state(name), None, ["repo"], "declared", None).bind({}, is_reference) for name in ("a", "b")
    ]
    assert conflict(*apart) is None


def test_shared_state_is_ordered_with_a_tool_of_its_own_server_that_only_says_it_writes():
    """ "Writes something" may be the shared state too, as far as one server is concerned."""
    shared = declared_effect(own_state("git"), None, ["/repo"], "declared", None).bind({}, is_reference)
    vague = declared_effect(own_state("git"), None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference)
    other = declared_effect(own_state("web"), None, None, "declared", {"readOnlyHint": False}).bind({}, is_reference)
    assert conflict(shared, vague) is not None
    assert conflict(shared, other) is None


def test_a_lone_slash_covers_the_servers_root_and_all_shared_state():
    """Whichever of the two was meant, it is protected."""
    assert bound("/", {}) == [("",), ROOT]


@pytest.mark.parametrize("declared", ["a/{path", "a}/b", "{}", "{a{b}", "{a}}"])
def test_a_brace_without_its_partner_is_refused(declared):
    """A typing error in the config is an error at start, not another path."""
    with pytest.raises(ConfigError, match="writes"):
        bound(declared, {})


@pytest.mark.parametrize("declared", ["..", "a/../../b", "/..", "/../x"])
def test_a_declared_path_that_leaves_its_root_is_refused(declared):
    """A path outside the root would silently protect something else."""
    with pytest.raises(ConfigError, match="inside the root"):
        bound(declared, {})


@pytest.mark.parametrize(
    ("value", "tail"),
    [
        ("a/b", ("a", "b")),
        ("a//b", ("a", "b")),
        ("./a", ("a",)),
        ("a/./b/", ("a", "b")),
        ("x/../a", ("a",)),
        ("a/b/../../c", ("c",)),
        ("/a/b", ("a", "b")),
        ("a\\b", ("a", "b")),
        ("C:\\a\\..\\b", ("C:", "b")),
        ("cafe\u0301", ("caf\u00e9",)),
        ("A", ("A",)),
        (" a ", (" a ",)),
        ("...", ("...",)),
        ("{x}", ("{x}",)),
        (7, ("7",)),
        (7.0, ("7",)),
        (-1.5, ("-1.5",)),
        (True, ("true",)),
        ("", ()),
        (".", ()),
        ("/", ()),
        ("..", ()),
        ("../x", ()),
        ("a/../../x", ()),
        ("/../x", ()),
        (None, ()),
        ({}, ()),
        ({"path": "a"}, ()),
        ([], ()),
        ([["a"]], ()),
        (["a", None], ()),
        ("$f3", ()),
        ("dir/${f:f3.name}", ()),
        ({"$future": "f3"}, ()),
        (["a", "$f3"], ()),
        pytest.param(10**5000, (), id="an integer too long to print"),
    ],
)
def test_the_value_of_an_argument_becomes_a_normalised_path(value, tail):
    """Each path has one spelling, and unknown values give the parent path."""
    assert bound("repo/{path}", {"path": value}) == [("s", "repo", *tail)]


def test_a_list_gives_a_path_for_each_element():
    """A tool that takes several files touches those and no others, each once."""
    assert bound("fs/{paths}", {"paths": ["a", "b/c", "./a"]}) == [("s", "fs", "a"), ("s", "fs", "b", "c")]


def test_lists_in_two_placeholders_give_every_combination():
    """Which element goes with which is not known."""
    paths = bound("{a}/x-{b}", {"a": ["1", "2"], "b": ["3", "4"]})
    assert sorted(paths) == [("s", a, f"x-{b}") for a, b in product("12", "34")]


def test_a_placeholder_reaches_into_nested_arguments():
    """`{a.b}` follows objects, and goes through lists element by element; an argument of that very name comes first."""
    assert bound("{a.b}", {"a": {"b": "x"}}) == [("s", "x")]
    assert bound("{files.path}", {"files": [{"path": "x"}, {"path": "y"}]}) == [("s", "x"), ("s", "y")]
    assert bound("{a.b}", {"a.b": "z", "a": {"b": "x"}}) == [("s", "z")]
    assert bound("{a.b}", {"a": "$f1"}) == [ROOT]
    assert bound("{a.b}", {"a": {"c": 1}}) == [ROOT]
    assert bound("{files.path}", {"files": [{"path": "x"}, "y"]}) == [ROOT]
    assert bound("{files.path}", {"files": [{"path": "x"}, {"path": "$f1"}]}) == [ROOT]


def test_an_unknown_value_gives_the_path_above_its_own_segment():
    """Known segments above it still separate it from other state."""
    assert bound("repos/{owner}/{repo}/issues", {"owner": "o", "repo": "$f1"}) == [("s", "repos", "o")]
    assert bound("repos/{owner}/{repo}", {"repo": "r"}) == [("s", "repos")]
    assert bound("a/log-{day}/x", {}) == [("s", "a")]


def test_a_value_that_leads_out_of_its_place_gives_the_path_above_all_arguments():
    """`..` in a second placeholder may lead out of the first."""
    assert bound("repos/{owner}/{repo}", {"owner": "o", "repo": "../p"}) == [("s", "repos")]
    assert bound("repos/{owner}/r-{repo}", {"owner": "o", "repo": ".."}) == [("s", "repos")]


def test_text_around_a_placeholder_belongs_to_its_first_and_last_segment():
    """`log-{name}.txt` is one segment unless the value has several."""
    assert bound("log-{name}.txt", {"name": "a"}) == [("s", "log-a.txt")]
    assert bound("log-{name}.txt", {"name": "x/../a"}) == [("s", "log-a.txt")]
    assert bound("log-{name}.txt", {"name": "a/b"}) == [("s", "log-a", "b.txt")]
    assert bound("{schema}.{table}", {"schema": "p", "table": 1}) == [("s", "p.1")]


def test_paths_are_bounded_by_taking_what_contains_them():
    """Arguments cannot make one call cost without limit, and what is cut stays protected."""
    assert bound("fs/{paths}", {"paths": [str(i) for i in range(MAX_PATHS + 1)]}) == [("s", "fs")]
    assert bound("{a}/{b}", {"a": ["x", "y"], "b": [str(i) for i in range(MAX_PATHS)]}) == [("s", "x"), ("s", "y")]
    assert bound("{a}{b}", {"a": ["x", "y"], "b": [str(i) for i in range(MAX_PATHS)]}) == [ROOT]
    [deep] = bound("{path}", {"path": "a/" * 10_000})
    assert deep == ("s", *["a"] * (MAX_DEPTH - 1))


def test_a_template_describes_itself_and_names_its_arguments():
    """`inspect` shows the effect as it was declared, without duplicates of shared paths."""
    said = declared_effect(own_state("s"), ["./fs/{path}", ""], ["/db/{a.b}"], "declared", None)
    assert said.describe() == "reads s/fs/{path}, s; writes /db/{a.b}"
    assert said.placeholders == {"path", "a.b"}
    assert declared_effect(own_state("s"), None, None, "declared", {"readOnlyHint": True}).describe() == "reads s"
    assert declared_effect(own_state("s"), [], None, "declared", None).describe() == "touches nothing"
    assert declared_effect(own_state("s"), None, None, "declared", None).describe() == "nothing said, not ordered"
    assert declared_effect(own_state("s"), None, None, "none", None).describe() == "not ordered"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab./\\${}\u0301"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab$"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "{a}", "{b}", "{a.b}", "x-{b}", "{a}{b}", "/", "/", ".", ".."]), max_size=6),
    st.dictionaries(st.sampled_from("ab"), json_values),
)
def test_a_path_never_leaves_its_base_whatever_the_arguments_are(pieces, arguments):
    """Arguments come from a model: they may be anything, and must not move a call out of its server's state."""
    try:
        paths = bound("".join(pieces), arguments)
    except ConfigError:
        return
    assert paths
    for path in paths:
        assert path[:1] in [ROOT, ("",)]
        assert not {"", ".", ".."} & set(path[2:])
        assert len(path) <= MAX_DEPTH


@settings(deadline=None)
@given(st.text(alphabet="ab./\\", max_size=12))
def test_spellings_of_one_value_give_one_path(value):
    """Repeated, leading and trailing separators, `.` segments and steps into a directory and back change nothing."""
    expected = bound("p/{v}", {"v": value})
    for spelled in ("./" + value, value.replace("/", "//"), value + "/.", "/" + value, value.replace("/", "/q/../")):
        assert bound("p/{v}", {"v": spelled}) == expected
