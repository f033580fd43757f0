"""The authorization server of the tests is strict where a real one is."""

import http.client
import json
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse

VERIFIER = "v" * 43
CHALLENGE = "7w_YNF9DSfIdPf_pRjSq646_kPr-2-o9NAl16JGghdM"


def post(url: str, params: dict[str, str]) -> tuple[int, dict[str, str]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("POST", parts.path, urlencode(params), {"content-type": "application/x-www-form-urlencoded"})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read() or b"{}")
    connection.close()
    return answer


def call(server: ProtectedServer, token: str | None) -> int:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}})
    connection.request("POST", "/mcp", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("kind", ["opaque", "jwt"])
def test_tokens_are_issued_rotated_and_revoked(kind: str):
    """A code is good once, for its verifier; a spent refresh token revokes its family."""
    with AuthorizationServer() as server, ProtectedServer(server) as mcp:
        server.token_format = kind
        server.add_client("c", redirect_uris=("http://127.0.0.1:1/callback",))
        asked = {
            "client_id": "c",
            "redirect_uri": "http://127.0.0.1:1/callback",
            "response_type": "code",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "state": "s",
            "resource": mcp.url,
        }
        answer = parse_qs(urlsplit(browse(f"{server.issuer}/authorize?{urlencode(asked)}")).query)
        exchange = {
            "grant_type": "authorization_code",
            "client_id": "c",
            "code": answer["code"][0],
            "redirect_uri": asked["redirect_uri"],
            "resource": mcp.url,
            "code_verifier": VERIFIER,
        }
        status, tokens = post(f"{server.issuer}/token", exchange)
        assert status == 200, tokens
        assert post(f"{server.issuer}/token", exchange)[1]["error"] == "invalid_grant"
        assert (call(mcp, None), call(mcp, tokens["access_token"])) == (401, 200)
        server.expire_all()
        assert call(mcp, tokens["access_token"]) == 401
        refresh = {"grant_type": "refresh_token", "client_id": "c", "refresh_token": tokens["refresh_token"]}
        status, renewed = post(f"{server.issuer}/token", refresh)
        assert (status, call(mcp, renewed["access_token"])) == (200, 200)
        assert post(f"{server.issuer}/token", refresh)[1]["error"] == "invalid_grant"
        assert call(mcp, renewed["access_token"]) == 401
        assert server.requests["token:refresh_token"] == 2
