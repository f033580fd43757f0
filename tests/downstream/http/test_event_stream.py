"""Server-sent events from bytes, however these are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.downstream.http.event_stream import BOM, Event, EventDecoder, EventTooLarge, looks_like_events

STREAM = (
    BOM
    + ": hello\nretry: 250\n\nid: 1\ndata:\n\nevent: endpoint\ndata: /post\n\ndata: ä\ndata:b\nnonsense\n"
    "id: 2\n\ndata: last\nid: 3\n\nid: 4\ndata: cut".encode()
)
EVENTS = [Event("endpoint", b"/post"), Event("message", "ä\nb".encode()), Event("message", b"last")]


@given(st.lists(st.integers(0, len(STREAM) + 20)), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans())
def test_events_do_not_depend_on_how_bytes_are_cut(cuts: list[int], newline: bytes, bom: bool):
    """Any line ending, with or without a byte order mark, in chunks of any size; what breaks off is no event."""
    data = STREAM.replace(b"\n", newline)
    if not bom:
        data = data.removeprefix(BOM)
    decoder = EventDecoder()
    places = sorted({0, *cuts, len(data)})
    events = [event for start, end in itertools.pairwise(places) for event in decoder.feed(data[start:end])]
    assert events == EVENTS
    assert (decoder.last_id, decoder.retry_ms) == ("3", 250)


@pytest.mark.parametrize(
    ("line", "last_id", "retry_ms"),
    [
        (b"id: a\0b", None, None),
        (b"id: a\x01b", None, None),
        (b"id:  a", None, None),
        ("id: \u00fc 1".encode(), "\u00fc 1", None),
        (b"id:", None, None),
        (b"retry: soon", None, None),
        (b"retry: -1", None, None),
        (b"retry: 999999999", None, 3_600_000),
        (b"id:x", "x", None),
    ],
)
def test_fields_that_cannot_be_used_are_ignored(line: bytes, last_id: str | None, retry_ms: int | None):
    decoder = EventDecoder()
    assert decoder.feed(line + b"\n\n") == []
    assert (decoder.last_id, decoder.retry_ms) == (last_id, retry_ms)


def test_a_stream_goes_on_where_it_broke():
    """The ID and the pause of before, and nothing of the event that was cut."""
    decoder = EventDecoder()
    decoder.feed(b"retry: 5\nid: 7\ndata: x\n\nid: 8\ndata: half")
    resumed = decoder.resumed()
    assert resumed.feed(b"data: whole\n\n") == [Event("message", b"whole")]
    assert (resumed.last_id, resumed.retry_ms) == ("7", 5)


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 20, b"data: xxxxx\n"])
def test_an_event_is_bounded(chunk: bytes):
    """One that never ends, as one long line or as many; events that do end are not counted together."""
    decoder = EventDecoder(limit=60)
    for _ in range(9):
        assert len(decoder.feed(b"data: small\n\n")) == 1
    for _ in range(2):
        decoder.feed(chunk)
    with pytest.raises(EventTooLarge):
        decoder.feed(chunk * 9)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: x", True),
        (b"\n: hi", True),
        (BOM + b"event:x", True),
        (b'{"data": 1}', False),
        (b"<p>", False),
        (b"", False),
    ],
)
def test_a_body_says_itself_that_it_is_an_event_stream(body: bytes, events: bool):
    assert looks_like_events(body) is events
