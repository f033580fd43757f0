"""Sign-in settings: the spellings of hosts mean the same, wrong values are explained, and no secret is shown."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.config.oauth_reader import KEYS, algorithm_of
from asyncfc_mcp.config.reader import config_for_url, load_config
from tests.support.configurations import Json, entry, left_out, parse, refused

URL = "https://mcp.example.com/mcp"
KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAhunter2hunter2\n-----END PRIVATE KEY-----\n"


def oauth_of(own: Json, environ: dict[str, str] | None = None) -> OAuthSpec | None:
    """Return the sign-in of a server at `URL` whose entry has these keys as well."""
    spec = entry({"url": URL, **own}, environ).spec
    assert isinstance(spec, HttpSpec)
    return spec.oauth


def warnings_of(own: Json) -> list[str]:
    """Return the warnings of such an entry, without file and path of the server."""
    prefix = "mcp.json: mcpServers.s."
    return [each.removeprefix(prefix) for each in parse({"mcpServers": {"s": {"url": URL, **own}}}).warnings]


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({}, OAuthSpec()),
        ({"oauth": True}, OAuthSpec()),
        ({"oauth": {}}, OAuthSpec()),
        ({"oauth": None}, OAuthSpec()),
        ({"auth": "oauth"}, OAuthSpec()),
        ({"headers": {"X-Api-Version": "2"}}, OAuthSpec()),
        ({"oauth": False}, None),
        ({"oauth": {"enabled": False, "clientId": "c"}}, None),
        ({"oauth": {"enabled": True, "clientId": "c"}}, OAuthSpec(client_id="c")),
        ({"headers": {"Authorization": "Bearer t"}}, None),
        ({"headers": {"authorization": "Basic t"}}, None),
        ({"headers": {"Authorization": "Bearer t"}, "oauth": {"clientId": "c"}}, None),
        ({"url": "https://me:pass@mcp.example.com/mcp"}, None),
        ({"url": "https://token@mcp.example.com/mcp"}, None),
    ],
)
def test_a_server_at_a_url_is_signed_in_to_unless_it_has_credentials(own: Json, found: OAuthSpec | None) -> None:
    """Without any setting; a header `Authorization`, a user in the URL or `"oauth": false` turn it off."""
    assert oauth_of(own) == found


def test_a_url_on_the_command_line_is_signed_in_to_as_well() -> None:
    """`--url URL` has no place for credentials but the URL."""
    [server] = config_for_url(URL).servers
    assert isinstance(server.spec, HttpSpec)
    assert server.spec.oauth == OAuthSpec()
    [server] = config_for_url("https://me:pass@h/mcp").servers
    assert isinstance(server.spec, HttpSpec)
    assert server.spec.oauth is None


HOSTS: list[tuple[str, Json, OAuthSpec]] = [
    (
        "claude code",
        {
            "oauth": {
                "clientId": "c",
                "callbackPort": 8080,
                "authServerMetadataUrl": "https://auth.example.com/.well-known/openid-configuration",
                "scopes": "channels:read chat:write",
            }
        },
        OAuthSpec(
            client_id="c",
            callback_port=8080,
            metadata_url="https://auth.example.com/.well-known/openid-configuration",
            scopes=("channels:read", "chat:write"),
        ),
    ),
    ("vs code", {"oauth": {"clientId": "c"}}, OAuthSpec(client_id="c")),
    ("vs code, empty", {"oauth": {"clientId": ""}}, OAuthSpec()),
    (
        "cursor",
        {"auth": {"CLIENT_ID": "c", "CLIENT_SECRET": "s3cret", "scopes": ["read", "write"]}},
        OAuthSpec(client_id="c", client_secret="s3cret", scopes=("read", "write")),
    ),
    (
        "codex",
        {"scopes": ["a", "b"], "oauth_resource": URL, "oauth": {"client_id": "c", "callback_port": 5000}},
        OAuthSpec(client_id="c", callback_port=5000, scopes=("a", "b"), resource=URL),
    ),
    ("codex, empty", {"scopes": [], "auth": "oauth"}, OAuthSpec()),
    (
        "codex, callback URL",
        {"oauth": {"client_id": "c", "callback_url": "http://localhost:5555/auth/cb"}},
        OAuthSpec(client_id="c", callback_host="localhost", callback_port=5555, callback_path="/auth/cb"),
    ),
    (
        "opencode",
        {"oauth": {"clientId": "c", "clientSecret": "s3cret", "scope": "tools:read tools:execute"}},
        OAuthSpec(client_id="c", client_secret="s3cret", scopes=("tools:read", "tools:execute")),
    ),
    (
        "gemini",
        {"oauth": {"enabled": True, "clientId": "c", "clientSecret": "s3cret", "scopes": ["x"]}},
        OAuthSpec(client_id="c", client_secret="s3cret", scopes=("x",)),
    ),
    (
        "librechat",
        {"oauth": {"client_id": "c", "client_secret": "s3cret", "scope": "read"}},
        OAuthSpec(client_id="c", client_secret="s3cret", scopes=("read",)),
    ),
    (
        "all keys",
        {
            "oauth": {
                "client_id": "c",
                "issuer": "https://auth.example.com",
                "client_metadata_url": "https://example.com/client.json",
                "scopes": ["a"],
                "callback_host": "localhost",
                "callback_port": "4444",
                "callback_path": "/oauth/callback",
                "grant": "client-credentials",
                "private_key": KEY,
                "key_id": "k1",
                "algorithm": "RS256",
                "metadata_url": "http://127.0.0.1:9/meta",
                "resource": "api://0f1e",
            }
        },
        OAuthSpec(
            client_id="c",
            issuer="https://auth.example.com",
            client_metadata_url="https://example.com/client.json",
            scopes=("a",),
            callback_host="localhost",
            callback_port=4444,
            callback_path="/oauth/callback",
            grant="client_credentials",
            private_key=KEY,
            key_id="k1",
            algorithm="RS256",
            metadata_url="http://127.0.0.1:9/meta",
            resource="api://0f1e",
        ),
    ),
]


@pytest.mark.parametrize(("own", "found"), [row[1:] for row in HOSTS], ids=[row[0] for row in HOSTS])
def test_the_sign_in_of_hosts_is_understood(own: Json, found: OAuthSpec) -> None:
    """As each of them writes it, without a warning."""
    assert oauth_of(own) == found
    assert warnings_of(own) == []


def test_variables_are_expanded_in_every_value(tmp_path: Path) -> None:
    """From the environment, the entry's `env`, and files."""
    (tmp_path / "secret").write_text("from-a-file\n")
    own: Json = {
        "env": {"ID": "c"},
        "oauth": {
            "clientId": "${ID}",
            "clientSecret": f"${{file:{tmp_path}/secret}}",
            "scopes": ["${SCOPES}", "x"],
            "callbackPort": "${PORT:-4000}",
        },
    }
    found = OAuthSpec(client_id="c", client_secret="from-a-file", scopes=("a", "b", "x"), callback_port=4000)
    assert oauth_of(own, {"SCOPES": "a b"}) == found


def test_the_braces_of_opencode_are_variables(tmp_path: Path) -> None:
    """`{env:NAME}` and `{file:PATH}`, which is relative to the folder of the configuration."""
    (tmp_path / "secret.txt").write_text("from-a-file\n")
    (tmp_path / "opencode.json").write_text(
        '{"mcp": {"s": {"type": "remote", "url": "https://h/mcp",'
        ' "oauth": {"clientId": "{env:ID}", "clientSecret": "{file:./secret.txt}"}}}}'
    )
    [server] = load_config(tmp_path / "opencode.json", {"ID": "c"}).servers
    assert isinstance(server.spec, HttpSpec)
    assert server.spec.oauth == OAuthSpec(client_id="c", client_secret="from-a-file")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"oauth": "yes"}, ["oauth: found a string", "an object, true or false"]),
        ({"oauth": ["a"]}, ["oauth: found a list"]),
        ({"oauth": {"clientId": 5}}, ["oauth.clientId: found a number", "a string"]),
        ({"oauth": {"scopes": 5}}, ["oauth.scopes: found a number", "a list of strings"]),
        ({"oauth": {"scopes": ['a"b']}}, ["oauth.scopes: found", "printable ASCII"]),
        ({"oauth": {"callbackPort": 70000}}, ["oauth.callbackPort: found 70000", "1 to 65535"]),
        ({"oauth": {"callbackPort": "web"}}, ['oauth.callbackPort: found "web"']),
        ({"oauth": {"callbackPort": True}}, ["oauth.callbackPort: found true"]),
        ({"oauth": {"callback_host": "0.0.0.0"}}, ['found "0.0.0.0"', "'127.0.0.1' or 'localhost'"]),
        ({"oauth": {"callback_path": "/a?b"}}, ["oauth.callback_path: found", "a path such as"]),
        ({"oauth": {"callback_path": "callback"}}, ["a path such as"]),
        ({"oauth": {"grant": "password"}}, ['found "password"', "'client_credentials'"]),
        ({"oauth": {"grant": "client_credentials"}}, ["without credentials of a client", "client_secret or private"]),
        ({"oauth": {"grant": "client_credentials", "client_id": "c"}}, ["without credentials of a client"]),
        ({"oauth": {"client_secret": "hunter2"}}, ["oauth: found credentials of a client without its client_id"]),
        ({"oauth": {"algorithm": "none"}}, ['found "none"', "ES256"]),
        ({"oauth": {"algorithm": "HS256"}}, ['found "HS256"', "ES256"]),
        ({"oauth": {"metadata_url": "http://auth.example.com/x"}}, ["an https:// URL"]),
        ({"oauth": {"metadata_url": "https://me:hunter2@auth.example.com/x"}}, ['"https://auth.example.com/x"']),
        ({"oauth": {"client_metadata_url": "ftp://x"}}, ["a URL"]),
        ({"oauth": {"resource": "https://h/#x"}}, ["without a fragment"]),
        ({"oauth": {"private_key": "/no/such/hunter2"}}, ["found no key in PEM, and there is no such file", "path"]),
        ({"oauth": {"private_key": "a\nhunter2"}}, ["found text that is no key"]),
        ({"oauth": {"private_key": "-----BEGIN CERTIFICATE-----\nhunter2"}}, ["something else in PEM"]),
        ({"oauth": {"private_key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2"}}, ["an encrypted key"]),
        ({"oauth": {"clientSecret": {"hunter2": 1}}}, ["oauth.clientSecret: found an object"]),
        ({"oauth": {"grant": "${SECRET}"}}, ["oauth.grant: found the value of a variable", "'client_credentials'"]),
        ({"oauth": {"scopes": "${SECRET}"}}, ["oauth.scopes: found the value of a variable", "printable ASCII"]),
        ({"oauth": {"metadata_url": "${SECRET}"}}, ["oauth.metadata_url: found the value of a variable"]),
        ({"oauth": {"clientSecret": "${NOPE}"}}, ["oauth.clientSecret", "the environment has no NOPE"]),
        ({"auth": {"CLIENT_SECRET": "${NOPE}"}}, ["auth.CLIENT_SECRET", "the environment has no NOPE"]),
    ],
)
def test_a_wrong_setting_is_explained(own: Json, words: list[str]) -> None:
    """It leaves out its server only, names the key, and shows no secret."""
    said = left_out({"url": URL, **own}, {"SECRET": 'hunter2"'})
    assert [word for word in words if word not in said] == [], said
    assert "hunter2" not in said
    assert said.startswith("mcpServers.s.")


@pytest.mark.parametrize(
    ("own", "warning"),
    [
        ({"oauth": {"clentId": "c"}}, "oauth.clentId: ignored: not used by the bridge; did you mean 'clientId'?"),
        ({"oauth": {"metadata_ur": "c"}}, "oauth.metadata_ur: ignored: not used by the bridge; did you mean 'metadat"),
        ({"oauth": {"zzz": "hunter2"}}, "oauth.zzz: ignored: not used by the bridge"),
        ({"oauth": {"tokenUrl": "https://x"}}, "oauth.tokenUrl: ignored: not used by the bridge"),
        ({"oauth": {"client_id": "a", "clientId": "b"}}, "oauth.clientId: ignored: 'client_id' has the same meaning"),
        (
            {"oauth": {"redirect_uri": "https://app/cb"}},
            "oauth.redirect_uri: ignored: the bridge listens at this machine",
        ),
        ({"auth": "hunter2"}, 'auth: ignored: not used by the bridge; a token belongs in "headers"'),
        (
            {"headers": {"Authorization": "Bearer hunter2"}, "oauth": {"clientId": "c"}},
            "oauth: ignored: the entry has credentials of its own",
        ),
    ],
)
def test_what_is_not_used_is_a_warning(own: Json, warning: str) -> None:
    """With the nearest known key where there is one, and without the value."""
    [said] = warnings_of(own)
    assert said.startswith(warning)
    assert "hunter2" not in said


def test_sign_in_of_a_command_is_a_warning() -> None:
    """Only a server at a URL is signed in to."""
    config = parse({"mcpServers": {"s": {"command": "x", "oauth": {"clientId": "c"}, "auth": "y"}}})
    assert [each.split(": ")[1] for each in config.warnings] == ["mcpServers.s.oauth", "mcpServers.s.auth"]


def test_a_key_may_be_given_by_its_path(tmp_path: Path) -> None:
    """Relative to the folder of the configuration; line ends in an environment variable may be written as `\\n`."""
    (tmp_path / "key.pem").write_text(KEY)
    own = {"url": URL, "oauth": {"client_id": "c", "private_key": "key.pem"}}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"s": own}}))
    [server] = load_config(tmp_path / "mcp.json", {}).servers
    assert isinstance(server.spec, HttpSpec)
    assert server.spec.oauth is not None
    assert server.spec.oauth.private_key == KEY
    inline = oauth_of({"oauth": {"client_id": "c", "private_key": "${KEY}"}}, {"KEY": KEY.replace("\n", "\\n")})
    assert inline is not None
    assert inline.private_key == KEY


def test_credentials_are_secrets_of_the_server() -> None:
    """They are removed from every text, and no repr shows them."""
    own: Json = {"url": URL, "oauth": {"client_id": "c", "client_secret": "hunter2hunter2", "private_key": KEY}}
    server = entry(own)
    assert {"hunter2hunter2", KEY.strip(), "MIGHAgEAhunter2hunter2"} <= set(server.secrets)
    assert "hunter2" not in repr(server)


@pytest.mark.parametrize(
    ("command", "algorithm"),
    [
        (["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ES256"),
        (["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "ES384"),
        (["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"], "ES512"),
        (["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "ES256"),
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "RS256"),
        (["genrsa", "-traditional", "1024"], "RS256"),
        (["genpkey", "-algorithm", "ED25519"], "EdDSA"),
    ],
)
def test_the_algorithm_follows_from_the_key(command: list[str], algorithm: str) -> None:
    """Keys of openssl in every form; `algorithm` need not be set for any of them."""
    try:
        made = subprocess.run(["openssl", *command], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    assert algorithm_of(made.stdout) == algorithm
    found = oauth_of({"oauth": {"client_id": "c", "private_key": made.stdout}})
    assert found is not None
    assert found.algorithm == algorithm


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----"])
def test_an_unreadable_key_has_no_algorithm(text: str) -> None:
    """The error is that of the sign-in."""
    assert algorithm_of(text) is None


def test_a_setting_in_the_wrong_place_is_an_error() -> None:
    """`oauth` belongs beside the URL, not in the `asyncfc` section."""
    said = refused({"mcpServers": {"s": {"url": URL, "asyncfc": {"oauth": {}}}}})
    assert "mcpServers.s.asyncfc.oauth" in said
    assert 'beside "url"' in said


def test_the_documentation_lists_every_key() -> None:
    """In the table of the object's keys, and no others."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = page.partition("| key of `oauth` | meaning |")[2].partition("\n\n")[0]
    listed = [key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(KEYS)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70_000)
    | st.text(max_size=8)
    | st.sampled_from(["hunter2", "${S}", KEY]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_SECTIONS = _VALUES | st.dictionaries(
    st.sampled_from([*KEYS, "clientId", "CLIENT_SECRET", "scope", "enabled"]), _VALUES
)


@given(_SECTIONS, _SECTIONS, _VALUES)
def test_whatever_stands_there_is_read_or_refused(oauth: object, auth: object, scopes: object) -> None:
    """As a usable server, or with a reason; no text shows what a variable or a secret holds."""
    own = {"url": URL, "oauth": oauth, "auth": auth, "scopes": scopes}
    config = parse({"mcpServers": {"s": own, "other": {"command": "x"}}}, {"S": "sesame-open"})
    said = [*config.warnings, *(each.reason for each in config.unusable)]
    assert len(config.servers) + len(config.unusable) == 2
    assert "sesame-open" not in " ".join(said)
    assert all(text.isprintable() for text in said)
