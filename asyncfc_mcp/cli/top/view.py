"""The screen of `asyncfc-mcp top`, drawn from its model.

Owns the layout: a screen is a list of lines, as many as the terminal has, each cut to its width. Pure: the size of the
terminal and the time are given. The content of a view with details is `details`'.
"""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.cells import fit
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.cli.figures import duration, short_duration
from asyncfc_mcp.cli.top import details
from asyncfc_mcp.cli.top.model import Model, View
from asyncfc_mcp.cli.top.timeline import Marks, bar, scale

LEAST_WIDTH: Final = 40
LEAST_HEIGHT: Final = 8
_STATES: Final = {
    words.WAITING: "wait",
    words.RUNNING: "run",
    words.ASKING: "asks",
    words.COMPLETED: "done",
    words.FAILED: "fail",
    words.CANCELLED: "canc",
}
_KEYS: Final = {
    View.CALLS: "q quit, enter details, c cancel, f filter, s servers, +- zoom, ? help",
    View.CALL: "esc back, ↑↓ scroll, n/p next/previous, c cancel, q quit, ? help",
    View.SERVERS: "esc back, ↑↓ select, enter its calls, q quit, ? help",
    View.HELP: "esc back, q quit",
}


def screen(model: Model, width: int, height: int, now: float, marks: Marks) -> list[Text]:
    """Return the lines of the screen, exactly `height` of them.

    Args:
        now: seconds of the bridge's wall clock.
    """
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        lines = [Text(fit(f"top needs {LEAST_WIDTH} × {LEAST_HEIGHT} characters", width).rstrip()), Text("q: quit")]
        return [_cut(line, width) for line in lines][:height] + [Text("")] * max(0, height - 2)
    head, foot = _header(model, width, now, marks), _footer(model, width, marks)
    room = height - len(head) - len(foot)
    model.page = max(1, room - 1)
    match model.view:
        case View.CALLS:
            body = _calls(model, width, room, now, marks)
        case View.CALL:
            body = _scrolled(model, details.call(model, width, now), room)
        case View.SERVERS:
            body = details.servers(model, width, room, marks)
        case View.HELP:
            body = details.help_(marks)
    body = [*body[:room], *([Text("")] * (room - len(body)))]
    return [_cut(line, width) for line in (*head, *body, *foot)]


def _cut(line: Text, width: int) -> Text:
    line.no_wrap = True
    if line.cell_len > width:
        line.truncate(width, overflow="ellipsis")
    return line


# --- header and footer -----------------------------------------------------------------------------------------------


def _header(model: Model, width: int, now: float, marks: Marks) -> list[Text]:
    about = model.overview
    gap = f" {marks.dot} "
    title = Text.assemble(("asyncfc-mcp", "bold"), f" {words.text(about, 'version', 20)}".rstrip())
    since = words.moment(about, "since")
    facts = [words.text(about, "transport", 10)]
    pid = about.get("pid")
    if isinstance(pid, int):
        facts.append(f"process {pid}")
    if since is not None:
        facts.append(f"up {duration(now - since)}")
    title.append(gap + gap.join(filter(None, [*facts, words.text(about, "configuration", 200)])) if any(facts) else "")
    lines = [title, _figures(model, gap)]
    servers = _servers_line(model, width, marks)
    if servers is not None:
        lines.append(servers)
    if problem := words.text(about, "problem", 300):
        lines.append(Text(f"configuration: {problem}", style="red"))
    if model.problem:
        lines.append(Text(f"no connection, trying again: {words.said(model.problem, 200)}", style="bold red"))
    return lines


def _figures(model: Model, gap: str) -> Text:
    counts, line = words.part(model.overview, "counts"), Text()
    for name, shown in ((words.RUNNING, "running"), (words.WAITING, "waiting"), (words.ASKING, "question")):
        count = counts.get(name)
        if isinstance(count, int) and (count or name != words.ASKING):
            line.append(f"{count} {shown}", f"bold {words.STYLES[name]}" if count else "")
            line.append(gap)
    saved = words.part(model.overview, "saved")
    times = [(shown, words.moment(saved, name)) for name, shown in (("session", ""), ("day", "day "), ("all", "all "))]
    known = [f"{shown}{duration(seconds)}" for shown, seconds in times if seconds is not None]
    line.append("time saved: ")
    line.append(known[0] if known else "not known", "bold green" if known else "")
    return line.append(f" ({', '.join(known[1:])})") if known[1:] else line


def _servers_line(model: Model, width: int, marks: Marks) -> Text | None:
    servers = model.servers()
    if not servers:
        return None
    line = Text("servers: ")
    for number, server in enumerate(servers):
        good = details.is_good(server)
        shown = Text.assemble(
            (marks.up if good else "!", "green" if good else "bold red"), f" {words.text(server, 'name', 24)}  "
        )
        left = len(servers) - number
        if line.cell_len + shown.cell_len > width - (len(f"and {left - 1} more") if left > 1 else 0):
            line.append(f"and {left} more")
            break
        line.append_text(shown)
    return line


def _footer(model: Model, width: int, marks: Marks) -> list[Text]:
    if model.asking is not None:
        entry = model.entry(model.asking) or {"id": model.asking}
        asked = f" Cancel {words.call(entry)} {words.tool(entry)}? y: yes, any other key: no "
        return [Text(fit(asked, width), style="reverse bold")]
    if model.typing:
        return [
            Text.assemble(
                ("filter: ", "bold"), model.filter, ("_", "blink bold"), ("   enter: keep, esc: remove", "dim")
            )
        ]
    line = Text()
    for each in _KEYS[model.view].split(", "):
        key, _, meaning = each.partition(" ")
        if marks.rule == "-":
            key = key.replace("↑↓", "up/down")
        line.append(key, "bold")
        line.append(f" {meaning}  ")
    if model.notice:
        line = Text.assemble((words.said(model.notice, 200), "bold"), "  ", line)
    return [line]


# --- the table of calls ----------------------------------------------------------------------------------------------


def _columns(width: int) -> dict[str, int]:
    """Return the widths of the columns; the time line has the rest."""
    columns = {"call": 10, "state": 4, "tool": 18, "waits": 16, "time": 6}
    if width >= 100:
        columns |= {"call": 14, "tool": 24, "waits": 24}
    if width >= 140:
        columns = {"call": 16, "who": 12, "state": 4, "tool": 30, "waits": 34, "time": 6}
    if width >= 200:
        columns |= {"tool": 40, "waits": 48}
    if width < 76:
        columns = {"call": 8, "state": 4, "tool": 14, "time": 6}
    return columns


_HEADINGS: Final = {"call": "CALL", "who": "HOST", "state": "", "tool": "TOOL", "waits": "WAITS FOR", "time": "TIME"}


def _calls(model: Model, width: int, room: int, now: float, marks: Marks) -> list[Text]:
    rows, columns, span_s = model.rows(), _columns(width), model.span_s(now)
    line_width = width - 2 - sum(columns.values()) - len(columns)
    cells = [fit(_HEADINGS[name], size, right=name == "time") for name, size in columns.items()]
    heading = Text("  " + " ".join([*cells, scale(span_s, line_width)]), style="reverse")
    heading = Text(fit(heading.plain, width), style="reverse")
    if not rows:
        reason = "No call matches the filter." if model.number else "No calls yet."
        return [heading, Text(""), Text(f"  {reason}", style="dim"), *_filter_line(model, rows)]
    at = model.row()
    notes = _filter_line(model, rows)
    room = max(1, room - 1 - len(notes))
    first = max(0, min(at - room // 2, len(rows) - room))
    shown = range(first, min(len(rows), first + room))
    lines = [heading, *(_row(rows[n], columns, line_width, n == at, span_s, now, marks) for n in shown)]
    return [*lines, *([Text("")] * (room + 1 - len(lines))), *notes]


def _filter_line(model: Model, rows: Sequence[Entry]) -> list[Text]:
    shown = f"filter: {words.said(model.filter, 60)} ({len(rows)} of {model.number} calls; esc: remove)"
    return [Text(shown, style="bold")] if model.filter and not model.typing else []


def _row(
    entry: Entry, columns: dict[str, int], line_width: int, selected: bool, span_s: float, now: float, marks: Marks
) -> Text:
    state = words.state(entry)
    ran, ended = words.ran_s(entry, now), words.has_ended(entry)
    spent = ran if ran is not None else sum(words.waited_s(entry, now))
    cells = {
        "call": words.call(entry),
        "who": words.who(entry),
        "state": _STATES[state],
        "tool": words.tool(entry),
        "waits": _remark(entry, now),
        "time": short_duration(spent),
    }
    line = Text(f"{marks.selected} " if selected else "  ", style="bold" if selected else "")
    for name, width in columns.items():
        style = words.STYLES[state] if name == "state" else "bold" if name == "call" and not ended else ""
        line.append(fit(cells[name], width, right=name == "time") + " ", style)
    line.append_text(bar(entry, now, span_s, line_width, marks))
    if selected:
        line.stylize("reverse", 0, 2 + sum(columns.values()) + len(columns) - 1)
    return line


def _remark(entry: Entry, now: float) -> str:
    """Return what matters most of a call in this moment, for a narrow column."""
    match words.state(entry):
        case "waiting":
            return words.waiting_for(entry) or words.waits_on(entry)
        case "running":
            return words.progress(entry) or words.waits_on(entry)
        case "input_required":
            return words.text(entry, "question", 120)
        case "failed":
            return words.text(entry, "failure", 120)
        case _:
            return words.waits_on(entry)


def _scrolled(model: Model, lines: list[Text], room: int) -> list[Text]:
    model.scroll = max(0, min(model.scroll, len(lines) - room))
    shown = lines[model.scroll : model.scroll + room]
    left = len(lines) - model.scroll - room
    if left > 0 and shown:
        shown[-1] = Text(f"… {left + 1} more lines", style="dim")
    return shown
