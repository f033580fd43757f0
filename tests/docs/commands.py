"""Commands of pages: finding them in blocks and in the text, and comparing their options with those that exist.

Pure. Leaves running them to `test_commands`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from asyncfc_mcp.cli.main import cli
from tests.docs.pages import Block, name_of

BRIDGE = "asyncfc-mcp"
SHELLS = ("sh", "bash", "console")
OTHERS = (
    "python3", "python", "pip", "pipx", "uv", "uvx", "npx", "npm", "node", "apt-get", "sudo", "docker",
    "chmod", "mkdir", "cat", "curl", "git", "gh", "jq", "kill", "keyring", "openssl", "cosign", "systemctl",
    "claude", "codex", "code", "gemini", "opencode", "goose", ".", "cd", "echo", "eval", "export", "mkdocs", "pytest",
    "xargs", "sed", "grep", "rm", "cp", "ls", "twine", "build", "mcp-publisher", "pypi-attestations",
    "docker-compose", "otelcol", "prometheus", "grafana", "ssh", "tar", "sha256sum",
)  # fmt: skip
"""Programs that are not the bridge: they are not run. One that is not listed is a mistake, or belongs here."""
_ASSIGNED = re.compile(r"[A-Z][A-Z0-9_]*=.*")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+|…|.*/(?:FILE|NAME|HOST|URL)|.*<.*>")


@dataclass(frozen=True)
class Command:
    """One command: its place, its words, and the reason why its block is not run, if it has one."""

    place: str
    words: tuple[str, ...]
    excuse: str | None = None

    @property
    def program(self) -> str:
        """The name of the program, without its folder."""
        return Path(self.words[0]).name or self.words[0]

    @property
    def has_placeholders(self) -> bool:
        """Whether a word stands for something else, as FILE does."""
        return any(_PLACEHOLDER.fullmatch(word) for word in self.words[1:])

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def in_block(block: Block) -> Iterator[Command]:
    """Yield the commands of a block in a shell's language."""
    text = block.text.replace("\\\n", " ")
    console = block.language == "console" or re.search(r"^\$ ", text, re.MULTILINE) is not None
    for number, line in enumerate(text.splitlines()):
        if console and not line.startswith("$ "):
            continue  # output
        for words in _simple(line.removeprefix("$ ")):
            yield Command(f"{block.page}:{block.line + number + 1}", words, block.excuse)


def in_text(page: Path) -> Iterator[Command]:
    """Yield the commands of the bridge in the text of a page, as far as they are whole."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for span in re.findall(rf"`({BRIDGE} [^`\n]+)`", text):
        for words in _simple(span):
            yield Command(name_of(page), words)


def _simple(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands of a line: without variables in front, redirections and options in brackets."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a here-document, or a quote that goes on in the next line
        return
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "|", ";", "&") and "[" not in "".join(part):
            while part and _ASSIGNED.fullmatch(part[0]):
                part.pop(0)
            if part:
                yield tuple(part)
            part = []
        else:
            part.append(word)


def plain(words: tuple[str, ...]) -> list[str]:
    """Return the words after the program, without redirections, and with options in brackets as if they were given."""
    found: list[str] = []
    skipped = False
    for word in words[1:]:
        if skipped or word in ("|", "…"):
            skipped = False
        elif word in (">", ">>", "2>", "<"):
            skipped = True
        elif text := word.strip("[]").removesuffix("…"):
            found.append(text)
    return found


def wrong_option(words: tuple[str, ...]) -> str | None:
    """Return what is wrong with the name of a command or an option of the bridge; None if all of them exist."""
    args = plain(words)
    command: click.Command = cli
    name = BRIDGE
    while isinstance(command, click.Group):
        while args and args[0] in ("--help", "-h", "--version"):
            return None
        if not args:
            return None
        name = args.pop(0)
        found = command.commands.get(name)
        if found is None:
            return f"there is no command {name!r}"
        command = found
    context = click.Context(command, info_name=name)
    try:
        command.make_parser(context).parse_args(args)
    except click.UsageError as wrong:
        # A placeholder may stand in place of the value of the last option.
        return wrong.format_message()
    return None
