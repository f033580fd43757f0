"""The entry of the MCP registry: valid, of this version, named as in the README, and its arguments start the bridge."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

from tests.packaging.conftest import VERSION, Distributions
from tests.support.stage import REPO, Stage

ENTRY: dict[str, Any] = json.loads((REPO / "packaging" / "server.json").read_text())
BUILDER = REPO / "packaging" / "build_server_json.py"
SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("server.schema.json").read_text())
(PACKAGE,) = ENTRY["packages"]


def test_the_entry_is_valid():
    """By the schema that it names."""
    assert ENTRY["$schema"] == SCHEMA["$id"]
    jsonschema.Draft7Validator(SCHEMA).validate(ENTRY)


def test_the_versions_are_that_of_the_wheel(distributions: Distributions, tmp_path: Path):
    """A release writes them; the file in the repository has none."""
    assert {ENTRY["version"], PACKAGE["version"]} == {"0.0.0"}
    shutil.copy(distributions.wheel, tmp_path)
    subprocess.run([sys.executable, str(BUILDER), "--out", str(tmp_path)], check=True)
    written = json.loads((tmp_path / "server.json").read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(written)
    assert {written["version"], written["packages"][0]["version"]} == {VERSION}
    assert written | {"version": "", "packages": []} == ENTRY | {"version": "", "packages": []}


def test_the_readme_confirms_the_name():
    """The registry looks for it in the description on PyPI, which is the README."""
    found = re.findall(r"mcp-name: *(\S+)", (REPO / "README.md").read_text())
    assert found == [ENTRY["name"]]


def test_the_package_has_a_program_of_its_name():
    """`uvx NAME` runs it."""
    assert PACKAGE["runtimeHint"] == "uvx"
    assert (Path(sys.executable).with_name(PACKAGE["identifier"])).exists()


def test_the_arguments_start_the_bridge(stage: Stage):
    """With a value for each that a user is asked for."""
    values = {"--config": str(stage.config({"toy": stage.toy()}))}
    arguments: list[str] = []
    for argument in PACKAGE["packageArguments"]:
        if argument["type"] == "positional":
            arguments.append(argument["value"])
        else:
            assert argument["isRequired"]
            arguments.append(f"{argument['name']}={values.pop(argument['name'])}")
    assert not values
    wire = stage.wire(stage.command(*arguments))
    wire.wait_for_tools("toy__echo")
