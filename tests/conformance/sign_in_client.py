"""The client that the conformance suite tests: a bridge over the suite's server, and `asyncfc-mcp login` beside it.

    python tests/conformance/sign_in_client.py URL

Signs in, calls every tool through the bridge, and signs in again where a call asks for it, a few times at most. The
suite's authorization servers approve at once, so the browser only follows redirects. What the suite knows about the
client (an ID that was registered by hand, a key) is in `MCP_CONFORMANCE_CONTEXT`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.browser import Browser
from tests.support.client import Json, RpcError, eventually, text_of
from tests.support.sign_in import login, login_options
from tests.support.stage import Stage, stage_in

METATOOLS = {"await_future", "gather", "cancel_future", "list_futures"}
METADATA_DOCUMENT = "https://conformance-test.local/client-metadata.json"
MAX_SIGN_INS = 3
"""A user gives up as well."""


def oauth_of(scenario: str, context: Json) -> Json:
    """Return the sign-in settings that a user of this server would write."""
    found: Json = {key: context[key] for key in ("client_id", "client_secret") if key in context}
    if "private_key_pem" in context:
        found |= {"private_key": context["private_key_pem"], "algorithm": context["signing_algorithm"]}
    if "client-credentials" in scenario:
        found["grant"] = "client_credentials"
    if scenario == "auth/basic-cimd":
        found["client_metadata_url"] = METADATA_DOCUMENT
    return found


def main(url: str) -> int:
    """Go through one scenario; 0 if every tool was called."""
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    oauth = oauth_of(scenario, context)
    with tempfile.TemporaryDirectory(prefix="sign-in-") as folder, stage_in(Path(folder)) as stage:
        entry = {"url": url, "oauth": oauth, "asyncfc": {"mode": "sync", "prefix": ""}}
        config = stage.config({"server": entry})

        def sign_in(*options: str) -> bool:
            ran = login(stage, config, "server", *options, browse=Browser().authorize)
            print(ran.stdout, file=sys.stderr)
            return ran.code == 0

        if "grant" not in oauth and not sign_in():
            return 1
        return 0 if call_all(stage, config, sign_in) else 1


def call_all(stage: Stage, config: Path, sign_in: Callable[..., bool]) -> bool:
    """Call every tool through a bridge; where a sign-in is asked for, run the command that the error names."""
    bridge = stage.serve("--config", str(config))
    left = MAX_SIGN_INS
    tools: set[str] = set()

    def listed() -> bool:
        tools.update(set(bridge.tools()) - METATOOLS)
        if not tools and "needs sign-in" in (shown := text_of(bridge.call("list_futures"))):
            assert sign_in(*login_options(shown))
        return bool(tools)

    eventually(listed, "the server's tools are listed", seconds=10)
    for tool in sorted(tools):
        while True:
            try:
                result = bridge.call(tool, {})
                said = text_of(result)
            except RpcError as error:
                said, result = str(error), {"isError": True}
            print(f"{tool}: {said}", file=sys.stderr)
            if not result.get("isError"):
                break
            if "needs sign-in" not in said or left == 0:
                return False
            left -= 1
            if not sign_in(*login_options(said)):
                return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
