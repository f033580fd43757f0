"""Path templates: declared state paths with arguments, parsed once and bound to the arguments of each call.

Owns the language of `reads` and `writes` in the configuration and in effect profiles. Pure, except that
`ServerState.locate` reads links. `effects` decides which tool has which templates.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, cast

from asyncfc_mcp.core.state_paths import EXISTENCE, MAX_DEPTH, MAX_PATHS, SHARED, Path, ServerState
from asyncfc_mcp.errors import ConfigError

IsReference: TypeAlias = Callable[[object], bool]
"""Returns true for a value that contains a reference."""

_Kind: TypeAlias = Literal["text", "nocase", "file", "folder", "folders", "repository"]
_KINDS: Final[Mapping[str, _Kind]] = {
    "nocase": "nocase", "file": "file", "folder": "folder", "folders": "folders", "repository": "repository",
}  # fmt: skip
"""Words behind the colon of a placeholder."""
_TEXT_KINDS: Final = ("text", "nocase")


@dataclass(frozen=True, slots=True)
class _Argument:
    name: str
    kind: _Kind = "text"
    optional: bool = False
    """Without a value there is no path."""
    default: str | None = None
    values: tuple[str | None, ...] | None = None
    """Values that do not depend on the call, from the server's command line or environment."""

    @property
    def is_file(self) -> bool:
        return self.kind not in _TEXT_KINDS


_Part: TypeAlias = str | _Argument


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """Parsed state path. `text` is for display; a segment mixes literal text and arguments."""

    text: str
    bases: tuple[Path, ...]
    segments: tuple[tuple[_Part, ...], ...] = ()
    file: tuple[_Part, ...] = ()
    """For a file: its argument and the parts behind it, which form the text of one path."""
    state: ServerState | None = None
    """State of the server that owns the file; None for other paths."""

    def bind(self, arguments: Mapping[str, object], is_reference: IsReference) -> list[Path]:
        """Return the paths for these arguments; where a value is unknown, the path above the segment that needs it."""
        if self.state is not None:
            return self._files(self.state, arguments, is_reference)
        tails: list[Path] = [()]
        declared: list[Path] | None = None  # before the first argument
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

    def _files(self, state: ServerState, arguments: Mapping[str, object], is_reference: IsReference) -> list[Path]:
        first = self.file[0]
        assert isinstance(first, _Argument)
        values = _file_values(self.file, arguments, is_reference)
        found: Sequence[Path] | None
        if values == []:
            return []
        if values is None:
            found = None
        elif first.kind == "repository":
            found = state.locate_repositories(values)
        else:
            found = state.locate(values)
        if first.kind == "folder" and found is not None:
            return [(*state.files, *place[:-1][: MAX_DEPTH - 2], EXISTENCE) for place in found if place]
        if first.kind == "folders" and found is not None:
            # The server's own folders exist.
            tops = {(), *(state.locate(["."]) or ())}
            return [(*state.files, *above[: MAX_DEPTH - 2], EXISTENCE) for above in _above(found, tops)]
        tails = ((),) if found is None else found
        return [place[:MAX_DEPTH] for tail in tails for place in state.places((*state.files, *tail))]

    @property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments in the path."""
        parts = (part for segment in (*self.segments, self.file) for part in segment)
        return frozenset(part.name for part in parts if isinstance(part, _Argument) and part.values is None)

    @property
    def covers_root(self) -> bool:
        """True where the path is all state of the server."""
        return self.state is None and not self.segments

    @property
    def is_fixed(self) -> bool:
        """True where the path is the same for every call."""
        return self.state is None and not self.arguments


def _above(places: Iterable[Path], tops: set[Path]) -> dict[Path, None]:
    """Return the folders above these places, up to one of `tops`."""
    found: dict[Path, None] = {}
    for place in places:
        above = place[:-1]
        while above not in tops and above not in found:
            found[above] = None
            above = above[:-1]
    return found


_ABOVE: Final = ".."
_LEADS_AWAY: Final = ("", "/", "\\", "~")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{[^{}]+\}|[/\\]|[^{}/\\]+|.", re.DOTALL)
_PLACEHOLDER: Final = re.compile(
    rf"(?P<name>[^?=]+?)(?P<optional>\?)?(?:=(?P<default>.*?))?(?::(?P<kind>{'|'.join(_KINDS)}))?", re.DOTALL
)


def parse_path(state: ServerState, setting: str, text: str) -> PathTemplate | None:
    """Parse a declared path of a server; None for a file that the server was not given.

    Args:
        setting: the setting of the path, for an error.

    Raises:
        ConfigError: a brace without its partner, a path that leads out of its root, or two files.
    """
    server = f"server {state.server!r}"
    parts: list[_Part] = []
    for token in _TOKEN.findall(text):
        argument = _placeholder(state, token[1:-1]) if token[0] == "{" and len(token) > 2 else None
        if token in ("{", "}") or (argument is not None and not argument.name):
            expected = 'each "{" to have its "}" around an argument\'s name ("{{" and "}}" for literal braces)'
            raise ConfigError(server, setting, repr(text), expected)
        if token in ("{{", "}}"):
            parts.append(token[0])
        elif argument is not None:
            parts.append(argument)
        else:
            parts.append(token)
    files = [at for at, part in enumerate(parts) if isinstance(part, _Argument) and part.is_file]
    if len(files) > 1:
        raise ConfigError(server, setting, repr(text), "one file in each path")
    if files:
        # Text before a file is a habit from paths without ":file"; the place of the file does not depend on it.
        named = tuple(parts[files[0] :])
        if isinstance(named[0], _Argument) and named[0].values == ():
            return None
        # The existence of the folder that contains a file goes without saying.
        hidden = isinstance(named[0], _Argument) and named[0].kind == "folder"
        shown = "" if hidden else "/".join((*state.files, "")) + _shown(named)
        return PathTemplate(shown, (), file=named, state=state)
    segments: list[list[_Part]] = [[]]
    for part in parts:
        if part in ("/", "\\"):
            segments.append([])
        else:
            segments[-1].append(part)
    kept: list[tuple[_Part, ...]] = []
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
    # "/" alone can mean the server's root or all shared state: it is treated as both.
    bases: tuple[Path, ...] = (SHARED, (*state.root, *SHARED) if kept else state.root)
    return PathTemplate("/" + "/".join(shown), bases, tuple(kept))


def arguments_of(text: str, *, optional: bool = True) -> frozenset[str]:
    """Return the names of the arguments in a declared path.

    Args:
        optional: include those that a call need not have.
    """
    found: set[str] = set()
    for token in _TOKEN.findall(text):
        match = _PLACEHOLDER.fullmatch(token[1:-1]) if token[0] == "{" and len(token) > 2 else None
        if match is None or (match["kind"] and match["name"].startswith((_ANY, *_OF_SERVER))):
            continue
        if optional or not (match["optional"] or match["default"] is not None):
            found.add(match["name"])
    return frozenset(found)


def _shown(parts: Iterable[_Part]) -> str:
    suffix = {"folders": ":folders"}
    return "".join(part if isinstance(part, str) else f"{{{part.name}{suffix.get(part.kind, '')}}}" for part in parts)


def _placeholder(state: ServerState, text: str) -> _Argument:
    """Return the argument of `{text}`; its name is empty if there is none."""
    match = _PLACEHOLDER.fullmatch(text)
    if match is None or text.startswith(":"):
        return _Argument("")
    name, default = match["name"], match["default"]
    argument = _Argument(name, _KINDS.get(match["kind"] or "", "text"), bool(match["optional"]), default)
    if argument.is_file and name == _ANY:
        return replace(argument, values=(None,))
    if not argument.is_file or not name.startswith(_OF_SERVER):
        return argument
    values = tuple(state.options(name)) or ((default,) if default is not None else ())
    return replace(argument, values=values) if values or argument.optional else argument


_ANY: Final = "*"
"""Name of an argument that stands for every file."""
_OF_SERVER: Final = ("--", "$")
"""Beginnings of the names of a server's command-line options and environment variables."""


def _file_values(
    parts: tuple[_Part, ...], arguments: Mapping[str, object], is_reference: IsReference
) -> list[object] | None:
    """Return the file names for `{argument:file}` and the parts behind it, one for each combination of list elements;
    None where a value is unknown."""
    first, *behind = parts
    assert isinstance(first, _Argument)
    values = _look_up(arguments, first, is_reference)
    for part in behind:
        ends: list[object] | None = [part] if isinstance(part, str) else _look_up(arguments, part, is_reference)
        if values is None or ends is None or len(values) * len(ends) > MAX_PATHS:
            return None
        texts = [str(end) for end in ends if isinstance(end, str | int)]
        folders = [value for value in values if isinstance(value, str)]
        if len(texts) < len(ends) or len(folders) < len(values):
            return None
        if not isinstance(part, str) and any(text[:1] in _LEADS_AWAY for text in texts):
            if first.values is None:
                return None  # for an absolute name, some servers ignore the folder before it, others join the two
            # A folder that the server was given is for relative names only.
            texts = [text for text in texts if text[:1] not in _LEADS_AWAY]
        joined: list[object] = [folder + text for folder in folders for text in texts]
        values = joined
    return values


def _fill(segment: tuple[_Part, ...], arguments: Mapping[str, object], is_reference: IsReference) -> list[str] | None:
    """Return the texts of one segment, one for each combination of list elements; None where a value is unknown,
    `_ABOVE` where one leads out of its place."""
    texts = [""]
    for part in segment:
        if isinstance(part, str):
            texts = [text + part for text in texts]
            continue
        values = _look_up(arguments, part, is_reference)
        if values is None or len(texts) * len(values) > MAX_PATHS:
            return None
        # Each value is normalised before it is joined to the literal text around it, so that `x/../y` and `y` give
        # the same text in `log-{name}`.
        ends = [end for value in values if (end := _normalised(value)) is not None]
        if len(ends) < len(values):
            return None
        if _ABOVE in ends:
            return [_ABOVE]
        if part.kind == "nocase":
            ends = [end.casefold() for end in ends]
        texts = [text + end for text in texts for end in ends]
    return texts


def _look_up(arguments: Mapping[str, object], argument: _Argument, is_reference: IsReference) -> list[object] | None:
    """Return the values of an argument, through lists; None where one is a reference, or missing (or null) without
    being optional or having a default."""
    if argument.values is not None:
        return list(argument.values)
    values: list[object] = [arguments]
    name = argument.name
    for step in [name] if name in arguments else name.split("."):
        below: list[object] = []
        for value in values:
            if value is _DEFAULT:
                below.append(value)
                continue
            known = isinstance(value, Mapping)
            inner = cast("Mapping[str, object]", value).get(step) if known else None
            if inner is None:
                if known and argument.default is not None:
                    below.append(_DEFAULT)
                elif not known or not argument.optional:
                    return None
                continue
            below += cast("list[object]", inner) if isinstance(inner, list) and inner else [inner]
        if any(is_reference(item) for item in below):
            return None
        values = below
    return [argument.default if value is _DEFAULT else value for value in values]


_DEFAULT: Final = object()
"""Stands for the default of an argument while its other parts are looked up."""


def _normalised(value: object) -> str | None:
    """Return the value as segments joined by `/`; `_ABOVE` where it leads out of its place, None where it has none."""
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
        except ValueError:  # an integer with more digits than Python converts to text
            return None
    return None
