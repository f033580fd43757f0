"""Settings with their defaults, bounds and documentation; servers, and the levels at which a setting is allowed.

Owns the values; pure. `reader` parses a file into them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from asyncfc_mcp.config.environment import Inherit, environment
from asyncfc_mcp.config.overrides import OVERRIDES, ToolOverride
from asyncfc_mcp.redaction import passwords_of, secrets_of, shown_command, shown_url, without_secrets

DEFAULT_CALLBACK_PORT: Final = 28463
"""Port of the loopback redirect of sign-ins: always the same, since authorization servers compare it with the
registered one. Neither assigned by IANA nor in the range that systems give to outgoing connections."""
HTTP_CONCURRENCY: Final = 200
"""Default concurrency limit of a server at a URL."""


EMBEDDED: Final = "embedded"
"""The engine that needs no database."""
AUTO_OWNER: Final = "auto"
"""One replica at a time runs the server."""
ANY_OWNER: Final = "any"
"""Each replica runs the server, or calls it."""


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
class StdioSpec:
    """A server that is started as a process and connected over stdio."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    env_inherit: Inherit = "all"
    """Variables inherited from the bridge's environment in addition to `env`."""
    credentials: tuple[str, ...] = ()
    """Values from files and the keyring, which no text may show, whatever their variables are called."""
    environ: Mapping[str, str] | None = None
    """Environment of the session for which it is started, in place of the bridge's. In memory only, and never shown."""

    def __repr__(self) -> str:
        return f"StdioSpec({self.shown!r})"

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of its process.

        Args:
            environ: the bridge's.
        """
        return environment(environ if self.environ is None else self.environ, self.env, self.env_inherit)

    def in_session(self, folder: str, environ: Mapping[str, str]) -> "StdioSpec":
        """Return it for a session with this working directory and environment."""
        return replace(self, cwd=os.path.join(folder, self.cwd or ""), environ=environ)

    @property
    def shown(self) -> str:
        """The command line for display, without secrets."""
        return shown_command([self.command, *self.args])

    @property
    def shown_program(self) -> str:
        """The command for display, quoted, without its arguments."""
        return repr(shown_command(self.command.split(" ")) if " " in self.command else self.command)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any text."""
        return secrets_of(argv=self.args, env=self.env, others=self.credentials)


@dataclass(frozen=True, slots=True)
class OAuthSpec:
    """Sign-in to a server with OAuth, as far as it is configured. All else is discovered, or registered.

    Attributes:
        client_id, client_secret: of a client that was registered by hand.
        client_metadata_url: URL of a client ID metadata document, which is the client ID.
        scopes: to request in place of those that the server asks for.
        issuer: the authorization server where that client was registered; its credentials go to no other one.
        callback_host, callback_port, callback_path: of the loopback redirect; the host is `127.0.0.1` or `localhost`,
            a port of None is `DEFAULT_CALLBACK_PORT`.
        grant: `client_credentials` for machines, without a user.
        private_key: in PEM, to authenticate the client with a signed JWT in place of a secret.
        key_id, algorithm: of that JWT.
        metadata_url: URL of the authorization server's metadata, in place of discovery.
        resource: resource indicator, in place of the server's URL.
    """

    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    issuer: str | None = None
    client_metadata_url: str | None = None
    scopes: tuple[str, ...] | None = None
    callback_host: str = "127.0.0.1"
    callback_port: int | None = None
    callback_path: str = "/callback"
    grant: Literal["authorization_code", "client_credentials"] = "authorization_code"
    private_key: str | None = field(default=None, repr=False)
    key_id: str | None = None
    algorithm: str = "ES256"
    metadata_url: str | None = None
    resource: str | None = None

    @property
    def redirect_uri(self) -> str:
        """The loopback redirect of a sign-in with a browser."""
        port = DEFAULT_CALLBACK_PORT if self.callback_port is None else self.callback_port
        host = f"[{self.callback_host}]" if ":" in self.callback_host else self.callback_host
        return f"http://{host}:{port}{self.callback_path}"


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """A server at a URL: Streamable HTTP, or HTTP+SSE."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    kind: Literal["http", "sse"] = "http"
    oauth: OAuthSpec | None = None
    """Sign-in, if the server asks for it; None where the configuration gives it credentials."""
    caller_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Header → template with `${caller:NAME}`: sent to the server with the value that the caller's request has."""
    credentials: tuple[str, ...] = ()
    """Values from files and the keyring, which no text may show."""

    def __repr__(self) -> str:
        return f"HttpSpec({self.shown!r}, kind={self.kind!r}, oauth={self.oauth!r})"

    @property
    def has_user(self) -> bool:
        """True if the URL has a user or a password, which are sent as credentials."""
        return urlsplit(self.url).username is not None

    @property
    def shown(self) -> str:
        """The URL for display, without user, password, query and what comes from a file or the keyring."""
        return without_secrets(shown_url(self.url), self.credentials)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any text."""
        oauth = self.oauth
        of_client = () if oauth is None else filter(None, (oauth.client_secret, oauth.private_key))
        return secrets_of(headers=self.headers, url=self.url, others=(*self.credentials, *of_client))


@dataclass(frozen=True)
class ServerConfig:
    """Configuration of one wrapped server."""

    name: str
    spec: StdioSpec | HttpSpec
    prefix: str | None = None
    """Prefix of each tool's name; None: `server__`."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_concurrency: int | None = None
    keep_names: bool = False
    """True: names are listed unchanged, neither mapped nor shortened."""
    base: Policy = field(default_factory=Policy)
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    overrides: Mapping[str, ToolOverride] = field(default_factory=dict[str, ToolOverride])
    """Tool → what is listed in place of the server's own entry."""
    state: str | None = None
    """Root of the server's state: words joined by `/`, or `files:` and an absolute folder. None: its own root."""
    owner: str | None = None
    """Replica that runs the server: `any`, `auto`, or a name; None: `runs_at` decides."""
    share: Literal["auto", "session", "user"] = setting(
        "auto",
        "Instances of the server in a [daemon](daemon.md): `user`: one for all sessions; `session`: one for each, "
        "started with the session's folder and environment; `auto`: one for each where the server is known to keep "
        "state of a session (browsers, shells), or its command has a relative path, otherwise one for all.",
    )
    start: Literal["auto", "lazy", "eager"] = setting(
        "auto",
        "`lazy`: a server whose listings are known from an earlier start is started [when it is "
        "needed](daemon.md#servers-that-start-when-needed), such as by its first call; `eager`: with the bridge. "
        "`auto`: `lazy` in a [daemon](daemon.md), otherwise `eager`.",
    )
    idle_s: float | None = setting(
        None,
        "Seconds without a request after which a server that is started when it is needed is ended; the next request "
        "starts it again. Never while it has unfinished calls or subscriptions, or state of a session. If not set: 900 "
        "for servers that are known to keep no state in their process, otherwise never.",
    )

    def is_lazy(self, *, daemon: bool) -> bool:
        """Return whether the server is started by its first call, once its listings are known.

        Args:
            daemon: in a daemon, and not in a bridge of one session.
        """
        return self.start == "lazy" or (self.start == "auto" and daemon)

    @property
    def runs_at(self) -> str:
        """Replica that runs the server: `any` (each one), `auto` (one at a time), or the name of one. A process may
        have state that other processes of the same command do not have."""
        return self.owner or (ANY_OWNER if isinstance(self.spec, HttpSpec) else AUTO_OWNER)

    @property
    def limit(self) -> int | None:
        """Maximum concurrent calls. A server at a URL is always limited, since each call uses a connection."""
        if self.max_concurrency is None and isinstance(self.spec, HttpSpec):
            return HTTP_CONCURRENCY
        return self.max_concurrency

    def policy(self, tool: str) -> Policy:
        """Return the settings of one of the server's tools."""
        own = self.tools.get(tool)
        return replace(self.base, **own) if own else self.base

    @property
    def tool_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.tools, *self.overrides)))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any text, longest first."""
        of_tools = (secret for override in self.overrides.values() for secret in override.secrets)
        return tuple(sorted({*self.spec.secrets, *of_tools}, key=len, reverse=True))


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
    reload: Literal["auto", "off"] = setting(
        "auto",
        "[Reloading](#reloading) of this file: `auto`: as soon as it changes; `off`: only on SIGHUP and with "
        "`asyncfc-mcp reload`.",
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


@dataclass(frozen=True, slots=True)
class UnusableServer:
    """An invalid server entry: it is left out, and its reason is shown wherever servers are listed."""

    name: str
    reason: str


class Origin(Protocol):
    """The file that a configuration was read from, which can be read again in the same way."""

    @property
    def path(self) -> Path:
        """The file, as it was named."""
        ...

    @property
    def digest(self) -> bytes:
        """Digest of the text that was read."""
        ...

    def text(self) -> str:
        """Return the present text; raises `ConfigError` if it cannot be read."""
        ...

    def config(self, text: str) -> "BridgeConfig":
        """Return the configuration in such a text; raises `ConfigError` if it is wrong."""
        ...

    def adapted(self, adapt: "Callable[[BridgeConfig], BridgeConfig]") -> "Origin":
        """Return an origin whose configurations are also passed through this function."""
        ...


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """The configuration of one bridge."""

    servers: tuple[ServerConfig, ...]
    settings: Settings = field(default_factory=Settings)
    warnings: tuple[str, ...] = ()
    source: str = ""
    """The file, command line or URL for display, without secrets."""
    unusable: tuple[UnusableServer, ...] = ()
    identity: str = ""
    """Unique identifier of the configuration: `file:…`, `command:…` or `url:…`. May contain secrets."""
    own_variables: tuple[str, ...] = ()
    """Environment variables with secrets of the bridge itself, which servers do not inherit."""
    origin: Origin | None = field(default=None, compare=False, repr=False)
    """The file that it was read from; None for a command or a URL."""


OF_STARTS: Final = {f.name: f for f in fields(ServerConfig) if f.metadata}
"""Settings of the instances of a server and of their starts."""
SERVER_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prefix": 'Prefix of the server\'s tool and prompt names. Default: `server__`; `""`: none.',
        "include": "Globs of the tools to list. Default: all.",
        "exclude": "Globs of the tools to leave out.",
        "state": (
            "Root of the state that the server reads and writes, in place of its own root: a name that servers with "
            "shared state have in common, such as `workspace`, or `files:` and the folder that the server works on."
        ),
        "owner": (
            "Replica that runs the server, with the URL of a database as `engine`. `any`: each one runs it, or calls "
            "it; `auto`: one at a time; or the name of the `replica` that does. Default: `any` for a server at a URL, "
            "otherwise `auto`, since a process may have state of its own."
        ),
        "share": OF_STARTS["share"].metadata["doc"],
        "tools": "Settings of individual tools, by the server's own names for them.",
    }
)
SPAWN_KEYS: Final[Mapping[str, tuple[Any, str]]] = MappingProxyType(
    {
        "env_inherit": (
            "all",
            "Variables of the bridge's environment that a server's process inherits: `all`, `safe` (the SDKs' list, "
            "locale, temporary folder, proxies, certificates, folders of package managers), or a list of names in "
            "addition to the safe ones; `AWS_*` matches every name with that prefix.",
        ),
        **{key: (OF_STARTS[key].default, OF_STARTS[key].metadata["doc"]) for key in ("start", "idle_s")},
    }
)
"""Settings of starts of servers, allowed at the top or on a server: name → default and documentation."""
POLICY: Final = {f.name: f for f in fields(Policy)}
SETTINGS: Final = {f.name: f for f in fields(Settings)}
OF_SERVERS: Final = frozenset({"max_message_bytes", "profile"})
"""Policy settings that are not allowed on a tool."""
EFFECTS: Final = ("reads", "writes")
"""Settings that declare state paths."""
NOT_AT_TOP: Final = frozenset({*EFFECTS, "journal"})
"""Policy settings that are not allowed at the top: there, `journal` is a setting of the bridge."""
TOP: Final = "at the top of the file"
LEVELS: Final[Mapping[str, frozenset[str]]] = {
    TOP: frozenset(SETTINGS) | frozenset(SPAWN_KEYS) | frozenset(POLICY) - NOT_AT_TOP,
    "on a server": frozenset(POLICY) | frozenset(SERVER_KEYS) | frozenset(SPAWN_KEYS),
    "on a tool": (frozenset(POLICY) - OF_SERVERS) | frozenset(OVERRIDES),
}
"""Levels of `asyncfc` sections → the settings allowed there."""


def field_docs() -> list[tuple[str, str, Any, str]]:
    """Return every setting: its levels, name, default and documentation."""
    rows: list[tuple[str, str, Any, str]] = []
    for key, known in SETTINGS.items():
        rows.append(("top", key, {} if known.default is MISSING else known.default, known.metadata["doc"]))
    for key, known in POLICY.items():
        level = "server, tool" if key in NOT_AT_TOP else "top, server" if key in OF_SERVERS else "top, server, tool"
        rows.append((level, key, known.default, known.metadata["doc"]))
    rows += [("tool", key, None, doc) for key, (_, doc) in OVERRIDES.items()]
    rows += [("server", key, None, doc) for key, doc in SERVER_KEYS.items()]
    rows += [("top, server", key, default, doc) for key, (default, doc) in SPAWN_KEYS.items()]
    return rows
