"""The example of one bridge in a container: it fits the image, and its configuration is read as it stands."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from asyncfc_mcp.config.model import StdioSpec
from asyncfc_mcp.config.reader import load_config
from tests.support.stage import REPO

FOLDER = REPO / "examples" / "docker"


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
