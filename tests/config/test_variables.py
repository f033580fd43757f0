"""Variables of server entries: expansion, defaults, missing values, and no secret in an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncfc_mcp.config.settings import HttpSpec, StdioSpec
from tests.support.configurations import Json, entry, refused

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
    assert remote == HttpSpec(f"http://h/{read}", {"K": read})


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
