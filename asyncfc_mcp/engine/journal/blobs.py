"""Large results in files beside the journal, named by the SHA-256 of their content.

Owns the folder and its files (mode 0600). Which of them are needed is decided under a transaction of the journal, by
`journal_file` and `retention`: a file is put in place before the row that names it, within the same transaction, and
removed only in a transaction in which no row names it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from asyncfc_mcp.private_files import make_folder, open_private
from asyncfc_mcp.slices import Slices

INLINE_BYTES: Final = 64 << 10
"""Maximum bytes of a result in the journal itself."""
_PIECE: Final = 1 << 20
_SUFFIX: Final = ".json"


class Blobs:
    """Files of one journal.

    Args:
        folder: created with the first file.
        boot: of this bridge, in the names of unfinished files.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self.folder = folder
        self._boot = boot

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}{_SUFFIX}"

    def prepare(self, pieces: Sequence[bytes]) -> tuple[str, int]:
        """Write a file under a preliminary name; return its digest and size. `put` gives it its name.

        Raises:
            OSError: it cannot be written.
        """
        content = hashlib.sha256()
        for piece in pieces:
            content.update(piece)
        digest = content.hexdigest()
        part = self._part(digest)
        make_folder(part.parent)
        part.unlink(missing_ok=True)
        with os.fdopen(open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.writelines(pieces)
            return digest, file.tell()

    def put(self, digest: str) -> None:
        """Give a prepared file its name. An equal file is replaced.

        Raises:
            OSError: it cannot be renamed.
        """
        try:
            self._part(digest).replace(self.path(digest))
        except FileNotFoundError:
            if not self.path(digest).exists():  # else it was put in place for an equal result of this batch
                raise

    def discard(self, digest: str) -> None:
        """Remove a file that was prepared and not put in place, if there is one."""
        self._part(digest).unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Remove a file.

        Raises:
            OSError: it exists and cannot be removed.
        """
        self.path(digest).unlink(missing_ok=True)

    def _part(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.{self._boot}.part"

    def digests(self) -> Iterator[str]:
        """Yield the digests of all files."""
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            yield path.name.removesuffix(_SUFFIX)

    def parts(self) -> Iterator[tuple[str, Path]]:
        """Yield the unfinished files of all bridges, each with its boot."""
        for path in self.folder.glob("??/*.part"):
            yield path.name.split(".")[1], path

    def reading(self, digest: str) -> Slices[bytes]:
        """Return the content of a file in slices.

        Raises:
            OSError: it cannot be read.
            ValueError: its content has changed.
        """
        pieces: list[bytes] = []
        content = hashlib.sha256()
        with os.fdopen(open_private(self.path(digest), os.O_RDONLY), "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                content.update(piece)
                pieces.append(piece)
                yield
        if content.hexdigest() != digest:
            raise ValueError("its content has changed")
        return b"".join(pieces)
