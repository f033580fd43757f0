"""The journal in the output of `asyncfc-mcp inspect`.

Owns the text of one line. Pure: the figures are `SqliteJournal.inspected`'s.
"""

from collections.abc import Mapping
from typing import Any

from asyncfc_mcp.cli.figures import size


def line(journal: Mapping[str, Any] | None, unwritten: int) -> str:
    """Return one line on the journal.

    Args:
        journal: its figures; None if it is off.
        unwritten: number of tools with `"journal": false`.
    """
    if journal is None:
        return 'off ("journal": "off"): futures end with the bridge'
    if journal["problem"]:
        return f"{journal['path']} cannot be used: {journal['problem']}"
    futures = "1 future" if journal["futures"] == 1 else f"{journal['futures']} futures"
    if journal["unfinished"]:
        futures += f", {journal['unfinished']} of them unfinished"
    bounds = f"at most {size(journal['max_bytes'])}, each for {journal['ttl_s'] / 3600:g} h"
    text = f"{journal['path']}: {futures}, {size(journal['bytes'] + journal['large_result_bytes'])} ({bounds})"
    if unwritten:
        text += f"; without arguments and results of {unwritten} tool{'' if unwritten == 1 else 's'}"
    return text
