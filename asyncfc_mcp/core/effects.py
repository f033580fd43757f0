"""Effects: the state paths that a call reads and writes, and the conflicts between calls.

Owns the choice between the sources of a tool's effect. Pure and synchronous: no clock, no protocol, no I/O of its own.
Paths with arguments belong to `path_templates`, profiles of known servers to `effect_profiles`; `state_tree` decides
the order of calls that conflict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncfc_mcp.core.effect_profiles import ToolProfile
from asyncfc_mcp.core.path_templates import IsReference, PathTemplate, parse_path
from asyncfc_mcp.core.state_paths import Path, ServerState, overlap


@dataclass(frozen=True, slots=True)
class Effect:
    """State paths that one call reads and writes."""

    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    source: str
    """Origin of the paths: `config`, `profile`, `annotation`, `barrier`, `strict`, `state`, `nothing said` or
    `off`."""

    @property
    def declared(self) -> bool:
        """True where the paths were declared one by one. `on_failure: "stop"` applies between such calls only: an
        annotation covers all state of a server, most of which a failure does not affect."""
        return self.source == "config"


NOTHING: Final = Effect((), (), "nothing said")


def conflict(a: Effect, b: Effect) -> tuple[Path, Path] | None:
    """Return the paths of `a` and of `b` that exclude running both at the same time; None where there are none."""
    for mine in a.writes:
        for theirs in (*b.writes, *b.reads):
            if overlap(mine, theirs):
                return mine, theirs
    for mine in a.reads:
        for theirs in b.writes:
            if overlap(mine, theirs):
                return mine, theirs
    return None


# --- declared effects ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EffectTemplate:
    """Effect of a tool, to be bound to a call's arguments."""

    source: str
    reads: tuple[PathTemplate, ...] = ()
    writes: tuple[PathTemplate, ...] = ()
    reason: str = ""
    """Reason why the tool is a barrier, or the name of the profile, in words."""

    def bind(self, arguments: Mapping[str, object], is_reference: IsReference) -> Effect:
        """Return the effect of a call with these arguments.

        Args:
            is_reference: returns true for a value that contains a reference. Such a value is not known yet and may
                become anything, so the parent path is used.
        """
        reads = [path for template in self.reads for path in template.bind(arguments, is_reference)]
        writes = [path for template in self.writes for path in template.bind(arguments, is_reference)]
        return Effect(tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes)), self.source)

    @property
    def placeholders(self) -> frozenset[str]:
        """Names of the arguments in the paths. One that the tool does not have never matches, which deserves a
        warning."""
        return frozenset(name for path in (*self.reads, *self.writes) for name in path.arguments)

    @property
    def is_fixed(self) -> bool:
        """True where the effect is the same for every call."""
        return all(path.is_fixed for path in (*self.reads, *self.writes))

    def bind_unknown(self) -> Effect:
        """Return the effect of a call whose arguments are not known; it contains that of every call."""
        return self.bind(dict.fromkeys(self.placeholders, ""), lambda value: True)

    def describe(self) -> str:
        """Return the effect as text for people, such as `reads file:///{path}; writes /shared/db`."""
        kinds = (("reads", self.reads), ("writes", self.writes))
        shown = [(verb, list(dict.fromkeys(path.text for path in paths if path.text))) for verb, paths in kinds]
        said = [f"{verb} {', '.join(texts)}" for verb, texts in shown if texts]
        if self.source == "barrier":
            return f"takes turns with all of {self.writes[0].text}"
        if said:
            return "; ".join(said)
        if self.source in ("config", "profile"):
            return "touches nothing"
        return "not ordered" if self.source == "off" else "nothing said, not ordered"


def declared_effect(
    state: ServerState,
    reads: Sequence[str] | None,
    writes: Sequence[str] | None,
    ordering: str,
    annotations: Mapping[str, object] | None,
    barrier: str | None = None,
    profile: ToolProfile | None = None,
) -> EffectTemplate:
    """Return the effect of a tool: declared in the config (`reads`, `writes`), else by its profile, by MCP annotations
    or by `ordering`.

    A tool that is annotated as read-only but has a reason to be a `barrier` is ordered with every call to its server.

    A declared path is placed below the server's root; `""` is that root. A leading `/` denotes state outside any
    server's root, for servers that use the same thing: `/repo/{path}` on a git server and on a file server is one
    path. It is *also* placed below the root of its own server, because a tool of that server which only declares that
    it writes may write there. A tool of *another* server that only declares so is not ordered with it, unless the two
    servers have the same `state`.

    `{argument}` (`{a.b}` for a nested one, through lists as well) is replaced by the value of an argument; `{{` and
    `}}` are literal braces. A string is a file path: split at `/` and `\\`, `.` and `..` resolved, Unicode composed
    (NFC). A list gives a path for each element. A value that is missing, null, an object, empty, or not known yet gives
    the path above it, which contains all its possible values; one that leaves its own place by `..` gives the path
    above the first argument. `{argument?}` gives no path where the argument is missing or null, `{argument=text}` the
    path of that text; `{argument:nocase}` ignores case.

    `{argument:file}` is a file: `state.locate` gives its path, and any text before the placeholder is ignored. Text
    behind it belongs to the name of the file or leads further down. Without `:file`, paths are compared as text: a
    relative and an absolute path, a link and its target, or names that differ only in case are different paths.
    `{argument:folder}` is the existence of the folder that contains the file, `{argument:folders}` that of all folders
    above it (see `EXISTENCE`), and `{argument:repository}` the working tree and the data of a Git repository.
    `{--option:file}` and `{$VARIABLE:file}` are files that the server's command line or environment names;
    `{*:file}` is every file.

    Args:
        barrier: reason why a read-only tool is a barrier, in words.
        profile: the effect according to the profile of its server.

    Raises:
        ConfigError: a declared path has a brace without its partner, leads out of its root, or has two files.
    """
    if ordering == "none":
        return EffectTemplate("off")
    if reads is not None or writes is not None:
        return EffectTemplate("config", _parsed(state, "reads", reads), _parsed(state, "writes", writes))
    usual = _usual_effect(state, ordering, annotations or {}, barrier)
    if profile is None:
        return usual
    known = EffectTemplate(
        "profile",
        _parsed(state, "reads", profile.reads),
        _parsed(state, "writes", profile.writes),
        f"profile {profile.server}",
    )
    if not profile.caution:
        return known
    # More order than necessary costs some concurrency, less could cost a result.
    reason = f"{known.reason}; also as without it: {profile.caution}"
    return EffectTemplate("profile", known.reads + usual.reads, known.writes + usual.writes, reason)


def _parsed(state: ServerState, setting: str, texts: Sequence[str] | None) -> tuple[PathTemplate, ...]:
    parsed = (parse_path(state, setting, text) for text in texts or ())
    return tuple(path for path in parsed if path is not None)


def _usual_effect(
    state: ServerState, ordering: str, annotations: Mapping[str, object], barrier: str | None
) -> EffectTemplate:
    """Return the effect of a tool for which no paths are declared."""
    root = (PathTemplate(state.shown, (state.root,)),)
    if annotations.get("readOnlyHint") is True:
        if barrier is not None:
            return EffectTemplate("barrier", writes=root, reason=barrier)
        return EffectTemplate("annotation", reads=root)
    if annotations.get("readOnlyHint") is False or annotations.get("destructiveHint") is True:
        return EffectTemplate("annotation", writes=root)
    if ordering == "strict":
        return EffectTemplate("state" if state.shared else "strict", writes=root)
    return EffectTemplate("nothing said")
