"""Signing in to a server: discovery, identity, authorization in a browser, tokens, in their order.

Owns the choice of the authorization server, and what is done about a registration that no longer is one. The browser is
the caller's, and so is asking before it opens: this only says which address to show.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.authorization import (
    AuthorizationRequest,
    authorization_request,
    code_of,
    scopes_to_ask,
)
from asyncfc_mcp.downstream.oauth.challenges import BearerChallenge, bearer_challenge, union
from asyncfc_mcp.downstream.oauth.clients import configured_client, machine_client, register, stored_client
from asyncfc_mcp.downstream.oauth.discovery import (
    AuthorizationServer,
    ProtectedResource,
    find_resource,
    find_server,
    read_configured_server,
)
from asyncfc_mcp.downstream.oauth.failures import (
    AuthorizationRefused,
    AuthorizationServerUnreachable,
    IssuerChanged,
    NoAuthorizationServer,
    NobodySignedIn,
    RegistrationDead,
    TokenRefused,
)
from asyncfc_mcp.downstream.oauth.oauth_http import OAuthHttp
from asyncfc_mcp.downstream.oauth.probe import Probe, probe
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.redirect_listener import Callbacks, listening
from asyncfc_mcp.downstream.oauth.store import CredentialStore
from asyncfc_mcp.downstream.oauth.token_endpoint import client_credentials, exchange_code
from asyncfc_mcp.errors import SignInFailed, TransportFailure

DISCOVERY_S: Final = 90.0
"""Timeout for all that comes before the browser, and for tokens without one."""
_T = TypeVar("_T")

SIGN_IN_S: Final = 600.0
"""Timeout for the user in the browser."""
_DEAD: Final = frozenset({"invalid_client", "unauthorized_client", "invalid_scope"})
"""Errors that may be about a registration made earlier: it is gone, or made for other scopes."""
_DEAD_PAGE: Final = re.compile(
    r"invalid_client|unauthorized_client"
    r"|\b(?:client(?:[ _-]?id)?|application)\b[^.<>{}]{0,100}"
    r"\b(?:not found|unknown|not (?:registered|recogni[sz]ed|known)|does not exist|invalid|unrecogni[sz]ed)\b"
    r"|\b(?:unknown|invalid|unregistered|unrecogni[sz]ed|no such) (?:client|application)\b",
    re.IGNORECASE,
)
"""Matches the page of an authorization server that does not know a client. It may not redirect then (RFC 6749)."""


class SignIn:
    """The sign-in to one server.

    Args:
        server: name in the configuration.
        spec: of the server; without `oauth`, everything is discovered.
        store: registrations are read and kept there, and the grant at the end.
        challenges: values of `WWW-Authenticate` of the response that asked for the sign-in; None: the server is asked
            for them with a request that does nothing.
    """

    def __init__(
        self, server: str, spec: HttpSpec, store: CredentialStore, *, challenges: Sequence[str] | None = None
    ) -> None:
        self._server, self._spec, self._store, self._challenges = server, spec, store, challenges
        self._oauth = spec.oauth or OAuthSpec()

    async def begin(self, redirect_uri: str | None = None, scopes: Sequence[str] = ()) -> AuthorizationRequest:
        """Discover the authorization server, identify this client, and return the request for the browser.

        Args:
            redirect_uri: None: the configured one.
            scopes: that a call needs, in place of those of a challenge. Those that were granted before are added.

        Raises:
            SignInFailed: see its subclasses in `failures`.
            StoreUnusable: the store cannot be read or written.
        """
        redirect_uri = redirect_uri or self._oauth.redirect_uri
        earlier = self._store.load_grant(self._server, self._spec.url)
        async with self._in_time(), OAuthHttp(self._server, self._spec.url) as http:
            found, challenge = await self._resource(http)

            async def request_at(issuer: str) -> AuthorizationRequest:
                server = await self._read_server(http, found, issuer, machine=False)
                asked = self._scopes(found, server, challenge, scopes, earlier)
                return await self._request(http, found, server, redirect_uri, asked)

            return await self._at_first(found, earlier, request_at)

    async def complete(self, request: AuthorizationRequest, redirected_url: str) -> Grant:
        """Check the address that the browser was redirected to, exchange its code, and save the grant.

        Raises:
            RegistrationDead: the server no longer knows the registration. It was dropped: begin again.
            SignInFailed: see its subclasses in `failures`.
            StoreUnusable: the grant was not saved.
        """
        try:
            code = code_of(self._server, request, redirected_url)
            async with OAuthHttp(self._server, self._spec.url) as http:
                grant = await exchange_code(
                    http,
                    request.server,
                    self._oauth,
                    request.client,
                    code,
                    request.verifier,
                    request.resource,
                    request.scopes,
                )
        except (AuthorizationRefused, TokenRefused) as exc:
            if request.reused and exc.error in _DEAD:
                self._drop(request.client)
                raise RegistrationDead(self._server, request.server.issuer) from None
            raise
        self._store.save_grant(self._server, self._spec.url, grant)
        return grant

    async def as_machine(self, scopes: Sequence[str] = ()) -> Grant:
        """Get tokens with this client's own credentials, without a user, and save them.

        Args:
            scopes: see `begin`.

        Raises:
            SignInFailed: see its subclasses in `failures`.
            StoreUnusable: the grant was not saved.
        """
        earlier = self._store.load_grant(self._server, self._spec.url)
        async with self._in_time(), OAuthHttp(self._server, self._spec.url) as http:
            found, challenge = await self._resource(http)

            async def client_at(issuer: str) -> tuple[AuthorizationServer, Registration]:
                server = await self._read_server(http, found, issuer, machine=True)
                return server, machine_client(self._server, self._oauth, server)

            server, client = await self._at_first(found, earlier, client_at)
            asked = self._scopes(found, server, challenge, scopes, earlier, refreshes=False)
            grant = await client_credentials(http, server, self._oauth, client, self._identifier(found), asked)
            self._store.save_grant(self._server, self._spec.url, grant)
            return grant

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None]:
        """Limit the time of all requests together: servers that are slow one after the other name many addresses."""
        try:
            with anyio.fail_after(DISCOVERY_S):
                yield
        except TimeoutError:
            failure = TransportFailure(f"did not lead to a sign-in within {DISCOVERY_S:g} s", sent=False)
            raise AuthorizationServerUnreachable(self._server, self._spec.url, failure) from None

    # --- discovery ------------------------------------------------------------------------------------------------

    async def _resource(self, http: OAuthHttp) -> tuple[ProtectedResource, BearerChallenge]:
        """Return the protected resource, and what its challenge asks for."""
        # A token must not be sent over a network in the clear, so none is asked for.
        http.check(self._spec.url, "URL", named_by=self._spec.url)
        asked = Probe(401, tuple(self._challenges)) if self._challenges is not None else await probe(self._spec)
        challenge = bearer_challenge(asked.challenges)
        found = await find_resource(http, challenge.resource_metadata)
        if found.legacy and not self._oauth.metadata_url and 200 <= asked.status < 300:
            raise NoAuthorizationServer(self._server, found.issuers, open=True)
        return found, challenge

    async def _at_first(
        self, found: ProtectedResource, earlier: Grant | None, use: Callable[[str], Awaitable[_T]]
    ) -> _T:
        """Return what `use` returns for the first issuer for which it succeeds.

        Raises:
            SignInFailed: the failure at the first of them, where none succeeds.
        """
        failure: SignInFailed | None = None
        for issuer in self._candidates(found, earlier):
            try:
                return await use(issuer)
            except SignInFailed as exc:
                failure = failure or exc
        raise failure or NoAuthorizationServer(self._server, found.issuers)

    def _candidates(self, found: ProtectedResource, earlier: Grant | None) -> tuple[str, ...]:
        """Return the issuers to try, in order.

        Raises:
            IssuerChanged: the configured client belongs to none of them.
        """
        if self._oauth.metadata_url is not None:
            return ("",)
        own = self._oauth.issuer
        if own is None and self._oauth.client_id is not None and earlier is not None:
            own = earlier.issuer if earlier.client_id == self._oauth.client_id else None
        if own is not None and self._oauth.client_id is not None:
            if own not in _forms(found):
                raise IssuerChanged(self._server, own, found.issuers)
            return (own,)
        preferred = earlier.issuer if earlier is not None else None
        return tuple(sorted(found.issuers, key=lambda issuer: issuer != preferred))

    async def _read_server(
        self, http: OAuthHttp, found: ProtectedResource, issuer: str, *, machine: bool
    ) -> AuthorizationServer:
        if self._oauth.metadata_url is None:
            legacy = found.legacy
            return await find_server(http, issuer.rstrip("/") if legacy else issuer, legacy=legacy, machine=machine)
        server = await read_configured_server(http, self._oauth.metadata_url, machine=machine)
        if self._oauth.issuer is not None and self._oauth.client_id is not None and server.issuer != self._oauth.issuer:
            raise IssuerChanged(self._server, self._oauth.issuer, (server.issuer,))
        return server

    def _identifier(self, found: ProtectedResource) -> str:
        return self._oauth.resource or found.resource

    def _scopes(
        self,
        found: ProtectedResource,
        server: AuthorizationServer,
        challenge: BearerChallenge,
        scopes: Sequence[str],
        earlier: Grant | None,
        *,
        refreshes: bool = True,
    ) -> tuple[str, ...]:
        return scopes_to_ask(
            configured=self._oauth.scopes,
            needed=tuple(scopes) or challenge.scopes,
            granted=earlier.scopes if earlier is not None and earlier.issuer == server.issuer else (),
            of_resource=found.scopes,
            of_server=server.scopes,
            refreshes=refreshes and (server.grant_types is None or "refresh_token" in server.grant_types),
        )

    # --- identity -------------------------------------------------------------------------------------------------

    async def _request(
        self,
        http: OAuthHttp,
        found: ProtectedResource,
        server: AuthorizationServer,
        redirect_uri: str,
        scopes: tuple[str, ...],
    ) -> AuthorizationRequest:
        """Return the request of the client that this program is at the server, which is registered if need be."""
        resource = self._identifier(found)
        client = configured_client(self._oauth, server, redirect_uri)
        if client is not None:
            return authorization_request(server, client, resource, scopes)
        kept = stored_client(self._store, server.issuer, redirect_uri)
        if kept is not None:
            if not await self._is_unknown(http, authorization_request(server, kept, resource, scopes)):
                return authorization_request(server, kept, resource, scopes, reused=True)
            self._drop(kept)
        client = await register(http, server, redirect_uri, union(scopes, found.scopes))
        # Another sign-in may have been registered meanwhile: its tokens would be lost with its registration.
        kept = stored_client(self._store, server.issuer, redirect_uri)
        if kept is not None:
            return authorization_request(server, kept, resource, scopes, reused=True)
        self._store.save_registration(client)
        return authorization_request(server, client, resource, scopes)

    async def _is_unknown(self, http: OAuthHttp, throwaway: AuthorizationRequest) -> bool:
        """Return whether the server says that it does not know a client.

        It says so to the browser only, in a page, so that the user would be at an end there. So the page is asked for
        before, by a request that is never answered.
        """
        try:
            answer = await http.get(throwaway.url, follow=False)
        except AuthorizationServerUnreachable:
            return False
        if not 400 <= answer.status < 500:
            return False
        return _DEAD_PAGE.search(answer.body[:65_536].decode("utf-8", "replace")) is not None

    def _drop(self, client: Registration) -> None:
        """Drop a registration, unless another process has replaced it."""
        kept = self._store.load_registration(client.issuer, client.redirect_uri)
        if kept is not None and kept.client_id == client.client_id:
            self._store.drop_registration(client.issuer, client.redirect_uri)


def _forms(found: ProtectedResource) -> tuple[str, ...]:
    """Return the issuers of a resource; one made of its origin also with a slash at its end."""
    return (*found.issuers, *(f"{issuer}/" for issuer in found.issuers)) if found.legacy else found.issuers


async def sign_in(
    server: str,
    spec: HttpSpec,
    store: CredentialStore,
    *,
    scopes: Sequence[str] = (),
    challenges: Sequence[str] | None = None,
    show: Callable[[str], Awaitable[None]],
    timeout_s: float = SIGN_IN_S,
    callbacks: Callbacks | None = None,
) -> Grant:
    """Sign in with a browser that returns to a loopback address, and save the grant.

    A registration that turns out to be dead is made again once, for which the browser is shown a second address.

    Args:
        server, spec, store, scopes, challenges: see `SignIn`.
        show: show an address to the user, or open it; the sign-in goes on when it returns.
        timeout_s: for the user, in seconds.
        callbacks: the sign-ins of this process that may wait at the same port; None: only this one.

    Raises:
        SignInFailed: see its subclasses in `failures`.
        StoreUnusable: the store cannot be read or written.
    """
    attempt = SignIn(server, spec, store, challenges=challenges)
    redirect_uri = (spec.oauth or OAuthSpec()).redirect_uri
    async with listening(server, redirect_uri, callbacks) as listener:

        async def in_browser() -> Grant:
            request = await attempt.begin(redirect_uri, scopes)
            listener.expect(request.state)
            answer: str | None = None
            with anyio.move_on_after(timeout_s):
                await show(request.url)
                answer = await listener.redirected()
            if answer is None:
                raise NobodySignedIn(server, timeout_s)
            return await attempt.complete(request, answer)

        try:
            return await in_browser()
        except RegistrationDead:
            return await in_browser()


async def machine_grant(
    server: str,
    spec: HttpSpec,
    store: CredentialStore,
    *,
    scopes: Sequence[str] = (),
    challenges: Sequence[str] | None = None,
) -> Grant:
    """Get tokens with client credentials, without a user, and save them; see `SignIn.as_machine`."""
    return await SignIn(server, spec, store, challenges=challenges).as_machine(scopes)
