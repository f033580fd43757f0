"""One turn of calls to real servers: which are sent at once, and whether the results are those of the same calls one
after another.

Owns the comparison. What is called, and what is expected, is a test's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.client import Json, RpcError, records
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

HELD = Path(__file__).with_name("held_server.py")


_ENTRIES: Final = re.compile(r'(?<=")\[(?:FILE|DIR)\] [^"]*(?=")')
"""Listing of a folder, in the order of its file system: two folders with the same files may differ."""


def _sorted_entries(listing: re.Match[str]) -> str:
    return "\\n".join(sorted(listing[0].split("\\n")))


@dataclass(frozen=True)
class Turn:
    """Calls of one turn, each with the servers and folders of a place of its own.

    Attributes:
        servers: returns server → command, arguments and environment, for a folder.
        calls: server, tool, arguments (`FOLDER` in them is the folder), and whether it is sent at once.
        prepare: makes the contents of the folder.
        mask: returns the text of a result without what differs between two runs.
    """

    servers: Callable[[Path], Mapping[str, tuple[Sequence[str], Mapping[str, str]]]]
    calls: Sequence[tuple[str, str, Json, bool]]
    prepare: Callable[[Path], None] = lambda folder: None
    mask: Callable[[str], str] = str

    def place(self, folder: Path) -> Path:
        folder.mkdir()
        folder = folder.resolve()
        self.prepare(folder)
        return folder

    def at(self, folder: Path, arguments: Json) -> Json:
        return json.loads(json.dumps(arguments).replace("FOLDER", str(folder)))

    def plain(self, folder: Path, result: Json) -> str:
        shown = {key: result.get(key) for key in ("content", "structuredContent", "isError") if result.get(key)}
        text = _ENTRIES.sub(_sorted_entries, json.dumps(shown, sort_keys=True))
        return self.mask(text.replace(str(folder), "FOLDER"))


def check(stage: Stage, turn: Turn, **settings: Any) -> None:
    """Make the calls through the bridge at once, and directly one after another.

    Raises:
        AssertionError: another call is sent at once than expected, or a result is another one.
    """
    folder = turn.place(stage.folder / "at once")
    hold = stage.folder / "hold"
    entries = {
        server: stage.entry(
            sys.executable, str(HELD), str(hold), *command, env=env, cwd=str(folder), asyncfc={"prefix": f"{server}__"}
        )
        for server, (command, env) in turn.servers(folder).items()
    }
    bridge = stage.bridge(entries, grace_ms=0, **settings)
    bridge.wait_for_tools(*(listed(server, tool) for server, tool, _, _ in turn.calls))
    hold.touch()
    try:
        handles = sent_at_once(bridge, turn, folder)
    finally:
        hold.unlink()
    results = [turn.plain(folder, bridge.outcome(handle["future_id"])) for handle in handles]

    folder = turn.place(stage.folder / "one by one")
    direct = {
        server: stage.wire(["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command], env=env)
        for server, (command, env) in turn.servers(folder).items()
    }
    for (server, tool, arguments, _), result in zip(turn.calls, results, strict=True):
        try:
            plain = turn.plain(folder, direct[server].call(tool, turn.at(folder, arguments)))
        except RpcError:
            continue  # the bridge words the failure itself
        assert result == plain, f"{tool}: {result} at once, {plain} one by one"


def sent_at_once(bridge: Wire, turn: Turn, folder: Path) -> list[Json]:
    """Make the calls, none of which is answered for now, and return their handles; each says what was expected."""
    sent = [
        bridge.start_call(listed(server, tool), turn.at(folder, arguments)) for server, tool, arguments, _ in turn.calls
    ]
    handles = [records(pending.result())[0] for pending in sent]
    wrong = [
        f"{number}: {handle}"
        for number, (handle, call) in enumerate(zip(handles, turn.calls, strict=True), 1)
        if (handle["status"] == "running") != call[3]
    ]
    assert not wrong, "\n".join(wrong)
    return handles


def listed(server: str, tool: str) -> str:
    """Return the name under which the bridge lists a tool."""
    return f"{server}__{tool}".replace("-", "_")
