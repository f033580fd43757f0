"""`asyncfc-mcp login` at hostile servers: what they send does not drive the terminal, and every failure is in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse
from tests.support.sign_in import login
from tests.support.site import Site
from tests.support.stage import Ran, Stage, free_port

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\u202eevil\u2028x"


class Scene:
    """A user with a config for one server."""

    def __init__(self, stage: Stage, authorization: AuthorizationServer, server: ProtectedServer) -> None:
        self.stage, self.authorization, self.server = stage, authorization, server

    def login(self, *options: str, url: str | None = None) -> Ran:
        """Sign in; the output is never more than text."""
        entry = {"url": url or self.server.url, "oauth": {"callback_port": free_port()}}
        ran = login(self.stage, self.stage.config({"srv": entry}), "srv", *options, browse=browse)
        assert "Traceback" not in ran.stdout
        assert all(letter.isprintable() or letter == "\n" for letter in ran.stdout), repr(ran.stdout)
        return ran


@pytest.fixture
def scene(stage: Stage) -> Iterator[Scene]:
    with AuthorizationServer() as authorization, ProtectedServer(authorization) as server:
        yield Scene(stage, authorization, server)


def test_names_with_escape_sequences(scene: Scene):
    """Of tools, of scopes, and in errors."""
    answer = scene.server._answer

    def hostile(method: str, params: Any) -> Any:
        found = answer(method, params)
        if method == "tools/list":
            schema = {"type": "object"}
            return {"result": {"tools": [{"name": f"t{ESCAPES}", "inputSchema": schema, "description": ESCAPES}]}}
        return found

    scene.server._answer = hostile  # type: ignore[method-assign]
    scene.authorization.scopes = ("read", "offline_access", ESCAPES)
    scene.server.metadata = {"scopes_supported": ["read", ESCAPES]}
    assert scene.login().code == 0
    scene.authorization.approves, scene.authorization.denial = False, ESCAPES
    assert scene.login("--force").code != 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "--help",
        "https://evil.example/\x1b[2J",
        "data:text/html,x",
        "vscode://x",
    ],
)
def test_what_a_browser_must_not_open(scene: Scene, endpoint: str):
    """Only an address of the web is shown, or opened."""
    scene.authorization.metadata = {"authorization_endpoint": endpoint}
    ran = scene.login()
    assert ran.code != 0
    assert "sign-in to 'srv' failed" in ran.stdout


def test_a_server_that_is_no_mcp_server(scene: Scene):
    """Whatever it answers, the command ends with words and a code."""
    with Site() as site:

        def random(request: Request, body: bytes) -> Response:
            return JSONResponse(json.loads("[" * 50 + "]" * 50), 200)

        site.otherwise(random)
        assert scene.login(url=f"{site.origin}/mcp").code != 0
        site.otherwise(Response(ESCAPES.encode() * 1000, 403, {"www-authenticate": "Bearer " + "x" * 5000}))
        assert scene.login(url=f"{site.origin}/mcp").code != 0
