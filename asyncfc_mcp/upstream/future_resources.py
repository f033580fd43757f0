"""Futures as resources: `future://f3` reads a result, whole or in pages; large results are delivered in parts.

Pure: futures in, resource dictionaries out. Results may be large, so these are works in slices.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.upstream.answers import META_KEY, is_text, put_in, record
from asyncfc_mcp.values.large import is_large, writing

SCHEME: Final = "future://"
TEMPLATE: Final = {
    "uriTemplate": SCHEME + "{id}{?offset,limit}",
    "name": "future",
    "title": "Result of a future",
    "description": "A future's CallToolResult as JSON; offset and limit (characters) read a large one in pages.",
    "mimeType": "application/json",
}
PAGE: Final = 100_000
"""Characters of a page when only `offset` is given."""
_URI: Final = re.compile(r"future://([^?/#]+)(?:\?([^#]*))?(?:#[0-9]{1,9})?")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_BINARY: Final = ("image", "audio")


def listed(future: Future) -> dict[str, Any]:
    """Return a future as an entry of `resources/list`."""
    entry: dict[str, Any] = {
        "uri": SCHEME + future.id,
        "name": future.name or future.id,
        "title": f"{future.tool} ({future.state.value})",
        "mimeType": "application/json",
        "size": future.size,
    }
    values = put_in(future)
    return {**entry, "description": values} if values else entry


def parse(uri: str) -> tuple[str, int | None, int] | None:
    """Return the ID or name, the offset and the limit in a URI; None if it is not a future's.

    The offset is None where the whole result is meant.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        return None
    numbers: dict[str, int] = {}
    for part in filter(None, (match.group(2) or "").split("&")):
        key, _, value = part.partition("=")
        if key not in ("offset", "limit") or not _NUMBER.fullmatch(value):
            return None
        numbers[key] = int(value)
    whole = not numbers
    return match.group(1), None if whole else numbers.get("offset", 0), numbers.get("limit", PAGE)


def reading(future: Future, uri: str, offset: int | None, limit: int) -> Slices[Result]:
    """Return the contents of `future://…`: the unchanged result as JSON, then each image and audio as a blob, whose own
    URI (`…#2`) reads it alone.

    The contents of a future without a result are its record.
    """
    whole, _, block_number = uri.partition("#")
    value = future.result if future.result is not None else record(future)
    text = yield from _json(value)
    if offset is not None:
        part = text[offset : offset + limit]
        rest = max(0, len(text) - offset - len(part))
        meta = {"asyncfc/offset": offset, "asyncfc/rest": rest, "asyncfc/total": len(text)}
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": part, "_meta": meta}]}
    contents: list[dict[str, Any]] = [{"uri": whole, "mimeType": "application/json", "text": text}]
    for number, block in enumerate(content_blocks(value)):
        if isinstance(block, dict) and block.get("type") in _BINARY and isinstance(block.get("data"), str):
            kind = block.get("mimeType", "application/octet-stream")
            contents.append({"uri": f"{whole}#{number}", "mimeType": kind, "blob": block["data"]})
    return {"contents": [each for each in contents if each["uri"] == uri] if block_number else contents}


def cutting(future: Future, max_bytes: int, file: Path | None = None) -> Slices[Result]:
    """Return the beginning of a result that is larger than `max_result_bytes`, its size, and the URI of the whole.

    Args:
        file: the whole as JSON, where the client can read the files of this machine.
    """
    assert future.result is not None
    text = _text_of(future.result) or (yield from _structured_of(future.result))
    shown = _encoded(text[:max_bytes])[:max_bytes].decode(errors="ignore")
    note = (
        f"{future.id} {future.tool}: the first {len(shown)} of {len(text)} characters "
        f"(the whole result has {future.size} bytes). Read the rest from {SCHEME}{future.id}?offset=0&limit={PAGE}"
    )
    if file is not None:
        note += f", or from the JSON file {file}"
    link = {"type": "resource_link", "uri": SCHEME + future.id, "name": future.id, "size": future.size}
    meta = {META_KEY: [record(future)]}
    if future.result.get("isError") is True:
        # One block, as in every failure: some clients show only the first one.
        return {"content": [{"type": "text", "text": f"{note}\n{shown}"}, link], "isError": True, "_meta": meta}
    return {"content": [{"type": "text", "text": note}, {"type": "text", "text": shown}, link], "_meta": meta}


def exceeding(result: Result, max_bytes: int | None) -> Slices[bool]:
    """Return whether a result has more text, or more structured content, than one answer may have."""
    if max_bytes is None:
        return False
    return _is_longer(_text_of(result), max_bytes) or _is_longer((yield from _structured_of(result)), max_bytes)


def _is_longer(text: str, max_bytes: int) -> bool:
    return len(text) > max_bytes or len(_encoded(text)) > max_bytes


def _text_of(result: Result) -> str:
    return "\n".join(str(block.get("text", "")) for block in content_blocks(result) if is_text(block))


def _structured_of(result: Result) -> Slices[str]:
    structured = result.get("structuredContent")
    return "" if structured is None else (yield from _json(structured))


def _json(value: object) -> Slices[str]:
    """Return a value as JSON text; without spaces if it is large."""
    if not is_large(value):
        return json.dumps(value, ensure_ascii=False)
    return b"".join((yield from writing(value))).decode()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
