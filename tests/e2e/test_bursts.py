"""Bursts of calls over parallel HTTP connections: real servers get them in the order in which they are numbered."""

from __future__ import annotations

import http.client
import json
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import HANDSHAKE, MODERN, PATIENCE, Json, records
from tests.support.http_client import HttpWire
from tests.support.peers import script_of
from tests.support.stage import Stage

ROUNDS = 10
BURST = 6


class Bursting(HttpWire):
    """A client that opens a connection for each request of a burst and sends them all at once, in any order."""

    def burst(self, calls: list[tuple[str, Json]], rng: random.Random) -> list[Json]:
        """The results, in the order of the IDs."""
        first = self._next + 1
        self._next += len(calls)
        order = list(range(len(calls)))
        rng.shuffle(order)
        start = threading.Barrier(len(calls))

        def send(n: int) -> Json:
            params: Json = {"name": calls[n][0], "arguments": calls[n][1]}
            if self.era == MODERN:
                params["_meta"] = {
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientInfo": {"name": "http-wire", "version": "1"},
                    "io.modelcontextprotocol/clientCapabilities": {},
                }
            message = {"jsonrpc": "2.0", "id": first + n, "method": "tools/call", "params": params}
            headers = {
                "Accept": "application/json, text/event-stream",
                "Content-Type": "application/json",
                **self._session_headers("tools/call", params),
            }
            connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
            start.wait(PATIENCE)
            try:
                connection.request("POST", self.path, json.dumps(message).encode(), headers)
                response = connection.getresponse()
                answers = self._messages({k.lower(): v for k, v in response.getheaders()}, response.read())
            finally:
                connection.close()
            return next(answer["result"] for answer in answers if answer.get("id") == first + n)

        with ThreadPoolExecutor(len(calls)) as pool:
            results = dict(zip(order, pool.map(send, order), strict=True))
        return [results[n] for n in range(len(calls))]


def connect(stage: Stage, servers: dict[str, Json], era: str) -> Bursting:
    bridge = stage.http_bridge(servers, grace_ms=0)
    client = Bursting(f"{bridge.base}/mcp", era=era)
    client.open()
    return client


def assert_in_order(results: list[Json]) -> None:
    """Futures are numbered in the order of submission."""
    ids = [int(records(result)[0]["future_id"].removeprefix("f")) for result in results]
    assert ids == sorted(ids)


@pytest.mark.node
@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_burst_of_writes_to_one_file(stage: Stage, npm: Path, era: str) -> None:
    """The official filesystem server: the last write is the one that stays, each time; some bodies are large."""
    folder = stage.folder / "files"
    folder.mkdir()
    program = npm / "node_modules" / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
    client = connect(stage, {"fs": stage.entry("node", str(program), str(folder), asyncfc={"prefix": ""})}, era)
    client.wait_for_tools("write_file")
    rng = random.Random(7)
    for round_ in range(ROUNDS):
        path = folder / f"{round_}.txt"
        texts = [f"{n}" + " " * rng.choice((0, 10, 200_000)) for n in range(BURST)]
        results = client.burst([("write_file", {"path": str(path), "content": text}) for text in texts], rng)
        assert_in_order(results)
        client.gather([records(result)[0]["future_id"] for result in results])
        assert path.read_text() == texts[-1]


@pytest.mark.peers
@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_burst_of_rows(stage: Stage, server_sqlite: Path, era: str) -> None:
    """The official sqlite server, whose tools say nothing of their effects, told to be ordered."""
    database = stage.folder / "rows.db"
    entry = stage.entry(
        script_of(server_sqlite, "mcp-server-sqlite"), "--db-path", str(database),
        asyncfc={"prefix": "", "ordering": "strict"},
    )  # fmt: skip
    client = connect(stage, {"db": entry}, era)
    client.wait_for_tools("write_query")
    created = client.call("create_table", {"query": "CREATE TABLE rows (n INTEGER)"})
    client.outcome(records(created)[0]["future_id"])
    rng = random.Random(7)
    for round_ in range(ROUNDS):
        first = round_ * BURST
        rows = [f"INSERT INTO rows VALUES ({first + n})" for n in range(BURST)]
        results = client.burst([("write_query", {"query": row}) for row in rows], rng)
        assert_in_order(results)
        client.gather([records(result)[0]["future_id"] for result in results])
    with sqlite3.connect(database) as connection:
        kept = [n for (n,) in connection.execute("SELECT n FROM rows ORDER BY rowid")]
    connection.close()
    assert kept == list(range(ROUNDS * BURST))
