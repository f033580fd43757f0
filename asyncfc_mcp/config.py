"""The configuration as values: settings with their defaults and documentation, servers, and where a setting may stand.

Pure. Reading a file into these values is left to `config_reader`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from asyncfc_mcp.environment import Inherit
from asyncfc_mcp.redaction import secrets_of, shown_command, shown_url

HTTP_CONCURRENCY: Final = 200
"""Calls at a time of a server at a URL, where no setting says more or less."""


def _doc(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Policy:
    """What applies to one tool. A setting may stand at the top, on a server or on a tool; the nearest wins."""

    mode: Literal["future", "sync"] = _doc(
        "future", "`sync`: the answer is the real result, ordered like any other call."
    )
    ordering: Literal["declared", "strict", "none"] = _doc(
        "declared", "What a tool that says nothing of its effects counts as: not ordered, a write, or nothing at all."
    )
    on_failure: Literal["stop", "continue"] = _doc(
        "continue",
        "`stop`: when a write fails, the writes queued behind it on the same state are cancelled. Only between tools "
        "with `reads` or `writes`.",
    )
    reads: tuple[str, ...] | None = _doc(None, "State paths that the tool reads. `[]`: none.")
    writes: tuple[str, ...] | None = _doc(None, "State paths that the tool writes. `[]`: none.")
    references: Literal["all", "read-only", "off"] = _doc(
        "all", "Whether futures may be arguments: of all tools, of `readOnlyHint` tools only, or of none."
    )
    names: bool = _doc(True, "Offer `_as`, by which a call names its future.")
    wait: bool = _doc(True, "Offer `_wait`, by which a call waits for results.")
    max_concurrency: int | None = _doc(
        None, "Calls at a time: of the tool on a tool, of each server elsewhere (default 200 for servers at a URL)."
    )
    timeout_s: float | None = _doc(None, "Seconds after which a running call is cancelled.")
    grace_ms: float = _doc(25.0, "Milliseconds given to a quick tool to answer with its result; 0 turns it off.")
    retries: int = _doc(2, "Tries after a transport failure, of `readOnlyHint` and `idempotentHint` tools only.")
    single_flight: bool = _doc(False, "Let identical `readOnlyHint` calls that run at the same time share one result.")
    max_message_bytes: int = _doc(
        64 << 20,
        "Largest message of a server, in bytes after decompression. A larger one ends the call that it answers, or the "
        "server's connection where that cannot be told.",
    )
    max_argument_bytes: int = _doc(8 << 20, "Largest arguments, in bytes, into which the values of futures were put.")


@dataclass(frozen=True, slots=True)
class StdioSpec:
    """A server that is a command."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    env_inherit: Inherit = "all"
    """Variables of the bridge's environment that it gets beside `env`."""

    @property
    def shown(self) -> str:
        """The command line as people may see it: without secrets."""
        return shown_command([self.command, *self.args])

    @property
    def shown_program(self) -> str:
        """The command without its arguments, quoted, as people may see it."""
        return repr(shown_command(self.command.split(" ")) if " " in self.command else self.command)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold."""
        return secrets_of(argv=self.args, env=self.env)


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """A server at a URL: Streamable HTTP, or HTTP+SSE."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    kind: Literal["http", "sse"] = "http"

    @property
    def shown(self) -> str:
        """The URL as people may see it: without user, password and query."""
        return shown_url(self.url)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold."""
        return secrets_of(headers=self.headers, url=self.url)


@dataclass(frozen=True)
class ServerConfig:
    """One wrapped server."""

    name: str
    spec: StdioSpec | HttpSpec
    prefix: str | None = None
    """Put before each tool's name; None is `server__`."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_concurrency: int | None = None
    keep_names: bool = False
    """Names are listed as they are, neither mapped nor shortened."""
    base: Policy = field(default_factory=Policy)
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    state: str | None = None
    """Root of its state: words joined by `/`, or `files:` and an absolute folder. None: a root of its own."""

    @property
    def limit(self) -> int | None:
        """Calls at a time. A server at a URL has a bound in any case: each call takes a connection."""
        if self.max_concurrency is None and isinstance(self.spec, HttpSpec):
            return HTTP_CONCURRENCY
        return self.max_concurrency

    def policy(self, tool: str) -> Policy:
        own = self.tools.get(tool)
        return replace(self.base, **own) if own else self.base

    @property
    def tool_names(self) -> tuple[str, ...]:
        return tuple(self.tools)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the bridge as a whole; they stand at the top only."""

    max_wait_s: float = _doc(45.0, "Longest wait within one call, in seconds.")
    max_pending: int = _doc(10_000, "Calls that may be unfinished at the same time; more are refused.")
    max_result_bytes_total: int = _doc(
        512 << 20,
        "Bytes of memory that results, errors and arguments hold. When there are more, results that were read are "
        "dropped, the one read longest ago first; if that is not enough, calls are refused.",
    )
    keep_s: float = _doc(
        3600.0, "Seconds a result is kept after it was last read, if there is room. Unread ones are kept."
    )
    unread_keep_s: float = _doc(
        3600.0, "Seconds an unread result is kept with `--insecure-no-auth`, where nobody may know its ID any more."
    )
    max_caller_share: float = _doc(
        0.5,
        "Share of `max_pending` and `max_result_bytes_total` that one caller may fill with `--insecure-no-auth`: a "
        "session, or all clients of one name that have none.",
    )
    public_order_s: float = _doc(
        60.0,
        "Seconds, from its submission, for which a call keeps its place in the order with `--insecure-no-auth`: after "
        "that none waits for it any more, and it waits for none.",
    )
    deliver: Literal["auto", "inline", "off"] = _doc(
        "auto", "Whether finished small results ride on the next answer, where the conversation is known."
    )
    inline_bytes: int = _doc(4096, "Largest result, in bytes, that is delivered that way.")
    forward_wait_ms: float = _doc(
        50.0,
        "Milliseconds that `$name` or `${f:name}` waits for a call that takes that name, and a call with effects for "
        "a request that its client numbered before it; 0: none.",
    )
    max_result_bytes: int | None = _doc(
        None, "Largest text that `await_future` hands out at once; the rest is read as a resource. None: no limit."
    )
    tasks: Literal["handle", "task"] = _doc(
        "handle", "What clients that declare the tasks extension get: our handle, or a task of the extension."
    )
    drain_s: float = _doc(
        10.0, "Seconds that accepted calls may go on over stdio when the client closes its input; 0: none."
    )
    max_connections: int = _doc(
        1000,
        "Connections over HTTP at a time, at most as many as leave 256 descriptors, or half of them. Beyond, one that "
        "is silent is closed for the new one, else the new one is refused.",
    )
    max_connections_per_address: int | None = _doc(
        None, "Connections over HTTP at a time from one address. Behind a proxy all clients have the proxy's."
    )
    header_timeout_s: float = _doc(10.0, "Seconds within which the head of an HTTP request must have come.")
    body_timeout_s: float = _doc(
        30.0,
        "Seconds that the body of an HTTP request may take, and one more for each 1,000 bytes; the longest time in "
        "which none of it comes; and the longest time in which a client takes nothing of an answer that waits.",
    )
    idle_timeout_s: float = _doc(5.0, "Seconds until an HTTP connection that is not used is closed.")
    question_timeout_s: float = _doc(600.0, "Seconds that a server's question to the user may stay unanswered.")
    host_profiles: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict[str, Mapping[str, object]],
        metadata={"doc": "What is known of a client, by its `clientInfo.name`."},
    )


@dataclass(frozen=True, slots=True)
class UnusableServer:
    """An entry of the file that is wrong: left out, and its reason shown wherever servers are."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    servers: tuple[ServerConfig, ...]
    settings: Settings = field(default_factory=Settings)
    warnings: tuple[str, ...] = ()
    source: str = ""
    """The file, command line or URL, as people may see it."""
    unusable: tuple[UnusableServer, ...] = ()
    identity: str = ""
    """Tells one configuration from all others, as `file:…`, `command:…` or `url:…`; may hold secrets."""


SERVER_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prefix": 'Put before the names of the server\'s tools and prompts; default `server__`, `""` for none.',
        "include": "Globs of the tools to list; default all.",
        "exclude": "Globs of the tools not to list.",
        "state": (
            "Root of what the server reads and writes, in place of one of its own: a name, such as `workspace`, that "
            "servers with common state share, or `files:` and the folder that it works on."
        ),
        "tools": "Settings of single tools, by the names that the server gives them.",
    }
)
SPAWN_KEYS: Final[Mapping[str, tuple[Any, str]]] = MappingProxyType(
    {
        "env_inherit": (
            "all",
            "Variables of the bridge's environment that a server's process inherits: `all`, `safe` (the SDKs' list, "
            "locale, temporary folder, proxies, certificates, homes of package managers), or a list of names that it "
            "gets beside the safe ones, in which `AWS_*` stands for all that begin so.",
        )
    }
)
"""Settings of servers' processes, at the top or on a server: name → default and documentation."""
POLICY: Final = {f.name: f for f in fields(Policy)}
SETTINGS: Final = {f.name: f for f in fields(Settings)}
OF_SERVERS: Final = frozenset({"max_message_bytes"})
"""Settings that a tool cannot have for itself."""
EFFECTS: Final = ("reads", "writes")
"""Settings that declare state paths."""
LEVELS: Final[Mapping[str, frozenset[str]]] = {
    "at the top of the file": frozenset(SETTINGS) | frozenset(SPAWN_KEYS) | frozenset(POLICY) - frozenset(EFFECTS),
    "on a server": frozenset(POLICY) | frozenset(SERVER_KEYS) | frozenset(SPAWN_KEYS),
    "on a tool": frozenset(POLICY) - OF_SERVERS,
}
"""Where an `asyncfc` section may stand → the settings that it may have there."""


def field_docs() -> list[tuple[str, str, Any, str]]:
    """Every setting: where it may stand, its name, its default and what it does."""
    rows: list[tuple[str, str, Any, str]] = []
    for key, known in SETTINGS.items():
        rows.append(("top", key, {} if known.default is MISSING else known.default, known.metadata["doc"]))
    for key, known in POLICY.items():
        level = "server, tool" if key in EFFECTS else "top, server" if key in OF_SERVERS else "top, server, tool"
        rows.append((level, key, known.default, known.metadata["doc"]))
    rows += [("server", key, None, doc) for key, doc in SERVER_KEYS.items()]
    rows += [("top, server", key, default, doc) for key, (default, doc) in SPAWN_KEYS.items()]
    return rows
