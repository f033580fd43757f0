"""The image, as far as it can be tested without Docker, and the example of one bridge in a container."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from asyncfc_mcp.config.model import StdioSpec
from asyncfc_mcp.config.reader import load_config
from tests.support.stage import REPO

FOLDER = REPO / "examples" / "docker"


IMAGE = (REPO / "Dockerfile").read_text()
LABELS = (
    "title",
    "description",
    "licenses",
    "authors",
    "url",
    "source",
    "documentation",
    "version",
    "revision",
    "created",
)


def test_the_image_has_the_labels_of_the_specification():
    """Version, revision and date are given by the release, in the stage that has the labels."""
    final = IMAGE.rpartition("\nFROM ")[2]
    assert set(re.findall(r'org\.opencontainers\.image\.(\w+)="', final)) >= set(LABELS)
    assert {"VERSION", "REVISION", "CREATED"} <= set(re.findall(r"^ARG (\w+)=", final, re.MULTILINE))
    base = re.search(r'image\.base\.name="docker\.io/library/([^"]+)"', final)
    assert base is not None
    assert final.startswith(base[1] + "\n")


def test_the_image_runs_as_a_user_of_its_own():
    """With a number, so that a cluster can tell that it is not root."""
    final = IMAGE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER asyncfc$", final, re.MULTILINE)
    assert "--uid 10001" in final
    assert "HEALTHCHECK" in final


@pytest.mark.parametrize("version", ["7.8.9", ""])
def test_the_context_builds_with_the_version_that_is_given(version: str, tmp_path: Path):
    """The files that the image copies are enough for the build, without Git."""
    stage = IMAGE.partition("\nFROM ")[2].partition("\nFROM ")[0]
    ignored = (REPO / ".dockerignore").read_text().split()
    for words in re.findall(r"^COPY (.+)$", stage, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            assert source not in ignored
            if (REPO / source).is_dir():
                shutil.copytree(
                    REPO / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__", "_version.py")
                )
            else:
                shutil.copy(REPO / source, tmp_path / target)
    variable = "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP"
    assert f"{variable}=${{VERSION}}" in stage
    env = os.environ | {variable: version, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.split("-")[1] == (version or "0.0.0")


def test_the_example_fits_the_image(tmp_path: Path):
    """Volume, configuration, port and token are those of the Dockerfile; a restart keeps the state, and a stop leaves
    time for running calls."""
    compose: Any = YAML(typ="safe").load(FOLDER / "docker-compose.yml")
    bridge = compose["services"]["bridge"]
    image = (REPO / "Dockerfile").read_text()
    assert (FOLDER / bridge["build"]["context"]).resolve() == REPO
    config, state = (volume.split(":") for volume in bridge["volumes"])
    assert (FOLDER / config[0]).is_file()
    assert f'"{config[1]}"' in image
    assert config[2] == "ro"
    assert state[0] in compose["volumes"]
    assert f"--home-dir {state[1]}" in image
    assert f"ASYNCFC_CACHE_DIR={state[1]}/" in image
    assert "ASYNCFC_TOKEN" in bridge["environment"]
    assert '"--auth-token-env", "ASYNCFC_TOKEN"' in image
    assert bridge["init"] is True
    assert bridge["restart"] == "unless-stopped"
    assert "/readyz" in bridge["healthcheck"]["test"][-1]
    assert all(port.startswith("127.0.0.1:") and port.endswith(":8642") for port in bridge["ports"])
    # The secret of a server is read from its file, and is not in the image.
    assert "examples/docker/secrets" in (REPO / ".dockerignore").read_text().splitlines()
    (name,) = compose["secrets"]
    assert [each["source"] for each in bridge["secrets"]] == [name]
    text = (FOLDER / "config.json").read_text()
    assert f"${{file:/run/secrets/{name}}}" in text
    (tmp_path / name).write_text("the secret\n")
    copy = tmp_path / "mcp.json"
    copy.write_text(text.replace("/run/secrets/", f"{tmp_path}/"))
    given = {key: str(value) for key, value in bridge["environment"].items()}
    loaded = load_config(copy, given)
    assert not loaded.warnings
    spec = next(server.spec for server in loaded.servers if server.name == "notes")
    assert isinstance(spec, StdioSpec)
    assert spec.env["NOTES_KEY"] == "the secret"
    assert spec.command == "/opt/asyncfc/bin/python"
    assert spec.args[-1].startswith(f"{state[1]}/")
    assert int(bridge["stop_grace_period"].removesuffix("s")) >= json.loads(text)["asyncfc"]["drain_s"] + 5
