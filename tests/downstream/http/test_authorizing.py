"""Requests with an authorizer: its headers are added, and a request that is refused for lack of them is sent again."""

from collections.abc import Mapping, Sequence

import anyio
import pytest

from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.downstream.http import client
from asyncfc_mcp.downstream.http.client import HttpClient, read_start
from asyncfc_mcp.errors import HttpRefused, NotAuthorized, SignInNeeded
from tests.support.hostile_http import Exchange, HostileServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Tokens:
    """An authorizer whose tokens are `t1`, `t2` …, each after the refusal of the one before.

    Attributes:
        refusals: what was reported of refusals.
        last: after this number there are no more.
    """

    def __init__(self, last: int = 100) -> None:
        self.number, self.last = 1, last
        self.refusals: list[tuple[int, list[str], str]] = []

    @property
    def secrets(self) -> Sequence[str]:
        return (f"t{self.number}",)

    def renewed(self) -> bool:
        return False

    async def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer t{self.number}"}

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        self.refusals.append((status, list(challenges), sent["authorization"]))
        if status == 403 and "insufficient_scope" not in "".join(challenges):
            return False
        if self.number == self.last:
            raise SignInNeeded("remote")
        self.number += 1
        return True


def protected(server: HostileServer, token: str, *, status: int = 401, challenge: str = "Bearer") -> None:
    """Have a server accept requests with this token only."""

    def answer(exchange: Exchange) -> bool:
        if exchange.headers.get("authorization") == f"Bearer {token}":
            exchange.send(exchange.body)
        else:
            exchange.send(b"who are you?", status, www_authenticate=challenge)
        return True

    server.override = answer


async def sent(http: HttpClient, url: str | None = None) -> tuple[int, bytes]:
    async with http.stream("POST", url or http.url, {"content-type": "text/plain"}, b"hello") as response:
        return response.status_code, await read_start(response)


async def test_a_refused_request_is_sent_again_with_other_credentials():
    """With the same body, after the authorizer was given status, challenges and the headers that were refused."""
    tokens = Tokens()
    with HostileServer({}) as server:
        protected(server, "t2", challenge='Bearer realm="x", scope="a b"')
        async with HttpClient(HttpSpec(server.url), tokens) as http:
            assert await sent(http) == (200, b"hello")
            assert tokens.refusals == [(401, ['Bearer realm="x", scope="a b"'], "Bearer t1")]
            assert await sent(http) == (200, b"hello")
        assert len(server.seen) == 3


async def test_a_request_is_sent_again_a_limited_number_of_times():
    """A server that always refuses gets no more than three, and the error says so."""
    tokens = Tokens()
    with HostileServer({}) as server:
        protected(server, "none")
        async with HttpClient(HttpSpec(server.url), tokens) as http:
            with pytest.raises(NotAuthorized, match="refuses the credentials"):
                await sent(http)
        assert len(server.seen) == 1 + client.MAX_REFUSALS


async def test_a_refusal_that_no_credentials_change_is_the_answer():
    """403 without a challenge for scopes: the body is still there to be read."""
    tokens = Tokens()
    with HostileServer({}) as server:
        protected(server, "none", status=403, challenge='Bearer error="forbidden"')
        async with HttpClient(HttpSpec(server.url), tokens) as http:
            assert await sent(http) == (403, b"who are you?")
        assert len(server.seen) == 1


async def test_a_needed_sign_in_is_the_failure_of_the_request():
    """It says that nothing was processed."""
    with HostileServer({}) as server:
        protected(server, "none")
        async with HttpClient(HttpSpec(server.url), Tokens(last=1)) as http:
            with pytest.raises(SignInNeeded, match="asyncfc-mcp login remote") as failure:
                await sent(http)
            assert not failure.value.sent


async def test_credentials_are_for_the_origin_of_the_server():
    """They are neither sent to another URL, nor along a redirect to one."""
    with HostileServer({}) as server, HostileServer({}) as other:
        protected(other, "t1")
        async with HttpClient(HttpSpec(server.url), Tokens()) as http:
            assert (await sent(http, other.url))[0] == 401
            server.override = lambda exchange: exchange.send(b"", 307, location=other.url) or True
            with pytest.raises(HttpRefused, match="is not followed"):
                await sent(http)
        assert ["authorization" in headers for headers in server.headers] == [True]
        assert ["authorization" in headers for headers in other.headers] == [False]


async def test_every_url_of_the_origin_gets_the_credentials():
    """Such as the endpoint that an HTTP+SSE server names."""
    with HostileServer({}) as server:
        protected(server, "t1")
        async with HttpClient(HttpSpec(server.url), Tokens()) as http:
            assert await sent(http, server.url.replace("/mcp", "/messages?session=1")) == (200, b"hello")


async def test_a_redirect_within_the_origin_keeps_the_credentials():
    """And the request is sent again to the URL of the configuration after a refusal."""
    tokens = Tokens()
    with HostileServer({}) as server:
        protected(server, "t2")
        accept = server.override

        def redirect(exchange: Exchange) -> bool:
            if exchange.path == "/mcp":
                exchange.send(b"", 307, location="/moved")
                return True
            return accept(exchange)

        server.override = redirect
        async with HttpClient(HttpSpec(server.url), tokens) as http:
            assert await sent(http) == (200, b"hello")
        assert [path for _, path, _ in server.seen] == ["/mcp", "/moved", "/mcp", "/moved"]


async def test_current_credentials_are_secrets():
    """Quotes of a server's errors hide the token of this moment, and the configured headers."""
    tokens = Tokens()
    async with HttpClient(HttpSpec("http://127.0.0.1:1/", {"x-key": "a-long-secret"}), tokens) as http:
        assert "t1" in http.secrets
        tokens.number = 7
        assert "t7" in http.secrets
        assert "a-long-secret" in http.secrets


async def test_a_refusal_without_end_does_not_delay_the_next_attempt(monkeypatch: pytest.MonkeyPatch):
    """Its connection is closed after a bounded time."""
    monkeypatch.setattr(client, "REFUSED_BODY_TIMEOUT_S", 0.01)
    with HostileServer({}) as server:

        def answer(exchange: Exchange) -> bool:
            if exchange.headers["authorization"] == "Bearer t2":
                exchange.send(exchange.body)
            else:
                exchange.raw(b"HTTP/1.1 401 No\r\ncontent-length: 1000\r\n\r\nwho")
            return True

        server.override = answer
        async with HttpClient(HttpSpec(server.url), Tokens()) as http:
            with anyio.fail_after(5):
                assert await sent(http) == (200, b"hello")


@pytest.mark.parametrize(("challenge", "asked"), [("Bearer", 1), (None, 0)])
async def test_a_lost_session_is_no_lack_of_credentials(challenge: str | None, asked: int):
    """Some servers answer 401 then, without a challenge. The body is still there for those who handle that."""
    tokens = Tokens(last=2)
    with HostileServer({}) as server:

        def answer(exchange: Exchange) -> bool:
            extra = {} if challenge is None else {"www_authenticate": challenge}
            exchange.send(b"Unauthorized: Session not found", 401, "text/plain", **extra)
            return True

        server.override = answer
        async with HttpClient(HttpSpec(server.url), tokens) as http:
            if challenge is not None:
                with pytest.raises(SignInNeeded):
                    await sent(http)
            else:
                async with http.stream("POST", http.url, {"mcp-session-id": "one"}, b"{}") as response:
                    assert await read_start(response) == b"Unauthorized: Session not found"
        assert len(tokens.refusals) == asked * 2
