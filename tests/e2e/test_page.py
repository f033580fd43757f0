"""The page of real bridges, over HTTP and of a daemon: who gets in, what is seen live, and what ends it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncfc_mcp.cli.page_address import NoDaemon, NoPage
from asyncfc_mcp.cli.page_client import NotAPage, PageClient, PageLost, PageRefused
from tests.support.certificates import self_signed
from tests.support.client import PATIENCE, Json
from tests.support.daemons import daemon, runtime_folder
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

HTML = {"Accept": "text/html"}
UNPREFIXED = {"prefix": ""}


def toy(stage: Stage) -> Json:
    return {"toy": stage.toy("raw", asyncfc=UNPREFIXED)}


def ask(
    bridge: HttpBridge, method: str, path: str, token: str | None = None, body: Any = None, **headers: str
) -> tuple[int, Any]:
    """Status and JSON of a request to the page."""
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    wire = HttpWire(f"{bridge.base}/page/api/{path}", context=bridge.context)
    status, kind, data = wire.exchange(method, body, {**bearer, **headers})
    return status, json.loads(data) if kind.get("content-type") == "application/json" else data


async def until_call(events: AsyncGenerator[Json], future: str, state: str) -> Json:
    """The entry of a call once it is in a state."""
    async for event in events:
        for entry in event["data"].get("entries", ()) if event["event"] == "calls" else ():
            if (entry["id"], entry["state"]) == (future, state):
                return entry
    raise AssertionError("the stream has ended")


async def until_end(events: AsyncGenerator[Json]) -> str:
    """The reason for which a stream has ended."""
    async for event in events:
        if event["event"] == "end":
            return event["data"]["reason"]
    raise AssertionError("no reason was given")


def test_persons_over_tls_see_their_own_calls_until_they_are_removed(stage: Stage, tmp_path: Path):
    """From the command to a key, to a token of the page, which is none of the bridge and ends with the person's."""
    tokens, file = {}, tmp_path / "tokens.toml"
    lines = {}
    for name in ("alice", "bob"):
        ran = stage.run("token", name)
        tokens[name], lines[name] = ran.stderr.strip().rpartition(" ")[2], ran.stdout
    file.write_text("".join(lines.values()))
    file.chmod(0o600)
    certificate = self_signed(tmp_path)
    context = certificate.context()
    options = [*certificate.options, "--auth-tokens", str(file)]
    bridge = stage.http_bridge(toy(stage), *options, context=context, drain_s=5)
    alice = bridge.client(headers={"Authorization": f"Bearer {tokens['alice']}"})
    held = alice.submit("sleep", {"seconds": 600})

    assert bridge.get("/", HTML)[0] == 200
    assert bridge.get("/")[0] == 401, "a program is told what it was told without the page"
    assert ask(bridge, "GET", "overview")[0] == 401
    env = {"BRIDGE_TOKEN": tokens["alice"], "SSL_CERT_FILE": str(certificate.certificate)}
    url = f"{bridge.base.replace('127.0.0.1', 'localhost')}/mcp"
    opened = stage.run("open", "--print", "--url", url, "--auth-token-env", "BRIDGE_TOKEN", env=env)
    assert opened.code == 0, opened.stderr
    address, _, key = opened.stdout.strip().partition("#key=")
    assert address == url.removesuffix("mcp")
    status, entered = ask(bridge, "POST", "enter", body={"key": key})
    assert status == 200
    assert ask(bridge, "POST", "enter", body={"key": key})[0] == 401
    page_token = entered["token"]
    assert [entry["id"] for entry in ask(bridge, "GET", "calls", page_token)[1]["calls"]] == [held.id]
    assert ask(bridge, "GET", "calls", tokens["bob"])[1]["calls"] == []
    assert ask(bridge, "GET", f"calls/{held.id}", tokens["bob"])[0] == 404
    assert ask(bridge, "POST", f"calls/{held.id}/cancel", tokens["bob"], {})[0] == 404
    shown = ask(bridge, "GET", "overview", page_token)[1]
    assert not shown.get("settings"), "there are other principals"
    assert not shown.get("configuration")
    wire = HttpWire(f"{bridge.base}/mcp", context=context, headers={"Authorization": f"Bearer {page_token}"})
    assert wire.exchange("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"})[0] == 401
    env["BRIDGE_TOKEN"] = "x"
    wrong = stage.run("open", "--print", "--url", url, "--auth-token-env", "BRIDGE_TOKEN", env=env)
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "token" in wrong.stderr

    async def watch() -> str:
        async with PageClient.connect(url=url, token=page_token) as client:
            events = client.events()
            await until_call(events, held.id, "running")
            file.write_text(lines["bob"])
            with anyio.fail_after(PATIENCE):
                return await until_end(events)

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(certificate.certificate))
        assert "access" in anyio.run(watch)
    assert ask(bridge, "GET", "calls", page_token)[0] == 401
    for secret in (key, page_token, *tokens.values()):
        assert secret not in bridge.stderr()


def test_on_loopback_programs_see_and_cancel_calls_and_other_pages_do_not(stage: Stage):
    """Without a token; the end of the bridge ends the streams at once."""
    bridge = stage.http_bridge(toy(stage), drain_s=1)
    client = bridge.client()
    held = client.submit("sleep", {"seconds": 600, "_as": "nap"})
    assert ask(bridge, "GET", "overview", None, Host="evil.example")[0] == 421
    cancel = f"calls/{held.id}/cancel"
    assert ask(bridge, "POST", cancel, None, {}, Origin="http://evil.example")[0] == 403
    assert ask(bridge, "POST", cancel, None, {}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    status, error = ask(bridge, "GET", "calls?state=odd")
    assert status == 400
    assert "state" in error["error"]
    assert bridge.get("/")[0] == 404
    assert bridge.get("/page/nothing.js")[0] == 404

    async def watch() -> str:
        async with PageClient.connect(url=f"{bridge.base}/mcp") as page, PageClient.connect(url=bridge.base) as other:
            events = page.events()
            running = await until_call(events, held.id, "running")
            assert (running["name"], running["tool"], running["server"]) == ("nap", "sleep", "toy")
            cancelled = await other.post(f"calls/{held.id}/cancel")
            assert cancelled["id"] == held.id
            await until_call(events, held.id, "cancelled")
            details = await other.get(f"calls/{held.id}")
            assert details["arguments"] == {"seconds": 600}
            with pytest.raises(PageRefused) as refused:
                await other.get("calls/f999")
            assert refused.value.status == 404
            assert [each["id"] for each in (await other.get("calls", state=["cancelled"]))["calls"]] == [held.id]
            bridge.process.send_signal(signal.SIGTERM)
            return await until_end(events)

    assert "ending" in anyio.run(watch)
    assert bridge.process.wait(PATIENCE) == 0

    async def later() -> None:
        async with PageClient.connect(url=bridge.base) as page:
            await page.get("overview")

    with pytest.raises(PageLost, match="cannot be reached"):
        anyio.run(later)


def test_the_setting_turns_the_page_off(stage: Stage):
    """What is at its paths is what was there without it."""
    bridge = stage.http_bridge(toy(stage), page=False)
    assert bridge.get("/", HTML)[0] == 404

    async def look() -> None:
        async with PageClient.connect(url=bridge.base) as page:
            await page.get("overview")

    with pytest.raises(NotAPage):
        anyio.run(look)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")
def test_a_daemon_shows_its_page_to_its_user_until_it_is_idle(stage: Stage):
    """A key from its socket, and nothing without one. A page that is open is no use of the daemon."""
    with daemon(stage, toy(stage), daemon_idle_s=1.0) as running:
        environ = {"ASYNCFC_RUNTIME_DIR": str(running.folder)}
        session = running.join("first")
        held = session.submit("sleep", {"seconds": 600})
        assert running.command("status")["page"] is None, "it does not listen before it is asked"
        opened = stage.run("open", "--print", env=environ)
        assert opened.code == 0, opened.stderr
        url, _, key = opened.stdout.strip().partition("#key=")
        assert url.startswith("http://127.0.0.1:")
        assert running.command("page")["url"] == url
        assert f"page: {url}" in stage.run("daemon", "status", env=environ).stdout
        port = int(url.rsplit(":", 1)[1].strip("/"))
        bridge = HttpBridge(running.process, port, running.log)
        assert bridge.get("/", HTML)[0] == 200
        assert bridge.get("/mcp")[0] == 404
        for path in ("overview", "events", "export"):
            assert ask(bridge, "GET", path)[0] == 401
        assert ask(bridge, "POST", "key", None, {})[0] == 401
        assert ask(bridge, "GET", "overview", None, Host="evil.example")[0] == 421
        if os.getuid() == 0 and sys.platform == "linux":
            stranger = f"""if 1:
                import http.client
                connection = http.client.HTTPConnection("127.0.0.1", {port})
                json = {{"content-type": "application/json"}}
                connection.request("POST", "/page/api/enter", '{{"key": "{key}"}}', json)
                print(connection.getresponse().status)"""
            tried = subprocess.run(
                ["/usr/bin/env", "python3", "-c", stranger], user=65534, capture_output=True, text=True
            )
            assert tried.stdout.strip() == "401", (tried.stdout, tried.stderr)
        assert ask(bridge, "POST", "enter", None, {"key": key})[0] == 200
        assert ask(bridge, "POST", "enter", None, {"key": key})[0] == 401
        browser = stage.folder / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" > {stage.folder}/opened\n')
        browser.chmod(0o755)
        shown = stage.run("open", env=environ | {"BROWSER": str(browser)})
        assert (shown.code, shown.stdout) == (0, "")
        opened_with = (stage.folder / "opened").read_text().strip()
        assert opened_with.startswith(f"{url}#key=")
        assert opened_with.rpartition("=")[2] not in shown.stderr

        async def watch() -> str:
            async with PageClient.connect(environ={**os.environ, **environ}) as page:
                assert page.url == url
                overview = await page.get("overview")
                assert overview["transport"] == "daemon"
                assert overview["configuration"]
                events = page.events()
                await until_call(events, held.id, "running")
                assert running.command("reload")["problem"] is None
                await page.post(f"calls/{held.id}/cancel")
                await until_call(events, held.id, "cancelled")
                session.kill()
                with anyio.fail_after(PATIENCE):
                    return await until_end(events)

        assert "ending" in anyio.run(watch)
        assert running.wait() == 0
        assert key not in running.log.read_text()
        none = stage.run("open", env=environ)
        assert none.code == 2
        assert "No daemon runs" in none.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no daemon on Windows")
def test_a_daemon_without_a_page_says_so(stage: Stage):
    """And where none runs, what to do."""

    async def look(folder: Path) -> None:
        async with PageClient.connect(environ={**os.environ, "ASYNCFC_RUNTIME_DIR": str(folder)}) as page:
            await page.get("overview")

    with daemon(stage, toy(stage), page=False) as running:
        with pytest.raises(NoPage, match="setting page"):
            anyio.run(look, running.folder)
    with runtime_folder() as empty, pytest.raises(NoDaemon, match="--url"):
        anyio.run(look, empty)
