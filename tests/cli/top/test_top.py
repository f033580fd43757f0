"""`top` without a terminal: the effect of keys and events, and screens of any size."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.cli.top import model as models
from asyncfc_mcp.cli.top.keys import Keys
from asyncfc_mcp.cli.top.model import Cancel, Load, Model, Quit, View
from asyncfc_mcp.cli.top.timeline import ASCII, UNICODE
from asyncfc_mcp.cli.top.view import screen
from tests.support.entries import AT, entries, entry


def calls(*found: dict[str, Any], reset: bool = False) -> dict[str, Any]:
    return {"event": "calls", "data": {"reset": reset, "entries": list(found)}}


def shown(model: Model, width: int = 80, height: int = 24) -> str:
    return "\n".join(line.plain.rstrip() for line in screen(model, width, height, AT + 10, UNICODE))


def test_a_selected_call_stays_selected_while_others_arrive():
    """The selection is a call, not a row; at the top, it follows the newest one."""
    model = Model()
    model.receive(calls(entry("f1"), entry("f2", submitted_at=AT + 1)))
    assert model.rows()[model.row()]["id"] == "f2"
    model.press("down", AT)
    model.receive(calls(entry("f3", submitted_at=AT + 2), entry("f2", state="completed", submitted_at=AT + 1)))
    assert [each["id"] for each in model.rows()] == ["f3", "f1", "f2"]
    assert model.rows()[model.row()]["id"] == "f1"
    model.press("up", AT)
    model.receive(calls(entry("f4", submitted_at=AT + 3)))
    assert model.rows()[model.row()]["id"] == "f4"


def test_a_call_is_cancelled_only_after_yes():
    """Any other key than y is no; a call that has ended is not asked for."""
    model = Model()
    model.receive(calls(entry("f1"), entry("f2", state="completed")))
    assert model.press("c", AT) == []
    assert "Cancel f1 web__fetch?" in shown(model)
    assert model.press("q", AT) == []
    assert model.notice == "not cancelled"
    model.press("c", AT)
    assert model.press("y", AT) == [Cancel("f1")]
    model.press("down", AT)
    model.press("c", AT)
    assert model.press("y", AT) == []
    assert model.asking is None
    assert model.press("q", AT) == [Quit()]


def test_keys_go_into_the_filter_while_it_is_typed():
    """Also those that mean something else; words must all be found."""
    model = Model()
    model.receive(
        calls(entry("f1"), entry("f2", tool="files__read", server="files", state="failed", failure="Quite gone"))
    )
    for key in ("f", *"qone fIles", "enter"):
        model.press(key, AT)
    assert "No call matches" in shown(model)
    assert "filter: qone fIles" in shown(model)
    for key in ("f", "ctrl-u", *"gone files", "enter"):
        model.press(key, AT)
    assert [each["id"] for each in model.rows()] == ["f2"]
    assert "1 of 2 calls" in shown(model)
    model.press("escape", AT)
    assert len(model.rows()) == 2


def test_details_are_read_and_read_again_when_the_call_ends():
    """Its arguments first, then the result; hidden ones say why."""
    model = Model()
    model.receive(calls(entry("f1")))
    assert model.press("enter", AT) == [Load("f1")]
    model.loaded({"id": "f1", "arguments": {"url": "x\x1b[2J"}})
    assert '"url": "x\\u001b[2J"' in shown(model)
    assert model.receive(calls(entry("f1", state="completed", ended_at=AT + 5))) == [Load("f1")]
    model.loaded({"id": "f1", "result": {"content": [{"type": "text", "text": "one\ntwo\u202e"}]}})
    assert "  one\n  two\\u202e" in shown(model)
    model.loaded({"id": "f1", "hidden": "the tool is private"})
    assert "hidden: the tool is private" in shown(model)
    model.press("escape", AT)
    assert model.view is View.CALLS


def test_old_calls_are_dropped_but_never_unfinished_ones(monkeypatch: Any):
    """The number of calls in memory is bounded."""
    monkeypatch.setattr(models, "MOST", 10)
    model = Model()
    model.receive(calls(entry("f0")))
    model.receive(calls(*(entry(f"f{n}", state="completed", submitted_at=AT + n) for n in range(1, 30))))
    assert [each["id"] for each in model.rows()] == ["f0", *(f"f{n}" for n in range(29, 20, -1))]


@given(
    found=st.lists(entries(), max_size=5),
    width=st.integers(1, 250),
    height=st.integers(1, 60),
    pressed=st.lists(st.sampled_from(["down", "enter", "s", "?", "escape", "end", "c", "f", "x", "-"]), max_size=6),
)
def test_a_screen_has_the_size_of_the_terminal(found: Any, width: int, height: int, pressed: list[str]):
    """Whatever entries, servers and keys there are: as many lines as it has, none wider, without control characters."""
    model = Model()
    server = {"name": "\x1b[1mweb", "condition": "ready\r", "stderr": ["\x1b]0;x\x07", "界" * 300], "tools": None}
    model.receive({"event": "overview", "data": {"servers": [server], "configuration": "\n", "counts": {"running": 1}}})
    model.receive(calls(*found, reset=True))
    for key in pressed:
        model.press(key, AT)
        lines = screen(model, width, height, AT, ASCII)
        assert len(lines) == height
        for line in lines:
            assert line.cell_len <= width
            assert line.plain.isprintable()


@given(
    pieces=st.lists(st.sampled_from([b"\x1b", b"[A", b"OB", b"[5~", b"[1;5C", "é".encode(), b"q", b"\r", b"[<0;1;1M"]))
)
def test_keys_do_not_depend_on_how_they_arrive(pieces: list[bytes]):
    """Escape sequences and characters may be cut anywhere."""
    data = b"".join(pieces)
    at_once, one_by_one = Keys(), Keys()
    keys = [*at_once.feed(data), *at_once.close()]
    assert keys == [*(key for n in range(len(data)) for key in one_by_one.feed(data[n : n + 1])), *one_by_one.close()]
    assert all(key.isprintable() for key in keys)


def test_keys_have_names():
    """Also with a modifier, and in the mode of applications; a sequence that is not known is no key."""
    assert Keys().feed(b"\x1b[A\x1bOB\x1b[1;5C\x1b[5~q\x03\x1b[200~") == [
        "up", "down", "right", "page-up", "q", "ctrl-c",
    ]  # fmt: skip
