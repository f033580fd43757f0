"""Public keys of an authorization server: found through its metadata, kept, and fetched again when they change.

Owns when something is fetched, so that neither a request nor an attacker decides it. Leaves tokens to `jwt_checks`, and
the HTTP client to `documents`.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import anyio
import anyio.abc

from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import said
from asyncfc_mcp.redaction import shown_url
from asyncfc_mcp.transports.http.auth.authenticator import CannotAuthenticate
from asyncfc_mcp.transports.http.auth.jwt_checks import ALGORITHMS

logger = logging.getLogger(__name__)

REFRESH_S: Final = 600.0
"""Interval between two fetches of the keys: a key that the server withdraws is accepted no longer than that."""
UNKNOWN_KEY_S: Final = 30.0
"""Minimum interval between two fetches because of a key ID that is unknown: everybody can make one up."""
RETRY_S: Final = 5.0
"""Interval between two attempts while there are no keys."""
STALE_S: Final = 86_400.0
"""Seconds that the last keys are used while the server cannot be reached."""
MOST_KEYS: Final = 64
MOST_TRIED: Final = 8
"""Keys that are tried for a token without a key ID."""
MIN_RSA_BITS: Final = 2048
MOST_WAITING: Final = 64
"""Requests that wait for keys at once. None of them is authenticated, and each takes a connection for as long as the
server does not answer; more are refused."""

Fetch = Callable[[str], Awaitable[bytes]]
"""Returns the document at a URL; raises `FetchFailed`."""


class FetchFailed(BridgeError):
    """A document of the authorization server cannot be fetched, or not be used.

    Args:
        url: its address.
        fault: as a predicate.
        missing: the server says that there is no such document.
    """

    def __init__(self, url: str, fault: str, *, missing: bool = False) -> None:
        super().__init__(f"{shown_url(url)} {fault}")
        self.missing = missing


class UnusableIssuer(BridgeError):
    """The issuer of `--auth-jwt` is none."""

    def __init__(self, issuer: str) -> None:
        super().__init__(
            f"--auth-jwt: {shown_url(said(issuer))} cannot be an issuer: expected an https URL without user, query, "
            f"fragment and /.well-known/ (http on this machine only), exactly as in the metadata of the "
            f"authorization server"
        )


class SigningKey:
    """A public key, and what it may be used for."""

    __slots__ = ("algorithms", "key", "key_id", "members", "withdrawn")

    def __init__(self, key_id: str | None, algorithms: frozenset[str], key: Any, members: Mapping[str, Any]) -> None:
        self.key_id, self.algorithms, self.key, self.members = key_id, algorithms, key, members
        self.withdrawn = False
        """True once the server no longer publishes it."""


def is_safe(url: str) -> bool:
    """Return whether nobody between this machine and a URL's host can change what is fetched from there."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in ("127.0.0.1", "::1", "localhost"))


def check_issuer(issuer: str) -> str:
    """Return an issuer.

    Raises:
        UnusableIssuer: it is none.
    """
    if not is_safe(issuer) or "?" in issuer or "#" in issuer or "/.well-known/" in issuer:
        raise UnusableIssuer(issuer)
    return issuer


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the addresses of a server's metadata, in the order in which they are tried: RFC 8414, OpenID Connect with
    the path behind the well-known part, and before it."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    urls = (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )
    return tuple(dict.fromkeys(urls))


def read_keys(document: Mapping[str, Any]) -> list[SigningKey]:
    """Return the usable keys of a JWK set. Secrets (`oct`), keys for encryption, weak and malformed ones are left
    out."""
    entries = document.get("keys")
    found = (_key(entry) for entry in cast("list[Any]", entries if isinstance(entries, list) else [])[:MOST_KEYS])
    return [key for key in found if key is not None]


def _key(entry: Any) -> SigningKey | None:
    if not isinstance(entry, dict):
        return None
    jwk = cast("dict[str, Any]", entry)
    kind, key_id, operations = jwk.get("kty"), jwk.get("kid"), jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    # Only public members: a private key in the set must not be loaded as one.
    names = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}.get(str(kind))
    if names is None or not (key_id is None or isinstance(key_id, str)):
        return None
    members = {name: jwk.get(name) for name in names}
    algorithms = frozenset(ALGORITHMS.get("RSA" if kind == "RSA" else str(jwk.get("crv")), ()))
    if "alg" in jwk:
        algorithms &= {jwk["alg"]} if isinstance(jwk["alg"], str) else frozenset()
    if not algorithms:
        return None
    from jwt import PyJWK

    try:
        key = PyJWK(members, min(algorithms)).key
    except Exception as exc:  # noqa: BLE001 - whatever the libraries make of a malformed key
        logger.debug("a key of the authorization server is ignored: %s", type(exc).__name__)
        return None
    if kind == "RSA" and key.key_size < MIN_RSA_BITS:
        logger.warning("a key of the authorization server is ignored: RSA with fewer than %d bits", MIN_RSA_BITS)
        return None
    return SigningKey(key_id, algorithms, key, members)


class SigningKeys:
    """The keys of one authorization server.

    Args:
        issuer: the server, as it names itself.
        fetch: fetches a document.
        clock: seconds, monotonic.
    """

    def __init__(self, issuer: str, fetch: Fetch, clock: Callable[[], float] = anyio.current_time) -> None:
        self._issuer, self._fetch, self._clock = issuer, fetch, clock
        self._keys: list[SigningKey] = []
        self._fetched_at: float | None = None
        """Time of the last success."""
        self._tried_at: float | None = None
        """Time of the end of the last attempt."""
        self._failed = False
        self._lock = anyio.Lock()
        self._waiting = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Fetch the keys now and then, until cancelled, so that requests need not wait for them."""
        task_status.started()
        while True:
            async with self._lock:
                await self._refresh()
            await anyio.sleep(RETRY_S if not self._keys else REFRESH_S / 10 if self._failed else REFRESH_S)

    async def find(self, key_id: str | None, algorithm: str) -> list[SigningKey]:
        """Return the keys that may have signed a token, at most `MOST_TRIED`.

        Raises:
            CannotAuthenticate: the keys are not known at present.
        """
        found = self._fitting(key_id, algorithm)
        if not found and self._may_try():
            if self._waiting >= MOST_WAITING:
                raise _cannot()
            self._waiting += 1
            try:
                async with self._lock:
                    if self._may_try():  # another request may have done it
                        await self._refresh()
            finally:
                self._waiting -= 1
            found = self._fitting(key_id, algorithm)
        if not found and self._failed:
            raise _cannot()
        return found

    def _fitting(self, key_id: str | None, algorithm: str) -> list[SigningKey]:
        fitting = (key for key in self._keys if algorithm in key.algorithms)
        return [key for key in fitting if key_id is None or key.key_id == key_id][:MOST_TRIED]

    def _may_try(self) -> bool:
        if self._tried_at is None:
            return True
        return self._clock() - self._tried_at >= (UNKNOWN_KEY_S if self._keys else RETRY_S)

    async def _refresh(self) -> None:
        """Fetch the keys, and keep those that there are if that fails."""
        try:
            keys = await self._load()
        except Exception as exc:
            if not isinstance(exc, FetchFailed):  # neither the bridge nor a request may end with it
                logger.exception("fetching the keys of %s failed", shown_url(self._issuer))
            elif not self._failed or self._tried_at is None:
                logger.error("the keys of %s cannot be fetched: %s", shown_url(self._issuer), exc)
            self._failed = True
            if self._fetched_at is not None and self._clock() - self._fetched_at > STALE_S:
                self._replace([])
        else:
            if self._failed:
                logger.info("the keys of %s are known again", shown_url(self._issuer))
            self._failed, self._fetched_at = False, self._clock()
            self._replace(keys)
        finally:
            self._tried_at = self._clock()

    def _replace(self, keys: Iterable[SigningKey]) -> None:
        # The key that stays is the same object, so that tokens which it verified need no check again.
        known = {(key.key_id, json.dumps(key.members, sort_keys=True), key.algorithms): key for key in self._keys}
        kept = [known.pop((key.key_id, json.dumps(key.members, sort_keys=True), key.algorithms), key) for key in keys]
        for key in known.values():
            key.withdrawn = True
        self._keys = kept

    async def _load(self) -> list[SigningKey]:
        """Raises:
        FetchFailed: the keys cannot be fetched, or there are none.
        """
        metadata, source = await self._metadata()
        issuer, address = metadata.get("issuer"), metadata.get("jwks_uri")
        if issuer != self._issuer:
            named = f"names the issuer {shown_url(said(issuer))}" if isinstance(issuer, str) else "names no issuer"
            raise FetchFailed(source, f"{named}, and not exactly the one of --auth-jwt")
        if not isinstance(address, str) or not is_safe(address):
            raise FetchFailed(source, "has no jwks_uri with https")
        keys = read_keys(_document(address, await self._fetch(address)))
        if not keys:
            raise FetchFailed(address, "has no key that can be used")
        return keys

    async def _metadata(self) -> tuple[dict[str, Any], str]:
        failure: FetchFailed | None = None
        for url in metadata_urls(self._issuer):
            try:
                return _document(url, await self._fetch(url)), url
            except FetchFailed as exc:
                failure = failure or exc
                if not exc.missing:
                    raise
        assert failure is not None
        raise failure


def _cannot() -> CannotAuthenticate:
    return CannotAuthenticate(
        "Tokens cannot be checked at present: the authorization server of this bridge cannot be reached, or does not "
        "answer as expected",
        int(RETRY_S),
    )


def _document(url: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FetchFailed(url, "is not JSON") from None
    if not isinstance(document, dict):
        raise FetchFailed(url, "is not a JSON object")
    return cast("dict[str, Any]", document)
