"""The bridge's own tools: `await_future`, `gather`, `cancel_future`, `list_futures`; each schema beside its handler.

Owns the list of these tools. They never run a downstream tool, so that a host's permission prompt for each tool keeps
working. Leaves waiting to `long_poll`, and the shapes of answers to `answers`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.identity import LOCAL, is_id
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.upstream import answers, future_resources, own_arguments
from asyncfc_mcp.upstream.clients import Caller
from asyncfc_mcp.upstream.long_poll import CANCEL_WAIT_S, wait

LIST_LIMIT: Final = 50
"""Bound on the futures that `list_futures` shows."""
FEW: Final = 50
"""Futures up to which `gather` counts the calls that each of them waits for."""
RETURN_WHEN: Final = ("all", "any")
"""Values of `return_when`: `gather` returns after all futures have ended, or after the first."""
_RETURN_WHEN_OF_PYTHON: Final = {"all_completed": "all", "first_completed": "any"}
"""The same in the words of Python's `wait`, as models write them."""
ALWAYS_LOAD_KEY: Final = "anthropic/alwaysLoad"
"""Key in `_meta` of a tool that hosts with tool search must not hide until it is searched for."""
RESULT_CHARS_KEY: Final = "anthropic/maxResultSizeChars"
"""Key in `_meta` of a tool: the size up to which hosts show its result to the model as a whole, in characters."""
_ONE: Final = ("future_id", "future_ids", "id", "future")
_SEVERAL: Final = ("future_ids", "future_id", "ids", "futures")
"""Arguments under which models name one future, or several."""
STATES: Final = tuple(state.value for state in State)


def _given(arguments: Mapping[str, Any], *keys: str) -> Any:
    """Return the argument under the first of these names that is present."""
    return next((arguments[key] for key in keys if arguments.get(key) is not None), None)


def uses_names(arguments: Mapping[str, Any] | None) -> bool:
    """Return whether arguments of one of these tools name a future by its name, which a call may be about to take."""
    named = own_arguments.refs(_given(arguments or {}, *_ONE, *_SEVERAL))
    return named is not None and not all(map(is_id, named))


async def _future(
    bridge: Bridge, caller: Caller, tool: str, arguments: Mapping[str, Any], timeout_s: float | None = None
) -> Future:
    ref = own_arguments.one_ref(tool, _given(arguments, *_ONE))
    client = caller.client
    [future] = await bridge.engine.get(client.scope, [ref], caller.namer, timeout_s=client.wait_s(bridge, timeout_s))
    return future


async def await_future(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    """Wait for one future; return its tool's result unchanged, or its handle if the wait's bound is reached first."""
    timeout_s = own_arguments.seconds("await_future", arguments.get("timeout_s"))
    future = await _future(bridge, caller, "await_future", arguments, timeout_s)
    await wait(bridge, caller, [future], timeout_s=timeout_s)
    if not future.done:
        return answers.handle(future, bridge.waiting_for(future))
    bridge.engine.mark_read(future)
    limit = bridge.settings.max_result_bytes
    if limit is None or future.result is None:
        return answers.alone(future)
    if await in_slices(future_resources.exceeding(future.result, limit)):
        # Another client may be on another machine, and has no right to files of this one.
        file = bridge.engine.result_path(future) if caller.client.scope == LOCAL else None
        return await in_slices(future_resources.cutting(future, limit, file))
    return answers.alone(future)


async def gather(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    """Wait for all or any of several futures; return the results and states of all of them, in the order asked."""
    refs = own_arguments.several_refs("gather", _given(arguments, *_SEVERAL))
    words = (*RETURN_WHEN, *_RETURN_WHEN_OF_PYTHON)
    when = own_arguments.choice("gather", "return_when", arguments.get("return_when"), words, '"all" or "any"')
    timeout_s = own_arguments.seconds("gather", arguments.get("timeout_s"))
    client = caller.client
    futures = await bridge.engine.get(client.scope, refs, caller.namer, timeout_s=client.wait_s(bridge, timeout_s))
    distinct = list({future.key: future for future in futures}.values())
    await wait(
        bridge, caller, distinct, any_=_RETURN_WHEN_OF_PYTHON.get(when or "", when) == "any", timeout_s=timeout_s
    )
    for future in distinct:
        if future.done:
            bridge.engine.mark_read(future)
    limit = NEAREST if len(futures) <= FEW else answers.SHOWN_CALLS
    return answers.several((future, bridge.waiting_for(future, limit)) for future in futures)


async def cancel_future(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    """Cancel a future, and wait up to `CANCEL_WAIT_S` for its end."""
    future = await _future(bridge, caller, "cancel_future", arguments)
    if future.done:
        answer = answers.handle(future)
        answer["content"][0]["text"] += "; it had ended before, nothing was cancelled"
        return answer
    await bridge.engine.cancel(future)
    await bridge.engine.wait([future], timeout_s=CANCEL_WAIT_S)
    if not future.done:
        answer = answers.handle(future)
        answer["content"][0]["text"] = f"{future.id} {future.tool} is being cancelled; the server has not let go yet."
        return answer
    if future.failure is None:  # it ended before the cancellation reached it: its result is still unread
        return answers.handle(future)
    bridge.engine.mark_read(future)
    answer = answers.handle(future)
    answer["content"][0]["text"] = answers.failure_text(future)
    return answer


async def list_futures(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    """List the futures of the caller's scope, newest first, and the servers that are not available."""
    expected = f"one of {', '.join(STATES)}"
    status = own_arguments.choice("list_futures", "status", arguments.get("status"), (*STATES, "all"), expected)
    now = anyio.current_time()
    shown: list[tuple[Future, tuple[Sequence[str], str], float]] = []
    more = 0
    for future in await bridge.engine.list_futures(caller.client.scope):
        if status not in (None, "all", future.state.value):
            continue
        if len(shown) == LIST_LIMIT:
            more += 1
            continue
        end = future.ended_at if future.ended_at is not None else now
        shown.append((future, bridge.waiting_for(future), end - (future.started_at or future.submitted_at)))
    view = bridge.views.of(caller.principal)
    # Its text has names of servers and folders, which are not for everybody.
    file = None if view.restricted or not caller.client.scope.listed else bridge.config_file
    wrong_file = None if file is None else file.problem
    answer = answers.listing(shown, more, view.unavailable_servers(), view.sleeping_servers(), wrong_file)
    if not caller.client.scope.listed:
        answer["content"][0]["text"] = "Futures are not listed here: nobody is authenticated. Use the IDs that you got."
        answer["structuredContent"]["note"] = answer["content"][0]["text"]
    return answer


Handler = Callable[[Bridge, Caller, Mapping[str, Any]], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class MetaTool:
    """One of the bridge's own tools: its handler and its entry in `tools/list`."""

    handler: Handler
    description: str
    properties: Mapping[str, Any]
    required: Sequence[str] = ()
    read_only: bool = True
    brings_results: bool = False

    def listed(self, name: str, result_chars: int | None = None) -> dict[str, Any]:
        meta: dict[str, Any] = {ALWAYS_LOAD_KEY: True}
        if self.brings_results and result_chars is not None:
            meta[RESULT_CHARS_KEY] = result_chars
        schema: dict[str, Any] = {"type": "object", "properties": dict(self.properties)}
        if self.required:
            schema["required"] = list(self.required)
        annotations: dict[str, Any] = {"readOnlyHint": self.read_only, "openWorldHint": False}
        if not self.read_only:
            annotations |= {"destructiveHint": False, "idempotentHint": True}
        return {
            "name": name,
            "description": self.description,
            "inputSchema": schema,
            "annotations": annotations,
            "_meta": meta,
        }


# Wider than what is meant: a host that validates would refuse a model's slip that `own_arguments` can read.
# Alternatives with one type each, and null beside one other only: Gemini refuses a request with a list of types here.
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_ID: Final = {"anyOf": [{"type": "string"}, _TEXTS]}
_IDS: Final = {"anyOf": [_TEXTS, {"type": "string"}]}
_TIMEOUT: Final = {
    "anyOf": [{"anyOf": [{"type": "number"}, {"type": "null"}]}, {"type": "string"}],
}


def _choice(words: Iterable[str]) -> dict[str, Any]:
    return {"description": " | ".join(words), "anyOf": [{"type": "string"}, {"type": "null"}]}


METATOOLS: Final[Mapping[str, MetaTool]] = {
    "await_future": MetaTool(
        await_future,
        "Wait for a future (ID or name) and return its result. "
        "If not ready within timeout_s, its status comes back; call again.",
        {"future_id": _ID, "timeout_s": _TIMEOUT},
        ["future_id"],
        brings_results=True,
    ),
    "gather": MetaTool(
        gather,
        "Wait for futures (IDs or names) and return all results; return_when any: when one ends.",
        {
            "future_ids": _IDS,
            "return_when": _choice(RETURN_WHEN),
            "timeout_s": _TIMEOUT,
        },
        ["future_ids"],
        brings_results=True,
    ),
    "cancel_future": MetaTool(
        cancel_future,
        "Cancel a future.",
        {"future_id": _ID},
        ["future_id"],
        read_only=False,
    ),
    "list_futures": MetaTool(
        list_futures,
        "List futures, newest first, with status and unread results.",
        {"status": _choice(STATES)},
    ),
}
"""Name → handler and schema of each of the bridge's own tools: the one place where they are listed."""


_GIST: Final = """
Other tools answer at once with a future ID (f1) if slow. Optional arguments of each:
_wait:"this", or IDs and names ("f1, x"): the answer brings these results. _after:"x" waits for x.
_as:"x" names the future. Pass results on as arguments: "$x", "$f1", "$x.items[0].id", inside text "${f:x.title}"."""
"""The protocol in the description of a tool, for models whose host does not pass instructions on."""


def listed(wrapped: Iterable[Mapping[str, Any]], *, reads_instructions: bool) -> list[dict[str, Any]]:
    """Return the bridge's own tools as entries of `tools/list`.

    Args:
        wrapped: the entries of all other tools, whose results may be brought by these.
    """
    sizes = [size for tool in wrapped if (size := _result_chars(tool)) is not None]
    tools = [tool.listed(name, max(sizes, default=None)) for name, tool in METATOOLS.items()]
    if not reads_instructions:
        tools[0]["description"] += _GIST
    return tools


def _result_chars(tool: Mapping[str, Any]) -> int | None:
    """Return the size of a result that a tool asks its host to accept, in characters; None if it asks for none."""
    meta = tool.get("_meta")
    size = cast("dict[str, Any]", meta).get(RESULT_CHARS_KEY) if isinstance(meta, dict) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
