"""Entries as a trace in the Trace Event Format, which Perfetto and Chrome's `about:tracing` show.

Pure. Owns the mapping: a process for each conversation, threads for the bars of each server, since bars of one thread
must not overlap; a bar for the time that a call waited, and one for its run; an arrow from each call that another one
waited for. Times are microseconds since 1970.
"""

from collections.abc import Sequence
from typing import Any, Final

from asyncfc_mcp.core.waits import WAIT_WORDS
from asyncfc_mcp.monitor.entries import Entry
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.text import encode

NO_CONVERSATION: Final = "calls"
MOST_LANES: Final = 2_000
"""Bound on the threads of one server; beyond it, bars may overlap."""
_HEAD: Final = b'{"displayTimeUnit":"ms","traceEvents":['

Event = dict[str, Any]


class TraceEvents:
    """One trace, written in parts.

    Args:
        now: end of the bars of calls that have not ended, in seconds of the wall clock.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._separator = _HEAD + b"\n"
        self._processes: dict[str, int] = {}
        self._lanes: dict[tuple[int, str], list[list[int]]] = {}
        """Process and server → thread and earliest bar of each of its lanes."""
        self._threads = 0
        self._arrows = 0
        self._heads: dict[str, list[Event]] = {}
        """ID of a call that was not written yet → heads of the arrows that begin at it."""

    def writing(self, entries: Sequence[Entry]) -> Slices[bytes]:
        """Return the part of the trace with these entries, newest first, which are older than all before."""
        parts: list[bytes] = []
        for number, entry in enumerate(entries):
            for event in self._events(entry):
                parts += (self._separator, encode(event))
                self._separator = b",\n"
            if number % 32 == 0:
                yield
        return b"".join(parts)

    def end(self) -> bytes:
        """Return what closes the trace."""
        return b"\n]}\n" if self._separator == b",\n" else _HEAD + b"]}\n"

    def _events(self, entry: Entry) -> list[Event]:
        begins = _us(entry["submitted_at"])
        ends = max(begins + 1, _us(entry.get("ended_at") or self._now))
        # A call that has not started waited to its end.
        started = min(max(begins, _us(entry["started_at"])), ends - 1) if "started_at" in entry else ends
        events: list[Event] = []
        process = self._process(entry, events)
        thread = self._thread(process, entry["server"], begins, ends, events)

        def event(phase: str, ts: int, title: str, category: str, **more: Any) -> Event:
            return {"ph": phase, "pid": process, "tid": thread, "ts": ts, "name": title, "cat": category, **more}

        name = f"{entry['id']} {entry['tool']}"
        waits: list[tuple[str, str]] = [(WAIT_WORDS[wait["kind"]], wait["on"]) for wait in entry.get("waits", ())]
        if started > begins:
            reason = ", ".join(f"{kind} of {on}" for kind, on in waits)
            events.append(
                event("X", begins, f"{name} waits", "wait", dur=started - begins, args={"for": reason, **entry})
            )
        if ends > started:
            events.append(event("X", started, name, entry["state"], dur=ends - started, args=entry))
        at = min(started, ends - 1)
        for kind, on in waits:
            self._arrows += 1
            self._heads.setdefault(on, []).append(event("f", at, kind, "wait", id=self._arrows, bp="e"))
        for head in self._heads.pop(entry["id"], ()):
            # An arrow begins within a bar, which does not contain its own end.
            events += (event("s", min(ends - 1, head["ts"]), head["name"], "wait", id=head["id"]), head)
        return events

    def _process(self, entry: Entry, events: list[Event]) -> int:
        host = entry.get("host")
        conversation = entry.get("conversation") or host or NO_CONVERSATION
        process = self._processes.get(conversation)
        if process is None:
            process = self._processes[conversation] = len(self._processes) + 1
            title = f"{host} {conversation}" if host and host != conversation else conversation
            events.append(_named("process_name", process, 0, name=title))
        return process

    def _thread(self, process: int, server: str, begins: int, ends: int, events: list[Event]) -> int:
        """Return a thread of a server on which no bar overlaps this one."""
        lanes = self._lanes.setdefault((process, server), [])
        for lane in lanes:
            if ends <= lane[1]:
                lane[1] = begins
                return lane[0]
        if len(lanes) >= MOST_LANES:
            return lanes[-1][0]
        self._threads += 1
        lanes.append([self._threads, begins])
        title = server if len(lanes) == 1 else f"{server} ({len(lanes)})"
        events.append(_named("thread_name", process, self._threads, name=title))
        events.append(_named("thread_sort_index", process, self._threads, sort_index=self._threads))
        return self._threads


def _us(at: float) -> int:
    return round(at * 1e6)


def _named(what: str, process: int, thread: int, **args: Any) -> Event:
    return {"ph": "M", "pid": process, "tid": thread, "ts": 0, "name": what, "args": args}
