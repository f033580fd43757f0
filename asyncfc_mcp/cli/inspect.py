"""`asyncfc-mcp inspect`: a report on servers, tools, effects and limits, as text or JSON.

Connects to every server once, prints, and exits. Owns the text of that output; decides nothing.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import anyio
import anyio.to_thread
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.idleness import idle_limit_s
from asyncfc_mcp.bridge.server_profiles import ServerProfiles
from asyncfc_mcp.bridge.sharing import sharing_of, words_of
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.cli import explanation, journal_report
from asyncfc_mcp.cli.explanation import known_from, unbound
from asyncfc_mcp.cli.sign_in_report import credentials_of, described
from asyncfc_mcp.config.caller_headers import uses_callers
from asyncfc_mcp.config.model import ANY_OWNER, AUTO_OWNER, BridgeConfig, ServerConfig
from asyncfc_mcp.config.replicas import replica_name
from asyncfc_mcp.config.settings import EMBEDDED, Settings
from asyncfc_mcp.core.effect_profiles import EffectProfile
from asyncfc_mcp.core.effects import conflict
from asyncfc_mcp.downstream.oauth.store import CredentialStore
from asyncfc_mcp.downstream.snapshot import LISTINGS
from asyncfc_mcp.errors import BridgeError, SignInNeeded, nearest
from asyncfc_mcp.quotation import for_terminal, one_line
from asyncfc_mcp.redaction import HIDDEN
from asyncfc_mcp.upstream.instructions import InstructionsFor, uri_of_docs
from asyncfc_mcp.upstream.metatools import METATOOLS

CONNECT_S: Final = 60.0
"""Timeout for the servers to start, in seconds."""
LISTINGS_S: Final = 10.0
"""Timeout for the listings other than tools of servers that are up, in seconds."""
WIDE: Final = 120
"""Minimum width in columns of the full table; a narrower terminal gets names and effects only."""


class UnknownSubject(BridgeError):
    """No server or tool has the requested name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        close = nearest(name, known)
        hint = f"did you mean {', '.join(close)}?" if close else f"known names: {', '.join(known[:20])}"
        super().__init__(f"unknown server or tool {name!r}; {hint}")


def _conflicts(name: str, routes: Mapping[str, ToolRoute]) -> list[str]:
    mine = unbound(routes[name])
    return [other for other, route in routes.items() if conflict(mine, unbound(route)) is not None]


def _touches(route: ToolRoute) -> str:
    """Return the effect as one of `KINDS`, by which a server's tools are counted."""
    effect = route.effect
    if effect.source == "barrier":
        return "act as barriers"
    if effect.source == "profile" and any(path.covers_root for path in effect.writes):
        return "write everything"
    if effect.writes:
        return "write declared paths" if effect.source in ("config", "profile") else "write everything"
    if effect.reads:
        return "read"
    return {"config": "touch nothing", "profile": "touch nothing", "off": "are not ordered"}.get(
        effect.source, "declare nothing"
    )


def _limits(route: ToolRoute, server_limit: int | None) -> dict[str, Any]:
    policy = route.entry.policy
    return {
        "max_concurrency": policy.max_concurrency,
        "server_max_concurrency": server_limit,
        "timeout_s": policy.timeout_s,
        "grace_ms": policy.grace_ms,
        "retries": policy.retries if route.entry.repeatable else 0,
        "single_flight": policy.single_flight and route.entry.read_only,
        "on_failure": policy.on_failure if route.effect.source == "config" else "continue",
        "references": policy.references,
        "names": route.entry.takes_as,
        "after": route.entry.takes_after,
        "wait": route.entry.takes_wait,
        "shapes": policy.shapes,
        "max_message_bytes": policy.max_message_bytes,
        "max_argument_bytes": policy.max_argument_bytes,
        "journal": policy.journal,
        "rerun_interrupted": policy.rerun_interrupted and route.entry.repeatable,
    }


def report(
    bridge: Bridge,
    journal: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the whole report as JSON values.

    Args:
        journal: figures of the journal; None if it is off.
        credentials: server at a URL → its credentials (`sign_in_report`).
    """
    credentials = credentials or {}
    routes = {name: bridge.directory.route(name) for name in bridge.directory.catalog.tools}
    profiles = bridge.directory.profiles()
    known = ServerProfiles()
    tools: list[dict[str, Any]] = []
    for name, route in routes.items():
        entry = route.entry
        against = _conflicts(name, routes)
        tools.append(
            {
                "name": name,
                "server": entry.server,
                "tool": entry.tool,
                "mode": entry.policy.mode,
                "effect": route.effect.describe(),
                "touches": _touches(route),
                "effect_from": known_from(route.effect),
                "effect_source": route.effect.source,
                "in_turn_with": against,
                "returns": entry.returns.removeprefix("Returns "),
                "returns_from": entry.returns_from,
                "limits": _limits(route, bridge.downstreams[entry.server].config.limit),
                "notes": list(entry.notes),
            }
        )
    servers: list[dict[str, Any]] = [
        {
            "name": name,
            "status": downstream.status.value,
            "reason": downstream.reason,
            "protocol": downstream.snapshot.protocol_version,
            "profile": profile.name if (profile := profiles[name]) is not None else None,
            "tools": sum(tool["server"] == name for tool in tools),
            "prompts": sum(prompt.server == name for prompt in bridge.directory.catalog.prompts.values()),
            "resources": sum(server == name for server, _ in bridge.directory.catalog.resources.values()),
            "start": downstream.config.start,
            "idle_s": idle_limit_s(downstream.config, profile) if downstream.config.is_lazy(daemon=True) else None,
            "share": _sharing(downstream.config, profile, known),
            "credentials": _credentials(credentials.get(name), name, downstream.status.value),
        }
        for name, downstream in bridge.downstreams.items()
    ]
    servers += [
        {"name": it.name, "status": "misconfigured", "reason": it.reason, "protocol": "", "profile": None,
         "tools": 0, "prompts": 0, "resources": 0, "start": None, "idle_s": None, "share": None, "credentials": None}
        for it in bridge.config.unusable
    ]  # fmt: skip
    servers += [
        {"name": each.name, "status": PER_CALLER, "reason": "", "protocol": "", "profile": None,
         "tools": 0, "prompts": 0, "resources": 0, "start": None, "idle_s": None, "share": None,
         "credentials": _credentials(credentials.get(each.name), each.name, PER_CALLER)}
        for each in bridge.config.servers
        if uses_callers(each)
    ]  # fmt: skip
    instructions = InstructionsFor(bridge).host(bridge.views.everything, None)
    cut = [f"the instructions of server {name!r} are cut; whole: {uri_of_docs(name)}" for name in instructions.cut]
    return {
        "source": bridge.config.source,
        "servers": servers,
        "tools": tools,
        "prompts": [
            {"name": prompt.name, "server": prompt.server, "prompt": prompt.prompt}
            for prompt in bridge.directory.catalog.prompts.values()
        ],
        "meta_tools": list(METATOOLS),
        "instructions": instructions.text,
        "engine": _engine(bridge.config),
        "journal": None if journal is None else dict(journal),
        "settings": _settings(bridge.settings),
        "warnings": list(bridge.config.warnings),
        "notes": [*bridge.directory.notes(), *cut],
    }


def _sharing(server: ServerConfig, profile: EffectProfile | None, known: ServerProfiles) -> dict[str, str]:
    """Return how a daemon's sessions share a server, and the reason (`for`)."""
    sharing = sharing_of(server, profile or known.expect(server.base.profile, words_of(server)))
    return {"instances": "session" if sharing.per_session else "user", "for": sharing.reason}


def _credentials(facts: Mapping[str, Any] | None, name: str, status: str) -> dict[str, Any] | None:
    """Return what is known of a server's credentials, with a text; None for a process."""
    if facts is None:
        return None
    return {**facts, "text": described(facts, status, SignInNeeded(name).command)}


def _engine(config: BridgeConfig) -> dict[str, Any]:
    """Return the engine for display, and where replicas run the servers."""
    settings = config.settings
    if settings.engine == EMBEDDED:
        return {"kind": EMBEDDED}
    return {
        "kind": "postgres",
        "url": settings.shown_engine,
        "replica": replica_name(settings),
        "common_secret": settings.secret is not None,
        "owners": {server.name: server.runs_at for server in config.servers},
    }


def _settings(settings: Settings) -> dict[str, Any]:
    """Return all settings but secrets."""
    shown = {key: _plain(value) for key, value in asdict(settings).items()}
    return shown | {"engine": settings.shown_engine, "secret": None if settings.secret is None else HIDDEN}


def _plain(value: Any) -> Any:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def _few(names: Sequence[str], total: int) -> str:
    if not names:
        return "nothing"
    if len(names) == total:
        return "everything"
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


PER_CALLER: Final = "connected for each caller, with headers of its requests"
"""Status of a server that gets credentials of callers: there is no caller here."""
KINDS: Final = (
    "read", "act as barriers", "write everything", "write declared paths", "touch nothing", "declare nothing",
    "are not ordered",
)  # fmt: skip
"""Values of `_touches`, in the order of a summary."""
ORIGINS: Final[Mapping[str, str]] = {
    "annotation": "annotations",
    "barrier": "",
    "strict": 'ordering "strict"',
    "state": '"state"',
    "nothing said": "",
    "off": "",
}
"""Names of effect sources in a summary, where they differ from the source itself."""


def _summary(server: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> str:
    """Summarise a server, such as `14 tools: 10 read, 4 write everything; annotations`."""
    counts = Counter(tool["touches"] for tool in tools)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    origins = {**ORIGINS, "profile": f"profile {server.get('profile')}"}
    sources = dict.fromkeys(origins.get(tool["effect_source"], tool["effect_source"]) for tool in tools)
    text = _counted(len(tools), "tool") + (f": {kinds}" if kinds else "")
    if said := ", ".join(source for source in sources if source):
        text += f"; {said}"
    for noun in ("prompt", "resource"):
        if server[f"{noun}s"]:
            text += f"; {_counted(server[f'{noun}s'], noun)}"
    if server.get("start") == "lazy":
        text += "; starts at its first call"
        if server["idle_s"] is not None:
            text += f", ends {server['idle_s']:g} s after its last one"
    if (share := server.get("share")) and share["instances"] == "session":
        text += f"; in a daemon, an instance for each session: {share['for']}"
    if server["status"] == "ready":
        return text
    return f"{server['status']}; from the cache: {text}" if tools else server["status"]


def _chosen(facts: Mapping[str, Any], names: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Return the servers whose tools are shown as a table, and the tools that are shown one by one.

    Raises:
        UnknownSubject: no server or tool has one of the names.
    """
    servers = {server["name"]: server for server in facts["servers"]}
    wanted: list[Any] = []
    tools: list[Any] = []
    for name in names:
        same = [tool for tool in facts["tools"] if name in (tool["name"], tool["tool"])]
        if name in servers:
            wanted.append(servers[name])
        elif same:
            tools += same
        else:
            raise UnknownSubject(name, [*servers, *(tool["name"] for tool in facts["tools"])])
    return (wanted, tools) if names or len(servers) > 1 else (list(servers.values()), [])


def render(facts: Mapping[str, Any], names: Sequence[str] = (), width: int | None = None) -> str:
    """Render the report as text: one line per server, and details of the named servers and tools (or the only server).

    Raises:
        UnknownSubject: no server or tool has one of the names.
    """
    screen = Console()
    # Output to a pipe is not folded, so that names can be searched for.
    room = width or (screen.width if screen.is_terminal else 10_000)
    # Names and reasons come from servers: "[/data]" in them is not markup.
    console = Console(file=io.StringIO(), width=room, highlight=False, color_system=None, markup=False, emoji=False)
    facts = _clean(facts)
    servers, tools = _chosen(facts, names)
    if not names:
        _overview(console, facts)
    for server in servers:
        _server(console, server, facts, with_reason=bool(names))
    for tool in tools:
        _tool(console, tool)
    if not names:
        _remarks(console, facts)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(text.rstrip() for text in output.getvalue().strip("\n").splitlines()) + "\n"


def _clean(value: Any) -> Any:
    """Make every text of the report one line without control characters, since servers wrote some of them."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {key: _clean(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return [_clean(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value


def _overview(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"Servers of {facts['source']}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for server in facts["servers"]:
        own = [tool for tool in facts["tools"] if tool["server"] == server["name"]]
        table.add_row(server["name"], _summary(server, own))
    console.print(table)
    if troubled := [server for server in facts["servers"] if server["reason"]]:
        console.print("\nUnavailable")
        for server in troubled:
            console.print(Padding(f"{server['name']}: {_reason(server)}", (0, 0, 0, 2)))
    if shown := [(server["name"], text) for server in facts["servers"] if (text := _credentials_text(server))]:
        console.print("\nCredentials")
        for name, text in shown:
            console.print(Padding(f"{name}: {text}", (0, 0, 0, 2)))


def _reason(server: Mapping[str, Any]) -> str:
    """Return why a server is not up. That of one that needs a sign-in is a command."""
    return f"{server['status']}: {server['reason']}" if server["status"] == "needs sign-in" else server["reason"]


def _credentials_text(server: Mapping[str, Any]) -> str:
    """Return a server's credentials in words; empty for a process, and where its reason says the same."""
    facts = server.get("credentials")
    return "" if facts is None or facts["text"] in _reason(server) else facts["text"]


def _server(console: Console, server: Mapping[str, Any], facts: Mapping[str, Any], *, with_reason: bool) -> None:
    """Print the tools of one server as a table."""
    state = [server["status"], server["protocol"], server["reason"] if with_reason else ""]
    console.print(f"\nServer {server['name']}: {', '.join(filter(None, state))}")
    if with_reason and (text := _credentials_text(server)):
        console.print(f"Credentials: {text}")
    if with_reason and server.get("share") is not None:
        console.print(f"In a daemon: {_in_daemon(server)}")
    if not server["tools"]:
        return
    table = Table(title="Tools", title_justify="left", box=None, pad_edge=False)
    narrow = console.width < WIDE
    table.add_column("Name", no_wrap=not narrow, overflow="fold")
    for heading in ("Effect",) if narrow else ("Mode", "Effect", "Source", "Ordered with", "Notes"):
        table.add_column(heading, overflow="fold")
    for tool in facts["tools"]:
        if tool["server"] != server["name"]:
            continue
        notes = _notes(tool)
        if narrow:  # a name that is folded cannot be copied
            mode = "" if tool["mode"] == "future" else f"{tool['mode']}; "
            table.add_row(tool["name"], "; ".join([f"{mode}{tool['effect']} ({tool['effect_from']})", *notes]))
            continue
        turns = _few(tool["in_turn_with"], len(facts["tools"]))
        row = (tool["mode"], tool["effect"] or "-", tool["effect_from"], turns, "; ".join(notes))
        table.add_row(tool["name"], *row)
    console.print(table)


def _in_daemon(server: Mapping[str, Any]) -> str:
    """Return how sessions share a server, and when it starts and ends there."""
    share = server["share"]
    whose = "an instance for each session" if share["instances"] == "session" else "one for all sessions"
    text = f"{whose} ({share['for']}); starts {'with it' if server['start'] == 'eager' else 'at the first call'}"
    return text if server["idle_s"] is None else f"{text}, ends {server['idle_s']:g} s after the last one"


def _notes(tool: Mapping[str, Any]) -> list[str]:
    limits = tool["limits"]
    notes = list(tool["notes"])
    if limits["timeout_s"]:
        notes.insert(0, f"timeout {limits['timeout_s']:g} s")
    if limits["max_concurrency"]:
        notes.insert(0, f"at most {limits['max_concurrency']} at a time")
    return notes


def _tool(console: Console, tool: Mapping[str, Any]) -> None:
    """Print the details of one tool."""
    table = Table(title=f"\nTool {tool['name']}", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("server", f"{tool['server']} (as {tool['tool']})")
    table.add_row("mode", tool["mode"])
    table.add_row("effect", f"{tool['effect'] or 'touches nothing'} ({tool['effect_from']})")
    table.add_row("ordered with", ", ".join(tool["in_turn_with"]) or "nothing")
    if tool.get("returns"):
        table.add_row("returns", f"{tool['returns']} ({tool['returns_from']})")
    for name, value in tool["limits"].items():
        table.add_row(name, "none" if value is None else str(value))
    for note in tool["notes"]:
        table.add_row("note", note)
    console.print(table)


def _engine_line(engine: Mapping[str, Any]) -> str:
    """Return where futures are, and which servers do not run at every replica."""
    line = f"{engine['url']}; this is replica {engine['replica']}"
    owners: dict[str, list[str]] = {}
    for server, owner in engine["owners"].items():
        owners.setdefault(owner, []).append(server)
    for owner, servers in owners.items():
        if owner != ANY_OWNER:
            where = "one replica at a time" if owner == AUTO_OWNER else f"replica {owner}"
            line += f"; {', '.join(servers)} at {where}"
    return line


def _remarks(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"\nTools of the bridge: {', '.join(facts['meta_tools'])}")
    unwritten = sum(not tool["limits"]["journal"] for tool in facts["tools"])
    if facts["engine"]["kind"] == EMBEDDED:
        console.print(f"Journal: {journal_report.line(facts['journal'], unwritten)}")
    else:
        console.print(f"Engine: {_engine_line(facts['engine'])}")
    undeclared = [tool["name"] for tool in facts["tools"] if tool["effect_source"] == "nothing said"]
    if undeclared:
        subject = (
            "1 tool declares no effects and runs"
            if len(undeclared) == 1
            else (f"{len(undeclared)} tools declare no effects and run")
        )
        console.print(
            f"{subject} concurrently with everything else. "
            'If their order matters, declare "reads" and "writes", or set "ordering": "strict" on their server.'
        )
    for note in (*facts["warnings"], *facts["notes"]):
        console.print(f"Note: {note}")
    if len(facts["servers"]) > 1:
        console.print("For details, add the name of a server or a tool to the command.")


async def connected_report(
    bridge: Bridge, journal: Mapping[str, Any] | None = None, store: CredentialStore | None = None
) -> dict[str, Any]:
    """Connect to the servers, and return the report; those that take longer than `CONNECT_S` are still starting in it.

    Args:
        journal, store: see `run`.
    """
    bridge.server_requests.set_client_capabilities({})
    bridge.starts.on_client_answered()
    async with bridge.open():
        with anyio.move_on_after(CONNECT_S):
            for downstream in bridge.downstreams.values():
                await downstream.wait_settled()
        with anyio.move_on_after(LISTINGS_S):
            for downstream in bridge.downstreams.values():
                await downstream.wait_for_listings(LISTINGS)
        # After the connections, which may have renewed tokens; in a thread, since a keyring may be locked.
        credentials = {} if store is None else await anyio.to_thread.run_sync(_stored, bridge.config, store)
        return report(bridge, journal, credentials)


def is_up(server: Mapping[str, Any]) -> bool:
    """Return true for a server of a report that can be used."""
    return server["status"] in ("ready", PER_CALLER)


async def run(
    bridge: Bridge,
    *,
    as_json: bool,
    explain: tuple[str, str] | None,
    names: Sequence[str] = (),
    journal: Mapping[str, Any] | None = None,
    store: CredentialStore | None = None,
) -> tuple[str, bool]:
    """Connect to the servers, and return the output and whether every server is up.

    Args:
        names: servers and tools whose details are shown; JSON is always complete.
        journal: figures of the journal; None if it is off.
        store: tokens of servers that were signed in to.

    Raises:
        UnknownTool: `explain` names a tool that is not listed.
        UnknownSubject: no server or tool has one of the names.
    """
    facts = await connected_report(bridge, journal, store)
    healthy = all(is_up(server) for server in facts["servers"])
    if explain is not None:
        return for_terminal(_explained(bridge, explain)), healthy
    return (_as_json(facts) if as_json else render(facts, names)), healthy


def _stored(config: BridgeConfig, store: CredentialStore) -> dict[str, Mapping[str, Any]]:
    """Return the credentials of each server at a URL."""
    found = {server.name: credentials_of(server, store) for server in config.servers}
    return {name: facts for name, facts in found.items() if facts is not None}


def _as_json(facts: Mapping[str, Any]) -> str:
    """Return JSON in which every control character is escaped."""
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text) + "\n"


def _explained(bridge: Bridge, tools: tuple[str, str]) -> str:
    return explanation.explain(bridge, *tools)
