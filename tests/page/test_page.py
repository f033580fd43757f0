"""The page in a real Chromium, over calls that are made up: what a bridge would need hours or an attacker for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.figures import duration, size
from tests.support.page_server import FIRST, PageServer, made_up_calls
from tests.support.watched_page import NARROW, Opener

ROWS = "table.calls tbody tr"


@pytest.fixture
def server(opened: Opener) -> Iterator[PageServer]:
    """Sixty calls of four conversations."""
    with opened.over(made_up_calls(60)) as server:
        yield server


def call(number: int, **more: Any) -> dict[str, Any]:
    """One call that runs."""
    now = time.time()
    return {
        "id": f"f{number}",
        "tool": "web__fetch",
        "server": "web",
        "state": "running",
        "host": "claude-code",
        "conversation": "c-1",
        "submitted_at": now - 2,
        "started_at": now - 1,
    } | more


def row(page: Page, future_id: str) -> Any:
    """The row of a call in the table."""
    return page.locator(f'{ROWS}[data-id="{future_id}"]')


def canvas_of(page: Page, name: str = "lanes") -> str:
    """The pixels of a canvas, to compare."""
    return page.evaluate("name => document.getElementById(name).toDataURL()", name)


# --- calls ---------------------------------------------------------------------------------------------------------


def test_changes_are_shown_as_they_happen(opened: Opener, server: PageServer) -> None:
    """A call appears, runs and ends on the page without a reload; the summary for screen readers follows."""
    page = opened(server.url + "#table")
    expect(page.locator(ROWS)).to_have_count(60)
    server.put(call(900, name="docs"))
    expect(row(page, "f900")).to_contain_text("running")
    expect(page.locator(ROWS)).to_have_count(61)
    now = time.time()
    server.put(call(900, name="docs", state="failed", ended_at=now, failure="exit status 7"))
    expect(row(page, "f900")).to_contain_text("exit status 7")
    expect(page.locator("#live")).to_contain_text("completed")


def test_details_have_values_reasons_and_links(opened: Opener, server: PageServer) -> None:
    """The panel shows arguments and result as JSON, and each reason for waiting leads to the other call."""
    server.put(call(901), call(902, state="waiting", started_at=None, waits=[{"kind": "value", "on": "f901"}]))
    server.values["f902"] = {"arguments": {"page": {"depth": [1, None, True]}}}
    server.values["f901"] = {"arguments": {}, "result": {"content": [{"type": "text", "text": '{"n": 7}'}]}}
    page = opened(server.url + "#table")
    row(page, "f902").get_by_role("button").click()
    details = page.get_by_role("complementary", name="Details of the call")
    expect(details.locator("pre")).to_have_text(json.dumps({"page": {"depth": [1, None, True]}}, indent=2))
    details.get_by_role("button", name=re.compile("f901")).click()
    expect(details.locator("h2")).to_have_text("web__fetch")
    expect(details).to_contain_text('"n": 7')
    expect(details).to_contain_text("1 call waited for it")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()


def test_large_values_are_folded_and_private_ones_say_why(opened: Opener, server: PageServer) -> None:
    """A large result costs nothing until it is opened; hidden values come with the reason."""
    server.put(call(903, state="completed", ended_at=time.time()), call(904, private=True))
    server.values["f903"] = {"arguments": {"a": 1}, "result": {"content": [{"type": "text", "text": "x" * 300_000}]}}
    server.values["f904"] = {"hidden": 'the tool says `"journal": false`'}
    page = opened(server.url + "#table")
    row(page, "f903").get_by_role("button").click()
    large = page.locator(".value", has_text="293 KB")
    expect(large.locator("pre")).to_be_hidden()
    large.locator("summary").click()
    expect(large.locator("pre")).to_have_text("x" * 300_000)
    row(page, "f904").get_by_role("button").click()
    expect(page.locator("#details")).to_contain_text('the tool says `"journal": false`')


def test_a_call_is_cancelled_after_a_question(opened: Opener, server: PageServer) -> None:
    """Cancelling asks first, and says which calls would fail; the answer is shown at once."""
    server.put(call(905), call(906, state="waiting", started_at=None, waits=[{"kind": "value", "on": "f905"}]))
    page = opened(server.url + "#table")
    row(page, "f905").get_by_role("button").click()
    page.get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 call that needs its result will fail")
    dialog.get_by_role("button", name="Keep it").click()
    assert server.cancelled == []
    page.get_by_role("button", name="Cancel…").click()
    dialog.get_by_role("button", name="Cancel the call").click()
    expect(row(page, "f905")).to_contain_text("cancelled")
    expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)
    assert server.cancelled == ["f905"]


# --- filter and history --------------------------------------------------------------------------------------------


def test_filters_narrow_what_is_shown(opened: Opener, server: PageServer) -> None:
    """Server, tool, state and text each exclude calls, together too; clearing shows all again."""
    page = opened(server.url + "#table")
    wanted = [each for each in server.calls.values() if each["server"] == "ci"]
    page.get_by_label("Server", exact=True).select_option("ci")
    expect(page.locator(ROWS)).to_have_count(len(wanted))
    failed = [each for each in wanted if each["state"] == "failed"]
    page.get_by_role("button", name=re.compile("^failed")).click()
    expect(page.locator(ROWS)).to_have_count(len(failed))
    page.get_by_role("button", name="Clear filter").click()
    page.keyboard.press("Escape")
    page.locator("body").press("/")
    page.keyboard.type("no such call")
    expect(page.locator(ROWS)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator(ROWS)).to_have_count(60)


def test_the_filter_searches_the_history(opened: Opener) -> None:
    """Calls that the stream did not bring, and words of arguments, are found by the bridge."""
    calls = made_up_calls(2_300, alive=False)
    with opened.over(calls) as server:
        server.values["f7"] = {"arguments": {"query": "needle in the haystack"}}
        page = opened(server.url + "#table")
        expect(page.locator("table.calls caption")).to_contain_text("2,000 calls")
        page.get_by_role("searchbox").fill("needle")
        expect(page.locator(ROWS)).to_have_count(1)
        expect(row(page, "f7")).to_be_visible()


def test_older_calls_are_loaded_page_by_page(opened: Opener) -> None:
    """The stream begins with the newest calls; older ones come on request, until there are none."""
    with opened.over(made_up_calls(2_700, alive=False)) as server:
        page = opened(server.url + "#table")
        caption = page.locator("table.calls caption")
        older = page.locator("#older")
        for number in ("2,000", "2,500"):
            expect(caption).to_contain_text(f"{number} calls")
            older.click()
        expect(caption).to_contain_text("2,700 calls")
        expect(older).to_be_hidden()
        assert [each for each in server.asked if each.startswith("calls?")] == [
            "calls?before=f701&limit=500",
            "calls?before=f201&limit=500",
        ]


def test_calls_are_saved_as_a_file(opened: Opener, server: PageServer) -> None:
    """Exports carry the filter, and become a download."""
    page = opened(server.url + "#table")
    page.get_by_role("button", name=re.compile("^completed")).click()
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON lines").click()
    lines = download.value.path().read_text().splitlines()
    assert {json.loads(line)["state"] for line in lines} == {"completed"}


# --- what servers and models write ---------------------------------------------------------------------------------

ATTACKS = (
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "</script><svg/onload=alert(1)>",
    "javascript:alert(1)//'\"><iframe srcdoc='<script>alert(1)</script>'>",
    "\u202egnp.exe\u2066 \u0007\u001b[31m",
    "A" * 5_000,
)


def test_nothing_that_calls_contain_becomes_markup(opened: Opener) -> None:
    """Names, arguments, results, stderr, failures, labels and paths are text: nothing runs, nothing breaks out."""
    calls = []
    for number, attack in enumerate(ATTACKS, 1):
        calls.append(
            call(
                number,
                tool=attack,
                server=attack,
                name=attack,
                host=attack,
                conversation=attack,
                state="failed" if number % 2 else "input_required",
                ended_at=time.time() if number % 2 else None,
                failure=attack,
                question=attack,
                waits=[{"kind": "state", "on": "f1", "path": attack}, {"kind": "<b>", "on": attack}],
                waiting_for={"ids": [attack], "why": attack},
                progress={"done": 1, "total": 2, "message": attack},
            )
        )
    with opened.over(calls) as server:
        server.servers = [
            {
                "name": each,
                "status": each,
                "condition": each,
                "tools": 1,
                "restarts": 0,
                "stderr": [each],
                "sign_in": {"state": each, "command": each},
            }
            for each in ATTACKS
        ]
        for each, attack in zip(calls, ATTACKS, strict=True):
            content = [{"type": "text", "text": attack}, {"type": attack, "data": attack}]
            server.values[each["id"]] = {"arguments": {attack: attack}, "result": {"content": content}}
        page = opened(server.url + "#table")
        expect(page.locator(ROWS)).to_have_count(len(ATTACKS))
        for each in calls:
            row(page, each["id"]).get_by_role("button").click()
            expect(page.locator("#details .value")).to_have_count(3)
        for view in ("timeline", "servers", "settings"):
            page.locator(f"[data-view={view}]").click()
            page.wait_for_timeout(150)
        assert page.title() != "owned"
        assert page.locator("img, iframe, main script, main svg:not(.arrows svg)").count() == 0
        shown = page.evaluate("document.body.textContent")
        assert "\u202e" not in shown
        assert "⟨U+202E⟩gnp.exe" in shown
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_address_keeps_no_key_and_the_storage_no_more_than_the_token(opened: Opener) -> None:
    """The one-time key is exchanged and removed at once; it is of no use a second time."""
    with opened.over(made_up_calls(5), token="secret-of-the-bridge") as server:
        page = opened(f"{server.url}#key=one-time-key")
        assert page.url == server.url
        assert page.evaluate("history.length") <= 2
        assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
            ["page-secret-of-the-bridge"],
            0,
            "",
        ]
        opened.expects_refusals = True
        again = opened(f"{server.url}#key=one-time-key", wait="#access[open]")
        expect(again.get_by_role("dialog")).to_contain_text("a key is valid once")


# --- connection ----------------------------------------------------------------------------------------------------


def test_a_refused_token_can_be_entered(opened: Opener) -> None:
    """Without a valid token the page asks for one, and says so again where it is wrong. The bridge's token is good for
    its tools, too: the page keeps only its own, for which it exchanges that."""
    opened.expects_refusals = True
    with opened.over(made_up_calls(5), token="right") as server:
        page = opened(server.url + "#table", wait="#access[open]")
        for word in ("wrong", "right"):
            page.get_by_label("Token of the bridge").fill(word)
            page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator(ROWS)).to_have_count(5)
        assert page.evaluate("Object.values(sessionStorage)") == ["page-right"]
        page.reload()
        expect(page.locator("#connection")).to_have_text("Live")


def test_a_lost_connection_is_said_and_made_again(opened: Opener, server: PageServer) -> None:
    """The page keeps what it has and says that it is old; where the bridge is back, its calls take their place."""
    opened.expects_refusals = True
    page = opened(server.url + "#table")
    server.interrupt(down=True)
    expect(page.get_by_role("alert")).to_contain_text("The connection to the bridge is lost (the bridge is ending)")
    expect(page.locator(ROWS)).to_have_count(60)
    server.calls = {"f1": call(1, tool="web__after")}
    server.down = False
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator(ROWS)).to_have_count(1)
    expect(row(page, "f1")).to_contain_text("web__after")


def test_an_empty_page_says_how_to_get_calls(opened: Opener) -> None:
    """The first thing that somebody sees is a command to paste."""
    with opened.over() as server:
        page = opened(server.url)
        expect(page.locator("#empty")).to_contain_text(f"claude mcp add --transport http asyncfc {server.url}mcp")
        server.put(call(1))
        expect(page.locator("#empty")).to_be_hidden()


# --- looks, keys, screen readers -----------------------------------------------------------------------------------


def test_the_keyboard_is_enough(opened: Opener, server: PageServer) -> None:
    """Select, open, follow, zoom, filter and change the view, all without a pointer."""
    page = opened(server.url)
    page.locator("body").press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    lanes = page.locator("#lanes")
    lanes.focus()
    page.keyboard.press("End")
    expect(page.locator("#live")).to_contain_text("f60")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#live")).to_contain_text("f59")
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_contain_text("f59")
    expect(page.locator("#details")).to_be_focused()
    page.keyboard.press("Escape")
    expect(lanes).to_be_focused()
    pressed = page.locator("#follow")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("n")
    expect(pressed).to_have_attribute("aria-pressed", "false")
    span = page.locator("#span").inner_text()
    page.keyboard.press("+")
    expect(page.locator("#span")).not_to_have_text(span)
    page.keyboard.press("2")
    expect(page.locator("#view-table")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator(ROWS).first.get_by_role("button").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(ROWS).nth(1).get_by_role("button")).to_be_focused()


def test_the_time_line_is_moved_with_the_pointer(opened: Opener, server: PageServer) -> None:
    """A bar shows what it is under the pointer and opens on a click; dragging and the wheel move and zoom."""
    server.calls = {"f1": call(1, name="home", submitted_at=time.time() - 15, started_at=time.time() - 14)}
    page = opened(server.url)
    lanes = page.locator("#lanes")
    page.wait_for_function("document.querySelector('#span').textContent !== ''")
    box = lanes.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.6, box["y"] + 42
    page.mouse.move(x, y)
    expect(page.locator("#tip")).to_contain_text("web__fetch")
    page.mouse.click(x, y)
    expect(page.locator("#details h2")).to_have_text("web__fetch")
    page.keyboard.press("Escape")
    span = page.locator("#span").inner_text()
    page.mouse.wheel(0, -300)
    expect(page.locator("#span")).not_to_have_text(span)
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "true")
    page.mouse.down()
    page.mouse.move(x - 200, y, steps=4)
    page.mouse.up()
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "false")


@pytest.mark.node
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_all_views_are_accessible(opened: Opener, server: PageServer, axe: str, scheme: Any) -> None:
    """Names, roles, headers and contrast (AA) by axe-core, in both themes, with details open."""
    server.put(
        call(907, state="failed", ended_at=time.time(), failure="exit status 1", waits=[{"kind": "after", "on": "f1"}])
    )
    server.values["f907"] = {
        "arguments": {"a": [1, None, "text"]},
        "result": {"content": [{"type": "text", "text": "no"}]},
    }
    server.servers = [
        {"name": "web", "status": "ready", "tools": 2, "restarts": 0, "stderr": ["up"], "sign_in": None},
        {
            "name": "git",
            "status": "needs sign-in",
            "tools": 2,
            "restarts": 1,
            "stderr": [],
            "sign_in": {"state": "needed", "command": "asyncfc-mcp login git"},
        },
    ]
    page = opened(server.url, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(axe)
    for view in ("timeline", "table", "servers", "settings"):
        page.locator(f"[data-view={view}]").click()
        if view == "table":
            row(page, "f907").get_by_role("button").click()
            page.wait_for_selector("#details .value")
        rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        found = page.evaluate("rules => axe.run(document, {runOnly: rules})", rules)
        problems = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]]
        assert problems == [], view


def test_the_table_reads_as_one(opened: Opener, server: PageServer) -> None:
    """The accessibility tree has a table with a caption, headers of columns, and each call as the header of its row."""
    page = opened(server.url + "#table")
    table = page.get_by_role("table", name=re.compile("60 calls"))
    expect(table).to_be_visible()
    headers = [each.inner_text() for each in table.get_by_role("columnheader").all()]
    assert headers == ["State", "Call", "Tool", "Server", "Submitted", "Waited", "Ran", "Waited for, outcome"]
    newest = server.calls["f60"]
    cells = table.get_by_role("row").nth(1)
    expect(cells.get_by_role("rowheader")).to_have_text(newest.get("name", "f60"))
    expect(cells.get_by_role("cell").nth(1)).to_have_text(newest["tool"])


def test_a_click_anywhere_in_a_row_opens_its_call(opened: Opener, server: PageServer) -> None:
    """Also on a narrow window, where the table scrolls and names are whole."""
    page = opened(server.url + "#table", viewport=NARROW)
    row(page, "f60").get_by_role("cell").nth(1).click()
    expect(page.locator("#details")).to_contain_text(server.calls["f60"]["tool"])


def test_the_canvas_follows_the_theme(opened: Opener, server: PageServer) -> None:
    """Dark and light differ in the style sheet and in what is drawn, also when the system changes while it is open."""
    page = opened(server.url, color_scheme="dark", reduced_motion="reduce")
    page.locator("body").press("n")
    page.wait_for_timeout(200)
    dark = (canvas_of(page), page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.wait_for_timeout(200)
    light = (canvas_of(page), page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert dark[0] != light[0]
    assert dark[1] != light[1]


DRAWN = """
new Promise((done) => {
  let n = 0;
  const draw = CanvasRenderingContext2D.prototype.clearRect;
  CanvasRenderingContext2D.prototype.clearRect = function (...all) { n += 1; return draw.apply(this, all); };
  setTimeout(() => done(n), 900);
})
"""


def test_reduced_motion_keeps_the_canvas_still(opened: Opener, server: PageServer) -> None:
    """Nothing is drawn from frame to frame where the system asks for less motion."""
    still = opened(server.url, reduced_motion="reduce")
    still.wait_for_timeout(600)
    assert still.evaluate(DRAWN) <= 30


@pytest.mark.parametrize("view", ["timeline", "table", "servers", "settings"])
def test_a_narrow_window_needs_no_sideways_scrolling(opened: Opener, server: PageServer, view: str) -> None:
    """Each view fits 360 pixels; only the table scrolls, within itself."""
    page = opened(f"{server.url}#{view}", viewport=NARROW, has_touch=True)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if view == "table":
        page.locator(ROWS).first.get_by_role("button").click()
        page.wait_for_selector("#details .value, #details .muted")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


# --- many calls ----------------------------------------------------------------------------------------------------

LOAD_ALL = """
async () => {
  const older = document.getElementById("older");
  while (!older.hidden) {
    older.click();
    while (older.disabled) await new Promise((done) => setTimeout(done, 10));
  }
}
"""
FRAMES = """
async () => {
  const canvas = document.getElementById("lanes");
  const box = canvas.getBoundingClientRect();
  const wheel = (dx, dy) => canvas.dispatchEvent(new WheelEvent("wheel", {
    deltaX: dx, deltaY: dy, ctrlKey: dy !== 0, shiftKey: dx !== 0, clientX: box.x + box.width / 2, clientY: box.y + 80,
    cancelable: true, bubbles: true }));
  document.getElementById("fit").click();
  let work = 0;
  const times = [];
  const plain = window.requestAnimationFrame;
  window.requestAnimationFrame = (run) => plain((at) => {
    const before = performance.now();
    run(at);
    work += performance.now() - before;
  });
  for (let n = 0; n < 60; n += 1) {
    work = 0;
    if (n < 20) wheel(0, -60); else if (n < 40) wheel(n % 2 ? 90 : -70, 0); else wheel(0, 60);
    await new Promise((done) => plain(() => plain(done)));
    times.push(work);
  }
  times.sort((a, b) => a - b);
  window.requestAnimationFrame = plain;
  return { median: times[30], worst: times[57] };
}
"""


def test_ten_thousand_calls_are_moved_as_easily_as_a_hundred(opened: Opener, record_property: Any) -> None:
    """The work of a frame while zooming and panning depends on what is visible, not on the number of calls."""
    found = {}
    for n in (100, 10_000):
        with opened.over(made_up_calls(n, alive=False)) as server:
            page = opened(server.url)
            if n > FIRST:
                page.wait_for_selector("#older")
                page.evaluate(LOAD_ALL)
            page.locator("[data-view=table]").click()
            expect(page.locator("table.calls caption")).to_contain_text(f"{n:,} calls")
            page.locator("[data-view=timeline]").click()
            found[n] = page.evaluate(FRAMES)
            page.close()
    record_property("frames", json.dumps(found))
    print(f"work of a frame, ms: {found}")
    # A frame of 10,000 calls that are all visible at once draws some thousands of bars; 16 ms is a frame of the screen.
    assert found[10_000]["median"] <= max(12 * found[100]["median"], 40)


def test_figures_and_words_are_those_of_the_commands(opened: Opener, server: PageServer) -> None:
    """Time spans, sizes and states are written in one form on the page and in a terminal."""
    page = opened(server.url)
    spans = [
        0,
        0.0004,
        0.003,
        0.0994,
        0.2,
        0.96,
        9.94,
        12,
        59.4,
        59.6,
        60,
        200,
        3599.4,
        3600,
        7500,
        86_399,
        90_000,
        1e6,
    ]
    sizes = [0, 305, 1023, 1024, 300_000, 1 << 20, 5_000_000, 3 << 30]
    written = page.evaluate(
        """async ([spans, sizes]) => {
            const text = await import("/page/text.js");
            return [spans.map(text.duration), sizes.map(text.size), text.STATE_WORDS];
        }""",
        [spans, sizes],
    )
    states = {state: words.name_of_state({"state": state}) for state in words.STATES}
    assert written == [[duration(each) for each in spans], [size(each) for each in sizes], states]
