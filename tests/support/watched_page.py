"""Pages in a real browser that note what a good page never does: errors, violations of the policy, foreign requests.

Owns opening and watching. Leaves what is done on a page to the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from tests.support.page_server import Json, PageServer, page_server

PATIENCE_MS = 15_000
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 360, "height": 740}
REFUSALS = ("status of 401", "status of 503", "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING")
"""What Chromium itself writes on the console about a response; tests that cause such responses expect it."""


class Opener:
    """Opens pages, each with storage of its own.

    Args:
        browser: where.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.problems: list[str] = []
        self.expects_refusals = False
        """Whether the page's requests may be refused, or find nobody."""

    def __call__(
        self, url: str, *, wait: str | None = "#connection.live", token: str | None = None, **options: Any
    ) -> Page:
        """Open a page and wait for a selector; with a token, it need not enter."""
        context = self._browser.new_context(**{"viewport": WIDE, **options})
        if token is not None:
            context.add_init_script(f"sessionStorage.setItem('asyncfc-token', {json.dumps(token)})")
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        page.on("popup", lambda popup: self.problems.append(f"popup: {popup.url}"))
        origin = urlsplit(url).netloc

        def requested(request: Request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in ("data", "blob") and parts.netloc != origin:
                self.problems.append(f"foreign request: {request.url}")

        page.on("request", requested)
        page.goto(url)
        if wait is not None:
            page.wait_for_selector(wait)
        return page

    @contextmanager
    def over(self, calls: Sequence[Json] = (), **options: Any) -> Iterator[PageServer]:
        """Serve made-up calls to pages, which are closed first."""
        with page_server(calls, **options) as server:
            try:
                yield server
            finally:
                self.close()

    def close(self) -> None:
        """Close all pages."""
        while self._contexts:
            self._contexts.pop().close()

    def _console(self, message: ConsoleMessage) -> None:
        # Violations of the policy are errors on the console, too.
        if message.type in ("error", "warning"):
            if self.expects_refusals and any(each in message.text for each in REFUSALS):
                return
            self.problems.append(f"{message.type}: {message.text}")
