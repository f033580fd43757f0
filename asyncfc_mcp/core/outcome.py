"""Outcome of a call that was sent downstream: one type from the connection to the engine.

Pure.
"""

from collections.abc import Callable
from typing import Any

from asyncfc_mcp.errors import CallFailed
from asyncfc_mcp.protocol import Deferred

Outcome = dict[str, Any] | CallFailed | Deferred
"""The result as it was received, the reason why there is none, or the continuation of a call that takes more than one
answer. A continuation raises `CallFailed`."""
CompletionCallback = Callable[[Outcome], None]
"""Called once with the outcome of a call, never from within the function that sent it."""
CancelRequest = Callable[[str], None]
"""Tells the downstream, with a reason, that its answer is not needed. The completion callback is then not called."""
