"""The page of a real daemon in a real Chromium: the key's way in, and other pages, which get nothing."""

from __future__ import annotations

import sys

import pytest
from playwright.sync_api import Page, expect

from tests.support.daemons import daemon
from tests.support.site import Site
from tests.support.stage import Stage
from tests.support.watched_page import Opener

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")

READ = """async (url) => {
  const found = {};
  for (const [name, options] of Object.entries({
    read: {}, opaque: {mode: "no-cors"},
    typed: {method: "POST", body: "{}", headers: {"content-type": "application/json"}},
    form: {method: "POST", body: "{}", mode: "no-cors"},
  })) {
    const path = name === "form" || name === "typed" ? "page/api/calls/f1/cancel" : "page/api/overview";
    found[name] = await fetch(url + path, options).then((r) => r.type + ":" + r.status, (e) => "failed");
  }
  return found;
}"""


def test_a_key_opens_the_page_once_and_other_pages_get_nothing(opened: Opener, stage: Stage) -> None:
    """The key leaves the address at once; another site can neither read, nor cancel, nor frame."""
    opened.expects_refusals = True
    with daemon(stage, {"toy": stage.toy("raw", asyncfc={"prefix": ""})}) as running, Site() as site:
        held = running.join("first").submit("sleep", {"seconds": 600, "_as": "nap"})
        told = running.command("page")
        page: Page = opened(f"{told['url']}#key={told['key']}")
        assert told["key"] not in page.url
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Table").click()
        row = page.locator(f'table.calls tbody tr[data-id="{held.id}"]')
        expect(row).to_contain_text("running")
        again = opened(f"{told['url']}#key={told['key']}", wait="#access[open]")
        assert told["key"] not in again.url
        assert opened.problems == []

        from starlette.responses import HTMLResponse

        framing = HTMLResponse(f"<iframe id=f src='{told['url']}'></iframe>")
        other = opened(site.on("/other", framing), wait=None)
        found = other.evaluate(READ, told["url"])
        assert found["read"] == found["typed"] == "failed"
        # Without CORS a request arrives, is refused, and its answer cannot be read.
        assert {found["opaque"], found["form"]} <= {"failed", "opaque:0"}
        frame = other.frame_locator("#f")
        expect(frame.locator("#main")).to_have_count(0)
        opened.problems.clear()  # what the other page was refused is on its console
        expect(row).to_contain_text("running")
        assert running.command("status")["unfinished_calls"] == 1
