"""Value of a result as references see it, or its beginning: structured content, else JSON text.

Pure. Owns the bounds of what is parsed. `learned_shapes` learns from the value.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_core import from_json

from asyncfc_mcp.core.declared_shapes import WRAPPER
from asyncfc_mcp.protocol import content_blocks

MOST_TEXT: Final = 64_000
"""Characters of a text that are parsed; of a longer one the beginning."""
MOST_BLOCKS: Final = 8
"""Text blocks of a result that are parsed."""
_MOST_LEVELS: Final = 100
NOTHING: Final[Any] = object()
"""The result has no JSON value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Value of a result."""

    value: Any
    unfinished: Collection[int] = ()
    """`id` of the objects in it that were cut off."""


def sample(result: Mapping[str, Any]) -> Sample | None:
    """Return the value of a result; None for an error, and for text that is not JSON.

    Several text blocks are a list, if each is a JSON value: older servers return the elements of a list this way.
    """
    if result.get("isError") is True:
        return None
    structured = result.get("structuredContent")
    if structured is not None:
        if isinstance(structured, dict) and cast("dict[str, Any]", structured).keys() == {WRAPPER}:
            structured = cast("dict[str, Any]", structured)[WRAPPER]
        # JSON that a tool returns as a string, wrapped by its framework.
        return _parsed(structured) if isinstance(structured, str) else Sample(structured)
    texts = [
        text
        for block in content_blocks(_beginning(result))
        if block.get("type") == "text" and isinstance(text := block.get("text"), str)
    ]
    if len(texts) < 2:
        return _parsed(texts[0]) if texts else None
    if sum(map(len, texts)) <= MOST_TEXT and (whole := _parsed("\n".join(texts))) is not None:
        return whole
    samples = [_parsed(text) for text in texts[:MOST_BLOCKS]]
    values = [each.value for each in samples if each is not None]
    if len(values) < len(samples):
        return None
    return Sample(values, frozenset(place for each in samples if each is not None for place in each.unfinished))


def _beginning(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result with the first blocks only: a server may send a million."""
    content = result.get("content")
    return {"content": cast("list[Any]", content)[: 2 * MOST_BLOCKS] if isinstance(content, list) else content}


def _parsed(text: str) -> Sample | None:
    """Return the object or list that a text begins with; None if it is no JSON, or a single text or number."""
    head = text[:MOST_TEXT].lstrip()
    if head[:1] not in ("{", "["):
        return None
    whole = len(text) <= MOST_TEXT
    try:
        value = from_json(head.encode(), allow_partial=not whole)
    except ValueError:
        return None
    return Sample(value) if whole else Sample(value, frozenset(_last_values(value)))


def _last_values(value: Any) -> list[int]:
    """Return the `id` of each container that was not finished when the text was cut off: the last one at each level."""
    found: list[int] = []
    while isinstance(value, dict | list) and len(found) < _MOST_LEVELS:
        found.append(id(cast("Any", value)))
        inner = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else cast("list[Any]", value)
        if not inner:
            break
        value = inner[-1]
    return found
