"""Checks of the servers of one configuration: their start, their sign-ins, the port of sign-ins, and its futures.

Owns how each state is judged. The servers are connected to by `inspect`, whose report is read here.
"""

import shlex
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.cli import engine, inspect, journal_report
from asyncfc_mcp.cli.doctor.findings import Finding, ok, problem, warning
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec
from asyncfc_mcp.downstream.oauth.store import CredentialStore
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.errors import BridgeError

DATABASE_S: Final = 20.0
"""Timeout for the database, in seconds."""


async def check_servers(bridge: Callable[[], Bridge], store: CredentialStore, file: str) -> list[Finding]:
    """Connect to the servers, and check each of them and its sign-in.

    Args:
        bridge: makes it, inside the event loop.
        file: of the configuration, for commands.
    """
    facts = await inspect.connected_report(bridge(), store=store)
    shown = [server for server in facts["servers"] if server["status"] != "misconfigured"]
    findings = [finding for server in shown for finding in (_check_server(server, file), *_check_sign_in(server))]
    return findings + [warning("tools", note) for note in facts["notes"]]


def _check_server(server: Mapping[str, Any], file: str) -> Finding:
    subject, status = f"server {server['name']}", server["status"]
    if status == Status.READY.value:
        counts = {noun: server[f"{noun}s"] for noun in ("tool", "prompt", "resource")}
        listed = [f"{n} {noun}{'' if n == 1 else 's'}" for noun, n in counts.items() if n or noun == "tool"]
        if not any(counts.values()):
            return warning(subject, "starts, but lists nothing", "look at its own settings, and at include and exclude")
        return ok(subject, f"starts and lists {', '.join(listed)}")
    if inspect.is_up(server):
        return ok(subject, status)
    if status == Status.SIGN_IN.value:
        return problem(subject, "needs a sign-in", f"run `{server['reason']}`")
    if status == Status.STARTING.value:
        text = f"did not start within {inspect.CONNECT_S:g} s"
        return problem(
            subject, text, f"run `asyncfc-mcp inspect -v --config {shlex.quote(file)}` to see what it writes"
        )
    return problem(subject, server["reason"] or status)


def _check_sign_in(server: Mapping[str, Any]) -> list[Finding]:
    """Check a stored sign-in, if there is one."""
    credentials = server["credentials"]
    if credentials is None or server["status"] == Status.SIGN_IN.value:
        return []
    subject = f"sign-in {server['name']}"
    match credentials["kind"]:
        case "signed in" | "client credentials":
            return [ok(subject, credentials["text"])]
        case "expired":
            return [warning(subject, credentials["text"])]
        case "unreadable":
            return [problem(subject, credentials["text"])]
        case _:
            return []


def check_ports(config: BridgeConfig) -> list[Finding]:
    """Check the ports to which browsers are sent after a sign-in."""
    uris = {
        spec.oauth.redirect_uri
        for server in config.servers
        if isinstance(spec := server.spec, HttpSpec)
        and spec.oauth is not None
        and spec.oauth.grant == "authorization_code"
    }
    places = {(urlsplit(uri).hostname or "", urlsplit(uri).port or 0) for uri in uris}
    return [_check_port(host, port) for host, port in sorted(places) if port]


def _check_port(host: str, port: int) -> Finding:
    subject = f"port {port}"
    address = "127.0.0.1" if host == "localhost" else host
    try:
        socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        return warning(
            subject,
            "in use, so that no sign-in can come back to it",
            'end the program that uses it (unless it is a sign-in that is going on), or set "callbackPort"',
        )
    return ok(subject, "free for sign-ins")


def check_journal(figures: Mapping[str, Any] | None, unwritten: int = 0) -> Finding:
    """Check the journal.

    Args:
        figures: of `process.journal_status`.
    """
    line = journal_report.line(figures, unwritten)
    if figures is not None and figures["problem"]:
        return problem("journal", line, "futures of this configuration end with the bridge until that is corrected")
    return ok("journal", line)


async def check_database(config: BridgeConfig, file: str) -> list[Finding]:
    """Check the database of replicas.

    Args:
        file: of the configuration, for commands.
    """
    from asyncfc_mcp.app import administration

    try:
        with anyio.fail_after(DATABASE_S):
            status = await administration(config).status()
    except TimeoutError:
        return [problem("database", f"no answer within {DATABASE_S:g} s", "check its address, and whether it runs")]
    except BridgeError as exc:
        return [problem("database", str(exc))]
    where = f"{status['database']}, schema {status['schema']}"
    if not engine.is_current(status):
        has = f"version {status['version']}" if status["version"] else "no tables"
        text = f"{where} has {has}; this program needs version {status['known_version']}"
        return [problem("database", text, f"run `asyncfc-mcp engine migrate --config {shlex.quote(file)}`")]
    count = len(status["replicas"])
    return [ok("database", f"{where}: version {status['version']}, {count} replica{'' if count == 1 else 's'}")]
