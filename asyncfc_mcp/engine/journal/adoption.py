"""Adoption: unfinished futures of bridges that have ended become those of a bridge that starts.

Owns the change of owners in the file. Leaves to `owners` which bridges have ended and whether their record is complete,
and to the engine what is done with the futures.

A future of a bridge whose record is not complete may have been sent, whatever stands in the file. It is adopted as
`running`, so that it is never sent again, and open questions are not asked again.
"""

import sqlite3
from pathlib import Path

from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal import owners
from asyncfc_mcp.engine.journal.rows import SELECTED_WITH_CALL, readable


def adopt(connection: sqlite3.Connection, folder: Path, boot: str) -> list[FutureRecord]:
    """Make the unfinished futures of all bridges that have ended those of `boot`; return them in the order of their
    submission. Called in a transaction, under `owners.starting`.

    Raises:
        sqlite3.Error: the file cannot be read or written.
    """
    # One look-up for each bridge, instead of reading all rows.
    found: set[str] = set(owners.boots(folder))
    last = ""
    while row := connection.execute(
        "SELECT min(owner) FROM futures WHERE ended_at IS NULL AND owner > ?", (last,)
    ).fetchone():
        if row[0] is None:
            break
        last = row[0]
        found.add(last)
    found.update(row[0] for row in connection.execute("SELECT owner FROM blocks WHERE owner IS NOT NULL"))
    found.discard(boot)
    for each in sorted(found):
        bridge = owners.bridge_of(folder, each)
        if bridge.running:
            continue
        if bridge.trusted:
            connection.execute("UPDATE blocks SET owner = NULL WHERE owner = ?", (each,))
        else:
            connection.execute("DELETE FROM blocks WHERE owner = ?", (each,))
            connection.execute(
                "UPDATE futures SET state = 'running', round = NULL WHERE owner = ? AND ended_at IS NULL", (each,)
            )
        connection.execute("UPDATE futures SET owner = ? WHERE owner = ? AND ended_at IS NULL", (boot, each))
    rows = connection.execute(
        f"""SELECT {SELECTED_WITH_CALL} FROM futures f LEFT JOIN calls c ON c.seq = f.seq
            WHERE f.owner = ? AND f.ended_at IS NULL ORDER BY f.seq""",
        (boot,),
    ).fetchall()
    return readable(rows)


def clean(connection: sqlite3.Connection, folder: Path, boot: str) -> None:
    """Remove the files of bridges that have ended and own nothing any more. Called after the commit of `adopt`, under
    `owners.starting`.

    Raises:
        OSError, sqlite3.Error: the folder or the file cannot be read.
    """
    for each in owners.boots(folder):
        if each != boot and not owners.bridge_of(folder, each).running:
            owns = connection.execute(
                "SELECT 1 FROM futures WHERE owner = ? AND ended_at IS NULL LIMIT 1", (each,)
            ).fetchone()
            if owns is None:
                owners.forget(folder, each)
