"""Fixtures of the page: one Chromium for the tests of a module, and pages that report what they should not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.watched_page import PATIENCE_MS, Opener


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        why = "these tests need Chromium (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens pages; at the end of the test none of them may have reported an error or a violation of its policy."""
    opener = Opener(browser)
    try:
        yield opener
    finally:
        opener.close()
    assert opener.problems == []


@pytest.fixture(scope="module")
def axe(npm_page: Path) -> str:
    """The source of axe-core."""
    return (npm_page / "node_modules" / "axe-core" / "axe.min.js").read_text()
