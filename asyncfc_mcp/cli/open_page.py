"""`asyncfc-mcp open`: the page of a running bridge, in the browser.

Owns the one-time key's way into the browser, and the texts. Leaves finding the page to `page_address`. The address with
the key is printed on stdout where it is asked for, or no browser can be opened, and nowhere else.
"""

import os
from pathlib import Path

import click

from asyncfc_mcp.cli.bridge_options import bridge_options, check_one, token_of
from asyncfc_mcp.cli.process import log_to_stderr, run


@click.command("open", short_help="Open the page of a running bridge in the browser.")
@bridge_options("that of the only daemon")
@click.option("--print", "prints", is_flag=True, help="Print the address, which can be opened once, within 60 s.")
def open_page(config_file: Path | None, url: str | None, auth_token_env: str | None, prints: bool) -> None:
    """Open the page that shows calls, servers and the time saved: that of the daemon which sessions share, or of a
    bridge over HTTP.

    Prints the address if there is no browser, as over SSH: forward its port then.
    """
    log_to_stderr(False)
    check_one(config_file, url)
    token = token_of(url, auth_token_env)
    base, key = _with_key(config_file, url, token)
    address = f"{base}#key={key}"
    from asyncfc_mcp.cli.login import has_display

    if not prints and has_display(os.environ) and _opens(address):
        click.echo(f"Opened {base} in the browser. If nothing is shown: asyncfc-mcp open --print", err=True)
        return
    click.echo(address)
    if not prints:
        click.echo("There is no browser here: open this address yourself, once and within 60 s.", err=True)


def _opens(address: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(address)
    except (OSError, webbrowser.Error):
        return False


def _with_key(config_file: Path | None, url: str | None, token: str | None) -> tuple[str, str]:
    """Return the address of a page and a one-time key.

    Raises:
        BridgeError: there is none; the text says what to do.
    """
    from asyncfc_mcp.cli.page_address import daemon_page, http_page

    if url is None:
        address = daemon_page(os.environ, os.getcwd(), config_file)
        assert address.key is not None
        return address.url, address.key
    from asyncfc_mcp.cli.page_client import connected

    async def ask() -> tuple[str, str]:
        async with connected(http_page(url, token)) as client:
            return client.url, await client.key()

    return run(ask)
