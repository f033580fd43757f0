"""Messages of any size parsed and serialized as by `codec`, the large ones in slices: other tasks run in between.

Owns the size from which slices are used. Leaves errors to `codec`: a message that cannot be parsed in slices is parsed
at once, which finds the reason.
"""

from asyncfc_mcp.jsonrpc.codec import (
    EDGE_BYTES,
    MalformedMessage,
    Message,
    Oversized,
    checked_message,
    format_message,
    oversized,
    parse_from_server,
    parse_message,
)
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.bounds import MOST_FROM_CLIENTS, MOST_FROM_SERVERS, counting_values
from asyncfc_mcp.values.large import LARGE_BYTES, is_large, parsing, writing


async def read_message(data: bytes, most: int = MOST_FROM_CLIENTS) -> Message:
    """See `codec.parse_message`."""
    return parse_message(data, most) if len(data) <= LARGE_BYTES else await in_slices(reading(data, most))


async def read_from_server(data: bytes) -> list[Message | MalformedMessage]:
    """See `codec.parse_from_server`."""
    return parse_from_server(data) if len(data) <= LARGE_BYTES else await in_slices(reading_from_server(data))


async def write_message(message: Message) -> bytes:
    """See `codec.format_message`."""
    if not is_large(message):
        return format_message(message)
    return b"".join([*await in_slices(writing(message)), b"\n"])


def reading(data: bytes, most: int) -> Slices[Message]:
    """See `codec.parse_message`."""
    if (yield from counting_values(data, most)):
        refusal = oversized(data[:EDGE_BYTES], data[-EDGE_BYTES:], f"more than {most} values")
        assert refusal is not None, "the message is complete"
        raise refusal
    try:
        value = yield from parsing(data)
    except ValueError:
        return parse_message(data, most)
    return checked_message(value)


def reading_from_server(data: bytes) -> Slices[list[Message | MalformedMessage]]:
    """See `codec.parse_from_server`."""
    try:
        return [(yield from reading(data, MOST_FROM_SERVERS))]
    except Oversized as exc:
        return [exc]
    except MalformedMessage:
        return parse_from_server(data)
