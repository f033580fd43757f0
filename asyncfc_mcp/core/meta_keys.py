"""Keys of `_meta` that are reserved for the bridge, and their removal from results of servers.

Pure. Owns the reserved prefix.
"""

from typing import Any, Final, cast

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.quotation import said

OUR_KEYS: Final = "asyncfc/"
"""Prefix of keys in `_meta` that are reserved for the bridge."""
DROPPED_KEY: Final = "asyncfc/dropped"
"""Key in `_meta` under which the names of removed keys with the prefix are listed."""
SHOWN_KEYS: Final = 3
"""Maximum names under `DROPPED_KEY`."""


def without_our_keys(result: Result) -> Result:
    """Return a server's result without reserved keys in `_meta`, which clients would mistake for records of the bridge.

    `DROPPED_KEY` then lists the removed keys. A result without such keys is returned itself, not a copy.
    """
    meta = result.get("_meta")
    if not isinstance(meta, dict):
        return result
    found = cast("dict[str, Any]", meta)
    ours = [key for key in found if key.startswith(OUR_KEYS)]
    if not ours:
        return result
    kept = {key: value for key, value in found.items() if key not in ours}
    return {**result, "_meta": {**kept, DROPPED_KEY: [said(key) for key in ours[:SHOWN_KEYS]]}}
