"""Refusal of requests that other pages in the user's browser make, or make possible.

Owns the headers `Host` (DNS rebinding), `Origin` and `Sec-Fetch-Site` (requests across sites). Leaves authentication to
`auth.entrance`: on loopback, where none may be required, these headers are what keeps other pages out. A program that
is no browser sends none but `Host`.
"""

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from asyncfc_mcp.transports.http.admission import HeaderAllowlist
from asyncfc_mcp.transports.http.asgi import Headers
from asyncfc_mcp.transports.http.page.answers import PageRefusal

_OWN_SITE: Final = ("same-origin", "none")
"""Values for requests of the page itself, and for addresses that a person has entered."""


class SameOrigin:
    """Conditions on the origin of requests.

    Args:
        hosts, origins: allowed values of `Host` and `Origin`; None on an address that others reach, whose names are not
            known. The origin must then be that of `Host`.
        public_url: the URL by which clients address the bridge through a proxy, which may change `Host`.
    """

    def __init__(
        self, hosts: Collection[str] | None, origins: Collection[str] | None, public_url: str | None = None
    ) -> None:
        self._hosts = None if hosts is None else HeaderAllowlist(hosts)
        self._origins = None if origins is None else HeaderAllowlist(origins)
        self._public = None if public_url is None else urlsplit(public_url).netloc.lower()

    def check_host(self, headers: Headers) -> None:
        """
        Raises:
            PageRefusal: `Host` is not a name of this endpoint.
        """
        if self._hosts is not None and (headers.get(b"host") or "") not in self._hosts:
            raise PageRefusal(421, "the address names another host; open the one that `asyncfc-mcp open` shows")

    def check(self, headers: Headers) -> None:
        """
        Raises:
            PageRefusal: the request is that of another page, or of one under another name.
        """
        self.check_host(headers)
        site = headers.get(b"sec-fetch-site")
        if site is not None and site not in _OWN_SITE:
            raise PageRefusal(403, "requests of other pages are refused (Sec-Fetch-Site)")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_own(origin, headers.get(b"host") or ""):
            raise PageRefusal(
                403, "requests of other pages are refused (Origin); behind a proxy, start the bridge with --public-url"
            )

    def _is_own(self, origin: str, host: str) -> bool:
        if self._origins is not None:
            return origin in self._origins
        scheme, mark, name = origin.partition("://")
        return scheme in ("http", "https") and bool(mark) and name.lower() in (host.lower(), self._public)
