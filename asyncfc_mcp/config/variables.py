"""Variables of server entries: those of the environment, of files and the keyring, and the predefined ones of hosts.

Owns the expansion of `${NAME}`, `${env:NAME}`, `${NAME:-default}`, `${file:PATH}` and `${keyring:NAME}`. In a command
and its arguments an unknown variable is kept, since a shell or the program may expand it; elsewhere it is `Unset`,
since a URL or a header that contains `${…}` cannot work.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Final

from asyncfc_mcp.config.secret_sources import SourceUnusable, read_source, shown_source
from asyncfc_mcp.redaction import shown_name

_VARIABLE: Final = re.compile(
    r"\$\{(?:(?P<asked>(?:input|command|config|caller):[^}]*)|(?P<slash>/)"
    r"|(?P<source>file|keyring):(?P<at>(?:[^{}]|\{[^{}]*\})+)"
    r"|(?:env:(?P<env>[^}:]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))(?::-(?P<default>(?:[^{}]|\{[^{}]*\})*))?)\}"
    r"|\$\{(?P<other>[^{}]*)\}?"
)
_SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ksh", "ash", "fish"})


class Unset(Exception):
    """A required variable has no value.

    Args:
        found: the variable and the problem, without secrets.
        expected: a remedy.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


class Variables:
    """Values of the variables of one entry.

    Args:
        environ: the bridge's own environment.
        own: the entry's `env`, which the server's process will have; it takes precedence.
        folder: to which `${file:PATH}` is relative.

    Attributes:
        credentials: the values that were read from files and the keyring.
    """

    def __init__(self, environ: Mapping[str, str], own: Mapping[str, str] | None = None, *, folder: str = "") -> None:
        self._environ, self._own, self._folder = environ, own or {}, folder
        self.credentials: set[str] = set()

    def of_entry(self, own: Mapping[str, str]) -> "Variables":
        """Return the variables of an entry with this `env`, which share their credentials with these."""
        variables = Variables(self._environ, own, folder=self._folder)
        variables.credentials = self.credentials
        return variables

    def expand(
        self,
        text: str,
        left: Callable[[str], None],
        *,
        strict: bool = False,
        word: bool = False,
        script: bool = False,
        raw: bool = False,
    ) -> str:
        """Return the text with its variables expanded. Values are not expanded again.

        Args:
            left: called for each `${…}` that is kept, with its form for display.
            strict: raise an error for a variable without a value.
            word: the text is a word of a command line, which other processes can read; a secret in it is refused.
            script: the text is a shell script, which sets variables of its own and expands all others.
            raw: keep a line end at the end of a value. Elsewhere it is removed, as a remnant of the file that the value
                was read from.

        Raises:
            Unset: a variable has no value, only the host can resolve it, or it must not be used here.
        """

        def variable(match: re.Match[str]) -> str:
            if match["slash"]:
                return os.sep
            if match["source"] is not None:
                if script:  # a substring expansion in a shell
                    return match[0]
                return self._credential(match["source"], match["at"], left, word=word)
            if match["other"] is not None:
                if not script:
                    left(f"${{{shown_name(match['other'])}}}")
                return match[0]
            if match["asked"]:
                if script and match["asked"].startswith(("command:", "caller:")):  # a substring expansion in a shell
                    return match[0]
                kind, _, rest = match["asked"].partition(":")
                if kind == "caller":
                    found = f"found ${{caller:{shown_name(rest)}}}, which is another value for each caller"
                    raise Unset(found, 'it in "headers" of a server with "url" only')
                found = f"found ${{{kind}:{shown_name(rest)}}}, which only the host can resolve"
                raise Unset(found, "an environment variable such as ${NAME}")
            name, default = match["env"] or match["name"], match["default"]
            if script and match["env"] is None and (_assigned(name, text) or default is not None):
                return match[0]
            value = self._own.get(name, self._environ.get(name))
            if value is not None and not raw:
                value = value.rstrip("\r\n")
            if default is not None:
                return value or self.expand(default, left, strict=strict, word=word, script=script, raw=raw)
            if value is None:
                value = _of_the_host(name)
            if value is None:
                shown = shown_name(name)
                if strict and shown != name:  # most likely the value was pasted in place of a name
                    raise Unset(f"found ${{{shown}}}, and the environment has no such variable", "a variable's name")
                if strict:
                    found = f"found ${{{name}}}, and the environment has no {name}"
                    raise Unset(found, f"{name} to be set, or ${{{name}:-default}}")
                left(f"${{{shown}}}")
                return match[0]
            return value

        return _VARIABLE.sub(variable, text) if "${" in text else text

    def _credential(self, kind: str, name: str, left: Callable[[str], None], *, word: bool) -> str:
        """Return the value of `${file:…}` or `${keyring:…}`."""
        shown = shown_source(kind, name)
        if word:
            raise Unset(f"found {shown} in a command line, which other processes can read", 'it in "env"')
        name = self.expand(name, left, strict=True)
        try:
            value = read_source(kind, name, self._folder)
        except SourceUnusable as exc:
            raise Unset(f"found {shown}, {exc.problem}", exc.remedy) from None
        self.credentials.add(value)
        return value

    def table(
        self, texts: Mapping[str, str], left: Callable[[str, str], None], unset: Callable[[str, Unset], Exception]
    ) -> dict[str, str]:
        """Return the entry's `env` with its variables expanded, from the bridge's environment or from this table.

        Args:
            left: called with a key and a `${…}` of its value that is kept.
            unset: creates the error for a key whose value needs a variable without a value.
        """
        done: dict[str, str] = {}

        def value(key: str, pending: Sequence[str]) -> str:
            # Keys that are being expanded are left out, so that no value contains itself.
            own = {
                match["name"] or match["env"]: value(name, [*pending, name])
                for match in _VARIABLE.finditer(texts[key])
                if (name := match["name"] or match["env"]) in texts
                and name not in self._environ
                and name not in pending
            }
            variables = Variables({**own, **self._environ}, folder=self._folder)
            variables.credentials = self.credentials
            return variables.expand(texts[key], partial(left, key), strict=True, raw=True)

        for key in texts:
            try:
                done[key] = value(key, [key])
            except Unset as exc:
                raise unset(key, exc) from None
        return done


def is_script(command: str, args: Sequence[str], index: int) -> bool:
    """Return whether an argument is the script of a shell, as in `bash -c '…'`."""
    shell = PurePath(command).name.removesuffix(".exe")
    return shell in _SHELLS and index > 0 and re.fullmatch(r"-[a-z]*c", args[index - 1]) is not None


def _assigned(name: str, script: str) -> bool:
    """Return whether a shell script sets this variable."""
    word = re.escape(name)
    return re.search(rf"(?:^|[\s;&|(){{]){word}\+?=|\bfor\s+{word}\b|\bread\b[^;|&\n]*\b{word}\b", script) is not None


def _of_the_host(name: str) -> str | None:
    """Return the value of a predefined variable of Cursor and VS Code."""
    try:
        match name:
            case "userHome":
                return os.path.expanduser("~")
            case "workspaceFolder":
                return os.getcwd()
            case "workspaceFolderBasename":
                return os.path.basename(os.getcwd())
            case "pathSeparator":
                return os.sep
            case _:
                return None
    except OSError:  # the working directory was deleted
        return None
