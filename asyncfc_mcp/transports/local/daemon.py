"""The daemon's life: it serves sessions until nothing needs it, a newer version is there, or it is stopped.

Owns the reasons for its end, the moment, and the order of what happens then: sessions are handed over, the socket is
removed, servers are ended. Leaves connections to `sessions`, files to `listening`, the page to `page_server`, and
finishing calls to `lifecycle`.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import anyio

import asyncfc_mcp
from asyncfc_mcp import __version__
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.server_requests import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.config.environment import CHAIN_VARIABLE
from asyncfc_mcp.monitor.monitor import Monitor
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.thin.place import PlaceUnsafe
from asyncfc_mcp.transports.lifecycle import stop_on_signals, warn_of_unordered_tools
from asyncfc_mcp.transports.local.first_line import Command, Join, Refused
from asyncfc_mcp.transports.local.listening import Listening, Replaced
from asyncfc_mcp.transports.local.page_server import PageServer
from asyncfc_mcp.transports.local.program import ProgramFiles, is_newer, version_of
from asyncfc_mcp.transports.local.sessions import Sessions
from asyncfc_mcp.upstream.request_tracing import RequestTracer
from asyncfc_mcp.upstream.server import Upstream

logger = logging.getLogger(__name__)

IDLE_S: Final = 900.0
"""Time without a session and without an unfinished call after which a daemon ends, where no setting says another."""
FIRST_SESSION_S: Final = 10.0
"""Shortest such time before the first session: the one that has started the daemon."""
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.05, 15.0
"""Bounds of the interval in which the daemon looks whether it is idle."""
FILES_S: Final = 20.0
"""Interval between two looks at the files of the program."""
SOCKET_S: Final = 5.0
"""Interval between two looks at the daemon's lock and socket."""
QUIET_S: Final = 600.0
"""Longest wait for a moment without unfinished calls before sessions are handed over to a newer version."""
QUIET_POLL_S: Final = 0.5


@dataclass(frozen=True)
class Identity:
    """What a daemon is, for those who look.

    Args:
        configuration: its source.
        words: the arguments that name its servers.
        program: the command of this program.
        chain: the word for this bridge among those that have started one another (`CHAIN_VARIABLE`).
    """

    configuration: str
    words: Sequence[str]
    program: Sequence[str]
    chain: str = ""
    since: float = field(default_factory=time.time)
    run: str = field(default_factory=lambda: token_hex(8))
    """Differs between two runs, also of one process that has started itself anew."""

    @property
    def about(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "run": self.run,
            "version": __version__,
            "since": self.since,
            "configuration": self.configuration,
            "program": list(self.program),
            "words": list(self.words),
        }


class Daemon:
    """One run of the daemon.

    Args:
        bridge: not opened yet.
        listening: its place, with the lock taken.
        tracer: traces the requests of sessions; None: nothing does.
    """

    def __init__(
        self, bridge: Bridge, listening: Listening, identity: Identity, tracer: RequestTracer | None = None
    ) -> None:
        self._tracer = tracer
        self._bridge, self._listening, self._identity = bridge, listening, identity
        self._ending = anyio.Event()
        self._reason = ""
        self._program: Sequence[str] | None = None
        """The program with which sessions start the next daemon."""
        self.restarts = False
        """True if the process is to start itself anew after this run."""
        self._serving = False
        self._newer: tuple[str, ...] | None = None
        """A program of a newer version, not tried yet."""
        self._newer_seen = WakeUp()
        self._refused: set[tuple[str, ...]] = set()
        """Programs that said they are newer, and are not."""
        self._sessions_seen = False

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve sessions until there is a reason to end, and hand over. Signals but the first SIGTERM end it at once.

        Args:
            ready: called when sessions can join.

        Raises:
            OSError: it cannot listen.
        """
        bridge = self._bridge
        # Declared once for all sessions; each call passes on the capabilities of its own client.
        bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
        async with stop_on_signals(self._terminate, self._hang_up), bridge.open():
            upstream = Upstream(bridge, self._tracer)
            monitor = Monitor(bridge, transport="daemon") if bridge.settings.page else None
            self._page = PageServer(bridge, monitor)
            self._sessions = Sessions(
                upstream, command=self._carry_out, joined=self._on_join, left=bridge.end_session, notes=self._notes
            )
            if bridge.config_file is not None:
                bridge.config_file.observe(self._sessions.note)
            try:
                async with anyio.create_task_group() as tg:
                    await tg.start(upstream.run)
                    if monitor is not None:
                        await tg.start(monitor.run)
                    await tg.start(self._page.run)
                    self._listening.open(self._identity.about)
                    tg.start_soon(self._sessions.accept, self._listening)
                    for watch in (self._watch_use, self._watch_files, self._watch_socket, self._watch_versions):
                        tg.start_soon(watch)
                    tg.start_soon(warn_of_unordered_tools, bridge)
                    self._serving = True
                    logger.warning("daemon %s: version %s serves %s", os.getpid(), __version__, self._configuration)
                    ready()
                    await self._ending.wait()
                    logger.warning("daemon %s: ends: %s", os.getpid(), self._reason)
                    self._page.refuse_new()
                    await self._sessions.drain(self._program)
                    self._listening.close()
                    tg.cancel_scope.cancel()
            finally:
                self._listening.close()

    @property
    def _configuration(self) -> str:
        return self._identity.configuration

    # --- reasons to end ------------------------------------------------------------------------------------------

    def _end(self, reason: str, program: Sequence[str] | None = None) -> None:
        """Begin the end; only the first reason counts."""
        if not self._ending.is_set():
            self._reason, self._program = reason, program
            self._ending.set()

    def _terminate(self) -> bool:
        """Begin the end on SIGTERM; return whether there is anything to finish."""
        self._end("it was asked to (SIGTERM)")
        return self._serving

    def _hang_up(self) -> bool:
        """Read the configuration again on SIGHUP; return that this ends nothing."""
        if self._bridge.config_file is not None:
            self._bridge.config_file.reload_soon()
        return True

    def _is_used(self) -> bool:
        return len(self._sessions) > 0 or bool(self._bridge.engine.unfinished)

    async def _watch_use(self) -> None:
        """End the daemon once it has been idle for long enough."""
        since = anyio.current_time()
        while True:
            setting = self._bridge.settings.daemon_idle_s
            limit = IDLE_S if setting is None else setting
            await anyio.sleep(min(max(limit / 4, SHORTEST_LOOK_S), LONGEST_LOOK_S))
            now = anyio.current_time()
            idle_s = limit if self._sessions_seen else max(limit, FIRST_SESSION_S)
            if self._is_used():
                since = now
            elif now - since >= idle_s:
                return self._end(f"no session has used it for {limit:g} s (daemon_idle_s)")

    async def _watch_files(self) -> None:
        """End the daemon in favour of a program that has replaced its own."""
        folder = Path(asyncfc_mcp.__file__).parent
        files = await anyio.to_thread.run_sync(ProgramFiles, folder)
        while True:
            await anyio.sleep(FILES_S)
            self._listening.touch()
            if await anyio.to_thread.run_sync(files.have_changed) and await version_of(self._identity.program):
                await self._upgrade("its program was replaced", self._identity.program)

    async def _watch_socket(self) -> None:
        """Make the lock and the socket again if they were removed. End where another daemon was faster."""
        while True:
            await anyio.sleep(SOCKET_S)
            try:
                if await self._listening.renew():
                    logger.warning("the daemon's lock or socket was removed; it listens again")
            except Replaced:
                return self._end("its lock was removed, and another daemon has taken its place")
            except (OSError, PlaceUnsafe) as exc:
                logger.warning("the daemon's lock or socket was removed, and cannot be made again: %s", exc)

    def _on_join(self, join: Join) -> None:
        """
        Raises:
            Refused: the session is that of a server which this bridge wraps.
        """
        if self._identity.chain and self._identity.chain in join.environ.get(CHAIN_VARIABLE, "").split():
            raise Refused("the configuration lists the bridge itself among the servers to wrap")
        self._sessions_seen = True
        if self._newer is None and join.program not in self._refused and is_newer(join.version):
            self._newer = join.program
            self._newer_seen.set()

    async def _watch_versions(self) -> None:
        """Hand over to a newer version that a session runs, if it is one."""
        while True:
            await self._newer_seen.wait()
            program = self._newer
            if program is None:
                continue
            version = await version_of(program)
            if version is not None and is_newer(version):
                await self._upgrade(f"a session runs version {version}", program)
            self._refused.add(program)
            self._newer = None

    async def _upgrade(self, reason: str, program: Sequence[str]) -> None:
        """End in favour of another program, at a moment without unfinished calls."""
        with anyio.move_on_after(QUIET_S):
            while self._bridge.engine.unfinished:  # noqa: ASYNC110 - no event tells that all calls have ended
                await anyio.sleep(QUIET_POLL_S)
        self._end(reason, program)
        await anyio.sleep_forever()

    # --- sessions and commands -----------------------------------------------------------------------------------

    def _notes(self) -> Sequence[str]:
        """Return what `serve` says of the present configuration on stderr, which the host of a session shows."""
        config, problem = self._bridge.config, self._problem
        left_out = [f"server {server.name!r} was left out: {server.reason}" for server in config.unusable]
        wrong = [] if problem is None else [f"an earlier configuration is used, since its file cannot be: {problem}"]
        return [*config.warnings, *left_out, *wrong]

    @property
    def _problem(self) -> str | None:
        """The reason for which the present file of the configuration is not used."""
        file = self._bridge.config_file
        return None if file is None else file.problem

    async def _reload(self) -> Mapping[str, Any]:
        file = self._bridge.config_file
        if file is None:
            return {**self._identity.about, "changed": [], "problem": "its servers are not from a file"}
        done = await file.reload()
        return {**self._identity.about, "changed": list(done.changed), "problem": done.problem}

    async def _carry_out(self, command: Command) -> Mapping[str, Any]:
        match command:
            case "status":
                return self.status
            case "stop" | "restart":
                self.restarts = command == "restart" or self.restarts
                self._end(f"it was asked to (daemon {command})")
                drain_s, sessions = self._bridge.settings.drain_s, len(self._sessions)
                return {"pid": os.getpid(), "run": self._identity.run, "drain_s": drain_s, "sessions": sessions}
            case "reload":
                return await self._reload()
            case "page":
                return await self._page.open()

    @property
    def status(self) -> dict[str, Any]:
        """Report for `daemon status`; `problem` is what is wrong with the present configuration file."""
        return {
            **self._identity.about,
            "ending": self._reason or None,
            "problem": self._problem,
            "sessions": [
                {**session.about, "servers": self._bridge.server_conditions(session.principal)}
                for session in self._sessions
            ],
            "servers": self._bridge.server_conditions(),
            "servers_of_sessions": self._bridge.server_instances(),
            "page": self._page.url,
            "unfinished_calls": len(self._bridge.engine.unfinished),
            "memory_bytes": _memory(),
        }


def _memory() -> int | None:
    """Return the memory of this process, without its servers; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
