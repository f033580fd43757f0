"""What is listed upstream, and where each name leads: tools, prompts, resources of all servers in one catalog.

Owns names (prefix, the hosts' limits, collisions) and the upstream form of a tool. Refuses to connect or to cache;
it is built anew, whole, whenever a server's listing changes.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final, cast

from asyncfc_mcp.config import Policy, ServerConfig
from asyncfc_mcp.errors import NameCollision
from asyncfc_mcp.loosen import admit_references
from asyncfc_mcp.reserved import add_reserved
from asyncfc_mcp.trim import without_dialect, without_echo

HOST_PREFIX: Final = "mcp__asyncfc__"
"""What hosts put before a tool's name, with this program under the name that the README gives it."""
NAME_LIMIT: Final = 63 - len(HOST_PREFIX)
"""The longest name that fits where the host allows 63 characters with its own prefix."""

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
    collisions: tuple[NameCollision, ...] = ()
    """Tools and prompts that are not listed because an earlier one has their name."""
    notes: tuple[str, ...] = ()
    """Remarks for `inspect`: shared URIs, sections of tools that do not exist."""

    def tool_list(self) -> list[Json]:
        return [entry.listed for entry in self.tools.values()]


def upstream_name(prefix: str, name: str, limit: int = NAME_LIMIT) -> str:
    """The name under which something is listed: `[A-Za-z0-9_]`, at most `limit` characters, always the same.

    What is too long keeps its beginning and gets eight digits of a hash of the whole, so two long names that begin
    alike stay apart.
    """
    whole = prefix + name
    mapped = re.sub(r"[^A-Za-z0-9_]", "_", whole)
    if len(mapped) <= limit:
        return mapped
    return f"{mapped[: limit - 9]}_{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def selected(config: ServerConfig, tool: str) -> bool:
    """Whether the server's `include` and `exclude` globs let a tool through."""
    if config.include and not any(fnmatchcase(tool, glob) for glob in config.include):
        return False
    return not any(fnmatchcase(tool, glob) for glob in config.exclude)


def _name(config: ServerConfig, name: str) -> str:
    prefix = f"{config.name}__" if config.prefix is None else config.prefix
    return prefix + name if config.keep_names else upstream_name(prefix, name)


def list_tool(config: ServerConfig, raw: Json) -> ToolEntry:
    """A tool as it is listed upstream: the server's own words, less what a handle would not satisfy.

    `title`, `annotations`, `icons`, `_meta` and fields we do not know are kept. `outputSchema` is not (the handle is
    no such output), nor `execution` (the task support that it announces is the server's, not ours). A `sync` tool
    answers with the real result, so it is listed as it is.
    """
    tool = str(raw.get("name"))
    policy = config.policy(tool)
    name = _name(config, tool)
    listed: Json = {**raw, "name": name}
    if policy.mode == "sync":
        listed.pop("execution", None)
        return ToolEntry(name, config.name, tool, raw, listed, policy)
    listed.pop("outputSchema", None)
    listed.pop("execution", None)
    entry = ToolEntry(name, config.name, tool, raw, listed, policy)
    schema: Json = without_dialect(entry.input_schema)
    if policy.references == "all" or (policy.references == "read-only" and entry.read_only):
        schema = admit_references(schema)
    schema, skipped = add_reserved(schema, as_=policy.names, wait=policy.wait)
    # The name as listed: one that was cut short may have lost what the title still says.
    listed["inputSchema"] = without_echo(schema, name)
    notes = tuple(f"{arg} is the tool's own argument; ours is off" for arg in skipped)
    return ToolEntry(
        name,
        config.name,
        tool,
        raw,
        listed,
        policy,
        takes_as=policy.names and "_as" not in skipped,
        takes_wait=policy.wait and "_wait" not in skipped,
        notes=notes,
    )


def build(sources: Iterable[Source], reserved: Iterable[str] = (), held: Mapping[str, str] | None = None) -> Catalog:
    """The catalog of these servers, in the order of the config and, within a server, in its own order.

    Args:
        reserved: names that are taken already (the meta-tools).
        held: names that tools have at this moment → their servers, which keep them as long as they offer them.
    """
    sources = list(sources)
    held = held or {}
    names = {
        source.config.name: {_name(source.config, str(raw.get("name"))) for raw in source.tools}
        for source in (sources if held else ())
    }
    tools: dict[str, ToolEntry] = {}
    prompts: dict[str, PromptEntry] = {}
    resources: dict[str, tuple[str, Json]] = {}
    templates: dict[str, tuple[str, Json]] = {}
    collisions: list[NameCollision] = []
    notes: list[str] = []
    taken = {name: f"the bridge's own tool {name}" for name in reserved}
    for source in sources:
        config = source.config
        seen: set[str] = set()
        for raw in source.tools:
            tool = raw.get("name")
            if not isinstance(tool, str) or not selected(config, tool):
                continue
            entry = list_tool(config, raw)
            if entry.name in tools and tools[entry.name].server == config.name:
                first = tools[entry.name].tool
                notes.append(
                    f"server {config.name!r} offers {first!r} and {tool!r} as {entry.name!r}; the first is listed"
                )
                continue
            keeper = held.get(entry.name, config.name)
            if keeper != config.name and entry.name in names.get(keeper, ()):
                # Whoever has a name keeps it: a server must not take over another's calls by offering its tools, too.
                collisions.append(NameCollision(entry.name, f"{keeper}'s tool", f"{config.name}.{tool}"))
                continue
            holder = taken.setdefault(entry.name, f"{config.name}.{tool}")
            if holder != f"{config.name}.{tool}":
                collisions.append(NameCollision(entry.name, holder, f"{config.name}.{tool}"))
                continue
            tools[entry.name] = entry
            seen.add(tool)
        if source.tools:
            notes += [
                f"server {config.name!r} has settings for tool {tool!r}, which it does not offer"
                for tool in config.tool_names
                if tool not in seen
            ]
        for raw in source.prompts:
            prompt = str(raw.get("name"))
            name = _name(config, prompt)
            if name in prompts:
                holder = prompts[name]
                if holder.server == config.name:
                    notes.append(f"server {config.name!r} offers two prompts as {name!r}; the first is listed")
                    continue
                collisions.append(
                    NameCollision(name, f"prompt {holder.server}.{holder.prompt}", f"prompt {config.name}.{prompt}")
                )
                continue
            prompts[name] = PromptEntry(name, config.name, prompt, {**raw, "name": name})
        for uris, key, listing in ((resources, "uri", source.resources), (templates, "uriTemplate", source.templates)):
            for raw in listing:
                uri = str(raw.get(key))
                if uri in uris:
                    if uris[uri][0] != config.name:
                        notes.append(f"{uri} is offered by {uris[uri][0]!r} and {config.name!r}; the first serves it")
                    continue
                uris[uri] = (config.name, raw)
    return Catalog(tools, prompts, resources, templates, tuple(collisions), tuple(notes))


def template_matches(template: str, uri: str) -> bool:
    """Whether a URI could have come from an RFC 6570 template; generous, since the server has the last word."""
    first, *rest = re.split(r"\{[^}]*\}", template)
    if not rest:
        return uri == template
    # Literal after literal, each at its first place: a regex with many gaps would try them all.
    at = len(first)
    for literal in rest[:-1]:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return uri.startswith(first) and uri.endswith(rest[-1]) and len(uri) - len(rest[-1]) >= at
