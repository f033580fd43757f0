"""Where the SDK may be used, which import-linter cannot say of parts of a package that is not ours."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import mcp_types
import pytest
from mcp_types import methods, version

from asyncfc_mcp import protocol

PACKAGE = Path(__file__).resolve().parent.parent / "asyncfc_mcp"
ALLOWED = {
    "mcp.client": set(),
    "mcp.server": {"transports.sdk_adapter", "transports.stdio", "transports.http.sse", "upstream.input_required"},
}
OAUTH = ("bearer", "sign_in", "token_endpoint", "discovery", "oauth_http")


def name_of(module: Path) -> str:
    """Return the dotted name of a module below the package."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def imported(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_each_side_of_the_sdk_is_used_in_one_place(part: str):
    """`mcp.client` is nobody's, `mcp.server` is the server's and the transports'."""
    users = {
        name_of(module)
        for module in PACKAGE.rglob("*.py")
        if any(name == part or name.startswith(part + ".") for name in imported(module))
    }
    assert users <= ALLOWED[part]


@pytest.mark.parametrize(
    "module", ["transports.stdio", "transports.http.serve", "transports.http.streamable", "downstream.http.remote"]
)
def test_a_bridge_does_not_load_the_sdk(module: str):
    """Neither over pipes nor over Streamable HTTP, on either side: its models take longer to build, and more memory,
    than all that a bridge needs."""
    imports = f"import sys, asyncfc_mcp.cli.main, asyncfc_mcp.{module}"
    program = f"{imports}; print([m for m in sys.modules if 'mcp' == m[:3]])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_authentication_is_loaded_where_it_is_used():
    """A bridge over HTTP without tokens of an authorization server pays for none of it."""
    program = """
import sys, asyncfc_mcp.cli.main, asyncfc_mcp.transports.http.serve, asyncfc_mcp.transports.http.routes
print([name for name in ("jwt", "cryptography", "httpx2") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("journal", "loaded"), [("off", False), ("auto", True)])
def test_sqlite_is_loaded_for_a_journal_only(tmp_path: Path, journal: str, loaded: bool):
    """A bridge that keeps futures in memory does not pay for it."""
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"journal": journal}}))
    program = f"""
import sys
from pathlib import Path
from asyncfc_mcp.cli.process import make_bridge
from asyncfc_mcp.config.reader import load_config
import asyncfc_mcp.cli.main, asyncfc_mcp.transports.stdio
make_bridge(load_config(Path({str(config)!r}), {{}}), verbose=False)
print("sqlite3" in sys.modules)
"""
    env = {**os.environ, "ASYNCFC_STATE_DIR": str(tmp_path), "ASYNCFC_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str(loaded)


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
@pytest.mark.parametrize("module", ["transports.stdio", "transports.http.serve", "transports.local.daemon"])
def test_opentelemetry_is_loaded_for_telemetry_only(tmp_path: Path, module: str, variables: dict[str, str]):
    """A bridge whose environment asks for none loads nothing of it, nor of what exports it."""
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"s": {"command": "x"}}}))
    program = f"""
import sys
from pathlib import Path
from asyncfc_mcp.cli.process import make_bridge, telemetry_of
from asyncfc_mcp.config.reader import load_config
import asyncfc_mcp.cli.main, asyncfc_mcp.{module}
config = load_config(Path({str(config)!r}), {{}})
with telemetry_of(config) as telemetry:
    make_bridge(config, verbose=False, telemetry=telemetry)
print([name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "prometheus_client", "requests")])
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    env |= {"ASYNCFC_STATE_DIR": str(tmp_path), "ASYNCFC_CACHE_DIR": str(tmp_path), **variables}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("entry", "loaded"),
    [
        ({"command": "x"}, []),
        ({"url": "https://mcp.example/", "headers": {"Authorization": "Bearer x"}}, []),
        ({"url": "https://mcp.example/"}, ["asyncfc_mcp.downstream.oauth.bearer"]),
    ],
    ids=["command", "token", "sign-in"],
)
def test_sign_in_is_loaded_where_it_is_needed(tmp_path: Path, entry: dict[str, object], loaded: list[str]):
    """Neither the HTTP library, nor that of JWTs or of keyrings, delays the first answer of a bridge."""
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"s": entry}, "asyncfc": {"credentials": "keyring"}}))
    heavy = ("httpx2", "jwt", "keyring", "cryptography", *(f"{PACKAGE.name}.downstream.oauth.{n}" for n in OAUTH))
    program = f"""
import sys
from pathlib import Path
from asyncfc_mcp.cli.process import make_bridge
from asyncfc_mcp.config.reader import load_config
import asyncfc_mcp.cli.main, asyncfc_mcp.transports.stdio
make_bridge(load_config(Path({str(config)!r}), {{}}), verbose=False)
print([name for name in {heavy!r} if name in sys.modules])
"""
    env = {**os.environ, "ASYNCFC_STATE_DIR": str(tmp_path), "ASYNCFC_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str(loaded)


def test_the_words_of_the_protocol_are_those_of_the_sdk():
    """They are written down once more, so that nobody has to load the SDK for them."""
    assert protocol.HANDSHAKE_VERSIONS == version.HANDSHAKE_PROTOCOL_VERSIONS
    assert protocol.MODERN_VERSIONS == version.MODERN_PROTOCOL_VERSIONS
    assert protocol.CLIENT_METHODS == methods.SPEC_CLIENT_METHODS
    ours = {name: value for name, value in vars(protocol).items() if name.isupper() and hasattr(mcp_types, name)}
    assert len(ours) >= 14
    assert ours == {name: getattr(mcp_types, name) for name in ours}


def test_nobody_imports_asyncio():
    """anyio throughout, so that tests can run on a virtual clock."""
    assert not [name_of(module) for module in PACKAGE.rglob("*.py") if "asyncio" in imported(module)]


def test_a_session_that_shares_a_daemon_loads_next_to_nothing():
    """Its host waits for it, and each session has one: neither the bridge, nor what takes memory."""
    imports = "import sys, asyncfc_mcp.__main__, asyncfc_mcp.thin.main, asyncfc_mcp.thin.relay"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    ours = {name.removeprefix("asyncfc_mcp.thin.") for name in loaded if name.startswith("asyncfc_mcp.thin.")}
    assert ours == {"main", "launch", "relay", "output", "conversation", "messages", "place", "greeting"}
    unwanted = (
        "asyncio anyio click dataclasses hashlib inspect logging mcp pathlib pydantic subprocess threading urllib"
    )
    assert loaded & set(unwanted.split()) == set()
    loaded.discard("asyncfc_mcp._version")  # a checkout that was never built has none
    assert {name for name in loaded if name.startswith("asyncfc_mcp.")} == {
        "asyncfc_mcp.__main__",
        "asyncfc_mcp.thin",
    } | {f"asyncfc_mcp.thin.{name}" for name in ours}
