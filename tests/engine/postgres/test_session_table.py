"""The table of sessions: what comes back, for how long, and that no session can be used with what is stored."""

from collections.abc import Mapping
from typing import Any

import pytest

from asyncfc_mcp.core.identity import LOCAL, PUBLIC, Scope
from asyncfc_mcp.core.session_archive import SessionRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.session_table import SessionTable

pytestmark = pytest.mark.anyio

ID, OTHER = "1" * 32, "2" * 32
IDLE_S = 1800.0
ODD = "a\0b\\\ud800é"


@pytest.fixture
def sessions(database: Database) -> SessionTable:
    return SessionTable(database)


async def age(database: Database, seconds: float) -> None:
    """Let the last use of all sessions be longer ago."""
    await database.fetch("UPDATE sessions SET seen_at = seen_at - %s", (seconds,))


async def count(database: Database) -> int:
    [(number,)] = await database.fetch("SELECT count(*) FROM sessions")
    return number


@pytest.mark.parametrize("scope", [LOCAL, PUBLIC, Scope(ODD)])
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"form": {ODD: ODD}}, "n": {"big": 2**70, "f": 0.1}}])
async def test_a_session_comes_back_as_it_was_saved(database: Database, scope: Scope, capabilities: Mapping[str, Any]):
    """At another replica, whatever its client has sent; the last save counts."""
    record = SessionRecord(scope, "2025-11-25", ODD, capabilities, "error", ("future://f1", ODD))
    await SessionTable(database).save(ID, SessionRecord(LOCAL, "2024-11-05"))
    await SessionTable(database).save(ID, record)
    assert await SessionTable(database).load(ID, IDLE_S) == record
    assert await SessionTable(database).load(OTHER, IDLE_S) is None


async def test_an_idle_session_is_unknown_and_then_forgotten(sessions: SessionTable, database: Database):
    """Use at any replica keeps it."""
    for session_id in (ID, OTHER):
        await sessions.save(session_id, SessionRecord(LOCAL, "2025-11-25"))
    await age(database, IDLE_S / 2)
    await sessions.touch([ID], IDLE_S)
    await age(database, IDLE_S * 0.6)
    assert await sessions.load(OTHER, IDLE_S) is None
    assert await count(database) == 2
    assert await sessions.load(ID, IDLE_S) is not None
    await age(database, IDLE_S * 0.6)
    assert await sessions.load(ID, IDLE_S) is not None, "it was loaded meanwhile"
    await sessions.touch([], IDLE_S)
    assert await count(database) == 1


async def test_a_session_that_was_dropped_stays_so(sessions: SessionTable, database: Database):
    """A replica that still uses it does not bring it back."""
    await sessions.save(ID, SessionRecord(LOCAL, "2025-11-25"))
    await sessions.drop(ID)
    await sessions.drop(OTHER)
    await sessions.touch([ID], IDLE_S)
    assert await sessions.load(ID, IDLE_S) is None
    assert await count(database) == 0


async def test_the_id_of_a_session_is_not_stored(sessions: SessionTable, database: Database):
    """Whoever reads the database cannot use the session."""
    await sessions.save(ID, SessionRecord(LOCAL, "2025-11-25"))
    [(row,)] = await database.fetch("SELECT s::text FROM sessions s")
    assert ID not in row
