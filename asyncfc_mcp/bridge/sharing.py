"""Sharing of servers between sessions that have joined one daemon: one instance for all of them, or one for each.

Pure. Owns the decision and its reason, from a server's configuration and its effect profile. Leaves finding the profile
to `server_profiles`, and the instances to `caller_connections`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Final

from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.core.effect_profiles import EffectProfile

RUNS_PROJECT: Final[Mapping[str, frozenset[str]]] = {
    "bun": frozenset({"run"}),
    "bundle": frozenset({"exec"}),
    "cargo": frozenset({"run"}),
    "deno": frozenset({"task"}),
    "go": frozenset({"run"}),
    "hatch": frozenset({"run"}),
    "npm": frozenset({"run", "run-script", "start"}),
    "pdm": frozenset({"run"}),
    "pipenv": frozenset({"run"}),
    "pnpm": frozenset({"run", "start"}),
    "poetry": frozenset({"run"}),
    "rye": frozenset({"run"}),
    "uv": frozenset({"run"}),
    "yarn": frozenset({"run", "start"}),
}
"""Program → its commands that run the project in the working directory."""
FOLDER_OPTIONS: Final = frozenset({
    "--cwd", "--dir", "--directory", "--manifest-path", "--no-project", "--prefix", "--project", "--script", "-C",
})  # fmt: skip
"""Options of these programs with which the project is another one."""
_FILE: Final = re.compile(
    r"[^:@\s]*\.(?:[cm]?[jt]s|py[zc]?|sh|rb|php|pl|lua|jar|exe|json|ya?ml|toml|ini|env|db|sqlite3?|csv|txt|md|log)",
    re.IGNORECASE,
)
"""A relative name of a file, as far as a text can say: package names have no such ending."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Decision about one server."""

    per_session: bool
    """Each session has an instance of its own."""
    reason: str
    """A clause, for users."""


def sharing_of(server: ServerConfig, profile: EffectProfile | None) -> Sharing:
    """Return whether sessions share a server.

    Args:
        profile: that of its listings, or the one that its command line lets expect.
    """
    if server.share != "auto":
        return Sharing(server.share == "session", f'"share": "{server.share}"')
    spec = server.spec
    if isinstance(spec, HttpSpec):
        return Sharing(False, "a server at a URL")
    if profile is not None and profile.is_per_session:
        return Sharing(True, f"{profile.process_state_note} (profile {profile.name})")
    if (text := relative_part(spec)) is not None:
        return Sharing(True, f"{text} depends on the working directory")
    if profile is not None and profile.process_state is not None:
        return Sharing(False, f"no state of a session (profile {profile.name})")
    return Sharing(False, "no state of a session is known")


def words_of(server: ServerConfig) -> Sequence[str]:
    """Return the words of a server's command line; none for one at a URL."""
    return (server.spec.command, *server.spec.args) if isinstance(server.spec, StdioSpec) else ()


def relative_part(spec: StdioSpec) -> str | None:
    """Return the part of a command that depends on the working directory, for users; None if there is none, or the
    configuration gives a directory.

    A part that is taken for a relative path by mistake only costs a process for each session, which then starts like
    without a daemon. Names of packages and images are none, although they have slashes.
    """
    if spec.cwd is not None:
        return None if _is_absolute(spec.cwd) else "its cwd"
    if _is_relative_path(spec.command) or (not _is_absolute(spec.command) and re.search(r"[/\\]", spec.command)):
        return "its command"
    if _runs_project(spec):
        return f"{PurePath(spec.command).name} {spec.args[0]}"
    for number, arg in enumerate(spec.args, 1):
        # Of an option with its value in one word, the value.
        text = arg.partition("=")[2] if arg.startswith("-") else arg
        if _is_relative_path(text) or (_FILE.fullmatch(text) and not _is_absolute(text)):
            return f"argument {number} of its command"
    if name := next((name for name, value in spec.env.items() if _is_relative_path(value)), None):
        return f"its variable {name}"
    return None


def _runs_project(spec: StdioSpec) -> bool:
    program = PureWindowsPath(spec.command).name.lower().removesuffix(".exe").removesuffix(".cmd")
    if not spec.args or spec.args[0] not in RUNS_PROJECT.get(program, ()):
        return False
    return not any(arg.partition("=")[0] in FOLDER_OPTIONS for arg in spec.args)


def _is_relative_path(text: str) -> bool:
    return text in (".", "..") or text.startswith(("./", "../", ".\\", "..\\"))


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", text) is not None
