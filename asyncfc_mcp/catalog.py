"""What is listed upstream, and where each name leads: tools, prompts, resources of all servers in one catalog.

Owns the upstream form of a tool. Leaves names to `names` and MCP's own schema to `listing_schema`. Does not connect. A
catalog is immutable and made anew whenever a server's listing changes; entries that did not change are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, cast

from asyncfc_mcp.config import Policy, ServerConfig
from asyncfc_mcp.listing_schema import conform, for_handshake
from asyncfc_mcp.loosen import SchemaTooLarge, admit_references
from asyncfc_mcp.names import Handed, Offering, assign, server_parts
from asyncfc_mcp.reserved import add_reserved
from asyncfc_mcp.trim import without_dialect, without_echo

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One server's part of the catalog: its configuration and its raw listings."""

    config: ServerConfig
    tools: Sequence[Json] = ()
    prompts: Sequence[Json] = ()
    resources: Sequence[Json] = ()
    templates: Sequence[Json] = ()


@dataclass(frozen=True)  # without slots, for `cached_property`: every call asks
class ToolEntry:
    """A tool: its name upstream, where it leads, and how it is listed."""

    name: str
    server: str
    tool: str
    """Its name downstream."""
    raw: Json
    """As the server listed it."""
    listed: Json
    """As we list it."""
    policy: Policy
    listed_before: Json | None = None
    """As we list it to clients of before 2026-07-28, where that differs."""
    takes_as: bool = False
    takes_wait: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        annotations = self.raw.get("annotations")
        return annotations if isinstance(annotations, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    @cached_property
    def input_schema(self) -> Json:
        schema = self.raw.get("inputSchema")
        return schema if isinstance(schema, dict) else {"type": "object"}  # pyright: ignore[reportUnknownVariableType]

    @cached_property
    def needs_task(self) -> bool:
        """Whether it can only be called as a task (2025-11-25)."""
        execution: object = self.raw.get("execution")
        return isinstance(execution, dict) and cast("Json", execution).get("taskSupport") == "required"

    @cached_property
    def read_only(self) -> bool:
        return self.annotations.get("readOnlyHint") is True

    @cached_property
    def repeatable(self) -> bool:
        """Whether sending it twice does no more than sending it once, as the server says."""
        return self.read_only or self.annotations.get("idempotentHint") is True


@dataclass(frozen=True, slots=True)
class PromptEntry:
    name: str
    server: str
    prompt: str
    listed: Json


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is listed. Immutable: a change makes a new one."""

    tools: Mapping[str, ToolEntry] = field(default_factory=dict[str, ToolEntry])
    prompts: Mapping[str, PromptEntry] = field(default_factory=dict[str, PromptEntry])
    resources: Mapping[str, tuple[str, Json]] = field(default_factory=dict[str, tuple[str, Json]])
    """URI → its server and its listing; of servers that offer the same URI the first of the config has it."""
    templates: Mapping[str, tuple[str, Json]] = field(default_factory=dict[str, tuple[str, Json]])
    notes: tuple[str, ...] = ()
    """Remarks for `inspect`: shared names and URIs, sections of tools that do not exist."""
    mended: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Server → remarks on entries of its listings that MCP's schema does not admit as they are."""
    servers: tuple[ServerConfig, ...] = ()

    def tool_list(self, *, modern: bool = True) -> list[Json]:
        """The tools as they are listed, to clients of 2026-07-28 or of before."""
        if modern:
            return [entry.listed for entry in self.tools.values()]
        return [entry.listed_before or entry.listed for entry in self.tools.values()]

    def part(self, kind: str) -> list[Any]:
        """Everything of one kind of listing, in order, to be compared."""
        parts: dict[str, Iterable[Any]] = {
            "tools": self.tools.values(),
            "prompts": self.prompts.values(),
            "resources": self.resources.values(),
            "resourceTemplates": self.templates.values(),
        }
        return list(parts[kind])

    def shortened(self, limit: int, handed: Handed) -> dict[str, str]:
        """Names of tools that are longer than `limit` → names that are not, and that no other tool has."""
        long = [entry for entry in self.tools.values() if len(entry.name) > limit]
        if not long:
            return {}
        held = {name: (entry.server, entry.tool) for name, entry in self.tools.items() if len(name) <= limit}
        for alias, name in handed.aliases.items():
            if len(alias) <= limit and name in self.tools:
                held[alias] = (self.tools[name].server, self.tools[name].tool)
        offerings = [
            Offering(replace(config, keep_names=False), [entry.tool for entry in long if entry.server == config.name])
            for config in self.servers
        ]
        reserved = handed.reserved | handed.aliases.keys() | handed.tools.keys()
        names, _ = assign(offerings, server_parts(self.servers), reserved=reserved, held=held, limit=limit)
        return {entry.name: names[entry.server, entry.tool] for entry in long}


def selected(config: ServerConfig, tool: str) -> bool:
    """Whether the server's `include` and `exclude` globs let a tool through."""
    if config.include and not any(fnmatchcase(tool, glob) for glob in config.include):
        return False
    return not any(fnmatchcase(tool, glob) for glob in config.exclude)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """An input schema as it is listed, but for a title that says the tool's name again."""

    schema: Json
    skipped: tuple[str, ...]
    """Those of our arguments that it does not have."""
    remarks: tuple[str, ...]


def _rewritten(policy: Policy, schema: Json, *, read_only: bool) -> _Rewritten:
    schema = without_dialect(schema)
    remarks: tuple[str, ...] = ()
    if policy.references == "all" or (policy.references == "read-only" and read_only):
        try:
            schema = admit_references(schema)
        except SchemaTooLarge:
            remarks = ("its input schema is too large to be rewritten; it is listed as it is, and takes no references",)
    return _Rewritten(*add_reserved(schema, as_=policy.names, wait=policy.wait), remarks)


def list_tool(
    config: ServerConfig, raw: Json, name: str, conforming: Json | None = None, rewritten: _Rewritten | None = None
) -> ToolEntry:
    """A tool as it is listed upstream: the server's own words, less what a handle would not satisfy.

    `title`, `annotations`, `icons`, `_meta` and fields we do not know are kept. `outputSchema` is not (the handle is
    no such output), nor `execution` (the task support that it announces is the server's, not ours). A `sync` tool
    answers with the real result, so it is listed as it is.

    Args:
        conforming: the tool as MCP's schema has it, if that is not `raw`.
        rewritten: its input schema, if that has been rewritten before.
    """
    tool = str(raw.get("name"))
    policy = config.policy(tool)
    listed: Json = {**(raw if conforming is None else conforming), "name": name}
    listed.pop("execution", None)
    if policy.mode == "sync":
        before = for_handshake(listed)
        return ToolEntry(name, config.name, tool, raw, listed, policy, None if before is listed else before)
    listed.pop("outputSchema", None)
    entry = ToolEntry(name, config.name, tool, raw, listed, policy)
    if rewritten is None:
        rewritten = _rewritten(policy, listed["inputSchema"], read_only=entry.read_only)
    # The name as listed: one that was cut short may have lost what the title still says.
    listed["inputSchema"] = without_echo(rewritten.schema, name)
    notes = rewritten.remarks + tuple(f"{arg} is the tool's own argument; ours is off" for arg in rewritten.skipped)
    return ToolEntry(
        name,
        config.name,
        tool,
        raw,
        listed,
        policy,
        takes_as=policy.names and "_as" not in rewritten.skipped,
        takes_wait=policy.wait and "_wait" not in rewritten.skipped,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Conforming:
    """A raw entry, held to MCP's schema once."""

    raw: Json
    entry: Json | None
    remarks: tuple[str, ...]
    rewritten: _Rewritten | None = None
    """The input schema of a tool that was prepared."""


class CatalogBuilder:
    """Makes catalogs of the same servers, and does for each raw entry once what depends on it alone.

    An entry is the same as long as it is the same object (see `listing.kept`).
    """

    def __init__(self) -> None:
        self._conforming: dict[tuple[str, int], _Conforming] = {}
        self._tools: dict[tuple[str, str], ToolEntry] = {}
        self._prepared: dict[tuple[str, str], dict[int, _Conforming]] = {}
        """Server and kind → entries that are to be listed soon, by identity."""

    def begin(self, server: str, kind: str) -> None:
        """Forget what was prepared of this listing before."""
        self._prepared[server, kind] = {}

    def prepare(self, config: ServerConfig, kind: str, raw: Json) -> ToolEntry | None:
        """Do for a new entry what depends on it alone, so that `build` finds it done: most of the work for a listing.

        Returns:
            A tool, under its own name; None for everything else and for what will not be listed.
        """
        tool = raw.get("name")
        if kind == "tools" and not (isinstance(tool, str) and selected(config, tool)):
            return None
        each = _Conforming(raw, *conform(kind, raw))
        found: ToolEntry | None = None
        if kind == "tools" and each.entry is not None and isinstance(tool, str):
            policy = config.policy(tool)
            if policy.mode != "sync":
                read_only = ToolEntry(tool, config.name, tool, raw, raw, policy).read_only
                each = replace(each, rewritten=_rewritten(policy, each.entry["inputSchema"], read_only=read_only))
            found = list_tool(config, raw, tool, each.entry, each.rewritten)
        self._prepared[config.name, kind][id(raw)] = each
        return found

    def build(self, sources: Iterable[Source], handed: Handed | None = None) -> Catalog:
        """The catalog of these servers, in the order of the config and, within a server, in its own order."""
        sources, handed = list(sources), handed or Handed()
        known, self._conforming = self._conforming, {}
        mended: dict[str, tuple[str, ...]] = {}
        notes: list[str] = []
        fitting = {source.config.name: self._held_to_schema(source, known, mended) for source in sources}
        parts = server_parts(source.config for source in sources)
        tools = self._list_tools(sources, fitting, parts, handed, notes)
        prompts: dict[str, PromptEntry] = {}
        resources: dict[str, tuple[str, Json]] = {}
        templates: dict[str, tuple[str, Json]] = {}
        names, _ = assign(
            [Offering(s.config, [p.raw["name"] for p in fitting[s.config.name]["prompts"]]) for s in sources],
            parts,
            held=handed.prompts,
        )
        for source in sources:
            server = source.config.name
            if source.tools:
                offered = {each.raw["name"] for each in fitting[server]["tools"]}
                notes += [
                    f"server {server!r} has settings for tool {tool!r}, which it does not offer"
                    for tool in source.config.tool_names
                    if tool not in offered
                ]
            for each in fitting[server]["prompts"]:
                assert each.entry is not None
                prompt = each.raw["name"]
                name = names[server, prompt]
                if name in prompts:
                    notes.append(f"server {server!r} offers the prompt {prompt!r} twice; the first is listed")
                    continue
                prompts[name] = PromptEntry(name, server, prompt, {**each.entry, "name": name})
            for uris, key, kind in ((resources, "uri", "resources"), (templates, "uriTemplate", "resourceTemplates")):
                for each in fitting[server][kind]:
                    assert each.entry is not None
                    uri = each.entry[key]
                    if uri in uris:
                        if uris[uri][0] != server:
                            notes.append(f"{uri} is offered by {uris[uri][0]!r} and {server!r}; the first serves it")
                        continue
                    uris[uri] = (server, each.entry)
        notes += [f"server {server!r}: {remark}" for server, remarks in mended.items() for remark in remarks]
        configs = tuple(source.config for source in sources)
        return Catalog(tools, prompts, resources, templates, tuple(notes), mended, configs)

    def _held_to_schema(
        self,
        source: Source,
        known: Mapping[tuple[str, int], _Conforming],
        mended: dict[str, tuple[str, ...]],
    ) -> dict[str, list[_Conforming]]:
        """The entries of one server that can be listed, by kind."""
        fitting: dict[str, list[_Conforming]] = {}
        remarks: list[str] = []
        listings = (
            ("tools", "name", source.tools),
            ("prompts", "name", source.prompts),
            ("resources", "uri", source.resources),
            ("resourceTemplates", "uriTemplate", source.templates),
        )
        for kind, key, entries in listings:
            kept = fitting[kind] = []
            for raw in entries:
                named = raw.get(key)
                if kind == "tools" and isinstance(named, str) and not selected(source.config, named):
                    continue
                each = known.get((kind, id(raw))) or self._prepared.get((source.config.name, kind), {}).get(id(raw))
                if each is None or each.raw is not raw:
                    each = _Conforming(raw, *conform(kind, raw))
                self._conforming[kind, id(raw)] = each
                if each.entry is not None:
                    kept.append(each)
                label = f"{kind.removesuffix('s')} {named if isinstance(named, str) else '(no name)':.60}"
                remarks += [f"{label}: {remark}" for remark in each.remarks]
        if remarks:
            mended[source.config.name] = tuple(remarks)
        return fitting

    def _list_tools(
        self,
        sources: Sequence[Source],
        fitting: Mapping[str, Mapping[str, Sequence[_Conforming]]],
        parts: Mapping[str, str],
        handed: Handed,
        notes: list[str],
    ) -> dict[str, ToolEntry]:
        offerings = [
            Offering(s.config, [each.raw["name"] for each in fitting[s.config.name]["tools"]]) for s in sources
        ]
        names, displaced = assign(offerings, parts, reserved=handed.reserved | handed.aliases.keys(), held=handed.tools)
        tools: dict[str, ToolEntry] = {}
        before, self._tools = self._tools, {}
        for source in sources:
            config = source.config
            for each in fitting[config.name]["tools"]:
                tool = each.raw["name"]
                name = names[config.name, tool]
                if name in tools:
                    notes.append(f"server {config.name!r} offers {tool!r} twice; the first is listed")
                    continue
                entry = before.get((config.name, tool))
                if entry is None or entry.raw is not each.raw or entry.name != name:
                    entry = list_tool(config, each.raw, name, each.entry, each.rewritten)
                tools[name] = self._tools[config.name, tool] = entry
        notes += [
            f"tool {tool!r} of server {server!r} is listed as {names[server, tool]!r}: another one is {plain!r}"
            for (server, tool), plain in displaced.items()
        ]
        return tools
