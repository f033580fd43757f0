"""Settings of the bridge and of tools, with their defaults, bounds and documentation.

Owns the values; pure. Where each is allowed is left to `levels`, servers to `model`, reading a file to `reader`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from asyncfc_mcp.redaction import passwords_of, shown_url

EMBEDDED: Final = "embedded"
"""The engine that needs no database."""


def setting(
    default: Any, doc: str, *, minimum: int = 0, above: bool = False, secret: bool = False, restart: bool = False
) -> Any:
    """Declare a setting: a field whose type gives the kind of its values.

    A choice (`Literal`), `bool`, `int`, `float`, `str` or `tuple[str, ...]`, each but the first also with `None`, is
    read, checked and documented from this declaration alone.

    Args:
        minimum: smallest value of a number.
        above: a number must be larger than `minimum`.
        secret: the value is not shown.
        restart: a change takes effect at the next start: of the bridge, or of the server that it is set for. All others
            apply to new calls as soon as the configuration is reloaded.
    """
    metadata = {"doc": doc, "minimum": minimum, "above": above, "restart": restart}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of one tool, each resolved from the nearest of three levels: tool, server, top of the file."""

    mode: Literal["future", "sync"] = setting(
        "future", "`sync`: the call is answered with its result, and ordered like any other call."
    )
    ordering: Literal["declared", "strict", "none"] = setting(
        "declared",
        "Ordering of tools that declare no effects: `declared` does not order them, `strict` treats them as writes. "
        "`none` turns ordering off, whatever is declared.",
    )
    on_failure: Literal["stop", "continue"] = setting(
        "continue",
        "`stop`: if a write fails, the writes queued behind it on the same state are cancelled. Applies only between "
        "tools with `reads` or `writes`.",
    )
    reads: tuple[str, ...] | None = setting(None, "State paths that the tool reads. `[]`: none.")
    writes: tuple[str, ...] | None = setting(None, "State paths that the tool writes. `[]`: none.")
    profile: str = setting(
        "auto",
        "Effect profile, for tools without `reads` or `writes`: `auto` (by the server's name and tools), `off`, "
        "or the name of a profile.",
    )
    references: Literal["all", "read-only", "off"] = setting(
        "all", "Tools whose arguments may be futures: all, those with `readOnlyHint` only, or none."
    )
    names: bool = setting(
        True, "Adds the arguments `_as`, which names the call's future, and `_after`: calls that must complete first."
    )
    wait: bool = setting(True, "Adds the argument `_wait`, which waits for results within the call.")
    shapes: Literal["learned", "declared", "off"] = setting(
        "learned",
        "Adds the keys of a tool's results to its description: those of its `outputSchema`, or without one those of "
        "earlier results (`learned`). `declared`: the first only.",
    )
    max_concurrency: int | None = setting(
        None, "Maximum concurrent calls of the tool, or of each server (default 200 for servers at a URL).", minimum=1
    )
    timeout_s: float | None = setting(
        None, "Timeout of a running call, in seconds. The call is then cancelled.", above=True
    )
    grace_ms: float = setting(
        25.0, "Milliseconds to wait for a quick tool, so that its result is returned at once; 0: do not wait."
    )
    retries: int = setting(
        2, "Retries after a transport failure, for tools with `readOnlyHint` or `idempotentHint` only."
    )
    single_flight: bool = setting(False, "Concurrent identical calls of `readOnlyHint` tools share one result.")
    journal: bool = setting(
        True,
        "`false`: arguments and results are never written to the [journal](journal.md), only that there was a call.",
    )
    rerun_interrupted: bool = setting(
        False,
        "Calls that were running when the bridge stopped are made again in its next run, for tools with `readOnlyHint` "
        "or `idempotentHint` only. Otherwise they fail as interrupted. Needs the [journal](journal.md).",
    )
    max_message_bytes: int = setting(
        64 << 20,
        "Maximum size of a server's message, in bytes after decompression. A larger message fails the call that it "
        "answers, or closes the server's connection if the call cannot be determined.",
        minimum=1,
        restart=True,
    )
    max_argument_bytes: int = setting(
        8 << 20, "Maximum size of arguments after the values of futures were substituted, in bytes.", minimum=1
    )


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """Servers and tools that some principals may use (setting `access`).

    Attributes:
        allow: patterns of what they may use; None: everything.
        deny: patterns of what they may not use, whatever allows it.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the bridge as a whole, allowed at the top of the file only."""

    max_wait_s: float = setting(45.0, "Maximum wait within one call, in seconds.")
    max_pending: int = setting(10_000, "Maximum number of unfinished calls; more are refused.", minimum=1)
    max_result_bytes_total: int = setting(
        512 << 20,
        "Memory limit for results, errors and arguments, in bytes. Beyond it, results that were read are dropped, "
        "least recently read first; if that is not enough, calls are refused.",
    )
    keep_s: float = setting(
        3600.0,
        "Seconds that a result is kept in memory after it was last read, as long as memory allows. Unread results are "
        "kept. With a journal, results that memory dropped are read from there (`ttl_s`).",
    )
    unread_keep_s: float = setting(
        3600.0, "Seconds that an unread result is kept in memory with `--insecure-no-auth`, where its ID may be lost."
    )
    max_caller_share: float = setting(
        0.5,
        "Share of `max_pending`, `max_result_bytes_total`, `max_sessions`, `max_connections` and each "
        "`max_concurrency` that one principal may use where there are several (`--auth-tokens`, `--auth-jwt`), at "
        "least one call. A half means as much as is left for others; if several use much, each gets less. With "
        "`--insecure-no-auth` it is the share of one caller in calls and memory: a session, or all clients of one name "
        "without a session.",
        restart=True,
    )
    public_order_s: float = setting(
        60.0,
        "Seconds after its submission for which a call keeps its place in the order with `--insecure-no-auth`. After "
        "that, no call waits for it, and it waits for none.",
    )
    deliver: Literal["auto", "inline", "off"] = setting(
        "auto",
        "Delivery of small finished results with the next answer, where the conversation is known; `off`: none.",
    )
    inline_bytes: int = setting(4096, "Maximum size of a result that is delivered that way, in bytes.")
    forward_wait_ms: float | None = setting(
        None,
        "Milliseconds that `_after`, `_wait`, `$name`, `gather` and `await_future` wait for the call that takes the "
        "name, and that a call waits for a request with a smaller ID of its session; 0: do not wait. Default: 500; 50 "
        "for what may be text, and for clients without a session.",
    )
    max_result_bytes: int | None = setting(
        None, "Maximum text that `await_future` returns; the rest is read as a resource. `null`: no limit."
    )
    tasks: Literal["auto", "handle", "task"] = setting(
        "auto",
        "Answer to clients that declare the tasks extension: `handle`, `task`, or `auto`: the result itself if it "
        "comes within the grace, otherwise a task.",
    )
    task_keep_s: float = setting(
        3600.0,
        "Seconds that a task is kept after its call (its `ttlMs`), at least half of them after its end, and then "
        "dropped. A result that was read is dropped earlier if memory is needed. Clients of 2025-11-25 can ask for "
        "less.",
        above=True,
    )
    engine: str = setting(
        EMBEDDED,
        "Engine that keeps futures: `embedded` (in this process, with a journal), or the URL of a PostgreSQL database "
        "that several replicas of the bridge share, such as `postgresql://user:${PASSWORD}@host/database` (with "
        "special characters percent-encoded). Replicas have the same configuration. Needs `asyncfc-mcp[postgres]`.",
        secret=True,
        restart=True,
    )
    replica: str | None = setting(
        None,
        "Name of this replica, with the URL of a database as `engine`. Default: the name of the host. May contain "
        "variables.",
        restart=True,
    )
    replica_timeout_s: float = setting(
        30.0,
        "Seconds without a heartbeat after which the other replicas take a replica for dead: its calls that were "
        "waiting go on at another one, and those that were running are interrupted. The same for all replicas.",
        minimum=2,
        restart=True,
    )
    secret: str | None = setting(
        None,
        "Secret of all replicas that share a database, at least 16 characters, such as `${ASYNCFC_SECRET}`: with it, a "
        "question that one replica asks can be answered at another. Default: a random one for each process.",
        secret=True,
        restart=True,
    )
    credentials: Literal["file", "keyring"] = setting(
        "file",
        "Where the tokens of servers that were [signed in](sign-in.md) to are kept: in private files of the user's "
        "state folder, or in the `keyring` of the operating system. Needs `asyncfc-mcp[keyring]`.",
        restart=True,
    )
    journal: str = setting(
        "auto",
        "[Journal](journal.md) of futures, with which they survive a restart: `auto` (a file for each configuration in "
        "the user's state folder), `off`, or the path of a file, relative to the configuration's folder.",
        restart=True,
    )
    ttl_s: float = setting(
        86_400.0,
        "Seconds that a future is kept in the journal after its end, as long as its size allows.",
        above=True,
        restart=True,
    )
    journal_max_bytes: int = setting(
        1 << 30,
        "Maximum size of the journal with the results beside it, in bytes. Beyond it, finished futures are dropped: "
        "those that were read first, and of these the oldest.",
        minimum=1 << 20,
        restart=True,
    )
    log_max_bytes: int = setting(
        256 << 20,
        "Maximum size of all [logs](install.md#files) of this user, of all configurations, in bytes. Beyond it, logs "
        "that no server writes are removed, those first that were not written for the longest time.",
        minimum=1 << 20,
        restart=True,
    )
    telemetry: Literal["auto", "off"] = setting(
        "auto",
        "[Telemetry](telemetry.md): `auto`: traces and metrics if the environment configures OpenTelemetry "
        "(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_EXPORTER`, …); `off`: none. Needs `asyncfc-mcp[telemetry]`.",
        restart=True,
    )
    metrics: bool = setting(
        False,
        "Serves [metrics](telemetry.md#prometheus) for Prometheus at `/metrics`, over HTTP. Needs "
        "`asyncfc-mcp[telemetry]`.",
        restart=True,
    )
    reload: Literal["auto", "off"] = setting(
        "auto",
        "[Reloading](#reloading) of this file: `auto`: as soon as it changes; `off`: only on SIGHUP and with "
        "`asyncfc-mcp reload`.",
    )
    page: bool = setting(
        True,
        "[Page](page.md) in the browser that shows calls, servers and the time saved, over HTTP and of a daemon; "
        "`false`: none, nor what `asyncfc-mcp top` reads.",
        restart=True,
    )
    daemon_idle_s: float | None = setting(
        None,
        "Seconds without a session and without an unfinished call after which a [daemon](daemon.md) ends. If not set: "
        "`idle_s` at the top of the file, otherwise 900.",
    )
    drain_s: float = setting(
        10.0,
        "Seconds that accepted calls may take to finish after the client closed its input (stdio), or after the first "
        "SIGTERM (HTTP); 0: none.",
    )
    max_connections: int = setting(
        1000,
        "Maximum HTTP connections, at most as many as leave 256 descriptors, or half of them. Beyond it, a connection "
        "on which no request is being answered is closed for the new one; if there is none, the new one is refused.",
        minimum=1,
        restart=True,
    )
    max_connections_per_address: int | None = setting(
        None,
        "Maximum HTTP connections from one address; behind a proxy, all clients have the proxy's. If not set: a "
        "quarter of `max_connections` with `--insecure-no-auth`, for addresses other than this machine's; otherwise "
        "unlimited.",
        minimum=1,
        restart=True,
    )
    max_sessions: int = setting(
        10_000,
        "Maximum HTTP sessions of handshake-era clients. Beyond it, the oldest session without a request since its "
        "handshake is evicted, or else one that has been idle for a minute; otherwise the new one is refused.",
        minimum=1,
    )
    max_requests_per_s: float | None = setting(
        None,
        "Maximum HTTP requests of one principal in a second, with bursts of ten seconds' worth; more are refused (429, "
        "with `Retry-After`). If not set: 1,000 where there are several principals, otherwise unlimited.",
        above=True,
        restart=True,
    )
    max_requests_per_s_total: float | None = setting(
        None,
        "The same for all principals together; each that uses it gets an equal part. If not set: unlimited.",
        above=True,
        restart=True,
    )
    header_timeout_s: float = setting(
        10.0, "Timeout for receiving the head of an HTTP request, in seconds.", above=True, restart=True
    )
    body_timeout_s: float = setting(
        30.0,
        "Timeout for receiving the body of an HTTP request, in seconds, plus one second for each 1,000 bytes. Also the "
        "timeout for a pause between its bytes, and for a client that does not read a waiting response.",
        above=True,
        restart=True,
    )
    idle_timeout_s: float = setting(
        5.0, "Seconds after which an idle HTTP connection is closed.", above=True, restart=True
    )
    question_timeout_s: float = setting(
        600.0, "Timeout for the answer to a server's question to the user, in seconds. The call then fails.", above=True
    )
    access: Mapping[str, AccessEntry] | None = field(
        default=None,
        metadata={
            "doc": "Servers and tools that each principal may see and use, by its name, by an OAuth scope of its token "
            "(`scope:NAME`), or for all (`*`): see [Access](security.md#access-of-principals). Not set: everything. "
            "Set: who has no entry may use nothing."
        },
    )
    required_scopes: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]],
        metadata={
            "doc": 'OAuth scopes that requests need, by method, such as `{"*": ["mcp"], "tools/call": '
            '["mcp:call"]}`; `*`: all requests. Checked where a principal\'s token has scopes (`--auth-jwt`, and '
            "`scopes` of a person in `--auth-tokens`)."
        },
    )
    host_profiles: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict[str, Mapping[str, object]],
        metadata={"doc": "Overrides of host profiles, by `clientInfo.name`."},
    )

    @property
    def shown_engine(self) -> str:
        """The engine for display, without secrets."""
        return self.engine if self.engine == EMBEDDED else shown_url(self.engine)

    @property
    def shared_secret(self) -> str | None:
        """The secret of all replicas; None where there is only this one. What was sealed by another run of an engine
        without a database must not be opened: it may mean something else now."""
        return None if self.engine == EMBEDDED else self.secret

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any text, longest first."""
        return tuple(sorted({*passwords_of(self.engine), *filter(None, [self.secret])}, key=len, reverse=True))

    @property
    def name_wait_s(self) -> float:
        """Seconds for which a name that no call has taken is waited for, where it cannot be text."""
        return 0.5 if self.forward_wait_ms is None else self.forward_wait_ms / 1000

    @property
    def gap_wait_s(self) -> float:
        """The same for what may be text, and for missing requests of a client without a session."""
        return 0.05 if self.forward_wait_ms is None else self.forward_wait_ms / 1000


POLICY: Final = {f.name: f for f in fields(Policy)}
SETTINGS: Final = {f.name: f for f in fields(Settings)}
