"""Options that select a bridge, of commands that show what it does.

Owns their parsing. Leaves finding the bridge, or its journal, to the commands.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def bridge_options(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds the options that select a bridge.

    Args:
        default: the bridge that is meant without them.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in (
            click.option(
                "--auth-token-env", metavar="NAME", help="Environment variable with the bearer token of that bridge."
            ),
            click.option(
                "--url", metavar="URL", help="A bridge over HTTP that runs, such as http://127.0.0.1:8642/mcp."
            ),
            click.option(
                "--config",
                "config_file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                callback=_expanded,
                help=f"Configuration file of the bridge. Default: {default}.",
            ),
        ):
            function = decorate(function)
        return function

    return add


def _expanded(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    return None if file is None else file.expanduser()


def token_of(url: str | None, variable: str | None) -> str | None:
    """Return the token of the bridge at a URL, and take it out of the environment.

    Raises:
        UsageError: there is no URL.
        MissingToken, UnsendableToken: the variable has none.
    """
    if variable is None:
        return None
    if url is None:
        raise click.UsageError("--auth-token-env belongs to --url")
    from asyncfc_mcp.transports.http.auth.bearer_token import take_token

    return take_token(os.environ, variable)


def check_one(config_file: Path | None, url: str | None) -> None:
    """
    Raises:
        UsageError: two bridges are named.
    """
    if config_file is not None and url is not None:
        raise click.UsageError("expected one of --config FILE and --url URL; found both")
