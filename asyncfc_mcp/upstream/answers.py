"""Shapes of the bridge's answers: the handle, a result with its handle, several results, a list.

Pure: futures in, `CallToolResult` dictionaries out. Hosts differ in what they show a model: some only `content`, some
only `structuredContent` where there is any. So each alone is complete, and an answer with image, audio or resource
blocks, which structured content cannot represent, has none.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, cast

from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.engine.api import NEEDS_RESULT
from asyncfc_mcp.errors import ReferenceFailed
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.quotation import quoted, said

REPEATED_BYTES: Final = 4096
"""A result up to this size is repeated as often as one `gather` names its future; a larger one is given once."""
META_KEY: Final = "asyncfc/futures"
"""Key in `_meta` of the machine-readable records, in every answer except a ready `await_future`."""
SHOWN_VALUES: Final = 3
"""Bound on the values that a line names as substituted into a call's arguments."""
SHOWN_CALLS: Final = 3
"""Bound on the calls that a handle names as those which its own call waits for; further ones are counted."""

Block = dict[str, Any]
Waiting = tuple[Sequence[str], str]
"""IDs of the nearest calls that a call waits for, and the reason; see `bridge.Bridge.waiting_for`."""
NOT_WAITING: Final[Waiting] = ((), "")


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def is_text(block: object) -> bool:
    """Return whether a content block is text."""
    return isinstance(block, dict) and cast("Block", block).get("type") == "text"


def meta_of(result: Result) -> Block:
    """Return the `_meta` of a result; empty if it is no object."""
    meta = result.get("_meta")
    return cast("Block", meta) if isinstance(meta, dict) else {}


def value_of(result: Result) -> Any:
    """Return a result as one JSON value: its structured content, else its text."""
    structured = result.get("structuredContent")
    if structured is not None:
        return structured
    return "\n".join(str(block.get("text", "")) for block in content_blocks(result) if is_text(block))


def failure_text(future: Future) -> str:
    """Return the line of a future that has no result, and the reason."""
    assert future.failure is not None
    return f"{line(future)}: {future.failure.detail}"


_FETCH: Final = ". Result: await_future {}"
"""End of the line of a future that has not ended, with its ID."""


def line(future: Future, waiting: Waiting = NOT_WAITING, *, with_tool: bool = True) -> str:
    """Return one line for the model: the future, its tool, its state, and the next step.

    Args:
        with_tool: false in a handle, since the host shows which tool was called.
    """
    name = f" ({future.name})" if future.name is not None else ""
    tool = f" {future.tool}" if with_tool else ""
    head = f"{future.id}{name}{tool} {future.state.value}"
    ids, why = waiting
    values = put_in(future) if future.substituted else ""
    if values:
        head += f" ({values})"
    if future.done:
        return head
    if ids:
        more = f" and {_counted(len(ids) - SHOWN_CALLS)} more" if len(ids) > SHOWN_CALLS else ""
        head += f", waits for {', '.join(ids[:SHOWN_CALLS])}{more}"
        # With values named, it is clear what the call needs.
        head += "" if values and why == NEEDS_RESULT else f" ({why})"
    elif why:
        head += f" ({why})"
    if future.question is not None:
        head += f", asks: {quoted(future.question)}"
    if future.progress is not None:
        done, total, message = future.progress
        head += f", {done:g}" + (f"/{total:g}" if total is not None else "")
        head += f" {quoted(message)}" if message else ""
    return head + _FETCH.format(future.id)


def _counted(more: int) -> str:
    """Return a number of calls; beyond the limit of `NEAREST`, they are not all known."""
    return str(more) if more <= NEAREST - SHOWN_CALLS else f"over {NEAREST - SHOWN_CALLS}"


def put_in(future: Future) -> str:
    """Name the values of futures in the arguments of a call (`put in: page = f1`); empty if none was substituted."""
    if (
        not future.substituted
        or isinstance(future.failure, ReferenceFailed)
        or (future.done and future.started_at is None)
    ):
        return ""
    shown = [
        name if name == key else f"{name} = {key}" for name, key in islice(future.substituted.items(), SHOWN_VALUES)
    ]
    more = len(future.substituted) - len(shown)
    return f"put in: {', '.join(shown)}" + (f" and {more} more" if more else "")


def record(future: Future, waiting: Waiting = NOT_WAITING, *, shown: int = NEAREST) -> dict[str, Any]:
    """Return the machine-readable form of `line`, naming at most `shown` calls that it waits for."""
    entry: dict[str, Any] = {"future_id": future.id, "status": future.state.value, "tool": future.tool}
    if future.substituted and put_in(future):
        entry["put_in"] = dict(future.substituted)
    if future.after:
        entry["after"] = list(dict.fromkeys(future.after.values()))
    return _standing(entry, future, waiting, shown)


def _standing(entry: dict[str, Any], future: Future, waiting: Waiting, shown: int) -> dict[str, Any]:
    """Add the name of a future, and what it waits for, asks and has done so far, to its entry."""
    if future.name is not None:
        entry["name"] = future.name
    if ids := waiting[0]:
        entry["waiting_for"] = list(ids[:shown])
        if len(ids) > shown:
            entry["waiting_for_more"] = len(ids) - shown
    elif waiting[1]:
        entry["waiting_for_server"] = future.server
    if future.question is not None:
        entry["question"] = future.question
    if future.progress is not None and not future.done:
        done, total, message = future.progress
        entry["progress"] = {
            "progress": done,
            **({} if total is None else {"total": total}),
            **({} if message is None else {"message": said(message)}),
        }
    return entry


def _full_record(future: Future, waiting: Waiting) -> dict[str, Any]:
    """Return a record with the result or the error, as far as JSON can represent it."""
    entry = record(future, waiting, shown=SHOWN_CALLS)
    if future.result is not None:
        entry["result"] = value_of(future.result)
    elif future.failure is not None:
        entry["error"] = str(future.failure)
    return entry


def _under(head: str, result: Result) -> list[Block]:
    """Return the blocks of a result under a line.

    Some clients (FastMCP) show only the first block of an error. So that block has the line and all texts of the
    result, except those with other fields (`annotations`), unless every text has such fields.
    """
    blocks = content_blocks(result)
    if result.get("isError") is not True:
        return [_text(head), *blocks]
    plain = [block for block in blocks if is_text(block) and isinstance(block.get("text"), str)]
    plain = [block for block in plain if block.keys() == {"type", "text"}] or plain[:1]
    if not plain:
        return [_text(head), *blocks]
    text = "\n".join((head, *(block["text"] for block in plain)))
    return [{**plain[0], "text": text}, *(block for block in blocks if not any(block is each for each in plain))]


def handle(future: Future, waiting: Waiting = NOT_WAITING) -> Result:
    """Return the state of a future: the answer to a call that has not ended. It is short, since every call pays for it;
    the record in `_meta` is complete."""
    entry = {"future_id": future.id, "status": future.state.value}
    return {
        "content": [_text(line(future, waiting, with_tool=future.done))],
        "structuredContent": record(future) if future.done else _standing(entry, future, waiting, SHOWN_CALLS),
        "_meta": {META_KEY: [record(future, waiting)]},
    }


def with_result(future: Future) -> Result:
    """Return the answer to a call that has ended: the handle's line, then the result (the shape of grace)."""
    entry = record(future)
    if future.result is None:
        return {
            "content": [_text(failure_text(future))],
            "structuredContent": _full_record(future, NOT_WAITING),
            "isError": True,
            "_meta": {META_KEY: [entry]},
        }
    result = future.result
    blocks = content_blocks(result)
    answer: Result = {
        **{key: value for key, value in result.items() if key not in ("content", "structuredContent", "_meta")},
        "content": _under(line(future), result),
    }
    if all(map(is_text, blocks)):
        answer["structuredContent"] = _full_record(future, NOT_WAITING)
    answer["_meta"] = {**meta_of(result), META_KEY: [entry]}
    return answer


def alone(future: Future) -> Result:
    """Return the answer to `await_future` on a future that has ended: the downstream's result, unchanged, if there is
    one."""
    return future.result if future.result is not None else with_result(future)


def in_place(future: Future) -> Result:
    """Return the answer to a sync call that has ended: the downstream's result, with a line after it if values of
    futures were substituted into its arguments."""
    answer = alone(future)
    if future.result is None or not put_in(future):
        return answer
    meta = {**meta_of(answer), META_KEY: [record(future)]}
    return {**answer, "content": [*content_blocks(answer), _text(line(future))], "_meta": meta}


def several(futures: Iterable[tuple[Future, Waiting]]) -> Result:
    """Return the answer of `gather`: a header for each future, then its blocks; a failed one hides no other."""
    content: list[Block] = []
    results: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    plain = True
    seen: set[str] = set()
    for future, waiting in futures:
        records.append(record(future, waiting))
        if future.key in seen and future.size > REPEATED_BYTES:
            # Given above. Repeated with each mention, the answer to a short request could grow without bound.
            results.append({**record(future, waiting, shown=SHOWN_CALLS), "repeated": True})
            content.append(_text(line(future, waiting)))
            continue
        seen.add(future.key)
        results.append(_full_record(future, waiting))
        if future.result is None and future.failure is not None:
            content.append(_text(failure_text(future)))
            continue
        if future.result is None:
            content.append(_text(line(future, waiting)))
            continue
        content += _under(line(future), future.result)
        plain = plain and all(map(is_text, content_blocks(future.result)))
    answer: Result = {"content": content, "_meta": {META_KEY: records}}
    if plain:
        answer["structuredContent"] = {"results": results}
    return answer


def with_refusal(answer: Result, tool: str, message: str) -> Result:
    """Return the answer of `gather` with the refusal of a call after it, which has no future."""
    reason = message if message.startswith("not sent") else f"not sent: {message}"
    out: Result = {**answer, "content": [*content_blocks(answer), _text(f"{tool} failed: {reason}")]}
    structured = answer.get("structuredContent")
    if isinstance(structured, dict):
        entry = {"tool": tool, "status": State.FAILED.value, "error": reason}
        out["structuredContent"] = {**structured, "results": [*structured["results"], entry]}
    return out


def with_open(answer: Result, open_: int, of: int) -> Result:
    """Return the answer of `gather` with the number of calls that have not ended."""
    structured = answer.get("structuredContent")
    if isinstance(structured, dict):
        answer = {**answer, "structuredContent": {**structured, "open": open_}}
    if open_:
        text = f"{open_} of {of} calls are still open; gather brings them."
        answer = {**answer, "content": [*content_blocks(answer), _text(text)]}
    return answer


def refused(message: str) -> Result:
    """Return the answer to a call of a wrapped tool that was refused."""
    if not message.startswith("not sent") and "othing was sent" not in message:
        message = f"{message.removesuffix('.')}. Nothing was sent."
    return error(message)


def append(answer: Result, delivered: Sequence[Future], note: str | None = None) -> Result:
    """Return `answer` with results of other futures after it (inline delivery), each under its line, or with a note."""
    extra = several((future, NOT_WAITING) for future in delivered)
    blocks: list[Block] = [*extra["content"]]
    if note is not None:
        blocks.append(_text(note))
    meta = meta_of(answer)
    out: Result = {**answer, "content": [*content_blocks(answer), *blocks]}
    out["_meta"] = {**meta, META_KEY: [*meta.get(META_KEY, ()), *extra["_meta"][META_KEY]]}
    structured = answer.get("structuredContent")
    if "structuredContent" in out and delivered:
        if "structuredContent" in extra and isinstance(structured, dict):
            out["structuredContent"] = {**structured, "also": extra["structuredContent"]["results"]}
        else:
            del out["structuredContent"]
    if note is not None and isinstance(out.get("structuredContent"), dict):
        out["structuredContent"] = {**out["structuredContent"], "note": note}
    return out


def listing(
    futures: Sequence[tuple[Future, Waiting, float]],
    more: int,
    servers: Sequence[tuple[str, str]],
    sleeping: Sequence[tuple[str, str]] = (),
    wrong_file: str | None = None,
) -> Result:
    """Return the answer of `list_futures`.

    Args:
        futures: newest first, each with its unmet dependencies and its age or duration in seconds.
        more: number of those that are not shown.
        servers: name and condition of each server that is not up.
        sleeping: the same of those that do not run because nothing needs them; they share one line.
        wrong_file: why the present file of the configuration is not used; None if it is.
    """
    lines: list[str] = []
    entries: list[dict[str, Any]] = []
    records = [record(future, waiting) for future, waiting, _ in futures]
    for future, waiting, seconds in futures:
        text = line(future, waiting).removesuffix(_FETCH.format(future.id))
        lines.append(f"{text}, {seconds:.1f} s" + (", unread" if future.unread else ""))
        entry = {**record(future, waiting, shown=SHOWN_CALLS), "seconds": round(seconds, 3), "unread": future.unread}
        if future.state is not State.COMPLETED and future.failure is not None:
            entry["error"] = str(future.failure)
            lines[-1] += f": {future.failure.detail.partition(chr(10))[0]}"
        entries.append(entry)
    if not futures:
        lines.append("No futures.")
    if more:
        lines.append(f"… and {more} older ones; narrow with status.")
    lines += [f"Server {name}: {condition}" for name, condition in servers]
    if sleeping:
        lines.append(f"Sleeping, started by a call: {', '.join(name for name, _ in sleeping)}")
    structured: dict[str, Any] = {"futures": entries}
    if wrong_file is not None:
        lines.append(f"Configuration: an earlier one is used, since its file cannot be used: {wrong_file}")
        structured["configuration"] = wrong_file
    if more:
        structured["more"] = more
    if servers or sleeping:
        structured["servers"] = [{"server": name, "condition": how} for name, how in (*servers, *sleeping)]
    return {"content": [_text("\n".join(lines))], "structuredContent": structured, "_meta": {META_KEY: records}}


def error(message: str) -> Result:
    """Return the answer to a call of one of the bridge's own tools that was refused."""
    return {"content": [_text(message)], "isError": True, "_meta": {META_KEY: []}}
