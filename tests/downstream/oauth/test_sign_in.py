"""Signing in, against a small authorization server and a protected server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asyncfc_mcp.config.settings import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.records import Grant
from asyncfc_mcp.downstream.oauth.sign_in import sign_in
from asyncfc_mcp.downstream.oauth.token_endpoint import refresh, revoke
from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse, get
from tests.support.credential_stores import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@dataclass
class World:
    """An authorization server, a server that it protects, a store, and a browser."""

    authorization: AuthorizationServer
    mcp: ProtectedServer
    store: MemoryStore = field(default_factory=MemoryStore)
    port: int = field(default_factory=free_port)
    shown: list[str] = field(default_factory=list)

    def spec(self, **oauth: Any) -> HttpSpec:
        return HttpSpec(self.mcp.url, oauth=OAuthSpec(**{"callback_port": self.port, **oauth}))

    async def show(self, url: str) -> None:
        """Play the browser."""
        self.shown.append(url)
        await anyio.to_thread.run_sync(visit, url)

    async def sign_in(self, scopes: tuple[str, ...] = (), **oauth: Any) -> Grant:
        with anyio.fail_after(20):
            return await sign_in("s", self.spec(**oauth), self.store, scopes=scopes, show=self.show)


def visit(url: str) -> tuple[int, str]:
    """Follow a sign-in to the loopback redirect; return the status and the page there."""
    return get(browse(url))


@pytest.fixture
def world() -> Iterator[World]:
    with AuthorizationServer() as authorization, ProtectedServer(authorization) as mcp:
        yield World(authorization, mcp)


async def test_a_first_sign_in_registers_and_saves_a_grant(world: World):
    """From the challenge to tokens that the server accepts, with everything that a later refresh needs."""
    grant = await world.sign_in()
    assert world.authorization.check(grant.access_token, world.mcp.url) is not None
    assert world.store.load_grant("s", world.mcp.url) == grant
    assert grant.scopes == ("read", "offline_access")
    assert world.authorization.requests["register"] == 1
    renewed = await refresh("s", world.spec(), world.store, grant)
    assert world.authorization.check(renewed.access_token, world.mcp.url) is not None
    assert renewed.refresh_token != grant.refresh_token
    assert renewed.obtained_at > grant.obtained_at
    assert await revoke("s", world.spec(), world.store, renewed)
    assert world.authorization.check(renewed.access_token) is None
    resources = [params.get("resource") for what, params in world.authorization.seen if what[:5] in ("autho", "token")]
    assert resources == [world.mcp.url] * 3
