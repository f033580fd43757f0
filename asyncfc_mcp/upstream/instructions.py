"""Instructions for models: the bridge's own, then those of the wrapped servers, within what hosts pass on.

Owns the words that teach the protocol, the shares of servers, and the resources that have a server's instructions
as a whole (`asyncfc://docs/NAME`). Leaves quotation to `quotation`, and requests to `server` and `server_features`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.call_rules import CallRules
from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.config.hosts import profile_for
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.quotation import block, said

OWN_LENGTH: Final = 512
"""Maximum characters of the bridge's own instructions: Codex reads no more."""
TOTAL_BYTES: Final = 2048
"""Maximum bytes of all instructions: Claude Code cuts there."""
LEAST_SHARE: Final = 120
"""Smallest share of a server, in bytes; if there are too many servers for that, the last ones are only counted."""
NAME_LENGTH: Final = 60
"""Maximum characters of a server's name in its mark."""
URI_LENGTH: Final = 100
"""Longest URI of a server's own resource; that of a server with a longer name is `DOCS`."""
DOCS: Final = "asyncfc://docs"
"""URI of all servers' instructions; `DOCS/NAME` has those of one server."""
_ALL: Final = ("docs", "Instructions of all servers")
"""Name and title of `DOCS`."""


class InstructionsFor:
    """Instructions for each client, from the servers and tools as they are known at that moment."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def host(self, view: View, host: str | None, *, takes_tasks: bool = False) -> "Instructions":
        """Return the instructions for a client.

        Args:
            view: what its principal may see.
            host: its `clientInfo.name`.
            takes_tasks: it has declared the tasks extension.
        """
        profile = profile_for(host, self._bridge.settings.host_profiles)
        tasks = self._bridge.settings.tasks if takes_tasks else "handle"
        own = own_instructions(view.call_rules(), conversation=profile.single_conversation, tasks=tasks)
        return together(own, self.servers(view))

    def servers(self, view: View) -> dict[str, str]:
        """Return the whole instructions of each server that has any."""
        snapshots = view.snapshots()
        return {name: seen.instructions for name, seen in snapshots.items() if seen is not None and seen.instructions}

    def documents(self, view: View) -> dict[str, str]:
        """Return URI and text of each server's instructions that unknown clients do not receive as a whole."""
        servers = self.servers(view)
        return {uri_of_docs(server): servers[server] for server in self.host(view, None).cut}


# --- the bridge's own ----------------------------------------------------------------------------------------------


def own_instructions(rules: CallRules, *, conversation: bool, tasks: str = "handle") -> str:
    """Return the protocol for the model, in at most `OWN_LENGTH` characters; first how results are collected.

    Args:
        rules: what holds for the tools that are listed.
        conversation: the client's connection is one conversation, so that `_wait: "all"` is defined.
        tasks: how its calls are answered (see the setting).
    """
    # The fullest form that fits: how many words the order of calls takes depends on the tools.
    begin = _ANSWERS[tasks]
    forms = [f"{begin} {_own(rules, conversation, together, names, turn)}" for together, names, turn in _FORMS]
    return next((form for form in forms if len(form) <= OWN_LENGTH), forms[-1])


_ANSWERS: Final = {
    "handle": "Calls return a future ID (f1), or the result if quick.",
    "auto": "Calls return the result if quick, else a task (f1).",
    "task": "Calls return a task (f1).",
}
"""What calls are answered with, by the setting `tasks`."""
_FORMS: Final = ((True, True, True), (True, True, False), (True, False, True), (True, False, False), (False,) * 3)
"""What the forms of the protocol say, fullest first; see `_own`."""


def _own(rules: CallRules, conversation: bool, together: bool, names: bool, turn: bool) -> str:
    """Return one form of the protocol.

    Args:
        together: say that independent calls are best sent in one turn.
        names: name the servers whose calls are not ordered.
        turn: say that a reference may be in the same turn as the call that it means.
    """
    x = "x" if rules.names else "f1"
    parts = ["Collect:"]
    if rules.wait and conversation:
        parts.append('_wait:"all" on a turn\'s last call brings all results; or')
    elif rules.wait:
        parts.append(f'_wait:"f1, {"x" if rules.names else "f2"}" or "this" on a turn\'s last call brings results; or')
    parts += ["await_future, gather, list_futures.", "Send unrelated calls together." if together else ""]
    if rules.names:
        parts.append('_as:"x" names a call.')
    if rules.references:
        subject = "Others take its value" if rules.names else "Pass values on"
        parts.append(f"{subject}{', in the same turn too' if turn and rules.names else ''}:")
        parts.append(f'"${x}", "$f1.a[0].id", "${x}|min_by(@,&price)" (JMESPath), in text "${{f:{x}}}".')
    if rules.after:
        parts.append(f'_after:"{x}" waits for {x}.')
    parts.append(_order(rules, names))
    behind = [words for words, on in (("with its value", rules.references), ("_after it", rules.after)) if on]
    if behind:
        parts.append(f"If a call fails, those {' or '.join(behind)} are not sent.")
    return " ".join(filter(None, parts))


def _order(rules: CallRules, names: bool) -> str:
    """Return what is ordered, as a sentence. It claims no more than holds for every tool."""
    use = "; use _after." if rules.after else "; await where order matters."
    ordered = "Calls on the same state keep order"
    if not rules.complete:
        return f"{ordered}; calls of tools that declare nothing run at the same time{use}"
    if not rules.unordered:
        return f"{ordered}."
    which = "calls of tools that declare nothing" if rules.undeclared else "calls of tools without ordering"
    if not rules.ordered:
        return f"{which.capitalize()}, all here, run at the same time{use}"
    listed = f" ({', '.join(said(name, NAME_LENGTH) for name in rules.unordered)})" if names else ""
    return f"{ordered}; {which}{listed} run at the same time{use}"


# --- those of the servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instructions as a client receives them."""

    text: str
    cut: tuple[str, ...] = ()
    """Servers whose instructions are not whole in it."""
    counted: int = 0
    """How many of them are not in it at all."""


def together(own: str, servers: Mapping[str, str]) -> Instructions:
    """Return the bridge's own instructions with those of the servers, in at most `TOTAL_BYTES` if `own` leaves room.

    Short ones are whole. The others share what is left equally, are cut at the end of a sentence or word, and name the
    resource that has the whole.

    Args:
        servers: server → its instructions, in the order of the configuration.
    """
    room = TOTAL_BYTES - len(own.encode())
    most = max(0, (room - _COUNTED) // LEAST_SHARE)
    named = dict(list(servers.items())[:most])
    # Nothing is worked on that cannot be shown: a server's text may have any size.
    whole = {server: _block(server, text) for server, text in named.items() if len(text) <= room}
    sizes = {server: _size(block_) if (block_ := whole.get(server)) is not None else room + 1 for server in named}
    left, shares = room - (_COUNTED if len(named) < len(servers) else 0), dict[str, int]()
    for number, server in enumerate(sorted(named, key=lambda server: sizes[server])):
        shares[server] = min(sizes[server], left // (len(named) - number))
        left -= shares[server]
    parts, cut = [own], list[str]()
    for server, text in named.items():
        if sizes[server] <= shares[server]:
            parts.append(whole[server])
        else:
            cut.append(server)
            parts.append(_cut_block(server, text, shares[server]))
    if rest := len(servers) - len(named):
        cut += list(servers)[most:]
        parts.append(f"[{rest} more servers have instructions: {DOCS}]")
    return Instructions("\n\n".join(parts), tuple(cut), rest)


_COUNTED: Final = 80
"""Bytes of the line that counts servers, with the space before it."""


def _size(text: str) -> int:
    """Return the bytes of a part with the empty line that separates it from the next one."""
    return len(text.encode(errors="surrogatepass")) + 2


def _block(server: str, text: str) -> str:
    return block(_shown(server), text)


def _cut_block(server: str, text: str, size: int) -> str:
    """Return the beginning of a server's instructions in at most `size` bytes with their frame, and where the whole
    is."""
    end = f"[cut; whole: {uri_of_docs(server)}]"
    frame = len(_block(server, "").encode()) + _size(end) + 1
    return f"{block(_shown(server), text, max(0, size - frame))}\n{end}"


def _shown(server: str) -> str:
    return said(server, NAME_LENGTH)


# --- resources -----------------------------------------------------------------------------------------------------


def uri_of_docs(server: str) -> str:
    """Return the URI of a server's whole instructions."""
    uri = f"{DOCS}/{quote(server, safe='', errors='replace')}"
    return uri if len(uri) <= URI_LENGTH else DOCS


def is_docs(uri: str) -> bool:
    """Return whether a URI is one of instructions, whether or not there are any."""
    return uri == DOCS or uri.startswith(f"{DOCS}/")


def listed_docs(instructions: Instructions) -> list[dict[str, Any]]:
    """Return the entries of `resources/list` for instructions that a client did not receive as a whole."""
    entries: dict[str, dict[str, Any]] = {}
    for server in instructions.cut:
        shown = _shown(server)
        uri = uri_of_docs(server)
        name, title = (f"docs/{shown}", f"Instructions of {shown}") if uri != DOCS else _ALL
        entries[uri] = {"uri": uri, "name": name, "title": title, "mimeType": "text/plain"}
    if instructions.counted:
        entries[DOCS] = {"uri": DOCS, "name": _ALL[0], "title": _ALL[1], "mimeType": "text/plain"}
    return list(entries.values())


def read_docs(uri: str, servers: Mapping[str, str]) -> Result | None:
    """Return the contents of a resource of instructions; None if there is no such one."""
    wanted = unquote(uri[len(DOCS) + 1 :]) if uri != DOCS else None
    contents = [
        {"uri": uri_of_docs(server), "mimeType": "text/plain", "text": text}
        for server, text in servers.items()
        if wanted in (None, server)
    ]
    return {"contents": contents} if contents else None
