"""Effect profiles over the real servers of services and browsers, without an account, a network or a browser: their
calls fail, but which are sent before the first is answered does not depend on that.

The servers of services run in a network namespace of their own, so that no request reaches a service.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.core.test_effect_profiles import real_tools
from tests.support.client import Json
from tests.support.peers import npm_bin, python_of, script_of
from tests.support.stage import Stage
from tests.support.turns import Turn, check

pytestmark = [pytest.mark.node, pytest.mark.peers, pytest.mark.profiles_long]

OFFLINE: Final = ["unshare", "--map-root-user", "--net"]
"""Command that runs another one without a network."""
ISSUE: Final = {"title": "t"}
PAGE: Final = "https://127.0.0.1:9/"
MEET: Final = {"owner": "Octo", "repo": "Hello"}
SAME: Final = {"owner": "octo", "repo": "hello"}
OTHER: Final = {"owner": "octo", "repo": "other"}
SERVERS: Final[dict[str, tuple[str, list[str], dict[str, str], list[tuple[str, Json, bool]]]]] = {
    "sequential-thinking": (
        "mcp-server-sequential-thinking",
        [],
        {},
        [
            (
                "sequentialthinking",
                {"thought": text, "nextThoughtNeeded": True, "thoughtNumber": n, "totalThoughts": 2},
                n == 1,
            )
            for n, text in ((1, "a"), (2, "b"))
        ],
    ),
    "github": (
        "mcp-server-github",
        [],
        {"GITHUB_PERSONAL_ACCESS_TOKEN": "x"},
        [
            ("get_issue", {**MEET, "issue_number": 1}, True),
            ("create_issue", {**OTHER, **ISSUE}, True),
            ("create_issue", {**SAME, **ISSUE}, False),
            ("list_issues", MEET, False),
            ("get_file_contents", {**OTHER, "path": "a"}, False),
            (
                "create_pull_request",
                {"owner": "up", "repo": "r", "title": "t", "head": "octo:b", "base": "main"},
                False,
            ),
            ("search_users", {"q": "x"}, False),
        ],
    ),
    "gitlab": (
        "mcp-server-gitlab",
        [],
        {"GITLAB_PERSONAL_ACCESS_TOKEN": "x", "GITLAB_API_URL": "http://127.0.0.1:9"},
        [
            ("get_file_contents", {"project_id": "g/p", "file_path": "a", "ref": "main"}, True),
            ("search_repositories", {"search": "x"}, True),
            ("create_issue", {"project_id": "7", **ISSUE}, False),
            ("get_file_contents", {"project_id": "g/p", "file_path": "a", "ref": "main"}, False),
        ],
    ),
    "slack": (
        "mcp-server-slack",
        [],
        {"SLACK_BOT_TOKEN": "x", "SLACK_TEAM_ID": "T"},
        [
            ("slack_list_channels", {}, True),
            ("slack_get_channel_history", {"channel_id": "C1"}, True),
            ("slack_post_message", {"channel_id": "#general", "text": "a"}, False),
            ("slack_get_users", {}, True),
            ("slack_reply_to_thread", {"channel_id": "C1", "thread_ts": "1.2", "text": "b"}, False),
        ],
    ),
    "postgres": (
        "mcp-server-postgres",
        ["postgresql://127.0.0.1:9/x"],
        {},
        [("query", {"sql": "SELECT 1"}, True), ("query", {"sql": "SELECT 2"}, True)],
    ),
    "puppeteer": (
        "mcp-server-puppeteer",
        [],
        {"PUPPETEER_EXECUTABLE_PATH": "/nowhere"},
        [
            ("puppeteer_navigate", {"url": PAGE}, True),
            ("puppeteer_click", {"selector": "a"}, False),
            ("puppeteer_screenshot", {"name": "s"}, False),
        ],
    ),
    "brave-search": (
        "mcp-server-brave-search",
        [],
        {"BRAVE_API_KEY": "x"},
        [("brave_web_search", {"query": "a"}, True), ("brave_local_search", {"query": "b"}, True)],
    ),
    "google-maps": (
        "mcp-server-google-maps",
        [],
        {"GOOGLE_MAPS_API_KEY": "x"},
        [("maps_geocode", {"address": "a"}, True), ("maps_directions", {"origin": "a", "destination": "b"}, True)],
    ),
    "tavily": (
        "tavily-mcp",
        [],
        {"TAVILY_API_KEY": "x"},
        [("tavily_search", {"query": "a"}, True), ("tavily_extract", {"urls": [PAGE]}, True)],
    ),
    "context7": (
        "context7-mcp",
        [],
        {},
        [
            ("resolve-library-id", {"query": "a", "libraryName": "b"}, True),
            ("query-docs", {"libraryId": "/a/b", "query": "c"}, True),
        ],
    ),
    "notion": (
        "notion-mcp-server",
        [],
        {"NOTION_TOKEN": "ntn_x"},
        [
            ("API-post-search", {"query": "a"}, True),
            ("API-retrieve-a-page", {"page_id": "1" * 32}, True),
            ("API-delete-a-block", {"block_id": "2" * 32}, False),
            ("API-get-block-children", {"block_id": "1" * 32}, False),
        ],
    ),
    "airtable": (
        "airtable-mcp-server",
        [],
        {"AIRTABLE_API_KEY": "x"},
        [
            ("list_records", {"baseId": "app1", "tableId": "t"}, True),
            ("create_record", {"baseId": "app2", "tableId": "t", "fields": {}}, True),
            ("create_record", {"baseId": "app1", "tableId": "u", "fields": {}}, False),
            ("list_tables", {"baseId": "app2"}, False),
            ("list_tables", {"baseId": "app3"}, True),
        ],
    ),
    "linear": (
        "linear-mcp-server",
        [],
        {"LINEAR_API_KEY": "x"},
        [
            ("linear_search_issues", {"query": "a"}, True),
            ("linear_get_user_issues", {}, True),
            ("linear_create_issue", {"title": "t", "teamId": "T"}, False),
            ("linear_search_issues", {"query": "t"}, False),
        ],
    ),
    "playwright": (
        "playwright-mcp",
        ["--headless", "--executable-path", "/nowhere"],
        {},
        [
            ("browser_navigate", {"url": PAGE}, True),
            ("browser_wait_for", {"time": 0}, False),
            ("browser_snapshot", {}, False),
            ("browser_take_screenshot", {"scale": "css", "filename": "shots/a.png"}, False),
        ],
    ),
    "chrome-devtools": (
        "chrome-devtools-mcp",
        ["--headless", "--executablePath", "/nowhere"],
        {},
        [
            ("list_pages", {}, True),
            ("list_pages", {}, False),
            ("new_page", {"url": PAGE}, False),
            ("take_screenshot", {"pageId": 1, "filePath": "FOLDER/a.png"}, False),
        ],
    ),
}


def blurred(text: str) -> str:
    """A failure without what differs from one run to the next."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "N", text)


@pytest.mark.parametrize("profile", SERVERS)
def test_services(stage: Stage, npm_profiles: Path, profile: str) -> None:
    """What conflicts is in order, all else is sent before the first answer; the list is the fixture's."""
    if not shutil.which(OFFLINE[0]) or subprocess.run([*OFFLINE, "true"], check=False).returncode:
        pytest.skip("this system lets no process give up the network")
    command, args, env, calls = SERVERS[profile]
    run = [*OFFLINE, npm_bin(npm_profiles, command), *args]
    listed = stage.wire(run, env=env).tools()
    assert {tool: sorted(each["inputSchema"].get("properties", {})) for tool, each in listed.items()}.items() <= {
        tool: real["arguments"] for tool, real in real_tools(profile).items()
    }.items() or profile in ("brave-search", "github")  # one profile for two servers
    check(
        stage,
        Turn(lambda folder: {"s": (run, env)}, [("s", *call) for call in calls], mask=blurred),
    )


def test_a_browser_and_the_files_that_it_saves(stage: Stage, npm_profiles: Path) -> None:
    """A screenshot and a read of it, by a name relative to the working directory; other files overlap."""
    check(
        stage,
        Turn(
            lambda folder: {
                "browser": (
                    [npm_bin(npm_profiles, "playwright-mcp"), "--headless", "--executable-path", "/nowhere"],
                    {},
                ),
                "files": ([npm_bin(npm_profiles, "mcp-server-filesystem"), str(folder)], {}),
            },
            [
                ("browser", "browser_take_screenshot", {"scale": "css", "filename": "shots/a.png"}, True),
                ("files", "read_media_file", {"path": "FOLDER/shots/a.png"}, False),
                ("files", "write_file", {"path": "FOLDER/b.txt", "content": "b"}, True),
                ("files", "list_directory", {"path": "FOLDER"}, False),
            ],
            mask=lambda text: "",
        ),
    )


def test_documents(stage: Stage, npm_profiles: Path, markitdown: Path, excel: Path) -> None:
    """By file: a workbook, its text, and the file server."""
    check(
        stage,
        Turn(
            lambda folder: {
                "files": ([npm_bin(npm_profiles, "mcp-server-filesystem"), str(folder)], {}),
                "markitdown": ([script_of(markitdown, "markitdown-mcp")], {}),
                "excel": ([script_of(excel, "excel-mcp-server"), "stdio"], {"EXCEL_FILES_PATH": str(folder)}),
            },
            [
                ("files", "write_file", {"path": "FOLDER/a.md", "content": "# a\n"}, True),
                ("markitdown", "convert_to_markdown", {"uri": "file://FOLDER/a%2Emd"}, False),
                ("excel", "create_workbook", {"path": "w.xlsx"}, True),
                (
                    "excel",
                    "write_range",
                    {"path": "FOLDER/w.xlsx", "sheet": "Sheet1", "at": "A1", "rows": [[1]]},
                    False,
                ),
                ("excel", "create_workbook", {"path": "v.xlsx"}, True),
                ("excel", "read_range", {"path": "w.xlsx", "sheet": "Sheet1"}, False),
                ("files", "move_file", {"source": "FOLDER/w.xlsx", "destination": "FOLDER/u.xlsx"}, False),
                ("excel", "list_workbooks", {}, False),
            ],
            mask=blurred,
        ),
    )


def test_fetch(stage: Stage, fetch: Path) -> None:
    """It only reads."""
    page = {"url": "http://127.0.0.1:9/", "raw": True}
    check(
        stage,
        Turn(
            lambda folder: {"fetch": ([python_of(fetch), "-m", "mcp_server_fetch"], {})},
            [("fetch", "fetch", page, True), ("fetch", "fetch", page, True)],
        ),
    )
