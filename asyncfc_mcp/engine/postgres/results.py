"""Results as JSON in the database.

Owns encoding and parsing, in slices where a result is large, so that the event loop never stands still for one.
"""

import logging
from typing import Any, Final, cast

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.engine.record_json import parse
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import LARGE_BYTES, is_large, parsing, writing
from asyncfc_mcp.values.text import encode

logger = logging.getLogger(__name__)

_UNREADABLE: Final[Result] = {
    "content": [{"type": "text", "text": "the call has ended; its result cannot be read from the database"}],
    "isError": True,
}


async def encoded(result: Result) -> bytes:
    """Return a result as JSON; where it cannot be JSON, what says so, and it is logged."""
    try:
        if not is_large(result):
            return encode(result)
        pieces: list[bytes] = []
        await in_slices(writing(result, pieces))
        return b"".join(pieces)
    except (ValueError, TypeError, RecursionError):
        logger.exception("a result cannot be written to the database")
        return encode(_UNREADABLE)


def parsed(data: bytes) -> Result:
    """Return a result at once; what says so where it is damaged."""
    try:
        value: Any = parse(data)
    except (ValueError, RecursionError) as exc:
        logger.warning("a result in the database cannot be read: %s", exc)
        return dict(_UNREADABLE)
    return cast("Result", value) if isinstance(value, dict) else dict(_UNREADABLE)


async def parsed_in_slices(data: bytes) -> Result:
    """Return a result as `parsed` does, without a long step."""
    if len(data) > LARGE_BYTES:
        try:
            value = await in_slices(parsing(data))
        except ValueError:
            pass
        else:
            if isinstance(value, dict):
                return cast("Result", value)
    return parsed(data)
