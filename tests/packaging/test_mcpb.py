"""The bundle for Claude Desktop: valid for its own tools, and it runs when it is unpacked."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.upstream.metatools import METATOOLS
from tests.packaging.conftest import VERSION, Distributions
from tests.support.peers import cache_folder, npm_bin, script_of
from tests.support.stage import REPO, Stage

BUILDER = REPO / "packaging" / "build_mcpb.py"
MANIFEST = REPO / "packaging" / "mcpb" / "manifest.json"
FILL_IN = """
import { readFileSync } from "node:fs";
const [library, folder, values] = process.argv.slice(1);
const { getMcpConfigForManifest } = await import(library);
const manifest = JSON.parse(readFileSync(`${folder}/manifest.json`, "utf8"));
const filled = await getMcpConfigForManifest({
  manifest, extensionPath: folder, systemDirs: {}, userConfig: JSON.parse(values), pathSeparator: "/",
});
console.log(JSON.stringify(filled ?? null));
"""
"""What a host does with a manifest, by the code that hosts share."""


@pytest.fixture(scope="module")
def bundle(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with the wheel of a release."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copy(distributions.wheel, folder)
    subprocess.run([sys.executable, str(BUILDER), "--out", str(folder)], check=True)
    (bundle,) = folder.glob("*.mcpb")
    return bundle


def filled_in(mcpb: Path, folder: Path, values: dict[str, Any]) -> Any:
    """Return `mcp_config` of an unpacked bundle with its variables filled in; None if a value is missing."""
    library = (mcpb / "node_modules" / "@anthropic-ai" / "mcpb" / "dist" / "index.js").as_uri()
    command = ["node", "--input-type=module", "-e", FILL_IN, library, str(folder), json.dumps(values)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_version_is_that_of_the_wheel(bundle: Path):
    """The file in the repository has none, so that a release changes no file."""
    with zipfile.ZipFile(bundle) as archive:
        assert json.loads(archive.read("manifest.json"))["version"] == VERSION
    assert json.loads(MANIFEST.read_text())["version"] == "0.0.0"


def test_the_manifest_names_the_tools_of_the_bridge():
    """Those that it always has; others depend on the configuration."""
    manifest = json.loads(MANIFEST.read_text())
    assert [tool["name"] for tool in manifest["tools"]] == list(METATOOLS)
    assert manifest["tools_generated"]


@pytest.mark.node
def test_the_manifest_is_valid(npm_mcpb: Path):
    """By the validator of the format."""
    subprocess.run([npm_bin(npm_mcpb, "mcpb"), "validate", str(MANIFEST)], check=True)


@pytest.mark.slow
@pytest.mark.node
@pytest.mark.peers
@pytest.mark.timeout(300)  # uv installs the dependencies from PyPI
def test_an_unpacked_bundle_runs(bundle: Path, npm_mcpb: Path, uv: Path, stage: Stage):
    """With the command of its manifest and the uv that Claude Desktop brings along: from nothing to listed tools."""
    folder = stage.folder / "Claude Extensions" / "asyncfc-mcp"
    subprocess.run([npm_bin(npm_mcpb, "mcpb"), "unpack", str(bundle), str(folder)], check=True)
    config = stage.config({"toy": stage.toy()})
    assert filled_in(npm_mcpb, folder, {}) is None, "the host asks for the configuration first"
    command = filled_in(npm_mcpb, folder, {"config": str(config)})
    assert command["command"] == "uv"
    env = {
        "PYTHONPATH": "",  # the bundle's package, not the repository's
        "UV_CACHE_DIR": str(cache_folder() / "uv_cache"),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
    }
    program = script_of(uv, "uv")
    # Ahead of the first message, whose time-out is not made for an installation from the network.
    subprocess.run([program, "sync", "--project", str(folder)], check=True, env=os.environ | stage.env | env)
    wire = stage.wire([program, *command["args"]], env=env | command.get("env", {}))
    assert wire.opening["serverInfo"]["version"] == VERSION
    tools = wire.wait_for_tools("toy__echo")
    assert tools.keys() >= METATOOLS.keys()
    installed = list(folder.glob(".venv/lib/python3*/site-packages/asyncfc_mcp/cli/main.py"))
    assert installed, "the environment is the bundle's own"


def test_the_same_wheel_gives_the_same_bundle(bundle: Path, distributions: Distributions, tmp_path: Path):
    """So that a bundle can be checked against the published wheel, which is in it."""
    shutil.copy(distributions.wheel, tmp_path)
    subprocess.run([sys.executable, str(BUILDER), "--out", str(tmp_path)], check=True)
    assert (tmp_path / bundle.name).read_bytes() == bundle.read_bytes()
    assert bundle.name == f"asyncfc-mcp-{VERSION}.mcpb"
    with zipfile.ZipFile(bundle) as archive:
        assert sorted(archive.namelist()) == [
            "LICENSE",
            distributions.wheel.name,
            "manifest.json",
            "pyproject.toml",
            "server.py",
        ]
        assert archive.read(distributions.wheel.name) == distributions.wheel.read_bytes()
