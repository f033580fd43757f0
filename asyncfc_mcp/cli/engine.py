"""`asyncfc-mcp engine`: what is said about the database that replicas share.

Owns the texts and tables; what is done is the engine's (`app.administration`).
"""

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from asyncfc_mcp.cli.figures import size
from asyncfc_mcp.quotation import for_terminal


def migrated(before: int, after: int, changed: bool, schema: str, database: str) -> str:
    """Return one line on a migration."""
    where = f"schema {schema} in {database}"
    if before != after:
        return f"{where}: migrated from version {before} to {after}\n"
    return f"{where}: version {after}, " + ("tables of the job queue were migrated\n" if changed else "up to date\n")


def pruned(count: int) -> str:
    """Return one line on what was dropped."""
    return f"dropped {count} future{'' if count == 1 else 's'}\n"


def is_current(status: Mapping[str, Any]) -> bool:
    """Return true if the tables are of this program's version."""
    return status["version"] == status["known_version"]


def report(status: Mapping[str, Any], *, as_json: bool) -> str:
    """Return the status as lines and tables, or as JSON."""
    if as_json:
        return json.dumps(status, indent=2) + "\n"
    output = StringIO()
    console = Console(file=output, width=110, highlight=False, markup=False, emoji=False)
    console.print(f"Database: {for_terminal(status['database'])}, schema {status['schema']}", soft_wrap=True)
    if not is_current(status):
        has = f"version {status['version']}" if status["version"] else "no tables"
        console.print(
            f"It has {has}; this program needs version {status['known_version']}: run `asyncfc-mcp engine migrate`"
        )
        return output.getvalue()
    console.print(f"Version:  {status['version']} (PostgreSQL {status['server_version']})")
    _replicas(console, status)
    _futures(console, status)
    _queues(console, status)
    sizes = status["bytes"]
    console.print(
        f"Space: {size(sizes['total'])} (futures {size(sizes['futures'])}, arguments {size(sizes['calls'])}, "
        f"results {size(sizes['results'])}, jobs {size(sizes['jobs'])})"
    )
    return output.getvalue()


def _replicas(console: Console, status: Mapping[str, Any]) -> None:
    if not status["replicas"]:
        console.print("\nNo replicas.")
        return
    table = Table("Replica", "ID", "State", "Last heartbeat", "Running for", "Owns", box=SIMPLE, pad_edge=False)
    for each in status["replicas"]:
        table.add_row(
            for_terminal(each["name"]),
            each["id"],
            each["state"],
            f"{_duration(each['heartbeat_s_ago'])} ago",
            _duration(each["started_s_ago"]),
            for_terminal(", ".join(each["owns"])),
        )
    console.print(table)


def _futures(console: Console, status: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in status["futures"].items())
    line = f"Futures: {counts or 'none'}"
    if status["oldest_waiting_s"] is not None:
        line += f"; the oldest waiting one was submitted {_duration(status['oldest_waiting_s'])} ago"
    console.print(line)


def _queues(console: Console, status: Mapping[str, Any]) -> None:
    if not status["queues"]:
        console.print("Jobs: none")
        return
    table = Table("Queue", "Waiting", "Running", box=SIMPLE, pad_edge=False)
    for each in status["queues"]:
        table.add_row(for_terminal(each["queue"]), str(each["waiting"]), str(each["running"]))
    console.print(table)


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
