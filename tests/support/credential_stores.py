"""A store of credentials in memory, for tests of what uses one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from asyncfc_mcp.downstream.oauth.records import Grant, Registration


class MemoryStore:
    """A `CredentialStore` that holds records as they are, and counts writes."""

    def __init__(self) -> None:
        self.grants: dict[tuple[str, str], Grant] = {}
        self.registrations: dict[tuple[str, str | None], Registration] = {}
        self.writes: Counter[str] = Counter()
        self._versions: Counter[tuple[str, str]] = Counter()
        self._locks: dict[tuple[str, str], threading.Lock] = {}

    def load_grant(self, server: str, url: str) -> Grant | None:
        return self.grants.get((server, url))

    def save_grant(self, server: str, url: str, grant: Grant) -> None:
        self.writes["grant"] += 1
        self._versions[server, url] += 1
        self.grants[server, url] = grant

    def drop_grant(self, server: str, url: str) -> None:
        self._versions[server, url] += 1
        self.grants.pop((server, url), None)

    def load_registration(self, issuer: str, redirect_uri: str | None) -> Registration | None:
        return self.registrations.get((issuer, redirect_uri))

    def save_registration(self, registration: Registration) -> None:
        self.writes["registration"] += 1
        self.registrations[registration.issuer, registration.redirect_uri] = registration

    def drop_registration(self, issuer: str, redirect_uri: str | None) -> None:
        self.registrations.pop((issuer, redirect_uri), None)

    def version(self, server: str, url: str) -> object:
        return self._versions[server, url]

    @contextmanager
    def lock_nowait(self, server: str, url: str) -> Generator[bool]:
        lock = self._locks.setdefault((server, url), threading.Lock())
        held = lock.acquire(blocking=False)
        try:
            yield held
        finally:
            if held:
                lock.release()
