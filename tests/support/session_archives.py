"""An archive of sessions in memory, which replicas within one process share."""

from collections.abc import Collection

import anyio
import anyio.lowlevel

from asyncfc_mcp.core.session_archive import SessionRecord


class MemorySessions:
    """Implements `core.session_archive.SessionArchive`."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[SessionRecord, float]] = {}
        self.asked: list[str] = []
        self.writable = anyio.Event()
        self.writable.set()

    async def save(self, session_id: str, record: SessionRecord) -> None:
        await self.writable.wait()
        self.records[session_id] = record, anyio.current_time()

    async def load(self, session_id: str, idle_s: float) -> SessionRecord | None:
        self.asked.append(session_id)
        await anyio.lowlevel.checkpoint()
        record, seen_at = self.records.get(session_id, (None, 0.0))
        if record is None or seen_at <= anyio.current_time() - idle_s:
            return None
        self.records[session_id] = record, anyio.current_time()
        return record

    async def touch(self, session_ids: Collection[str], idle_s: float) -> None:
        now = anyio.current_time()
        used = {each: (self.records[each][0], now) for each in session_ids if each in self.records}
        self.records = {
            key: (record, seen) for key, (record, seen) in {**self.records, **used}.items() if seen > now - idle_s
        }

    async def drop(self, session_id: str) -> None:
        self.records.pop(session_id, None)
