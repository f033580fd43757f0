"""The official SDKs' clients, of both eras, with a load balancer between them and two replicas."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.test_clients import CLIENTS, assert_saw_it_all, drive
from tests.support.client import MODERN
from tests.support.local_cluster import Cluster, cluster_in
from tests.support.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("haproxy")]


def assert_clients_see_it_all(stage: Stage, cluster: Cluster, npm_clients: Path) -> None:
    """Each lists, calls, awaits and gathers, and sees what it would see of one bridge."""
    package = str(npm_clients / "node_modules" / "@modelcontextprotocol" / "client")
    scripts = {
        "python": [sys.executable, str(CLIENTS / "python_sdk_2.py")],
        "typescript": ["node", str(CLIENTS / "typescript_2.mjs"), package],
    }
    runs = {
        f"{mode} {name}": [*each, mode, "http", cluster.url]
        for name, each in scripts.items()
        for mode in ("auto", "legacy")
    }
    for name, report in drive(stage, runs).items():
        assert_saw_it_all(report)
        assert report["version"] == (MODERN if name.startswith("auto") else "2025-11-25")


@pytest.mark.node
@pytest.mark.parametrize("owner", ["any", "auto"])
def test_clients_see_one_bridge(stage: Stage, postgres_url: str, npm_clients: Path, owner: str) -> None:
    """Whichever replica the load balancer chooses for a request, also after the death of one of them."""
    replicas = {"engine": "${ASYNCFC_ENGINE}", "replica": "${ASYNCFC_REPLICA}", "secret": "${ASYNCFC_SECRET}"}
    server = stage.toy()
    server.setdefault("asyncfc", {})["owner"] = owner
    config = stage.config({"toy": server}, grace_ms=0, replica_timeout_s=2, **replicas)
    with cluster_in(stage, "--no-restart", config=config, engine=postgres_url) as cluster:
        assert_clients_see_it_all(stage, cluster, npm_clients)
        os.kill(cluster.replicas["replica-1"]["pid"], signal.SIGKILL)
        assert cluster.next_event()["event"] == "ended"
        assert_clients_see_it_all(stage, cluster, npm_clients)
