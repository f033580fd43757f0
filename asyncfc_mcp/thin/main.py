"""`asyncfc-mcp serve --shared`: the small process that a host starts for each session.

Owns which command lines are run without loading anything of the bridge, and the bridge of its own that a session gets
where it cannot join a daemon. Standard library only.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from asyncfc_mcp.thin.launch import FIRST_JOIN_S, Launcher, Source, Unusable

OPTION: Final = "--shared"
CHAIN_VARIABLE: Final = "ASYNCFC_CHAIN"
"""As in `config.environment`: set inside of a bridge."""
BY_HAND: Final = "waits for an MCP client on standard input; hosts start this command themselves (Ctrl-C ends it)"
"""Shown where standard input is a terminal."""


def session_of(arguments: Sequence[str]) -> tuple[Source, bool] | None:
    """Return the servers of a command line, and whether it is verbose; None if it is to be read by the full parser.

    Args:
        arguments: after the program.
    """
    if sys.platform == "win32" or not arguments or arguments[0] != "serve":
        return None
    words = list(arguments[1:])
    own = words[: words.index("--")] if "--" in words else words
    command = words[len(own) + 1 :]
    given: dict[str, str] = {}
    flags: set[str] = set()
    while own:
        word, equals, value = own.pop(0).partition("=")
        if word in (OPTION, "-v", "--verbose") and not equals:
            flags.add(word)
        elif word in ("--config", "--url", "--transport") and word not in given and (equals or own):
            given[word] = value if equals else own.pop(0)
        else:
            return None
    if OPTION not in flags or given.pop("--transport", "stdio") != "stdio":
        return None
    if len(given) + bool(command) != 1 or not all(given.values()):
        return None
    return Source(given.get("--config"), given.get("--url"), command), flags != {OPTION}


def run(source: Source, *, verbose: bool) -> None:
    """Serve the host on standard streams through the user's daemon, until one of them ends; or become a bridge of one's
    own, if there can be no daemon."""
    from asyncfc_mcp.thin.output import HostGone, say
    from asyncfc_mcp.thin.relay import Relay

    parent = os.getppid()  # it may have exited by the time that a daemon is joined
    if os.environ.get(CHAIN_VARIABLE):
        # Its daemon could be the one above: that of a configuration that lists itself.
        if verbose:
            say("this bridge is a server of another one, and shares no daemon")
        become_bridge()
    try:
        launcher = Launcher(source, os.environ)
        joined = launcher.join(FIRST_JOIN_S, resumed=False)
    except Unusable as exc:
        if not exc.told:
            say(f"this session runs a bridge of its own, since it cannot share a daemon: {exc}")
        become_bridge()
    if verbose:
        about = joined.about
        say(f"joined the daemon {about.get('pid')} (version {about.get('version')}) at {launcher.place.socket}")
        say(f"its log: {launcher.log}")
    if os.isatty(0):
        say(BY_HAND)
    # Nothing here needs an orderly end: the daemon sees the end of the connection.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        Relay(joined, launcher, parent).run()
    except HostGone:
        pass


def become_bridge() -> NoReturn:
    """Replace this process by the same command without `--shared`."""
    # The same interpreter with the same options of its own; the first `--shared` is the program's option.
    words = sys.orig_argv[1:] if OPTION in sys.orig_argv else ["-P", "-m", "asyncfc_mcp", *sys.argv[1:]]
    words.remove(OPTION)
    os.execv(sys.executable, [sys.executable, *words])
