"""Changes of the lists that listeners see, between two announcements.

Pure. Owns which kinds have changed in which view of one directory, and the pauses between announcements. Leaves the
listeners and the clock to `notifications`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.core.backoff import Throttle
from asyncfc_mcp.upstream.instructions import uri_of_docs

ANNOUNCE_S: Final = (0.2, 5.0)
"""First and longest pause between two announcements of a list that keeps changing."""
LIST_CHANGES: Final[Mapping[str, str]] = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "resourceTemplates": "resources",
}
"""Kind of a listing → the kind in the notification to clients."""


class ListChanges:
    """Changes of one directory that were not announced.

    Args:
        view: all of the directory.
        documents: URI → text of the instructions that are resources, as listeners know them.
    """

    def __init__(self, view: View, documents: Mapping[str, str]) -> None:
        self._view, self._documents = view, documents
        self._catalog = view.catalog
        """The listings after their last change."""
        self._changed: set[str] = set()
        self._changed_in: dict[View, set[str]] = {}
        """Restricted view of a listener → kinds of which it has changed since they were last announced."""
        self._throttles = {kind: Throttle(*ANNOUNCE_S) for kind in LIST_CHANGES.values()}

    def record(self, kinds: Collection[str], documents: Mapping[str, str], views: Iterable[View]) -> list[str]:
        """Record that listings of these kinds have changed; return the URIs of instructions that have another text.

        Args:
            documents: as they are now.
            views: those of the listeners.
        """
        self._changed |= set(kinds)
        known, self._documents = self._documents, documents
        listed_anew = known.keys() ^ documents.keys()
        if listed_anew:
            self._changed.add("resources")
        before, self._catalog = self._catalog, self._view.catalog
        for view in views:
            if view.restricted:
                was, now = view.of(before), view.of(self._catalog)
                changed = self._changed_in.setdefault(view, set())
                changed |= {LIST_CHANGES[kind] for kind in kinds if was.entries(kind) != now.entries(kind)}
                if not listed_anew.isdisjoint(map(uri_of_docs, view.snapshots())):
                    changed.add("resources")
        return [uri for uri, text in documents.items() if known.get(uri, text) != text]

    def record_all(self) -> None:
        """Record that everything may have changed in every view: others may see it now."""
        self._changed |= LIST_CHANGES.keys()
        self._changed_in.clear()

    def due(self, now: float) -> list[str]:
        """Return the kinds that can be announced now, which begins their next pause."""
        kinds = sorted(kind for kind, left in self._waiting(now).items() if left <= 0)
        for kind in kinds:
            self._changed -= {each for each, announced in LIST_CHANGES.items() if announced == kind}
            self._throttles[kind].record_run(now)
        return kinds

    def is_changed_for(self, view: View, kind: str) -> bool:
        """Return true where a change of this kind, which is due, can be seen in a view."""
        return not view.restricted or view not in self._changed_in or kind in self._changed_in[view]

    def announced(self, kinds: Collection[str], now: float) -> float | None:
        """Forget changes that were announced; return the seconds until others are due, None without others."""
        for changed in self._changed_in.values():
            changed -= set(kinds)
        if not self._changed:
            self._changed_in.clear()
            return None
        return min(self._waiting(now).values())

    def _waiting(self, now: float) -> dict[str, float]:
        return {kind: self._throttles[kind].remaining(now) for kind in {LIST_CHANGES[each] for each in self._changed}}
