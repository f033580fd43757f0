"""HTTP framing: what is refused beyond h11, and a differential fuzz against llhttp, the parser of Node.js."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import h11
import httptools
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.transports.http.framing import MAX_EXTENSION_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, StrictConnection

HOST = b"Host: x\r\n"


@dataclass
class Read:
    """A request as a parser read it."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False


def ours(*pieces: bytes) -> tuple[list[Read], str | None]:
    """The requests of a connection as the bridge reads them, and why it was closed, if it was. Each request is answered
    as soon as it is whole."""
    connection = StrictConnection(64 << 10)
    found: list[Read] = []
    try:
        for piece in pieces:
            connection.receive_data(piece)
            while True:
                each = connection.next_event()
                if isinstance(each, h11.Request):
                    found.append(Read(each.method, each.target, list(each.headers)))
                elif isinstance(each, h11.Data):
                    found[-1].body += bytes(each.data)
                elif isinstance(each, h11.EndOfMessage):
                    found[-1].whole = True
                    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return found, None  # HTTP/1.0, or `Connection: close`
                    connection.start_next_cycle()
                else:
                    break
    except h11.RemoteProtocolError as exc:
        return found, connection.fault or str(exc)
    return found, None


class _Theirs:
    """Callbacks of httptools."""

    def __init__(self) -> None:
        self.found: list[Read] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.found.append(Read(b"", b""))

    def on_url(self, url: bytes) -> None:
        self.found[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found[-1].headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.found[-1].body += body

    def on_headers_complete(self) -> None:
        self.found[-1].method = self.parser.get_method()

    def on_message_complete(self) -> None:
        self.found[-1].whole = True


def theirs(data: bytes) -> tuple[list[Read], bool]:
    """The requests of a connection as llhttp reads them, and whether it refused something."""
    them = _Theirs()
    try:
        them.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return them.found, True
    return them.found, False


def post(*headers: bytes, body: bytes = b"", line: bytes = b"POST /mcp HTTP/1.1") -> bytes:
    return line + b"\r\n" + b"".join(header + b"\r\n" for header in (b"Host: x", *headers)) + b"\r\n" + body


GOOD: dict[str, tuple[bytes, bytes]] = {
    "length": (post(b"Content-Length: 5", body=b"hello"), b"hello"),
    "space before a length": (post(b"Content-Length:    5", body=b"hello"), b"hello"),
    "names and codings in any case": (post(b"tRANSFER-eNCODING: ChunKed", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "chunks": (post(b"Transfer-Encoding: chunked", body=b"2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n"), b"hello"),
    "a small extension": (post(b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "a trailer": (post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), b"hello"),
    "nothing": (post(), b""),
    "an absolute target": (post(line=b"POST http://x/mcp HTTP/1.1"), b""),
    "h2c on offer": (post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"{}"), b"{}"),
    "expectation": (post(b"Expect: 100-continue", b"Content-Length: 2", body=b"{}"), b"{}"),
    "other headers twice": (post(b"X-Y: 1", b"X-Y: 2", b"Accept: a", b"Accept: b"), b""),
    "HTTP/1.0": (b"POST /mcp HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_clients_send_is_read(case: str):
    """In one piece, and byte by byte."""
    data, body = GOOD[case]
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        found, fault = ours(*pieces)
        assert fault is None
        [read] = found
        assert read.whole
        assert read.body == body


CHUNKED = b"Transfer-Encoding: chunked"
BAD: dict[str, bytes] = {
    "two equal lengths": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "two equal lengths in other cases": post(b"Content-Length: 5", b"CONTENT-LENGTH: 5", body=b"hello"),
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"),
    "a list of lengths": post(b"Content-Length: 5, 5", body=b"hello"),
    "a list of lengths without spaces": post(b"Content-Length: 5,5", body=b"hello"),
    "a length and nothing": post(b"Content-Length: 5,", body=b"hello"),
    "a sign": post(b"Content-Length: +5", body=b"hello"),
    "a negative length": post(b"Content-Length: -5", body=b"hello"),
    "hexadecimal": post(b"Content-Length: 0x5", body=b"hello"),
    "underscores": post(b"Content-Length: 1_0", body=b"hellohello"),
    "a space in the length": post(b"Content-Length: 5 5", body=b"hello"),
    "an empty length": post(b"Content-Length:", body=b"hello"),
    "a length beyond everything": post(b"Content-Length: " + b"9" * 30, body=b"hello"),
    "a length that begins on the next line": post(b"Content-Length:\r\n 5", body=b"hello"),
    "a length that goes on on the next line": post(b"Content-Length: 5\r\n 0", body=b"hello"),
    "a folded header": post(b"X: a\r\n b"),
    "a header folded by a tab": post(b"X: a\r\n\tTransfer-Encoding: chunked"),
    "a folded first header": b"POST /mcp HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
    "space before the colon": post(b"Content-Length : 5", body=b"hello"),
    "tab before the colon": post(b"Content-Length\t: 5", body=b"hello"),
    "LF after a header": post(b"X: y\nContent-Length: 5", body=b"hello"),
    "LF after the line": b"POST /mcp HTTP/1.1\nHost: x\r\n\r\n",
    "LF after the head": b"POST /mcp HTTP/1.1\r\nHost: x\r\n\n",
    "LF everywhere": post(b"Content-Length: 5", body=b"hello").replace(b"\r\n", b"\n"),
    "CR in a value": post(b"X: y\rContent-Length: 5", body=b"hello"),
    "two CR": post(b"X: y\r\r\nContent-Length: 5", body=b"hello"),
    "NUL in a value": post(b"X: a\0b"),
    "NUL in a name": post(b"X\0: a"),
    "NUL in the target": post(line=b"POST /mcp\0 HTTP/1.1"),
    "a name that is not ASCII": post("ü: 1".encode()),
    "an empty name": post(b": 1"),
    "no colon": post(b"Content-Length"),
    "length and chunks": post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
    "chunks and length": post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
    "chunked twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello"),
    "identity alone": post(b"Transfer-Encoding: identity"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "something like chunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked with a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "an empty coding": post(b"Transfer-Encoding:", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": b"POST /mcp HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0 that stays": b"POST /mcp HTTP/1.0\r\nConnection: keep-alive\r\n"
    + CHUNKED
    + b"\r\n\r\n0\r\n\r\n",
    "two hosts": post(b"Host: x"),
    "no host": b"POST /mcp HTTP/1.1\r\n\r\n",
    "two tokens": post(b"Authorization: a", b"authorization: a"),
    "HTTP/9.9": post(line=b"POST /mcp HTTP/9.9"),
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": post(line=b"POST /mcp HTTP/1.2"),
    "HTTP/0.9": b"GET /mcp\r\n\r\n",
    "space after the version": post(line=b"POST /mcp HTTP/1.1 "),
    "two spaces": post(line=b"POST  /mcp HTTP/1.1"),
    "a chunk with a sign": post(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk with a prefix": post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "space before a chunk": post(CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n"),
    "a chunk without a size": post(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n"),
    "LF after a chunk's size": post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"),
    "LF in an extension": post(CHUNKED, body=b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "LF after a chunk": post(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"),
    "anything after a chunk": post(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n"),
    "LF after the last chunk": post(CHUNKED, body=b"5\r\nhello\r\n0\r\n\n"),
    "LF in a trailer": post(CHUNKED, body=b"0\r\nX: y\n\r\n"),
    "LF after the trailers": post(CHUNKED, body=b"0\r\nX: y\r\n\n"),
    "a folded trailer": post(CHUNKED, body=b"0\r\nX: y\r\n z\r\n\r\n"),
    "two lengths in the trailers": post(CHUNKED, body=b"0\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    "a chunk beyond everything": post(CHUNKED, body=b"f" * 21 + b"\r\nhello"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_two_readers_may_read_differently_is_refused(case: str):
    """Before it is whole, in one piece and byte by byte; what follows it is not read as a request."""
    data = BAD[case] + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        found, fault = ours(*pieces)
        assert fault
        assert len(found) <= 1
        assert not any(read.whole for read in found)


def endless(line: bytes) -> Iterator[bytes]:
    return itertools.repeat(line * (1000 // len(line) + 1))


LARGE: dict[str, tuple[bytes, Iterator[bytes]]] = {
    "headers": (b"POST /mcp HTTP/1.1\r\nHost: x\r\n", endless(b"A: b\r\n")),
    "a header": (b"POST /mcp HTTP/1.1\r\nHost: x\r\nX: ", endless(b"y")),
    "a target": (b"POST /", endless(b"y")),
    "an extension": (post(CHUNKED, body=b"5;"), endless(b"x")),
    "extensions": (post(CHUNKED), endless(b"5;" + b"x" * 500 + b"\r\nhello\r\n")),
    "a size": (post(CHUNKED), endless(b"0")),
    "trailers": (post(CHUNKED, body=b"0\r\n"), endless(b"A: b\r\n")),
    "a trailer": (post(CHUNKED, body=b"0\r\nX: "), endless(b"y")),
}


@pytest.mark.parametrize("case", LARGE)
def test_what_never_ends_is_refused(case: str):
    """Before 150 KB of it have come."""
    begin, more = LARGE[case]
    found, fault = ours(begin, *itertools.islice(more, 150))
    assert fault
    assert not any(read.whole for read in found)


@pytest.mark.parametrize("part", ["head", "trailers"])
def test_a_head_that_comes_at_once_is_bounded_too(part: str):
    """In bytes and in lines; h11 would take any size that is complete."""
    begin = b"POST /mcp HTTP/1.1\r\nHost: x\r\n" if part == "head" else post(CHUNKED, body=b"0\r\n")
    for headers, good in (
        ([b"A: b"] * (MAX_HEADERS - 2), True),
        ([b"A: b"] * (MAX_HEADERS + 1), False),
        ([b"A: " + b"b" * (MAX_HEAD_BYTES - 100)], True),
        ([b"A: " + b"b" * MAX_HEAD_BYTES], False),
    ):
        found, fault = ours(begin + b"".join(header + b"\r\n" for header in headers) + b"\r\n")
        assert (fault is None) == good
        assert any(read.whole for read in found) == good


def test_extensions_are_counted_for_each_body():
    """A connection may send small ones for ever."""
    each = post(CHUNKED, body=b"5;" + b"x" * (MAX_EXTENSION_BYTES - 10) + b"\r\nhello\r\n0\r\n\r\n")
    found, fault = ours(*[each] * 5)
    assert fault is None
    assert [read.body for read in found] == [b"hello"] * 5


# --- the fuzz ------------------------------------------------------------------------------------------------------

ENDS = st.sampled_from([b"\r\n"] * 80 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b" \r\n", b"\0\r\n"])
NAMES = st.sampled_from(
    [b"Content-Length"] * 4
    + [b"Transfer-Encoding"] * 4
    + [b"Host", b"host", b"X", b"Connection", b"Accept", b"Mcp-Name", b"Content-Length ", b" X", b"", b"X\0", b"TE"]
    + [b"Expect", b"content_length", b"Trailer", b"Content-Length\t", b"\xc3\xbc", b"transfer-encoding"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [b"5", b"0", b"05", b" 5 ", b"+5", b"-1", b"5, 5", b"5,6", b"0x5", b"5 5", b"", b"9" * 25]
        + [b"chunked"] * 3
        + [b"Chunked", b" chunked", b"chunked, chunked", b"identity", b"gzip, chunked", b"chunked;q=1", b"\x0bchunked"]
        + [b"close", b"keep-alive", b"100-continue", b"a\tb", b"\xe9"]
    ),
    st.binary(max_size=5),
)
COLONS = st.sampled_from([b": "] * 30 + [b":", b":\t", b" :", b"", b":: "])
LINES = st.sampled_from(
    [b"POST /mcp HTTP/1.1"] * 40
    + [b"POST /mcp HTTP/1.0", b"GET /mcp HTTP/1.1", b"POST http://y/mcp HTTP/1.1", b"POST  /mcp HTTP/1.1"]
    + [b"POST /mcp HTTP/1.2", b"POST /mcp HTTP/2.0", b"POST /mcp", b"post /mcp HTTP/1.1", b"POST /mcp HTTP/1.1 ", b""]
)  # fmt: skip
SIZES = st.sampled_from([b"5"] * 20 + [b"05", b"4", b"6", b"5;a=b", b"5 ", b" 5", b"+5", b"0x5", b"", b"5;a\rb", b"5;"])
CHUNKS = st.lists(
    st.tuples(SIZES, ENDS, st.sampled_from([b"hello"] * 10 + [b"hell", b"hello!"]), ENDS).map(b"".join), max_size=2
).map(b"".join)
LASTS = st.one_of(
    st.just(b"0\r\n\r\n"),
    st.tuples(st.sampled_from([b"0", b"00", b"0;x", b""]), ENDS, st.sampled_from([b"", b"X: y"]), ENDS, ENDS).map(
        b"".join
    ),
)
BODIES = st.one_of(st.sampled_from([b"", b"hello", b"hell"]), st.tuples(CHUNKS, LASTS).map(b"".join))
HEADERS = st.lists(st.tuples(NAMES, COLONS, VALUES, ENDS).map(b"".join), max_size=3).map(b"".join)
MESSAGES = st.tuples(LINES, ENDS, st.just(HOST), HEADERS, ENDS, BODIES).map(b"".join)
SECOND = b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n"


@settings(max_examples=800, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=2), st.lists(st.integers(1, 200), max_size=3))
def test_what_is_read_llhttp_reads_in_the_same_way_or_refuses(messages: list[bytes], cuts: list[int]):
    """Request for request: method, target, headers and body. So nobody who reads a connection with llhttp sees another
    request on it than the bridge does."""
    data = b"".join(messages) + SECOND
    edges = [0, *sorted(cut for cut in set(cuts) if cut < len(data)), len(data)]
    found, fault = ours(*(data[a:b] for a, b in itertools.pairwise(edges)))
    other, refused = theirs(data)
    mine = [read for read in found if read.whole]
    event(f"read {len(mine)}, {'refused' if fault else 'went on'}; llhttp {'refused' if refused else 'went on'}")
    whole = [read for read in other if read.whole]
    for read, as_read in itertools.zip_longest(mine, whole):
        if read is None:
            break  # we are stricter, or closed the connection
        if as_read is None:
            assert refused
            break
        assert (read.method, read.target, read.body) == (as_read.method, as_read.target, as_read.body)
        assert [(name, value.lower()) for name, value in read.headers] == [
            (name, value.lower()) for name, value in as_read.headers
        ]


H11_TAKES = {
    "two equal lengths",
    "two equal lengths in other cases",
    "a list of lengths",
    "a list of lengths without spaces",
    "a length that begins on the next line",
    "a folded header",
    "a header folded by a tab",
    "LF after a header",
    "LF after the line",
    "LF after the head",
    "LF everywhere",
    "length and chunks",
    "chunks and length",
    "chunks in HTTP/1.0",
    "chunks in HTTP/1.0 that stays",
    "two tokens",
    "HTTP/9.9",
    "HTTP/2.0",
    "HTTP/1.2",
    "LF after the last chunk",
    "LF in a trailer",
    "LF after the trailers",
    "a folded trailer",
    "two lengths in the trailers",
}
"""What of the above h11 reads without a word: what the rules of the module are for."""


def test_h11_alone_takes_what_the_rules_refuse():
    """Where it no longer does, a rule can go."""
    taken: set[str] = set()
    for case, data in BAD.items():
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        with contextlib.suppress(h11.RemoteProtocolError):
            while not isinstance(each := connection.next_event(), h11.EndOfMessage) and each is not h11.NEED_DATA:
                pass
            if isinstance(each, h11.EndOfMessage):
                taken.add(case)
    assert taken == H11_TAKES
