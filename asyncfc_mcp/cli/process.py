"""Process of a command: its logging, memory and event loop, and the bridge that it runs.

Owns what is read from the environment of the process (folders, the chain of bridges). Arguments are `main`'s.
"""

import gc
import hashlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncfc_mcp.cli.log_format import Redacted, formatter
from asyncfc_mcp.config.environment import CHAIN_VARIABLE
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.redaction import without_secrets
from asyncfc_mcp.telemetry.environment import secrets as exporter_secrets

if TYPE_CHECKING:
    from asyncfc_mcp.bridge.bridge import Bridge
    from asyncfc_mcp.downstream.oauth.store import CredentialStore
    from asyncfc_mcp.downstream.process import Child
    from asyncfc_mcp.downstream.reaper import Reaper
    from asyncfc_mcp.telemetry.telemetry import Telemetry

logger = logging.getLogger("asyncfc_mcp")


def log_to_stderr(verbose: bool) -> None:
    """Send log records to stderr, without secrets."""
    shown = "%(levelname)s %(name)s: %(message)s" if verbose else "asyncfc-mcp: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    logging.root.handlers[0].setFormatter(formatter(os.environ, shown))
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    # The SDK logs errors of a peer as its own failures, with tracebacks that do not help users.
    for noisy in ("mcp", "client", "sse_starlette", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.CRITICAL)
    for revealing in ("httpx2", "httpcore2"):  # they log URLs with queries, and headers
        logging.getLogger(revealing).setLevel(logging.CRITICAL)


def log_to_file(path: Path) -> None:
    """Redirect standard output and standard error of this process to a log file with a bounded size, and log there with
    times. For processes that nobody watches; after `log_to_stderr`.

    Raises:
        OSError: the file cannot be opened.
    """
    from asyncfc_mcp.housekeeping.rotating_file import RotatingFile

    file = RotatingFile(path, onto=(1, 2))

    def rotated(record: logging.LogRecord) -> bool:
        with suppress(OSError):
            file.rotate_if_full()
        return True

    for handler in logging.root.handlers:
        handler.addFilter(rotated)
        if isinstance(handler.formatter, Redacted):
            with_times = formatter(os.environ, "%(asctime)s %(levelname)s %(name)s: %(message)s")
            with_times.secrets = handler.formatter.secrets
            handler.setFormatter(with_times)


def hide_secrets(config: BridgeConfig) -> None:
    """Keep the bridge's own secrets out of its log and its errors, and from processes of servers."""
    for name in config.own_variables:
        os.environ.pop(name, None)
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, Redacted):
            handler.formatter.secrets = (*config.settings.secrets, *exporter_secrets(os.environ))


def shown_error(exc: Exception) -> str:
    """Return the text of an error without secrets."""
    formatters = [handler.formatter for handler in logging.root.handlers]
    secrets = [each for known in formatters if isinstance(known, Redacted) for each in known.secrets]
    return without_secrets(str(exc), secrets)


class WrapsItself(BridgeError):
    """A configuration lists the bridge among the servers to wrap, so that it would start itself without end."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source} lists the bridge itself among the servers to wrap; keep those servers in a separate file"
        )


def refuse_itself(config: BridgeConfig) -> None:
    """Prevent a bridge from starting itself recursively.

    Raises:
        WrapsItself: a parent process is a bridge with the same configuration.
    """
    chain = os.environ.get(CHAIN_VARIABLE, "").split()
    own = hashlib.sha256(os.fsencode(config.identity)).hexdigest()[:16]
    if own in chain:
        raise WrapsItself(config.source)
    os.environ[CHAIN_VARIABLE] = " ".join([*chain, own])


def make_bridge(
    config: BridgeConfig,
    *,
    verbose: bool,
    reaper: "Reaper | None" = None,
    children: "Mapping[str, Child] | None" = None,
    records: bool = True,
    daemon: bool = False,
    telemetry: "Telemetry | None" = None,
) -> "Bridge":
    """Return the bridge of a configuration, with its folders of this user.

    Args:
        records: false without a journal or database, for a bridge that makes no calls: it must not take over those of
            another run, or of a replica. It connects to all servers.
        daemon, telemetry: see `app.compose`.
    """
    from asyncfc_mcp.app import compose
    from asyncfc_mcp.cli.known_configurations import remember
    from asyncfc_mcp.downstream.listing_cache import ListingCache
    from asyncfc_mcp.engine.future_ids import FutureIds

    for warning in config.warnings:
        logger.warning("%s", warning)
    for server in config.unusable:
        logger.warning("server %r was left out: %s", server.name, server.reason)
    remember(configurations_folder(), config)
    return compose(
        config,
        cache=ListingCache(cache_folder()),
        log_folder=_own_folder(config, logs_folder()),
        echo=sys.stderr if verbose else None,
        reaper=reaper,
        children=children,
        ids=FutureIds(state_folder() / "ids", config.identity),
        journal=journal_path(config) if records else None,
        shared=records,
        credentials=credential_store(config),
        daemon=daemon,
        connect_all=not records,
        telemetry=telemetry,
    )


@contextmanager
def telemetry_of(config: BridgeConfig) -> Generator["Telemetry | None"]:
    """Give the telemetry that the environment and the configuration ask for; None for none. At the end, what is left is
    sent within a bound."""
    from asyncfc_mcp.app import start_telemetry

    telemetry = start_telemetry(config, os.environ)
    try:
        yield telemetry
    finally:
        if telemetry is not None:
            telemetry.close()


def beside(telemetry: "Telemetry | None", main: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Return a function that runs `main`, with the work of telemetry beside it."""
    return main if telemetry is None else lambda: telemetry.later.around(main)


def credential_store(config: BridgeConfig) -> "CredentialStore":
    """Return the store of the tokens of servers that were signed in to."""
    folder = state_folder() / "oauth"
    if config.settings.credentials == "keyring":
        from asyncfc_mcp.downstream.oauth.keyring_store import KeyringStore

        return KeyringStore(folder)
    from asyncfc_mcp.downstream.oauth.file_store import FileStore

    return FileStore(folder)


def credentials_place(config: BridgeConfig) -> str:
    """Return the place of those tokens, in words."""
    if config.settings.credentials == "keyring":
        return "the keyring of the system, service asyncfc-mcp"
    return f"{state_folder() / 'oauth'}, readable by this user only"


def configurations_folder() -> Path:
    """Return the folder of what `login` knows of configurations."""
    return state_folder() / "configurations"


def cache_folder() -> Path:
    """Return the folder of this user for listings of servers, which may be deleted at any time."""
    import platformdirs

    return Path(os.environ.get("ASYNCFC_CACHE_DIR") or platformdirs.user_cache_dir("asyncfc-mcp"))


def logs_folder() -> Path:
    """Return the folder of this user for what servers write to stderr."""
    import platformdirs

    return Path(os.environ.get("ASYNCFC_LOG_DIR") or platformdirs.user_log_dir("asyncfc-mcp"))


def state_folder() -> Path:
    """Return the folder of this user for what must survive: counters of IDs, journals."""
    import platformdirs

    # A cache folder that was set (container, tests) also holds the state.
    given = os.environ.get("ASYNCFC_STATE_DIR") or os.environ.get("ASYNCFC_CACHE_DIR")
    return Path(given or platformdirs.user_state_dir("asyncfc-mcp"))


def journal_path(config: BridgeConfig) -> Path | None:
    """Return the journal's file; None if it is off, or the engine needs none."""
    if config.settings.engine != EMBEDDED:
        return None
    match config.settings.journal:
        case "off":
            return None
        case "auto":
            return _own_folder(config, state_folder() / "journal") / "journal.db"
        case path:
            return Path(path)


def journal_status(config: BridgeConfig) -> dict[str, Any] | None:
    """Return figures of the journal, which is not opened; None if it is off."""
    from asyncfc_mcp import app

    path = journal_path(config)
    return None if path is None else app.journal_status(path, config)


def _own_folder(config: BridgeConfig, root: Path) -> Path:
    """Return the folder of a configuration below `root`."""
    from asyncfc_mcp.housekeeping.log_folder import configuration_folder

    kind, _, label = config.identity.partition(":")
    # The effect of a command often depends on its working directory.
    identity = f"{config.identity} in {_folder()}" if kind == "command" else config.identity
    return configuration_folder(root, label if kind == "file" else config.servers[0].name, identity)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a function on the event loop. A `BridgeError` or `OSError` inside exception groups is raised by itself.

    uvloop is used if it is installed: it costs 2 MB and 10 ms, and a call over pipes takes a tenth less (measured).
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


def settle_memory() -> None:
    """Exclude imported objects from garbage collection, and make collections less frequent.

    Every call creates objects that live as long as its future. With the default thresholds, fruitless collections are
    two fifths of the cost of a submission once thousands are open (measured: 228 µs, 126 µs with this). The middle
    generation is collected often to keep each pass short: at every fiftieth collection, a pass took 270 ms after a
    listing of 10,000 tools.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 1000)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for exc in group.exceptions:
        leaves += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]  # pyright: ignore[reportUnknownArgumentType]
    return leaves
