"""Failures of sign-in: one class per cause, each with its own text.

Pure. A text says what happened, where, and what to do. Callers pass addresses and servers' texts as they are; they are
shortened and cleared of secrets here. The common base is `errors.SignInFailed`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from asyncfc_mcp.errors import SignInFailed, TransportFailure
from asyncfc_mcp.quotation import quoted, said
from asyncfc_mcp.redaction import shown_url, without_secrets

_SAID_CHARS: Final = 200
_URL_CHARS: Final = 200
_ADVICE: Final[Mapping[str, str]] = {
    "invalid_client": 'check "clientId" and "clientSecret" in the "oauth" of this server',
    "unauthorized_client": 'check what the client in the "oauth" of this server may do',
    "invalid_scope": 'check "scopes" in the "oauth" of this server',
    "invalid_target": 'check "resource" in the "oauth" of this server',
}
"""OAuth error → what to do, where that is not to sign in again."""


def _url(url: str) -> str:
    return said(shown_url(url), _URL_CHARS)


def _words(error: str, description: str, secrets: Iterable[str] = ()) -> str:
    """Return an error code and its description, as the server's words."""
    secrets = tuple(secrets)
    parts = [said(without_secrets(text, secrets), _SAID_CHARS) for text in (error, description) if text]
    return quoted(": ".join(dict.fromkeys(parts)), 2 * _SAID_CHARS) if parts else ""


class AuthorizationServerUnreachable(SignInFailed):
    """An address of the sign-in could not be reached, or failed for a moment: nothing is wrong with the credentials.

    Args:
        failure: with the peer as its subject.
    """

    def __init__(self, server: str, url: str, failure: TransportFailure) -> None:
        super().__init__(server, f"{_url(url)} {failure.message}", "try again later")


class AddressRefused(SignInFailed):
    """A server named an address that must not be used.

    Args:
        what: the address is of, such as "token endpoint".
        why: a predicate.
    """

    def __init__(self, server: str, what: str, url: str, why: str) -> None:
        hint = "correct the URL of this server" if what == "URL" else "its operator has to correct that"
        super().__init__(server, f"its {what} {_url(url)} is not used, since it {why}", hint)


class MetadataUnusable(SignInFailed):
    """A metadata document is not usable.

    Args:
        why: a predicate with the document as its subject.
    """

    def __init__(self, server: str, url: str, why: str) -> None:
        super().__init__(server, f"the metadata at {_url(url)} {why}", "its operator has to correct that")


class WrongResource(SignInFailed):
    """The metadata of a protected resource are those of another one."""

    def __init__(self, server: str, url: str, resource: str) -> None:
        super().__init__(
            server,
            f"its metadata are for {_url(resource)}, which is not {_url(url)}",
            "no token is asked for, since it could be used elsewhere; correct the URL in the config, if that is wrong",
        )


class WrongIssuer(SignInFailed):
    """The metadata of an authorization server name another issuer than the one that was asked."""

    def __init__(self, server: str, asked: str, found: str) -> None:
        super().__init__(
            server,
            f"the authorization server {quoted(_url(asked), _URL_CHARS)} says that its issuer is "
            f"{quoted(_url(found), _URL_CHARS)}",
            "both have to be identical; its operator has to correct that",
        )


class NoAuthorizationServer(SignInFailed):
    """No metadata of an authorization server were found.

    Args:
        issuers: that were asked.
        open: the server accepted a request without a token.
    """

    def __init__(self, server: str, issuers: Sequence[str], *, open: bool = False) -> None:
        where = ", ".join(map(_url, issuers[:5]))
        hint = "it accepts requests without one, and " if open else ""
        super().__init__(
            server,
            f"{hint}no metadata of an authorization server were found at {where}",
            'set its "headers", if it takes a token of another kind, or "authServerMetadataUrl" in its "oauth"',
        )


class NoPkce(SignInFailed):
    """An authorization server does not say that it supports PKCE with S256."""

    def __init__(self, server: str, issuer: str) -> None:
        super().__init__(
            server,
            f"the authorization server {_url(issuer)} does not say that it supports PKCE with S256",
            "without it a sign-in can be stolen, so none is begun; its operator has to correct that",
        )


class NoClientId(SignInFailed):
    """There is no way to be known to an authorization server."""

    def __init__(self, server: str, issuer: str, redirect_uri: str | None) -> None:
        at = f" with the redirect URI {redirect_uri}" if redirect_uri else ""
        super().__init__(
            server,
            f"the authorization server {_url(issuer)} does not register clients by itself",
            f'register a client there{at}, and set "oauth": {{"clientId": …}} of this server in the config',
        )


class NoCredentials(SignInFailed):
    """A sign-in without a user needs a client's own credentials, and there are none."""

    def __init__(self, server: str) -> None:
        super().__init__(
            server,
            "client credentials are asked for, and the config has none",
            'set "clientId" with "clientSecret" or "privateKey" in the "oauth" of this server',
        )


class KeyUnusable(SignInFailed):
    """The configured private key cannot sign. Its text is never shown, and neither is what the library says of it."""

    def __init__(self, server: str, algorithm: str) -> None:
        super().__init__(
            server,
            f'the private key in its "oauth" cannot sign with {said(algorithm, 40)!r}',
            "it has to be a PEM text of the kind that the algorithm needs",
        )


class IssuerChanged(SignInFailed):
    """A server names another authorization server than the one where its client was registered by hand."""

    def __init__(self, server: str, expected: str, issuers: Sequence[str]) -> None:
        where = ", ".join(map(_url, issuers[:5]))
        super().__init__(
            server,
            f"its client is registered at {_url(expected)}, but it now names {where} as its authorization server",
            f"if that is right, register a client there, and run: asyncfc-mcp logout {server}",
        )


class RegistrationRefused(SignInFailed):
    """Dynamic registration failed."""

    def __init__(self, server: str, issuer: str, status: int, error: str, description: str) -> None:
        words = _words(error, description) or f"HTTP {status}"
        super().__init__(
            server,
            f"the authorization server {_url(issuer)} refused to register this client: {words}",
            'if it registers none, register one by hand and set "oauth": {"clientId": …} of this server in the config',
        )


class RegistrationDead(SignInFailed):
    """An authorization server no longer knows the registration that was made earlier, which was dropped."""

    def __init__(self, server: str, issuer: str) -> None:
        super().__init__(
            server,
            f"the authorization server {_url(issuer)} no longer accepts this client's registration",
            "sign in again",
        )


class ClientUnknown(SignInFailed):
    """The registration that tokens belong to is not there: another one took its place, or the config has changed."""

    def __init__(self, server: str) -> None:
        super().__init__(server, "the client that its tokens were issued to is not known any more", "sign in again")


class TokenRefused(SignInFailed):
    """A token endpoint refused a request.

    Args:
        error: code of the OAuth error; empty if there is none.
        secrets: values of the request, which must not be quoted.
    """

    def __init__(
        self, server: str, url: str, status: int, error: str, description: str, secrets: Iterable[str] = ()
    ) -> None:
        words = _words(error, description, secrets) or f"HTTP {status}"
        super().__init__(server, f"{_url(url)} refused a token: {words}", _ADVICE.get(error, "sign in again"))
        self.error, self.status = error, status

    @property
    def grant_is_dead(self) -> bool:
        """True where the refresh token, or the code, is no longer valid: only a new sign-in helps."""
        return self.error == "invalid_grant"

    @property
    def client_is_dead(self) -> bool:
        """True where the authorization server does not accept this client."""
        return self.error in ("invalid_client", "unauthorized_client")


class TokensUnusable(SignInFailed):
    """A token endpoint answered with something else than usable tokens.

    Args:
        why: a predicate with the answer as its subject.
    """

    def __init__(self, server: str, url: str, why: str) -> None:
        super().__init__(server, f"the answer of {_url(url)} {why}", "its operator has to correct that")


class AuthorizationRefused(SignInFailed):
    """The user, or the authorization server, did not approve."""

    def __init__(self, server: str, issuer: str, error: str, description: str) -> None:
        denied = "access was denied" if error == "access_denied" else "it was not approved"
        super().__init__(server, f"{denied} at {_url(issuer)}: {_words(error, description)}", _ADVICE.get(error, ""))
        self.error = error


class RedirectUnusable(SignInFailed):
    """The address that a browser was redirected to does not belong to this sign-in, or is not complete.

    Args:
        why: a predicate with the address as its subject.
    """

    def __init__(self, server: str, why: str) -> None:
        super().__init__(server, f"the address that the browser was sent to {why}", "begin the sign-in again")


class WrongResponseIssuer(SignInFailed):
    """A redirect names another authorization server than the one that was asked (RFC 9207), or none although it must.
    Its error and its description are not shown: they may be an attacker's."""

    def __init__(self, server: str, issuer: str) -> None:
        super().__init__(
            server,
            f"the answer in the browser is not from {_url(issuer)}, which was asked",
            "its code was not used; someone may have tried to mix two sign-ins up",
        )


class CallbackUnavailable(SignInFailed):
    """The loopback redirect cannot be served.

    Args:
        why: a predicate with the port as its subject.
    """

    def __init__(self, server: str, port: int, why: str) -> None:
        super().__init__(
            server,
            f"port {port} of this machine, to which the browser returns, {why}",
            'end the other sign-in or program there, or set "callbackPort" in the "oauth" of this server',
        )


class NobodySignedIn(SignInFailed):
    """The browser did not return in time."""

    def __init__(self, server: str, timeout_s: float) -> None:
        super().__init__(server, f"the browser did not return within {timeout_s / 60:g} minutes", "begin it again")
