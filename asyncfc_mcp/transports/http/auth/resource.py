"""The endpoint as a protected resource (RFC 9728): its identifiers, its metadata, and the challenges to clients.

Pure. Owns what clients need to sign in by themselves. Leaves tokens to `jwt_tokens`, and refusals to `entrance`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import said
from asyncfc_mcp.redaction import shown_url

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
REALM: Final = "asyncfc-mcp"


class UnusablePublicUrl(BridgeError):
    """The value of `--public-url` is not the URL of an endpoint."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"--public-url: {shown_url(said(url))} cannot be the address of the bridge: expected its URL as clients "
            f"write it, such as https://mcp.example.com/mcp"
        )


def check_public_url(url: str) -> str:
    """Return a public URL.

    Raises:
        UnusablePublicUrl: it is none.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UnusablePublicUrl(url) from None
    # It is written into headers, in quotation marks.
    clean = url.isascii() and url.isprintable() and not set(url) & set(' "\\?#')
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or not clean:
        raise UnusablePublicUrl(url)
    return url


class ProtectedResource:
    """The endpoints of one bridge, as clients address them.

    Args:
        url: the public URL of the first path, or of the server without a path.
        paths: paths that are served, the main one first.
        issuer: the authorization server.
        scopes: all that any request needs.
    """

    def __init__(self, url: str, paths: Sequence[str], *, issuer: str, scopes: Collection[str] = ()) -> None:
        base = url.rstrip("/")
        for path in paths:
            if base.endswith(path):
                base = base.removesuffix(path)
                break
        parts = urlsplit(base)
        self._origin, self._prefix = f"{parts.scheme}://{parts.netloc}", parts.path
        self._issuer, self._paths = issuer, tuple(paths)
        self.configure(scopes)

    def configure(self, scopes: Collection[str]) -> None:
        """Name these scopes from now on."""
        self._scopes = sorted(scopes)

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Resource identifiers of the paths: audiences of their tokens."""
        return tuple(self._identifier(path) for path in self._paths)

    def _identifier(self, path: str) -> str:
        return f"{self._origin}{self._prefix}{path}"

    def metadata_paths(self) -> Mapping[str, str]:
        """Return the paths of metadata → the path that each describes. A proxy may leave out the prefix."""
        found = {WELL_KNOWN: self._paths[0]}
        for path in self._paths:
            found[f"{WELL_KNOWN}{path}"] = found[f"{WELL_KNOWN}{self._prefix}{path}"] = path
        return found

    def metadata(self, path: str) -> dict[str, Any]:
        """Return the metadata of a path."""
        scopes = {"scopes_supported": self._scopes} if self._scopes else {}
        return {
            "resource": self._identifier(path),
            "authorization_servers": [self._issuer],
            **scopes,
            "bearer_methods_supported": ["header"],
            "resource_name": REALM,
        }

    def metadata_url(self, path: str) -> str:
        """Return the address of the metadata of a path; of the main one for any that is not served."""
        served = path if path in self._paths else self._paths[0]
        return f"{self._origin}{WELL_KNOWN}{self._prefix}{served}"


def challenge(
    resource: ProtectedResource | None,
    path: str,
    *,
    error: str | None = None,
    why: str | None = None,
    scopes: Collection[str] = (),
) -> bytes:
    """Return the value of `WWW-Authenticate` (RFC 6750, section 3; RFC 9728, section 5.1).

    Args:
        why: the reason, in ASCII without quotation marks and backslashes.
        scopes: those that the request needs.
    """
    params = {
        "realm": REALM,
        "error": error,
        "error_description": why,
        "scope": " ".join(sorted(scopes)) or None,
        "resource_metadata": None if resource is None else resource.metadata_url(path),
    }
    return ("Bearer " + ", ".join(f'{name}="{value}"' for name, value in params.items() if value is not None)).encode()
