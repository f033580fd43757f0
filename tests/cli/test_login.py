"""`login` and `logout`, with real processes, an authorization server and a server that it protects."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.cli.login import has_display
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse, get
from tests.support.client import PATIENCE, eventually, text_of
from tests.support.stage import Ran, Stage, free_port, stage_in

BROWSER = """
import sys, urllib.error, urllib.request
print(sys.argv[1], file=open("browsed", "a"))
try:
    urllib.request.urlopen(sys.argv[1], timeout=20).read()
except urllib.error.HTTPError:
    pass
"""
"""A browser that is signed in and approves: it goes wherever it is sent."""


class Scene:
    """A stage with both servers, and a configuration of the protected one.

    Attributes:
        port: to which the browser returns.
    """

    def __init__(self, stage: Stage, authorization: AuthorizationServer, server: ProtectedServer) -> None:
        self.stage, self.authorization, self.server = stage, authorization, server
        self.port = free_port()
        (stage.folder / "browser.py").write_text(BROWSER)
        self.browser = {"BROWSER": f"{sys.executable} {stage.folder / 'browser.py'} %s"}
        self.config = self.write({})

    def write(self, oauth: dict[str, Any], **servers: Any) -> Path:
        """Write the configuration; `oauth` is that of the server, beside the port."""
        entry = {"url": self.server.url, "oauth": {"callbackPort": self.port, **oauth}}
        path = self.stage.folder / "mcp.json"
        path.write_text(json.dumps({"mcpServers": {"docs": entry, **servers}}))
        return path

    def run(self, *args: str, **env: str) -> Ran:
        """Run a command to its end, and check that nothing secret was printed."""
        ran = self.stage.run(*args, env=env)
        self.check_output(ran.stdout + ran.stderr)
        return ran

    def login(self, *args: str) -> Ran:
        """Sign in with the browser."""
        return self.run("login", "docs", "--config", str(self.config), *args, **self.browser)

    def check_output(self, output: str) -> None:
        """No token, code, verifier or client secret is printed, and no traceback."""
        assert "Traceback" not in output
        seen = self.authorization.seen
        secret = [
            params[key] for _, params in seen for key in ("code", "code_verifier", "refresh_token") if key in params
        ]
        secret += [client.secret for client in self.authorization.clients.values() if client.secret]
        secret += [header.removeprefix("Bearer ") for header in self.server.authorizations if header]
        assert [each for each in secret if each in output] == []

    def stored(self) -> list[str]:
        """Kinds of the stored files: `grant` and `client`."""
        files = (self.stage.folder / "state" / "oauth").glob("*.json")
        return sorted(file.name.partition("-")[0] for file in files)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with AuthorizationServer() as authorization, ProtectedServer(authorization) as server, stage_in(tmp_path) as stage:
        yield Scene(stage, authorization, server)


class Waiting:
    """A `login --no-browser` that waits for its user."""

    def __init__(self, scene: Scene, *args: str, source: tuple[str, ...] | None = None) -> None:
        self._scene = scene
        source = source or ("docs", "--config", str(scene.config))
        self.log = scene.stage.folder / "login.stdout"
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                scene.stage.command("login", *source, "--no-browser", *args),
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=scene.stage.env,
                cwd=scene.stage.folder,
            )
        scene.stage.processes.append(self.process)
        found = eventually(self._address, "the address is shown")
        assert found is not None
        self.url: str = found

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.output()
        lines = [line.strip() for line in self.output().splitlines() if "is not shown" in self.output()]
        return next((line for line in lines if "code_challenge=" in line), None)

    def output(self) -> str:
        return self.log.read_text()

    def paste(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait for the end, check the output, and return the exit code."""
        code = self.process.wait(PATIENCE)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._scene.check_output(self.output())
        return code


def test_a_sign_in_with_the_browser_says_what_was_got(scene: Scene) -> None:
    """Server, scopes, expiry and tools; and what is stored can be read by this user only."""
    ran = scene.login()
    assert ran.code == 0, ran
    assert "Signed in to docs." in ran.stdout
    assert f"server        {scene.server.url}" in ran.stdout
    assert f"signed in at  {scene.authorization.issuer}" in ran.stdout
    assert "scopes        read offline_access" in ran.stdout
    assert "token         expires in 60 min and is renewed by itself" in ran.stdout
    assert "tools         2: docs__echo, docs__write" in ran.stdout
    assert not ran.stderr
    assert scene.stored() == ["client", "grant"]
    for file in (scene.stage.folder / "state" / "oauth").iterdir():
        assert file.stat().st_mode & 0o077 == 0
    [browsed] = (scene.stage.folder / "browsed").read_text().splitlines()
    assert browsed.startswith(f"{scene.authorization.issuer}/authorize?")


def test_a_second_sign_in_is_not_made(scene: Scene) -> None:
    """The first one works, which is tried; `--force` makes another one."""
    scene.login()
    again = scene.login()
    assert again.code == 0
    assert again.stdout.startswith("Already signed in to docs; --force signs in again.\n")
    assert "tools         2: docs__echo, docs__write" in again.stdout
    assert scene.authorization.requests["authorize"] == 1
    forced = scene.login("--force")
    assert forced.code == 0
    assert "Signed in to docs." in forced.stdout
    # One is a look whether the registration is still known.
    assert scene.authorization.requests["token:authorization_code"] == 2
    assert scene.authorization.requests["register"] == 1


def test_a_running_bridge_goes_on_after_a_sign_in(scene: Scene) -> None:
    """It says what to run, and that needs no more than the name: the bridge's configuration is known."""
    bridge = scene.stage.wire(scene.stage.command("serve", "--config", str(scene.config)), env=scene.browser)

    def listed() -> str:
        return text_of(bridge.call("list_futures", {}))

    eventually(lambda: "docs: needs sign-in: asyncfc-mcp login docs" in listed(), "the sign-in is asked for")
    assert not (scene.stage.folder / "browsed").exists()  # the bridge itself opens none
    ran = scene.run("login", "docs", **scene.browser)
    assert ran.code == 0, ran
    bridge.wait_for_tools("docs__echo")
    assert text_of(bridge.outcome(bridge.submit("docs__echo", {"text": "hello"}).id)) == "hello"
    scene.check_output(bridge.stderr())


def test_inspect_shows_the_credentials(scene: Scene) -> None:
    """Before and after, as text and as JSON, without a token."""
    before = scene.run("inspect", "--config", str(scene.config))
    assert before.code == 1
    assert "  docs: needs sign-in: asyncfc-mcp login docs" in before.stdout
    scene.login()
    after = scene.run("inspect", "--config", str(scene.config))
    assert after.code == 0, after
    assert "\nCredentials\n  docs: signed in, token expires in 60 min, scopes: read offline_access\n" in after.stdout
    [server] = json.loads(scene.run("inspect", "--json", "--config", str(scene.config)).stdout)["servers"]
    found = server["credentials"]
    assert (found["kind"], found["issuer"], found["scopes"], found["renewable"]) == (
        "signed in",
        scene.authorization.issuer,
        ["read", "offline_access"],
        True,
    )


def test_the_tools_are_known_to_the_next_start(scene: Scene) -> None:
    """A bridge that starts when the sign-in has ended lists them, and a call says what to do."""
    scene.login()
    scene.authorization.revoke_all()
    bridge = scene.stage.serve("--config", str(scene.config))
    bridge.wait_for_tools("docs__echo")
    said = text_of(bridge.outcome(bridge.submit("docs__echo", {"text": "hello"}).id))
    assert "needs sign-in" in said
    assert "asyncfc-mcp login docs" in said


def test_a_sign_in_that_was_revoked_is_made_again(scene: Scene) -> None:
    """It is tried first, and then the browser opens."""
    scene.login()
    scene.authorization.revoke_all()
    ran = scene.login()
    assert ran.code == 0, ran
    assert ran.stdout.startswith("The stored sign-in to docs is no longer accepted.\n")
    assert "Signed in to docs." in ran.stdout


def test_more_scopes_are_asked_for(scene: Scene) -> None:
    """With those that were granted before; the command that a refused call names does it."""
    scene.login()
    bridge = scene.stage.serve("--config", str(scene.config))
    bridge.wait_for_tools("docs__write")
    said = text_of(bridge.outcome(bridge.submit("docs__write", {"text": "x"}).id))
    assert "asyncfc-mcp login docs --scope 'read offline_access write'" in said
    ran = scene.login("--scope", "read offline_access write")
    assert ran.code == 0, ran
    assert "scopes        read offline_access write" in ran.stdout
    assert text_of(bridge.outcome(bridge.submit("docs__write", {"text": "hello"}).id)) == "hello"


def test_scopes_that_are_not_granted_are_named(scene: Scene) -> None:
    """The sign-in works, but is not what was asked for."""
    scene.authorization.narrows = True
    ran = scene.login("--scope", "read", "--scope", "write")
    assert ran.code == 1
    assert ran.stdout.endswith("But these scopes were not granted: write\n")


def test_configured_scopes_are_kept_beside_those_of_the_command(scene: Scene) -> None:
    """Where the configuration says which to ask for."""
    scene.config = scene.write({"scopes": "read"})
    ran = scene.login("--scope", "write")
    assert "scopes        read write offline_access" in ran.stdout


def test_a_refusal_is_one_line(scene: Scene) -> None:
    """What happened, and the exit code 1; nothing is stored but the registration."""
    scene.authorization.approves = False
    ran = scene.login()
    assert ran.code == 1
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"asyncfc-mcp: sign-in to 'docs' failed: access was denied at {scene.authorization.issuer}")
    assert scene.stored() == ["client"]


def test_a_server_that_refuses_the_token_is_a_failure(scene: Scene) -> None:
    """The tokens are stored, and the output says that they are of no use."""
    scene.server.metadata["resource"] = scene.server.origin  # the token is for that, and not accepted at the URL
    ran = scene.login()
    assert ran.code == 1
    assert "But docs cannot be used: it could not be authorized" in ran.stdout
    assert scene.stored() == ["client", "grant"]


def test_a_browser_that_cannot_be_opened_is_no_end(scene: Scene) -> None:
    """The address is shown, and the user may open it."""
    with (scene.stage.folder / "login.stdout").open("wb") as sink:
        process = subprocess.Popen(
            scene.stage.command("login", "docs", "--config", str(scene.config)),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=scene.stage.env | {"BROWSER": f"{sys.executable} -c exit(1) %s"},
            cwd=scene.stage.folder,
        )
    scene.stage.processes.append(process)

    def output() -> str:
        return (scene.stage.folder / "login.stdout").read_text()

    eventually(lambda: "No browser could be opened: open the address yourself." in output(), "it says so")
    [url] = [line.strip() for line in output().splitlines() if "code_challenge=" in line]
    get(browse(url))
    assert process.wait(PATIENCE) == 0, output()
    scene.check_output(output())


def test_a_port_in_use_is_explained(scene: Scene) -> None:
    """And with `--no-browser` it is not needed."""
    with socket.create_server(("127.0.0.1", scene.port)):
        ran = scene.login()
        assert ran.code == 1
        assert f"port {scene.port} of this machine, to which the browser returns, is in use" in ran.stderr
        waiting = Waiting(scene)
        waiting.paste(browse(waiting.url))
        assert waiting.end() == 0, waiting.output()


def test_the_redirect_can_be_pasted(scene: Scene) -> None:
    """As behind SSH, where the browser runs on another machine; a wrong address is explained, and asked for again."""
    waiting = Waiting(scene)
    waiting.paste("")
    waiting.paste("https://elsewhere.example/callback?code=x")
    eventually(lambda: "does not begin with" in waiting.output(), "the wrong address is explained")
    waiting.paste(browse(waiting.url))
    assert waiting.end() == 0, waiting.output()
    assert "Signed in to docs." in waiting.output()


def test_without_pasting_the_browser_of_this_machine_may_return(scene: Scene) -> None:
    """Whichever comes first."""
    waiting = Waiting(scene)
    status, page = get(browse(waiting.url))
    assert status == 200
    assert "You can close this window" in page
    assert waiting.end() == 0, waiting.output()


def test_an_input_that_has_ended_is_no_answer(scene: Scene) -> None:
    """As in a script: the browser of this machine is waited for; if it cannot return, that is an error."""
    waiting = Waiting(scene)
    assert waiting.process.stdin is not None
    waiting.process.stdin.close()
    get(browse(waiting.url))
    waiting.process.stdin = None
    assert waiting.end() == 0, waiting.output()
    with socket.create_server(("127.0.0.1", scene.port)):
        ran = scene.run("login", "docs", "--config", str(scene.config), "--no-browser", "--force")
    assert ran.code == 1
    assert "no address was pasted" in ran.stderr


RING = """
import json, pathlib
from keyring.backend import KeyringBackend

class Ring(KeyringBackend):
    priority = 1
    file = pathlib.Path(__file__).with_name("ring.json")

    def _all(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def get_password(self, service, username):
        return self._all().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        self.file.write_text(json.dumps({**self._all(), f"{service}/{username}": password}))

    def delete_password(self, service, username):
        self.file.write_text(json.dumps({k: v for k, v in self._all().items() if k != f"{service}/{username}"}))
"""


def test_a_keyring_keeps_what_files_would(scene: Scene) -> None:
    """The tokens, and the secret of a client that the configuration names; no file holds either."""
    pytest.importorskip("keyring", reason="comes with the extra `keyring`")
    folder = scene.stage.folder
    (folder / "testring.py").write_text(RING)
    ring = {"PYTHON_KEYRING_BACKEND": "testring.Ring", "PYTHONPATH": f"{scene.stage.env['PYTHONPATH']}:{folder}"}
    (folder / "ring.json").write_text(json.dumps({"asyncfc-mcp/docs": "sesame-ring"}))
    scene.authorization.add_client("c", secret="sesame-ring", auth_method="client_secret_basic")
    scene.config = scene.write({"clientId": "c", "clientSecret": "${keyring:docs}"})
    content = json.loads(scene.config.read_text())
    scene.config.write_text(json.dumps(content | {"asyncfc": {"credentials": "keyring"}}))
    ran = scene.run("login", "docs", "--config", str(scene.config), **ring, **scene.browser)
    assert ran.code == 0, ran
    assert "stored in     the keyring of the system, service asyncfc-mcp" in ran.stdout
    assert "docs: signed in" in scene.run("inspect", "--config", str(scene.config), **ring).stdout
    tokens = [header.removeprefix("Bearer ") for header in scene.server.authorizations if header]
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    assert [path for path in files if any(token.encode() in path.read_bytes() for token in [*tokens, "sesame"])] == []
    assert any(token in (folder / "ring.json").read_text() for token in tokens)


def test_a_keyring_that_cannot_be_used_is_one_line(scene: Scene) -> None:
    """With what to set in place of it."""
    pytest.importorskip("keyring", reason="comes with the extra `keyring`")
    content = json.loads(scene.config.read_text())
    scene.config.write_text(json.dumps(content | {"asyncfc": {"credentials": "keyring"}}))
    ran = scene.run("login", "--config", str(scene.config), PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring")
    assert ran.code == 1
    [line] = ran.stderr.splitlines()
    assert line == 'asyncfc-mcp: this system has no keyring that can be used; set "credentials": "file"'


def test_a_machine_signs_in_without_a_browser(scene: Scene) -> None:
    """With its own credentials, from a file."""
    scene.authorization.add_client("robot", secret="sesame-robot", auth_method="client_secret_basic")
    (scene.stage.folder / "secret").write_text("sesame-robot\n")
    scene.config = scene.write(
        {"grant": "client_credentials", "clientId": "robot", "clientSecret": "${file:secret}", "scopes": ["read"]}
    )
    ran = scene.run("login", "docs", "--config", str(scene.config))
    assert ran.code == 0, ran
    assert "signed in to with client credentials, without a browser" in ran.stdout
    assert "token         expires in 60 min and is renewed by itself" in ran.stdout
    assert scene.authorization.requests["authorize"] == 0
    shown = scene.run("inspect", "--config", str(scene.config)).stdout
    assert "docs: client credentials, token expires in 60 min, scopes: read" in shown


def test_two_entries_with_one_url_are_two_accounts(scene: Scene) -> None:
    """Each has tokens of its own; the registration of this program is shared."""
    scene.config = scene.write({}, home={"url": scene.server.url, "oauth": {"callbackPort": scene.port}})
    scene.login()
    scene.authorization.subject = "bob"
    ran = scene.run("login", "home", "--config", str(scene.config), **scene.browser)
    assert "Signed in to home." in ran.stdout
    assert scene.stored() == ["client", "grant", "grant"]
    bridge = scene.stage.serve("--config", str(scene.config))
    bridge.wait_for_tools("docs__echo", "home__echo")
    for name, subject in (("docs", "alice"), ("home", "bob")):
        assert text_of(bridge.outcome(bridge.submit(f"{name}__echo", {"text": name}).id)) == name
        grant = FileStore(scene.stage.folder / "state" / "oauth").load_grant(name, scene.server.url)
        assert grant is not None
        issued = scene.authorization.check(grant.access_token)
        assert issued is not None
        assert issued.subject == subject
        assert f"Bearer {grant.access_token}" in scene.server.authorizations
    scene.run("logout", "docs", "--config", str(scene.config))
    assert text_of(bridge.outcome(bridge.submit("home__echo", {"text": "still"}).id)) == "still"


def test_signing_out_revokes_and_deletes(scene: Scene) -> None:
    """The registration stays for the next sign-in, unless it is to be forgotten."""
    scene.login()
    token = next(header for header in scene.server.authorizations if header).removeprefix("Bearer ")
    ran = scene.run("logout", "docs", "--config", str(scene.config))
    assert (ran.code, ran.stderr) == (0, "")
    issuer = scene.authorization.issuer
    assert ran.stdout == f"Signed out of docs: its tokens were deleted here, and revoked at {issuer}.\n"
    assert scene.authorization.check(token) is None
    assert scene.stored() == ["client"]
    again = scene.run("logout", "docs", "--config", str(scene.config))
    assert (again.code, again.stdout) == (0, "Not signed in to docs: nothing is stored.\n")
    scene.login()
    forgotten = scene.run("logout", "docs", "--config", str(scene.config), "--forget")
    assert (
        "its tokens and the registration of this program were deleted here, and the tokens revoked" in forgotten.stdout
    )
    assert scene.stored() == []


def test_signing_out_works_without_the_server(scene: Scene) -> None:
    """The tokens are deleted, and the output says that they may still be valid there."""
    scene.login()
    scene.authorization.__exit__()
    ran = scene.run("logout", "docs", "--config", str(scene.config))
    assert ran.code == 0
    assert "its tokens were deleted here, and not revoked at" in ran.stdout
    assert scene.stored() == ["client"]


def test_other_servers_need_not_be_usable(scene: Scene) -> None:
    """Their variables are not set in this shell, and they are not started."""
    touched = scene.stage.folder / "touched"
    others = {
        "first": {"command": "x", "env": {"TOKEN": "${NOT_SET_ANYWHERE}"}},
        "second": {"command": "touch", "args": [str(touched)]},
    }
    scene.config = scene.write({}, **others)
    ran = scene.run("login", "--config", str(scene.config), **scene.browser)
    assert (ran.code, ran.stderr) == (0, "")
    assert "NOT_SET_ANYWHERE" not in ran.stdout
    assert not touched.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["login"], "expected the name of a server, with --config FILE, or --url URL"),
        (["login", "docs"], "the configuration with server 'docs' is not known"),
        (["login", "dosc", "--config", "mcp.json"], "did you mean 'docs'?"),
        (["login", "--config", "nowhere.json"], "file not found"),
        (["login", "--url", "ftp://h"], "expected an http:// or https:// URL"),
        (["logout", "docs", "--url", "https://h", "--config", "mcp.json"], "found both"),
        (["logout", "files", "--config", "mcp.json"], "only a server at a URL is signed in to"),
    ],
)
def test_a_wrong_command_is_one_line(scene: Scene, args: list[str], words: str) -> None:
    """The exit code is 2."""
    scene.config = scene.write({}, files={"command": "x"})
    ran = scene.run(*args, HOME=str(scene.stage.folder))
    assert ran.code == 2
    assert not ran.stdout
    [line] = ran.stderr.splitlines()
    assert words in line


def test_a_url_needs_no_configuration(scene: Scene) -> None:
    """And the bridge with that URL uses the sign-in."""
    scene.login()
    url = scene.server.url
    # The usual port, which a program beside this test may have: the redirect is pasted.
    waiting = Waiting(scene, source=("--url", url))
    waiting.paste(browse(waiting.url))
    assert waiting.end() == 0, waiting.output()
    assert "Signed in to 127.0.0.1." in waiting.output()
    assert scene.stored() == ["client", "client", "grant", "grant"]
    bridge = scene.stage.serve("--url", url)
    bridge.wait_for_tools("echo")
    assert text_of(bridge.outcome(bridge.submit("echo", {"text": "hello"}).id)) == "hello"


def test_a_browser_that_the_user_has_set_is_opened_anywhere() -> None:
    """Also behind SSH: it may know how to reach the other machine."""
    assert has_display({"BROWSER": "x", "SSH_CONNECTION": "1"})


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there, a display is assumed")
def test_without_a_display_the_address_is_shown(scene: Scene) -> None:
    """As with `--no-browser`: behind SSH, a browser of the terminal would not help."""
    assert not has_display({"SSH_CONNECTION": "1"})
    assert not has_display({})
    with socket.create_server(("127.0.0.1", scene.port)):
        ran = scene.run("login", "docs", "--config", str(scene.config))
    assert ran.stdout.startswith("No display was found, so no browser is opened (as with --no-browser).\n")
    assert ran.code == 1
