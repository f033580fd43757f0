"""Command line: parses arguments, loads the configuration and runs a command. The only place that prints or exits.

Heavy modules are imported inside a command, since start-up time is visible to users.
"""

import errno
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncfc_mcp import __version__
from asyncfc_mcp.cli.calls.command import log
from asyncfc_mcp.cli.daemon import daemon, reload_
from asyncfc_mcp.cli.doctor.command import doctor
from asyncfc_mcp.cli.endpoint import Endpoint, endpoint_options
from asyncfc_mcp.cli.install.command import import_, install, uninstall
from asyncfc_mcp.cli.log_format import notice
from asyncfc_mcp.cli.open_page import open_page
from asyncfc_mcp.cli.process import (
    beside,
    configurations_folder,
    credential_store,
    credentials_place,
    hide_secrets,
    journal_status,
    log_to_stderr,
    make_bridge,
    run,
    settle_memory,
    shown_error,
    telemetry_of,
)
from asyncfc_mcp.cli.source import SourceCommand, check_source, load, log_format_option, source_options
from asyncfc_mcp.cli.top.command import top
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.errors import BridgeError, SignInFailed, UnknownTool
from asyncfc_mcp.quotation import for_terminal

if TYPE_CHECKING:
    from asyncfc_mcp.cli.sign_in_target import Target

logger = logging.getLogger("asyncfc_mcp")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="asyncfc-mcp")
def cli() -> None:
    """MCP bridge that answers every tool call at once with a future. Calls run in the background; their results are
    awaited when they are needed.

    \b
    Try it:               asyncfc-mcp demo
    Wrap one server:      asyncfc-mcp serve -- npx -y @modelcontextprotocol/server-filesystem /data
    Wrap several servers: asyncfc-mcp serve --config ~/.config/asyncfc/mcp.json
    Show their ordering:  asyncfc-mcp inspect --config ~/.config/asyncfc/mcp.json
    Use it in a host:     asyncfc-mcp install cursor --wrap
    Sign in to one:       asyncfc-mcp login NAME
    See what happens:     asyncfc-mcp open, or in the terminal: asyncfc-mcp top
    See what happened:    asyncfc-mcp log
    Find what is wrong:   asyncfc-mcp doctor
    """


@cli.command(cls=SourceCommand, short_help="Run the bridge over stdio or HTTP.")
@source_options
@click.option(
    "--shared",
    is_flag=True,
    help="Join the bridge that all sessions of this user share, and start it if there is none (stdio).",
)
@log_format_option
@endpoint_options
def serve(
    config_file: Path | None,
    url: str | None,
    verbose: bool,
    command: tuple[str, ...],
    shared: bool,
    endpoint: Endpoint,
) -> None:
    """Run the bridge. An MCP client starts it (stdio) or connects to it (http, sse).

    Specify the servers to wrap with --config, --url or a command after `--`.
    """
    if shared:
        _share(config_file, url, verbose, command, endpoint)
    log_to_stderr(verbose)
    from asyncfc_mcp.cli.upkeep import with_upkeep
    from asyncfc_mcp.transports.systemd import Service

    # Before servers are started: they inherit neither its variables nor its sockets.
    service = Service.take(os.environ)
    config = load(config_file, url, command)
    http = endpoint.http
    if http is None:
        if endpoint.token_env is not None:
            os.environ.pop(endpoint.token_env, None)  # not needed over stdio, and not for servers either
        from asyncfc_mcp.config.caller_headers import without_callers
        from asyncfc_mcp.downstream.process import start_ahead
        from asyncfc_mcp.downstream.reaper import Reaper
        from asyncfc_mcp.downstream.start_queue import MAX_UNQUEUED

        config = without_callers(config)
        reaper = Reaper()
        # A few servers start while modules are imported; many would compete for the processors. With a database,
        # another replica may run them.
        few = config.settings.engine == EMBEDDED and len(config.servers) <= MAX_UNQUEUED
        at_once = [server for server in config.servers if not server.is_lazy(daemon=False)]
        children = start_ahead(at_once if few else (), reaper)
        from asyncfc_mcp.transports.stdio import serve_stdio

        if os.isatty(0):
            from asyncfc_mcp.thin.main import BY_HAND

            click.echo(f"asyncfc-mcp: {BY_HAND}", err=True)
        settle_memory()
        with telemetry_of(config) as telemetry:
            bridge = partial(
                make_bridge, config, verbose=verbose, reaper=reaper, children=children, telemetry=telemetry
            )
            tracer = None if telemetry is None else telemetry.requests("stdio")
            run(beside(telemetry, lambda: with_upkeep(lambda: serve_stdio(bridge(), tracer), config)))
        return
    from asyncfc_mcp.transports.http.auth.bearer_token import take_token
    from asyncfc_mcp.transports.http.serve import serve_http

    token = None if http.token_env is None else take_token(os.environ, http.token_env)
    http.check()
    settle_memory()

    def listening(base: str) -> None:
        lines = [f"listening on {' and '.join(base + path for path in http.paths)}"]
        if config.settings.page:
            lines.append(f"the page is at {base}/ (asyncfc-mcp open --url {base}/)")
        for line in lines:
            click.echo(notice(os.environ, line), err=True)

    with telemetry_of(config) as telemetry:
        bridge = partial(make_bridge, config, verbose=verbose, telemetry=telemetry)
        serve = partial(serve_http, token=token, listening=listening, service=service)
        if telemetry is not None:
            serve = partial(serve, tracer=telemetry.requests("http"), exposition=telemetry.exposition)
        run(beside(telemetry, lambda: with_upkeep(lambda: serve(bridge(), http), config)))


def _share(
    config_file: Path | None, url: str | None, verbose: bool, command: tuple[str, ...], endpoint: Endpoint
) -> None:
    """Join the user's daemon; return where this session has to run a bridge of its own.

    `__main__` does the same for command lines that it understands, without loading this module.
    """
    if endpoint.http is not None:
        raise click.UsageError("--shared needs stdio: over HTTP, all clients share this bridge already")
    check_source(config_file, url, command)
    if sys.platform == "win32":
        click.echo(
            "asyncfc-mcp: --shared has no effect on Windows yet; this session runs a bridge of its own", err=True
        )
        return
    from asyncfc_mcp.thin.launch import Source
    from asyncfc_mcp.thin.main import run as run_session

    if endpoint.token_env is not None:
        os.environ.pop(endpoint.token_env, None)
    run_session(Source(None if config_file is None else str(config_file), url, command), verbose=verbose)
    sys.exit()


@cli.command("token", short_help="Make a token for a person (--auth-tokens).")
@click.argument("name", metavar="NAME")
@click.option("--scope", "scopes", metavar="SCOPE", multiple=True, help="OAuth scope of the token; repeatable.")
def make_token(name: str, scopes: tuple[str, ...]) -> None:
    """Make a token for a person.

    Prints the token once, on stderr, for the person, and on stdout the line with its hash for the file of
    --auth-tokens: asyncfc-mcp token alice >> tokens.toml
    """
    from asyncfc_mcp.transports.http.auth.token_file import new_token

    token, line = new_token(name, scopes)
    click.echo(f"Token of {name}, shown only now: {token}", err=True)
    click.echo(line)


@cli.command(cls=SourceCommand, short_help="Show servers, tools and their ordering.")
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--explain", nargs=2, metavar="TOOL TOOL", help="Explain whether calls of two tools are ordered, and why."
)
def inspect(
    config_file: Path | None,
    url: str | None,
    verbose: bool,
    command: tuple[str, ...],
    as_json: bool,
    explain: tuple[str, str] | None,
) -> None:
    """Connect to the servers and print one line for each: its tools and their ordering.

    Names of servers or tools after --config FILE add details: each tool's listed name, effect and limits. The exit
    code is 1 if a server is unavailable.
    """
    log_to_stderr(verbose)
    names = command if click.get_current_context().meta["names"] else ()
    config = load(config_file, url, () if names else command)
    from asyncfc_mcp.cli import inspect as inspection

    if not verbose:
        logger.setLevel(logging.ERROR)  # the output contains problems of servers
    bridge = partial(make_bridge, config, verbose=verbose, records=False)
    journal, store = journal_status(config), credential_store(config)
    output, healthy = run(
        lambda: inspection.run(bridge(), as_json=as_json, explain=explain, names=names, journal=journal, store=store)
    )
    click.echo(output, nl=False)
    if not healthy:
        sys.exit(1)


def _of_server(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and options that select one server to sign in to."""
    for decorate in (
        click.option("-v", "--verbose", is_flag=True, help="Log details to stderr."),
        click.option("--url", metavar="URL", help="The URL of the server, in place of a configuration."),
        click.option(
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Configuration file with the server. Default: the one that a bridge was started with.",
        ),
        click.argument("server", required=False),
    ):
        function = decorate(function)
    return function


def _target(server: str | None, config_file: Path | None, url: str | None) -> "Target":
    from asyncfc_mcp.cli.known_configurations import known
    from asyncfc_mcp.cli.sign_in_target import find_target

    file = None if config_file is None else config_file.expanduser()
    target = find_target(server, file, url, os.environ, known(configurations_folder(), os.environ))
    hide_secrets(target.config)
    return target


def _signing(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a sign-in or sign-out; a refusal is one line, and the exit code 1."""
    from asyncfc_mcp.downstream.oauth.store import StoreUnusable

    try:
        return run(main)
    except (SignInFailed, StoreUnusable) as exc:
        click.echo(f"asyncfc-mcp: {for_terminal(shown_error(exc))}", err=True)
        sys.exit(1)


@cli.command(short_help="Sign in to a server at a URL.")
@_of_server
@click.option("--no-browser", is_flag=True, help="Print the address to open, and take the pasted redirect.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help="Scope to ask for in place of those that the server names; those granted before are kept. Repeatable.",
)
@click.option("--force", is_flag=True, help="Sign in again, even if there is a sign-in that works.")
def login(
    config_file: Path | None,
    url: str | None,
    verbose: bool,
    server: str | None,
    no_browser: bool,
    scopes: tuple[str, ...],
    force: bool,
) -> None:
    """Sign in to SERVER, a server at a URL, with a browser. Bridges that run use the new sign-in at once.

    SERVER may be left out if the configuration has only one server that is signed in to. The exit code is 0 if the
    server can be used, 1 if the sign-in failed, and 2 if no such server is configured.
    """
    log_to_stderr(verbose)
    target = _target(server, config_file, url)
    from asyncfc_mcp.cli.login import Login, Wishes

    if not verbose:
        logger.setLevel(logging.ERROR)  # the output says what is wrong
    attempt = Login(
        target,
        credential_store(target.config),
        credentials_place(target.config),
        partial(make_bridge, target.config, verbose=verbose, records=False),
        click.echo,
    )
    wanted = tuple(scope for each in scopes for scope in each.split())
    if not _signing(lambda: attempt.run(Wishes(not no_browser, wanted, force))):
        sys.exit(1)


@cli.command(short_help="Sign out of a server at a URL.")
@_of_server
@click.option(
    "--forget", is_flag=True, help="Also delete the registration of this program at the authorization server."
)
def logout(config_file: Path | None, url: str | None, verbose: bool, server: str | None, forget: bool) -> None:
    """Revoke the tokens for SERVER where its authorization server offers that, and delete them in any case."""
    log_to_stderr(verbose)
    target = _target(server, config_file, url)
    from asyncfc_mcp.cli.login import log_out

    _signing(lambda: log_out(target, credential_store(target.config), forget=forget, say=click.echo))


@cli.group(short_help="Administer the database that replicas share.")
def engine() -> None:
    """Administer the PostgreSQL database that replicas of the bridge share (setting `engine`)."""


def _engine_config(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        required=True,
        type=click.Path(path_type=Path),
        help="Configuration file of the replicas.",
    )(function)


def _load_engine(config_file: Path) -> BridgeConfig:
    log_to_stderr(False)
    config = load_config(config_file.expanduser(), os.environ)
    hide_secrets(config)
    return config


@engine.command(short_help="Create the tables, or migrate them to this version.")
@_engine_config
def migrate(config_file: Path) -> None:
    """Create the tables, or migrate them to this version. Replicas do this when they start; run it beforehand if their
    user must not create tables. It can be repeated, and run at several places at once.
    """
    from asyncfc_mcp.app import administration
    from asyncfc_mcp.cli import engine as texts

    done = run(administration(_load_engine(config_file)).migrate)
    click.echo(texts.migrated(done.before, done.after, done.changed, done.schema, done.database), nl=False)


@engine.command(short_help="Show replicas, futures and jobs.")
@_engine_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(config_file: Path, as_json: bool) -> None:
    """Show version, replicas with their last heartbeat, futures by state, jobs by queue, and space. The exit code is 1
    if the tables are missing or of an older version.
    """
    from asyncfc_mcp.app import administration
    from asyncfc_mcp.cli import engine as texts

    found = run(administration(_load_engine(config_file)).status)
    click.echo(texts.report(found, as_json=as_json), nl=False)
    if not texts.is_current(found):
        sys.exit(1)


@engine.command(short_help="Drop old futures now.")
@_engine_config
def prune(config_file: Path) -> None:
    """Drop futures that have ended longer than `ttl_s` ago, and the oldest beyond `journal_max_bytes`. Replicas do
    this continuously.
    """
    from asyncfc_mcp.app import administration
    from asyncfc_mcp.cli import engine as texts

    click.echo(texts.pruned(run(administration(_load_engine(config_file)).prune)), nl=False)


@cli.command(short_help="Compare a scripted agent without and with the bridge.")
def demo() -> None:
    """Run a scripted agent against two example servers: first waiting for each call, then through the bridge."""
    from asyncfc_mcp.cli import demo as player

    sys.exit(player.run())


for _command in (install, uninstall, import_, doctor, log, top, open_page, daemon, reload_):
    cli.add_command(_command)


def main() -> None:
    """Entry point. A `BridgeError` is printed as one line, with exit code 2 and without a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except UnknownTool as exc:
        click.echo(f"asyncfc-mcp: {str(exc).replace('call tools/list', 'run `asyncfc-mcp inspect`')}", err=True)
        sys.exit(2)
    except BridgeError as exc:
        click.echo(f"asyncfc-mcp: {shown_error(exc)}", err=True)
        sys.exit(2)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            click.echo(f"asyncfc-mcp: {exc.strerror}; select another with --port (0: any free port)", err=True)
            sys.exit(1)
        click.echo(f"asyncfc-mcp: {shown_error(exc)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
