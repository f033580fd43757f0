"""State paths: parts of the state tree, and the place of a server in it.

Pure. Owns what a path is. Paths with arguments are left to `path_templates`, the effects of tools to `effects`, the
configuration of places to `state_roots`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str, ...]
"""State path: `("files",)` is all state of the server `files`, `("files", "repo", "a")` a part of it. A path contains
all paths below it.

The first segment is the name of a server, `""` for state shared by several servers, or that of `FILES`."""

SHARED: Final[Path] = ("",)
"""Root of state that belongs to no single server."""

FILES: Final[Path] = ("file://",)
"""Root of the files of this machine, shared by all servers on it: real absolute paths. No declared segment can be
`file://`, so below another root it is a separate place as well."""

EXISTENCE: Final = "//"
"""Segment below a folder that stands for the existence of the folder itself, apart from what it contains. No file has
this name."""

Locate: TypeAlias = Callable[[Sequence[object]], Sequence[Path] | None]
"""Maps file names in arguments to their places below `FILES`; None where these cannot be determined."""

MAX_PATHS: Final = 1_000
"""Maximum paths that lists in one call's arguments produce for one declared path; beyond it, the parent path is
used."""

MAX_DEPTH: Final = 64
"""Maximum segments of a path; a deeper one is cut to the path that contains it."""


def overlap(a: Path, b: Path) -> bool:
    """Return true where one of two paths contains the other."""
    common = min(len(a), len(b))
    return a[:common] == b[:common]


@dataclass(frozen=True, slots=True)
class ServerState:
    """Place of one server's state in the state tree."""

    server: str
    root: Path
    """Effect of its tools that declare only that they read or write."""
    files: Path = FILES
    """Root of its files: `FILES`, or below its own root where they are not on this machine."""
    locate: Locate = lambda values: None
    locate_repositories: Locate = lambda values: None
    """As `locate`, for folders of Git repositories."""
    options: Callable[[str], Sequence[str]] = lambda name: ()
    """Returns the values of an option of the server's command line (`--name`), or of a variable of its environment
    (`$NAME`)."""
    shared: bool = False
    """True where the configuration gives it a root (`state`) that other servers can share."""

    @property
    def shown(self) -> str:
        """The root as text."""
        return "/".join(self.root)

    def meets(self, other: "ServerState") -> bool:
        """Return true where one of the two roots contains the other."""
        return overlap(self.root, other.root)

    def places(self, path: Path) -> tuple[Path, ...]:
        """Return a path, and its place below the root where it is outside: a tool of this server that declares only
        that it writes may write there."""
        if path[: len(self.root)] == self.root:
            return (path,)
        return path, (*self.root, *path)
