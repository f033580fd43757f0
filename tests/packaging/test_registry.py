"""The entry of the MCP registry: valid, of this version, named as in the README, and its arguments start the bridge."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema

import asyncfc_mcp
from tests.support.stage import REPO, Stage

ENTRY: dict[str, Any] = json.loads((REPO / "packaging" / "server.json").read_text())
SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("server.schema.json").read_text())
(PACKAGE,) = ENTRY["packages"]


def test_the_entry_is_valid():
    """By the schema that it names."""
    assert ENTRY["$schema"] == SCHEMA["$id"]
    jsonschema.Draft7Validator(SCHEMA).validate(ENTRY)


def test_the_versions_are_that_of_the_package():
    """A release changes all."""
    assert {ENTRY["version"], PACKAGE["version"]} == {asyncfc_mcp.__version__}


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
