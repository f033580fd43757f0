"""Listings are kept on disk, to the byte, and an unusable copy costs only time."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.model import HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.snapshot import LISTINGS, ServerSnapshot

TOOL: dict[str, Any] = {
    "name": "search",
    "inputSchema": {"type": "object", "properties": {"q": {"type": "string"}}},
    "title": "Search",
    "description": "Searches.",
    "annotations": {"readOnlyHint": True, "x-hint": "kept"},
    "icons": [{"src": "https://example.com/i.png"}],
    "outputSchema": {"type": "object"},
    "execution": {"taskSupport": "required"},
    "_meta": {"vendor/x": {"null": None}},
    "x-unknown": [1, None],
}


def server(name: str = "github", **more: Any) -> ServerConfig:
    return ServerConfig(name, StdioSpec("cmd"), **more)


SNAPSHOT = ServerSnapshot(
    capabilities={"tools": {"listChanged": True}},
    info={"name": "toy"},
    instructions="Use it.",
    protocol_version="2025-11-25",
    listings={"tools": [TOOL], "prompts": [{"name": "p"}]},
)


def test_listings_survive_a_restart(tmp_path: Path):
    """To the byte, unknown fields included; a listing that is not there is empty."""
    anyio.run(ListingCache(tmp_path / "new" / "folder").save, server(), SNAPSHOT)
    loaded = ListingCache(tmp_path / "new" / "folder").load(server())
    assert loaded == SNAPSHOT
    assert loaded is not None
    assert [len(loaded.listing(kind)) for kind in LISTINGS] == [1, 1, 0, 0]


def test_a_server_that_was_configured_differently_is_another_one(tmp_path: Path):
    """Its command, its environment, its name; settings of ours do not count."""
    cache = ListingCache(tmp_path)
    anyio.run(cache.save, server(), SNAPSHOT)
    assert cache.load(server("other")) is None
    assert cache.load(ServerConfig("github", StdioSpec("cmd", ("--other",)))) is None
    assert cache.load(ServerConfig("github", StdioSpec("cmd", env={"A": "b"}))) is None
    assert cache.load(ServerConfig("github", HttpSpec("https://example.com"))) is None
    assert cache.load(server(base=Policy(grace_ms=0), exclude=("a",))) == SNAPSHOT


def test_nothing_of_a_configuration_is_written_to_the_cache(tmp_path: Path):
    """It may hold secrets, in the arguments, the environment or the headers."""
    spec = HttpSpec("https://example.com/?key=sesame-url", {"Authorization": "Bearer sesame"})
    anyio.run(ListingCache(tmp_path).save, ServerConfig("web", spec), SNAPSHOT)
    (file,) = tmp_path.iterdir()
    assert "sesame" not in file.name + file.read_text()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"unknown": 1}',
        b'{"listings": 5}',
        b'{"listings": {"tools": "x"}}',
        b'{"listings": {"tools": [1]}}',
        b'{"capabilities": null}',
        b'{"info": []}',
        b'{"instructions": 7}',
        b'{"protocol_version": null}',
        b"[" * 100_000,
    ],
)
def test_a_cache_that_cannot_be_used_costs_only_time(tmp_path: Path, content: bytes):
    """Cut off, of another version, or written by somebody else: it is as if there were none."""
    cache = ListingCache(tmp_path)
    anyio.run(cache.save, server(), SNAPSHOT)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert cache.load(server()) is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path):
    """The bridge runs without a cache."""
    (tmp_path / "file").write_text("not a folder")
    cache = ListingCache(tmp_path / "file")
    anyio.run(cache.save, server(), SNAPSHOT)
    assert cache.load(server()) is None
    anyio.run(ListingCache(None).save, server(), SNAPSHOT)
    assert ListingCache(None).load(server()) is None


def test_a_listing_that_is_nested_too_deeply_to_be_written_is_not_kept(tmp_path: Path):
    """And harms nobody."""
    schema: Any = {}
    for _ in range(5000):
        schema = {"properties": schema}
    cache = ListingCache(tmp_path)
    anyio.run(cache.save, server(), ServerSnapshot(listings={"tools": [{"name": "deep", "inputSchema": schema}]}))
    assert cache.load(server()) is None
