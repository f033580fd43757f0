"""Who may start: the effects of calls on state paths, and the order that conflicting calls keep.

Pure and synchronous: no I/O, no clock, no protocol. This module decides *which* calls may run; it starts none, knows
nothing of arguments that wait for other futures, of capacity or of time, and keeps nothing of a call that is settled.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, TypeAlias, cast

from .errors import ConfigError, InvalidTransition

Path: TypeAlias = tuple[str, ...]
"""`("files",)` is all state of the server `files`, `("files", "repo", "a")` a part of it; a path contains all below it.

The first segment is a server's name, `""` for state that several servers share, or that of `FILES`."""

SHARED: Final[Path] = ("",)
"""Root of state that belongs to no single server."""

FILES: Final[Path] = ("file://",)
"""Root of the files of this machine, which all servers on it share: real absolute paths. No segment of a path can be
`file://`, so below another root it is a place of its own, too."""

Locate: TypeAlias = Callable[[Sequence[object]], Sequence[Path] | None]
"""The places below `FILES` of the files that arguments name; None where they cannot be known."""

Outcome: TypeAlias = Literal["completed", "failed", "void"]
"""How a call ended: it did its work; it did not, or perhaps in part; it certainly never happened."""

MAX_PATHS: Final = 1_000
"""Most paths that lists in one call's arguments may produce for one declared path; beyond it the parent path stands."""

MAX_DEPTH: Final = 64
"""Most segments of a path; a deeper one is cut to the path that contains it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one call touches, and where we know that from."""

    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    source: str
    """`config`, `annotation`, `barrier`, `strict`, `state`, `nothing said` or `off`."""

    @property
    def declared(self) -> bool:
        """Whether its paths were declared one by one. `on_failure: "stop"` applies between such calls only: an
        annotation covers all of a server, and a failure there says nothing of most of it."""
        return self.source == "config"


NOTHING: Final = Effect((), (), "nothing said")


def conflict(a: Effect, b: Effect) -> tuple[Path, Path] | None:
    """The path of `a` and the path of `b` by which the two may not run at the same time; None when they may."""
    for mine in a.writes:
        for theirs in (*b.writes, *b.reads):
            if _overlap(mine, theirs):
                return mine, theirs
    for mine in a.reads:
        for theirs in b.writes:
            if _overlap(mine, theirs):
                return mine, theirs
    return None


def _overlap(a: Path, b: Path) -> bool:
    common = min(len(a), len(b))
    return a[:common] == b[:common]


# --- declared effects ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerState:
    """The part of the state tree in which one server's state lies."""

    server: str
    root: Path
    """Everything that the server touches, as far as its tools say no more than that they read or write."""
    files: Path = FILES
    """Where its files lie: `FILES`, or below its root if they are not of this machine."""
    locate: Locate = lambda values: None
    shared: bool = False
    """Whether the configuration gives it a root (`state`) that other servers can have, too."""

    @property
    def shown(self) -> str:
        """The root as text."""
        return "/".join(self.root)

    def meets(self, other: "ServerState") -> bool:
        """Whether one of the two roots contains the other."""
        return _overlap(self.root, other.root)

    def places(self, path: Path) -> tuple[Path, ...]:
        """A path that may be outside the root: that path, and the place for it below the root, since a tool of this
        server that says only that it writes may write there."""
        if path[: len(self.root)] == self.root:
            return (path,)
        return path, (*self.root, *path)


def own_state(server: str) -> ServerState:
    """A server that shares no state and whose files are not located."""
    return ServerState(server, (server,))


@dataclass(frozen=True, slots=True)
class _Argument:
    name: str
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """One declared state path, parsed. `text` is for display; a segment is a mix of literal text and arguments."""

    text: str
    bases: tuple[Path, ...]
    segments: tuple[tuple[str | _Argument, ...], ...] = ()
    file: tuple[str | _Argument, ...] = ()
    """For `{argument:file}`: that argument, and what stands behind it, as the text of one path."""
    state: ServerState | None = None
    """Of the server whose file it is."""

    def bind(self, arguments: Mapping[str, object], is_reference: Callable[[object], bool]) -> list[Path]:
        """The paths for these arguments; where a value cannot be known, the path above the segment that needs it."""
        if self.state is not None:
            return self._files(self.state, arguments, is_reference)
        tails: list[Path] = [()]
        declared: list[Path] | None = None  # up to the first argument
        for segment in self.segments:
            if declared is None and any(isinstance(part, _Argument) for part in segment):
                declared = tails
            texts = _fill(segment, arguments, is_reference)
            if texts is None or len(tails) * len(texts) > MAX_PATHS:
                break
            if declared is not None and _ABOVE in texts:
                tails = declared
                break
            ends = [tuple(unicodedata.normalize("NFC", text).split("/")) for text in texts]
            tails = [tail + end for tail in tails for end in ends]
        return [(base + tail)[:MAX_DEPTH] for tail in tails for base in self.bases]

    def _files(
        self, state: ServerState, arguments: Mapping[str, object], is_reference: Callable[[object], bool]
    ) -> list[Path]:
        values = _file_values(self.file, arguments, is_reference)
        found = None if values is None else state.locate(values)
        tails = ((),) if found is None else found
        return [place[:MAX_DEPTH] for tail in tails for place in state.places((*state.files, *tail))]


@dataclass(frozen=True, slots=True)
class EffectTemplate:
    """What a tool touches, before its arguments are known."""

    source: str
    reads: tuple[PathTemplate, ...] = ()
    writes: tuple[PathTemplate, ...] = ()
    reason: str = ""
    """Of a barrier, in words."""

    def bind(self, arguments: Mapping[str, object], is_reference: Callable[[object], bool]) -> Effect:
        """The effect of a call with these arguments. `is_reference` says whether a value contains a reference whose
        future is not resolved yet; such a value stands for anything, so its place is taken by the parent path."""
        reads = [path for template in self.reads for path in template.bind(arguments, is_reference)]
        writes = [path for template in self.writes for path in template.bind(arguments, is_reference)]
        return Effect(tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes)), self.source)

    @property
    def placeholders(self) -> frozenset[str]:
        """Names of the arguments in the paths. One that the tool does not have never matches: worth a warning."""
        paths = (*self.reads, *self.writes)
        parts = (part for path in paths for segment in (*path.segments, path.file) for part in segment)
        return frozenset(part.name for part in parts if isinstance(part, _Argument))

    def describe(self) -> str:
        """For people, such as `reads file:///{path}; writes /shared/db`."""
        kinds = (("reads", self.reads), ("writes", self.writes))
        said = [f"{verb} {', '.join(path.text for path in paths)}" for verb, paths in kinds if paths]
        if self.source == "barrier":
            return f"takes turns with all of {self.writes[0].text}"
        if said:
            return "; ".join(said)
        return {"config": "touches nothing", "off": "not ordered"}.get(self.source, "nothing said, not ordered")


def declared_effect(
    state: ServerState,
    reads: Sequence[str] | None,
    writes: Sequence[str] | None,
    ordering: str,
    annotations: Mapping[str, object] | None,
    barrier: str | None = None,
) -> EffectTemplate:
    """What a tool says it touches: by the config (`reads`, `writes`), else by its MCP annotations, else by `ordering`.

    A tool that is annotated as read-only and is a `barrier` for that reason takes turns with everything of its server.

    A declared path is placed under the server's root; `""` is that root. A leading `/` means state outside any
    server's root, for servers that touch the same thing: `/repo/{path}` on a git server and on a file server is one
    path. It is *also* placed under the root of its own server, because a tool of that server which only says "I
    write" may write there too. A tool of *another* server that only says so is not ordered with it, unless the two
    servers have one `state`.

    `{argument}` (`{a.b}` for a nested one, through lists as well) stands for the value of an argument, `{{` and `}}`
    for braces. A string is taken as a file path: split at `/` and `\\`, `.` and `..` resolved, Unicode composed (NFC).
    A list gives a path for each element. A value that is missing, null, an object, empty, or not known yet gives the
    path above it, which contains whatever it may turn out to be; one that leads above its own place by `..` gives the
    path above the first argument.

    `{argument:file}` is a file: the path is where `state.locate` says, whatever stands before the placeholder, and
    what stands behind it belongs to the file's name or leads further down. Without `:file` the text decides: a relative
    and an absolute path, a link and its target are different paths then, and so are names that differ in case only.

    Raises ConfigError when a declared path has a brace without its partner, leads out of its root, or has two files.
    """
    if ordering == "none":
        return EffectTemplate("off")
    if reads is not None or writes is not None:
        return EffectTemplate(
            "config",
            tuple(_parse(state, "reads", text) for text in reads or ()),
            tuple(_parse(state, "writes", text) for text in writes or ()),
        )
    root = (PathTemplate(state.shown, (state.root,)),)
    said = annotations or {}
    if said.get("readOnlyHint") is True:
        if barrier is not None:
            return EffectTemplate("barrier", writes=root, reason=barrier)
        return EffectTemplate("annotation", reads=root)
    if said.get("readOnlyHint") is False or said.get("destructiveHint") is True:
        return EffectTemplate("annotation", writes=root)
    if ordering == "strict":
        return EffectTemplate("state" if state.shared else "strict", writes=root)
    return EffectTemplate("nothing said")


_ABOVE: Final = ".."
_LEADS_AWAY: Final = ("", "/", "\\", "~")
_IS_FILE: Final = ":file"
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{[^{}]+\}|[/\\]|[^{}/\\]+|.", re.DOTALL)


def _parse(state: ServerState, setting: str, text: str) -> PathTemplate:
    server = f"server {state.server!r}"
    parts: list[str | _Argument] = []
    for token in _TOKEN.findall(text):
        if token in ("{", "}", f"{{{_IS_FILE}}}"):
            expected = 'each "{" to have its "}" around an argument\'s name ("{{" and "}}" for literal braces)'
            raise ConfigError(server, setting, repr(text), expected)
        if token in ("{{", "}}"):
            parts.append(token[0])
        elif token[0] == "{":
            parts.append(_Argument(token[1:-1].removesuffix(_IS_FILE), token.endswith(_IS_FILE + "}")))
        else:
            parts.append(token)
    files = [at for at, part in enumerate(parts) if isinstance(part, _Argument) and part.is_file]
    if len(files) > 1:
        raise ConfigError(server, setting, repr(text), "one file in each path")
    if files:
        # Words before a file are a habit from paths without ":file"; where a file lies is known without them.
        named = tuple(parts[files[0] :])
        return PathTemplate("/".join((*state.files, "")) + _shown(named), (), file=named, state=state)
    segments: list[list[str | _Argument]] = [[]]
    for part in parts:
        if part in ("/", "\\"):
            segments.append([])
        else:
            segments[-1].append(part)
    kept: list[tuple[str | _Argument, ...]] = []
    for segment in segments:
        if segment == [_ABOVE]:
            if not kept:
                expected = 'a path inside the root of the server (a leading "/" for state shared between servers)'
                raise ConfigError(server, setting, repr(text), expected)
            kept.pop()
        elif segment not in ([], ["."]):
            kept.append(tuple(segment))
    shown = [_shown(parts) for parts in kept]
    if not text.startswith("/"):
        return PathTemplate("/".join((state.shown, *shown)), (state.root,), tuple(kept))
    # "/" alone may be meant as the server's root or as everything that is shared: it is taken as both.
    bases: tuple[Path, ...] = (SHARED, (*state.root, *SHARED) if kept else state.root)
    return PathTemplate("/" + "/".join(shown), bases, tuple(kept))


def _shown(parts: Iterable[str | _Argument]) -> str:
    return "".join(part if isinstance(part, str) else f"{{{part.name}}}" for part in parts)


def _file_values(
    parts: tuple[str | _Argument, ...], arguments: Mapping[str, object], is_reference: Callable[[object], bool]
) -> list[object] | None:
    """What `{argument:file}` and the parts behind it come to, one for each combination of list elements; None when a
    value cannot be known."""
    first, *behind = parts
    assert isinstance(first, _Argument)
    values = _look_up(arguments, first.name, is_reference)
    for part in behind:
        ends: list[object] | None = [part] if isinstance(part, str) else _look_up(arguments, part.name, is_reference)
        if values is None or ends is None or len(values) * len(ends) > MAX_PATHS:
            return None
        texts = [str(end) for end in ends if isinstance(end, str | int)]
        folders = [value for value in values if isinstance(value, str)]
        if len(texts) < len(ends) or len(folders) < len(values):
            return None
        if not isinstance(part, str) and any(text[:1] in _LEADS_AWAY for text in texts):
            return None  # some servers take an absolute name in place of the folder before it, others below it
        joined: list[object] = [folder + text for folder in folders for text in texts]
        values = joined
    return values


def _fill(
    segment: tuple[str | _Argument, ...], arguments: Mapping[str, object], is_reference: Callable[[object], bool]
) -> list[str] | None:
    """The texts of one segment, one for each combination of list elements; None when a value cannot be known, `_ABOVE`
    when one leads out of its place."""
    texts = [""]
    for part in segment:
        if isinstance(part, str):
            texts = [text + part for text in texts]
            continue
        values = _look_up(arguments, part.name, is_reference)
        if values is None or len(texts) * len(values) > MAX_PATHS:
            return None
        # Each value is normalised by itself, before it is joined to the literal text around it, so that `x/../y` and
        # `y` stay one and the same in `log-{name}` too.
        ends = [end for value in values if (end := _normalised(value)) is not None]
        if len(ends) < len(values):
            return None
        if _ABOVE in ends:
            return [_ABOVE]
        texts = [text + end for text in texts for end in ends]
    return texts


def _look_up(arguments: Mapping[str, object], name: str, is_reference: Callable[[object], bool]) -> list[object] | None:
    values: list[object] = [arguments]
    for step in [name] if name in arguments else name.split("."):
        below: list[object] = []
        for value in values:
            inner = cast("Mapping[str, object]", value).get(step) if isinstance(value, Mapping) else None
            if inner is None:
                return None
            below += cast("list[object]", inner) if isinstance(inner, list) and inner else [inner]
        if any(is_reference(item) for item in below):
            return None
        values = below
    return values


def _normalised(value: object) -> str | None:
    """The value as segments joined by `/`; `_ABOVE` when it leads out of its place, None when it names none."""
    if isinstance(value, str):
        kept: list[str] = []
        for segment in value.replace("\\", "/").split("/"):
            if segment == _ABOVE:
                if not kept:
                    return _ABOVE
                kept.pop()
            elif segment not in ("", "."):
                kept.append(segment)
        return "/".join(kept) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1 and 1.0 are one number in JSON
    if isinstance(value, int | float):
        try:
            return json.dumps(value)
        except ValueError:  # an integer with more digits than Python agrees to print
            return None
    return None


# --- the state tree ------------------------------------------------------------------------------------------------
#
# The idea is the hierarchical locking of databases (Gray and others, 1976), with strictly first-come lanes in place of
# locks. A call enters its own paths as *whole* (R reads, W writes everything from here down) and each node above them
# as a *part* (r reads, w writes something below here). Two calls conflict exactly when they meet in a node in modes
# that exclude each other:
#
#         r   w   R   W         Parts never exclude parts: whether they meet is decided further down.
#     r   .   .   .   x
#     w   .   .   x   x
#     R   .   x   .   x
#     W   x   x   x   x
#
# A node keeps its unsettled entries in one lane for each mode, in order of submission. An entry has its turn when no
# lane that its mode excludes begins with an earlier call; so one comparison with the head of each such lane decides,
# however many are queued. Turns come in order, so in each lane those who have theirs are a prefix, and one pointer
# (`next`) marks its end. A call may start when it has its turn everywhere. All of it costs a constant number of steps
# for each node on the call's paths, plus one for each turn that is given, which happens once for each entry.
#
# Rejected: a graph of calls, with edges from the *last* reader or writer of a path only, and virtual barrier calls that
# gather many leaves into one predecessor. It leaves out every edge that follows from others, so whoever leaves it early
# (cancelled, stopped) has to hand its predecessors on to its successors. That is too much order (`W(a) V(a,b) W(b)`:
# with V cancelled nothing orders the other two, and two reads would wait for each other through a cancelled write) and,
# for fail-stop, too little (`W(a) R(a) W(a)`: the writes are joined only through a read, which goes on). Here nothing
# is derived: who leaves is unlinked, and what remains is exactly the conflicts among the others.

_PART_READ, _PART_WRITE, _READ, _WRITE = range(4)

# Writes that fail-stop may cancel have lanes of their own, so that a failure looks at its victims only: in one lane
# with reads, each of many failures would walk again over all the reads that it lets go on.
_STOPPABLE: Final = 4

_EXCLUDED: Final = {
    _PART_READ: (_WRITE,),
    _PART_WRITE: (_READ, _WRITE),
    _READ: (_PART_WRITE, _WRITE),
    _WRITE: (_PART_READ, _PART_WRITE, _READ, _WRITE),
}
_WAITS_FOR: Final = tuple(
    tuple(lane for mode in _EXCLUDED[lane % _STOPPABLE] for lane in (mode, mode + _STOPPABLE)) for lane in range(8)
)
# Only what a failed call *wrote* stops others.
_STOPS: Final = tuple(
    tuple(mode + _STOPPABLE for mode in _EXCLUDED[lane % _STOPPABLE])
    if lane % _STOPPABLE in (_PART_WRITE, _WRITE)
    else ()
    for lane in range(8)
)


def _needed(bits: int) -> tuple[int, ...]:
    """Of the modes that one call has in one node (as bits), those that the others do not imply."""
    if bits & 1 << _WRITE:
        return (_WRITE,)
    if bits & 1 << _READ:
        return (_READ, _PART_WRITE) if bits & 1 << _PART_WRITE else (_READ,)
    return (_PART_WRITE,) if bits & 1 << _PART_WRITE else (_PART_READ,)


_NEEDED: Final = tuple(_needed(bits) for bits in range(16))


@dataclass(slots=True, eq=False)
class _Call:
    key: str
    number: int  # order of submission
    stoppable: bool
    entries: list["_Entry"] = field(default_factory=list["_Entry"])
    turns_missing: int = 0
    started: bool = False


@dataclass(slots=True, eq=False)
class _Node:
    parent: "_Node | None"
    name: str
    children: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])
    lanes: dict[int, "_Lane"] = field(default_factory=dict[int, "_Lane"])

    def path(self) -> Path:
        return (*self.parent.path(), self.name) if self.parent is not None else ()

    def earliest_against(self, lane: int) -> int:
        """Number of the first call that excludes those in `lane`; theirs is the turn if they are not behind it."""
        lanes, earliest = self.lanes, _NOBODY
        for other in _WAITS_FOR[lane]:
            if other in lanes and (number := lanes[other].head.call.number) < earliest:
                earliest = number
        return earliest


_NOBODY: Final = 1 << 62


@dataclass(slots=True, eq=False)
class _Entry:
    """One call in one lane of one node: a link of the lane's list."""

    call: _Call
    node: _Node
    lane: int
    before: "_Entry | None" = None
    after: "_Entry | None" = None
    has_turn: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """Never empty: a node drops a lane with its last entry."""

    head: _Entry
    tail: _Entry
    next: _Entry | None  # the first that does not have its turn

    def __iter__(self) -> Iterator[_Entry]:
        entry: _Entry | None = self.head
        while entry is not None:
            yield entry
            entry = entry.after


@dataclass(frozen=True, slots=True)
class Settled:
    """What the end of a call changes for others."""

    ready: list[str]
    """May start now, in order of submission."""

    stopped: list[tuple[str, str]]
    """Fail-stop: a call that will never start, and the failed or stopped call directly before it; in order of
    submission, so that the second is the settled one or stands earlier in this list. All are gone from the tree."""


class StateTree:
    """The unsettled calls and the state they touch. Conflicting calls get ready in order of submission, others at once.

    Submit a call only when those whose results it needs were submitted: one that waits for a result of a later,
    conflicting call would wait forever, since that call waits for its turn behind it.

    Methods raise InvalidTransition for a key that is not in the tree, or not in the state they need.
    """

    def __init__(self) -> None:
        self._root = _Node(None, "")
        self._calls: dict[str, _Call] = {}
        self._submitted = 0

    def __len__(self) -> int:
        """Number of unsettled calls."""
        return len(self._calls)

    def __contains__(self, key: object) -> bool:
        return key in self._calls

    @property
    def size(self) -> int:
        """Everything that is kept, as nodes and entries in their lanes: 0 when no call is left. Walks the tree."""
        size, nodes = 0, list(self._root.children.values())
        while nodes:
            node = nodes.pop()
            size += 1 + sum(1 for lane in node.lanes.values() for _ in lane)
            nodes += node.children.values()
        return size

    def submit(self, key: str, effect: Effect, *, on_failure: str = "continue") -> None:
        """Add a call behind all that are there. With `on_failure` "stop" a failed write before it stops it, if it
        writes."""
        if key in self._calls:
            raise InvalidTransition(key, "submitted already", "be submitted again")
        if () in effect.reads or () in effect.writes:
            raise ValueError("a state path begins with the name of a server")
        self._submitted += 1
        call = _Call(key, self._submitted, stoppable=bool(effect.writes) and on_failure == "stop")
        modes: dict[_Node, int] = {}
        for path in effect.reads:
            self._mark(path, modes, 1 << _PART_READ, 1 << _READ)
        for path in effect.writes:
            self._mark(path, modes, 1 << _PART_WRITE, 1 << _WRITE)
        for node, bits in modes.items():
            for mode in _NEEDED[bits]:
                self._join(_Entry(call, node, mode + _STOPPABLE if call.stoppable else mode))
        self._calls[key] = call

    def ready(self, key: str) -> bool:
        """Whether the call may start: no unsettled call before it conflicts with it."""
        return not self._known(key, "be asked about").turns_missing

    def start(self, key: str) -> None:
        """The call began to run. Only a started call can complete."""
        call = self._known(key, "start")
        if call.started or call.turns_missing:
            raise InvalidTransition(key, "running" if call.started else "waiting for its turn", "start")
        call.started = True

    def settle(self, key: str, *, outcome: Outcome) -> Settled:
        """The call ended, before or after it started. If it failed, the writes behind what it writes are stopped, and
        those behind what they would have written."""
        call = self._known(key, "settle")
        if outcome == "completed" and not call.started:
            raise InvalidTransition(key, "not started", "complete")
        changed: dict[_Node, None] = {}
        self._leave(call, changed)
        stopped = self._stop_behind(call, changed) if outcome == "failed" else []
        ready = [got for node in changed for got in self._give_turns(node)]
        ready.sort(key=_number)
        # An entry and its call refer to each other; freed now, not by the garbage collector at some time.
        for gone in (call, *(victim for victim, _ in stopped)):
            gone.entries.clear()
        return Settled([got.key for got in ready], [(victim.key, before.key) for victim, before in stopped])

    def blockers(self, key: str, limit: int = 3) -> list[tuple[str, Path]]:
        """The first unsettled calls, at most `limit`, that this one waits for, and the path on which they meet."""
        call = self._known(key, "be asked about")
        found: dict[int, tuple[str, Path]] = {}
        for entry in call.entries:
            if entry.has_turn:
                continue
            for lane in _WAITS_FOR[entry.lane]:
                # No more than `limit` of each lane can be among the first of all.
                for other in islice(entry.node.lanes.get(lane, ()), limit):
                    if other.call.number >= call.number:
                        break
                    found.setdefault(other.call.number, (other.call.key, entry.node.path()))
        return [found[number] for number in sorted(found)[:limit]]

    def _known(self, key: str, event: str) -> _Call:
        call = self._calls.get(key)
        if call is None:
            raise InvalidTransition(key, "not in the state tree", event)
        return call

    def _mark(self, path: Path, modes: dict[_Node, int], part: int, whole: int) -> None:
        node = self._root
        for name in path:
            if node.parent is not None:
                modes[node] = modes.get(node, 0) | part
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = _Node(node, name)
            node = child
        modes[node] = modes.get(node, 0) | whole

    def _join(self, entry: _Entry) -> None:
        call, node = entry.call, entry.node
        entry.has_turn = node.earliest_against(entry.lane) >= call.number
        if not entry.has_turn:
            call.turns_missing += 1
        call.entries.append(entry)
        lane = node.lanes.get(entry.lane)
        if lane is None:
            lane = node.lanes[entry.lane] = _Lane(entry, entry, None)
        else:
            entry.before, lane.tail.after, lane.tail = lane.tail, entry, entry
        if lane.next is None and not entry.has_turn:
            lane.next = entry

    def _leave(self, call: _Call, changed: dict[_Node, None]) -> None:
        """Unlink a call everywhere; note the nodes where somebody may have a turn now. `call.entries` stay, for
        fail-stop to look from them."""
        del self._calls[call.key]
        for entry in call.entries:
            node, before, after = entry.node, entry.before, entry.after
            lane = node.lanes[entry.lane]
            if lane.next is entry:
                lane.next = after
            if after is not None:
                after.before = before
            elif before is not None:
                lane.tail = before
            if before is not None:
                before.after = after
                continue
            # It was the head, the only one that others compare themselves with.
            changed[node] = None
            if after is not None:
                lane.head = after
                continue
            del node.lanes[entry.lane]
            # Every entry below has one here, so a node without lanes has nothing below.
            if not node.lanes and node.parent is not None:
                del node.parent.children[node.name]

    def _give_turns(self, node: _Node) -> Iterator[_Call]:
        """Calls that lacked only these turns."""
        for number, lane in node.lanes.items():
            if lane.next is None:
                continue
            earliest = node.earliest_against(number)
            while lane.next is not None and lane.next.call.number <= earliest:
                entry, lane.next = lane.next, lane.next.after
                entry.has_turn = True
                entry.call.turns_missing -= 1
                if not entry.call.turns_missing:
                    yield entry.call

    def _stop_behind(self, failed: _Call, changed: dict[_Node, None]) -> list[tuple[_Call, _Call]]:
        """Remove every write queued behind what `failed` writes, and behind what those write; each with the one before.

        Nobody gets a turn before this is through, so whoever is behind a failed write still stands in a lane without
        its turn. Each is unlinked when it is found, hence found once, by the one nearest to the first failure.
        """
        stopped: list[tuple[_Call, _Call]] = []
        culprits = [failed]
        for culprit in culprits:  # grows
            for entry in culprit.entries:
                for number in _STOPS[entry.lane]:
                    while (lane := entry.node.lanes.get(number)) and lane.tail.call.number > culprit.number:
                        victim = lane.tail.call
                        self._leave(victim, changed)
                        stopped.append((victim, culprit))
                        culprits.append(victim)
        stopped.sort(key=lambda pair: pair[0].number)
        return stopped


def _number(call: _Call) -> int:
    return call.number
