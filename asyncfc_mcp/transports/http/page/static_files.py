"""Files of the page, from memory.

Owns reading them once, their types, validators (`ETag`) and compression. They hold no data, so everyone may have them.
No path of a request reaches the file system: a name is looked up among those that were read.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncfc_mcp.transports.http.asgi import Headers, respond
from asyncfc_mcp.transports.http.page.answers import ALWAYS

if TYPE_CHECKING:
    from starlette.types import Send

FOLDER: Final = Path(__file__).with_name("static")
INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".json": b"application/json",
}
"""File names' ends → types. Not those of the system, which differ between machines."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file."""

    content: bytes
    compressed: bytes
    type: bytes
    tag: bytes

    @classmethod
    def read(cls, path: Path) -> "StaticFile":
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(content, gzip.compress(content, mtime=0), _TYPES[path.suffix], f'"{digest}"'.encode())


class StaticFiles:
    """All files of a folder whose types are known, without those in folders below it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._files: dict[str, StaticFile] | None = None

    def get(self, name: str) -> StaticFile | None:
        """Return the file of this name. All are read at the first request, so that they are of one version."""
        if self._files is None:
            paths = [path for path in self._folder.iterdir() if path.suffix in _TYPES]
            self._files = {path.name: StaticFile.read(path) for path in paths}
        return self._files.get(name)


async def send_file(send: "Send", file: StaticFile, headers: Headers, *, head: bool = False) -> None:
    """Send a file, or that the client has it.

    Args:
        head: without its content.
    """
    # `vary`: what is at `/` depends on it. `no-cache`: asked for again, so that a newer version is used at once.
    more = ((b"etag", file.tag), (b"cache-control", b"no-cache"), (b"vary", b"accept, accept-encoding"), *ALWAYS)
    known = headers.values.get(b"if-none-match", b"")
    if file.tag in [each.strip().removeprefix(b"W/") for each in known.split(b",")]:
        await send({"type": "http.response.start", "status": 304, "headers": list(more)})
        return await send({"type": "http.response.body", "body": b""})
    content = file.content
    if _takes_gzip(headers.values.get(b"accept-encoding", b"")):
        content, more = file.compressed, ((b"content-encoding", b"gzip"), *more)
    if not head:
        return await respond(send, 200, content, (b"content-type", file.type), *more)
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, (b"content-type", file.type), *more]})
    await send({"type": "http.response.body", "body": b""})


def _takes_gzip(accepted: bytes) -> bool:
    """Return whether a client has named gzip, and not as what it refuses (`q=0`)."""
    for each in accepted.lower().split(b","):
        name, _, weight = each.replace(b" ", b"").partition(b";")
        if name == b"gzip":
            return not weight.startswith(b"q=0") or weight.strip(b"q=0.") != b""
    return False
