"""Building of catalogs, incrementally: what depends on one server, or on one raw entry, is computed once.

Owns checking entries, resolving equal names and URIs, and the notes on both. `catalog` defines the result, `names`
assigns names, and `listing_schema` checks entries.
"""

import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.overrides import ToolOverride
from asyncfc_mcp.core.catalog import Catalog, PromptEntry, Source, ToolEntry, list_tool, selected
from asyncfc_mcp.core.listing_schema import conform
from asyncfc_mcp.core.meta_keys import without_our_keys
from asyncfc_mcp.core.names import (
    PAUSE_AFTER,
    NamePlan,
    PublishedNames,
    ServerNames,
    assigning,
    distinct_lengths,
    planning,
    server_parts,
)
from asyncfc_mcp.core.overridden_tools import OverriddenTool, overridden, own_names
from asyncfc_mcp.quotation import said
from asyncfc_mcp.slices import Slices

logger = logging.getLogger(__name__)

Json = dict[str, Any]

OUR_URIS: Final = ("future:", "asyncfc:")
"""Schemes of the bridge's own resources."""
_URI_OF: Final[Mapping[str, str]] = {"resources": "uri", "resourceTemplates": "uriTemplate"}


@dataclass(frozen=True, slots=True)
class _CheckedEntry:
    """Raw entry and the result of its check against MCP's schema."""

    raw: Json
    entry: Json | None
    remarks: tuple[str, ...]
    overridden: OverriddenTool | None = None
    """The tool as the configuration overrides it."""

    @property
    def given(self) -> Json:
        """The entry from which the upstream one is made."""
        return self.raw if self.overridden is None else self.overridden.raw


@dataclass(frozen=True, slots=True)
class _ServerPart:
    """Results that depend only on one server's listings, valid until these change."""

    source: Source
    part: str
    distinct: int
    """Length from `names.distinct_lengths`."""
    known: Mapping[tuple[str, int], _CheckedEntry]
    """All entries by kind and identity."""
    entries: Mapping[str, Sequence[_CheckedEntry]]
    """Kind → entries that can be listed."""
    remarks: tuple[str, ...]
    own_names: Mapping[str, str]
    """Tool → its name without the server's part, which the configuration may override."""
    misfits: tuple[str, ...]
    """Overrides that do not apply to what is listed."""
    tools: NamePlan
    prompts: NamePlan

    def is_current(self, source: Source, part: str, distinct: int) -> bool:
        """Return true where configuration and listings of the server have not changed."""
        return (
            (self.part, self.distinct) == (part, distinct)
            and self.source.config == source.config
            and all(_same(old, new) for (_, _, old), (_, _, new) in zip(self.source.kinds, source.kinds, strict=True))
        )


def _same(old: Sequence[Json], new: Sequence[Json]) -> bool:
    return old is new or (len(old) == len(new) and all(map(operator.is_, old, new)))


def _check(kind: str, raw: Json, override: ToolOverride | None) -> _CheckedEntry:
    """Check an entry, as it is overridden, against MCP's schema, and remove keys and URIs that are reserved for the
    bridge."""
    tool = overridden(raw, override) if override is not None else None
    entry, remarks = conform(kind, raw if tool is None else tool.raw)
    uri = raw.get(_URI_OF.get(kind, ""))
    if isinstance(uri, str) and uri.lower().startswith(OUR_URIS):
        return _CheckedEntry(
            raw, None, (f"{uri.partition(':')[0].lower()}: is the bridge's own scheme; it is left out",)
        )
    return _CheckedEntry(raw, None if entry is None else without_our_keys(entry), remarks, tool)


class CatalogBuilder:
    """Builds successive catalogs. Results for unchanged servers and raw entries are reused.

    An entry is unchanged while it is the same object (see `downstream.listing.reusing`).
    """

    def __init__(self) -> None:
        self._fitted: dict[str, _ServerPart] = {}
        self._tools: dict[tuple[str, str], ToolEntry] = {}

    def copy(self) -> "CatalogBuilder":
        """Return another builder, which reuses what this one has built until now."""
        copied = CatalogBuilder()
        copied._fitted, copied._tools = dict(self._fitted), dict(self._tools)
        return copied

    def building(self, sources: Iterable[Source], published: PublishedNames | None = None) -> Slices[Catalog]:
        """Build the catalog of these servers, in the order of the config and, within a server, of its listings."""
        sources, published = list(sources), published or PublishedNames()
        parts = server_parts(source.config for source in sources)
        lengths = distinct_lengths(parts)
        built: list[_ServerPart] = []
        for source in sources:
            name = source.config.name
            known = self._fitted.get(name)
            part, distinct = parts[name], lengths[name]
            if known is None or not known.is_current(source, part, distinct):
                checked = dict[tuple[str, int], _CheckedEntry]()
                if known is not None and known.source.config == source.config:
                    checked = known.known
                elif known is not None:
                    self._tools = {key: tool for key, tool in self._tools.items() if key[0] != name}
                known = self._fitted[name] = yield from _server_part(source, part, distinct, checked)
            built.append(known)
            yield
        self._fitted = {each.source.config.name: each for each in built}
        repairs = {each.source.config.name: each.remarks for each in built if each.remarks}
        notes: list[str] = []
        misfits = [misfit for each in built for misfit in each.misfits]
        # Of the sources themselves: what is known of a server may be older than the shapes that were learned.
        shapes = {source.config.name: source.shapes for source in sources}
        tools = yield from self._list_tools(built, shapes, published, notes)
        prompts: dict[str, PromptEntry] = {}
        resources: dict[str, tuple[str, Json]] = {}
        templates: dict[str, tuple[str, Json]] = {}
        again: list[tuple[str, str, str, Json]] = []
        names, _ = yield from assigning([each.prompts for each in built], held=published.prompts)
        for part in built:
            server = part.source.config.name
            if part.source.tools:
                misfits += [
                    f"server {server!r} has settings for tool {tool!r}, which it does not offer"
                    for tool in part.source.config.tool_names
                    if tool not in part.own_names
                ]
            for number, each in enumerate(part.entries["prompts"]):
                assert each.entry is not None
                prompt = each.raw["name"]
                name = names[server, prompt]
                if name in prompts:
                    notes.append(f"server {server!r} offers the prompt {prompt!r} twice; the first is listed")
                    continue
                prompts[name] = PromptEntry(name, server, prompt, {**each.entry, "name": name})
                if number % PAUSE_AFTER == 0:
                    yield
            for uris, key, kind in ((resources, "uri", "resources"), (templates, "uriTemplate", "resourceTemplates")):
                for number, each in enumerate(part.entries[kind]):
                    assert each.entry is not None
                    uri = each.entry[key]
                    if uri not in uris:
                        uris[uri] = (server, each.entry)
                    elif uris[uri][0] != server:
                        again.append((kind, uri, server, each.entry))
                        notes.append(f"{said(uri)} is offered by {uris[uri][0]!r} and {server!r}; the first serves it")
                    if number % PAUSE_AFTER == 0:
                        yield
        notes += [f"server {server!r}: {remark}" for server, remarks in repairs.items() for remark in remarks]
        configs = tuple(source.config for source in sources)
        return Catalog(
            tools,
            prompts,
            resources,
            templates,
            tuple(again),
            (*misfits, *notes),
            repairs,
            configs,
            misfits=tuple(misfits),
        )

    def _list_tools(
        self,
        built: Sequence[_ServerPart],
        shapes: Mapping[str, Mapping[str, str]],
        published: PublishedNames,
        notes: list[str],
    ) -> Slices[dict[str, ToolEntry]]:
        reserved = published.reserved | published.aliases.keys()
        names, displaced = yield from assigning([each.tools for each in built], reserved=reserved, held=published.tools)
        tools: dict[str, ToolEntry] = {}
        made: dict[tuple[str, str], ToolEntry] = {}
        for part in built:
            config = part.source.config
            for number, each in enumerate(part.entries["tools"]):
                tool = each.raw["name"]
                own = part.own_names[tool]
                name = names[config.name, own]
                if name in tools:
                    notes.append(f"server {config.name!r} offers {tool!r} twice; the first is listed")
                    continue
                entry = self._tools.get((config.name, tool))
                learned = shapes[config.name].get(tool, "")
                if entry is None or entry.raw is not each.given or (entry.name, entry.learned) != (name, learned):
                    entry = _list_or_skip(config, each, name, own, learned)
                    yield
                    if entry is None:
                        notes.append(f"tool {tool!r} of server {config.name!r} is left out: it could not be rewritten")
                        continue
                elif number % PAUSE_AFTER == 0:
                    yield
                tools[name] = made[config.name, tool] = entry
        self._tools = made
        notes += [
            f"tool {tool!r} of server {server!r} is listed as {names[server, tool]!r}: another one is {plain!r}"
            for (server, tool), plain in displaced.items()
        ]
        return tools


def _check_or_skip(kind: str, raw: Json, override: ToolOverride | None) -> _CheckedEntry:
    try:
        return _check(kind, raw, override)
    except Exception:  # an unforeseen entry must not prevent the listing of all others
        logger.exception("entry of %s could not be read and is left out", kind)
        return _CheckedEntry(raw, None, ("it could not be read and is left out",))


def _list_or_skip(config: ServerConfig, each: _CheckedEntry, name: str, own: str, learned: str) -> ToolEntry | None:
    try:
        entry = list_tool(config, each.given, name, each.entry, learned)
        if own != entry.tool:
            entry = replace(entry, renamed=own, notes=(f"renamed from {said(entry.tool)}", *entry.notes))
        if each.overridden is not None:
            entry = replace(entry, preset=each.overridden.preset, notes=(*each.overridden.notes, *entry.notes))
        return entry
    except Exception:  # see above
        logger.exception("tool %s could not be rewritten and is left out", name)
        return None


def _server_part(
    source: Source, part: str, distinct: int, before: Mapping[tuple[str, int], _CheckedEntry]
) -> Slices[_ServerPart]:
    """Check the entries of one server against MCP's schema, and plan their names."""
    config = source.config
    known: dict[tuple[str, int], _CheckedEntry] = {}
    entries: dict[str, list[_CheckedEntry]] = {}
    remarks: list[str] = []
    for kind, key, listing in source.kinds:
        kept = entries[kind] = []
        for number, raw in enumerate(listing):
            named = raw.get(key)
            if kind == "tools" and isinstance(named, str) and not selected(config, named):
                continue
            each = before.get((kind, id(raw)))
            if each is None or each.raw is not raw:
                override = config.overrides.get(named) if kind == "tools" and isinstance(named, str) else None
                each = _check_or_skip(kind, raw, override)
                yield
            elif number % PAUSE_AFTER == 0:
                yield
            known[kind, id(raw)] = each
            if each.entry is not None:
                kept.append(each)
            label = f"{kind.removesuffix('s')} {said(named, 60) if isinstance(named, str) else '(no name)'}"
            remarks += [f"{label}: {remark}" for remark in each.remarks]
    own, renames = own_names([each.raw["name"] for each in entries["tools"]], config.overrides)
    misfits = [f"server {config.name!r}: {rename}" for rename in renames]
    for each in entries["tools"]:
        if each.overridden is not None:
            label = f"server {config.name!r} has settings for tool {each.raw['name']!r}: "
            misfits += [label + misfit for misfit in each.overridden.misfits]
    tools = ServerNames(config, [own[each.raw["name"]] for each in entries["tools"]])
    prompts = ServerNames(config, [each.raw["name"] for each in entries["prompts"]])
    tool_plan = yield from planning(tools, part, distinct)
    prompt_plan = yield from planning(prompts, part, distinct)
    return _ServerPart(
        source, part, distinct, known, entries, tuple(remarks), own, tuple(misfits), tool_plan, prompt_plan
    )
