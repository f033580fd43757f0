"""Variables of server entries: expansion, defaults, missing values, and no secret in an error."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from asyncfc_mcp.config.model import HttpSpec, StdioSpec
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.config.secret_sources import MAX_SECRET_BYTES
from tests.support.configurations import Json, entry, left_out, parse, refused, signed_in

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("${env:A}", "one"),
        ("${A:-other}", "one"),
        ("${NONE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-${A}}", "one"),
        ("${NONE:-a ${NADA:-b} c}", "a b c"),
        ('${NONE:-{"k": 1}}', '{"k": 1}'),
        ("${env:NONE:-other}", "other"),
        ("${NONE:-http://h/p?q=1}", "http://h/p?q=1"),
        ("$A", "$A"),
        ("$${A}", "$one"),
        ("${A", "${A"),
        ("${}", "${}"),
        ("${#list[@]}", "${#list[@]}"),
        ("${1}", "${1}"),
        ("100 %PATH%", "100 %PATH%"),
        ("${/}", os.sep),
        ("${pathSeparator}", os.sep),
        ("${workspaceFolderBasename}", os.path.basename(os.getcwd())),
    ],
)
def test_variables_are_expanded_everywhere_in_an_entry(written: str, read: str) -> None:
    """In command, arguments, environment, working directory, URL and headers; other dollars are text."""
    environ = {"A": "one", "B": "two", "EMPTY": ""}
    spec = entry(
        {"command": f"c{written}", "args": [written], "env": {"K": written}, "cwd": f"/{written}"}, environ
    ).spec
    assert spec == StdioSpec(f"c{read}", (read,), {"K": read}, f"/{read}")
    remote = entry({"url": f"http://h/{written}", "headers": {"K": written}}, environ).spec
    assert remote == signed_in(f"http://h/{read}", {"K": read})


def test_the_value_of_a_variable_is_not_expanded_again() -> None:
    """What stands in the environment is text, whatever it looks like."""
    assert entry({"command": "x", "args": ["${A}"]}, {"A": "${B}"}).spec == StdioSpec("x", ("${B}",))


def test_a_name_of_the_hosts_may_be_set_in_the_environment() -> None:
    """Then the environment wins."""
    assert entry({"command": "${userHome}/x"}, {"userHome": "/there"}).spec == StdioSpec("/there/x")


@pytest.mark.parametrize("written", ["${NOPE}", "${env:NOPE}", "${NADA:-${NOPE}}"])
@pytest.mark.parametrize("key", ["env", "headers", "url"])
def test_a_missing_variable_is_an_error_that_shows_the_way_out(written: str, key: str) -> None:
    """Which variable, where, and that a default may be given; where a text with `${…}` in it cannot work."""
    value: Json = {
        "env": {"command": "x", "env": {"K": written}},
        "headers": {"url": "http://h", "headers": {"K": written}},
        "url": {"url": f"http://h/{written}"},
    }[key]
    said = refused({"mcpServers": {"s": value}})
    assert f"mcpServers.s.{key}" in said
    assert "the environment has no NOPE" in said
    assert "${NOPE:-default}" in said


def test_a_missing_working_directory_is_only_missed_where_it_is_needed(tmp_path: Path) -> None:
    """A bridge whose own folder was deleted still starts."""
    code = (
        "import os, sys; from asyncfc_mcp.config.reader import parse_config; os.rmdir(os.getcwd())\n"
        'def c(a): return parse_config(\'{"mcpServers": {"s": {"command": "x", "cwd": "%s"}}}\' % a, \'f\', {})\n'
        "print(c('${userHome}x').servers[0].spec.command != '')\n"
        "try: c('${workspaceFolder}')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[0] == "True"
    assert ran.stdout.splitlines()[1].startswith("ConfigError f: mcpServers.s.cwd: found ${workspaceFolder}")


@pytest.mark.parametrize(
    "value",
    [
        {"command": "x", "env": {"KEY": ["hunter2"]}},
        {"command": "x", "env": {"KEY": {"hunter2": 1}}},
        {"command": "x", "env": "KEY=hunter2"},
        {"command": "x", "env": ["KEY=hunter2"]},
        {"command": "x", "args": ["--key", {"hunter2": "hunter2"}]},
        {"url": "http://h", "headers": "Authorization: hunter2"},
        {"url": "http://h", "headers": {"Authorization": {"Bearer": "hunter2"}}},
        {"url": "ftp://me:hunter2@h/x?key=hunter2"},
        {"url": "${KEY}"},
        {"url": "http://h:${KEY}/"},
    ],
)
def test_no_error_shows_a_secret(value: Json) -> None:
    """What stands in `env`, in headers and in the environment is never repeated."""
    assert "hunter2" not in refused({"mcpServers": {"s": value}}, {"KEY": "hunter2"})


# --- files and the keyring -------------------------------------------------------------------------------------------


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """A system keyring: entries by service and name."""
    entries: dict[tuple[str, str], str] = {}
    module = ModuleType("keyring")
    module.get_password = lambda service, name: entries.get((service, name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    return entries


def test_secrets_are_read_from_files_and_the_keyring(tmp_path: Path, keyring: dict[tuple[str, str], str]) -> None:
    """In `env`, headers, the URL and overridden arguments; without the line end at the end."""
    secret = tmp_path / "token"
    secret.write_bytes(b"sesame-file\r\n")
    keyring["asyncfc-mcp", "github"] = "sesame-ring"
    file, ring = f"${{file:{secret}}}", "${keyring:github}"
    override = {"asyncfc": {"tools": {"t": {"arguments": {"key": {"value": f"k={file}", "hidden": True}}}}}}
    server = entry({"command": "x", "env": {"A": f"Bearer {file}", "B": ring}, **override})
    assert isinstance(server.spec, StdioSpec)
    assert server.spec.env == {"A": "Bearer sesame-file", "B": "sesame-ring"}
    assert server.overrides["t"].arguments["key"].value == "k=sesame-file"
    assert {"sesame-file", "sesame-ring", "k=sesame-file"} <= set(server.secrets)
    remote = entry({"url": f"https://h/{ring}/mcp?k={file}", "headers": {"X-Key": file}})
    assert isinstance(remote.spec, HttpSpec)
    assert remote.spec.url == "https://h/sesame-ring/mcp?k=sesame-file"
    assert remote.spec.headers == {"X-Key": "sesame-file"}
    assert "sesame" not in remote.spec.shown
    assert "sesame" not in repr(remote)
    assert "sesame" not in repr(server)


def test_a_variable_of_the_entry_may_come_from_a_file(tmp_path: Path) -> None:
    """And stays a secret wherever the entry uses it, whatever it is called."""
    (tmp_path / "word").write_text("sesame-word")
    spec = entry({"url": "https://h/${X}/mcp", "env": {"X": f"${{file:{tmp_path}/word}}"}}).spec
    assert isinstance(spec, HttpSpec)
    assert spec.url == "https://h/sesame-word/mcp"
    assert spec.shown == "https://h/…/mcp"


def test_paths_are_relative_to_the_folder_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, and the path may contain a variable, as for credentials of systemd."""
    home, folder = tmp_path / "home", tmp_path / "config"
    for each in (home, folder / "secrets"):
        each.mkdir(parents=True)
    (home / "b").write_text("in home")
    (folder / "secrets" / "a").write_text("beside")
    env = {"A": "${file:secrets/a}", "B": "${file:~/b}", "C": "${file:${CREDENTIALS_DIRECTORY}/b}"}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"s": {"command": "x", "env": env}}}))
    monkeypatch.setenv("HOME", str(home))
    [server] = load_config(folder / "mcp.json", {"CREDENTIALS_DIRECTORY": str(home)}).servers
    assert isinstance(server.spec, StdioSpec)
    assert server.spec.env == {"A": "beside", "B": "in home", "C": "in home"}


def test_secrets_of_the_bridge_may_come_from_files(tmp_path: Path) -> None:
    """The password of the database, and the secret of replicas; an error does not show them."""
    (tmp_path / "password").write_text("sesame-pw\n")
    (tmp_path / "secret").write_text("sesame-sesame-secret\n")
    top = {
        "engine": f"postgresql://u:${{file:{tmp_path}/password}}@h/d",
        "secret": f"${{file:{tmp_path}/secret}}",
    }
    config = parse({"mcpServers": {"s": {"command": "x"}}, "asyncfc": top})
    assert config.settings.engine == "postgresql://u:sesame-pw@h/d"
    assert config.settings.secret == "sesame-sesame-secret"
    assert {"sesame-pw", "sesame-sesame-secret"} <= set(config.settings.secrets)
    for wrong in ({"engine": f"${{file:{tmp_path}/password}}"}, {"secret": f"${{file:{tmp_path}/password}}"}):
        assert "sesame" not in refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": wrong})


def test_a_secret_does_not_belong_on_a_command_line(tmp_path: Path, keyring: dict[tuple[str, str], str]) -> None:
    """Other processes can read it there; in a shell script the same text is an expansion of the shell."""
    keyring["asyncfc-mcp", "k"] = "sesame"
    (tmp_path / "f").write_text("sesame")
    for own in (
        {"command": "x", "args": ["--token", "${keyring:k}"]},
        {"command": "x", "args": [f"--token=${{file:{tmp_path}/f}}"]},
        {"command": "${keyring:k}"},
    ):
        said = left_out(own)
        assert 'in a command line, which other processes can read; expected it in "env"' in said
        assert "sesame" not in said
    script = entry({"command": "bash", "args": ["-c", "echo ${file:2:3}"]}).spec
    assert script == StdioSpec("bash", ("-c", "echo ${file:2:3}"))


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (None, "and there is no such file"),
        (b"", "and the file is empty"),
        (b"\n", "and the file is empty"),
        (b"sesame" * (MAX_SECRET_BYTES // 6 + 1), "which is larger than 64 KB"),
        (b"sesame\xff", "which is no text in UTF-8"),
    ],
)
def test_a_file_without_a_usable_secret_leaves_out_its_server(
    tmp_path: Path, contents: bytes | None, problem: str
) -> None:
    """The error names the key and the file, and never the contents."""
    file = tmp_path / "secret"
    if contents is not None:
        file.write_bytes(contents)
    said = left_out({"command": "x", "env": {"TOKEN": f"${{file:{file}}}"}})
    assert said == f"mcpServers.s.env.TOKEN: found ${{file:{file}}}, {problem}; expected a text file with the secret"


def test_a_pipe_or_a_folder_is_not_opened(tmp_path: Path) -> None:
    """Reading a pipe would block the start for ever."""
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        assert "which is no regular file" in left_out({"url": "http://h", "headers": {"K": f"${{file:{file}}}"}})


def test_an_unusable_keyring_leaves_out_its_server(
    monkeypatch: pytest.MonkeyPatch, keyring: dict[tuple[str, str], str]
) -> None:
    """Without the entry, without the package, or with a back end that fails; the text of the latter is not shown."""
    own: Json = {"url": "http://h", "headers": {"K": "${keyring:jira}"}}
    here = "mcpServers.s.headers.K: found ${keyring:jira}, and"
    assert left_out(own) == f"{here} the keyring has no such entry; expected it to be set: keyring set asyncfc-mcp jira"

    def fails(service: str, name: str) -> str:
        raise RuntimeError("sesame")

    monkeypatch.setattr(sys.modules["keyring"], "get_password", fails)
    assert left_out(own) == f"{here} the keyring cannot be read (RuntimeError); expected a usable keyring"
    monkeypatch.setitem(sys.modules, "keyring", None)
    said = left_out(own)
    assert said.startswith(f"{here} the package keyring is not installed; expected the extra: pip install")


MISSING: list[Json] = [
    {"command": "x", "env": {"K": "{}"}},
    {"command": "x", "cwd": "{}"},
    {"command": "x", "envFile": "{}"},
    {"url": "http://h", "headers": {"K": "{}"}},
    {"url": "http://h/{}"},
    {"url": "http://h", "oauth": {"clientId": "{}"}},
    {"url": "http://h", "oauth": {"clientId": "c", "clientSecret": "{}"}},
    {"url": "http://h", "oauth": {"scopes": ["{}"]}},
    {"url": "http://h", "auth": {"CLIENT_ID": "{}"}},
    {"command": "x", "asyncfc": {"tools": {"t": {"arguments": {"a": {"value": "{}"}}}}}},
    {"command": "x", "asyncfc": {"tools": {"t": {"arguments": {"a": {"value": [{"deep": "{}"}]}}}}}},
]


@pytest.mark.parametrize("variable", ["${NOPE}", "${file:/no/such/file}", "${keyring:nope}", "${input:key}"])
@pytest.mark.parametrize("own", MISSING, ids=lambda own: json.dumps(own))
def test_a_variable_without_a_value_leaves_out_its_server_only(
    own: Json, variable: str, keyring: dict[tuple[str, str], str]
) -> None:
    """Wherever it stands: the reason says where and which, and the other servers are read."""
    said = left_out(json.loads(json.dumps(own).replace("{}", variable)))
    assert variable in said
    assert said.startswith("mcpServers.s.")


def test_an_unknown_variable_in_arguments_is_kept_with_a_warning() -> None:
    """A shell or the program itself may expand it."""
    config = parse({"mcpServers": {"s": {"command": "x", "args": ["${NOPE}"]}}})
    assert config.servers[0].spec == StdioSpec("x", ("${NOPE}",))
    assert "mcpServers.s.args[0]: ${NOPE} is kept as text" in config.warnings[0]
