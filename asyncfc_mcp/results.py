"""Futures as resources: `future://f3` reads a result, whole or in pages, and large results are handed out in parts.

Pure: futures in, resource dictionaries out.
"""

import json
import re
from typing import Any, Final

from asyncfc_mcp.answers import META_KEY, is_text, put_in, record
from asyncfc_mcp.futures import Future, Result
from asyncfc_mcp.protocol import content_blocks

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
    """A future as an entry of `resources/list`."""
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
    """The ID or name, the offset and the limit that a URI asks for; None if it is not a future's.

    A missing offset means the whole.
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


def read(future: Future, uri: str, offset: int | None, limit: int) -> Result:
    """The contents of `future://…`: the untouched result as JSON, then each image and audio as a blob, whose own URI
    (`…#2`) reads it alone.

    A future without a result reads as its record.
    """
    whole, _, block_number = uri.partition("#")
    value = future.result if future.result is not None else record(future)
    text = json.dumps(value, ensure_ascii=False)
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


def first_part(future: Future, max_bytes: int) -> Result:
    """The beginning of a result that is larger than `max_result_bytes`, how much there is, and where to read it."""
    assert future.result is not None
    text = _text_of(future.result) or _structured_of(future.result)
    shown = _encoded(text)[:max_bytes].decode(errors="ignore")
    note = (
        f"{future.id} {future.tool}: the first {len(shown)} of {len(text)} characters "
        f"(the whole result has {future.size} bytes). Read the rest from {SCHEME}{future.id}?offset=0&limit={PAGE}"
    )
    link = {"type": "resource_link", "uri": SCHEME + future.id, "name": future.id, "size": future.size}
    meta = {META_KEY: [record(future)]}
    if future.result.get("isError") is True:
        # One block, as of every failure: some clients show the first one only.
        return {"content": [{"type": "text", "text": f"{note}\n{shown}"}, link], "isError": True, "_meta": meta}
    return {"content": [{"type": "text", "text": note}, {"type": "text", "text": shown}, link], "_meta": meta}


def has_more(result: Result, max_bytes: int | None) -> bool:
    """Whether a result has more text, or more structured content, than may be handed out at once."""
    if max_bytes is None:
        return False
    return any(len(_encoded(part)) > max_bytes for part in (_text_of(result), _structured_of(result)))


def _text_of(result: Result) -> str:
    return "\n".join(str(block.get("text", "")) for block in content_blocks(result) if is_text(block))


def _structured_of(result: Result) -> str:
    structured = result.get("structuredContent")
    return "" if structured is None else json.dumps(structured, ensure_ascii=False)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
