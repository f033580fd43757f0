"""`asyncfc-mcp login` and `logout`: signing in to a server at a URL, and out again.

Owns the conversation with the user: the browser, the address to paste, and what is said in the end. A browser is opened
here and nowhere else. The sign-in itself is `downstream.oauth`'s; no token, code or secret is printed.
"""

import os
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from threading import Thread
from typing import Final

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.cli.pasted_redirect import PastedLines, unseen
from asyncfc_mcp.cli.sign_in_report import expiry_of
from asyncfc_mcp.cli.sign_in_target import Target
from asyncfc_mcp.downstream.oauth.failures import (
    CallbackUnavailable,
    NobodySignedIn,
    RedirectUnusable,
    RegistrationDead,
)
from asyncfc_mcp.downstream.oauth.records import Grant
from asyncfc_mcp.downstream.oauth.redirect_listener import RedirectListener, listening
from asyncfc_mcp.downstream.oauth.sign_in import SIGN_IN_S, SignIn, machine_grant
from asyncfc_mcp.downstream.oauth.store import CredentialStore, StoreUnusable
from asyncfc_mcp.downstream.oauth.token_endpoint import revoke
from asyncfc_mcp.downstream.snapshot import LISTINGS
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.errors import SignInFailed
from asyncfc_mcp.quotation import for_terminal

CONNECT_S: Final = 60.0
"""Timeout for the connection that shows that the sign-in works, in seconds."""
_TOOLS_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class Wishes:
    """Options of `login`.

    Attributes:
        browser: open one on this machine.
        scopes: to ask for, beyond those that were granted before.
        force: sign in again even if there is a sign-in that works.
    """

    browser: bool = True
    scopes: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Checked:
    status: Status
    reason: str
    tools: Sequence[str]


class Login:
    """One sign-in.

    Args:
        target: the server.
        store: where its tokens are kept.
        stored_in: the store in words.
        bridge: makes a bridge with this server only, which is connected to see that the tokens are accepted.
        say: prints a line.
    """

    def __init__(
        self,
        target: Target,
        store: CredentialStore,
        stored_in: str,
        bridge: Callable[[], Bridge],
        say: Callable[[str], None],
    ) -> None:
        self._target, self._store, self._stored_in = target, store, stored_in
        self._bridge, self._print = bridge, say
        self._name = target.server.name

    def _say(self, text: str) -> None:
        """Print a text without control characters: servers name scopes, tools and addresses."""
        self._print(for_terminal(text))

    async def run(self, wishes: Wishes) -> bool:
        """Sign in, and return whether the server can be used then.

        Raises:
            SignInFailed, StoreUnusable: the sign-in did not succeed.
        """
        spec = self._target.spec
        oauth = spec.oauth
        assert oauth is not None
        machine = oauth.grant == "client_credentials"
        grant = self._store.load_grant(self._name, spec.url)
        if grant is not None and not wishes.force and set(wishes.scopes) <= set(grant.scopes):
            checked = await self._check()
            if checked.status is not Status.SIGN_IN:
                current = self._store.load_grant(self._name, spec.url) or grant
                self._say(f"Already signed in to {self._name}; --force signs in again.")
                return self._report(current, machine, checked)
            self._say(f"The stored sign-in to {self._name} is no longer accepted.")
        if machine:
            self._say(f"{self._name} is signed in to with client credentials, without a browser.")
            grant = await machine_grant(self._name, spec, self._store, scopes=wishes.scopes)
        else:
            grant = await self._in_browser(wishes)
        self._say(f"Signed in to {self._name}.")
        works = self._report(grant, machine, await self._check())
        if missing := [scope for scope in wishes.scopes if scope not in grant.scopes]:
            self._say(f"But these scopes were not granted: {' '.join(missing)}")
        return works and not missing

    # --- the browser ---------------------------------------------------------------------------------------------

    async def _in_browser(self, wishes: Wishes) -> Grant:
        """Sign in with a browser, on this machine or another one."""
        spec, oauth = self._target.spec, self._target.spec.oauth
        assert oauth is not None
        if wishes.scopes and oauth.scopes is not None:
            # Configured scopes replace all others; those of the command line are wanted as well.
            scopes = tuple(dict.fromkeys((*oauth.scopes, *wishes.scopes)))
            oauth = replace(oauth, scopes=scopes)
            spec = replace(spec, oauth=oauth)
        opens = wishes.browser and has_display(os.environ)
        if wishes.browser and not opens:
            self._say("No display was found, so no browser is opened (as with --no-browser).")
        attempt = SignIn(self._name, spec, self._store)
        async with AsyncExitStack() as stack:
            listener: RedirectListener | None = None
            try:
                listener = await stack.enter_async_context(listening(self._name, oauth.redirect_uri))
            except CallbackUnavailable:
                if opens:
                    raise
            lines = None if opens else PastedLines()
            try:
                return await self._once(attempt, oauth.redirect_uri, wishes.scopes, listener, lines)
            except RegistrationDead as exc:
                self._say(f"{exc}. Signing in again with a new one.")
                return await self._once(attempt, oauth.redirect_uri, wishes.scopes, listener, lines)

    async def _once(
        self,
        attempt: SignIn,
        redirect_uri: str,
        scopes: Sequence[str],
        listener: RedirectListener | None,
        lines: PastedLines | None,
    ) -> Grant:
        """Show one address to the user, and complete the sign-in with what the browser is redirected to.

        Args:
            listener: gets the redirect, if the browser runs on this machine.
            lines: that the user pastes; None: not asked for.
        """
        request = await attempt.begin(redirect_uri, scopes)
        if listener is not None:
            listener.expect(request.state)
        self._say(f"Sign in to {self._name} at {request.server.issuer}")
        self._say("Opening this address in the browser:" if lines is None else "Open this address in a browser:")
        self._say(f"\n  {request.url}\n")
        if lines is None:
            open_browser(request.url, lambda: self._say("No browser could be opened: open the address yourself."))
            self._say("Waiting for the browser to return (Ctrl-C ends this) …")
        else:
            self._say(
                "Then the browser is sent to an address that begins with\n"
                f"  {redirect_uri}\n"
                "On another machine it finds nothing there: copy that address from its address bar and paste it here.\n"
                "Waiting; what is pasted is not shown (Ctrl-C ends this) …"
            )
        with anyio.move_on_after(SIGN_IN_S), ExitStack() as stack:
            if lines is not None:
                stack.enter_context(unseen())
            while True:
                redirected, pasted = await _redirected(listener, lines)
                if redirected is None:
                    raise SignInFailed(self._name, "no address was pasted", "run the command again in a terminal")
                try:
                    return await attempt.complete(request, redirected)
                except RedirectUnusable as exc:
                    if not pasted:
                        raise
                    self._say(
                        f"Not used: {exc.why}. Open the address above, and paste the whole address that it leads to."
                    )
        raise NobodySignedIn(self._name, SIGN_IN_S)

    # --- what is said in the end ---------------------------------------------------------------------------------

    async def _check(self) -> _Checked:
        """Connect to the server, list its tools, and keep them for the next start of the bridge."""
        bridge = self._bridge()
        bridge.server_requests.set_client_capabilities({})
        bridge.starts.on_client_answered()
        downstream = bridge.downstreams[self._name]
        async with bridge.open():
            with anyio.move_on_after(CONNECT_S):
                await downstream.wait_settled()
                if downstream.status is Status.READY:
                    await downstream.wait_for_listings(LISTINGS)
            return _Checked(downstream.status, downstream.reason, list(bridge.directory.catalog.tools))

    def _report(self, grant: Grant, machine: bool, checked: _Checked) -> bool:
        rows = [
            ("server", self._target.spec.shown),
            ("signed in at", grant.issuer),
            ("scopes", " ".join(grant.scopes) or "not said"),
            ("token", expiry_of(grant, machine or grant.refresh_token is not None).removeprefix("token ")),
            ("stored in", self._stored_in),
        ]
        if checked.status is Status.READY:
            names = list(checked.tools)
            more = f" and {len(names) - _TOOLS_NAMED} more" if len(names) > _TOOLS_NAMED else ""
            listed = f": {', '.join(names[:_TOOLS_NAMED])}{more}" if names else ""
            rows.append(("tools", f"{len(names)}{listed}"))
        for label, text in rows:
            self._say(f"  {label:<13} {text}")
        if checked.status is Status.READY:
            return True
        if checked.status is Status.SIGN_IN:
            self._say(f"But {self._name} does not accept the token ({checked.reason}).")
        else:
            self._say(f"But {self._name} cannot be used: {checked.reason or checked.status.value}")
        return False


async def _redirected(listener: RedirectListener | None, lines: PastedLines | None) -> tuple[str | None, bool]:
    """Return the address that the browser was redirected to, and whether it was pasted; None if there will be none."""
    found: list[tuple[str | None, bool]] = []

    async def listen(listener: RedirectListener) -> None:
        found.append((await listener.redirected(), False))
        tasks.cancel_scope.cancel()

    async def read(lines: PastedLines) -> None:
        line = await lines.next()
        # Without input, as in a script, the browser may still return to this machine.
        if line is not None or listener is None:
            found.append((line, True))
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        if listener is not None:
            tasks.start_soon(listen, listener)
        if lines is not None:
            tasks.start_soon(read, lines)
    return found[0] if found else (None, False)


def has_display(environ: Mapping[str, str]) -> bool:
    """Return whether a browser can be opened: not on a machine without a display, such as one behind SSH."""
    if environ.get("BROWSER"):
        return True
    if sys.platform in ("win32", "darwin"):
        return not environ.get("SSH_CONNECTION")
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or environ.get("WSL_DISTRO_NAME"))


def open_browser(url: str, failed: Callable[[], None]) -> None:
    """Open an address in the user's browser. Not waited for: some browsers run until they are closed.

    Args:
        failed: called if there is no browser.
    """
    token = current_token()

    def run() -> None:
        try:
            opened = webbrowser.open(url)
        except (OSError, webbrowser.Error):
            opened = False
        if not opened:
            with suppress(RuntimeError):  # the event loop has ended
                anyio.from_thread.run_sync(failed, token=token)

    Thread(target=run, daemon=True).start()


async def log_out(target: Target, store: CredentialStore, *, forget: bool, say: Callable[[str], None]) -> None:
    """Revoke the tokens of a server, and delete them, even if they could not be revoked.

    Args:
        forget: drop the registration of this program at the authorization server as well.

    Raises:
        StoreUnusable: the store cannot be read or written.
    """
    name, spec = target.server.name, target.spec
    grant = store.load_grant(name, spec.url)
    if grant is not None and not grant.access_token:
        store.drop_grant(name, spec.url)
        grant = None
    if grant is None:
        # Its registration belongs to an authorization server, which only the tokens name.
        hint = "; a registration is found only while signed in" if forget else ""
        say(for_terminal(f"Not signed in to {name}: nothing is stored{hint}."))
        return
    try:
        revoked, why = await revoke(name, spec, store, grant), "it offers no revocation"
    except (SignInFailed, StoreUnusable) as exc:
        revoked, why = False, str(exc)
    store.drop_grant(name, spec.url)
    if forget:
        store.drop_registration(grant.issuer, grant.redirect_uri)
    what = "its tokens and the registration of this program were" if forget else "its tokens were"
    there = (
        f"revoked at {grant.issuer}" if revoked else f"not revoked at {grant.issuer} ({why}), where they may be valid"
    )
    say(for_terminal(f"Signed out of {name}: {what} deleted here, and {'the tokens ' if forget else ''}{there}."))
