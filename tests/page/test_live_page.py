"""The page of a real bridge: real servers, calls of the SDK's client, a real one-time key, a real browser.

With ASYNCFC_DOCS_IMAGES in the environment, the day is played at its own pace, and the pictures of the documentation
are written to docs/img.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from typing import Any

import anyio
import httpx2
import mcp_types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from playwright.sync_api import Page, expect

from tests.support.stage import REPO, HttpBridge, Stage
from tests.support.watched_page import NARROW, WIDE, Opener

TOKEN = "correct-horse-battery-staple"
IMAGES = REPO / "docs" / "img"
DRAWS = bool(os.environ.get("ASYNCFC_DOCS_IMAGES"))
ROWS = "table.calls tbody tr"

Calls = list[tuple[str, dict[str, Any]]]
RELEASE: Calls = [
    ("web__search", {"query": "asyncfc 1.4", "_as": "hits"}),
    ("web__fetch", {"url": "$hits.results[0].url", "_as": "notes"}),
    ("web__fetch", {"url": "$hits.results[1].url", "_as": "guide"}),
    ("ci__run_tests", {"suite": "unit", "_as": "unit"}),
    ("ci__lint", {"path": "src", "_as": "style"}),
    ("ci__run_tests", {"suite": "integration", "_as": "integration"}),
    ("ci__build", {"target": "site", "_after": "unit", "_as": "site"}),
    ("files__append", {"path": "summary.md", "text": "$notes.markdown"}),
    ("files__append", {"path": "summary.md", "text": "$guide.markdown"}),
    ("files__read_file", {"path": "summary.md", "_as": "summary"}),
    ("ci__deploy", {"artifact": "$site.artifact", "environment": "staging", "_after": "integration"}),
]
REPORT: Calls = [
    ("db__query", {"sql": "select day, count(*) from orders group by day", "_as": "orders"}),
    ("db__query", {"sql": "select day, count(*) from orders_2019 group by day"}),
    ("web__search", {"query": "seasonal demand", "_as": "articles"}),
    ("web__fetch", {"url": "$articles.results[2].url"}),
    ("files__append", {"path": "report.md", "text": "$orders.rows"}),
    ("ci__run_tests", {"suite": "e2e", "_as": "e2e"}),
]


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage) -> HttpBridge:
    """A bridge over four servers that wants a token."""
    script = str(REPO / "tests" / "support" / "workday_server.py")
    path = {"writes": ["file:///work/{path}"]}
    settings: dict[str, Any] = {
        "ci": {
            "max_concurrency": 3,
            "tools": {
                **{name: {"reads": ["src"]} for name in ("run_tests", "lint", "build")},
                "deploy": {"writes": ["environments/{environment}"]},
            },
        },
        "files": {"tools": {"append": path, "read_file": {"reads": ["file:///work/{path}"]}}},
    }
    servers = {
        name: shared_stage.entry(
            sys.executable,
            script,
            name,
            env={"WORKDAY_SCALE": "1" if DRAWS else "0.12", "PYTHONPATH": str(REPO)},
            asyncfc=settings.get(name, {}),
        )
        for name in ("web", "ci", "files", "db")
    }
    return shared_stage.http_bridge(servers, "--auth-token-env", "PAGE_TOKEN", env={"PAGE_TOKEN": TOKEN}, grace_ms=0)


class Host:
    """A host with one conversation, which makes calls in a thread: the browser has the main one."""

    def __init__(self, bridge: HttpBridge, name: str) -> None:
        self._bridge, self._name = bridge, name
        self._thread: threading.Thread | None = None
        self.answers: list[str] = []

    def start(self, calls: Calls) -> Host:
        """Make the calls of a turn."""
        self._thread = threading.Thread(target=anyio.run, args=(self._run, calls))
        self._thread.start()
        return self

    def join(self) -> None:
        """Wait until all calls are made."""
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _run(self, calls: Calls) -> None:
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=30) as http:
            transport = streamable_http_client(f"{self._bridge.base}/mcp", http_client=http)
            info = mcp_types.Implementation(name=self._name, version="1")
            async with Client(transport, client_info=info) as client:
                for name, arguments in calls:
                    result = await client.call_tool(name, arguments)
                    block = result.content[0]
                    assert isinstance(block, mcp_types.TextContent)
                    self.answers.append(block.text)


@pytest.fixture
def key(bridge: HttpBridge) -> str:
    """The address of the page with a key that is good once."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    given = httpx2.post(f"{bridge.base}/page/api/key", json={}, headers=headers).raise_for_status().json()
    return f"{bridge.base}/#key={given['key']}"


def states(page: Page) -> dict[str, int]:
    """How many calls the page has in each state."""
    chips = page.locator(".chip").all()
    return {each.inner_text().split("\n")[0]: int(each.locator(".n").inner_text() or 0) for each in chips}


@pytest.mark.slow
def test_a_day_of_calls_is_seen_as_it_happens(bridge: HttpBridge, key: str, opened: Opener) -> None:
    """Opened with a key: calls of two hosts appear, wait for each other, run, fail, and are cancelled from the page."""
    page = opened(key)
    assert page.url == f"{bridge.base}/"
    expect(page.locator("#empty")).to_contain_text(f"{bridge.base}/mcp")
    report = Host(bridge, "cursor").start(REPORT)
    report.join()
    release = Host(bridge, "claude-code").start(RELEASE)
    release.join()
    page.locator("[data-view=table]").click()
    expect(page.locator(ROWS)).to_have_count(len(REPORT) + len(RELEASE))
    draw(page, key.partition("#")[0], opened)
    row = page.locator(ROWS, has=page.get_by_text("e2e", exact=True))
    expect(row).to_contain_text("running")
    expect(page.locator(ROWS, has_text="ci__deploy")).to_contain_text("completed", timeout=30_000)
    failed = page.locator(ROWS, has_text="failed")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text('relation "orders_2019" does not exist')

    row.get_by_role("button").click()
    details = page.locator("#details")
    expect(details).to_contain_text('"suite": "e2e"')
    expect(details.locator("progress")).to_be_visible()
    details.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the call").click()
    expect(row).to_contain_text("cancelled")

    page.locator(ROWS, has_text="ci__deploy").get_by_role("button").click()
    expect(details).to_contain_text('"artifact": "dist/site-1.4.0.tar.gz"')
    expect(details).to_contain_text("https://staging.example.com")
    details.get_by_role("button", name=re.compile("^site ci__build")).click()
    expect(details).to_contain_text("runs after")
    page.keyboard.press("Escape")

    page.get_by_role("searchbox").fill("seasonal")
    expect(page.locator(ROWS)).to_have_count(2)
    page.keyboard.press("Escape")
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON lines").click()
    lines = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [each["tool"] for each in lines].count("web__fetch") == 3

    expect(page.locator("#saved-session")).not_to_have_text(re.compile("^(–|0 s)$"))
    page.locator("[data-view=servers]").click()
    database = page.locator(".card", has_text="db")
    expect(database).to_contain_text("ready")
    database.locator("summary").click()
    expect(database.locator("pre")).to_contain_text("relation orders_2019 does not exist")
    page.locator("[data-view=settings]").click()
    expect(page.locator("table.settings")).to_contain_text("max_wait_s")


def test_markup_of_a_real_tool_stays_text(shared_stage: Stage, opened: Opener) -> None:
    """Through the whole bridge: arguments, results, failures, and names of a server that attacks the page."""
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e"
    bridge = shared_stage.http_bridge({"toy": shared_stage.toy()}, grace_ms=0)
    page = opened(f"{bridge.base}/#table")
    with_client = bridge.client()
    try:
        done = with_client.submit("toy__echo", {"text": attack}).id
        with_client.outcome(done)
        expect(page.locator(ROWS)).to_have_count(1)
        page.locator(ROWS).get_by_role("button").click()
        expect(page.locator("#details .value").first).to_contain_text("⟨U+202E⟩")
        expect(page.locator("#details")).to_contain_text("<script>document.title='owned'</script>")
        assert page.locator("#details img, #details script").count() == 0
        assert page.title() != "owned"
    finally:
        with_client.close()
        opened.close()


def draw(page: Page, url: str, opened: Opener) -> None:
    """Write the pictures of the documentation, if they are asked for."""
    if not DRAWS:
        return
    token = page.evaluate("sessionStorage.getItem('asyncfc-token')")
    looks: list[tuple[str, Any]] = [(scheme, size) for scheme in ("dark", "light") for size in (WIDE, NARROW)]
    pages = [
        opened(url, token=token, color_scheme=scheme, viewport=size, device_scale_factor=1.25) for scheme, size in looks
    ]
    page.wait_for_timeout(500)
    for other, (scheme, size) in zip(pages, looks, strict=True):
        other.screenshot(path=IMAGES / f"page-{scheme}{'-narrow' if size is NARROW else ''}.png")
    for other, (scheme, size) in zip(pages, looks, strict=True):
        if size is WIDE:
            other.locator("[data-view=table]").click()
            other.locator(ROWS, has_text="ci__build").get_by_role("button").click()
            other.locator("[data-view=timeline]").click()
            other.locator("#fit").click()
            other.wait_for_timeout(600)
            other.screenshot(path=IMAGES / f"page-details-{scheme}.png")
