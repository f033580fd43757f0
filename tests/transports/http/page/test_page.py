"""The page over HTTP: who gets in, and what ends."""

import gzip
import logging
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import LOCAL, Principal
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.page import api, event_streams
from asyncfc_mcp.transports.http.page.page_tokens import IDLE_S, MOST_OWN, PageTokens
from tests.support.asgi_client import Exchange
from tests.support.virtual_time import on_virtual_time, settle
from tests.transports.http.page.stage import BEHIND, Paged, Persons, events_of

ANYONE = Access(Principal(LOCAL))
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
OVERVIEW = "/page/api/overview"


def local(**options: Any) -> Paged:
    return Paged(Persons(anyone=ANYONE), **options)


@on_virtual_time
async def test_files_are_for_everyone_and_tell_browsers_to_be_strict():
    """No token, no data; the headers keep scripts, frames and guesses out."""
    stage = Paged(Persons("alice"))
    index = await stage.get("/", accept=HTML)
    assert (index.status, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert index.headers["x-content-type-options"] == "nosniff"
    assert index.headers["referrer-policy"] == "no-referrer"
    assert index.headers["cache-control"] == "no-cache"
    again = await stage.get("/", accept=HTML, if_none_match=f'"other", W/{index.headers["etag"]}')
    assert (again.status, again.body) == (304, b"")
    head = await stage.exchange("HEAD", accept=HTML).run("/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(index.body))
    assert (await stage.get("/page/index.html")).body == index.body
    packed = await stage.get("/", accept=HTML, accept_encoding="br, gzip;q=0.5")
    assert (packed.headers["content-encoding"], gzip.decompress(packed.body)) == ("gzip", index.body)
    assert "content-encoding" not in (await stage.get("/", accept=HTML, accept_encoding="gzip;q=0, br")).headers


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/../page.py", "/page/static/index.html", "/page/page.py", "/page/api", "/page//etc/passwd",
     "/page/api/", "/page/api/nothing", "/page/api/calls/", "/page/api/calls/f1/", "/page/api/calls/f1/other",
     "/page/api/overview/f1", "/page/api/overview/"],
)  # fmt: skip
@on_virtual_time
async def test_nothing_else_is_there(path: str):
    """A name is looked up among the files that were read; no path reaches the file system."""
    answered = await local().get(path)
    assert answered.status == 404, path


@on_virtual_time
async def test_programs_find_at_the_root_what_was_there():
    """Only a browser, which asks for HTML, is shown the page."""
    stage = local()
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json, text/event-stream"}, {"accept": None}):
        assert (await stage.get("/", **headers)).body == BEHIND
    assert (await stage.exchange("POST", accept=HTML).run("/")).body == BEHIND
    for path in ("/mcp", "/healthz", "/pages", "/page"):
        assert (await stage.get(path, accept=HTML)).body == BEHIND


REFUSED: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "another host": (421, "GET", OVERVIEW, {"host": "evil.example:8642"}),
    "no host": (421, "GET", OVERVIEW, {"host": None}),
    "another host, a file": (421, "GET", "/", {"host": "evil.example", "accept": HTML}),
    "another host, a key": (421, "POST", "/page/api/enter", {"host": "evil.example"}),
    "another origin": (403, "POST", "/page/api/key", {"origin": "http://evil.example"}),
    "another origin, a read": (403, "GET", OVERVIEW, {"origin": "http://evil.example"}),
    "an opaque origin": (403, "POST", "/page/api/key", {"origin": "null"}),
    "an origin with our name in it": (403, "GET", OVERVIEW, {"origin": "http://localhost.evil.example:1"}),
    "another site": (403, "GET", OVERVIEW, {"sec_fetch_site": "cross-site"}),
    "the same site, another port": (403, "GET", "/page/api/events", {"sec_fetch_site": "same-site"}),
    "another site, a cancellation": (403, "POST", "/page/api/calls/f1/cancel", {"sec_fetch_site": "cross-site"}),
    "another site, a key": (403, "POST", "/page/api/enter", {"sec_fetch_site": "cross-site"}),
    "a form": (415, "POST", "/page/api/calls/f1/cancel", {"content_type": "application/x-www-form-urlencoded"}),
    "text": (415, "POST", "/page/api/calls/f1/cancel", {"content_type": "text/plain;application/json"}),
    "no type": (415, "POST", "/page/api/key", {"content_type": None}),
    "a preflight": (405, "OPTIONS", "/page/api/calls/f1/cancel", {"origin": "http://evil.example"}),
    "a read that cancels": (405, "GET", "/page/api/calls/f1/cancel", {}),
    "a write that reads": (405, "POST", OVERVIEW, {}),
    "a head": (405, "HEAD", OVERVIEW, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@on_virtual_time
async def test_requests_of_other_pages_are_refused_where_no_token_is_needed(name: str):
    """On loopback without a token, these headers are all that keeps other pages out."""
    status, method, path, headers = REFUSED[name]
    stage = local()
    answered = await stage.exchange(method, **headers).run(path)
    assert answered.status == status, answered.body
    assert not stage.monitor.cancelled
    assert not any(header.startswith("access-control-") for header in answered.headers)
    if method != "HEAD" and path != "/":
        assert answered.json["error"]


@on_virtual_time
async def test_the_page_itself_and_programs_are_served():
    """A browser on the page, and a program that is none and sends no such headers."""
    stage = local()
    for headers in (
        {},
        {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:8642"},
        {"sec_fetch_site": "none"},
        {"host": "localhost:9999", "origin": "http://localhost:9999"},
        {"host": "[::1]:8642"},
    ):
        answered = await stage.get(OVERVIEW, **headers)
        assert answered.json == {"principal": "local"}
        assert answered.headers["cache-control"] == "no-store"
    assert (await stage.get("/page/api/calls?server=a&limit=2")).json == {
        "calls": [{"id": "f1", "name": "local"}], "next": None,
    }  # fmt: skip
    assert (await stage.get("/page/api/calls/f1")).json["id"] == "f1"
    assert (await stage.get("/page/api/calls/f9")).status == 404
    assert (await stage.post("/page/api/calls/f1/cancel", origin="http://127.0.0.1:8642")).status == 200
    assert stage.monitor.cancelled == ["local"]
    exported = await stage.get("/page/api/export?form=jsonl")
    assert exported.body.count(b"\n") == 2
    assert "attachment" in exported.headers["content-disposition"]
    assert (await stage.get("/page/api/export?form=exe")).status == 400
    assert (await stage.get("/page/api/calls?" + "&".join(["state=failed"] * 200))).status == 400


@on_virtual_time
async def test_on_other_addresses_the_origin_must_be_the_host_or_the_public_url():
    """Their names are not known; behind a proxy, `--public-url` says the one that browsers see."""
    stage = Paged(Persons("alice"), host="0.0.0.0", public_url="https://mcp.example.com/tools/mcp")
    for host, origin, status in (
        ("10.0.0.5:8642", "http://10.0.0.5:8642", 200),
        ("10.0.0.5:8642", "http://10.0.0.6:8642", 403),
        ("inner:80", "https://mcp.example.com", 200),
        ("inner:80", "https://evil.example.com", 403),
        ("inner:80", "null", 403),
    ):
        answered = await stage.get(OVERVIEW, token="alice", host=host, origin=origin)
        assert answered.status == status, (host, origin)


@on_virtual_time
async def test_each_principal_sees_its_own_calls_with_a_key_that_counts_once(caplog: pytest.LogCaptureFixture):
    """From the token of the endpoint to a key, to a token of the page, which is that of the same principal."""
    caplog.set_level(logging.DEBUG)
    stage = Paged(Persons("alice", "bob"))
    tokens: dict[str, str] = {}
    for name in ("alice", "bob"):
        key = (await stage.post("/page/api/key", token=name)).json["key"]
        tokens[name] = (await stage.post("/page/api/enter", {"key": key})).json["token"]
        assert (await stage.post("/page/api/enter", {"key": key})).status == 401, "a key counts once"
        assert (await stage.get(OVERVIEW, token=tokens[name])).json == {"principal": f"person:{name}"}
        assert key not in caplog.text
        assert tokens[name] not in caplog.text
    assert tokens["alice"] != tokens["bob"]
    for wrong in (None, "", "carol", "afcpage_guessed", tokens["alice"][:-1], tokens["alice"] + "x"):
        answered = await stage.get(OVERVIEW, token=wrong)
        assert answered.status == 401
        assert answered.json["error"].startswith("Unauthorized")
        assert answered.headers["www-authenticate"].startswith("Bearer")
    assert (await stage.get("/page/api/events")).status == 401
    assert (await stage.post("/page/api/key")).status == 401
    for guess in ("", "x" * 43, None, 1, ["a"], "\ud800"):
        assert (await stage.post("/page/api/enter", {"key": guess})).status == 401
    for body in (b"[]", b"{", b"\xff", b"[" * 4000):
        assert (await stage.post("/page/api/enter", body)).status == 400
    assert (await stage.post("/page/api/enter", b" " * 5000)).status == 413


@on_virtual_time
async def test_a_token_of_the_page_ends_with_the_access_that_it_rests_on():
    """Who is removed loses the page, its key, and its open streams; others keep theirs."""
    persons = Persons("alice", "bob")
    stage = Paged(persons)
    alice, bob = await stage.enter("alice"), await stage.enter("bob")
    key = (await stage.post("/page/api/key", token=alice)).json["key"]
    streams = [stage.exchange(token=token) for token in (alice, bob, "alice")]
    async with anyio.create_task_group() as tg:
        for stream in streams:
            tg.start_soon(stream.run, "/page/api/events")
        await settle()
        assert [len(events_of(stream)) for stream in streams] == [1, 1, 1]
        persons.of["alice"].revoke()
        assert (await stage.get(OVERVIEW, token=alice)).status == 401
        assert (await stage.get(OVERVIEW, token=bob)).status == 200
        await anyio.sleep(event_streams.LAPSE_S + 0.1)
        assert [stream.ended for stream in streams] == [True, False, True]
        assert events_of(streams[0])[-1] == {"event": "end", "data": {"reason": event_streams.OVER}}
        streams[1].hang_up()
    entered = await stage.post("/page/api/enter", {"key": key})
    assert entered.status == 401 or (await stage.get(OVERVIEW, token=entered.json["token"])).status == 401
    assert stage.monitor.open_feeds == 0


@on_virtual_time
async def test_scopes_count_as_for_a_call():
    """The page is no way around `required_scopes`."""
    grants = {"alice": frozenset({"mcp"}), "bob": frozenset({"mcp", "call"})}
    stage = Paged(Persons("alice", "bob", grants=grants), required_scopes={"tools/call": ("call",)})
    refused = await stage.get(OVERVIEW, token="alice")
    assert refused.status == 403
    assert "call" in refused.json["error"]
    assert (await stage.get(OVERVIEW, token="bob")).status == 200


@on_virtual_time
async def test_the_only_way_in_is_a_key_where_no_other_token_is_accepted():
    """As in a daemon, whose port other users of the machine can reach."""
    stage = Paged(None)
    for path in (OVERVIEW, "/page/api/events", "/page/api/export"):
        assert (await stage.get(path)).status == 401
    assert (await stage.post("/page/api/key")).status == 401
    key = stage.page.keys.issue(ANYONE)
    token = (await stage.post("/page/api/enter", {"key": key})).json["token"]
    assert (await stage.get(OVERVIEW, token=token)).json == {"principal": "local"}


# --- streams ---------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_stream_shows_what_happens_until_the_bridge_ends():
    """Events are one line each, whatever is in them; the last one says why it is the last."""
    stage = local()
    stream = stage.exchange()
    async with anyio.create_task_group() as tg:
        tg.start_soon(stream.run, "/page/api/events")
        await settle()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert [event["data"]["entries"] for event in events_of(stream)] == [[{"id": "f1", "name": "a\nb\u2028\ud800"}]]
        stage.monitor.changed.set()
        await settle()
        await anyio.sleep(event_streams.PING_S + 1)
        assert b": ping\n\n" in stream.body
        stage.page.refuse_new()
        assert (await stage.get("/page/api/events")).status == 503
        assert (await stage.get(OVERVIEW)).status == 503
        assert not stream.ended
        stage.page.close()
        await settle()
        assert stream.ended
    assert [event["event"] for event in events_of(stream)] == ["calls", "calls", "end"]
    assert (stage.monitor.open_feeds, len(stage.page.streams)) == (0, 0)


@on_virtual_time
async def test_a_reader_that_takes_nothing_does_not_delay_the_end():
    """The last event is not waited for longer than a second."""
    stage = local()
    stuck, gone = stage.exchange(), stage.exchange()
    stuck.reads = anyio.Event()
    began = anyio.current_time()
    async with anyio.create_task_group() as tg:
        for stream in (stuck, gone):
            tg.start_soon(stream.run, "/page/api/events")
        await settle()
        gone.hang_up()
        await settle()
        assert len(stage.page.streams) == 1
        stage.page.close()
    assert anyio.current_time() - began <= event_streams.END_S + 0.1
    assert stage.monitor.open_feeds == 0


@on_virtual_time
async def test_streams_of_one_principal_are_bounded():
    """A further one is refused, and another principal is not."""
    stage = Paged(Persons("alice", "bob"))
    open_streams: list[Exchange] = []
    async with anyio.create_task_group() as tg:
        for _ in range(event_streams.MOST_OWN):
            open_streams.append(stage.exchange(token="alice"))
            tg.start_soon(open_streams[-1].run, "/page/api/events")
        await settle()
        assert (await stage.get("/page/api/events", token="alice")).status == 429
        open_streams.append(stage.exchange(token="bob"))
        tg.start_soon(open_streams[-1].run, "/page/api/events")
        await settle()
        assert open_streams[-1].status == 200
        for stream in open_streams:
            stream.hang_up()
    assert len(stage.page.streams) == 0


@on_virtual_time
async def test_exports_are_bounded_for_a_principal_and_end_with_its_access():
    """A reader that takes nothing keeps nobody else's from being written, and gets no more once it is removed."""
    persons = Persons("alice", "bob")
    stage = Paged(persons)
    stuck = [stage.exchange(token="alice") for _ in range(api.MOST_OWN_EXPORTS)]
    async with anyio.create_task_group() as tg:
        for export in stuck:
            export.reads = anyio.Event()
            tg.start_soon(export.run, "/page/api/export")
        await settle()
        assert (await stage.get("/page/api/export", token="alice")).status == 429
        assert (await stage.get("/page/api/export", token="bob")).ended
        persons.of["alice"].revoke()
    assert not any(export.ended for export in stuck), "a part is not taken for the whole"
    assert (await stage.get("/page/api/export", token="bob")).ended


# --- tokens ----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_token_ends_without_use_and_the_oldest_give_way():
    """Twelve hours after the last request; one principal's tokens never end those of another."""
    now = 0.0
    tokens = PageTokens(None, lambda: now)
    persons = Persons("alice", "bob")

    def works(text: str) -> bool:
        access = tokens.known(token_of(text))
        return access is not None and not access.revoked and access.expires_at > now

    first = tokens.give(persons.of["alice"])
    now = IDLE_S - 1
    assert works(first)
    now += IDLE_S - 1
    assert works(first), "each use begins the time anew"
    now += IDLE_S
    assert not works(first)
    kept = tokens.give(persons.of["bob"])
    many = [tokens.give(persons.of["alice"]) for _ in range(MOST_OWN + 1)]
    assert not works(many[0])
    assert works(kept)
    assert all(map(works, many[1:]))


def token_of(text: str) -> Any:
    from asyncfc_mcp.transports.http.auth.authenticator import Token

    return Token(text.encode())
