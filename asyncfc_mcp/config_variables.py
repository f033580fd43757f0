"""Variables in an entry: `${NAME}`, `${env:NAME}`, `${NAME:-default}` and the few names that hosts fill in.

Owns what is replaced and what is left as it is. Where a shell or the program may fill in a variable itself (command
and arguments), an unknown one stays; elsewhere it is `Unset`, since a URL or a header with `${…}` in it cannot work.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Final

from asyncfc_mcp.redaction import shown_name

_VARIABLE: Final = re.compile(
    r"\$\{(?:(?P<asked>(?:input|command|config):[^}]*)|(?P<slash>/)"
    r"|(?:env:(?P<env>[^}:]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))(?::-(?P<default>(?:[^{}]|\{[^{}]*\})*))?)\}"
    r"|\$\{(?P<other>[^{}]*)\}?"
)
_SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ksh", "ash", "fish"})


class Unset(Exception):
    """A variable that is needed has no value.

    Args:
        found: what was found, without a secret.
        expected: what to do about it.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


class Variables:
    """The values that variables of one entry have.

    Args:
        environ: the bridge's own environment.
        own: the entry's `env`, which its process will have; it wins.
    """

    def __init__(self, environ: Mapping[str, str], own: Mapping[str, str] | None = None) -> None:
        self._environ, self._own = environ, own or {}

    def expand(
        self, text: str, left: Callable[[str], None], *, strict: bool = False, script: bool = False, raw: bool = False
    ) -> str:
        """The text with its variables replaced. Values are not expanded again.

        Args:
            left: called for each `${…}` that is left as it is, with what people may see of it.
            strict: a variable without a value is an error instead.
            script: the text is a shell's script, which has variables of its own and fills in all others.
            raw: a value's line end at its end stays; it is a leftover of the file that it was read from elsewhere.

        Raises:
            Unset: a variable has no value, or only the host could ask for it.
        """

        def variable(match: re.Match[str]) -> str:
            if match["slash"]:
                return os.sep
            if match["other"] is not None:
                if not script:
                    left(f"${{{shown_name(match['other'])}}}")
                return match[0]
            if match["asked"]:
                if script and match["asked"].startswith("command:"):  # a substring, to a shell
                    return match[0]
                kind, _, rest = match["asked"].partition(":")
                found = f"found ${{{kind}:{shown_name(rest)}}}, which only the host can fill in"
                raise Unset(found, "an environment variable such as ${NAME}")
            name, default = match["env"] or match["name"], match["default"]
            if script and match["env"] is None and (_assigned(name, text) or default is not None):
                return match[0]
            value = self._own.get(name, self._environ.get(name))
            if value is not None and not raw:
                value = value.rstrip("\r\n")
            if default is not None:
                return value or self.expand(default, left, strict=strict, script=script, raw=raw)
            if value is None:
                value = _of_the_host(name)
            if value is None:
                shown = shown_name(name)
                if strict and shown != name:  # most likely the value itself was pasted
                    raise Unset(f"found ${{{shown}}}, and the environment has no such variable", "a variable's name")
                if strict:
                    found = f"found ${{{name}}}, and the environment has no {name}"
                    raise Unset(found, f"{name} to be set, or ${{{name}:-default}}")
                left(f"${{{shown}}}")
                return match[0]
            return value

        return _VARIABLE.sub(variable, text) if "${" in text else text

    def table(
        self, texts: Mapping[str, str], left: Callable[[str, str], None], unset: Callable[[str, Unset], Exception]
    ) -> dict[str, str]:
        """The entry's `env` with its variables replaced: by the bridge's own, else by others of this table.

        Args:
            left: called with a key and a `${…}` of its value that is left as it is.
            unset: makes the error for a key whose value needs a variable that has none.
        """
        done: dict[str, str] = {}

        def value(key: str, pending: Sequence[str]) -> str:
            # Of the others only those that are not being worked out: none is replaced by itself.
            own = {
                match["name"] or match["env"]: value(name, [*pending, name])
                for match in _VARIABLE.finditer(texts[key])
                if (name := match["name"] or match["env"]) in texts
                and name not in self._environ
                and name not in pending
            }
            return Variables({**own, **self._environ}).expand(texts[key], partial(left, key), strict=True, raw=True)

        for key in texts:
            try:
                done[key] = value(key, [key])
            except Unset as exc:
                raise unset(key, exc) from None
        return done


def is_script(command: str, args: Sequence[str], index: int) -> bool:
    """Whether this argument is the script of a shell that is the command, as in `bash -c '…'`."""
    shell = PurePath(command).name.removesuffix(".exe")
    return shell in _SHELLS and index > 0 and re.fullmatch(r"-[a-z]*c", args[index - 1]) is not None


def _assigned(name: str, script: str) -> bool:
    """Whether a shell's script gives this variable a value of its own."""
    word = re.escape(name)
    return re.search(rf"(?:^|[\s;&|(){{]){word}\+?=|\bfor\s+{word}\b|\bread\b[^;|&\n]*\b{word}\b", script) is not None


def _of_the_host(name: str) -> str | None:
    """What Cursor and VS Code fill in for a variable of theirs."""
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
    except OSError:  # the folder that we were started in is gone
        return None
