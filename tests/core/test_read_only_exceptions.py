"""Read-only tools that are no mere reads, in the words in which servers say it."""

from typing import Any

import pytest

from asyncfc_mcp.core.read_only_exceptions import barrier_reason


@pytest.mark.parametrize(
    "name",
    [
        "browser_wait_for", "browser_wait", "wait_for", "waitForSelector", "WaitForSelector", "page.waitForLoadState",
        "wait", "wait-until", "wait_until_idle", "wait_and_get_result", "wait_for_search", "sleep", "sleep_ms",
        "time.sleep", "sleepSeconds", "delay", "pause", "await_job", "awaitCompletion", "poll_until_done",
        "block_until_ready", "waitforselector", "UI-Wait", "wait4", "wait_time",
    ],
)  # fmt: skip
def test_these_names_say_it(name: str):
    """In every usual spelling, wherever the verb stands."""
    assert barrier_reason({"name": name}) == "its name says that it waits"


@pytest.mark.parametrize(
    "name",
    [
        "waitlist_get", "get_waitlist", "get_wait_times", "getWaitTimes", "wait_times", "list_waiting", "waiter_list",
        "get_sleep_data", "sleep_data", "sleep.summary", "sleepScore", "sleep_get", "list_delays", "get_delay",
        "flight_delays", "show_pause_menu", "list_events_until", "search_sleep", "describe_wait_queue",
        "sleeper_league", "asleep", "pauses", "get_block", "watch_videos", "poll_results", "async_read", "kuwait_news",
        "", "_", "等待",
    ],
)  # fmt: skip
def test_these_names_do_not(name: str):
    """The words are nouns there, or parts of other words."""
    assert barrier_reason({"name": name}) is None


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({"title": "Wait for"}, "title"),
        ({"annotations": {"title": "Sleep"}}, "title"),
        ({"title": "Sleep data"}, None),
        ({"title": "How long to wait"}, None),
        ({"description": "Wait for text to appear or disappear or a specified time to pass"}, "description"),
        ({"description": "Waits until the page is idle."}, "description"),
        ({"description": "Pauses the agent for some seconds"}, "description"),
        ({"description": "Wait times of hospitals"}, None),
        ({"description": "Returns how long patients wait"}, None),
        ({"title": None, "description": ["x"], "annotations": "no"}, None),
    ],
)
def test_titles_and_descriptions_say_it_by_their_first_word(definition: dict[str, Any], field: str | None):
    """Prose may speak of waiting anywhere else."""
    assert barrier_reason({"name": "x", **definition}) == (field and f"its {field} says that it waits")


@pytest.mark.parametrize(
    "name",
    [
        "browser_start_tracing",
        "browser_stop_video",
        "select_page",
        "switchTab",
        "browser_pdf_save",
        "browser_highlight",
    ],
)
def test_these_names_say_that_something_changes(name: str):
    """All are annotated as read-only by servers in use, or might be; a call behind them sees the change."""
    assert barrier_reason({"name": name}) == "its name says that it changes something"


@pytest.mark.parametrize(
    "name",
    ["select_rows", "select", "get_start_date", "start_date", "stop_times", "list_saved", "find_stop", "show_page"],
)
def test_these_names_say_that_nothing_does(name: str):
    """Queries, and nouns."""
    assert barrier_reason({"name": name}) is None


@pytest.mark.parametrize(
    ("argument", "description", "saves"),
    [
        ("filename", "File name to save the screenshot to. Defaults to `page-{timestamp}.png`.", True),
        ("filename", "Save snapshot to a file instead of returning it in the response.", True),
        ("outputPath", "Where the report is written.", True),
        ("path", "The file to read.", False),
        ("query", "Write a query.", False),
        ("filename", None, False),
    ],
)
def test_a_tool_that_saves_a_file_says_so_at_the_argument(argument: str, description: str | None, saves: bool):
    """As Playwright's do, which are annotated as read-only since they do not change the page."""
    schema = {"type": "object", "properties": {argument: {"type": "string", "description": description}, "x": True}}
    reason = barrier_reason({"name": "browser_take_screenshot", "inputSchema": schema})
    assert reason == (f"it saves a file ({argument})" if saves else None)


@pytest.mark.parametrize("schema", [None, [], {}, {"properties": None}, {"properties": {"file": None}}])
def test_odd_schemas_say_nothing(schema: object):
    """Servers send everything."""
    assert barrier_reason({"name": 7, "title": None, "inputSchema": schema}) is None
