"""A keyring in a file, as a backend of the library `keyring` (`PYTHON_KEYRING_BACKEND`), for processes of tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Keeps its entries in the file that `FILE_KEYRING` names."""

    priority = 1  # pyright: ignore[reportAssignmentType]

    @property
    def path(self) -> Path:
        return Path(os.environ["FILE_KEYRING"])

    def entries(self) -> dict[str, str]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write({**self.entries(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self.entries()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError(username)
        self._write(entries)

    def _write(self, entries: dict[str, str]) -> None:
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(entries))
        part.replace(self.path)
