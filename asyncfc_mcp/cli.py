"""The command line: arguments → configuration → run. The only place that prints or exits.

Everything heavy is imported inside a command: start-up is a cost that users see.
"""

import errno
import gc
import hashlib
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from asyncfc_mcp import __version__
from asyncfc_mcp.config import BridgeConfig
from asyncfc_mcp.config_reader import config_for_command, config_for_url, load_config
from asyncfc_mcp.environment import CHAIN_VARIABLE
from asyncfc_mcp.errors import BridgeError, UnknownTool
from asyncfc_mcp.quotation import one_line, shortened, without_escapes
from asyncfc_mcp.redaction import shown_command, without_secrets

if TYPE_CHECKING:
    from asyncfc_mcp.bridge import Bridge
    from asyncfc_mcp.processes import Child, Reaper

logger = logging.getLogger("asyncfc_mcp")


def _source(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which servers to wrap."""
    for decorate in reversed(
        (
            click.option(
                "--config",
                "config_file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="JSON in the mcpServers form of Claude Desktop, Claude Code and Cursor, or VS Code's servers.",
            ),
            click.option("--url", metavar="URL", help="Wrap one server over Streamable HTTP (or SSE, if it ends so)."),
            click.option("-v", "--verbose", is_flag=True, help="Log more, with the servers' stderr, to stderr."),
            click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD ARGS...]"),
        )
    ):
        function = decorate(function)
    return function


class SourceCommand(click.Command):
    """A command that takes another one behind `--`.

    The `--` is often forgotten. Then options of the other command would be taken for ours, so a word before it with
    options behind is an error that proposes the right form. Beside `--config` and `--url` words are names (`inspect`).
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        at = self._first_word(own)
        separated, word = "--" in args, "" if at is None else own[at]
        # Of `serve`, what stands behind a word belongs to the wrapped command; `inspect` takes names in any order.
        searched = own if self.name == "inspect" else own[:at]
        source = any(arg.partition("=")[0] in ("--config", "--url") for arg in searched)
        proposal = None
        if at is not None and not separated and not source:
            proposal = self._proposal(ctx, own, at, word)
            if proposal is None and any(arg.startswith("-") for arg in own[at + 1 :]):
                before = [*own[:at], "--"]
                proposal = shown_command(["asyncfc-mcp", str(ctx.info_name), *before, *own[at:]])
        if proposal is not None:
            raise click.UsageError(f"what is wrapped stands behind an option or `--`; did you mean: {proposal}", ctx)
        ctx.meta["names"] = source and not separated
        return super().parse_args(ctx, args)

    def _first_word(self, args: list[str]) -> int | None:
        """The place of the first word that is neither an option nor the value of one."""
        options = {name: param for param in self.params if isinstance(param, click.Option) for name in param.opts}
        index = 0
        while index < len(args):
            if not args[index].startswith("-") or args[index] == "-":
                return index
            param = options.get(args[index])
            index += 1 if param is None or param.is_flag else 1 + param.nargs
        return None

    def _proposal(self, ctx: click.Context, args: list[str], at: int, word: str) -> str | None:
        """The command line with `--config` or `--url` where the word is a file or an address."""
        is_file = word.endswith((".json", ".jsonc", ".toml")) and not os.access(word, os.X_OK)
        option = "--url" if re.match(r"https?://", word) else "--config" if is_file or os.path.isdir(word) else None
        if option is None:
            return None
        return shown_command(["asyncfc-mcp", str(ctx.info_name), *args[:at], option, *args[at:]])


def _load(config_file: Path | None, url: str | None, command: tuple[str, ...]) -> BridgeConfig:
    given = sum((config_file is not None, url is not None, bool(command)))
    if given != 1:
        found = "none of them" if given == 0 else "more than one"
        raise click.UsageError(f"say what to wrap, once: --config FILE, --url URL or -- CMD ARGS...; found {found}")
    if config_file is not None:
        config = load_config(config_file.expanduser(), os.environ)
    else:
        config = config_for_url(url) if url is not None else config_for_command(command)
    _refuse_itself(config)
    return config


LOG_LINE_LENGTH: Final = 4000
"""Longest line that is logged, in characters."""


class _WithoutSecrets(logging.Formatter):
    """Libraries log the URLs that they ask for, with all that is in them, and messages of ours quote servers."""

    def format(self, record: logging.LogRecord) -> str:
        lines = without_secrets(super().format(record)).splitlines()
        # Lines after the first are indented, so that none of them looks like a message of its own.
        return "\n  ".join(shortened(one_line(without_escapes(line.expandtabs(4))), LOG_LINE_LENGTH) for line in lines)


def _log_to_stderr(verbose: bool) -> None:
    shown = "%(levelname)s %(name)s: %(message)s" if verbose else "asyncfc-mcp: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    logging.root.handlers[0].setFormatter(_WithoutSecrets(shown))
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    # The SDK logs what a peer did wrong as if it were our failure, with tracebacks; users can do nothing with that.
    for noisy in ("mcp", "client", "sse_starlette", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.CRITICAL)
    for telltale in ("httpx2", "httpcore2"):  # URLs with their queries, and headers
        logging.getLogger(telltale).setLevel(logging.CRITICAL)


class WrapsItself(BridgeError):
    """A bridge was started by itself, through a configuration that names it among the servers to wrap."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source} has the bridge itself among the servers that it wraps, without end; "
            f"keep the servers to wrap in a file of their own"
        )


def _refuse_itself(config: BridgeConfig) -> None:
    """Keep a bridge from starting itself again and again.

    Raises:
        WrapsItself: a bridge above this one wraps the same.
    """
    chain = os.environ.get(CHAIN_VARIABLE, "").split()
    own = hashlib.sha256(os.fsencode(config.identity)).hexdigest()[:16]
    if own in chain:
        raise WrapsItself(config.source)
    os.environ[CHAIN_VARIABLE] = " ".join([*chain, own])


def _bridge(
    config: BridgeConfig,
    *,
    verbose: bool,
    reaper: "Reaper | None" = None,
    children: "Mapping[str, Child] | None" = None,
) -> "Bridge":
    import platformdirs

    from asyncfc_mcp.bridge import Bridge
    from asyncfc_mcp.future_ids import FutureIds
    from asyncfc_mcp.offers import OfferCache
    from asyncfc_mcp.stderr import configuration_folder

    given = os.environ.get("ASYNCFC_CACHE_DIR")
    cache = given or platformdirs.user_cache_dir("asyncfc-mcp")
    # A folder of its own for the cache (a container, a test) is one for the state, too.
    state = os.environ.get("ASYNCFC_STATE_DIR") or given or platformdirs.user_state_dir("asyncfc-mcp")
    logs = os.environ.get("ASYNCFC_LOG_DIR") or platformdirs.user_log_dir("asyncfc-mcp")
    kind, _, label = config.identity.partition(":")
    # What a command does often depends on the folder that it is started in.
    identity = f"{config.identity} in {_folder()}" if kind == "command" else config.identity
    log_folder = configuration_folder(Path(logs), label if kind == "file" else config.servers[0].name, identity)
    for warning in config.warnings:
        logger.warning("%s", warning)
    for server in config.unusable:
        logger.warning("server %r is left out: %s", server.name, server.reason)
    return Bridge(
        config,
        cache=OfferCache(Path(cache)),
        log_folder=log_folder,
        echo=sys.stderr if verbose else None,
        reaper=reaper,
        children=children,
        ids=FutureIds(Path(state) / "ids", config.identity),
    )


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return ""


def _run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run on the event loop; an error of ours, even inside groups, comes out as itself.

    uvloop is worth its 2 MB and 10 ms, if it is installed: a call over pipes takes a tenth less (measured).
    """
    import anyio

    options: dict[str, Any] = {"use_uvloop": find_spec("uvloop") is not None}
    try:
        return anyio.run(main, backend_options=options)  # pyright: ignore[reportArgumentType]
    except BaseExceptionGroup as group:
        for exc in _leaves(group):
            if isinstance(exc, BridgeError | OSError):
                raise exc from None
        raise


def _settle_memory() -> None:
    """Take what was imported out of the garbage collector's sight and have it come less often.

    Every call makes objects that live as long as their future; with the defaults, collecting in vain is two fifths of
    the cost of a submission once thousands are open (measured: 228 µs, 126 µs with this).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for exc in group.exceptions:
        leaves += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]  # pyright: ignore[reportUnknownArgumentType]
    return leaves


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="asyncfc-mcp")
def cli() -> None:
    """Put existing MCP servers behind futures: every tool call is answered at once, runs in the background, and is
    awaited when its result is needed.

    \b
    Try it:        asyncfc-mcp demo
    Wrap a server: asyncfc-mcp serve -- npx -y @modelcontextprotocol/server-filesystem /data
    Wrap many:     asyncfc-mcp serve --config ~/.config/asyncfc/mcp.json
    See what it does with them: asyncfc-mcp inspect --config FILE
    """


@cli.command(cls=SourceCommand)
@_source
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http", "sse"]),
    default="stdio",
    show_default=True,
    help="How clients connect: stdio, Streamable HTTP at /mcp, or HTTP+SSE at /sse.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on (http, sse).")
@click.option("--port", type=click.IntRange(0, 65535), default=8642, show_default=True, help="0 takes a free port.")
@click.option("--sse", "also_sse", is_flag=True, help="With --transport http: serve old clients at /sse, too.")
@click.option("--auth-token-env", metavar="NAME", help="Environment variable with the token clients must send.")
@click.option(
    "--insecure-no-auth",
    is_flag=True,
    help="Listen beyond this machine without a token. Futures then have unguessable IDs and are not listed.",
)
def serve(
    config_file: Path | None,
    url: str | None,
    verbose: bool,
    command: tuple[str, ...],
    transport: str,
    host: str,
    port: int,
    also_sse: bool,
    auth_token_env: str | None,
    insecure_no_auth: bool,
) -> None:
    """Run the bridge: what an MCP client starts (stdio) or connects to (http, sse)."""
    _log_to_stderr(verbose)
    config = _load(config_file, url, command)
    if transport == "stdio":
        if auth_token_env is not None:
            os.environ.pop(auth_token_env, None)  # it has no use here, and is no server's either
        from asyncfc_mcp.processes import Reaper, start_ahead
        from asyncfc_mcp.start_queue import FEW

        reaper = Reaper()
        # A few start while we import; many would take the processors from us.
        children = start_ahead(config.servers if len(config.servers) <= FEW else (), reaper)
        from asyncfc_mcp.transports import serve_stdio

        _settle_memory()
        _run(lambda: serve_stdio(_bridge(config, verbose=verbose, reaper=reaper, children=children)))
        return
    from asyncfc_mcp.auth import take_token
    from asyncfc_mcp.transports import scope_for, serve_http

    token = None if auth_token_env is None else take_token(os.environ, auth_token_env)
    scope_for(host, token, insecure=insecure_no_auth)
    _settle_memory()

    def listening(base: str) -> None:
        paths = [*(["/mcp"] if transport == "http" else []), *(["/sse"] if transport == "sse" or also_sse else [])]
        click.echo(f"asyncfc-mcp: listening on {' and '.join(base + path for path in paths)}", err=True)

    _run(
        lambda: serve_http(
            _bridge(config, verbose=verbose),
            host=host,
            port=port,
            token=token,
            insecure=insecure_no_auth,
            streamable=transport == "http",
            sse=transport == "sse" or also_sse,
            listening=listening,
        ),
    )


@cli.command(cls=SourceCommand)
@_source
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option(
    "--explain", nargs=2, metavar="TOOL TOOL", help="Show whether calls of two tools keep their order, and why."
)
def inspect(
    config_file: Path | None,
    url: str | None,
    verbose: bool,
    command: tuple[str, ...],
    as_json: bool,
    explain: tuple[str, str] | None,
) -> None:
    """Connect to the servers and show a line for each of them: its tools, and what is known of their order.

    With names of servers or tools behind `--config FILE`: each tool's name for clients, its effect and its limits.
    """
    _log_to_stderr(verbose)
    names = command if click.get_current_context().meta["names"] else ()
    config = _load(config_file, url, () if names else command)
    from asyncfc_mcp import inspect as inspection

    if not verbose:
        logger.setLevel(logging.ERROR)  # what is wrong with a server stands in the table
    output, healthy = _run(
        lambda: inspection.run(_bridge(config, verbose=verbose), as_json=as_json, explain=explain, names=names)
    )
    click.echo(output, nl=False)
    if not healthy:
        sys.exit(1)


@cli.command()
def demo() -> None:
    """Play a scripted agent against two example servers, first waiting for each call, then through the bridge."""
    from asyncfc_mcp import demo as player

    sys.exit(player.run())


def main() -> None:
    """Entry point: errors of ours are one line and exit code 2, never a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except UnknownTool as exc:
        click.echo(f"asyncfc-mcp: {str(exc).replace('call tools/list', 'run inspect')}", err=True)
        sys.exit(2)
    except BridgeError as exc:
        click.echo(f"asyncfc-mcp: {exc}", err=True)
        sys.exit(2)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            click.echo("asyncfc-mcp: the port is in use; choose another with --port (0 takes a free one)", err=True)
            sys.exit(1)
        click.echo(f"asyncfc-mcp: {exc}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
