"""The examples of frameworks and plain clients, run as they stand, through a real bridge to the example servers."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.examples.stand import EXAMPLES, Stand
from tests.support.peers import python_of
from tests.support.stage import Stage

COUNTING = Path(__file__).resolve().parent / "counting_bridge.py"


def assert_overlap(stand: Stand, output: str) -> None:
    """The look-ups ran at the same time, and the seat, which needs one of them, after that one; all in one turn."""
    runs = stand.runs()
    flights, hotels, sky, seat = (
        runs[f"travel__{tool}"] for tool in ("search_flights", "search_hotels", "weather", "hold_seat")
    )
    assert flights.overlaps(hotels)
    assert flights.overlaps(sky)
    assert hotels.overlaps(sky)
    assert seat.started >= flights.ended
    assert "BER-LIS-1" in output  # the cheapest flight, which no model has looked for
    listed = output.rpartition("list_futures")[2]
    for future in ("f1", "f2", "f3", "f4"):
        assert re.search(rf"\b{future}\b", listed), output


def assert_agent(stage: Stage, peer: Path, file: str, *, together: int) -> None:
    """The calls of an agent overlap, and its answer is the last line; without the bridge, the framework has so many of
    the four calls of a turn open at the same time as examples/README.md says."""
    command = [python_of(peer), str(EXAMPLES / "agents" / file)]
    stand = Stand(stage)
    output = stand.run(command)
    assert_overlap(stand, output)
    assert output.endswith("A seat on the cheapest flight is held.\n")
    without = Stand(stage, stand_in=COUNTING)
    without.run(command)
    assert without.counted() == together


@pytest.mark.peers
def test_openai_agents_sdk(stage: Stage, openai_agents: Path) -> None:
    """Sends all calls of a turn together."""
    assert_agent(stage, openai_agents, "openai_agents_sdk.py", together=4)


@pytest.mark.peers
def test_pydantic_ai(stage: Stage, pydantic_ai: Path) -> None:
    """Sends all calls of a turn together."""
    assert_agent(stage, pydantic_ai, "pydantic_ai_agent.py", together=4)


@pytest.mark.peers
def test_langgraph(stage: Stage, langchain: Path) -> None:
    """Sends all calls of a turn together."""
    assert_agent(stage, langchain, "langgraph_agent.py", together=4)


@pytest.mark.peers
@pytest.mark.examples_long
def test_claude_agent_sdk(stage: Stage, claude_agent_sdk: Path) -> None:
    """Sends those together whose tools have `readOnlyHint`; the fourth one reserves something."""
    assert_agent(stage, claude_agent_sdk, "claude_agent.py", together=3)


def test_python_client(stage: Stage) -> None:
    """A client that sends one call after another has them overlap."""
    stand = Stand(stage)
    assert_overlap(stand, stand.run([sys.executable, str(EXAMPLES / "clients" / "python_client.py")]))


@pytest.mark.node
def test_typescript_client(stage: Stage, npm_examples: Path, tmp_path: Path) -> None:
    """The same in TypeScript: it compiles without a complaint of the strict compiler, and runs."""
    stand = Stand(stage)
    project = stage.folder / "typescript"
    project.mkdir()
    for name in ("client.ts", "package.json", "tsconfig.json"):
        shutil.copy(EXAMPLES / "clients" / "typescript" / name, project)
    (project / "node_modules").symlink_to(npm_examples / "node_modules")
    output = stand.run(["npm", "start"], cwd=project, CLONE=str(EXAMPLES.parent))
    assert_overlap(stand, output)
