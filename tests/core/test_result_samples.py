"""The value of a result, as references see it, without parsing more than its beginning."""

import json
from typing import Any

import pytest

from asyncfc_mcp.core import result_samples
from asyncfc_mcp.core.result_samples import MOST_TEXT, sample


def texts(*each: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text} for text in each], **more}


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ({"structuredContent": {"id": 1}, "content": []}, {"id": 1}),
        ({"structuredContent": {"result": [1]}}, [1]),
        ({"structuredContent": {"result": '[{"id": 1}]'}}, [{"id": 1}]),
        ({"structuredContent": {"result": 1, "id": 2}}, {"result": 1, "id": 2}),
        (texts(' {"id": 1}'), {"id": 1}),
        (texts("[1, 2]"), [1, 2]),
        (texts('{"id": 1}', '{"id": 2}'), [{"id": 1}, {"id": 2}]),
        (texts('{"id":', "1}"), {"id": 1}),
        ({"content": '{"id": 1}'}, {"id": 1}),
        ({"content": [{"type": "image", "data": "AA=="}, {"type": "text", "text": "[]"}]}, []),
    ],
)
def test_the_value_is_structured_content_else_json_text(result: dict[str, Any], value: Any):
    """Without the wrapper of server frameworks; several texts are a list."""
    found = sample(result)
    assert found is not None
    assert found.value == value
    assert not found.unfinished


@pytest.mark.parametrize(
    "result",
    [
        texts('{"id": 1}', isError=True),
        {"structuredContent": {"id": 1}, "isError": True},
        texts("Hello"),
        texts("42"),
        texts('"text"'),
        texts("{broken"),
        texts('{"id": 1}', "and more"),
        texts("[" * 1000),
        texts('{"id": 1e999999}' + " x"),
        {"content": [{"type": "resource_link", "uri": "a:b"}]},
        {"content": None},
        {},
    ],
)
def test_errors_and_other_content_have_none(result: dict[str, Any]):
    """Nothing is learned of them."""
    assert sample(result) is None


def test_of_a_long_text_the_beginning_is_parsed(monkeypatch: pytest.MonkeyPatch):
    """What was cut off is known to be unfinished; a text of any size costs the same."""
    rows = [{"id": number, "name": "x" * 20} for number in range(10_000)]
    parsed: list[int] = []
    parse = result_samples.from_json
    monkeypatch.setattr(
        result_samples, "from_json", lambda data, **more: parsed.append(len(data)) or parse(data, **more)
    )
    found = sample(texts(json.dumps({"rows": rows})))
    assert found is not None
    assert parsed == [MOST_TEXT]
    assert set(found.value) == {"rows"}
    assert found.value["rows"][0] == rows[0]
    assert {id(found.value), id(found.value["rows"][-1])} <= set(found.unfinished)
    assert id(found.value["rows"][0]) not in found.unfinished
