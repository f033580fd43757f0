"""Secrets of the bridge: no server that it starts gets them."""

from __future__ import annotations

import sys

import pytest

from tests.support import hostile
from tests.support.client import Json, eventually
from tests.support.stage import Stage

SERVER = hostile.__file__
TOKEN = "s3cret-token-of-the-bridge"
SECRETS = {"BRIDGE_TOKEN": TOKEN, "ASYNCFC_TOKEN": "s3cret-of-the-image", "OTHER_API_KEY": "k3y"}


def servers(stage: Stage, **own: object) -> dict[str, Json]:
    listing = hostile.listing(stage.folder, [hostile.tool("give")])
    entry = stage.entry(sys.executable, SERVER, listing, stage.mark)
    return {"bad": entry | ({"asyncfc": own} if own else {})}


def environments(stage: Stage) -> list[dict[str, str]]:
    """The environment of each process that the stage's bridge has started as a server."""
    return [process.environ() for process in stage.downstreams() if SERVER in process.cmdline()]


@pytest.mark.parametrize("inherit", ["all", "safe", ["BRIDGE_TOKEN"], ["OTHER_*"]], ids=str)
@pytest.mark.parametrize("transport", ["http", "sse", "stdio"])
def test_no_server_inherits_the_token(stage: Stage, transport: str, inherit: object):
    """Under any setting, over any transport, started ahead or later, and started again."""
    entries = servers(stage, env_inherit=inherit)
    option = ("--auth-token-env", "BRIDGE_TOKEN")
    if transport == "stdio":
        stage.serve("--config", str(stage.config(entries)), *option, env=SECRETS).wait_for_tools("bad__give")
    else:
        stage.http_bridge(entries, *option, transport=transport, env=SECRETS)
    for _ in range(2):
        (found,) = eventually(lambda: environments(stage), "the server runs")
        assert not {TOKEN, "s3cret-of-the-image"} & set(found.values())
        assert ("OTHER_API_KEY" in found) == (inherit in ("all", ["OTHER_*"]))
        (server,) = [process for process in stage.downstreams() if SERVER in process.cmdline()]
        server.kill()
        server.wait(10)
        if transport != "stdio":
            break
        stage.wires[0].call("bad__give")


@pytest.mark.parametrize("inherit", ["all", "safe", []], ids=str)
def test_an_entry_gets_what_it_names(stage: Stage, inherit: object):
    """`env` with a variable of the bridge is the configuration's own choice."""
    entries = servers(stage, env_inherit=inherit)
    entries["bad"]["env"] |= {"KEY": "${OTHER_API_KEY}", "AGAIN": "${BRIDGE_TOKEN}"}
    stage.http_bridge(entries, "--auth-token-env", "BRIDGE_TOKEN", env=SECRETS)
    (found,) = eventually(lambda: environments(stage), "the server runs")
    assert found["KEY"] == "k3y"
    assert found["AGAIN"] == TOKEN
    assert "BRIDGE_TOKEN" not in found


@pytest.mark.parametrize("token", ["two words", "s3cret\n", "s3crét", "\ts3cret", ""])
def test_a_token_that_cannot_be_sent_ends_the_start(stage: Stage, token: str):
    """In one line that names the variable; nothing was started."""
    config = str(stage.config(servers(stage)))
    for transport in ("http", "sse"):
        ran = stage.run(
            *("serve", "--config", config, "--transport", transport, "--auth-token-env", "T"), env={"T": token}
        )
        assert ran.code == 2
        (line,) = ran.stderr.strip().splitlines()
        assert " T " in line
        assert not token or token.strip() not in line
    assert not environments(stage)
