"""The main promises over stdio: handles at once, results unchanged, waiting that never hurts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.client import HANDSHAKE, MODERN, Handle, Json, RpcError, canonical, eventually, records, text_of
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

META_TOOLS = {"await_future", "gather", "cancel_future", "list_futures"}
AWKWARD = {
    "text": 'Grüße 🌍 \u2028 \x7f \\ " \n end',
    "": {"null": None, "deep": [[[]], {}]},
    "int": 2**70,
    "whole": 3.0,
    "tiny": 1e-300,
    "false": False,
}


@pytest.fixture(scope="module")
def toy(shared_stage: Stage) -> Json:
    """The downstream that this module shares."""
    return shared_stage.toy()


@pytest.fixture(scope="module")
def direct(shared_stage: Stage, toy: Json) -> Wire:
    """A client of the downstream itself."""
    return shared_stage.direct(toy)


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage, toy: Json) -> Wire:
    """A bridge with a config file and no grace, so that every call is answered by a bare handle."""
    bridge = shared_stage.bridge({"toy": {**toy, "asyncfc": {"prefix": ""}}}, grace_ms=0)
    bridge.wait_for_tools("echo")
    return bridge


@pytest.fixture(scope="module")
def plain(shared_stage: Stage, toy: Json) -> Wire:
    """`serve -- CMD` with nothing configured."""
    plain = shared_stage.serve("--", toy["command"], *toy["args"])
    plain.wait_for_tools("echo")
    return plain


@pytest.fixture(scope="module")
def graced(shared_stage: Stage, toy: Json) -> Wire:
    """A bridge with so much grace that every fast call ends within it, on any machine."""
    graced = shared_stage.bridge({"toy": {**toy, "asyncfc": {"prefix": ""}}}, grace_ms=10_000)
    graced.wait_for_tools("echo")
    return graced


# --- overlap -------------------------------------------------------------------------------------------------------


def test_three_slow_calls_overlap_and_give_the_results_of_direct_calls(plain: Wire, direct: Wire) -> None:
    """Three 2-second tools: three handles long before one has ended, all results in less than the time of two."""
    arguments = [{"seconds": 2, "tag": tag} for tag in "abc"]
    expected = [direct.start_call("sleep", each) for each in arguments]
    began = time.monotonic()
    calls = [plain.start_call("sleep", each) for each in arguments]
    handles = [Handle.of(call.result()) for call in calls]
    answered = time.monotonic() - began
    gathered = plain.gather([handle.id for handle in handles])
    ended = time.monotonic() - began

    assert answered < 2, "a handle came only after a tool had ended"
    assert ended < 4
    assert [each["status"] for each in gathered["structuredContent"]["results"]] == ["completed"] * 3
    for handle, pending in zip(handles, expected, strict=True):
        assert canonical(plain.await_future(handle.id)) == canonical(pending.result())


def test_a_handle_tells_the_whole_story_in_each_of_its_places(bridge: Wire) -> None:
    """Text, structured content and `_meta` each name the future, the tool and the state."""
    handle = bridge.submit("sleep", {"seconds": 0.2})
    result = handle.result
    assert len(result["content"]) == 1
    assert "\n" not in text_of(result)
    assert handle.tool == "sleep"
    assert handle.status in ("running", "waiting")
    assert result["structuredContent"]["status"] == handle.status
    assert not result.get("isError")
    assert text_of(bridge.outcome(handle.id)) == "slept 0.2"


def test_a_fast_tool_is_answered_with_its_result(graced: Wire, direct: Wire) -> None:
    """Grace: a call that ends within it costs the model no second turn, and can be awaited all the same."""
    result = graced.call("echo", {"text": "quick"})
    handle = Handle.of(result)
    own = direct.call("echo", {"text": "quick"})
    assert handle.status == "completed"
    assert canonical(result["content"][1:]) == canonical(own["content"])
    assert result["structuredContent"]["result"] == own["structuredContent"]
    assert canonical(graced.await_future(handle.id)) == canonical(own)


def test_a_fast_failure_is_answered_with_the_failure(graced: Wire, direct: Wire) -> None:
    """Grace keeps `isError`, and the downstream's result stays what `await_future` returns."""
    result = graced.call("fail", {"message": "no luck"})
    assert result["isError"] is True
    assert Handle.of(result).status == "failed"
    assert "no luck" in text_of(result)
    assert canonical(graced.await_future(Handle.of(result).id)) == canonical(
        direct.call("fail", {"message": "no luck"})
    )


def test_a_fast_answer_with_an_image_has_no_structured_content(graced: Wire, direct: Wire) -> None:
    """Structured content cannot tell an image, and some hosts show nothing else: then there is none."""
    result = graced.call("rich")
    assert "structuredContent" not in result
    assert canonical(result["content"][1:]) == canonical(direct.call("rich")["content"])


# --- results cross unchanged ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("echo", AWKWARD),
        ("rich", {}),
        ("alien", {}),
        ("bad_schema", {}),
        ("fail", {"message": "as it came"}),
        ("big", {"n_bytes": 300_000}),
    ],
)
def test_await_future_returns_the_result_byte_for_byte(bridge: Wire, direct: Wire, tool: str, arguments: Json) -> None:
    """What the downstream said is what the client gets: unknown fields, nulls, big integers, broken schemas and all."""
    handle = bridge.submit(tool, arguments)
    assert canonical(bridge.outcome(handle.id)) == canonical(direct.call(tool, arguments))


def test_results_cross_unchanged_to_a_modern_client(shared_stage: Stage, toy: Json, direct: Wire) -> None:
    """On the 2026-07-28 wire a result gains what that wire requires of every result, and loses nothing."""
    modern = shared_stage.serve("--", toy["command"], *toy["args"], era=MODERN)
    modern.wait_for_tools("rich")
    for tool in ("rich", "alien", "bad_schema"):
        result = modern.outcome(modern.submit(tool).id)
        assert result.pop("resultType", "complete") == "complete"
        result.get("_meta", {}).pop("io.modelcontextprotocol/serverInfo", None)
        if not result.get("_meta", True):
            del result["_meta"]
        assert canonical(result) == canonical(direct.call(tool))


def test_results_of_a_modern_downstream_cross_unchanged(shared_stage: Stage, bridge: Wire) -> None:
    """The other direction: what a 2026-07-28 server answers reaches a handshake client as it is on the wire."""
    entry = shared_stage.toy("modern")
    direct = shared_stage.direct(entry, era=MODERN)
    over = shared_stage.serve("--", entry["command"], *entry["args"])
    over.wait_for_tools("rich")
    for tool in ("rich", "fail"):
        result, own = over.outcome(over.submit(tool).id), direct.call(tool)
        # The era's own envelope may be taken off for a client that does not know it; everything else stays.
        for each in (result, own):
            each.pop("resultType", None)
            each.get("_meta", {}).pop("io.modelcontextprotocol/serverInfo", None)
            if not each.get("_meta", True):
                del each["_meta"]
        assert canonical(result) == canonical(own)


def test_a_protocol_error_fails_the_future_with_its_code_and_message(bridge: Wire) -> None:
    """A JSON-RPC error of the downstream is the future's outcome, not an error of the bridge."""
    result = bridge.outcome(bridge.submit("protocol_error").id)
    assert result["isError"] is True
    assert "the toy refuses" in text_of(result)
    assert "-32055" in text_of(result)
    assert records(result)[0]["status"] == "failed"


def test_awaiting_again_gives_the_same_and_calls_nothing(bridge: Wire) -> None:
    """`await_future` is idempotent: any number of times, one downstream call."""
    handle = bridge.submit("counter")
    first = bridge.outcome(handle.id)
    assert all(bridge.await_future(handle.id) == first for _ in range(3))
    assert bridge.await_future(f"${handle.id}") == first
    again = bridge.outcome(bridge.submit("counter").id)
    assert again["structuredContent"]["count"] == first["structuredContent"]["count"] + 1


# --- gather, cancel, list ------------------------------------------------------------------------------------------


def test_gather_answers_in_the_order_asked_and_one_failure_hides_no_other(bridge: Wire) -> None:
    """Every future has a header and its blocks; `results` follows the order of the question, duplicates included."""
    slow = bridge.submit("sleep", {"seconds": 0.3, "tag": "slow"}).id
    failed = bridge.submit("fail", {"message": "broken"}).id
    refused = bridge.submit("protocol_error").id
    quick = bridge.submit("echo", {"text": "hi"}).id
    asked = [quick, failed, slow, refused, quick]
    result = bridge.gather(asked)

    results = result["structuredContent"]["results"]
    assert [each["future_id"] for each in results] == asked
    assert [each["status"] for each in results] == ["completed", "failed", "completed", "failed", "completed"]
    assert results[0]["result"] == {"arguments": {"text": "hi"}}
    assert results[2]["result"] == "slept 0.3 slow"
    assert results[0] == results[4]
    assert [each["future_id"] for each in records(result)] == asked
    for words in ("broken", "the toy refuses", "slept 0.3 slow", slow, failed, refused, quick):
        assert words in text_of(result)


def test_gather_any_returns_when_the_first_has_ended(bridge: Wire) -> None:
    """`return_when: any` does not wait for the slow ones, and says how they stand."""
    slow = bridge.submit("sleep", {"seconds": 20}).id
    quick = bridge.submit("sleep", {"seconds": 0.1}).id
    began = time.monotonic()
    results = bridge.gather([slow, quick], return_when="any")["structuredContent"]["results"]
    assert time.monotonic() - began < 10
    assert [each["status"] for each in results] == ["running", "completed"]
    assert "result" not in results[0]
    bridge.call("cancel_future", {"future_id": slow})


def test_gather_with_an_image_has_no_structured_content(bridge: Wire) -> None:
    """As with a single answer: what structured content cannot tell is left to the blocks."""
    ids = [bridge.submit("rich").id, bridge.submit("echo").id]
    result = bridge.gather(ids)
    assert "structuredContent" not in result
    assert {"image", "audio", "resource", "resource_link"} <= {block["type"] for block in result["content"]}
    assert [each["status"] for each in records(result)] == ["completed", "completed"]


def test_gather_of_nothing_says_so(bridge: Wire) -> None:
    """An empty list is an error that explains itself."""
    result = bridge.gather([])
    assert result["isError"] is True
    assert "future_ids" in text_of(result)


@pytest.mark.parametrize("tool", ["await_future", "gather", "cancel_future"])
def test_an_unknown_future_is_named_with_its_nearest(bridge: Wire, tool: str) -> None:
    """A model that mistypes an ID learns which ones there are."""
    live = bridge.submit("echo").id
    asked = live + "0000"
    result = bridge.call(tool, {"future_ids": [asked]} if tool == "gather" else {"future_id": asked})
    assert result["isError"] is True
    assert asked in text_of(result)
    assert live in text_of(result)


def test_cancel_reaches_the_downstream(bridge: Wire) -> None:
    """`cancel_future` tells the downstream with `notifications/cancelled`, and the future ends as cancelled."""
    handle = bridge.submit("never")
    before = len(bridge.outcome(bridge.submit("seen_cancellations").id)["structuredContent"]["seen"])
    answer = bridge.call("cancel_future", {"future_id": handle.id})
    assert records(answer)[0]["status"] == "cancelled"

    def told() -> list[Any]:
        return bridge.outcome(bridge.submit("seen_cancellations").id)["structuredContent"]["seen"][before:]

    assert eventually(told, "the downstream hears of it")[0]["tool"] == "never"
    outcome = bridge.await_future(handle.id)
    assert outcome["isError"] is True
    assert records(outcome)[0]["status"] == "cancelled"
    again = bridge.call("cancel_future", {"future_id": handle.id})
    assert records(again)[0]["status"] == "cancelled"


def test_cancelling_a_request_that_was_answered_changes_nothing(bridge: Wire) -> None:
    """The call lives on in its future after the request that made it: a late `notifications/cancelled` is void."""
    pending = bridge.start_call("sleep", {"seconds": 0.5, "tag": "survivor"})
    handle = Handle.of(pending.result())
    bridge.notify("notifications/cancelled", {"requestId": pending.id, "reason": "too late"})
    assert text_of(bridge.outcome(handle.id)) == "slept 0.5 survivor"


def test_cancelling_a_wait_does_not_cancel_what_it_waits_for(bridge: Wire) -> None:
    """A client that gives up on `await_future` finds the future untouched."""
    handle = bridge.submit("sleep", {"seconds": 1, "tag": "patient"})
    waiting = bridge.start_call("await_future", {"future_id": handle.id})
    bridge.notify("notifications/cancelled", {"requestId": waiting.id})
    assert text_of(bridge.outcome(handle.id)) == "slept 1 patient"


def test_list_futures_shows_newest_first_and_marks_the_unread(shared_stage: Stage, toy: Json) -> None:
    """A compact list: state of each, what nobody has read yet, narrowed by status."""
    bridge = shared_stage.bridge({"toy": {**toy, "asyncfc": {"prefix": ""}}}, grace_ms=0)
    bridge.wait_for_tools("echo")
    read = bridge.submit("echo").id
    bridge.outcome(read)
    running = bridge.submit("sleep", {"seconds": 20}).id
    unread = bridge.submit("echo").id
    bridge.gather([unread, running], return_when="any")  # `any` answers when one has ended; it is read by that
    fresh = bridge.submit("echo").id

    def listing() -> Json | None:
        listed = bridge.call("list_futures")
        done = {each["future_id"] for each in records(listed) if each["status"] == "completed"}
        return listed if fresh in done else None

    listed = eventually(listing, "the last call has ended")
    assert [each["future_id"] for each in records(listed)] == [fresh, unread, running, read]
    lines = {future: line for line in text_of(listed).splitlines() for future in [line.split()[0]]}
    assert "running" in lines[running]
    assert "unread" in lines[fresh]
    assert "unread" not in lines[read]
    only = bridge.call("list_futures", {"status": "running"})
    assert [each["future_id"] for each in records(only)] == [running]


# --- waits ---------------------------------------------------------------------------------------------------------


def test_a_wait_that_ends_too_soon_gives_the_handle_not_an_error(shared_stage: Stage, toy: Json) -> None:
    """Waits stay below `max_wait_s` whatever is asked for, and come back with the status."""
    bridge = shared_stage.bridge({"toy": {**toy, "asyncfc": {"prefix": ""}}}, grace_ms=0, max_wait_s=0.3)
    bridge.wait_for_tools("echo")
    handle = bridge.submit("sleep", {"seconds": 1.5})
    waits = [bridge.await_future(handle.id), bridge.await_future(handle.id, timeout_s=100)]
    for waited in waits:
        assert not waited.get("isError")
        assert Handle.of(waited).status == "running"
    gathered = bridge.gather([handle.id])
    assert gathered["structuredContent"]["results"][0]["status"] == "running"
    assert text_of(bridge.outcome(handle.id)) == "slept 1.5"


def test_a_wait_of_no_time_looks_and_returns(bridge: Wire) -> None:
    """`timeout_s: 0` is a poll."""
    handle = bridge.submit("sleep", {"seconds": 0.5})
    assert Handle.of(bridge.await_future(handle.id, timeout_s=0)).status == "running"
    bridge.outcome(handle.id)


def test_progress_of_the_downstream_reaches_the_waiting_client(bridge: Wire) -> None:
    """A wait with a progress token passes the downstream's progress on, growing as the protocol asks."""
    handle = bridge.submit("progress", {"steps": 5, "interval": 0.2})
    seen: list[Json] = []
    result = bridge.await_future(handle.id, on_progress=seen.append)
    assert text_of(result) == "made 5 steps"
    numbers = [each["progress"] for each in seen]
    assert numbers == sorted(set(numbers))
    assert {"step 3", "step 4"} <= {each.get("message") for each in seen}
    assert seen[-1]["total"] == 5


def test_a_silent_wait_has_a_heartbeat(bridge: Wire) -> None:
    """A downstream that reports nothing keeps nobody in the dark: both kinds of wait beat, and the numbers grow."""
    handle = bridge.submit("sleep", {"seconds": 11})
    beats: dict[str, list[Json]] = {"await_future": [], "gather": []}
    awaiting = bridge.start_call("await_future", {"future_id": handle.id}, on_progress=beats["await_future"].append)
    gathering = bridge.start_call("gather", {"future_ids": [handle.id]}, on_progress=beats["gather"].append)
    assert text_of(awaiting.result()) == "slept 11"
    gathering.result()
    for heard in beats.values():
        numbers = [beat["progress"] for beat in heard]
        assert len(numbers) >= 2
        assert numbers == sorted(set(numbers))


# --- the catalog ---------------------------------------------------------------------------------------------------


def test_serve_with_a_command_keeps_the_names(plain: Wire, direct: Wire) -> None:
    """`serve -- CMD`: the tools of CMD under their own names, all pages of them, and ours."""
    assert set(plain.tools()) == set(direct.tools()) | META_TOOLS


def test_a_tool_keeps_everything_but_its_output_schema(plain: Wire, direct: Wire) -> None:
    """Title, annotations, icons and `_meta` stay; `outputSchema`, which a handle would break, does not."""
    listed, own = plain.tools(), direct.tools()
    for name in ("title", "annotations", "icons", "_meta"):
        assert canonical(listed["echo"][name]) == canonical(own["echo"][name])
    assert "outputSchema" in own["echo"]
    assert not [name for name, tool in listed.items() if "outputSchema" in tool]
    for name, tool in own.items():
        assert listed[name]["description"].startswith(tool["description"])
        properties = listed[name]["inputSchema"]["properties"]
        assert set(tool["inputSchema"]["properties"]) <= set(properties)


def test_waiting_tools_say_that_they_only_read(plain: Wire) -> None:
    """Hosts run read-only tools without asking: the waits are, cancelling is not."""
    tools = plain.tools()
    for name in ("await_future", "gather", "list_futures"):
        assert tools[name]["annotations"]["readOnlyHint"] is True
    assert tools["cancel_future"]["annotations"].get("readOnlyHint") is not True


def test_a_tool_that_is_added_downstream_is_announced_and_callable(stage: Stage) -> None:
    """`list_changed` is followed: from a handshake-era downstream and from a modern one."""
    bridge = stage.bridge({"raw": stage.toy("raw"), "new": stage.toy("modern")})
    bridge.wait_for_tools("raw__echo", "new__echo")
    for server in ("raw", "new"):
        before = len([each for each in bridge.notifications if each["method"] == "notifications/tools/list_changed"])
        bridge.outcome(bridge.submit(f"{server}__add_tool", {"name": "extra"}).id)
        bridge.notified("notifications/tools/list_changed", count=before + 1)
        bridge.wait_for_tools(f"{server}__extra")
        assert "here" in text_of(bridge.outcome(bridge.submit(f"{server}__extra", {"text": "here"}).id))


def test_two_servers_are_told_apart_by_prefix_and_filtered_by_glob(stage: Stage) -> None:
    """`server__tool` with a config file; `prefix`, `include` and `exclude` per server; the same order every time."""
    servers = {
        "a": {**stage.toy(), "asyncfc": {"include": ["e*", "s*"], "exclude": ["seen_*"]}},
        "b": {**stage.toy(), "asyncfc": {"prefix": "other_", "include": ["echo"]}},
        "odd näme, far too long for the limit that hosts have on names of tools": {
            **stage.toy(),
            "asyncfc": {"include": ["echo", "seen_*"]},
        },
    }
    runs = [stage.bridge(servers) for _ in range(2)]
    listings: list[list[str]] = []
    for bridge in runs:
        bridge.wait_for_tools("a__echo", "other_echo")
        eventually(lambda bridge=bridge: len(bridge.tools()) == 3 + 1 + 2 + 4, "all servers are listed")
        listings.append([tool["name"] for tool in bridge.all_pages("tools/list", "tools")])
    names = listings[0]
    assert listings[1] == names
    assert {"a__echo", "a__sleep", "a__surroundings", "other_echo"} | META_TOOLS <= set(names)
    assert all(len(name) <= 63 and name.replace("_", "a").isascii() for name in names)
    odd = [name for name in names if name not in META_TOOLS and not name.startswith(("a__", "other_"))]
    assert len(odd) == 2
    assert "still me" in "".join(
        text_of(runs[0].outcome(runs[0].submit(name, {"text": "still me"}).id)) for name in odd
    )


def test_environment_and_folder_of_a_server_come_from_its_entry(stage: Stage) -> None:
    """`env` and `cwd` are the server's; `${VAR}` and `${VAR:-default}` are expanded."""
    place = stage.folder / "place"
    place.mkdir()
    entry = stage.toy(env={"PLAIN": "as is", "FROM": "<${OUTER}>", "DEFAULTED": "${NOT_SET_ANYWHERE:-fallback}"})
    stage.env["OUTER"] = "expanded"
    bridge = stage.bridge({"toy": {**entry, "cwd": str(place)}})
    bridge.wait_for_tools("toy__surroundings")
    names = ["PLAIN", "FROM", "DEFAULTED"]
    found = bridge.outcome(bridge.submit("toy__surroundings", {"names": names}).id)["structuredContent"]
    assert found == {
        "cwd": str(place),
        "env": {"PLAIN": "as is", "FROM": "<expanded>", "DEFAULTED": "fallback"},
    }


def test_a_sync_tool_is_answered_with_its_own_result(stage: Stage) -> None:
    """`mode: sync`: no handle, no future to await; the answer is the downstream's."""
    direct = stage.direct(stage.toy())
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": {"prefix": "", "tools": {"rich": {"mode": "sync"}}}}})
    bridge.wait_for_tools("rich")
    assert canonical(bridge.call("rich")) == canonical(direct.call("rich"))


def test_prompts_resources_and_completion_pass_through(stage: Stage) -> None:
    """What is no tool call is the downstream's own answer; prompts take the prefix, unique URIs stay as they are."""
    entry = stage.toy("raw", "--label", "one")
    direct = stage.direct(entry)
    bridge = stage.bridge({"one": entry, "two": stage.toy("modern", "--label", "two")})
    bridge.wait_for_tools("one__echo", "two__echo")
    prompts = {prompt["name"]: prompt for prompt in bridge.all_pages("prompts/list", "prompts")}
    assert set(prompts) == {
        f"{server}__{name}" for server in ("one", "two") for name in ("greet", "part", "third", "fourth")
    }
    asked = {"arguments": {"name": "Ada"}}
    assert canonical(bridge.request("prompts/get", {"name": "one__greet", **asked})) == canonical(
        direct.request("prompts/get", {"name": "greet", **asked})
    )
    uris = {resource["uri"] for resource in bridge.all_pages("resources/list", "resources")}
    assert uris == {"one://greeting", "one://blob", "two://greeting", "two://blob"}
    templates = bridge.all_pages("resources/templates/list", "resourceTemplates")
    ours = "future://{id}{?offset,limit}"
    assert {each["uriTemplate"] for each in templates} == {"one://note/{name}", "two://note/{name}", ours}
    for uri in ("one://blob", "one://note/7"):
        assert canonical(bridge.request("resources/read", {"uri": uri})) == canonical(
            direct.request("resources/read", {"uri": uri})
        )
    assert bridge.request("resources/read", {"uri": "two://note/8"})["contents"][0]["text"] == "note 8"
    with pytest.raises(RpcError):
        bridge.request("resources/read", {"uri": "nobody://here"})
    for reference in (
        {"type": "ref/prompt", "name": "one__greet"},
        {"type": "ref/resource", "uri": "two://note/{name}"},
    ):
        completed = bridge.request(
            "completion/complete", {"ref": reference, "argument": {"name": "name", "value": "ap"}}
        )
        assert completed["completion"]["values"] == ["apple", "apricot"]


# --- the wire ------------------------------------------------------------------------------------------------------


def test_every_version_of_the_protocol_is_spoken(stage: Stage) -> None:
    """A client of any version from 2024-11-05 to 2026-07-28: list, call, await."""
    entry = stage.toy()
    versions = ["2024-11-05", "2025-03-26", "2025-06-18", HANDSHAKE, MODERN]
    bridges = [stage.serve("--", entry["command"], *entry["args"], era=era, opened=False) for era in versions]
    for era, bridge in zip(versions, bridges, strict=True):
        bridge.open()
        if era != MODERN:
            assert bridge.opening["protocolVersion"] == era
        assert bridge.opening["instructions"]
        bridge.wait_for_tools("echo")
        outcome = bridge.outcome(bridge.submit("echo", {"text": era}).id)
        assert json.loads(text_of(outcome)) == {"text": era}


def test_a_client_may_probe_and_then_shake_hands(stage: Stage) -> None:
    """`server/discover` alone opens no era, even where the client does not wait for its answer."""
    entry = stage.toy()
    client = stage.serve("--", entry["command"], *entry["args"], era=MODERN, opened=False)
    probe = client.start("server/discover")
    client.era = HANDSHAKE
    client.open()
    assert MODERN in probe.result()["supportedVersions"]
    assert client.opening["protocolVersion"] == HANDSHAKE
    client.wait_for_tools("echo")
    outcome = client.outcome(client.submit("echo", {"text": "hello"}).id)
    assert json.loads(text_of(outcome)) == {"text": "hello"}


def test_an_unknown_tool_is_refused_with_its_nearest(plain: Wire) -> None:
    """A call of nothing makes no future: it is an error that names what was meant."""
    try:
        said = text_of(plain.call("ecko"))
    except RpcError as error:
        said = str(error)
    assert "ecko" in said
    assert "echo" in said


def test_a_line_that_is_no_message_does_not_end_the_connection(plain: Wire) -> None:
    """Whatever a client writes, the next good request is answered."""
    for line in (b"not json", b'{"jsonrpc": "2.0"}', b"[1, 2]", b"\xff\xfe", b""):
        plain.send_line(line)
    assert plain.request("ping") == {}
