"""Which server `login` is about: by name, by file, by URL, and what is said where that is not clear."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.cli.known_configurations import known, remember
from asyncfc_mcp.cli.sign_in_target import NoTarget, find_target
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.errors import ConfigError

URL = "https://mcp.example.com/mcp"


def written(path: Path, **servers: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


def refused(name: str | None, file: Path | None = None, url: str | None = None, paths: tuple[Path, ...] = ()) -> str:
    with pytest.raises(NoTarget) as caught:
        find_target(name, file, url, {}, paths)
    return str(caught.value)


def test_a_server_of_a_configuration_is_found_without_the_others(tmp_path: Path) -> None:
    """Variables of other servers need not be set, and no bridge with the others is made."""
    file = written(
        tmp_path / "mcp.json",
        github={"url": URL, "oauth": {"clientId": "${ID}"}},
        other={"command": "x", "env": {"TOKEN": "${NOPE}"}},
        third={"url": "https://h/${NOPE}"},
        fourth={"command": "x"},
    )
    target = find_target("github", file, None, {"ID": "c"}, ())
    assert [server.name for server in target.config.servers] == ["github"]
    assert target.config.unusable == ()
    assert target.config.warnings == ()
    assert target.spec.oauth is not None
    assert target.spec.oauth.client_id == "c"
    assert "server 'github' cannot be used: mcpServers.github.oauth.clientId: found ${ID}" in refused("github", file)


def test_the_name_may_be_left_out_if_only_one_is_meant(tmp_path: Path) -> None:
    """Servers with credentials of their own, and commands, are not meant."""
    one = {"github": {"url": URL}, "files": {"command": "x"}, "api": {"url": URL, "headers": {"Authorization": "t"}}}
    file = written(tmp_path / "mcp.json", **one)
    assert find_target(None, file, None, {}, ()).server.name == "github"
    two = written(tmp_path / "two.json", **one, jira={"url": URL})
    assert refused(None, two) == f"expected the name of a server; {two} has github, jira"
    none = written(tmp_path / "none.json", files={"command": "x"})
    assert "has no server that is signed in to" in refused(None, none)


def test_settings_of_replicas_are_not_needed(tmp_path: Path) -> None:
    """Their variables are those of a service; its user signs in from a shell without them."""
    servers = {"github": {"url": URL}}
    top = {"engine": "postgresql://u:${PASSWORD}@h/d", "secret": "${SECRET}", "credentials": "keyring"}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers, "asyncfc": top}))
    for target in (
        find_target("github", tmp_path / "mcp.json", None, {}, ()),
        find_target("github", None, None, {}, (tmp_path / "mcp.json",)),
    ):
        assert target.config.settings.engine == "embedded"
        assert target.config.settings.credentials == "keyring"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"command": "x"}, "is a command: only a server at a URL is signed in to"),
        ({"command": "npx", "args": ["mcp-remote", URL]}, "it runs mcp-remote, which signs in by itself; `asyncfc-mcp"),
        ({"url": URL, "headers": {"Authorization": "Bearer hunter2"}}, "its entry has a header Authorization"),
        ({"url": "https://me:hunter2@h/mcp"}, "its URL has a user"),
        ({"url": URL, "oauth": False}, 'its entry has "oauth": false'),
        ({"url": URL, "headers": {"X-Token": "${caller:x-token}"}}, "the credentials of each caller"),
    ],
)
def test_a_server_that_is_not_signed_in_to_says_why(tmp_path: Path, entry: Any, words: str) -> None:
    """And shows no secret."""
    said = refused("s", written(tmp_path / "mcp.json", s=entry))
    assert words in said
    assert "hunter2" not in said


def test_an_unknown_name_is_explained(tmp_path: Path) -> None:
    """With the nearest one, or all that are at a URL."""
    file = written(tmp_path / "mcp.json", github={"url": URL}, files={"command": "x"})
    assert refused("gihub", file).endswith("has no server 'gihub'; did you mean 'github'?")
    assert refused("zzz", file).endswith("has no server 'zzz'; those at a URL are: github")


def test_a_url_needs_no_configuration() -> None:
    """Its name is the host, as in `serve --url`, or the one that is given."""
    target = find_target(None, None, URL, {}, ())
    assert (target.server.name, target.spec.url) == ("mcp.example.com", URL)
    assert find_target("github", None, URL, {}, ()).server.name == "github"
    assert "found both" in refused(None, Path("x"), URL)
    with pytest.raises(ConfigError):
        find_target(None, None, "ftp://h", {}, ())


def test_a_name_alone_is_looked_for_in_known_configurations(tmp_path: Path) -> None:
    """One of them has it; else the error says what to add."""
    one = written(tmp_path / "one.json", github={"url": URL}, both={"url": URL})
    two = written(tmp_path / "two.json", jira={"url": URL}, both={"url": URL})
    (tmp_path / "broken.json").write_text("{")
    paths = (one, two, tmp_path / "broken.json")
    assert find_target("jira", None, None, {}, paths).config.source == str(two)
    said = refused("both", paths=paths)
    assert said == f"2 configurations have a server 'both'; add --config {one} or --config {two}"
    said = refused("zzz", paths=paths)
    assert said.startswith("the configuration with server 'zzz' is not known (it is not in ")
    assert "broken.json: line 1, column 2" in said
    assert said.endswith("add --config FILE or --url URL")
    assert "no bridge was started with one so far" in refused("zzz")
    assert "expected the name of a server" in refused(None, paths=paths)


# --- known configurations ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "configurations"


def test_a_start_makes_a_configuration_known(tmp_path: Path, folder: Path) -> None:
    """If it has a server that is signed in to; only its path is kept, and only this user can read it."""
    file = written(tmp_path / "a.json", github={"url": URL, "oauth": {"clientSecret": "hunter2", "clientId": "c"}})
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    remember(folder, load_config(file, {}))
    remember(folder, load_config(file, {}))
    assert known(folder, environ) == [file]
    [kept] = folder.iterdir()
    assert json.loads(kept.read_text()) == {"file": str(file)}
    assert kept.stat().st_mode & 0o777 == 0o600
    remember(folder, load_config(written(tmp_path / "b.json", files={"command": "x"}), {}))
    assert known(folder, environ) == [file]


def test_the_usual_configuration_comes_first_and_the_newest_next(tmp_path: Path, folder: Path) -> None:
    """Those that do not exist any more are left out, and files that are something else do no harm."""
    files = [written(tmp_path / f"{name}.json", github={"url": URL}) for name in "abc"]
    for age, file in enumerate(files):
        before = set(folder.glob("*")) if folder.exists() else set[Path]()
        remember(folder, load_config(file, {}))
        [new] = set(folder.glob("*")) - before
        os.utime(new, (1e9 * 2 + age, 1e9 * 2 + age))
    files[1].unlink()
    (folder / "other.json").write_text("[]")
    (folder / "empty.json").write_text("")
    usual = written(tmp_path / "home" / "asyncfc" / "mcp.json", s={"url": URL})
    assert known(folder, {"XDG_CONFIG_HOME": str(tmp_path / "home")}) == [usual, files[2], files[0]]


def test_what_is_not_used_any_more_is_forgotten(tmp_path: Path, folder: Path) -> None:
    """After three months without a start."""
    remember(folder, load_config(written(tmp_path / "a.json", github={"url": URL}), {}))
    [kept] = folder.iterdir()
    os.utime(kept, (1e9, 1e9))
    assert known(folder, {"XDG_CONFIG_HOME": str(tmp_path)}) == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_does_not_stop_a_start(tmp_path: Path) -> None:
    """The bridge is what matters."""
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "x", load_config(written(tmp_path / "a.json", github={"url": URL}), {}))
    assert known(tmp_path / "file" / "x", {"XDG_CONFIG_HOME": str(tmp_path)}) == []
