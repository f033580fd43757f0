"""A script that plays the browser in a sign-in: follows redirects with its cookies, and fills in forms.

    python tests/support/browser.py [--login NAME] [--finish] URL

As a program it prints where the sign-in ends, or with `--finish` fetches that from the client's listener, as `$BROWSER`
does.

Owns the conversation with an authorization server up to the redirect to the client's loopback address, which is handed
back, or fetched by `finish`. Knows the forms of oidc-provider (login and consent), and servers that redirect at once.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import IO
from urllib.parse import urlencode, urljoin

PATIENCE = 30.0
MAX_STEPS = 20


class SignInStuck(AssertionError):
    """The conversation did not reach the redirect; the text has the last page."""


class _Forms(HTMLParser):
    """The first form of a page: where it goes, and its fields with their values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


class _StayingHere(urllib.request.HTTPRedirectHandler):
    """Hands redirects back in place of following them."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


@dataclass
class Browser:
    """One user agent with its cookies.

    Args:
        login: the user that signs in; the authorization server takes any password.
        consents: false to press "abort" in place of agreeing.
    """

    login: str = "alice"
    consents: bool = True
    visited: list[str] = field(default_factory=list[str])
    """Every URL that was requested."""
    _cookies: CookieJar = field(default_factory=CookieJar)

    def authorize(self, url: str) -> str:
        """Go through the sign-in that begins at `url`; return the loopback redirect that ends it, not yet fetched.
        Raises SignInStuck."""
        data: dict[str, str] | None = None
        status, page = 0, ""
        for _ in range(MAX_STEPS):
            status, location, page = self._exchange(url, data)
            if location is not None:
                target, data = urljoin(url, location), None
                if "code=" in target or "error=" in target:
                    return target
                url = target
                continue
            form = _Forms(page)
            if status != 200 or form.action is None:
                break
            if not self.consents and form.fields.get("prompt") == "consent":
                url, data = f"{url}/abort", None
                continue
            data = form.fields | {name: self.login for name in ("login", "password") if name in form.fields}
            url = urljoin(url, form.action or url)
        raise SignInStuck(f"no redirect after {self.visited[-1]} (HTTP {status}): {page[:1500]}")

    def finish(self, url: str) -> tuple[int, str]:
        """The same, and fetch the redirect from the client's listener; its status and page."""
        status, _, page = self._exchange(self.authorize(url), None)
        return status, page

    def _exchange(self, url: str, data: dict[str, str] | None) -> tuple[int, str | None, str]:
        self.visited.append(url)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies), _StayingHere()
        )
        request = urllib.request.Request(url, urlencode(data).encode() if data is not None else None)
        try:
            with opener.open(request, timeout=PATIENCE) as response:
                return response.status, None, response.read().decode(errors="replace")
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.headers.get("Location"), answer.read().decode(errors="replace")


def main() -> int:
    """Sign in once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--login", default="alice")
    parser.add_argument("--finish", action="store_true")
    parser.add_argument("url")
    options = parser.parse_args()
    browser = Browser(options.login)
    if options.finish:
        return 0 if browser.finish(options.url)[0] == 200 else 1
    print(browser.authorize(options.url))
    return 0


if __name__ == "__main__":
    sys.exit(main())
