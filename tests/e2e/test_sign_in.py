"""Sign-in to a wrapped server that a certified authorization server protects, with real processes on every side."""

from __future__ import annotations

import contextlib
import json
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant
from tests.support.browser import Browser
from tests.support.client import HANDSHAKE, MODERN, Json, eventually, text_of
from tests.support.oidc_provider import OidcProvider, oidc_provider
from tests.support.protected_server import ProtectedServer, protected_server
from tests.support.sign_in import login, login_options
from tests.support.stage import REPO, Stage, free_port
from tests.support.stdio_client import Wire

pytestmark = pytest.mark.node
DOCUMENT = "https://client.example/metadata.json"
CALLS = 32
EXPIRES_IN_S = 5.0
MACHINE_SECRET = "secret-of-a-machine"
MACHINE_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def provider(npm_auth: Path) -> Iterator[OidcProvider]:
    """The authorization server of all tests here; `fresh` puts its settings back."""
    key = ECAlgorithm.to_jwk(MACHINE_KEY.public_key(), as_dict=True)
    machine = {"grant_types": ["client_credentials"], "response_types": [], "redirect_uris": []}
    with oidc_provider(
        npm_auth,
        documents={
            DOCUMENT: {
                "client_id": DOCUMENT,
                "client_name": "bridge",
                "redirect_uris": ["http://127.0.0.1/callback"],
                "grant_types": ["authorization_code", "refresh_token"],
                "token_endpoint_auth_method": "none",
                "application_type": "native",
            }
        },
        clients=[
            {"client_id": "machine", "client_secret": MACHINE_SECRET, **machine},
            {
                "client_id": "signer",
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES256",
                "jwks": {"keys": [{**key, "kid": "k", "use": "sig", "alg": "ES256"}]},
                **machine,
            },
        ],
    ) as provider:
        yield provider


@pytest.fixture(scope="module")
def protected(provider: OidcProvider) -> Iterator[ProtectedServer]:
    """The protected server of all tests here."""
    with protected_server(provider.issuer) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(provider: OidcProvider, protected: ProtectedServer) -> Iterator[None]:
    """Counters at zero, and nothing left of the last test's settings."""
    provider.reset_counters()
    protected.reset()
    yield
    provider.set(access_token_ttl_s=3600, rotate=True, issue_refresh_token="offline_access", token_delay_ms=0)
    provider.shift_clock(0)


class Bench:
    """One user of one machine: a config, its store, and the bridges that use them."""

    def __init__(self, stage: Stage, protected: ProtectedServer, **oauth: Any) -> None:
        self.stage, self.url = stage, protected.url
        self.secrets: set[str] = set()
        # A port of its own: tests run beside each other.
        settings = {"callback_port": free_port(), **oauth}
        entry = {"url": protected.url, "oauth": settings, "asyncfc": {"max_concurrency": 2 * CALLS}}
        self.config = stage.config({"srv": entry}, grace_ms=0)

    @property
    def store(self) -> FileStore:
        """The store of credentials."""
        folder = next(path.parent for path in (self.stage.folder / "state").rglob("grant-*.json"))
        return FileStore(folder)

    def login(self, *options: str, login_as: str = "alice") -> str:
        """Sign in; what the command has printed."""
        redirects: list[str] = []

        def browse(url: str) -> str:
            redirects.append(Browser(login_as).authorize(url))
            return redirects[-1]

        ran = login(self.stage, self.config, "srv", *options, browse=browse)
        assert ran.code == 0, ran.stdout
        self.remember()
        for redirect in redirects:
            self.secrets |= set(parse_qs(urlsplit(redirect).query)["code"])
        assert not [secret for secret in self.secrets if secret in ran.stdout]
        return ran.stdout

    def remember(self) -> None:
        """Note the credentials that there are now, which must not be found anywhere else."""
        with contextlib.suppress(StopIteration):
            grant = self.store.load_grant("srv", self.url)
            if grant is not None:
                self.secrets |= {grant.access_token, grant.refresh_token or grant.access_token}

    def leaks(self) -> list[str]:
        """Where credentials are found: files other than the store, command lines and environments of processes."""
        self.remember()
        places = [path for path in self.stage.folder.rglob("*") if path.is_file() and path.parent.name != "oauth"]
        places += [Path(f"/proc/{each.pid}/{name}") for each in self.stage.alive() for name in ("cmdline", "environ")]
        found: list[str] = []
        for place in places:
            with contextlib.suppress(OSError):
                data = place.read_bytes()
                found += [str(place) for secret in self.secrets if secret.encode() in data]
        return found

    def bridge(self, era: str = HANDSHAKE) -> Wire:
        """A bridge over stdio."""
        return self.stage.serve("--config", str(self.config), "-v", era=era)

    def grant(self) -> Grant:
        """What is stored."""
        grant = self.store.load_grant("srv", self.url)
        assert grant is not None
        return grant

    def change(self, **members: Any) -> None:
        """Change what is stored. A bridge reads it when it starts, or when its token is refused."""
        self.store.save_grant("srv", self.url, replace(self.grant(), **members))

    def expire(self) -> None:
        """Let the stored access token be expired, as far as a bridge knows that starts now."""
        self.change(expires_at=time.time() - 5)

    def inspect(self) -> str:
        """What `asyncfc-mcp inspect` prints."""
        return self.stage.run("inspect", "--config", str(self.config)).stdout


@pytest.fixture
def bench(stage: Stage, protected: ProtectedServer) -> Iterator[Bench]:
    """A user who has not signed in yet. No test leaves a credential anywhere but in the store."""
    bench = Bench(stage, protected)
    yield bench
    assert not bench.leaks()


def call(bridge: Wire, tool: str = "echo", **arguments: Any) -> Json:
    """The outcome of one call of the server."""
    bridge.wait_for_tools(f"srv__{tool}")
    return bridge.outcome(bridge.submit(f"srv__{tool}", arguments or {"text": "hi"}).id)


def call_all(bridges: list[Wire], tag: str) -> list[str]:
    """Make calls at once that end only when all of them are at the server together; their texts."""
    for bridge in bridges:
        bridge.wait_for_tools("srv__meet")
    count = CALLS // len(bridges)
    futures = [
        (bridge, bridge.submit("srv__meet", {"count": CALLS, "tag": tag, "n": n}).id)
        for n in range(count)
        for bridge in bridges
    ]
    with ThreadPoolExecutor(8) as pool:
        return [text_of(result) for result in pool.map(lambda each: each[0].outcome(each[1]), futures)]


# --- the first sign-in -------------------------------------------------------------------------------------------


def test_the_first_sign_in(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """A redirect that is pasted: the call is made as the user who signed in, and the store is private."""
    assert "alice" not in bench.login()
    assert text_of(call(bench.bridge())) == "hi"
    assert protected.state()["subjects"] == ["alice"]
    assert provider.count("POST /reg") == 1
    files = [path for path in (bench.stage.folder / "state").rglob("*.json") if "grant-" in path.name]
    assert files
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_a_browser_that_returns_by_itself(bench: Bench, protected: ProtectedServer):
    """`login` opens the browser, and its listener takes the redirect."""
    browser = f"{sys.executable} {REPO / 'tests' / 'support' / 'browser.py'} --login bob --finish %s"
    ran = bench.stage.run("login", "srv", "--config", str(bench.config), env={"BROWSER": browser, "DISPLAY": ":0"})
    assert ran.code == 0, ran.stdout + ran.stderr
    assert text_of(call(bench.bridge())) == "hi"
    assert protected.state()["subjects"] == ["bob"]


def test_a_user_who_declines(bench: Bench):
    """The command says so and fails; nothing is stored."""
    ran = login(bench.stage, bench.config, "srv", browse=Browser(consents=False).authorize)
    assert ran.code != 0
    assert "denied" in ran.stdout
    assert not list((bench.stage.folder / "state").rglob("grant-*"))


def test_a_client_id_metadata_document(stage: Stage, protected: ProtectedServer, provider: OidcProvider):
    """With a document nothing is registered: its URL is the client's ID."""
    bench = Bench(stage, protected, client_metadata_url=DOCUMENT)
    bench.login()
    assert text_of(call(bench.bridge())) == "hi"
    assert provider.count("POST /reg") == 0
    assert provider.count("document") >= 1


@pytest.mark.parametrize("client", ["machine", "signer"])
def test_machines(stage: Stage, protected: ProtectedServer, provider: OidcProvider, client: str):
    """Client credentials, by a secret and by a signed JWT: no sign-in, and a new token when one has expired."""
    pem = MACHINE_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own: Json = (
        {"client_secret": MACHINE_SECRET} if client == "machine" else {"private_key": pem.decode(), "key_id": "k"}
    )
    bench = Bench(stage, protected, client_id=client, grant="client_credentials", scopes=["mcp"], **own)
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    assert provider.count("token client_credentials 200") == 1
    assert provider.count("GET /auth") == 0


# --- without a sign-in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_a_bridge_without_a_sign_in(bench: Bench, provider: OidcProvider, era: str):
    """It starts, opens no browser, and says what to run; a sign-in is enough for it to go on."""
    bridge = bench.bridge(era)

    def shown() -> bool:
        return "asyncfc-mcp login srv" in text_of(bridge.call("list_futures"))

    eventually(shown, "list_futures says what to run")
    assert "sign-in" in bench.inspect()
    assert provider.count("GET /auth") == 0
    bench.login()
    assert text_of(call(bridge)) == "hi"


def test_a_grant_that_was_revoked(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """The call fails at once with what to do; after a sign-in the same process makes calls again."""
    bench.login()
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    provider.revoke_all()
    protected.refuse_known_tokens()
    failed = call(bridge)
    assert failed["isError"]
    assert "asyncfc-mcp login srv" in text_of(failed)
    assert {"srv__echo", "srv__admin"} <= set(bridge.tools())
    refreshes = provider.refreshes
    assert "asyncfc-mcp login srv" in text_of(call(bridge))
    assert provider.refreshes == refreshes, "a grant that is dead is not tried again"
    bench.login()
    assert text_of(call(bridge)) == "hi"


def test_a_registration_that_was_forgotten(bench: Bench, provider: OidcProvider):
    """A dead registration is dropped and made again, once, by the next sign-in."""
    bench.login()
    provider.revoke_all()
    provider.forget_clients()
    bench.expire()
    bridge = bench.bridge()
    assert eventually(lambda: "login srv" in text_of(bridge.call("list_futures")), "the bridge says what to run")
    ran = login(bench.stage, bench.config, "srv", browse=Browser().authorize)
    if ran.code != 0:  # some servers show their error in the browser only: then a second one is needed
        bench.login()
    assert text_of(call(bridge)) == "hi"
    assert provider.count("POST /reg") == 2


def test_signing_out(bench: Bench, provider: OidcProvider):
    """`logout` revokes the tokens at the server and forgets them."""
    bench.login()
    ran = bench.stage.run("logout", "srv", "--config", str(bench.config))
    assert ran.code == 0, ran.stderr
    assert provider.count("POST /token/revocation") >= 1
    assert not list((bench.stage.folder / "state").rglob("grant-*.json"))
    bridge = bench.bridge()
    eventually(lambda: "login srv" in text_of(bridge.call("list_futures")), "the bridge says what to run")


# --- the life of tokens ------------------------------------------------------------------------------------------


def test_a_restart_needs_no_browser(bench: Bench, provider: OidcProvider):
    """Expiry, endpoints and the registration outlive the process: an expired token is refreshed by the next run."""
    bench.login()
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    bridge.close()
    opened = provider.count("GET /auth")
    bench.expire()
    assert text_of(call(bench.bridge())) == "hi"
    assert provider.refreshes == 1
    assert provider.count("GET /auth") == opened
    assert provider.count("POST /reg") == 1


def test_refresh_tokens_rotate(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """Each is used once, and the next one is stored before its tokens are."""
    bench.login()
    bridge = bench.bridge()
    seen: set[str | None] = set()
    for n in range(1, 4):
        protected.refuse_known_tokens()
        assert text_of(call(bridge)) == "hi"
        seen.add(bench.grant().refresh_token)
        assert (provider.refreshes, len(seen)) == (n, n)
    assert provider.count("token refresh_token 200") == 3


def test_refresh_tokens_that_stay(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """A server that does not rotate sends no new one: the old one is kept."""
    provider.set(rotate=False)
    bench.login()
    bridge = bench.bridge()
    for n in (1, 2):
        protected.refuse_known_tokens()
        assert text_of(call(bridge)) == "hi"
        assert provider.count("token refresh_token 200") == n


@pytest.mark.parametrize("bridges", [1, 2])
@pytest.mark.parametrize("how", ["expired", "refused"])
def test_calls_at_once_through_an_expired_token(
    bench: Bench, provider: OidcProvider, protected: ProtectedServer, bridges: int, how: str
):
    """32 calls, in one bridge or two on one store: one refresh in all, every call answered, and all at the server at
    the same time, which they are not if a lock is held while a request is out."""
    bench.login()
    now = time.time()
    if how == "expired":
        bench.change(obtained_at=now, expires_at=now + EXPIRES_IN_S)
    opened = [bench.bridge() for _ in range(bridges)]
    for bridge in opened:
        assert text_of(call(bridge)) == "hi"
    provider.set(token_delay_ms=300)
    if how == "expired":
        # A machine that is so slow that the calls above have renewed the token already shows less, and nothing wrong.
        time.sleep(max(0.0, now + EXPIRES_IN_S - time.time()))
    else:
        protected.refuse_known_tokens()
    texts = call_all(opened, f"{how}-{bridges}")
    assert sorted(texts) == sorted(f"met {n}" for n in range(CALLS // bridges) for _ in range(bridges))
    assert provider.refreshes == 1
    assert protected.state()["most_at_once"] >= CALLS


def test_a_step_up(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """A call that needs a further scope says so; the next sign-in asks for the union, and the call is made."""
    bench.login()
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    failed = call(bridge, "admin", text="x")
    assert failed["isError"]
    assert "login srv" in text_of(failed)
    assert text_of(call(bridge)) == "hi", "other calls go on"
    bench.login(*login_options(text_of(failed)))
    assert {"mcp", "mcp:admin"} <= set(bench.grant().scopes)
    assert text_of(call(bridge, "admin", text="x")) == "admin x"
    assert text_of(call(bridge)) == "hi"


@pytest.mark.parametrize("shift_s", [-600, 600])
def test_clocks_that_differ(bench: Bench, provider: OidcProvider, shift_s: int):
    """Lifetimes count from when tokens came, not by the server's clock."""
    provider.shift_clock(shift_s)
    bench.login()
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    assert provider.refreshes == 0


def test_tokens_that_the_server_never_takes(bench: Bench, provider: OidcProvider, protected: ProtectedServer):
    """A clock so wrong that each token is expired when it comes: a few attempts, then words; no endless refreshing."""
    bench.login()
    bridge = bench.bridge()
    assert text_of(call(bridge)) == "hi"
    provider.shift_clock(-7200)
    protected.refuse_known_tokens()
    failed = call(bridge)
    assert failed["isError"]
    assert provider.refreshes <= 5


def test_a_token_endpoint_that_is_down_for_a_moment(bench: Bench, provider: OidcProvider, npm_auth: Path):
    """An authorization server that cannot be reached is no reason to sign in again: the grant stays."""
    with oidc_provider(npm_auth) as other, protected_server(other.issuer) as server:
        bench = Bench(bench.stage, server)
        bench.login()
        bridge = bench.bridge()
        assert text_of(call(bridge)) == "hi"  # the listing is known from here on
        bridge.close()
        grant = bench.grant()
        bench.change(expires_at=1.0, token_endpoint=f"http://127.0.0.1:{free_port()}/token")
        bridge = bench.bridge()
        failed = call(bridge)
        assert failed["isError"]
        assert "login" not in text_of(failed)
        bench.store.save_grant("srv", bench.url, grant)
        eventually(lambda: text_of(call(bridge)) == "hi", "the bridge tries again")


def test_a_server_over_http_with_sse(stage: Stage, provider: OidcProvider):
    """The older transport is authorized too: its stream and its messages, and again when its token is refused."""
    with protected_server(provider.issuer, "--sse") as server:
        bench = Bench(stage, server)
        bench.login()
        bridge = bench.bridge()
        assert text_of(call(bridge)) == "hi"
        server.refuse_known_tokens()
        assert text_of(call(bridge)) == "hi"
        assert provider.refreshes == 1
        assert not bench.leaks()


# --- where the client can be asked -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_can_be_asked(bench: Bench, protected: ProtectedServer, provider: OidcProvider, mode: str):
    """URL elicitation: the client opens the page, and the calls that waited go on, with one question for all."""
    bench.login()
    bridge = bench.bridge()
    call(bridge)  # the listing is known from here on
    bridge.close()
    provider.revoke_all()
    bench.expire()
    script = REPO / "tests" / "e2e" / "clients" / "url_elicitation.py"
    command = bench.stage.command("serve", "--config", str(bench.config))
    ran = bench.stage.run_command([sys.executable, str(script), mode, "srv__echo", *command], timeout=60)
    assert ran.code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [text.splitlines()[-1] for text in report["texts"]] == ["hi 0", "hi 1", "hi 2"]
    assert len(report["asked"]) == 1
    assert urlsplit(report["asked"][0]["url"]).netloc == urlsplit(provider.issuer).netloc
    assert protected.state()["subjects"] == ["alice"]
