"""An authorization server that signs access tokens: in memory, or over HTTP.

Owns its keys. It has no sign-in: tokens are made by the test.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from asyncfc_mcp.transports.http.auth.signing_keys import FetchFailed

Json = dict[str, Any]
AUDIENCE = "https://bridge.example/mcp"


class TokenIssuer:
    """Keys, tokens and documents of one server.

    Args:
        url: the issuer.
        clock: seconds since 1970.
    """

    def __init__(self, url: str = "https://login.example", clock: Callable[[], float] = time.time) -> None:
        self.url, self.clock = url, clock
        self.keys: dict[str, tuple[Any, str]] = {}
        """Key ID → private key and algorithm."""
        self.fetched: list[str] = []
        self.down = False
        self.more_metadata: Json = {}
        self.add_key("k1", "ES256")

    def add_key(self, key_id: str, algorithm: str) -> None:
        private: Any
        if algorithm.startswith("ES"):
            private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = rsa.generate_private_key(65537, 2048)
        self.keys[key_id] = private, algorithm

    def public_jwk(self, key_id: str) -> Json:
        private, algorithm = self.keys[key_id]
        kind: Any = (
            ECAlgorithm if algorithm.startswith("ES") else OKPAlgorithm if algorithm == "EdDSA" else RSAAlgorithm
        )
        return {**kind.to_jwk(private.public_key(), as_dict=True), "kid": key_id, "use": "sig", "alg": algorithm}

    def public_pem(self, key_id: str) -> bytes:
        return self.keys[key_id][0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def claims(self, **changes: Any) -> Json:
        """Those of a good token; None leaves one out."""
        now = int(self.clock())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now,
            "exp": now + 300,
            "client_id": "c",
            "scope": "mcp",
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(self, key_id: str = "k1", headers: Json | None = None, **changes: Any) -> str:
        private, algorithm = self.keys[key_id]
        head = {"kid": key_id, "typ": "at+jwt", **(headers or {})}
        return jwt.encode(self.claims(**changes), private, algorithm=algorithm, headers=head)

    def document(self, url: str) -> Json | None:
        if url == f"{self.url}/.well-known/oauth-authorization-server":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.more_metadata}
        return {"keys": [self.public_jwk(each) for each in self.keys]} if url == f"{self.url}/keys" else None

    async def fetch(self, url: str) -> bytes:
        """As `documents.fetch_document`."""
        self.fetched.append(url)
        if self.down:
            raise FetchFailed(url, "cannot be reached (connection refused)")
        document = self.document(url)
        if document is None:
            raise FetchFailed(url, "answered HTTP 404", missing=True)
        return json.dumps(document).encode()


@contextlib.contextmanager
def serving(issuer: TokenIssuer, port: int = 0) -> Iterator[TokenIssuer]:
    """Serve its documents on loopback; its URL becomes that of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.fetched.append(self.path)
            document = issuer.document(issuer.url + self.path)
            body = json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
