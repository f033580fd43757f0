"""One real task three times: one call at a time, calls of a turn together, and through the bridge.

    python examples/before_after/before_after.py [--think SECONDS] [--write FILE] [--trace FILE]

The task: clone a repository, test it, lint it, search it, read its history and a page about it, and write a report. The
servers are real: the filesystem server (npx), the git and fetch servers (uvx), and `project_server.py`, which runs git,
pytest and ruff. The repository and the page are made here, and the page is served on loopback.

The model is a script that thinks for a fixed time in each turn. Prints the time line of each run and the ratios of
their times; `--write` writes the time lines as JSON lines: run, call, made, started and ended, in seconds. `--trace`
writes what the bridge itself has recorded of its run, as a trace for chrome://tracing or ui.perfetto.dev.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, Implementation

HERE = Path(__file__).resolve().parent
WIDTH = 60
REPORT = """{passed} tests passed, {failed} failed
{problems} problems of style
files: {found}
history: {log}
guide: {guide}
"""

Turn = list[tuple[str, str, dict[str, Any]]]
"""Name, server__tool, arguments."""
Script = Generator[Turn, dict[str, CallToolResult], None]
"""Yields turns, and is sent the results so far."""


def servers(work: Path) -> dict[str, dict[str, Any]]:
    """Entries as in any host's configuration."""
    return {
        "project": {"command": sys.executable, "args": [str(HERE / "project_server.py")]},
        "git": {"command": "uvx", "args": ["mcp-server-git"]},
        "files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", str(work)]},
        "web": {"command": "uvx", "args": ["mcp-server-fetch", "--allow-private-ips", "--ignore-robots-txt"]},
    }


# -- the agent


def checks(work: Path, page: str) -> Turn:
    """The calls that need the clone, and nothing of each other."""
    folder = str(work / "project")
    return [
        ("tests", "project__run_tests", {"folder": folder}),
        ("lint", "project__lint", {"folder": folder}),
        ("found", "files__search_files", {"path": folder, "pattern": "**/test_*.py"}),
        ("log", "git__git_log", {"repo_path": folder, "max_count": 1}),
        ("guide", "web__fetch", {"url": page, "max_length": 300}),
    ]


def clone(work: Path, origin: str) -> Turn:
    return [("clone", "project__clone", {"url": origin, "folder": str(work / "project")})]


def report(work: Path, **parts: str) -> Turn:
    text = REPORT.format(**parts)
    return [("report", "files__write_file", {"path": str(work / "report.txt"), "content": text})]


def without_bridge(work: Path, origin: str, page: str) -> Script:
    """Yield the turns of a model that must see results before it can use them, and writes the report out itself."""
    yield clone(work, origin)
    seen = yield checks(work, page)
    numbers = {**(seen["tests"].structured_content or {}), **(seen["lint"].structured_content or {})}
    texts = {name: seen[name].content[0].text for name in ("found", "log", "guide")}
    yield report(work, **{name: str(number) for name, number in numbers.items()}, **texts)


def with_bridge(work: Path, origin: str, page: str) -> Turn:
    """Return the same calls as one turn: the checks follow the clone, and the report refers to their results."""
    cloning = [(name, tool, {**arguments, "_as": name}) for name, tool, arguments in clone(work, origin)]
    after = [
        (name, tool, {**arguments, "_as": name} | ({} if name == "guide" else {"_after": "clone"}))
        for name, tool, arguments in checks(work, page)
    ]
    [(name, tool, arguments)] = report(
        work,
        passed="${f:tests.passed}",
        failed="${f:tests.failed}",
        problems="${f:lint.problems}",
        found="${f:found.content}",
        log="${f:log}",
        guide="${f:guide}",
    )
    return [*cloning, *after, (name, tool, {**arguments, "_as": name, "_wait": "this"})]


# -- the runs


@dataclass
class Bar:
    """One call, in seconds since the beginning of its run."""

    run: str
    call: str
    made: float
    started: float
    ended: float


@dataclass
class Run:
    """One run: when the model thought, and when calls ran."""

    how: str
    seconds: float
    turns: list[float]
    bars: list[Bar]


def parameters(entry: dict[str, Any]) -> StdioServerParameters:
    return StdioServerParameters(command=entry["command"], args=entry["args"], env=dict(os.environ))


@asynccontextmanager
async def connected(work: Path) -> AsyncIterator[dict[str, Client]]:
    """A client for each server, as a host has them."""
    async with AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, entry in servers(work).items():
            clients[name] = await stack.enter_async_context(Client(parameters(entry)))
            await clients[name].list_tools()
        yield clients


async def directly(how: str, clients: dict[str, Client], script: Script, think_s: float, *, together: bool) -> Run:
    bars: list[Bar] = []
    turns: list[float] = []
    seen: dict[str, CallToolResult] = {}
    began = time.monotonic()

    async def call(name: str, tool: str, arguments: dict[str, Any]) -> None:
        started = time.monotonic() - began
        server, _, own = tool.partition("__")
        seen[name] = await clients[server].call_tool(own, arguments)
        assert not seen[name].is_error, seen[name].content
        bars.append(Bar(how, tool, started, started, time.monotonic() - began))

    turn: Turn | None = next(script)
    while turn is not None:
        turns.append(time.monotonic() - began)
        await anyio.sleep(think_s)
        if together:
            async with anyio.create_task_group() as tg:
                for each in turn:
                    tg.start_soon(call, *each)
        else:
            for each in turn:
                await call(*each)
        try:
            turn = script.send(seen)
        except StopIteration:
            turn = None
    turns.append(time.monotonic() - began)
    await anyio.sleep(think_s)  # the answer
    return Run(how, time.monotonic() - began, turns, bars)


@asynccontextmanager
async def bridge_over(work: Path) -> AsyncIterator[str]:
    """The address of a bridge over HTTP, whose page exports the calls."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = work.parent / "mcp.json"
    await anyio.Path(config).write_text(json.dumps({"mcpServers": servers(work), "asyncfc": {"journal": "off"}}))
    serve = ["-m", "asyncfc_mcp", "serve", "--config", str(config), "--transport", "http", "--port", str(port)]
    async with await anyio.open_process(
        [sys.executable, *serve], stdin=subprocess.DEVNULL, stdout=None, stderr=None
    ) as process:
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient() as http:
            while True:
                with suppress(httpx2.TransportError):
                    if (await http.get(f"{base}/healthz")).is_success:
                        break
                await anyio.sleep(0.05)
        yield base
        process.terminate()


async def bridged(how: str, base: str, turn: Turn, page: str, think_s: float) -> tuple[Run, bytes]:
    """Return the run, and the bridge's own trace of it."""
    async with Client(f"{base}/mcp", client_info=Implementation(name="before-after", version="1")) as client:
        await client.list_tools()
        while (await client.call_tool("list_futures", {})).structured_content.get("servers"):  # noqa: ASYNC110
            await anyio.sleep(0.05)  # the clock starts when all servers are up, as in the other runs
        await client.call_tool("web__fetch", {"url": page, "_as": "warm"})
        while "asyncfc/futures" in ((await client.call_tool("await_future", {"future_id": "warm"})).meta or {}):
            pass
        began, began_at = time.monotonic(), time.time()
        await anyio.sleep(think_s)
        for _, tool, arguments in turn:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer.content
        answered = time.monotonic() - began
        await anyio.sleep(think_s)  # the answer
        seconds = time.monotonic() - began
    export = f"{base}/page/api/export"
    async with httpx2.AsyncClient() as http:
        lines = (await http.get(export, params={"form": "jsonl", "since": began_at})).raise_for_status().text
        trace = (await http.get(export, params={"form": "trace", "since": began_at})).raise_for_status().content
    bars = [
        Bar(how, entry["tool"], *(entry[f"{event}_at"] - began_at for event in ("submitted", "started", "ended")))
        for entry in map(json.loads, lines.splitlines())
        if entry["submitted_at"] >= began_at
    ]
    return Run(how, seconds, [0.0, answered], sorted(bars, key=lambda bar: bar.made)), trace


async def measure(place: Path, page: str, think_s: float) -> tuple[list[Run], list[str], bytes]:
    """Return the three runs, the report that each has written, and the bridge's own trace."""
    work = place / "work"
    work.mkdir()
    task = (work, str(place / "origin"), page)
    runs: list[Run] = []
    reports: list[str] = []

    def ended(run: Run) -> None:
        runs.append(run)
        reports.append((work / "report.txt").read_text())
        shutil.rmtree(work / "project")
        (work / "report.txt").unlink()

    async with connected(work) as clients:
        # Not counted: uvx and npx install what they run, and servers import what they use.
        ended(await directly("Warm-up", clients, without_bridge(*task), 0, together=True))
        ended(await directly("One call at a time", clients, without_bridge(*task), think_s, together=False))
        ended(await directly("Calls of a turn together", clients, without_bridge(*task), think_s, together=True))
    async with bridge_over(work) as base:
        run, trace = await bridged("Through the bridge", base, with_bridge(*task), page, think_s)
        ended(run)
    return runs[1:], reports, trace


# -- the material


def make_project(folder: Path) -> None:
    """A small repository with tests that take a moment, and a fault of style."""
    (folder / "tests").mkdir(parents=True)
    (folder / "words.py").write_text(
        "import os\n\n\ndef count(text):\n    found = {}\n    for word in text.lower().split():\n"
        "        found[word] = found.get(word, 0) + 1\n    return found\n"
    )
    (folder / "tests" / "test_words.py").write_text(
        "import pytest\n\nfrom words import count\n\nTEXT = 'the quick brown fox ' * 50_000\n\n\n"
        "@pytest.mark.parametrize('times', range(1, 41))\ndef test_count(times):\n"
        "    assert count(TEXT)['fox'] == 50_000\n    assert count('a b ' * times)['b'] == times\n"
    )
    (folder / "conftest.py").write_text("")
    me = ["-c", "user.name=example", "-c", "user.email=example@example.com"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*me, "commit", "-q", "-m", "Count words"]):
        environment = {**os.environ, "GIT_AUTHOR_DATE": "2026-01-01T00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00Z"}
        subprocess.run(["git", *command], cwd=folder, env=environment, check=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The guide of the project, on loopback."""
    folder.mkdir()
    (folder / "guide.html").write_text(
        "<html><head><title>Guide</title></head><body><article><h1>Guide</h1>"
        + "<p>Words are counted in lower case, and punctuation belongs to its word.</p>" * 5
        + "</article></body></html>"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/guide.html"
    server.shutdown()
    server.server_close()


# -- the output


def draw(run: Run, think_s: float, span_s: float) -> None:
    """Draw one run."""

    def cell(at: float) -> int:
        return min(WIDTH, round(at / span_s * WIDTH))

    def mark(line: list[str], start: float, end: float, sign: str) -> None:
        line[cell(start) : max(cell(start) + 1, cell(end))] = sign * (max(cell(start) + 1, cell(end)) - cell(start))

    print(f"\n{run.how}: {run.seconds:.1f} s, {len(run.turns)} model turns")
    model = [" "] * WIDTH
    for start in run.turns:
        mark(model, start, start + think_s, "▒")
    print(f"{'model':<22}{''.join(model)}".rstrip())
    for bar in run.bars:
        line = [" "] * WIDTH
        if cell(bar.started) > cell(bar.made):
            mark(line, bar.made, bar.started, "░")
        mark(line, bar.started, bar.ended, "█")
        print(f"{bar.call:<22}{''.join(line)} {bar.ended - bar.started:4.1f} s")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--think", type=float, default=0.8, metavar="SECONDS", help="duration of a model turn (0.8)")
    options.add_argument("--write", type=Path, metavar="FILE", help="write the time lines as JSON lines")
    options.add_argument("--trace", type=Path, metavar="FILE", help="write the bridge's trace, for ui.perfetto.dev")
    given = options.parse_args()
    for program in ("git", "uvx", "npx"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not on the PATH")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve()
        make_project(place / "origin")
        with site(place / "site") as page:
            runs, reports, trace = anyio.run(measure, place, page, given.think)
    print("▒ model turn, ░ waiting call, █ running call")
    for run in runs:
        draw(run, given.think, max(each.seconds for each in runs))
    print(f"\n{reports[-1].strip()}")
    if given.trace:
        given.trace.write_bytes(trace)
    if given.write:
        given.write.write_text("".join(json.dumps(asdict(bar)) + "\n" for run in runs for bar in run.bars))
    if len(set(reports)) != 1:
        sys.exit("the reports differ:\n" + "\n".join(reports))
    one, together, bridge = (run.seconds for run in runs)
    print(
        f"\none by one {one:.1f} s · together {together:.1f} s · through the bridge {bridge:.1f} s · "
        f"{one / bridge:.1f} × and {together / bridge:.1f} × faster, same report"
    )


if __name__ == "__main__":
    main()
