"""Views of `asyncfc-mcp top` besides the table: one call, the servers, and the keys.

Pure. Texts of servers and callers are shown line by line, without control characters.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from rich.text import Text

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.cells import fit, wrapped
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.cli.figures import duration
from asyncfc_mcp.cli.top.model import Model
from asyncfc_mcp.cli.top.timeline import Marks
from asyncfc_mcp.quotation import one_line, said, without_escapes

MOST_LINES: Final = 2_000
"""Lines of a value that are shown."""
_GOOD: Final = frozenset(("ready", "starting", "sleeping", "elsewhere"))
"""Statuses of servers that need nobody."""
_LINES_OF_TEXT: Final = 200


def call(model: Model, width: int, now: float) -> list[Text]:
    """Return the lines on the selected call."""
    entry = model.entry(model.selected)
    detail = model.detail
    if detail is not None and (entry is None or detail.get("id") == entry.get("id")):
        entry = {**detail, **(entry or {})}
    if entry is None:
        return [Text("This call is no longer known.", style="dim")]
    state = words.state(entry)
    lines = [
        Text.assemble(
            (words.call(entry), "bold"),
            "  ",
            words.tool(entry),
            "  ",
            (words.name_of_state(entry), words.STYLES[state]),
        ),
        Text(""),
    ]
    for name, value in _facts(entry, now):
        room = max(10, width - 14)
        for number, part in enumerate(wrapped(value, room, 6)):
            lines.append(Text.assemble((fit("" if number else name, 13) + " ", "dim"), part))
    if detail is None:
        return [*lines, Text(""), Text("reading arguments and result …", style="dim")]
    if reason := words.text(detail, "hidden", 200):
        return [*lines, Text(""), Text(f"arguments and result are hidden: {reason}", style="dim")]
    for name in ("arguments", "result"):
        if name in detail:
            title = f"{name} (shortened)" if detail.get("truncated") is True else name
            lines += [Text(""), Text(title, style="bold"), *_value(detail[name], width)]
    return lines


def _facts(entry: Entry, now: float) -> Iterator[tuple[str, str]]:
    submitted = words.moment(entry, "submitted_at")
    if submitted is not None:
        yield "submitted", f"{words.at(submitted, with_date=True)} ({duration(now - submitted)} ago)"
    yield "by", ", ".join(filter(None, (words.text(entry, "host"), _conversation(entry))))
    yield "server", words.text(entry, "server")
    yield "waited", words.waited(entry, now)
    for wait in words.parts(entry, "waits"):
        if path := words.text(wait, "path", 200):
            yield "", f"{words.text(wait, 'on', 40)}: {path}"
    ran = words.ran_s(entry, now)
    if ran is not None:
        yield "ran", duration(ran)
    yield ("ended" if words.has_ended(entry) else "now"), words.outcome(entry)
    read = words.moment(entry, "read_at")
    if read is not None:
        yield "read", f"{duration(now - read)} ago"


def _conversation(entry: Entry) -> str:
    label = words.text(entry, "conversation", 12)
    return f"conversation {label}" if label else ""


def _value(value: Any, width: int) -> list[Text]:
    """Return the lines of an argument or result: texts of a result as they are, everything else as JSON."""
    texts = _texts(value)
    if texts is not None:
        shown = [line for text in texts for line in _lines(text)]
    else:
        try:
            shown = json.dumps(value, ensure_ascii=False, indent=2).split("\n")
        except (TypeError, ValueError, RecursionError):
            shown = ["(it cannot be shown)"]
    lines: list[Text] = []
    for line in shown[:MOST_LINES]:
        parts = wrapped(one_line(line), max(10, width - 2), _LINES_OF_TEXT) or [""]
        lines += [Text("  " + part) for part in parts]
        if len(lines) > MOST_LINES:
            break
    if len(shown) > MOST_LINES or len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], Text("  …", style="dim")]
    return lines


def _texts(value: Any) -> list[str] | None:
    """Return the texts of a result that consists of nothing else."""
    if isinstance(value, str):
        return [value]
    content = words.parts(value, "content") if isinstance(value, dict) else []  # pyright: ignore[reportUnknownArgumentType]
    if not content or any(each.get("type") != "text" or not isinstance(each.get("text"), str) for each in content):
        return None
    return [each["text"] for each in content]


def _lines(text: str) -> list[str]:
    return [line.expandtabs(4) for line in without_escapes(text).splitlines()] or [""]


# --- servers ---------------------------------------------------------------------------------------------------------


def is_good(server: Entry) -> bool:
    """Return whether a server works, or sleeps until it is needed."""
    return words.text(server, "status", 40).lower() in _GOOD and not words.part(server, "sign_in").get("command")


def servers(model: Model, width: int, room: int, marks: Marks) -> list[Text]:
    """Return the list of servers, and the last lines that the selected one has written to stderr."""
    found = model.servers()
    if not found:
        return [Text(""), Text("  No servers are known.", style="dim")]
    model.server = max(0, min(model.server, len(found) - 1))
    name_width = min(30, max(len(words.text(server, "name", 30)) for server in found))
    heading = f"  {fit('SERVER', name_width)} {fit('TOOLS', 5, right=True)} {fit('RESTARTS', 8, right=True)}  CONDITION"
    listed = max(1, min(len(found), room // 2))
    first = max(0, min(model.server - listed // 2, len(found) - listed))
    lines = [Text(fit(heading, width), style="reverse")]
    shown = range(first, first + listed)
    lines += [_server(found[number], number == model.server, name_width, marks) for number in shown]
    chosen = found[model.server]
    sign_in = words.part(chosen, "sign_in")
    if command := words.text(sign_in, "command", 200):
        lines.append(Text(f"  sign in: {command}", style="bold"))
    lines.append(
        Text(
            fit(f"{marks.rule * 2} stderr of {words.text(chosen, 'name', 30)} {marks.rule * width}", width), style="dim"
        )
    )
    stderr = chosen.get("stderr")
    tail = [said(line, 1000) for line in stderr if isinstance(line, str)] if isinstance(stderr, list) else []  # pyright: ignore[reportUnknownVariableType]
    if not tail:
        return [*lines, Text("  nothing", style="dim")]
    return [*lines, *(Text(f"  {line}") for line in tail[-max(1, room - len(lines)) :])]


def _server(server: Entry, selected: bool, name_width: int, marks: Marks) -> Text:
    good = is_good(server)
    line = Text(f"{marks.selected} " if selected else "  ")
    line.append(fit(words.text(server, "name", 30), name_width), "reverse" if selected else "bold")
    for key, width in (("tools", 5), ("restarts", 8)):
        count = server.get(key)
        line.append(f" {fit(str(count) if isinstance(count, int) else '', width, right=True)}")
    condition = words.text(server, "condition", 300) or words.text(server, "status", 40)
    line.append(f"  {marks.up if good else '!'} ", "green" if good else "bold red")
    line.append(condition, "" if good else "red")
    return line


# --- help ------------------------------------------------------------------------------------------------------------


def help_(marks: Marks) -> list[Text]:
    """Return the keys and marks."""
    keys = (
        ("up down, j k", "select a call; page up, page down, home, end (g, G)"),
        ("enter", "arguments, result and waits of the call; n, p: the next, the previous one"),
        ("c", "cancel the call (asks first)"),
        ("f or /", "filter: words of an ID, name, tool, server, host, state or failure"),
        ("s", "servers, with the end of their stderr; enter: calls of the server"),
        ("+ -", "zoom of the time line; 0: as far as unfinished calls need"),
        ("esc", "back; in the table: without the filter, and to the newest call"),
        ("q, ctrl-c", "quit; the bridge and its calls go on"),
    )
    bars = (
        (marks.waiting, "waits for other calls"),
        (marks.queued, "waits for capacity: a place at its server"),
        (marks.running, "runs, or has run"),
        (marks.asking, "asks its client"),
        (marks.earlier, "ended before the time line begins"),
    )
    lines = [Text(""), *(Text.assemble((f"  {fit(key, 14)}", "bold"), meaning) for key, meaning in keys), Text("")]
    return [*lines, *(Text.assemble((f"  {fit(mark * 3, 14)}", "bold"), meaning) for mark, meaning in bars)]
