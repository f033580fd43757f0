"""The shapes in which the bridge answers: the handle, a result that came with it, several results, a list.

Pure: futures in, `CallToolResult` dictionaries out. Hosts differ in what they show a model: some only `content`, some
only `structuredContent` where there is any. So each alone tells the whole story, and an answer with image, audio or
resource blocks, which structured content cannot tell, has none.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, cast

from asyncfc_mcp.errors import ReferenceFailed
from asyncfc_mcp.futures import Future, Result, State
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.quotation import quoted, said

REPEATED_BYTES: Final = 4096
"""A result up to this size is told as often as it is asked for in one `gather`; a larger one once."""
META_KEY: Final = "asyncfc/futures"
"""Key in `_meta` of the machine-readable records of every answer but a ready `await_future`."""
OUR_KEYS: Final = "asyncfc/"
"""Beginning of the bridge's own keys in `_meta`."""
DROPPED_KEY: Final = "asyncfc/dropped"
"""Key in `_meta` of a server's result that had keys of ours: their names."""
SHOWN_VALUES: Final = 3
"""Bound on the values that a line names as put into a call's arguments."""

Block = dict[str, Any]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def is_text(block: object) -> bool:
    return isinstance(block, dict) and cast("Block", block).get("type") == "text"


def meta_of(result: Result) -> Block:
    meta = result.get("_meta")
    return cast("Block", meta) if isinstance(meta, dict) else {}


def without_our_keys(result: Result) -> Result:
    """A server's result without keys of `_meta` that are the bridge's, which clients would take for its records; a key
    says which were dropped. The very same object where there are none."""
    meta = result.get("_meta")
    if not isinstance(meta, dict):
        return result
    found = cast("Block", meta)
    ours = [key for key in found if key.startswith(OUR_KEYS)]
    if not ours:
        return result
    kept = {key: value for key, value in found.items() if key not in ours}
    return {**result, "_meta": {**kept, DROPPED_KEY: [said(key) for key in ours[:SHOWN_VALUES]]}}


def value_of(result: Result) -> Any:
    """What a result says, as one JSON value: its structured content, else its text."""
    structured = result.get("structuredContent")
    if structured is not None:
        return structured
    return "\n".join(str(block.get("text", "")) for block in content_blocks(result) if is_text(block))


def failure_text(future: Future) -> str:
    assert future.failure is not None
    return f"{line(future)}: {future.failure.detail}"


def line(future: Future, waiting: tuple[Sequence[str], str] = ((), "")) -> str:
    """One line for the model: which future, of which tool, in which state, and what to do next."""
    name = f" ({future.name})" if future.name is not None else ""
    head = f"{future.id}{name} {future.tool} {future.state.value}"
    if future.put_in and (values := put_in(future)):
        head += f" ({values})"
    if future.done:
        return head
    ids, why = waiting
    if ids:
        shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        head += f", waits for {shown} ({why})"
    if future.question is not None:
        head += f", asks: {quoted(future.question)}"
    if future.progress is not None:
        done, total, message = future.progress
        head += f", {done:g}" + (f"/{total:g}" if total is not None else "")
        head += f" {quoted(message)}" if message else ""
    return f"{head}. Result: await_future {future.id}"


def put_in(future: Future) -> str:
    """Values of futures in the arguments of a call (`put in: page = f1`); empty if they never got there."""
    if not future.put_in or isinstance(future.failure, ReferenceFailed) or (future.done and future.started_at is None):
        return ""
    shown = [name if name == key else f"{name} = {key}" for name, key in islice(future.put_in.items(), SHOWN_VALUES)]
    more = len(future.put_in) - len(shown)
    return f"put in: {', '.join(shown)}" + (f" and {more} more" if more else "")


def record(future: Future, waiting: tuple[Sequence[str], str] = ((), "")) -> dict[str, Any]:
    """The machine-readable form of `line`."""
    entry: dict[str, Any] = {"future_id": future.id, "status": future.state.value, "tool": future.tool}
    if future.name is not None:
        entry["name"] = future.name
    if future.put_in and put_in(future):
        entry["put_in"] = dict(future.put_in)
    if waiting[0]:
        entry["waiting_for"] = list(waiting[0])
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


def _full_record(future: Future, waiting: tuple[Sequence[str], str]) -> dict[str, Any]:
    """A record with what the future came to, as far as JSON can tell it."""
    entry = record(future, waiting)
    if future.result is not None:
        entry["result"] = value_of(future.result)
    elif future.failure is not None:
        entry["error"] = str(future.failure)
    return entry


def _under(head: str, result: Result) -> list[Block]:
    """The blocks of a result under a line.

    Of an error, some clients (FastMCP) show the first block alone: it is the line with all texts of the result, but for
    those that carry something else (`annotations`), if there is one without.
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


def handle(future: Future, waiting: tuple[Sequence[str], str] = ((), "")) -> Result:
    """The answer to a call that has not ended."""
    entry = record(future, waiting)
    return {
        "content": [_text(line(future, waiting))],
        "structuredContent": entry,
        "_meta": {META_KEY: [entry]},
    }


def with_result(future: Future) -> Result:
    """The answer to a call that has ended: the handle's line, then the result (the shape of grace)."""
    entry = record(future)
    if future.result is None:
        return {
            "content": [_text(failure_text(future))],
            "structuredContent": _full_record(future, ((), "")),
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
        answer["structuredContent"] = _full_record(future, ((), ""))
    answer["_meta"] = {**meta_of(result), META_KEY: [entry]}
    return answer


def alone(future: Future) -> Result:
    """The answer to `await_future` on a future that has ended: the downstream's own, untouched, if there is one."""
    return future.result if future.result is not None else with_result(future)


def in_place(future: Future) -> Result:
    """The answer to a sync call that has ended: the downstream's own, with a line after it if values of futures were
    put into its arguments."""
    answer = alone(future)
    if future.result is None or not put_in(future):
        return answer
    meta = {**meta_of(answer), META_KEY: [record(future)]}
    return {**answer, "content": [*content_blocks(answer), _text(line(future))], "_meta": meta}


def several(futures: Iterable[tuple[Future, tuple[Sequence[str], str]]]) -> Result:
    """The answer of `gather`: a header for each future, then its blocks; one that failed hides no other."""
    content: list[Block] = []
    results: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    plain = True
    seen: set[str] = set()
    for future, waiting in futures:
        records.append(record(future, waiting))
        if future.key in seen and future.size > REPEATED_BYTES:
            # Told above; told again with each mention, a short question could have an answer without end.
            results.append({**record(future, waiting), "repeated": True})
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


def append(answer: Result, delivered: Sequence[Future], note: str | None = None) -> Result:
    """`answer` with the results of other futures after it (inline delivery), each under its line, or with a note."""
    extra = several((future, ((), "")) for future in delivered)
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
    futures: Sequence[tuple[Future, tuple[Sequence[str], str], float]], more: int, servers: Sequence[tuple[str, str]]
) -> Result:
    """The answer of `list_futures`.

    Args:
        futures: newest first, with what each waits for and its age or duration in seconds.
        more: how many are not shown.
        servers: name and condition of each server that is not up.
    """
    lines: list[str] = []
    entries: list[dict[str, Any]] = []
    records = [record(future, waiting) for future, waiting, _ in futures]
    for future, waiting, seconds in futures:
        text = line(future, waiting).removesuffix(f". Result: await_future {future.id}")
        lines.append(f"{text}, {seconds:.1f} s" + (", unread" if future.unread else ""))
        entry = {**record(future, waiting), "seconds": round(seconds, 3), "unread": future.unread}
        if future.state is not State.COMPLETED and future.failure is not None:
            entry["error"] = str(future.failure)
            lines[-1] += f": {future.failure.detail.partition(chr(10))[0]}"
        entries.append(entry)
    if not futures:
        lines.append("No futures.")
    if more:
        lines.append(f"… and {more} older ones; narrow with status.")
    lines += [f"Server {name}: {condition}" for name, condition in servers]
    structured: dict[str, Any] = {"futures": entries}
    if more:
        structured["more"] = more
    if servers:
        structured["servers"] = [{"server": name, "condition": condition} for name, condition in servers]
    return {"content": [_text("\n".join(lines))], "structuredContent": structured, "_meta": {META_KEY: records}}


def error(message: str) -> Result:
    """A tool answer that says what was wrong."""
    return {"content": [_text(message)], "isError": True, "_meta": {META_KEY: []}}
