"""Equality of JSON-RPC request IDs, as other implementations decide it.

Pure.
"""

import re
from typing import Final

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")


def correlation_key(request_id: object) -> int | str | None:
    """Return the key under which a request ID is looked up. As in the SDK, "7" and 7 are one ID. None for a value that
    is no ID, which matches no request."""
    if isinstance(request_id, str):
        return int(request_id) if _INTEGER.fullmatch(request_id) else request_id
    # `type` and not `isinstance`: True is an int, and no ID.
    return request_id if type(request_id) is int else None
