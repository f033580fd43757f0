"""Options that select the servers to wrap: a configuration, a URL, or a command after `--`.

Owns their parsing and the configuration that they mean. Leaves what is done with it to the commands.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asyncfc_mcp.cli.log_format import FORMAT_VARIABLE, FORMATS, use_format
from asyncfc_mcp.cli.process import hide_secrets, refuse_itself
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import config_for_command, config_for_url, load_config
from asyncfc_mcp.redaction import shown_command


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select the servers to wrap, and `--verbose`."""
    for decorate in reversed(
        (
            click.option(
                "--config",
                "config_file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Configuration file of an MCP host (mcpServers, servers, ...), as JSON, TOML or YAML.",
            ),
            click.option(
                "--url",
                metavar="URL",
                help="Wrap one server at a URL: Streamable HTTP, or HTTP+SSE if the path ends in /sse.",
            ),
            click.option("-v", "--verbose", is_flag=True, help="Log details, and the servers' stderr, to stderr."),
            click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD ARGS...]"),
        )
    ):
        function = decorate(function)
    return function


class SourceCommand(click.Command):
    """A command that accepts another command after `--`.

    If `--` is missing, options of the other command would be parsed as options of this one. A word that is followed by
    options is therefore an error that proposes the correct form. With `--config` or `--url`, words are names of servers
    and tools (`inspect`).
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        at = self._first_word(own)
        separated, word = "--" in args, "" if at is None else own[at]
        # In `serve`, everything after a word belongs to the wrapped command; `inspect` accepts names in any order.
        searched = own if self.name == "inspect" else own[:at]
        source = any(arg.partition("=")[0] in ("--config", "--url") for arg in searched)
        proposal = None
        if at is not None and not separated and not source and self._knows(own[:at]):
            proposal = self._proposal(ctx, own, at, word)
            if proposal is None and any(arg.startswith("-") for arg in own[at + 1 :]):
                before = [*own[:at], "--"]
                proposal = shown_command(["asyncfc-mcp", str(ctx.info_name), *before, *own[at:]])
        if proposal is not None:
            raise click.UsageError(f"specify the server with --config, --url or `--`; did you mean: {proposal}", ctx)
        ctx.meta["names"] = source and not separated
        return super().parse_args(ctx, args)

    def _knows(self, args: list[str]) -> bool:
        """Return whether all options are this command's. Of another one, click says which is meant."""
        known = {name for param in self.params for name in param.opts}
        return all(arg.partition("=")[0] in known for arg in args if arg.startswith("-"))

    def _first_word(self, args: list[str]) -> int | None:
        """Return the index of the first word that is neither an option nor the value of one."""
        options = {name: param for param in self.params if isinstance(param, click.Option) for name in param.opts}
        index = 0
        while index < len(args):
            if not args[index].startswith("-") or args[index] == "-":
                return index
            param = options.get(args[index])
            index += 1 if param is None or param.is_flag else 1 + param.nargs
        return None

    def _proposal(self, ctx: click.Context, args: list[str], at: int, word: str) -> str | None:
        """Return the command line with `--config` or `--url` added, if the word is a file or a URL."""
        is_file = word.endswith((".json", ".jsonc", ".toml", ".yaml", ".yml")) and not os.access(word, os.X_OK)
        option = "--url" if re.match(r"https?://", word) else "--config" if is_file or os.path.isdir(word) else None
        if option is None:
            return None
        return shown_command(["asyncfc-mcp", str(ctx.info_name), *args[:at], option, *args[at:]])


def check_source(config_file: Path | None, url: str | None, command: tuple[str, ...]) -> None:
    """
    Raises:
        UsageError: the options select none, or more than one.
    """
    given = sum((config_file is not None, url is not None, bool(command)))
    if given != 1:
        found = "none" if given == 0 else "more than one"
        raise click.UsageError(f"expected one of --config FILE, --url URL or -- CMD ARGS...; found {found}")


def load(config_file: Path | None, url: str | None, command: tuple[str, ...]) -> BridgeConfig:
    """Return the configuration that the options select; its secrets are kept out of what this process shows.

    Raises:
        UsageError: they select none, or more than one.
        ConfigError: it is wrong.
        WrapsItself: a parent process is a bridge with the same configuration.
    """
    check_source(config_file, url, command)
    if config_file is not None:
        config = load_config(config_file.expanduser(), os.environ)
    else:
        config = config_for_url(url) if url is not None else config_for_command(command)
    refuse_itself(config)
    hide_secrets(config)
    return config


def log_format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that selects the format of the log. It counts before the command runs."""

    def use(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        use_format(os.environ, value)

    return click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        callback=use,
        expose_value=False,
        help=f"Format of the log: text, or one JSON object a line. Default: {FORMAT_VARIABLE}, otherwise text.",
    )(function)
