"""The example of a cluster: its script starts and stops everything, and its load balancer does what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.client import PATIENCE, records, text_of
from tests.support.local_cluster import SCRIPT, cluster_in
from tests.support.postgres import PostgresServer
from tests.support.stage import Stage, free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("haproxy")]


def test_the_cluster_starts_answers_and_stops(stage: Stage, postgres: PostgresServer):
    """With a database of its own, which it removes; futures of one replica are known at the other, and nothing is
    left."""
    with cluster_in(stage) as cluster:
        assert set(cluster.processes) == {"postgres", "haproxy"}
        client = cluster.client()
        client.wait_for_tools("travel__search_flights", "notes__write_note")
        result = client.call("travel__search_flights", {"origin": "BER", "destination": "LIS", "_wait": "this"})
        assert "BER-LIS" in text_of(result)
        first, second = (cluster.client(name) for name in ("replica-1", "replica-2"))
        future = records(first.call("notes__write_note", {"name": "n", "text": "hello"}))[0]["future_id"]
        read = second.call("notes__read_note", {"name": "n", "_after": future, "_wait": "this"})
        assert "hello" in text_of(read)
        assert second.await_future(future) == first.await_future(future)
        for each in (client, first, second):
            each.close()
    assert cluster.process.returncode == 0


def test_sessions_stay_at_their_replica_and_others_take_over(stage: Stage, postgres_url: str):
    """The load balancer sends the requests of a session to one replica, and none to a replica that has ended; the
    script starts that again."""
    with cluster_in(stage, engine=postgres_url) as cluster:
        assert set(cluster.processes) == {"haproxy"}
        clients = [cluster.client() for _ in range(4)]
        for _ in range(3):
            for client in clients:
                client.wait_for_tools("travel__search_flights")
        os.kill(cluster.replicas["replica-1"]["pid"], signal.SIGKILL)
        assert cluster.next_event() == {"event": "ended", "name": "replica-1", "code": -signal.SIGKILL}
        for _ in range(4):
            client = cluster.client()
            client.wait_for_tools("travel__search_flights")
            client.close()
        assert cluster.next_event()["name"] == "replica-1"
        direct = cluster.client("replica-1")
        direct.wait_for_tools("travel__search_flights")
        direct.close()


def test_what_does_not_start_is_said_and_nothing_is_left(stage: Stage):
    """The reason is the replica's own; no traceback."""
    env = {**stage.env, "ASYNCFC_ENGINE": f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"}
    folder = stage.folder / "cluster"
    config = stage.config({"toy": {"command": "toy"}}, grace_msec=1)
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--port", "0", "--folder", str(folder), "--config", str(config)],
        env=env,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert ran.returncode == 1
    assert "replica-1 ended with 2" in ran.stderr
    assert "grace_msec" in ran.stderr
    assert "Traceback" not in ran.stderr
