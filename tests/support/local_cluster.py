"""The local cluster of `examples/cluster`: two replicas of the bridge behind a load balancer, as real processes.

Owns starting and stopping the script, and what it says. The database is the script's own, or one that a test gives.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from tests.support.client import PATIENCE, Json
from tests.support.http_client import HttpWire
from tests.support.stage import REPO, Stage

SCRIPT = REPO / "examples" / "cluster" / "local.py"


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        url: the load balancer's `/mcp`.
        replicas: by name, as the script describes them: `url` of their own, and `pid`.
        processes: process IDs of the load balancer, and of the database if it is the script's.
        folder: has logs: `replica-1.log`, `haproxy.log`.
    """

    process: subprocess.Popen[str]
    events: Queue[Json]
    url: str
    replicas: dict[str, Json]
    processes: dict[str, int]
    folder: Path

    def client(self, replica: str | None = None, **options: Any) -> HttpWire:
        """A new client of the load balancer, or of one replica."""
        return HttpWire(self.url if replica is None else self.replicas[replica]["url"], **options).open()

    def next_event(self) -> Json:
        """What the script says next: a replica has `ended`, or is `started` again (then `replicas` has its process)."""
        try:
            event = self.events.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError("the cluster says nothing") from None
        if event["event"] == "started":
            self.replicas[event["name"]] = event
        return event

    def log(self, name: str) -> str:
        """Return the log of a process: `replica-1`, `haproxy`."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextmanager
def cluster_in(
    stage: Stage,
    *options: str,
    config: Path | None = None,
    engine: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Run the cluster until the block ends.

    Args:
        options: of the script: `--no-restart`.
        config: configuration; its `engine`, `replica` and `secret` are `${ASYNCFC_ENGINE}`, `${ASYNCFC_REPLICA}` and
            `${ASYNCFC_SECRET}`. None for that of the example.
        engine: URL of a database; None for one of the script's own.
    """
    folder = stage.folder / "cluster"
    log = stage.folder / "cluster.stderr"
    command = [sys.executable, str(SCRIPT), "--json", "--port", "0", "--folder", str(folder), *options]
    command += [] if config is None else ["--config", str(config)]
    own = {} if engine is None else {"ASYNCFC_ENGINE": engine}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env={**stage.env, **own, **(env or {})},
        )
    stage.processes.append(process)
    events: Queue[Json] = Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            events.put(json.loads(line))
        events.put({"event": "end"})

    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        try:
            ready = events.get(timeout=2 * PATIENCE)
        except Empty:
            raise AssertionError(f"the cluster does not start: {log.read_text()}") from None
        assert ready["event"] == "ready", f"the cluster does not start: {log.read_text()}"
        replicas = {each["name"]: each for each in ready["replicas"]}
        yield Cluster(process, events, ready["url"], replicas, ready["processes"], folder)
    finally:
        process.terminate()
        process.wait(2 * PATIENCE)
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
