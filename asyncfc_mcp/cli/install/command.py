"""Commands `install`, `uninstall` and `import`: their options, what they print, and the question before a change.

Owns the conversation with the user. Everything heavy is imported inside the commands.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import for_terminal

if TYPE_CHECKING:
    from asyncfc_mcp.cli.install.hosts import Machine
    from asyncfc_mcp.cli.install.plans import Plan
    from asyncfc_mcp.cli.install.records import Records


class NotConfirmed(BridgeError):
    """A change was not confirmed, and there is no terminal to ask on."""

    def __init__(self) -> None:
        super().__init__("nothing was changed, since there is no terminal to ask on; add --yes to change it")


class PrintOnly(BridgeError):
    """A host is set up by hand only."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is set up by hand: `asyncfc-mcp install {host} --print` prints what to paste")


def _options(*wanted: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    known: dict[str, Callable[..., Any]] = {
        "scope": click.option(
            "--scope",
            type=click.Choice(["user", "project", "local"]),
            default="user",
            show_default=True,
            help="The host's file for all projects, that of the project in the current folder, or this project in the "
            "user's own file (Claude Code).",
        ),
        "name": click.option(
            "--name", metavar="NAME", default="asyncfc", show_default=True, help="Name of the bridge in the host."
        ),
        "config": click.option(
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Configuration of the bridge. [default: mcp.json in the user's configuration folder asyncfc]",
        ),
        "direct": click.option(
            "--direct",
            is_flag=True,
            help="Write servers that run mcp-remote as the URL that it connects to: the bridge signs in itself.",
        ),
        "via": click.option(
            "--via",
            type=click.Choice(["file", "command"]),
            help="Edit the host's file, or use its own command. [default: command for Claude Code, otherwise file]",
        ),
        "shared": click.option(
            "--shared/--no-shared",
            default=True,
            show_default=True,
            help="Have all sessions share one bridge and its servers, or start a bridge for each. On Windows, each has "
            "its own.",
        ),
        "dry_run": click.option("--dry-run", is_flag=True, help="Show the change, and change nothing."),
        "yes": click.option("-y", "--yes", is_flag=True, help="Change it without asking."),
    }

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(wanted):
            function = known[name](function)
        return function

    return decorate


@click.command(short_help="Install the bridge in an MCP host, or show the hosts of this machine.")
@click.argument("host", required=False)
@_options("scope", "name", "config")
@click.option(
    "--wrap",
    metavar="[NAMES]",
    is_flag=False,
    flag_value="",
    help="Move the host's servers, all or those named (comma-separated), into the bridge's configuration.",
)
@click.option(
    "--print",
    "form",
    metavar="[FORMAT]",
    is_flag=False,
    flag_value="auto",
    help="Print what to paste, and change nothing: json, yaml, toml, cursor-link, vscode-link, goose-link.",
)
@_options("shared", "direct", "via", "dry_run", "yes")
def install(
    host: str | None,
    scope: Any,
    name: str,
    config_file: Path | None,
    wrap: str | None,
    form: str | None,
    shared: bool,
    direct: bool,
    via: Any,
    dry_run: bool,
    yes: bool,
) -> None:
    """Install the bridge in an MCP host. Without HOST, list the hosts of this machine and where it is installed.

    The change is shown first, and made once it is confirmed. Everything else in the host's file stays as it is, and
    `asyncfc-mcp uninstall HOST` restores it.
    """
    from asyncfc_mcp.cli.install.hosts import PRINTED, host_named

    machine, config = _machine(), _config(config_file)
    if form is not None:
        if host is not None and host not in PRINTED:
            host_named(host)
        _print(host, form, name, scope, config, machine, shared=shared)
        return
    if host is None:
        if wrap is not None:
            raise click.UsageError("--wrap needs a host: asyncfc-mcp install HOST --wrap")
        from asyncfc_mcp.cli.install.overview import overview

        click.echo(overview(machine), nl=False)
        return
    if host in PRINTED:
        raise PrintOnly(host)
    known = host_named(host)
    from asyncfc_mcp.cli.install.installing import Request, plan_install

    names = None if wrap is None else tuple(word for word in wrap.split(",") if word)
    records = _records()
    request = Request(known, machine, records, name, config, scope, names, via, direct, shared)
    _carry_out(lambda: plan_install(request), records, dry_run=dry_run, yes=yes)


@click.command(short_help="Remove the bridge from an MCP host, and restore its servers.")
@click.argument("host")
@_options("scope", "name", "via", "dry_run", "yes")
def uninstall(host: str, scope: Any, name: str, via: Any, dry_run: bool, yes: bool) -> None:
    """Remove the bridge from an MCP host, and put the servers back that `install --wrap` has moved.

    A file that nobody has changed since is restored to the byte; otherwise only the entries in question are changed.
    """
    from asyncfc_mcp.cli.install.hosts import host_named
    from asyncfc_mcp.cli.install.installing import Request
    from asyncfc_mcp.cli.install.removal import plan_uninstall

    records = _records()
    request = Request(host_named(host), _machine(), records, name, _config(None), scope, None, via)
    _carry_out(lambda: plan_uninstall(request), records, dry_run=dry_run, yes=yes)


@click.command("import", short_help="Add the servers of a host's file to the bridge's configuration.")
@click.argument("source", metavar="FILE|HOST")
@_options("config", "direct", "dry_run", "yes")
def import_(source: str, config_file: Path | None, direct: bool, dry_run: bool, yes: bool) -> None:
    """Add the servers of a host's file to the bridge's configuration, which is created if there is none. The file
    itself stays as it is.
    """
    from asyncfc_mcp.cli.install.importing import plan_import, source_file

    machine, config = _machine(), _config(config_file)
    _carry_out(
        lambda: plan_import(source_file(source, machine), config, machine, direct=direct),
        _records(),
        dry_run=dry_run,
        yes=yes,
    )


def _machine() -> "Machine":
    from asyncfc_mcp.cli.install.hosts import Machine

    return Machine(Path.home(), Path.cwd(), sys.platform, os.environ)


def _config(given: Path | None) -> Path:
    """Return the path of the bridge's configuration, absolute but with its links."""
    if given is not None:
        return Path(os.path.abspath(given.expanduser()))
    import platformdirs

    return Path(platformdirs.user_config_dir("asyncfc", appauthor=False)) / "mcp.json"


def _records() -> "Records":
    from asyncfc_mcp.cli.install.records import Records
    from asyncfc_mcp.cli.process import state_folder

    return Records(state_folder() / "install")


def _print(
    host: str | None, form: str, name: str, scope: Any, config: Path, machine: "Machine", *, shared: bool
) -> None:
    from asyncfc_mcp.cli.install.installing import bridge_arguments, bridge_command
    from asyncfc_mcp.cli.install.printing import FORMATS, NOTES, OF_SEVERAL_USERS, form_of, printed

    chosen = form_of(host, machine) if form == "auto" else form
    if chosen not in FORMATS:
        raise click.UsageError(f"--print: found {chosen!r}; expected one of {', '.join(FORMATS)}")
    command, first = bridge_command(machine, scope)
    args = [*first, *bridge_arguments(str(config), machine, shared=shared and host not in OF_SEVERAL_USERS)]
    click.echo(printed(host, chosen, name, command, args, machine), nl=False)
    for key in (host, chosen):
        if note := NOTES.get(key or ""):
            click.echo(note, err=True)
    if not config.exists():
        click.echo(f"{config} does not exist yet: `asyncfc-mcp import FILE` creates it.", err=True)


def _carry_out(make: "Callable[[], Plan]", records: "Records", *, dry_run: bool, yes: bool) -> None:
    """Show a plan, ask, and carry it out."""
    from asyncfc_mcp.cli.install.files import locked

    if dry_run:
        _show(make())
        return
    if yes:
        # One after the other: what is planned here is based on what another one has written.
        with locked(records.folder):
            _finish(make(), records)
        return
    plan = make()
    if not plan.is_empty:
        _show(plan)
        if not (sys.stdin.isatty() and _on_terminal()):
            raise NotConfirmed
        if not click.confirm("Change it?", err=True):
            click.echo("Nothing was changed.", err=True)
            sys.exit(1)
    with locked(records.folder):
        _finish(plan, records, shown=not plan.is_empty)


def _show(plan: "Plan") -> None:
    if plan.is_empty:
        click.echo(for_terminal("\n".join([*plan.notes, plan.done])))
        return
    click.echo(plan.shown(colour=_on_terminal() and "NO_COLOR" not in os.environ))


def _on_terminal() -> bool:
    return os.isatty(1)


def _finish(plan: "Plan", records: "Records", *, shown: bool = False) -> None:
    from asyncfc_mcp.cli.install.plans import carry_out

    if not plan.is_empty and not shown:
        _show(plan)
    elif plan.is_empty and plan.notes:
        click.echo(for_terminal("\n".join(plan.notes)))
    copies = carry_out(plan, records)
    click.echo(for_terminal(plan.done))
    if copies:
        click.echo(f"Copies of what was there before: {', '.join(map(str, copies))}", err=True)
