"""Catalog: tools, prompts and resources of all servers as they are listed upstream, and the server of each.

Owns the upstream form of a tool. Catalogs are immutable; `catalog_builder` builds a new one after each change of a
server's listing. Names belong to `names`, and MCP's own schema to `listing_schema`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final, cast

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.declared_shapes import declared_shape
from asyncfc_mcp.core.listing_schema import for_handshake
from asyncfc_mcp.core.names import (
    PublishedNames,
    ServerNames,
    assign,
    server_parts,
)
from asyncfc_mcp.core.overridden_tools import Preset
from asyncfc_mcp.core.shapes import described
from asyncfc_mcp.schema.loosen import SchemaTooLarge, admit_references
from asyncfc_mcp.schema.reserved import RESERVED, add_reserved, without_types
from asyncfc_mcp.schema.trim import without_dialect, without_echo

logger = logging.getLogger(__name__)

_COMBINATIONS: Final = frozenset({"allOf", "anyOf", "oneOf"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Configuration and raw listings of one server."""

    config: ServerConfig
    tools: Sequence[Json] = ()
    prompts: Sequence[Json] = ()
    resources: Sequence[Json] = ()
    templates: Sequence[Json] = ()
    shapes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tool → description of its results, as learned from earlier ones."""

    @property
    def kinds(self) -> Sequence[tuple[str, str, Sequence[Json]]]:
        """Kind, the field that identifies its entries, and the entries."""
        return (
            ("tools", "name", self.tools),
            ("prompts", "name", self.prompts),
            ("resources", "uri", self.resources),
            ("resourceTemplates", "uriTemplate", self.templates),
        )


@dataclass(frozen=True)  # no slots, for `cached_property`: read in every call
class ToolEntry:
    """Tool of a server, with its upstream name and listing."""

    name: str
    server: str
    tool: str
    """Name at its server."""
    raw: Json
    """Entry in the server's listing."""
    listed: Json
    """Entry in the upstream listing."""
    policy: Policy
    listed_for_handshake: Json | None = None
    """Entry in the upstream listing for clients of versions before 2026-07-28, where it differs."""
    takes_as: bool = False
    takes_after: bool = False
    takes_wait: bool = False
    renamed: str | None = None
    """Name in place of the server's own, without the server's part of the listed name."""
    preset: Preset | None = None
    """Arguments from the configuration, which are put in when a call is sent."""
    learned: str = ""
    """Description of earlier results that was at hand."""
    returns: str = ""
    """Description of the results in the listing, such as `Returns {id, name}`; empty if there is none."""
    returns_from: str = ""
    """Origin of that: `outputSchema` or `earlier results`."""
    notes: tuple[str, ...] = ()

    @property
    def own_name(self) -> str:
        """The name that is listed, without the server's part and before it is mapped or shortened."""
        return self.tool if self.renamed is None else self.renamed

    @cached_property
    def listed_untyped(self) -> Json:
        """Entry in the upstream listing for hosts to which the bridge's own arguments need no type."""
        taken = zip(RESERVED, (self.takes_as, self.takes_after, self.takes_wait), strict=True)
        names = [name for name, takes in taken if takes]
        if not names or self.policy.mode == "sync":
            return self.listed
        return {**self.listed, "inputSchema": without_types(self.listed["inputSchema"], names)}

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
        """True where the tool can only be called as a task (2025-11-25)."""
        execution: object = self.raw.get("execution")
        return isinstance(execution, dict) and cast("Json", execution).get("taskSupport") == "required"

    @cached_property
    def read_only(self) -> bool:
        return self.annotations.get("readOnlyHint") is True

    @cached_property
    def repeatable(self) -> bool:
        """True where a repeated call has no further effect, according to the server's annotations."""
        return self.read_only or self.annotations.get("idempotentHint") is True


@dataclass(frozen=True, slots=True)
class PromptEntry:
    name: str
    server: str
    prompt: str
    listed: Json


@dataclass(frozen=True, slots=True)
class Catalog:
    """Upstream listings of all kinds. Immutable."""

    tools: Mapping[str, ToolEntry] = field(default_factory=dict[str, ToolEntry])
    prompts: Mapping[str, PromptEntry] = field(default_factory=dict[str, PromptEntry])
    resources: Mapping[str, tuple[str, Json]] = field(default_factory=dict[str, tuple[str, Json]])
    """URI → its server and its entry; a URI of several servers belongs to the first one in the config."""
    templates: Mapping[str, tuple[str, Json]] = field(default_factory=dict[str, tuple[str, Json]])
    offered_again: tuple[tuple[str, str, str, Json], ...] = ()
    """Kind, URI, server and entry of resources and templates whose URI belongs to an earlier server: they are those of
    who may not use that one."""
    notes: tuple[str, ...] = ()
    """Notes for `inspect`: equal names and URIs, settings of tools that do not exist."""
    repairs: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Server → remarks on entries of its listings that violate MCP's schema."""
    servers: tuple[ServerConfig, ...] = ()
    misfits: tuple[str, ...] = ()
    """Those of the notes that are on settings which do not apply to what is listed."""

    def tool_list(self, *, modern: bool = True, untyped: bool = False) -> list[Json]:
        """Return the listing of tools, for clients of 2026-07-28 or of earlier versions.

        Args:
            untyped: the host takes arguments without a type (`HostProfile.untyped_arguments`).
        """
        entries = self.tools.values()
        if modern:
            return [entry.listed_untyped if untyped else entry.listed for entry in entries]
        return [entry.listed_for_handshake or (entry.listed_untyped if untyped else entry.listed) for entry in entries]

    def entries(self, kind: str) -> list[Any]:
        """Return all entries of one kind of listing, in order, for comparison."""
        entries: dict[str, Iterable[Any]] = {
            "tools": self.tools.values(),
            "prompts": self.prompts.values(),
            "resources": self.resources.values(),
            "resourceTemplates": self.templates.values(),
        }
        return list(entries[kind])

    def part(self, allows: Callable[[str, str], bool], serves: Callable[[str], bool]) -> "Catalog":
        """Return the part that some principals may see.

        Args:
            allows: returns true for a server and the own name of a tool of it that they may use.
            serves: returns true for a server that they may use as a whole.
        """
        servers = {config.name: serves(config.name) for config in self.servers}
        resources = {uri: entry for uri, entry in self.resources.items() if servers.get(entry[0])}
        templates = {uri: entry for uri, entry in self.templates.items() if servers.get(entry[0])}
        for kind, uri, server, entry in self.offered_again:
            if servers.get(server):
                (resources if kind == "resources" else templates).setdefault(uri, (server, entry))
        return replace(
            self,
            tools={name: entry for name, entry in self.tools.items() if allows(entry.server, entry.tool)},
            prompts={name: entry for name, entry in self.prompts.items() if servers.get(entry.server)},
            resources=resources,
            templates=templates,
        )

    def short_names(self, limit: int, published: PublishedNames) -> dict[str, str]:
        """Return a unique name of at most `limit` characters for each tool with a longer one."""
        long = [entry for entry in self.tools.values() if len(entry.name) > limit]
        if not long:
            return {}
        held = {name: (entry.server, entry.own_name) for name, entry in self.tools.items() if len(name) <= limit}
        for alias, name in published.aliases.items():
            if len(alias) <= limit and name in self.tools:
                held[alias] = (self.tools[name].server, self.tools[name].own_name)
        server_names = [
            ServerNames(
                replace(config, keep_names=False), [entry.own_name for entry in long if entry.server == config.name]
            )
            for config in self.servers
        ]
        reserved = published.reserved | published.aliases.keys() | published.tools.keys()
        names, _ = assign(server_names, server_parts(self.servers), reserved=reserved, held=held, limit=limit)
        return {entry.name: names[entry.server, entry.own_name] for entry in long}


def selected(config: ServerConfig, tool: str) -> bool:
    """Return true where the server's `include` and `exclude` globs admit a tool."""
    if config.include and not any(fnmatchcase(tool, glob) for glob in config.include):
        return False
    return not any(fnmatchcase(tool, glob) for glob in config.exclude)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """Input schema for the upstream listing, before titles that repeat the tool's name are removed."""

    schema: Json
    skipped: tuple[str, ...]
    """Arguments of the bridge that were not added."""
    remarks: tuple[str, ...]


def _rewritten(policy: Policy, schema: Json, *, read_only: bool) -> _Rewritten:
    schema = without_dialect(schema)
    remarks: tuple[str, ...] = ()
    if policy.references == "all" or (policy.references == "read-only" and read_only):
        try:
            admitting = admit_references(schema)
            if schema.keys() & _COMBINATIONS and not admitting.keys() & _COMBINATIONS:
                remarks = ("the alternatives at the root of its input schema are listed as one object",)
            schema = admitting
        except SchemaTooLarge:
            remarks = ("its input schema is too large to be rewritten; it is listed as it is, and takes no references",)
    return _Rewritten(*add_reserved(schema, as_=policy.names, after=policy.names, wait=policy.wait), remarks)


def _returns(policy: Policy, raw: Json, learned: str) -> tuple[str, str]:
    """Return the description of a tool's results, and its origin; both empty if there is none."""
    if policy.shapes == "off":
        return "", ""
    if declared := described(declared_shape(raw.get("outputSchema"))):
        return declared, "outputSchema"
    return (learned, "earlier results") if learned and policy.shapes == "learned" else ("", "")


def list_tool(
    config: ServerConfig, raw: Json, name: str, conforming: Json | None = None, learned: str = ""
) -> ToolEntry:
    """Return the upstream entry of a tool: the server's own, without fields that a handle does not satisfy, and with
    the shape of its results in its description.

    `title`, `annotations`, `icons`, `_meta` and unknown fields are kept. `outputSchema` is removed (a handle is no such
    output), and so is `execution` (it announces the task support of the server, not of the bridge). A `sync` tool
    returns the real result, so its entry is unchanged.

    Args:
        conforming: the entry according to MCP's schema, where it differs from `raw`.
        learned: description of earlier results.
    """
    tool = str(raw.get("name"))
    policy = config.policy(tool)
    listed: Json = {**(raw if conforming is None else conforming), "name": name}
    listed.pop("execution", None)
    if policy.mode == "sync":
        before = for_handshake(listed)
        # Accepted where it cannot be the tool's own, though not listed.
        takes_after = policy.names and not add_reserved(listed["inputSchema"], as_=False, after=True, wait=False)[1]
        same = None if before is listed else before
        return ToolEntry(name, config.name, tool, raw, listed, policy, same, takes_after=takes_after, learned=learned)
    listed.pop("outputSchema", None)
    returns, returns_from = _returns(policy, raw, learned)
    if returns:
        listed["description"] = f"{listed.get('description') or ''}\n{returns}".lstrip("\n")
    entry = ToolEntry(name, config.name, tool, raw, listed, policy)
    rewritten = _rewritten(policy, listed["inputSchema"], read_only=entry.read_only)
    # The listed name: a shortened one may lack words that the title contains.
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
        takes_after=policy.names and "_after" not in rewritten.skipped,
        takes_wait=policy.wait and "_wait" not in rewritten.skipped,
        learned=learned,
        returns=returns,
        returns_from=returns_from,
        notes=notes,
    )
