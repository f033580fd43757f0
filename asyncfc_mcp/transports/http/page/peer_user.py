"""The user on this machine whose program is at the other end of a connection over loopback.

Owns the look-up, which Linux alone offers. Leaves what follows from it to `keys`.
"""

import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from asyncfc_mcp.transports.http.options import is_loopback

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


Address = tuple[str, int]
"""An address and a port."""


def peer_user(client: Address | None, server: Address | None) -> int | None:
    """Return the user of a client; None where it is not known: another machine, another system, or a proxy that speaks
    for a client. It reads all connections of the machine: a few milliseconds for some thousand.

    Args:
        client: its end of the connection.
        server: the other end.
    """
    if client is None or server is None or not sys.platform.startswith("linux"):
        return None
    if not client[1] or not is_loopback(client[0]):
        return None
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        if (user := find(lines, client, server)) is not None:
            return user
    return None


def find(lines: Iterable[str], client: Address, server: Address) -> int | None:
    """Return the user of the socket at the client's end of a connection, by the lines of a table of the kernel. A port
    may have several connections, of several users; the two ends together are of one."""
    own, other = _forms(*client), _forms(*server)
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[1] in own and words[2] in other and words[7].isdecimal():
            return int(words[7])
    return None


def _forms(address: str, port: int) -> set[str]:
    """Return an address as the tables write it: words of 32 bits, each in the order of the machine."""
    if ":" in address:
        raw = [socket.inet_pton(socket.AF_INET6, address.partition("%")[0])]
    else:
        v4 = socket.inet_aton(address)
        raw = [v4, bytes(10) + b"\xff\xff" + v4]
    return {f"{_words(each)}:{port:04X}" for each in raw}


def _words(raw: bytes) -> str:
    parts = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    return "".join(f"{int.from_bytes(part, sys.byteorder):08X}" for part in parts)
