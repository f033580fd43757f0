"""A day of a cluster in short: results expire after seconds and fill the size cap, over and over.

Owns nothing of what the calls return; `test_postgres_kills` does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest

from asyncfc_mcp.engine.postgres.database import Database
from tests.attacks.test_postgres_kills import Replicas, long, opened
from tests.support import kill_points
from tests.support.client import Json, eventually, records
from tests.support.postgres import PostgresServer
from tests.support.stage import Stage
from tests.support.users import User

SOAK_S = float(os.environ.get("ASYNCFC_SOAK_S", "300"))
"""Seconds that the long one lasts."""
TTL_S = 4
MAX_BYTES = 4 << 20
ROOM = 24 << 20
"""More than after the first third a replica may not hold at the end: heaps do not shrink to the byte."""
TABLES_BYTES = 64 << 20
"""All tables with their indexes; rows that were dropped make room only after a vacuum."""
BURST = 40
EMPTY = ("procrastinate_jobs", "procrastinate_events", "calls", "places", "queued", "questions")
"""Tables that have nothing once every call has ended."""


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    return postgres.url(postgres.fresh_schema())


class Soak:
    """Clients that make calls at all replicas in bursts, and read most results."""

    def __init__(self, house: Replicas, database: psycopg.Connection[Any]) -> None:
        self.dice = random.Random(3)
        self.database = database
        self.replicas = [house.killing(**{kill_points.PRUNE: "0.5"}) for _ in range(2)]
        assert all(opened(each) for each in self.replicas)
        self.calls = 0
        self.largest = 0

    def burst(self) -> None:
        """Make calls at the same time, at both replicas, and await most of them at the other one."""
        sent: list[Any] = []
        for number in range(BURST):
            self.calls += 1
            size = self.dice.choice([0, 0, 0, 0, 0, 0, 0, 2_000, 100_000])
            tool = "big" if size else self.dice.choice(["write", "read", "append"])
            arguments: Json = {"label": f"n{self.calls}", **({"n_bytes": size} if size else {})}
            sent.append(self.replicas[number % 2].start_call(tool, arguments))
        futures = [records(each.result())[0]["future_id"] for each in sent]
        for number, replica in enumerate(self.replicas):
            replica.gather(futures[number::3])
        self.largest = max(self.largest, self.bytes())

    def bytes(self) -> int:
        return self.one(
            """SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"""
        )

    def one(self, query: Any) -> int:
        row = self.database.execute(query).fetchone()
        assert row is not None
        return row[0]

    def left(self) -> dict[str, int]:
        """Rows in tables that should have none."""
        counts = {table: self.one(f"SELECT count(*) FROM {table}") for table in EMPTY}
        counts["unfinished"] = self.one("SELECT count(*) FROM futures WHERE ended_at IS NULL")
        return {table: count for table, count in counts.items() if count}


def rss(replica: User) -> int:
    return psutil.Process(replica.pid).memory_info().rss


@pytest.mark.parametrize("seconds", [10, pytest.param(SOAK_S, marks=[*long, pytest.mark.timeout(SOAK_S + 300)])])
def test_memory_and_tables_stay_within_their_bounds(stage: Stage, url: str, seconds: float) -> None:
    """Flat memory of both replicas, tables of a bounded size, and neither a job nor an event is left."""
    house = Replicas(
        stage, url, ttl_s=TTL_S, journal_max_bytes=MAX_BYTES, keep_s=TTL_S, unread_keep_s=TTL_S, max_pending=2_000
    )
    with psycopg.connect(Database(url).conninfo, autocommit=True) as database:
        soak = Soak(house, database)

        def run(until_s: float) -> list[int]:
            until = time.monotonic() + until_s
            while time.monotonic() < until:
                soak.burst()
            return [rss(each) for each in soak.replicas]

        early, late = run(seconds / 3), run(seconds * 2 / 3)
        kept = soak.one("SELECT count(*) FROM futures")
        print(
            f"{soak.calls} calls: {[each >> 20 for each in early]} MB, {[each >> 20 for each in late]} MB at the end, "
            f"tables at most {soak.largest >> 20} MB, {kept} futures kept"
        )
        eventually(lambda: not soak.left(), f"nothing is left ({soak.left()})")
        assert max(house.runs().values()) == 1
        assert all(after < before + ROOM for before, after in zip(early, late, strict=True))
        assert soak.largest < TABLES_BYTES
        eventually(lambda: soak.one("SELECT count(*) FROM futures") == 0, "all results have expired")
        assert soak.one("SELECT count(*) FROM results") == 0
