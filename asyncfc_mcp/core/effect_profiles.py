"""Effect profiles: what the tools of well-known servers do, which these declare coarsely or not at all.

Also the state that the processes of these servers keep. Pure. Owns the form of a profile, and the decision which tools
of a server are those that it describes. A server is free to choose its name and those of its tools, so a profile is
believed as far as names and arguments agree, and never against an annotation that says more. Reading the files of
profiles is left to `config.profile_files`, the choice for a server to `bridge.server_profiles`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, cast

from asyncfc_mcp.core.path_templates import arguments_of
from asyncfc_mcp.quotation import said

HINTS: Final = frozenset({"readOnlyHint", "destructiveHint"})
"""Annotations that say what a tool does."""

ProcessState: TypeAlias = Literal["none", "folder", "session", "shared"]
"""What the process of a server keeps from one call to the next. `none`: nothing that a call can observe; `folder`:
nothing but the working directory or the roots of its session; `session`: state of a session; `shared`: state that all
sessions may have in common."""
PROCESS_STATES: Final[Sequence[ProcessState]] = ("none", "folder", "session", "shared")
_AFTER_PACKAGE: Final = ("", *"@/:[=<>~!")
"""Beginnings of what may follow the name of a package: a version, extras, the tag of an image, a file of it."""


@dataclass(frozen=True, slots=True)
class ToolProfile:
    """Effect of one tool according to a profile."""

    server: str
    """Name of the profile."""
    reads: tuple[str, ...] = ()
    """Declared paths, as in the configuration."""
    writes: tuple[str, ...] = ()
    arguments: frozenset[str] = frozenset()
    """Arguments of the tool whose meaning is known."""
    despite_annotations: bool = False
    """True where the server annotates a tool that only reads as one that writes."""
    caution: str = ""
    """Reason, in words, why its usual effect applies as well; empty if it does not."""

    @property
    def required(self) -> frozenset[str]:
        """Arguments without which the tool is another one."""
        texts = (*self.reads, *self.writes)
        return frozenset(name.partition(".")[0] for text in texts for name in arguments_of(text, optional=False))


@dataclass(frozen=True, slots=True)
class EffectProfile:
    """Effects of one well-known server's tools, and the state of its process."""

    name: str
    tools: Mapping[str, ToolProfile]
    packages: tuple[str, ...] = ()
    """Names of the packages, or ends of the names of the images, that the server comes in."""
    process_state: ProcessState | None = None
    """None: not known."""
    process_state_note: str = ""
    """That state in words; empty for `none`."""

    @property
    def is_per_session(self) -> bool:
        """True if each session needs a process of its own: with its state, or its folder."""
        return self.process_state in ("folder", "session")

    @property
    def is_stateless(self) -> bool:
        """True if nothing is lost when the process ends between two calls, and is started again in the same folder."""
        return self.process_state in ("none", "folder")

    @classmethod
    def parse(cls, name: str, data: Mapping[str, Any]) -> "EffectProfile":
        """Return the profile in a file's JSON (see `docs/profiles.md`)."""
        every = data.get("every", {})
        tools = {
            tool: ToolProfile(
                name,
                (*every.get("reads", ()), *declared.get("reads", ())),
                (*every.get("writes", ()), *declared.get("writes", ())),
                frozenset(declared.get("arguments", ())),
                declared.get("despite_annotations", False),
            )
            for tool, declared in data["tools"].items()
        }
        packages = (each.split()[-1] for each in data.get("package", "").split(";") if each.strip())
        state, note = data.get("process_state"), data.get("process_state_note", "")
        return cls(name, tools, tuple(packages), state, note)

    def is_named_by(self, word: str) -> bool:
        """Return whether a word of a command line is a package of the server: by itself, with a version, as a Python
        module, or as a part of a path or of the name of an image."""
        return any(_is_package(package, word) for package in self.packages)

    def tool(self, definition: Mapping[str, object], hidden: frozenset[str] = frozenset()) -> ToolProfile | None:
        """Return the effect of a tool by its definition in a listing; None if it is not the tool that is described.

        Its usual effect (annotations, `ordering`) applies as well where the tool has an argument that is not known,
        since that can name another file or object, or where an annotation says that the tool writes and the profile
        says that it does not.

        Args:
            hidden: arguments of the tool that the configuration took out of the definition.
        """
        known = self._described(definition, hidden)
        if known is None:
            return None
        unknown = sorted(_arguments(definition) - known.arguments)
        if unknown:
            return replace(known, caution=f"argument {said(unknown[0], 60)} is unknown")
        if not known.writes and not known.despite_annotations and _says_that_it_writes(definition):
            return replace(known, caution="its annotations say that it writes")
        return known

    def fits(self, definitions: Sequence[Mapping[str, object]]) -> int:
        """Return how many tools of a listing are described; 0 if these are less than half of the listing: then it is
        another server of that name."""
        described = sum(self._described(definition) is not None for definition in definitions)
        return described if described * 2 >= len(definitions) else 0

    def _described(self, definition: Mapping[str, object], hidden: frozenset[str] = frozenset()) -> ToolProfile | None:
        name = definition.get("name")
        known = self.tools.get(name) if isinstance(name, str) else None
        return known if known is not None and known.required <= _arguments(definition) | hidden else None


def best_fit(profiles: Iterable[EffectProfile], definitions: Sequence[Mapping[str, object]]) -> EffectProfile | None:
    """Return the profile that describes the most tools of a listing; None if none fits."""
    fits = [(profile.fits(definitions), profile) for profile in profiles]
    number, best = max(fits, key=lambda fit: fit[0], default=(0, None))
    return best if number else None


def _is_package(package: str, word: str) -> bool:
    """Return whether a word is a package: `@playwright/mcp@latest`, `mcp-server-git[extra]==2.0`, `mcp_server_git`,
    `/usr/bin/mcp-server-git`, `node_modules/@playwright/mcp/cli.js`, `ghcr.io/github/github-mcp-server:v1`."""
    if word == package.replace("-", "_"):
        return True
    is_image = "/" in package and package[0] != "@"
    if is_image and word[:1] in ("/", ".", "~"):
        return False  # a folder, which may have any name
    text = word.replace("\\", "/")
    begin = text.find(package)
    while begin >= 0:
        before, after = text[:begin], text[begin + len(package) :]
        # `x-` before it or `-x` behind it would make it another package.
        if before[-1:] in ("", "/") and (after[:1] in _AFTER_PACKAGE or after in (".exe", ".cmd")):
            return True
        begin = text.find(package, begin + 1)
    return False


def _arguments(definition: Mapping[str, object]) -> frozenset[str]:
    schema = definition.get("inputSchema")
    properties = cast("Mapping[str, object]", schema).get("properties") if isinstance(schema, dict) else None
    return frozenset(cast("Mapping[str, object]", properties)) if isinstance(properties, dict) else frozenset()


def _says_that_it_writes(definition: Mapping[str, object]) -> bool:
    annotations = definition.get("annotations")
    hints = cast("Mapping[str, object]", annotations if isinstance(annotations, dict) else {})
    if hints.get("readOnlyHint") is True:
        return False
    return hints.get("readOnlyHint") is False or hints.get("destructiveHint") is True
