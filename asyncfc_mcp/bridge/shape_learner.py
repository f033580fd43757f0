"""Shapes of tools' results: learned from results in the background, and kept for the next start.

Owns which results are looked at and when, and what is on disk. A call pays for a look into a dictionary. The shapes
that are listed are those of the start, since a changed tool list costs hosts their prompt cache; `directory` takes
newer ones with a change that the server has caused. Learning from one result is left to `core.learned_shapes`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.field_names import words_of
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import Scope, is_only_principal
from asyncfc_mcp.core.learned_shapes import LearnedShape, Lesson
from asyncfc_mcp.core.result_samples import sample
from asyncfc_mcp.core.shapes import described
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.signals import WakeUp

logger = logging.getLogger(__name__)

FIRST: Final = 8
"""Results of a tool that are looked at in each run."""
RARELY: Final = 64
"""After that, one result of this number is."""
MOST_QUEUED: Final = 32
"""Results that wait to be looked at; others are skipped."""
MOST_TOOLS: Final = 500
"""Tools of a server whose shapes are kept, the latest ones."""
SAVE_S: Final = 2.0
"""Shortest time between two writes of one server's shapes."""
_MOST_TEXT: Final = 4_000
"""Characters of a tool's entry, and of a call's arguments, whose words are considered."""
_MOST_VALUES: Final = 200
_NEVER: Final = -(10**15)


@dataclass(slots=True)
class _Seen:
    """Result to be looked at."""

    server: str
    tool: str
    result: Result
    arguments: Mapping[str, Any] | None
    scope: Scope
    counts: bool = True


class ShapeLearner:
    """Learns the shapes of the results of all servers.

    Args:
        servers: their configurations. Nothing is learned of other ones: those that get credentials of callers.
        cache: where the shapes are kept.
        entry: returns the entry of a server's tool in the catalog.
    """

    def __init__(
        self, servers: Sequence[ServerConfig], cache: ListingCache, entry: Callable[[str, str], ToolEntry | None]
    ) -> None:
        self._cache = cache
        self._entry = entry
        self._configs: dict[str, ServerConfig] = {}
        self._shapes: dict[str, dict[str, LearnedShape]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        """Server → tool → results so far in this run."""
        self._queue: deque[_Seen] = deque()
        self._filled = WakeUp()
        self._public: dict[tuple[str, str], tuple[ToolEntry, frozenset[str]]] = {}
        self._unsaved: set[str] = set()
        self.configure(servers)

    def configure(self, servers: Sequence[ServerConfig]) -> None:
        """Learn of these servers from now on: of one with another command or URL anew."""
        self._save()
        before, self._configs = self._configs, {config.name: config for config in servers}
        same = {name for name, config in self._configs.items() if name in before and before[name].spec == config.spec}
        self._shapes = {
            name: self._shapes[name] if name in same else _read(config, self._cache)
            for name, config in self._configs.items()
        }
        self._counts = {name: self._counts[name] if name in same else {} for name in self._configs}
        self._queue = deque(seen for seen in self._queue if seen.server in same)

    def texts(self, server: str) -> Mapping[str, str]:
        """Return the description of each tool's results, as far as it is known at this moment."""
        texts = {tool: described(learned.shape) for tool, learned in self._shapes.get(server, {}).items()}
        return {tool: text for tool, text in texts.items() if text}

    # --- on a call's way -----------------------------------------------------------------------------------------

    def observe(self, call: Call, result: Result) -> None:
        """Take note of a result. The first ones of each tool are looked at soon, later ones rarely."""
        server, tool = call.future.server, call.tool
        if (counts := self._counts.get(server)) is None:
            return
        counts[tool] = count = counts.get(tool, 0) + 1
        if (count <= FIRST or count % RARELY == 0) and count > 0 and call.policy.shapes == "learned":
            self._enqueue(_Seen(server, tool, result, call.arguments, call.future.scope))

    def path_missing(self, source: Future) -> None:
        """Take note that a reference named a part that this future's result does not have: the model had no shape, or
        an outdated one. That result and the tool's next ones are looked at."""
        for tool, count in self._counts.get(source.server, {}).items():
            entry = self._entry(source.server, tool)
            if entry is None or entry.name != source.tool:
                continue
            if count > 0 and source.result is not None and entry.policy.shapes == "learned":
                self._counts[source.server][tool] = 0
                self._enqueue(_Seen(source.server, tool, source.result, None, source.scope, counts=False))
            return

    def _enqueue(self, seen: _Seen) -> None:
        if len(self._queue) < MOST_QUEUED:
            self._queue.append(seen)
            self._filled.set()

    # --- in the background ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at results and keep what is learned, until cancelled; then what is left is looked at and kept."""
        try:
            while True:
                await self._filled.wait()
                while self._queue:
                    self._learn(self._queue.popleft())
                    await anyio.lowlevel.checkpoint()
                self._save()
                await anyio.sleep(SAVE_S)
        finally:
            while self._queue:
                self._learn(self._queue.popleft())
            self._save()

    def _learn(self, seen: _Seen) -> None:
        """Look at one result: at most 64 KB of text, 1,500 values and a few milliseconds."""
        entry = self._entry(seen.server, seen.tool)
        if entry is None:
            return
        if entry.returns_from == "outputSchema" or entry.policy.mode == "sync":
            self._counts[seen.server][seen.tool] = _NEVER  # nothing of it would be listed
            return
        try:
            found = sample(seen.result)
            if found is None:
                return
            lesson = Lesson(
                public=self._public_words(seen, entry),
                echoed=_echoed(seen.arguments),
                party=None if is_only_principal(seen.scope) else seen.scope.key,
                counts=seen.counts,
                unfinished=found.unfinished,
            )
            shapes = self._shapes[seen.server]
            learned = shapes.pop(seen.tool, None) or LearnedShape()
            shapes[seen.tool] = learned  # the latest one is last
            learned.learn(found.value, lesson)
            if len(shapes) > MOST_TOOLS:
                del shapes[next(iter(shapes))]
            self._unsaved.add(seen.server)
        except Exception:  # an unforeseen result must not end the bridge
            logger.exception("the shape of a result of %s was not learned", seen.tool)

    def _public_words(self, seen: _Seen, entry: ToolEntry) -> frozenset[str]:
        """Return the words of a tool's own entry in the listing: clients have them anyway."""
        known = self._public.get((seen.server, seen.tool))
        if known is None or known[0] is not entry:
            text = " ".join(_texts(entry.raw, _MOST_TEXT))
            known = self._public[seen.server, seen.tool] = entry, words_of(text)
            if len(self._public) > MOST_TOOLS:
                del self._public[next(iter(self._public))]
        return known[1]

    def _save(self) -> None:
        for server in self._unsaved:
            shapes = {tool: learned.to_json() for tool, learned in self._shapes[server].items()}
            self._cache.save_shapes(self._configs[server], shapes)
        self._unsaved.clear()


def _read(config: ServerConfig, cache: ListingCache) -> dict[str, LearnedShape]:
    """Return the shapes of earlier runs; without those that are not readable, since another program may have written
    the file."""
    shapes: dict[str, LearnedShape] = {}
    for tool, value in list(cache.load_shapes(config).items())[-MOST_TOOLS:]:
        try:
            shapes[tool] = LearnedShape.of_json(value)
        except ValueError as exc:
            logger.debug("ignored the shape of tool %r of server %r: %s", tool, config.name, exc)
    return shapes


def _echoed(arguments: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the texts of a call's arguments and their words, in lower case: among a result's keys, they are data."""
    texts = list(_texts(dict(arguments or {}), _MOST_TEXT, keys=False))
    return frozenset(text.lower() for text in texts) | words_of(" ".join(texts))


def _texts(value: Any, most: int, *, keys: bool = True) -> Iterator[str]:
    """Yield the first texts of a value, without those inside of more than some values."""
    todo = [value]
    for _ in range(_MOST_VALUES):
        if not todo or most <= 0:
            return
        item = todo.pop()
        if isinstance(item, str):
            most -= len(item)
            yield item[:_MOST_TEXT]
        elif isinstance(item, dict):
            table = cast("dict[str, Any]", item)
            for _, (key, inner) in zip(range(_MOST_VALUES), table.items(), strict=False):
                if keys:
                    most -= len(key)
                    yield key[:100]
                todo.append(inner)
        elif isinstance(item, list):
            todo += cast("list[Any]", item)[:_MOST_VALUES]
