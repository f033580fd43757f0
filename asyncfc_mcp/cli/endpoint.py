"""Options of `serve` for the connection of clients.

Owns their names and texts, and which of them need HTTP. Leaves their effects to `transports`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from asyncfc_mcp.transports.http.options import HttpOptions


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How clients connect.

    Args:
        http: the options of an endpoint over HTTP; None for stdio.
        token_env: the variable that holds the token of all clients.
    """

    http: "HttpOptions | None"
    token_env: str | None


_OPTIONS = (
    click.option(
        "--transport",
        type=click.Choice(["stdio", "http", "sse"]),
        default="stdio",
        show_default=True,
        help="Transport for clients: stdio, Streamable HTTP at /mcp, or HTTP+SSE at /sse.",
    ),
    click.option(
        "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on (http, sse)."
    ),
    click.option(
        "--port",
        metavar="PORT",
        type=click.IntRange(0, 65535),
        default=8642,
        show_default=True,
        help="Port to listen on (http, sse); 0 selects a free one.",
    ),
    click.option("--sse", "also_sse", is_flag=True, help="With --transport http: also serve HTTP+SSE at /sse."),
    click.option(
        "--auth-token-env", metavar="NAME", help="Environment variable with the bearer token that clients must send."
    ),
    click.option(
        "--auth-tokens",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="File with the tokens of persons, as hashes; `asyncfc-mcp token NAME` makes them.",
    ),
    click.option(
        "--auth-jwt", metavar="ISSUER", help="Authorization server (OAuth, OpenID Connect) whose tokens are accepted."
    ),
    click.option(
        "--audience",
        "audiences",
        metavar="AUDIENCE",
        multiple=True,
        help="With --auth-jwt: audience that its tokens must name; repeatable. Default: the URL of the bridge.",
    ),
    click.option(
        "--public-url",
        metavar="URL",
        help="URL by which clients reach the bridge, behind a proxy: https://mcp.example.com/mcp.",
    ),
    click.option(
        "--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="Certificate (PEM) to serve HTTPS with."
    ),
    click.option(
        "--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Private key (PEM) of the certificate."
    ),
    click.option(
        "--forwarded-allow-ips",
        metavar="ADDRESSES",
        help="Proxies whose X-Forwarded-For and -Proto are believed: addresses and networks with commas, or *.",
    ),
    click.option(
        "--insecure-no-auth",
        is_flag=True,
        help="Listen beyond loopback without a token. Future IDs are then random, and futures are not listed.",
    ),
)
_HTTP_ONLY = {
    "host": "--host",
    "port": "--port",
    "also_sse": "--sse",
    "insecure_no_auth": "--insecure-no-auth",
    "auth_tokens": "--auth-tokens",
    "auth_jwt": "--auth-jwt",
    "audiences": "--audience",
    "public_url": "--public-url",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "forwarded_allow_ips": "--forwarded-allow-ips",
}


def endpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, and pass them as one argument: `endpoint`."""
    names = {"transport", "auth_token_env", *_HTTP_ONLY}

    @wraps(function)
    def packed(**given: Any) -> Any:
        own = {name: given.pop(name) for name in names}
        return function(**given, endpoint=_endpoint(own))

    decorated: Callable[..., Any] = packed
    for decorate in reversed(_OPTIONS):
        decorated = decorate(decorated)
    return decorated


def _endpoint(given: dict[str, Any]) -> Endpoint:
    transport, token_env = given["transport"], given["auth_token_env"]
    if transport == "stdio":
        # Not ignored: the bridge would wait at standard input, as if it had hung.
        source = click.get_current_context().get_parameter_source
        used = [option for name, option in _HTTP_ONLY.items() if source(name) is ParameterSource.COMMANDLINE]
        if used:
            raise click.UsageError(
                f"{used[0]} needs --transport http (or sse): over stdio, the only client is the program that starts "
                f"the bridge"
            )
        return Endpoint(None, token_env)
    from asyncfc_mcp.transports.http.auth.resource import check_public_url
    from asyncfc_mcp.transports.http.options import HttpOptions

    issuer = given["auth_jwt"]
    if issuer is not None:
        from asyncfc_mcp.transports.http.auth.signing_keys import check_issuer

        check_issuer(issuer)
    public_url = given["public_url"]
    proxies = [each.strip() for each in (given["forwarded_allow_ips"] or "").split(",")]
    http = HttpOptions(
        host=given["host"],
        port=given["port"],
        streamable=transport == "http",
        sse=transport == "sse" or given["also_sse"],
        insecure=given["insecure_no_auth"],
        token_env=token_env,
        tokens=given["auth_tokens"] and given["auth_tokens"].expanduser(),
        issuer=issuer,
        audiences=given["audiences"],
        public_url=None if public_url is None else check_public_url(public_url),
        certificate=given["tls_cert"] and given["tls_cert"].expanduser(),
        key=given["tls_key"] and given["tls_key"].expanduser(),
        proxies=tuple(each for each in proxies if each),
    )
    return Endpoint(http, token_env)
