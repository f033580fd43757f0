"""`asyncfc-mcp top`: its options and its start.

Owns the errors before there is a screen. Leaves the screen to `program`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncfc_mcp.cli.bridge_options import bridge_options, check_one, token_of
from asyncfc_mcp.cli.process import log_to_stderr, run

if TYPE_CHECKING:
    from asyncfc_mcp.cli.page_client import PageClient


@click.command(short_help="Show the calls of a running bridge on a live screen.")
@bridge_options("that of the only daemon")
def top(config_file: Path | None, url: str | None, auth_token_env: str | None) -> None:
    """Show the calls of a daemon, or of the bridge at --url, on a live screen: what runs, what waits and on what, and
    what has ended. `?` shows the keys.
    """
    log_to_stderr(False)
    check_one(config_file, url)
    token = token_of(url, auth_token_env)
    from asyncfc_mcp.cli.top.terminal import check

    check()
    from asyncfc_mcp.cli.page_client import PageClient
    from asyncfc_mcp.cli.top.page_feed import feeding
    from asyncfc_mcp.cli.top.program import Program

    connect = partial(PageClient.connect, config_file, url, token=token)
    with suppress(KeyboardInterrupt):
        run(lambda: _first(connect))  # what cannot be reached at all is an error, and no screen
        run(Program(partial(feeding, connect)).run)


async def _first(connect: "Callable[[], AbstractAsyncContextManager[PageClient]]") -> None:
    async with connect() as client:
        await client.get("overview")
