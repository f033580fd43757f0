"""Access tokens of one server in a running bridge: added to requests, and renewed.

Owns when a token is renewed (ahead of its expiry, or after a refusal), that it is renewed once for all requests of this
process and of others, and that a rotated refresh token is stored before it is used. Obtaining tokens is left to
`token_endpoint` and `sign_in`, which are imported with the first need: both need the HTTP library.

No lock is held while a request to the server is out, so that requests run side by side: with a fresh token, `headers`
waits for nothing. (Rejected: the provider of the SDK, which holds a lock over the request that it authorizes.)
"""

import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeGuard, TypeVar

import anyio
import anyio.to_thread

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.challenges import BearerChallenge, bearer_challenge, union
from asyncfc_mcp.downstream.oauth.records import EXPIRY_MARGIN_S, Grant
from asyncfc_mcp.downstream.oauth.store import CredentialStore, StoreUnusable
from asyncfc_mcp.errors import NotAuthorized, RpcError, SignInFailed, SignInNeeded, TransportFailure
from asyncfc_mcp.quotation import said

logger = logging.getLogger(__name__)

LOCK_POLL_S: Final = 0.05
"""Pause between two attempts to get the lock that another process holds while it renews the token."""
LOCK_WAIT_S: Final = 90.0
"""Longest wait for it: longer than a renewal can take."""
CANCELLED_S: Final = 5.0
"""Time that a renewal has to end after the request that began it was cancelled. It is not cancelled with it: the server
may have rotated the refresh token already, and the answer holds the only one that is valid."""
MAX_RENEWALS: Final = (4, 10.0)
"""Renewals after a refusal within as many seconds; beyond that, the server refuses whatever token it is sent."""
UNREACHABLE_S: Final = 1.0
"""After a renewal for which the authorization server could not be reached, no other one is tried for this long: the
request is repeated sooner, several times, and each attempt may take until a timeout."""
UNREADABLE_S: Final = 30.0
"""Pause between two attempts to read a store that cannot be read: a keyring may ask the user each time."""
MAX_STEP_UPS: Final = 8
"""Sets of scopes that are asked for without a user, because a server asks for them."""

_T = TypeVar("_T")
_UNREAD: Final = object()


class BearerAuthorizer:
    """Implements `downstream.http.authorizer.Authorizer` with the grant of one server in a store.

    Args:
        server: its name in the configuration.
        clock: seconds of the epoch, which expiry is measured in.
    """

    def __init__(
        self, server: str, spec: HttpSpec, store: CredentialStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._server, self._spec, self._store, self._clock = server, spec, store, clock
        self._oauth = spec.oauth or OAuthSpec()
        self._machine = self._oauth.grant == "client_credentials"
        self._grant: Grant | None = None
        self._hidden: tuple[str, ...] = ()
        self._version: object = _UNREAD
        """Version of the store at which `_grant` was read."""
        self._unreadable: tuple[str, float] = "", -math.inf
        """Why the store could not be read, and until when it is not tried again, on the event loop's clock."""
        self._lacking: object = _UNREAD
        """Version of the store at which a sign-in was needed."""
        self._renewing = anyio.Lock()
        """Held during a renewal, and never over a request to the server."""
        self._renewals = 0
        """Renewals that have ended."""
        self._failure: Callable[[], RpcError] | None = None
        """Makes the error of the last renewal, if it failed."""
        self._unreachable_until = -math.inf
        self._refusals: deque[float] = deque(maxlen=MAX_RENEWALS[0])
        """Times of the last renewals after a refusal, on the event loop's clock."""
        self._stepped_up: set[frozenset[str]] = set()

    # --- for the HTTP client -------------------------------------------------------------------------------------

    @property
    def secrets(self) -> Sequence[str]:
        return self._hidden

    def renewed(self) -> bool:
        # Not compared with `_version`: a request may have read what is new before.
        return self._store.version(self._server, self._spec.url) != self._lacking

    async def headers(self) -> Mapping[str, str]:
        grant = self._grant
        if grant is None:
            try:
                grant = await self._read()
            except NotAuthorized:
                if self._machine:
                    raise
        if grant is None:
            if not self._machine:
                return {}  # some servers need none, and the others say what they need
            grant = await self._renew(None)
        elif not self._is_fresh(grant) and self._can_renew(grant):
            valid = grant.expires_at is not None and grant.expires_at > self._clock()
            if not (valid and self._renewing.locked()):  # another request renews it ahead of its expiry
                try:
                    grant = await self._renew(grant)
                except TransportFailure as exc:
                    if isinstance(exc, SignInNeeded) or not valid:
                        raise
        return {"authorization": f"Bearer {grant.access_token}"}

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        challenge = bearer_challenge(challenges)
        token = sent.get("authorization", "").removeprefix("Bearer ")
        if status != 401 and challenge.error != "insufficient_scope":
            return False
        # Another request, or another process, may have renewed it in the meantime.
        if await self._has_other(token):
            return True
        grant = self._grant
        if status == 403:
            return grant is not None and await self._step_up(grant, challenge, challenges)
        if not (self._machine or (grant is not None and grant.refresh_token is not None)):
            why = "" if grant is None else "its token is no longer accepted"
            raise self._sign_in_needed(self._wanted(challenge), why)
        most, within_s = MAX_RENEWALS
        if len(self._refusals) == most and anyio.current_time() - self._refusals[0] < within_s:
            why = "it refuses the tokens that are issued for it"
            raise NotAuthorized(why) if self._machine else self._sign_in_needed(self._wanted(challenge), why)
        await self._renew(grant, challenges=challenges)
        return True

    # --- the grant -----------------------------------------------------------------------------------------------

    def _is_fresh(self, grant: Grant) -> bool:
        if grant.expires_at is None:
            return True
        # Of a token that is valid for less than a minute, half of that is used.
        margin_s = min(EXPIRY_MARGIN_S, max(0.0, grant.expires_at - grant.obtained_at) / 2)
        return self._clock() < grant.expires_at - margin_s

    def _can_renew(self, grant: Grant) -> bool:
        return self._machine or grant.refresh_token is not None

    def _wanted(self, challenge: BearerChallenge) -> tuple[str, ...]:
        """Return the scopes that a new sign-in should ask for."""
        return union(() if self._grant is None else self._grant.scopes, challenge.scopes)

    def _sign_in_needed(self, scopes: Sequence[str] = (), why: str = "", *, status: int = 401) -> SignInNeeded:
        self._lacking = self._version
        return SignInNeeded(self._server, scopes, why, status=status)

    async def _has_other(self, token: str) -> bool:
        """Return whether there is another token than this one, from memory or from the store."""
        grant = self._grant
        if grant is None or grant.access_token == token:
            grant = await self._read()
        return grant is not None and grant.access_token != token

    async def _read(self) -> Grant | None:
        """Return the grant, which is read from the store if it has changed there.

        Raises:
            NotAuthorized: the store cannot be read.
        """
        # The version is taken before, so that a change in between is found next time.
        while (version := self._store.version(self._server, self._spec.url)) != self._version:
            before, (why, until) = self._version, self._unreadable
            if anyio.current_time() < until:
                raise NotAuthorized(why)
            try:
                grant = await _in_thread(partial(self._store.load_grant, self._server, self._spec.url))
            except StoreUnusable as exc:
                self._unreadable = str(exc), anyio.current_time() + UNREADABLE_S
                raise NotAuthorized(str(exc)) from None
            if self._version == before:  # else another request has read it, maybe a later version
                self._version = version
                self._use(grant if grant is not None and self._is_usable(grant) else None)
        return self._grant

    def _is_usable(self, grant: Grant) -> bool:
        """Return whether a grant is for this server as it is configured now. A token of another resource must not be
        sent here, whatever the store says."""
        from asyncfc_mcp.downstream.oauth.discovery import is_resource_of

        if not grant.access_token:
            return False
        if grant.resource != self._oauth.resource and not is_resource_of(grant.resource, self._spec.url):
            return False
        return self._oauth.client_id is None or grant.client_id == self._oauth.client_id

    def _use(self, grant: Grant | None) -> None:
        before = self._hidden[:2]  # a response may still quote the token that was sent
        tokens = () if grant is None else filter(None, (grant.access_token, grant.refresh_token))
        self._hidden = tuple(dict.fromkeys((*tokens, *before)))
        self._grant = grant

    # --- renewal -------------------------------------------------------------------------------------------------

    async def _renew(
        self, stale: Grant | None, *, scopes: tuple[str, ...] = (), challenges: Sequence[str] | None = None
    ) -> Grant:
        """Return a grant in place of `stale`: another request's, another process's, or a new one.

        Args:
            scopes: to ask for, of a grant without a user.
            challenges: of the refusal because of which it is renewed; None: ahead of its expiry.

        Raises:
            SignInNeeded: only a sign-in yields one.
            TransportFailure: the authorization server could not be reached.
            NotAuthorized: it refused, and no sign-in would help.
        """
        ended = self._renewals
        async with self._renewing:
            if _is_other(self._grant, stale):
                return self._grant
            waited = self._renewals != ended or anyio.current_time() < self._unreachable_until
            if waited and self._failure is not None:
                raise self._failure()  # of the renewal that this request has waited for, or just missed
            self._failure = None
            try:
                renewed = await self._renew_alone(stale, scopes, challenges)
                if challenges is not None:
                    self._refusals.append(anyio.current_time())
                return renewed
            except SignInNeeded as exc:
                self._failure = partial(SignInNeeded, exc.server, exc.scopes, exc.why)
                raise
            except NotAuthorized as exc:
                self._failure = partial(NotAuthorized, exc.message.partition(": ")[2])
                raise
            except TransportFailure as exc:
                self._failure = partial(TransportFailure, exc.message, sent=False)
                self._unreachable_until = anyio.current_time() + UNREACHABLE_S
                raise
            finally:
                self._renewals += self._failure is not None or _is_other(self._grant, stale)

    async def _renew_alone(
        self, stale: Grant | None, scopes: tuple[str, ...], challenges: Sequence[str] | None
    ) -> Grant:
        """Renew the grant under the lock between processes, unless another process has done so."""
        deadline = anyio.current_time() + LOCK_WAIT_S
        while True:
            try:
                with self._store.lock_nowait(self._server, self._spec.url) as held:
                    grant = await self._read()
                    if _is_other(grant, stale):
                        return grant
                    if held:
                        return await _finished(partial(self._obtain, grant, scopes, challenges))
            except StoreUnusable as exc:
                raise NotAuthorized(str(exc)) from None
            if anyio.current_time() > deadline:
                raise TransportFailure("could not be authorized: another process renews its token", sent=False)
            await anyio.sleep(LOCK_POLL_S)

    async def _obtain(self, grant: Grant | None, scopes: tuple[str, ...], challenges: Sequence[str] | None) -> Grant:
        """Get new tokens, and store them."""
        from asyncfc_mcp.downstream.oauth.failures import AuthorizationServerUnreachable

        try:
            if self._machine:
                return await self._of_machine(scopes, challenges)
            if grant is None:  # another process has signed out
                raise self._sign_in_needed()
            return await self._refreshed(grant)
        except AuthorizationServerUnreachable as exc:
            raise TransportFailure(f"could not be authorized: {exc}", sent=False) from None
        except SignInFailed as exc:
            why = "" if self._machine else _because(exc)
            if not why:
                raise NotAuthorized(str(exc)) from None
            raise self._sign_in_needed(() if grant is None else grant.scopes, why) from None

    async def _of_machine(self, scopes: tuple[str, ...], challenges: Sequence[str] | None) -> Grant:
        from asyncfc_mcp.downstream.oauth.sign_in import machine_grant

        grant = await machine_grant(self._server, self._spec, self._store, scopes=scopes, challenges=challenges)
        return await self._stored(grant)

    async def _refreshed(self, grant: Grant) -> Grant:
        """Use a refresh token.

        Raises:
            SignInFailed: it was not renewed. A grant that is dead was dropped.
        """
        from asyncfc_mcp.downstream.oauth.failures import TokenRefused
        from asyncfc_mcp.downstream.oauth.token_endpoint import refresh

        try:
            renewed = await refresh(self._server, self._spec, self._store, grant)
        except TokenRefused as exc:
            if not exc.grant_is_dead:
                raise
            # A sign-in may have replaced it meanwhile; that one is not dropped.
            current = await self._read()
            if _is_other(current, grant):
                return current
            await _in_thread(partial(self._bury, grant))
            await self._read()
            raise
        # Someone may have signed in, or out, in the meantime: what is stored now counts.
        current = await self._read()
        if current is None:
            raise self._sign_in_needed()
        if _is_other(current, grant):
            return current
        try:
            await _in_thread(partial(self._store.save_grant, self._server, self._spec.url, renewed))
        except StoreUnusable as exc:
            # It is valid, and the one in the store is not any more: it is used for as long as this process runs.
            logger.warning("the new token of server %r is not stored: %s", self._server, exc)
            self._use(renewed)
            return renewed
        return await self._stored(renewed)

    def _bury(self, grant: Grant) -> None:
        """Drop a grant that is dead. Of a configured client it stays known which issuer it belongs to: the next sign-in
        must not send its secret to another one, which the server could name by then."""
        if grant.client_id == self._oauth.client_id:
            self._store.save_grant(self._server, self._spec.url, grant.without_tokens())
        else:
            self._store.drop_grant(self._server, self._spec.url)

    async def _stored(self, grant: Grant) -> Grant:
        """Use a grant that has been stored, or one that has replaced it since."""
        current = await self._read()
        if current is None:
            self._use(grant)
        return current or grant

    # --- scopes --------------------------------------------------------------------------------------------------

    async def _step_up(self, grant: Grant, challenge: BearerChallenge, challenges: Sequence[str]) -> bool:
        """Ask for more scopes without a user.

        Raises:
            SignInNeeded: the user has to approve.
            NotAuthorized: they were asked for before, and the server still does not accept the token.
        """
        wanted = union(grant.scopes, challenge.scopes)
        if set(wanted) == set(grant.scopes) and not self._machine:
            return False  # there is nothing to ask for: its answer says what is wrong
        asked = f"it asks for the scopes {said(' '.join(challenge.scopes))}"
        if not self._machine:
            raise self._sign_in_needed(wanted, asked, status=403)
        known = frozenset(wanted) in self._stepped_up
        if (known and not self._renewing.locked()) or len(self._stepped_up) >= MAX_STEP_UPS:
            raise NotAuthorized(f"{asked}, and does not accept the token that was issued for them", status=403)
        self._stepped_up.add(frozenset(wanted))
        await self._renew(grant, scopes=wanted, challenges=challenges)
        return True


def _is_other(grant: Grant | None, than: Grant | None) -> TypeGuard[Grant]:
    """Return whether there is a grant, with another token than this one."""
    return grant is not None and (than is None or grant.access_token != than.access_token)


def _because(exc: SignInFailed) -> str:
    """Return why a new sign-in is needed, in few words; empty if none would help, or nothing says so: an answer that is
    no answer of an authorization server may be that of a network that asks for a sign-in of its own."""
    from asyncfc_mcp.downstream.oauth.failures import ClientUnknown, TokenRefused

    match exc:
        case TokenRefused() if exc.grant_is_dead:
            return "its sign-in has expired or was revoked"
        case TokenRefused() if exc.client_is_dead:
            return "the registration of this client is no longer accepted"
        case TokenRefused() if exc.error:
            return "its token was not renewed"
        case ClientUnknown():
            return "the client that was signed in is not configured any more"
        case _:
            return ""


async def _in_thread(function: Callable[[], _T]) -> _T:
    """Call a function of the store in a thread: a disk may be slow, and a keyring may ask the user to unlock it."""
    return await anyio.to_thread.run_sync(function)


async def _finished(function: Callable[[], Awaitable[_T]]) -> _T:
    """Await a function that a cancellation does not interrupt, but for `CANCELLED_S`."""
    results: list[_T] = []
    failures: list[Exception] = []
    done = anyio.Event()
    scope = anyio.CancelScope(shield=True)

    async def run() -> None:
        with scope:
            try:
                results.append(await function())
            except Exception as exc:  # noqa: BLE001 - raised below, outside of the task group
                failures.append(exc)
        done.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(run)
        try:
            await done.wait()
        finally:
            scope.deadline = anyio.current_time() + CANCELLED_S
    if failures:
        raise failures[0]
    return results[0]
