"""`asyncfc-mcp demo`: runs a scripted agent without and with the bridge, and draws both runs as timelines.

Owns the drawing only. The agent is `examples/scripted_agent.py`, run in a separate process against real servers over
stdio; its events are drawn as they arrive.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asyncfc_mcp.errors import BridgeError

FRAMES_PER_S: Final = 15
NAME_WIDTH: Final = 26
HEADINGS: Final = {"direct": "Waiting for each call", "bridge": "Through the bridge"}


class NoExamples(BridgeError):
    """The example servers were not found."""

    def __init__(self, places: list[Path]) -> None:
        super().__init__(f"the example servers were not found; looked in {' and '.join(map(str, places))}")


def examples_folder() -> Path:
    """Return the folder of the examples: inside an installed package, or beside the package in a clone.

    Raises:
        NoExamples: neither exists.
    """
    here = Path(__file__).resolve().parents[1]
    places = [here / "examples", here.parent / "examples"]
    for place in places:
        if (place / "scripted_agent.py").is_file():
            return place
    raise NoExamples(places)


@dataclass
class Bar:
    """One call on a timeline, in seconds since the start of the run."""

    name: str
    start: float
    ran: float | None = None
    end: float | None = None
    future: str = ""


@dataclass
class Timeline:
    """State of one run, built from the events of the agent."""

    how: str
    bars: dict[str, Bar] = field(default_factory=dict[str, Bar])
    thinking: list[tuple[float, float | None]] = field(default_factory=list[tuple[float, float | None]])
    began: float | None = None
    ended: float | None = None
    now: float = 0.0
    results: dict[str, Any] | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Apply one event of the agent."""
        at = event["t"] - (self.began or 0.0)
        match event["event"]:
            case "start":
                self.began, at = event["t"], 0.0
            case "think":
                self.thinking.append((at, None))
            case "thought":
                self.thinking[-1] = (self.thinking[-1][0], at)
            case "call":
                self.bars[event["name"]] = Bar(event["name"], at)
            case "running":
                bar = self.bars[event["name"]]
                bar.future, bar.ran = event.get("future", ""), at
            case "done":
                self.bars[event["name"]].end = at
            case "answer":
                self.ended = at
            case "results":
                self.results = event["results"]
                return
            case _:
                return
        self.now = max(self.now, at)

    @property
    def seconds(self) -> float:
        """Duration of the run so far."""
        return self.now if self.ended is None else self.ended


def _cells(spans: list[tuple[float, float]], width: int, span_s: float, mark: str, below: str = "") -> str:
    """Return a line with marks.

    Args:
        below: another line, which shows where there is no mark.
    """
    cells = list(below.ljust(width))
    for start, end in spans:
        first = min(width - 1, int(start / span_s * width))
        last = min(width, max(first + 1, round(end / span_s * width)))
        cells[first:last] = [mark] * (last - first)
    return "".join(cells)


def draw(timeline: Timeline, span_s: float, width: int) -> Group:
    """Draw a timeline as lines of text.

    Args:
        span_s: duration that the whole width represents, in seconds.
        width: width of the terminal, in characters.
    """
    room = max(10, width - NAME_WIDTH - 9)
    seconds = timeline.seconds
    lines = [Text(f"{HEADINGS[timeline.how]}: {seconds:.1f} s", style="bold")]
    thinking = [(start, seconds if end is None else end) for start, end in list(timeline.thinking)]
    model = Text(f"{'model':<{NAME_WIDTH}.{NAME_WIDTH}} ")
    model.append(_cells(thinking, room, span_s, "▒"), style="yellow")
    lines.append(model)
    for bar in list(timeline.bars.values()):  # another thread adds bars
        end = seconds if bar.end is None else bar.end
        label = f"{bar.future} {bar.name}".strip()
        line = Text(f"{label:<{NAME_WIDTH}.{NAME_WIDTH}} ")
        ran = bar.start if bar.ran is None and bar.end is not None else bar.ran
        waited = _cells([(bar.start, end if ran is None else ran)], room, span_s, "░") if bar.ran != bar.start else ""
        running = waited if ran is None else _cells([(ran, end)], room, span_s, "█", waited)
        line.append(running, style="cyan" if bar.end is None else "green")
        line.append(f" {end - bar.start:4.1f} s", style="dim")
        lines.append(line)
    for text in lines:
        text.no_wrap = True
        text.overflow = "crop"
    return Group(*lines)


def verdict(direct: Timeline, bridge: Timeline) -> tuple[str, bool]:
    """Return the closing line, and whether both runs had the same results."""
    same = direct.results is not None and direct.results == bridge.results
    times = f"one by one {direct.seconds:.1f} s · through the bridge {bridge.seconds:.1f} s"
    if same:
        ratio = direct.seconds / bridge.seconds
        pace = f"{ratio:.1f} × faster" if ratio >= 1 else f"{1 / ratio:.1f} × slower"
        return f"{times} · {pace}, same results", True
    ours, theirs = direct.results or {}, bridge.results or {}
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return f"{times} · the results differ: {', '.join(differing) or 'a run ended early'}", False


@contextmanager
def _agent(how: str, folder: Path) -> Generator[subprocess.Popen[str]]:
    """Run the agent in its own process group, so that an interrupt leaves no process behind."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path[1:]])}
    process = subprocess.Popen(
        [sys.executable, str(folder / "scripted_agent.py"), how],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=os.name == "posix",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            # Its children exit with it, since their input is closed.
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def play(how: str, folder: Path, console: Console, span_s: float | None) -> Timeline:
    """Play one run, animated on a terminal, and return it.

    Args:
        span_s: duration that the whole width represents, in seconds; None grows with the run.
    """
    timeline = Timeline(how)
    with _agent(how, folder) as process:
        stdout = process.stdout
        assert stdout is not None

        def read() -> None:
            for line in stdout:
                timeline.add(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        if console.is_terminal:
            _animate(timeline, reader, console, span_s)
        reader.join()
        process.wait()
    return timeline


def _animate(timeline: Timeline, reader: threading.Thread, console: Console, span_s: float | None) -> None:
    import time

    clock: tuple[float, float] | None = None
    with Live(console=console, refresh_per_second=FRAMES_PER_S, transient=True) as live:
        while reader.is_alive():
            reader.join(1 / FRAMES_PER_S)
            if timeline.began is None:
                live.update(Text(f"{HEADINGS[timeline.how]}: starting the servers…", style="dim"))
                continue
            clock = clock or (time.monotonic(), timeline.now)
            if timeline.ended is None:
                timeline.now = max(timeline.now, time.monotonic() - clock[0] + clock[1])
            live.update(draw(timeline, span_s or max(12.0, timeline.seconds), console.width))


def run(console: Console | None = None) -> int:
    """Play both runs and return the exit code: 0 if both had the same results.

    Raises:
        NoExamples: the example servers were not found.
    """
    console = console or Console(highlight=False)
    folder = examples_folder()
    legend = "▒ model turn, ░ waiting call, █ running call"
    console.print(f"A scripted agent calls eight slow tools of two MCP servers over stdio. {legend}\n")
    direct = play("direct", folder, console, None)
    span_s = direct.seconds or 1.0
    console.print(draw(direct, span_s, console.width))
    console.print()
    bridge = play("bridge", folder, console, span_s)
    if direct.results is None or bridge.results is None:
        which = HEADINGS["direct" if direct.results is None else "bridge"].lower()
        console.print(Text(f"The run '{which}' ended early; see its messages above.", style="bold red"))
        return 1
    console.print(draw(bridge, span_s, console.width))
    console.print()
    text, same = verdict(direct, bridge)
    console.print(Text(text, style="bold green" if same else "bold red"))
    return 0 if same else 1
