"""Fixtures that every test may use: a stage for real processes, third-party peers, and PostgreSQL.

A test asks for a peer by naming its fixture. Peers are installed before the first test runs, so that an installation
never counts against the time-out of the test that happens to need it first.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.support import peers
from tests.support.postgres import PostgresMissing, PostgresServer, postgres_server
from tests.support.stage import Stage, stage_in

# A time is no property of the code on a machine that others use, too.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

FOUND = pytest.StashKey[dict[str, "Path | peers.PeerMissing"]]()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Starts the processes of one test, and fails it when one of them is left over."""
    with stage_in(tmp_path) as stage:
        yield stage


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same for processes that the tests of one module share."""
    with stage_in(tmp_path_factory.mktemp("shared")) as stage:
        yield stage


def pytest_configure(config: pytest.Config) -> None:
    """Keep bridges of tests that pass their own environment on out of the user's folders; collect no garbage yet."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; programs inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # tests are a million objects that stay: looking for garbage among them takes half of the collection
    if "ASYNCFC_STATE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="asyncfc-tests-")
        os.environ["ASYNCFC_STATE_DIR"] = folder
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install what the collected tests need."""
    gc.enable()
    if session.config.option.collectonly:
        return
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ()) if name in peers.PEERS}
    session.config.stash[FOUND] = peers.provide_all(needed)


def _unavailable(why: str) -> NoReturn:
    """Skip a test. On a developer's machine without network that is fair; in CI it would be a green lie."""
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _peer_fixture(name: str) -> Callable[..., Path]:
    def fixture(request: pytest.FixtureRequest) -> Path:
        found = request.config.stash[FOUND][name]
        if isinstance(found, Path):
            return found
        _unavailable(str(found))

    fixture.__doc__ = f"The folder of the installed peer {name!r}."
    return pytest.fixture(scope="session", name=name)(fixture)


npm = _peer_fixture("npm")
npm_profiles = _peer_fixture("npm_profiles")
npm_page = _peer_fixture("npm_page")
fetch = _peer_fixture("fetch")
markitdown = _peer_fixture("markitdown")
excel = _peer_fixture("excel")
conformance = _peer_fixture("conformance")
server_time = _peer_fixture("server_time")
server_git = _peer_fixture("server_git")
server_sqlite = _peer_fixture("server_sqlite")
python_sdk_1 = _peer_fixture("python_sdk_1")
npm_clients = _peer_fixture("npm_clients")
npm_auth = _peer_fixture("npm_auth")
npm_hosts = _peer_fixture("npm_hosts")
npm_mcpb = _peer_fixture("npm_mcpb")
npm_n8n = _peer_fixture("npm_n8n")
npm_examples = _peer_fixture("npm_examples")
uv = _peer_fixture("uv")
pipx = _peer_fixture("pipx")
workflow_checkers = _peer_fixture("workflow_checkers")
release_tools = _peer_fixture("release_tools")
fastmcp = _peer_fixture("fastmcp")
fastmcp_tasks = _peer_fixture("fastmcp_tasks")
langchain = _peer_fixture("langchain")
before_after = _peer_fixture("before_after")
claude_agent_sdk = _peer_fixture("claude_agent_sdk")
openai_agents = _peer_fixture("openai_agents")
pydantic_ai = _peer_fixture("pydantic_ai")
npm_converters = _peer_fixture("npm_converters")
llama_cpp = _peer_fixture("llama_cpp")
google_genai = _peer_fixture("google_genai")
google_adk = _peer_fixture("google_adk")
litellm = _peer_fixture("litellm")
langchain_models = _peer_fixture("langchain_models")


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except PostgresMissing as exc:
            _unavailable(str(exc))
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests of this process; none of them may stop it."""
    with _postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for one test, which may stop and restart it."""
    with _postgres() as server:
        yield server


@pytest.fixture(scope="session")
def haproxy() -> str:
    """The program of a load balancer."""
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        _unavailable("these tests need haproxy (Debian: apt-get install haproxy; it does not have to run)")
    return found


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """A database for one test: the URL of a schema that does not exist yet, as the setting `engine` takes it."""
    return postgres.url(postgres.fresh_schema())
