"""The table `sessions`: sessions of handshake clients over HTTP, which any replica can continue.

Implements `core.session_archive.SessionArchive`. Owns what is stored of a session, and for how long: not its ID, only a
hash of that, since whoever has the ID can use the session. Times are the database's.
"""

from collections.abc import Collection
from hashlib import sha256
from typing import Any, Final

from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.core.session_archive import SessionRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.rows import escaped, unescaped
from asyncfc_mcp.engine.record_json import parse
from asyncfc_mcp.values.text import encode

FORGOTTEN_AT_ONCE: Final = 1_000
"""Bound on the sessions that are forgotten in one transaction."""


class SessionTable:
    """Sessions of all replicas that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, session_id: str, record: SessionRecord) -> None:
        data: dict[str, Any] = {
            "listed": record.scope.listed,
            "version": record.version,
            "host": record.host,
            "capabilities": record.capabilities,
            "log_level": record.log_level,
            "uris": list(record.uris),
        }
        await self._database.fetch(
            "INSERT INTO sessions (id, scope, data, seen_at) VALUES (%s, %s, %b, now_s()) "
            "ON CONFLICT (id) DO UPDATE SET scope = EXCLUDED.scope, data = EXCLUDED.data, seen_at = EXCLUDED.seen_at",
            (_key(session_id), escaped(record.scope.key), encode(data)),
        )

    async def load(self, session_id: str, idle_s: float) -> SessionRecord | None:
        rows = await self._database.fetch(
            "UPDATE sessions SET seen_at = now_s() WHERE id = %s AND seen_at > now_s() - %s RETURNING scope, data",
            (_key(session_id), idle_s),
        )
        if not rows:
            return None
        scope, data = rows[0]
        found: dict[str, Any] = parse(data)
        return SessionRecord(
            Scope(unescaped(scope), found["listed"]),
            found["version"],
            found["host"],
            found["capabilities"],
            found["log_level"],
            tuple(found["uris"]),
        )

    async def touch(self, session_ids: Collection[str], idle_s: float) -> None:
        if session_ids:
            await self._database.fetch(
                "UPDATE sessions SET seen_at = now_s() WHERE id = ANY (%s)", ([_key(each) for each in session_ids],)
            )
        await self._database.fetch(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE seen_at <= now_s() - %s LIMIT %s "
            "FOR UPDATE SKIP LOCKED)",
            (idle_s, FORGOTTEN_AT_ONCE),
        )

    async def drop(self, session_id: str) -> None:
        await self._database.fetch("DELETE FROM sessions WHERE id = %s", (_key(session_id),))


def _key(session_id: str) -> str:
    return sha256(f"session {session_id}".encode()).hexdigest()
