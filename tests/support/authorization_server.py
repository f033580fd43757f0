"""A small authorization server for tests, and an MCP server that it protects. Both behave well unless told otherwise.

Owns issuing and checking tokens, dynamic registration, rotation, and counting requests. Every attribute may be changed
while it runs. The authorize endpoint approves at once: `browse` plays the browser. A certified server is another
helper; this one is quick, and can also misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import anyio.to_thread
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from asyncfc_mcp.downstream.oauth.records import Grant
from tests.support.threaded_app import ThreadedApp

Json = dict[str, Any]
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Client:
    """A registered client."""

    client_id: str
    redirect_uris: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)
    auth_method: str = "none"
    public_key: Any = None
    """For `private_key_jwt`: a key of PyJWT, or PEM."""
    metadata: Json = field(default_factory=dict[str, Any])


@dataclass
class Issued:
    """What a token stands for."""

    client_id: str
    scopes: tuple[str, ...]
    resource: str | None
    subject: str
    expires_at: float
    family: str
    """Of one authorization: its tokens are revoked together."""


@dataclass
class _Code:
    client_id: str
    redirect_uri: str
    challenge: str
    scopes: tuple[str, ...]
    resource: str | None


class _Refused(Exception):
    def __init__(self, error: str, text: str = "", status: int = 400) -> None:
        self.error, self.text, self.status = error, text, status
        super().__init__(error)


class AuthorizationServer(ThreadedApp):
    """An authorization server at `issuer`.

    Attributes:
        expires_in: seconds for which access tokens are valid; None: the same, but the response does not say so.
        says_expires_in: what token responses say in place of `expires_in`.
        rotates: a refresh yields a new refresh token, and the use of an old one revokes all of the family.
        refreshes: refresh tokens are issued.
        token_format: `opaque`, or `jwt`, signed with ES256 by the key at `/jwks`.
        narrows: only the first scope that is asked for is granted.
        approves: the authorize endpoint approves; otherwise it redirects with `denial`.
        sends_iss: `iss` of redirects: right, absent, or of another server.
        registers: dynamic registration is offered; `registration_answers` are put into its responses.
        refuses_registration: a registration → the error code with which it is refused; empty to accept it.
        forgotten: clients that the token endpoint does not know any more, although the authorize endpoint does.
        metadata: members that replace those of the metadata; None removes one.
        requests: counts of requests, by `authorize`, `register`, `revoke`, `metadata`, `jwks` and `token:GRANT_TYPE`.
        seen: endpoint and parameters of each request, in order.
        token_gate: token requests wait for it; open at first.
    """

    def __init__(self, path: str = "", host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.path = path
        self.issuer = f"{self.origin}{path}"
        self.token_gate = threading.Event()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.reset()

    def reset(self) -> None:
        """Forget everything, and behave well again."""
        self.expires_in: int | None = 3600
        self.says_expires_in: Any = None
        self.rotates = self.refreshes = self.approves = self.registers = True
        self.token_format: Literal["opaque", "jwt"] = "opaque"
        self.scopes: tuple[str, ...] = ("read", "write", "offline_access")
        self.default_scopes: tuple[str, ...] = ("read",)
        self.narrows = False
        self.denial = "access_denied"
        self.sends_iss: Literal["right", "absent", "wrong"] = "right"
        self.subject = "alice"
        self.registration_answers: Json = {}
        self.refuses_registration: Callable[[Json], str] = lambda wanted: ""
        self.forgotten: set[str] = set()
        self.metadata: Json = {}
        self.clients: dict[str, Client] = {}
        self.requests: Counter[str] = Counter()
        self.seen: list[tuple[str, Json]] = []
        self.token_gate.set()
        self.clock = time.time
        self._codes: dict[str, _Code] = {}
        self._access: dict[str, Issued] = {}
        self._refresh: dict[str, Issued] = {}
        self._spent: dict[str, Issued] = {}
        self._dead: set[str] = set()
        self._assertions: set[str] = set()

    # --- for tests ------------------------------------------------------------------------------------------------

    def add_client(self, client_id: str, **known: Any) -> Client:
        """Register a client by hand; see `Client`."""
        client = self.clients[client_id] = Client(client_id, **known)
        return client

    def check(self, token: str, resource: str | None = None) -> Issued | None:
        """Return what a valid access token stands for; None for every other one.

        Args:
            resource: the token has to be issued for it.
        """
        issued = self._access.get(token)
        if issued is None or issued.family in self._dead or issued.expires_at <= self.clock():
            return None
        return issued if resource is None or issued.resource == resource else None

    def expire_all(self) -> None:
        """Expire every access token now."""
        for issued in self._access.values():
            issued.expires_at = 0.0

    def revoke_all(self) -> None:
        """Revoke every grant: no token is valid any more."""
        self._dead |= {issued.family for issued in (*self._access.values(), *self._refresh.values())}

    def grant_tokens(
        self, client_id: str = "client", scopes: Iterable[str] = ("read",), resource: str | None = None
    ) -> Json:
        """Issue tokens as if someone had signed in; the response of the token endpoint."""
        if client_id not in self.clients:
            self.add_client(client_id)
        return self._tokens(client_id, tuple(scopes), resource, secrets.token_hex(8), refresh=self.refreshes)

    def grant(self, resource: str, scopes: tuple[str, ...] = ("read",), /, **members: Any) -> Grant:
        """Issue tokens as if someone had signed in; the grant that a sign-in would store, but for these members."""
        answer = self.grant_tokens("client", scopes, resource)
        now = self.clock()
        return Grant(
            **{
                "issuer": self.issuer,
                "token_endpoint": f"{self.issuer}/token",
                "resource": resource,
                "client_id": "client",
                "access_token": answer["access_token"],
                "obtained_at": now,
                "scopes": scopes,
                "refresh_token": answer.get("refresh_token"),
                "expires_at": now + 3600,
                **members,
            }
        )

    # --- endpoints ------------------------------------------------------------------------------------------------

    @property
    def app(self) -> Starlette:
        path = self.path
        routes = [
            Route(f"/.well-known/oauth-authorization-server{path}", self._metadata),
            Route(f"{path}/authorize", self._authorize),
            Route(f"{path}/token", self._token, methods=["POST"]),
            Route(f"{path}/register", self._register, methods=["POST"]),
            Route(f"{path}/revoke", self._revoke, methods=["POST"]),
            Route(f"{path}/jwks", self._jwks),
        ]
        return Starlette(routes=routes)

    def _count(self, what: str, params: Mapping[str, Any]) -> None:
        self.requests[what] += 1
        self.seen.append((what, dict(params)))

    async def _metadata(self, request: Request) -> Response:
        self._count("metadata", {"path": request.url.path})
        members: Json = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "jwks_uri": f"{self.issuer}/jwks",
            "registration_endpoint": f"{self.issuer}/register" if self.registers else None,
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": [
                "none",
                "client_secret_basic",
                "client_secret_post",
                "private_key_jwt",
            ],
            "scopes_supported": list(self.scopes),
            "authorization_response_iss_parameter_supported": self.sends_iss != "absent",
            **self.metadata,
        }
        return JSONResponse({key: value for key, value in members.items() if value is not None})

    async def _jwks(self, request: Request) -> Response:
        self._count("jwks", {})
        key = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**key, "kid": "1", "use": "sig", "alg": "ES256"}]})

    async def _register(self, request: Request) -> Response:
        wanted = await request.json()
        self._count("register", wanted)
        if not self.registers:
            return JSONResponse({"error": "access_denied"}, 403)
        if error := self.refuses_registration(wanted):
            return JSONResponse({"error": error}, 400)
        method = wanted.get("token_endpoint_auth_method", "client_secret_basic")
        secret = secrets.token_urlsafe(24) if method.startswith("client_secret") else None
        client = self.add_client(
            f"client-{secrets.token_hex(6)}",
            redirect_uris=tuple(wanted.get("redirect_uris", ())),
            secret=secret,
            auth_method=method,
            metadata=wanted,
        )
        answer: Json = {**wanted, "client_id": client.client_id, "client_id_issued_at": int(self.clock())}
        if secret is not None:
            answer |= {"client_secret": secret, "client_secret_expires_at": 0}
        return JSONResponse({**answer, **self.registration_answers}, 201)

    async def _authorize(self, request: Request) -> Response:
        params = dict(request.query_params)
        self._count("authorize", params)
        client = self.clients.get(params.get("client_id", ""))
        if client is None and params.get("client_id", "").startswith("https://"):
            client = self.add_client(params["client_id"], redirect_uris=(params.get("redirect_uri", ""),))
        redirect_uri = params.get("redirect_uri", "")
        if client is None:
            return JSONResponse({"error": "invalid_client", "error_description": "client is not known"}, 400)
        if client.redirect_uris and redirect_uri not in client.redirect_uris:
            return JSONResponse({"error": "invalid_request", "error_description": "redirect_uri not registered"}, 400)
        answer = {"state": params.get("state", "")}
        if self.sends_iss != "absent":
            answer["iss"] = self.issuer if self.sends_iss == "right" else "https://other.example"
        asked = tuple(params.get("scope", "").split()) or self.default_scopes
        if not self.approves:
            answer |= {"error": self.denial, "error_description": "the user said no"}
        elif params.get("code_challenge_method") != "S256" or params.get("response_type") != "code":
            answer |= {"error": "invalid_request"}
        elif not set(asked) <= set(self.scopes):
            answer |= {"error": "invalid_scope"}
        else:
            given = asked[:1] if self.narrows else asked
            answer["code"] = code = secrets.token_urlsafe(16)
            self._codes[code] = _Code(
                client.client_id, redirect_uri, params.get("code_challenge", ""), given, params.get("resource")
            )
        mark = "&" if "?" in redirect_uri else "?"
        return RedirectResponse(f"{redirect_uri}{mark}{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        params = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        grant_type = params.get("grant_type", "")
        self._count(f"token:{grant_type}", params)
        if not self.token_gate.is_set():
            await anyio.to_thread.run_sync(self.token_gate.wait, abandon_on_cancel=True)
        try:
            client = self._authenticated(request, params)
            answer = self._answer(grant_type, client, params)
        except _Refused as exc:
            return JSONResponse({"error": exc.error, "error_description": exc.text or exc.error}, exc.status)
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    def _answer(self, grant_type: str, client: Client, params: Json) -> Json:
        if grant_type == "authorization_code":
            code = self._codes.pop(params.get("code", ""), None)
            if code is None or (code.client_id, code.redirect_uri) != (client.client_id, params.get("redirect_uri")):
                raise _Refused("invalid_grant", "no such code")
            digest = hashlib.sha256(params.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != code.challenge:
                raise _Refused("invalid_grant", "wrong code_verifier")
            if params.get("resource") != code.resource:
                raise _Refused("invalid_target")
            return self._tokens(
                client.client_id, code.scopes, code.resource, secrets.token_hex(8), refresh=self.refreshes
            )
        if grant_type == "refresh_token":
            return self._refreshed(client, params)
        if grant_type == "client_credentials":
            if client.auth_method == "none":
                raise _Refused("unauthorized_client")
            scopes = tuple(params.get("scope", "").split()) or self.default_scopes
            return self._tokens(client.client_id, scopes, params.get("resource"), secrets.token_hex(8), refresh=False)
        raise _Refused("unsupported_grant_type")

    def _refreshed(self, client: Client, params: Json) -> Json:
        token = params.get("refresh_token", "")
        if token in self._spent and self.rotates:
            self._dead.add(self._spent[token].family)
        issued = self._refresh.get(token)
        if issued is None or issued.family in self._dead or issued.client_id != client.client_id:
            raise _Refused("invalid_grant", "the refresh token is not valid")
        if params.get("resource") not in (None, issued.resource):
            raise _Refused("invalid_target")
        scopes = tuple(params.get("scope", "").split()) or issued.scopes
        if not set(scopes) <= set(issued.scopes):
            raise _Refused("invalid_scope")
        if self.rotates:
            self._spent[token] = self._refresh.pop(token)
        return self._tokens(client.client_id, scopes, issued.resource, issued.family, refresh=self.rotates)

    async def _revoke(self, request: Request) -> Response:
        params = dict(parse_qsl((await request.body()).decode()))
        self._count("revoke", params)
        try:
            self._authenticated(request, params)
        except _Refused as exc:
            return JSONResponse({"error": exc.error}, exc.status)
        token = params.get("token", "")
        for issued in (self._access.get(token), self._refresh.get(token)):
            if issued is not None:
                self._dead.add(issued.family)
        return Response(status_code=200)

    def _tokens(
        self, client_id: str, scopes: tuple[str, ...], resource: str | None, family: str, *, refresh: bool
    ) -> Json:
        lifetime = 3600 if self.expires_in is None else self.expires_in
        issued = Issued(client_id, scopes, resource, self.subject, self.clock() + lifetime, family)
        token = secrets.token_urlsafe(24)
        if self.token_format == "jwt":
            claims = {
                "iss": self.issuer,
                "sub": self.subject,
                "aud": resource or self.issuer,
                "exp": int(issued.expires_at),
                "iat": int(self.clock()),
                "jti": token,
                "client_id": client_id,
                "scope": " ".join(scopes),
            }
            token = jwt.encode(claims, self._key, "ES256", headers={"kid": "1", "typ": "at+jwt"})
        self._access[token] = issued
        answer: Json = {"access_token": token, "token_type": "Bearer", "scope": " ".join(scopes)}
        if self.says_expires_in is not None or self.expires_in is not None:
            answer["expires_in"] = self.expires_in if self.says_expires_in is None else self.says_expires_in
        if refresh:
            answer["refresh_token"] = renewed = secrets.token_urlsafe(24)
            self._refresh[renewed] = Issued(client_id, scopes, resource, self.subject, float("inf"), family)
        return answer

    def _authenticated(self, request: Request, params: Json) -> Client:
        """Return the client of a request, by the method that it is registered with and no other."""
        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            client_id, secret, method = unquote_plus(name), unquote_plus(secret), "client_secret_basic"
        elif "client_assertion" in params:
            client_id, secret, method = self._asserted(params), None, "private_key_jwt"
        elif "client_secret" in params:
            client_id, secret, method = params.get("client_id", ""), params["client_secret"], "client_secret_post"
        else:
            client_id, secret, method = params.get("client_id", ""), None, "none"
        client = None if client_id in self.forgotten else self.clients.get(client_id)
        if client is None or client.auth_method != method or (method != "private_key_jwt" and client.secret != secret):
            raise _Refused("invalid_client", status=401)
        return client

    def _asserted(self, params: Json) -> str:
        assertion = params["client_assertion"]
        try:
            named = jwt.decode(assertion, options={"verify_signature": False})["sub"]
            key = self.clients[named].public_key
            claims = jwt.decode(
                assertion,
                key,
                algorithms=["ES256", "RS256", "EdDSA"],
                audience=[self.issuer, f"{self.issuer}/token"],
                issuer=named,
                options={"require": ["exp", "jti", "sub", "iss", "aud"]},
            )
        except (jwt.PyJWTError, KeyError):
            raise _Refused("invalid_client", "bad assertion", 401) from None
        if params.get("client_assertion_type") != JWT_BEARER or claims["jti"] in self._assertions:
            raise _Refused("invalid_client", "assertion used before", 401)
        self._assertions.add(claims["jti"])
        return claims["sub"]


class ProtectedServer(ThreadedApp):
    """An MCP server over Streamable HTTP, without sessions, whose requests need a token of an authorization server.

    Its tools: `echo` returns its `text`, and `write` too, which needs the scope `write`.

    Attributes:
        challenge: `WWW-Authenticate` of 401; None: made of `says_metadata` and `scope`.
        says_metadata: the challenge has the URL of the protected-resource metadata.
        metadata: members that replace those of that metadata; None removes one; `serves_metadata` false: 404.
        requests: counts of `ok`, `401` and `403`, and of `metadata`.
        authorizations: values of `Authorization`, in order.
        calls: names of tools that were called.
    """

    def __init__(self, authorization: AuthorizationServer, path: str = "/mcp", host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.authorization = authorization
        self.path = path
        self.url = f"{self.origin}{path}"
        self.reset()

    def reset(self) -> None:
        """Forget everything, and behave well again."""
        self.challenge: str | None = None
        self.says_metadata = self.serves_metadata = True
        self.scope: str | None = None
        self.metadata: Json = {}
        self.needed: dict[str, tuple[str, ...]] = {"write": ("write",)}
        self.checks_resource = True
        self.requests: Counter[str] = Counter()
        self.authorizations: list[str | None] = []
        self.calls: list[str] = []

    @property
    def metadata_url(self) -> str:
        return f"{self.origin}/.well-known/oauth-protected-resource{self.path}"

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(f"/.well-known/oauth-protected-resource{self.path}", self._metadata),
                Route(self.path, self._mcp, methods=["GET", "POST", "DELETE"]),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        self.requests["metadata"] += 1
        if not self.serves_metadata:
            return Response(status_code=404)
        members: Json = {
            "resource": self.url,
            "authorization_servers": [self.authorization.issuer],
            "scopes_supported": ["read"],
            **self.metadata,
        }
        return JSONResponse({key: value for key, value in members.items() if value is not None})

    async def _mcp(self, request: Request) -> Response:
        header = request.headers.get("authorization")
        self.authorizations.append(header)
        token = header.removeprefix("Bearer ") if header is not None and header.startswith("Bearer ") else ""
        issued = self.authorization.check(token, self.url if self.checks_resource else None)
        if issued is None:
            self.requests["401"] += 1
            return Response(status_code=401, headers={"www-authenticate": self._challenge(token)})
        if request.method != "POST":
            return Response(status_code=405)
        message = await request.json()
        method, params = message.get("method"), message.get("params") or {}
        needed = self.needed.get(params.get("name", ""), ()) if method == "tools/call" else ()
        if not set(needed) <= set(issued.scopes):
            self.requests["403"] += 1
            words = f'Bearer error="insufficient_scope", scope="{" ".join(needed)}"'
            return Response(
                status_code=403,
                headers={"www-authenticate": f'{words}, resource_metadata="{self.metadata_url}"'},
            )
        self.requests["ok"] += 1
        if "id" not in message:
            return Response(status_code=202)
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], **self._answer(method, params)})

    def _challenge(self, token: str) -> str:
        if self.challenge is not None:
            return self.challenge
        parts = ['error="invalid_token"'] if token else []
        if self.says_metadata:
            parts.append(f'resource_metadata="{self.metadata_url}"')
        if self.scope is not None:
            parts.append(f'scope="{self.scope}"')
        return f"Bearer {', '.join(parts)}".rstrip()

    def _answer(self, method: str, params: Json) -> Json:
        match method:
            case "initialize":
                return {
                    "result": {
                        "protocolVersion": params.get("protocolVersion", "2025-06-18"),
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "protected", "version": "1"},
                    }
                }
            case "ping":
                return {"result": {}}
            case "tools/list":
                schema = {"type": "object", "properties": {"text": {"type": "string"}}}
                tools = [{"name": name, "description": name, "inputSchema": schema} for name in ("echo", "write")]
                tools[0]["annotations"] = {"readOnlyHint": True}
                return {"result": {"tools": tools}}
            case "tools/call":
                self.calls.append(params["name"])
                text = str((params.get("arguments") or {}).get("text", ""))
                return {"result": {"content": [{"type": "text", "text": text}]}}
            case _:
                return {"error": {"code": -32601, "message": "Method not found"}}


def browse(url: str) -> str:
    """Open a URL as a browser that is signed in and approves; return where it was redirected to, not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        body = response.read()
        location = response.headers.get("location")
        assert location is not None, (response.status, body)
        return location
    finally:
        connection.close()


def get(url: str) -> tuple[int, str]:
    """Open a URL; return the status and the page."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
