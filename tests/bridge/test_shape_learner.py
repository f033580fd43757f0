"""Shapes are learned in the background, listed at the next start, and change no list by themselves."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.shape_learner import FIRST, RARELY
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, Scope
from asyncfc_mcp.core.learned_shapes import LearnedShape
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.engine.wait import wait_for
from tests.support.inprocess_server import Got, Toy, spawning, text_result
from tests.support.virtual_time import on_virtual_time

FLIGHTS = {"flights": [{"id": "F1", "price": 100}], "total": 1}
SHAPE = "Returns {flights: [{id, price}], total}"


@asynccontextmanager
async def bridge_with(toy: Toy, folder: Path | None, **policy: Any) -> AsyncGenerator[Bridge]:
    """A bridge over one toy, with a cache on disk."""
    config = ServerConfig(toy.name, StdioSpec(toy.name), prefix="", base=Policy(**policy))
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({toy.name: toy})):
        bridge = compose(BridgeConfig((config,), Settings(), source="test"), cache=ListingCache(folder))
        async with bridge.open():
            await bridge.started()
            await bridge.directory.wait_for_catalog()
            yield bridge


def toy_of(*results: Any, **definition: Any) -> Toy:
    """A server with a tool `find` that answers with these results in turn, the last one from then on."""
    toy, left = Toy(), list(results)

    async def find(_got: Got) -> dict[str, Any]:
        result = left.pop(0) if len(left) > 1 else left[0]
        return result if isinstance(result, dict) and "content" in result else text_result(json.dumps(result))

    toy.add("find", find, **{"description": "Finds.", **definition})
    return toy


async def call(bridge: Bridge, scope: Scope = LOCAL, tool: str = "find", **arguments: Any) -> Any:
    """Call it, and give the learner time."""
    future = await bridge.submitter.submit(bridge.directory.route(tool), arguments, CallContext(scope))
    await wait_for([future])
    await anyio.sleep(3)
    return future


def shown(bridge: Bridge, tool: str = "find") -> str:
    return bridge.directory.catalog.tools[tool].returns


def kept_in(folder: Path) -> list[Path]:
    """The files of shapes."""
    return list(folder.glob("*.shapes.json"))


def listing(bridge: Bridge) -> str:
    return json.dumps(bridge.directory.catalog.tool_list())


@on_virtual_time
async def test_a_shape_is_listed_at_the_next_start_and_not_before(tmp_path: Path):
    """The list is the same to the byte while shapes are learned, whatever the server returns."""
    async with bridge_with(toy_of(FLIGHTS, {"other": 1}), tmp_path) as bridge:
        before = listing(bridge)
        for _ in range(5):
            await call(bridge)
            assert listing(bridge) == before
        assert shown(bridge) == ""
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        assert listing(bridge) != before
        assert shown(bridge) == "Returns {flights?: [{id, price}], total?, other?}"
        assert bridge.directory.catalog.tools["find"].listed["description"].splitlines() == ["Finds.", shown(bridge)]


@on_virtual_time
async def test_a_shape_is_listed_with_a_change_that_the_server_has_caused(tmp_path: Path):
    """Not with a listing that is announced and the same."""
    toy = toy_of(FLIGHTS)
    async with bridge_with(toy, None) as bridge:
        seen: list[frozenset[str]] = []
        bridge.directory.observe(seen.append)
        await call(bridge)
        await toy.changed()
        await anyio.sleep(1)
        assert (seen, shown(bridge)) == ([], "")
        toy.add("new", toy.tools["echo"])
        await toy.changed()
        await anyio.sleep(1)
        assert (seen, shown(bridge)) == ([frozenset({"tools"})], SHAPE)
        assert "new" in bridge.directory.routes


@pytest.mark.parametrize("shapes", ["declared", "off"])
@on_virtual_time
async def test_nothing_is_learned_where_it_is_off(shapes: str, tmp_path: Path):
    """Nor kept."""
    async with bridge_with(toy_of(FLIGHTS), tmp_path, shapes=shapes) as bridge:
        await call(bridge)
    assert not kept_in(tmp_path)


@on_virtual_time
async def test_what_is_declared_or_listed_as_it_is_need_not_be_learned(tmp_path: Path):
    """A tool with an output schema, and one in sync mode."""
    schema = {"type": "object", "properties": {"id": {}}}
    async with bridge_with(toy_of(FLIGHTS, outputSchema=schema), tmp_path) as bridge:
        await call(bridge)
    async with bridge_with(toy_of(FLIGHTS), tmp_path, mode="sync") as bridge:
        await call(bridge)
    assert not kept_in(tmp_path)


@on_virtual_time
async def test_an_error_teaches_nothing(tmp_path: Path):
    """Its keys are not those of a result."""
    error = text_result(json.dumps({"error": {"code": 1}}), isError=True)
    async with bridge_with(toy_of(error, FLIGHTS), tmp_path) as bridge:
        assert (await call(bridge)).state is State.FAILED
        await call(bridge)
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        assert shown(bridge) == SHAPE


@on_virtual_time
async def test_a_missing_path_makes_the_tools_results_be_looked_at_again(tmp_path: Path):
    """It fails as ever; the key that it lacks is marked as optional from the next start on."""
    full, lacking = {"id": 1, "name": "a"}, {"id": 2}
    async with bridge_with(toy_of(*[full] * (FIRST + 1), lacking), tmp_path) as bridge:
        for _ in range(FIRST + 1):
            await call(bridge)
        source = await call(bridge)  # no longer looked at
        failed = await call(bridge, tool="echo", text=f"${source.id}.name")
        assert failed.state is State.FAILED
        assert "name" in str(failed.failure)
        assert '"id"' in str(failed.failure)
    async with bridge_with(toy_of(full), tmp_path) as bridge:
        assert shown(bridge) == "Returns {id, name?}"


@on_virtual_time
async def test_few_results_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first ones of a run, then one in many."""
    looked: list[Any] = []
    learn = LearnedShape.learn
    monkeypatch.setattr(LearnedShape, "learn", lambda self, *args: looked.append(args) or learn(self, *args))
    async with bridge_with(toy_of(FLIGHTS), None) as bridge:
        for number in range(1, RARELY + 1):
            await call(bridge)
            assert len(looked) == (min(number, FIRST) if number < RARELY else FIRST + 1)


@on_virtual_time
async def test_the_last_results_before_the_end_are_kept(tmp_path: Path):
    """A host that ends the bridge right after a call has taught it."""
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        future = await bridge.submitter.submit(bridge.directory.route("find"), {}, CallContext(LOCAL))
        await wait_for([future])
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        assert shown(bridge) == SHAPE


@on_virtual_time
async def test_no_value_and_no_key_that_is_data_is_on_disk(tmp_path: Path):
    """Of results, of arguments; in files that only the user can read."""
    result = {
        "users": {"jdoe": {"role": "s3cret"}},
        "tokens": {"ghp_0123456789abcdef": 1},
        "id": "v4lue",
        "acme": {"id": 1},
    }
    async with bridge_with(toy_of(result), tmp_path) as bridge:
        for _ in range(5):
            await call(bridge, q="acme")
    (file,) = kept_in(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [word for word in ("jdoe", "s3cret", "ghp_", "v4lue", "acme") if word in file.read_text()]


@on_virtual_time
async def test_unknown_keys_are_not_learned_of_anonymous_clients(tmp_path: Path):
    """Public words are; a key that could be data is nobody else's."""
    record = {"id": 1, "name": "a", "zorp": 1}
    async with bridge_with(toy_of(record), tmp_path) as bridge:
        for _ in range(5):
            await call(bridge, PUBLIC)
    async with bridge_with(toy_of(record), tmp_path) as bridge:
        assert shown(bridge) == "Returns {id, name, …}"
        for _ in range(2):
            await call(bridge)
    async with bridge_with(toy_of(record), tmp_path) as bridge:
        assert "zorp" in shown(bridge)


@pytest.mark.parametrize("written", ["", "[]", "{", '{"find": 1}', '{"find": {"k": {"a b": {}}}}', " " * 600_000, "\0"])
@on_virtual_time
async def test_an_unusable_file_costs_only_the_shapes(written: str, tmp_path: Path):
    """It is replaced."""
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        await call(bridge)
    (file,) = kept_in(tmp_path)
    good = file.read_text()
    file.write_text(written)
    async with bridge_with(toy_of(FLIGHTS), tmp_path) as bridge:
        assert shown(bridge) == ""
        await call(bridge)
    assert file.read_text() == good


def test_the_file_is_bounded(tmp_path: Path):
    """The tools that were used longest ago are left out."""
    cache, config = ListingCache(tmp_path), ServerConfig("toy", StdioSpec("toy"))
    cache.save_shapes(config, {f"tool_{number}": {"w": {"string": 1}, "x": "y" * 10_000} for number in range(200)})
    kept = cache.load_shapes(config)
    assert 10 < len(kept) < 50
    assert list(kept)[-1] == "tool_199"
