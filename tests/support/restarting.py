"""A bridge that ends and is started again over the same configuration, and the counting server behind it.

Owns the ways in which a bridge ends, and reading what the server recorded. Knows nothing of the journal but its folder.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.client import HANDSHAKE, PATIENCE, Json, eventually, records, text_of
from tests.support.stage import REPO, HttpBridge, Stage
from tests.support.users import User

SERVER = REPO / "tests" / "support" / "counting_server.py"
INTERRUPTED = "may or may not have taken effect"
NEVER_SENT = "before the call was sent"
_UNORDERED: Json = {"reads": [], "writes": []}
TOOLS: Json = {
    "read": _UNORDERED,
    "big": _UNORDERED,
    "odd": _UNORDERED,
    "append": {"writes": ["list"]},
    "items": {"reads": ["list"]},
    "secret": {"journal": False},
}
_marks = itertools.count(1)
UNFINISHED = ("waiting", "running", "input_required")


class Restarting:
    """A configuration of one counting server, `c`, whose tools keep their names.

    Args:
        modern: the server speaks 2026-07-28.
        tools: settings of tools, beside those in `TOOLS`.
        owner: setting of the server.
        settings: settings at the top.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        modern: bool = False,
        tools: Mapping[str, Json] | None = None,
        owner: str | None = None,
        **settings: Any,
    ) -> None:
        self.stage = stage
        self.log = stage.folder / "counted.log"
        self.log.touch()
        self._gates = itertools.count(1)
        given = dict(tools or {})
        own: Json = {"prefix": "", "tools": {name: TOOLS.get(name, {}) | given.get(name, {}) for name in TOOLS | given}}
        if owner is not None:
            own["owner"] = owner
        options = ["--modern"] if modern else []
        entry = stage.entry(sys.executable, str(SERVER), str(self.log), "--mark", stage.mark, *options, asyncfc=own)
        self.servers = {"c": entry}
        self.config = stage.config(self.servers, **settings)

    # -- bridges

    def command(self, *args: str) -> list[str]:
        """The command line of a bridge over this configuration."""
        return self.stage.command("serve", "--config", str(self.config), *args)

    def start(
        self,
        era: str = HANDSHAKE,
        *,
        client: str = "wire",
        env: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        ready: bool = True,
    ) -> User:
        """A bridge over stdio and its client, once the server has listed its tools."""
        stage = self.stage
        stderr = stage.folder / f"{len(stage.wires):02d}-bridge.stderr"
        environment = stage.env | dict(env or {})
        user = User(command or self.command(), env=environment, cwd=stage.folder, stderr=stderr, era=era)
        stage.wires.append(user)
        user.open(client)
        if ready:
            user.wait_for_tools("write", "append")
        return user

    def start_http(self, *args: str) -> HttpBridge:
        """A bridge over Streamable HTTP."""
        return self.stage.http_bridge({}, *args, config=self.config)

    @property
    def state(self) -> Path:
        """The folder in which bridges keep their state."""
        return Path(self.stage.env["ASYNCFC_STATE_DIR"])

    def bytes_of_state(self) -> bytes:
        """All files of that folder, one after another."""
        return b"\n".join(path.read_bytes() for path in sorted(self.state.rglob("*")) if path.is_file())

    # -- the server

    def gate(self) -> Path:
        """A file that does not exist yet; calls with `until` wait for it."""
        return self.stage.folder / f"gate{next(self._gates)}"

    def events(self, what: str, label: str | None = None) -> list[Json]:
        """What the server recorded, in order."""
        return [e for e in events_in(self.log) if e["what"] == what and label in (None, e["label"])]

    def runs(self) -> Counter[str]:
        """Label → number of executions; without those of `recorded`."""
        return Counter(e["label"] for e in self.events("run") if not e["label"].startswith("recorded "))

    def ran(self, label: str) -> Json:
        """The execution of a call, once it has begun."""
        return eventually(lambda: self.events("run", label), f"the server runs {label}")[0]

    @property
    def items(self) -> list[Any]:
        """The list of `append`."""
        path = self.log.with_suffix(".items")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def hold(self, bridge: User, tool: str = "append", label: str = "held", **arguments: Any) -> str:
        """A call that is running at the server and is not answered until its gate opens; its future's ID."""
        gate = arguments.pop("until", None) or self.gate()
        future = bridge.submit(tool, {"label": label, "until": str(gate), **arguments}).id
        self.ran(label)
        return future


def events_in(log: Path) -> list[Json]:
    """What a counting server recorded. The last line of a copy may be cut off."""
    found: list[Json] = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


# --- ends ----------------------------------------------------------------------------------------------------------


def kill(bridge: User) -> None:
    """SIGKILL: nothing is flushed. A line that was cut off is not held against it."""
    bridge.process.kill()
    bridge.process.wait(PATIENCE)
    bridge._reader.join(PATIENCE)
    bridge.garbage.clear()


def terminate(bridge: User) -> None:
    """SIGTERM, as of a service manager."""
    bridge.process.send_signal(signal.SIGTERM)
    bridge.process.wait(PATIENCE)


def leave(bridge: User) -> None:
    """The end of standard input, as of a host that ends."""
    bridge.close()


ENDS: Mapping[str, Callable[[User], None]] = {"kill": kill, "terminate": terminate, "leave": leave}


# --- what clients see ------------------------------------------------------------------------------------------------


def entries(client: Any) -> dict[str, Json]:
    """What `list_futures` shows, by ID."""
    return {entry["future_id"]: entry for entry in client.call("list_futures")["structuredContent"]["futures"]}


def state_of(client: Any, future: str) -> str:
    """The state of a listed future."""
    return entries(client)[future]["status"]


def until_ended(client: Any, *futures: str) -> dict[str, Json]:
    """The list's entries, once these futures have ended; nothing is read by that."""

    def ended() -> dict[str, Json] | None:
        found = entries(client)
        done = all(future in found and found[future]["status"] not in UNFINISHED for future in futures)
        return found if done else None

    return eventually(ended, f"{', '.join(futures)} have ended")


def recorded(client: Any) -> None:
    """Return when everything that was submitted before is in the journal: handles do not wait for that, and results
    are shown only once they are, in the order of submission."""
    answer = client.outcome(client.submit("read", {"label": f"recorded {next(_marks)}", "text": "recorded"}).id)
    assert text_of(answer) == "recorded"


def whole(result: Json) -> Json:
    """A result as the server gave it: without what 2026-07-28 adds to every answer."""
    found = {key: value for key, value in result.items() if key != "resultType"}
    meta = {key: value for key, value in found.pop("_meta", {}).items() if not key.endswith("/serverInfo")}
    return found | ({"_meta": meta} if meta else {})


def assert_interrupted(client: Any, future: str) -> None:
    """The future failed, and its reason says that its effect is unknown."""
    answer = client.await_future(future)
    assert answer["isError"] is True
    assert INTERRUPTED in text_of(answer), text_of(answer)
    assert records(answer)[0]["status"] == "failed"


def assert_never_sent(client: Any, future: str) -> None:
    """No future has the ID, and the answer says that no call was sent under it."""
    answer = client.await_future(future)
    assert answer["isError"] is True
    assert re.search(NEVER_SENT, text_of(answer)), text_of(answer)
