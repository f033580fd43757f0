"""Reading of sign-in settings: the `oauth` object of an entry, Cursor's `auth`, and Codex's keys → `OAuthSpec`.

Owns the spellings of hosts, and the checks of each value. That an entry has credentials of its own, so that it needs no
sign-in, is the decision of `specs`. An unknown key is a warning, since hosts have keys of their own; no message shows a
secret.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, cast
from urllib.parse import urlsplit

from asyncfc_mcp.config.checker import Checker, kind_of, shown
from asyncfc_mcp.config.formats import NOT_USED
from asyncfc_mcp.config.model import OAuthSpec
from asyncfc_mcp.config.secret_sources import SourceUnusable, read_secret_file, resolved
from asyncfc_mcp.config.variables import Variables
from asyncfc_mcp.errors import nearest
from asyncfc_mcp.redaction import shown_url

KEYS: Final = tuple(f.name for f in fields(OAuthSpec))
"""Keys of the object, as in the documentation."""
_ALIASES: Final[Mapping[str, str]] = {
    **{key.replace("_", ""): key for key in KEYS},
    "scope": "scopes",
    "authservermetadataurl": "metadata_url",
    "oauthresource": "resource",
    "redirecturi": "redirect_uri",
    "redirecturl": "redirect_uri",
    "callbackurl": "redirect_uri",
    "granttype": "grant",
    "privatekeyfile": "private_key",
    "privatekeypath": "private_key",
    "signingalgorithm": "algorithm",
    "enabled": "enabled",
}
"""Key without case and punctuation → the key that it means: `clientId`, `CLIENT_ID` and `client_id` are one."""
_OF_HOSTS: Final = frozenset(
    {
        "audience", "audiences", "authorizationurl", "tokenurl", "registrationurl", "revocationendpoint",
        "clientname", "clienturi", "clientregistration", "tokenparamname", "tokenexchangemethod", "type", "provider",
        "tokenendpointauthmethodssupported", "granttypessupported", "responsetypessupported",
        "codechallengemethodssupported", "revocationendpointauthmethodssupported", "skipcodechallengecheck",
    }
)  # fmt: skip
"""Known keys of hosts that are not used here: endpoints are discovered."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
"""A path of the loopback redirect."""
_ALGORITHMS: Final = (
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
)  # fmt: skip
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""A scope, as in RFC 6749."""
_OIDS: Final = (
    (bytes.fromhex("2a864886f70d010101"), "RS256"),
    (bytes.fromhex("2a8648ce3d030107"), "ES256"),
    (bytes.fromhex("2b81040022"), "ES384"),
    (bytes.fromhex("2b81040023"), "ES512"),
    (bytes.fromhex("06032b6570"), "EdDSA"),
)
"""Object identifiers of keys and curves in a private key, and the usual algorithm for each."""


class OAuthReader:
    """Reads the sign-in settings of entries. Each method raises `ConfigError` for an invalid value."""

    def __init__(self, check: Checker) -> None:
        self._check = check

    def read(self, entry: Mapping[str, Any], path: str, variables: Variables, *, authorized: bool) -> OAuthSpec | None:
        """Return the sign-in of a server at a URL; None if it is off, or not needed.

        Args:
            authorized: the configuration gives the server credentials in a header or the URL.
        """
        values = self._values(entry, path)
        if values is None:
            return None
        if authorized:
            if values:
                where = next(iter(values.values()))[1].rpartition(".")[0]
                self._check.warn(where, "ignored: the entry has credentials of its own (a header, or in the URL)")
            return None
        read = {key: self._value(key, value, at, variables) for key, (value, at) in values.items()}
        read |= {key: item for key, item in read.pop("redirect_uri", None) or () if read.get(key) is None}
        found = {key: item for key, item in read.items() if item is not None}
        if "algorithm" not in found and "private_key" in found:
            found["algorithm"] = algorithm_of(found["private_key"]) or OAuthSpec().algorithm
        spec = OAuthSpec(**found)
        self._complete(spec, f"{path}.oauth" if "oauth" in entry else f"{path}.auth")
        return spec

    def refuse(self, entry: Mapping[str, Any], path: str) -> None:
        """Warn of sign-in settings of a server that is a command."""
        for key in ("oauth", "auth", "scopes", "oauth_resource"):
            if key in entry:
                self._check.warn(f"{path}.{key}", NOT_USED)

    def _values(self, entry: Mapping[str, Any], path: str) -> dict[str, tuple[Any, str]] | None:
        """Return each key that is set, with its value and key path; None if sign-in is turned off."""
        check = self._check
        oauth, auth = entry.get("oauth"), entry.get("auth")
        if oauth is False:
            return None
        if oauth is not None and oauth is not True and not isinstance(oauth, dict):
            raise check.fail(f"{path}.oauth", f"found {kind_of(oauth)}", "an object, true or false")
        if auth is not None and not isinstance(auth, dict) and auth not in ("oauth", True):
            # A text may be a token, which the bridge must not send to a server by a guess.
            check.warn(f"{path}.auth", f'{NOT_USED}; a token belongs in "headers": {{"Authorization": "Bearer …"}}')
        values: dict[str, tuple[Any, str]] = {}
        for key in ("oauth", "auth"):
            if isinstance(section := entry.get(key), dict):
                self._collect(cast("dict[str, Any]", section), f"{path}.{key}", values)
        for key, name in (("scopes", "scopes"), ("oauth_resource", "resource")):  # of Codex
            if entry.get(key) is not None:
                values.setdefault(name, (entry[key], f"{path}.{key}"))
        if (switch := values.pop("enabled", None)) is not None:
            value, at = switch
            return values if check.typed(value, at, bool, "true or false") else None
        return values

    def _collect(self, section: Mapping[str, Any], path: str, values: dict[str, tuple[Any, str]]) -> None:
        for key, value in section.items():
            plain = re.sub(r"[^a-z0-9]", "", key.lower())
            name, here = _ALIASES.get(plain), f"{path}.{key}"
            if value is None:
                continue
            if name is None:
                close = [] if plain in _OF_HOSTS else nearest(key, [*KEYS, *map(_camel, KEYS)], at_most=1)
                self._check.warn(here, f"{NOT_USED}{f'; did you mean {close[0]!r}?' if close else ''}")
            elif name not in values:
                values[name] = (value, here)
            elif values[name][0] != value:
                other = values[name][1].rpartition(".")[2]
                self._check.warn(here, f"ignored: {other!r} has the same meaning and is used")

    # --- single values -------------------------------------------------------------------------------------------

    def _value(self, key: str, value: Any, path: str, variables: Variables) -> Any:
        """Return the checked value of one key; None if it is empty, as in the forms of hosts."""
        match key:
            case "scopes":
                return self._scopes(value, path, variables)
            case "callback_port":
                return self._port(value, path, variables)
            case _:
                text = self._check.expanded(value, path, variables).strip()
                # What a variable held may be a secret in a wrong place.
                seen = shown(shown_url(text)) if text == cast("str", value).strip() else "the value of a variable"
                return self._text(key, text, path, seen) if text else None

    def _text(self, key: str, text: str, path: str, seen: str) -> Any:
        """Return a checked text.

        Args:
            seen: the text for a message.
        """
        check = self._check
        match key:
            case "private_key":
                return self._private_key(text, path)
            case "grant":
                grant = text.replace("-", "_").lower()
                if grant not in ("authorization_code", "client_credentials"):
                    raise check.fail(path, f"found {seen}", "'authorization_code' or 'client_credentials'")
                return grant
            case "algorithm":
                if text not in _ALGORITHMS:
                    raise check.fail(path, f"found {seen}", f"one of {', '.join(_ALGORITHMS)}")
                return text
            case "callback_host":
                if text.strip("[]") not in _LOOPBACK:
                    raise check.fail(path, f"found {seen}", "'127.0.0.1' or 'localhost'")
                return text.strip("[]")
            case "callback_path":
                if not _PATH.fullmatch(text):
                    raise check.fail(path, f"found {seen}", "a path such as '/callback'")
                return text
            case "redirect_uri":
                return self._redirect(text, path)
            case "metadata_url" | "client_metadata_url" | "issuer":
                self._check_url(text, path, seen)
            case "resource":
                if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21\x22\x24-\x7e]+", text):
                    raise check.fail(path, f"found {seen}", "a URL without a fragment")
            case _:
                if re.search(r"[\x00-\x1f\x7f]", text):
                    raise check.fail(path, "found a control character", "text without it")
        return text

    def _scopes(self, value: Any, path: str, variables: Variables) -> tuple[str, ...] | None:
        """Return scopes that are listed, or separated by spaces as in OAuth."""
        check = self._check
        if not isinstance(value, str | list):
            raise check.fail(path, f"found {kind_of(value)}", "a list of strings, or one string with spaces")
        written = [value] if isinstance(value, str) else cast("list[Any]", value)
        scopes = [scope for text in written for scope in check.expanded(text, path, variables).split()]
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                seen = shown(scope) if any(scope in text for text in written) else "the value of a variable"
                raise check.fail(path, f"found {seen}", "scopes of printable ASCII, without quotes")
        return tuple(dict.fromkeys(scopes)) or None

    def _port(self, value: Any, path: str, variables: Variables) -> int | None:
        check, expected = self._check, "a port, 1 to 65535"
        if isinstance(value, str):
            text = check.expanded(value, path, variables).strip()
            if not re.fullmatch(r"[0-9]{1,5}", text):
                raise check.fail(path, f"found {shown(value)}", expected)
            value = int(text)
        port = check.typed(value, path, int, expected)
        if not 0 <= port <= 65535:
            raise check.fail(path, f"found {port}", expected)
        return port or None

    def _redirect(self, text: str, path: str) -> list[tuple[str, Any]] | None:
        """Return host and port of a host's redirect URI, if it is one that this program can listen on."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        path_of = parts.path or "/"
        usable = parts.scheme == "http" and parts.hostname in _LOOPBACK and port is not None and not parts.query
        if not usable or not _PATH.fullmatch(path_of):
            self._check.warn(path, "ignored: the bridge listens at this machine only, as in http://127.0.0.1:PORT/PATH")
            return None
        return [("callback_host", parts.hostname), ("callback_port", port), ("callback_path", path_of)]

    def _check_url(self, text: str, path: str, seen: str) -> None:
        """Refuse what is no URL with https, or at this machine: credentials depend on what is there."""
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
            usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
        except ValueError:
            parts, host, usable = urlsplit(""), "", False
        if not usable or "#" in text or parts.username is not None or re.search(r"[\x00-\x20\x7f]", text):
            raise self._check.fail(path, f"found {seen}", "a URL, without fragment and password")
        if parts.scheme != "https" and host not in _LOOPBACK:
            raise self._check.fail(path, f"found {seen}", "an https:// URL")

    def _private_key(self, text: str, path: str) -> str:
        """Return a private key in PEM, which is given itself or by the path of its file."""
        expected = "a private key in PEM, or the path of its file"
        if "-----BEGIN" not in text:
            if "\n" in text:
                raise self._check.fail(path, "found text that is no key", expected)
            try:
                text = read_secret_file(resolved(text, self._check.folder))
            except SourceUnusable as exc:
                # The value itself is not shown: it may be a key in another form.
                raise self._check.fail(path, f"found no key in PEM, {exc.problem} of this name", expected) from None
        key = text.replace("\\n", "\n").strip()  # an environment variable often has no line ends
        if not re.search(r"-----BEGIN (?:(?!ENCRYPTED)[A-Z]+ )?PRIVATE KEY-----", key):
            encrypted = "an encrypted key" if "ENCRYPTED" in key else "something else in PEM"
            raise self._check.fail(path, f"found {encrypted}", "a private key in PEM that is not encrypted")
        return key + "\n"

    def _complete(self, spec: OAuthSpec, path: str) -> None:
        """Refuse settings that cannot work together."""
        check = self._check
        if spec.client_id is None and (spec.client_secret is not None or spec.private_key is not None):
            raise check.fail(path, "found credentials of a client without its client_id", "client_id as well")
        if spec.grant == "client_credentials" and (
            spec.client_id is None or (spec.client_secret is None and spec.private_key is None)
        ):
            expected = "client_id, and client_secret or private_key"
            raise check.fail(path, 'found "grant": "client_credentials" without credentials of a client', expected)


def algorithm_of(pem: str) -> str | None:
    """Return the usual algorithm of a private key, by the identifiers in it; None if they are not known.

    Read without a library for keys, which takes longer to import than all the rest of a start.
    """
    body = re.search(r"-----BEGIN (?:([A-Z]+) )?PRIVATE KEY-----(.*?)-----END", pem, re.DOTALL)
    if body is None:
        return None
    if body[1] == "RSA":
        return "RS256"
    try:
        data = base64.b64decode("".join(body[2].split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return next((algorithm for oid, algorithm in _OIDS if oid in data), None)


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.title() for word in rest)
