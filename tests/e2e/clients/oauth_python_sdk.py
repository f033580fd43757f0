"""A client on the Python SDK that signs in by itself (OAuth), then lists tools and calls some; prints one JSON object.

Usage: python oauth_python_sdk.py (auto | legacy) URL LOGIN < [[TOOL, ARGUMENTS], ...]
"""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
from anyio import to_thread
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.browser import Browser


class Memory(TokenStorage):
    """Tokens of this process."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens."""
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep the tokens."""
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return the registration."""
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep the registration."""
        self.client = client_info


async def main(mode: str, url: str, login: str) -> None:
    """Sign in, and make the calls."""
    calls = json.load(sys.stdin)
    storage, redirected = Memory(), ""

    async def redirect(authorization_url: str) -> None:
        nonlocal redirected
        redirected = await to_thread.run_sync(Browser(login).authorize, authorization_url)

    async def callback() -> AuthorizationCodeResult:
        answer = {name: values[0] for name, values in parse_qs(urlsplit(redirected).query).items()}
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

    metadata = OAuthClientMetadata.model_validate(
        {
            "redirect_uris": ["http://127.0.0.1:3030/callback"],
            "client_name": "python-sdk",
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        }
    )
    auth = OAuthClientProvider(url, metadata, storage, redirect, callback)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client,
    ):
        wanted = {name for name, _ in calls}
        tools: list[str] = []
        with anyio.fail_after(30):
            while not wanted <= set(tools):
                tools = [tool.name for tool in (await client.list_tools()).tools]
                await anyio.sleep(0.05)
        results = []
        for name, arguments in calls:
            result = await client.call_tool(name, arguments)
            results.append(result.model_dump(mode="json", by_alias=True, exclude_none=True))
        version = client.protocol_version
    assert storage.tokens is not None
    print(json.dumps({"tools": tools, "results": results, "token": storage.tokens.access_token, "version": version}))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
