"""A configuration as values: servers, their connections, and the settings that count for each.

Pure. `reader` makes it from a file.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from asyncfc_mcp.config.environment import Inherit, environment
from asyncfc_mcp.config.overrides import ToolOverride
from asyncfc_mcp.config.settings import Policy, Settings, setting
from asyncfc_mcp.redaction import secrets_of, shown_command, shown_url, without_secrets

DEFAULT_CALLBACK_PORT: Final = 28463
"""Port of the loopback redirect of sign-ins: always the same, since authorization servers compare it with the
registered one. Neither assigned by IANA nor in the range that systems give to outgoing connections."""
HTTP_CONCURRENCY: Final = 200
"""Default concurrency limit of a server at a URL."""
AUTO_OWNER: Final = "auto"
"""One replica at a time runs the server."""
ANY_OWNER: Final = "any"
"""Each replica runs the server, or calls it."""


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
