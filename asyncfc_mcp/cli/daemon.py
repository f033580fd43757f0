"""`asyncfc-mcp daemon`: its commands, and the process in which it runs.

Owns texts and exit codes, and what the process takes over from the session that started it: its environment, and
nothing else. Leaves the daemon's life to `transports.local.daemon`, and asking daemons to `daemons`.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from asyncfc_mcp.cli.figures import rough_duration, size
from asyncfc_mcp.cli.process import (
    beside,
    log_to_file,
    log_to_stderr,
    logs_folder,
    make_bridge,
    run,
    settle_memory,
    shown_error,
    telemetry_of,
)
from asyncfc_mcp.cli.source import SourceCommand, load, log_format_option, source_options
from asyncfc_mcp.config.caller_headers import without_callers
from asyncfc_mcp.config.environment import CHAIN_VARIABLE
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.housekeeping.log_folder import daemon_log
from asyncfc_mcp.quotation import for_terminal, one_line
from asyncfc_mcp.thin.launch import READY_VARIABLE
from asyncfc_mcp.thin.place import Place, PlaceUnsafe, daemon_folder, daemon_name, runtime_folder, source_words

if TYPE_CHECKING:
    from asyncfc_mcp.cli.daemons import Found
    from asyncfc_mcp.transports.local.daemon import Daemon

MOST_DESCRIPTORS: Final = 10_240
"""Files that the daemon may open, if its user may. Its servers inherit the bound. The largest that macOS allows."""
NONE_RUNS: Final = "No daemon runs."


class _Ready:
    """The pipe to the session that waits for the daemon's start. It is closed with the first line."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        given = environ.pop(READY_VARIABLE, "")
        self.fd = int(given) if given.isdecimal() and int(given) > 2 else None

    def say(self, line: str) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            with suppress(OSError):  # the session has ended
                os.write(fd, line.replace("\n", " ").encode("utf-8", "replace") + b"\n")
                os.close(fd)


@click.group(short_help="Show and end the bridges that sessions share.")
def daemon() -> None:
    """Show and end the bridges that several sessions share (`serve --shared`)."""


@daemon.command("run", cls=SourceCommand, hidden=True)
@source_options
@log_format_option
@click.option("--name", metavar="NAME", help="Name of the daemon, as the session has worked it out.")
def run_daemon(
    config_file: Path | None, url: str | None, verbose: bool, command: tuple[str, ...], name: str | None
) -> None:
    """Run the daemon; it logs to its file. Sessions start it when there is none."""
    started_with = {key: value for key, value in os.environ.items() if key != READY_VARIABLE}
    ready = _Ready(os.environ)
    log_to_stderr(verbose)
    words = source_words(None if config_file is None else str(config_file), url, command)
    name = name or daemon_name(words, os.environ, os.getcwd())
    try:
        place = Place(runtime_folder(os.environ), name)
        program = _own_program()
        _detach(daemon_folder(words, os.environ, os.getcwd()), ready.fd)
        _allow_descriptors()
        log_to_file(daemon_log(logs_folder(), name))
        restarts = _run(place, words, program, verbose, ready)
    except (BridgeError, click.UsageError) as exc:
        ready.say(f"config {exc.format_message() if isinstance(exc, click.UsageError) else exc}")
        raise
    except (PlaceUnsafe, OSError) as exc:
        ready.say(f"error {shown_error(exc)}")
        raise
    if restarts:
        options = ["-v"] if verbose else []
        os.execvpe(program[0], [*program, "daemon", "run", *options, "--name", name, *words], started_with)


def _run(place: Place, words: Sequence[str], program: Sequence[str], verbose: bool, ready: _Ready) -> bool:
    """Run the daemon; return whether it is to be started anew. Does nothing if there is one already."""

    async def main() -> "Daemon | None":
        from asyncfc_mcp.transports.local.listening import take

        listening = await take(place)
        if listening is None:
            return None
        from asyncfc_mcp.cli.upkeep import with_upkeep
        from asyncfc_mcp.transports.local.daemon import Daemon, Identity

        config = without_callers(load(*_source(words)))
        chain = os.environ[CHAIN_VARIABLE].split()[-1]
        identity = Identity(config.source, words, program, chain)
        telemetry = stack.enter_context(telemetry_of(config))
        tracer = None if telemetry is None else telemetry.requests("local")
        bridge = make_bridge(config, verbose=verbose, daemon=True, telemetry=telemetry)
        served = Daemon(bridge, listening, identity, tracer)
        settle_memory()
        await beside(telemetry, lambda: with_upkeep(lambda: served.serve(lambda: ready.say("ok")), config))()
        return served

    with ExitStack() as stack:  # beyond the event loop: its end waits for what is sent, and nothing must wait with it
        served = run(main)
    return served is not None and served.restarts


def _source(words: Sequence[str]) -> tuple[Path | None, str | None, tuple[str, ...]]:
    kind, *rest = words
    match kind:
        case "--config":
            return Path(rest[0]), None, ()
        case "--url":
            return None, rest[0], ()
        case _:
            return None, None, tuple(rest)


def _detach(folder: str, kept: int | None) -> None:
    """Take over nothing from the session that started this process: no terminal, files or mask.

    Args:
        folder: in which it works.
        kept: a descriptor that is kept, which processes of this one do not inherit.
    """
    os.umask(0o077)
    with suppress(OSError):  # it leads a session already
        os.setsid()
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for fd in _descriptors():
        with suppress(OSError):
            # Only those of another program are inheritable: Python opens none that are.
            if fd > 2 and os.get_inheritable(fd):
                if fd == kept:
                    os.set_inheritable(fd, False)
                else:
                    os.close(fd)


def _allow_descriptors() -> None:
    """Open as many files as the system lets this user, where that is more: sessions had a process each before."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a bound of the system beside this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError, ValueError):
            return [int(name) for name in os.listdir(folder)]
    return list(range(1024))


def _own_program() -> list[str]:
    """Return the command of this program, up to its first argument, for any working directory."""
    first, *more = sys.orig_argv[1 : sys.orig_argv.index("daemon")]
    if not first.startswith("-"):
        return [sys.executable, os.path.abspath(first), *more]
    # -P: files in the working directory are no modules of the program.
    return [sys.executable, *([] if first == "-P" else ["-P"]), first, *more]


@daemon.command(short_help="Show the daemons, their sessions and servers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show each daemon: its configuration, sessions, servers and memory. The exit code is 1 if one does not answer."""
    found = _found("status")
    if as_json:
        click.echo(json.dumps([_as_json(each) for each in found], indent=2))
    else:
        click.echo("\n".join(_shown(each) for each in found) if found else NONE_RUNS)
    if not all(each.status for each in found):
        sys.exit(1)


@daemon.command(short_help="End the daemons; open sessions start them again.")
def stop() -> None:
    """End the daemons. Calls that are running are finished first, within `drain_s`. Sessions that are open start a new
    daemon at once, and go on with it: close their hosts first if none is to run."""
    from asyncfc_mcp.cli import daemons

    _end("stop", "has ended", daemons.wait_for_end)


@daemon.command(short_help="End the daemons, and start them again.")
def restart() -> None:
    """End the daemons as `stop` does, and start each again, with the environment that it has."""
    from asyncfc_mcp.cli import daemons

    _end("restart", "was restarted", daemons.wait_for_restart)


@click.command("reload", short_help="Have running bridges read their configuration again.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Only those of this file. Default: all daemons.",
)
def reload_(config_file: Path | None) -> None:
    """Have the daemons read their configuration files again now, and print what has changed. Variables, `${file:…}` and
    the keyring are looked up again, too.

    Bridges follow their files by themselves. One without a daemon reads it at once on SIGHUP.

    The exit code is 1 if a file cannot be used, or a daemon does not answer.
    """
    from asyncfc_mcp.cli import daemons

    words = None if config_file is None else source_words(str(config_file), None, ())
    found = [each for each in _found("status") if words is None or list(each.about.get("words", ())) == words]
    failed = False
    for each in found:
        if each.status is not None and not daemons.ask(each, "reload"):
            each.status = None
        answer: Mapping[str, Any] = each.status or {"problem": f"no answer: {each.problem}"}
        file = str(answer.get("configuration") or each.about.get("configuration", "unknown"))
        title = f"{_title(each)}, {file}"
        if answer.get("problem"):
            failed = True
            problem = str(answer["problem"]).removeprefix(f"{file}: ")
            used = "" if each.status is None else "; the configuration that it has stays in use"
            click.echo(for_terminal(f"{title}: {problem}{used}"), err=True)
        else:
            changed = "; ".join(answer.get("changed") or ["nothing has changed"])
            click.echo(for_terminal(f"{title}: {changed}"))
    if not found:
        click.echo(f"{NONE_RUNS} Other bridges follow their files by themselves.")
    if failed:
        sys.exit(1)


def _end(command: str, done: str, wait: Any) -> None:
    from asyncfc_mcp.cli import daemons

    failed = False
    found = _found(command)
    for each in found:
        answered = each.status is not None
        if not answered and command == "stop" and daemons.terminate(each):
            answered = True
        drain_s = float((each.status or {}).get("drain_s") or 0)
        if answered and wait(each, drain_s + daemons.END_S):
            click.echo(f"{_title(each)} {done}{_starting_again(each) if command == 'stop' else ''}.")
        else:
            failed = True
            click.echo(f"{_title(each)} is still there: {each.problem or 'it does not end'}.", err=True)
    if not found:
        click.echo(NONE_RUNS)
    if failed:
        sys.exit(1)


def _starting_again(stopped: "Found") -> str:
    """Return a clause about the sessions that a daemon had; empty if it had none."""
    sessions = (stopped.status or {}).get("sessions")
    if not isinstance(sessions, int) or sessions == 0:
        return ""
    return "; the open session starts it again" if sessions == 1 else f"; {sessions} open sessions start it again"


def _found(command: str) -> "list[Found]":
    from asyncfc_mcp.cli import daemons

    try:
        return daemons.find(os.environ, command)
    except PlaceUnsafe as exc:
        click.echo(f"asyncfc-mcp: {for_terminal(str(exc))}", err=True)
        sys.exit(2)


# --- texts -----------------------------------------------------------------------------------------------------------


def _title(found: "Found") -> str:
    pid = (found.status or found.about).get("pid") or found.pid
    return f"Daemon {found.place.name}" if pid is None else f"Daemon {pid}"


def _as_json(found: "Found") -> dict[str, Any]:
    about = {"name": found.place.name, **found.about, **(found.status or {})}
    about.pop("words", None)  # as they were given, with the credentials in a URL; `configuration` has none
    return about if found.status else {**about, "problem": found.problem}


def _shown(found: "Found") -> str:
    about: Mapping[str, Any] = found.status or found.about
    memory = about.get("memory_bytes")
    facts = [f"version {about.get('version', 'unknown')}"]
    if isinstance(about.get("since"), int | float):
        facts.append(f"since {_time(about['since'])}")
    if isinstance(memory, int):
        facts.append(size(memory))
    lines = [f"{_title(found)} ({', '.join(facts)})", f"  configuration: {one_line(found.configuration)}"]
    if found.status is None:
        return for_terminal("\n".join([*lines, f"  no answer: {found.problem}"]))
    if about.get("problem"):
        problem = str(about["problem"]).removeprefix(f"{about.get('configuration')}: ")
        lines.append(f"  an earlier one is used, since the file cannot be: {problem}")
    if about.get("ending"):
        lines.append(f"  ends: {about['ending']}")
    lines += ["  servers:", *_conditions(about["servers"])] if about["servers"] else ["  servers: none"]
    for each in about.get("servers_of_sessions", ()):
        how_many = ", ".join(f"{number} {status}" for status, number in each["instances"].items())
        lines.append(f"  server for each session: {each['name']} ({how_many or 'none yet'}): {each['reason']}")
    lines.append(f"  unfinished calls: {about['unfinished_calls']}")
    if about.get("page"):
        lines.append(f"  page: {about['page']} (`asyncfc-mcp open` opens it)")
    lines.append("  sessions:" if about["sessions"] else "  sessions: none")
    for each in about["sessions"]:
        age = rough_duration(time.time() - each["since"])
        lines.append(f"    {each['client'] or 'not initialized'} in {each['cwd']} (process {each['pid']}, for {age})")
        lines += [f"  {line}" for line in _conditions(each.get("servers", ()))]
    return "\n".join(map(for_terminal, lines))


def _conditions(servers: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"    {each['name']}: {each.get('condition', each['status'])}" for each in servers]


def _time(since: float) -> str:
    at = datetime.fromtimestamp(since)
    return f"{at:%H:%M}" if time.time() - since < 86_400 else f"{at:%Y-%m-%d %H:%M}"
