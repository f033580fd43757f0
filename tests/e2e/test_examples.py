"""The examples do what they say, run as a reader would run them; and the stateful one proves the order of calls."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import Implementation

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "examples"

Operation = tuple[str, dict[str, Any]]


def environment(tmp_path: Path, scale: float) -> dict[str, str]:
    return {
        "PYTHONPATH": str(REPO),
        "ASYNCFC_DEMO_SCALE": str(scale),
        "ASYNCFC_CACHE_DIR": str(tmp_path / "cache"),
        "ASYNCFC_LOG_DIR": str(tmp_path / "log"),
        "ASYNCFC_STATE_DIR": str(tmp_path / "state"),
        "ASYNCFC_PYTHON": sys.executable,
    }


def run(*command: str, env: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, *command], cwd=REPO, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_demo_is_faster_with_the_same_results(tmp_path: Path):
    """Its last line, and the exit code, say so."""
    output = run("-m", "asyncfc_mcp", "demo", env=environment(tmp_path, 0.3))
    last = output.strip().splitlines()[-1]
    speedup = re.search(r"([\d.]+) × faster, same results", last)
    assert speedup is not None, output
    assert float(speedup.group(1)) > 1.2


def test_five_dependent_calls_fit_in_one_turn(tmp_path: Path):
    """The last call's answer brings all five results, in the order that the state and the references ask for."""
    output = run(str(EXAMPLES / "one_turn_dag.py"), env=environment(tmp_path, 0.1))
    assert "Fly BER-LIS-1 Sleep at Lisbon Palace" in output
    brought = output.partition("contains all results")[2]
    completed = re.findall(r"^    (f\d) .* completed(?: \(put in: .*\))?$", brought, re.M)
    assert completed == ["f1", "f2", "f3", "f4", "f5"]
    assert "1 model turn" in output


def script(seed: int, length: int = 24) -> list[Operation]:
    """What a model might ask for: notes and accounts, some of it failing, much of it in conflict."""
    dice = random.Random(seed)
    names, accounts = ("a", "b", "c"), ("x", "y", "z")
    made: list[Operation] = [("deposit", {"account": account, "amount": 50}) for account in accounts]
    for number in range(length):
        name, source, target = dice.choice(names), *dice.sample(accounts, 2)
        made.append(
            dice.choice(
                [
                    ("write_note", {"name": name, "text": f"{number}\n"}),
                    ("append_note", {"name": name, "text": f"{number}"}),
                    ("append_note", {"name": name, "text": f"{number}"}),
                    ("read_note", {"name": name}),
                    ("list_notes", {}),
                    ("deposit", {"account": source, "amount": number}),
                    ("transfer", {"source": source, "target": target, "amount": dice.choice([10, 500])}),
                    ("balance", {"account": source}),
                ]
            )
        )
    return made


def state_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}


def notes_config(tmp_path: Path, folder: Path) -> Path:
    """The example's own configuration of the notes server."""
    entry = json.loads((EXAMPLES / "config.json").read_text())["mcpServers"]["notes"]
    entry["command"], entry["args"] = sys.executable, [str(EXAMPLES / "notes_server.py"), str(folder)]
    entry["asyncfc"] |= {"prefix": ""}
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"notes": entry}, "asyncfc": {"grace_ms": 0}}))
    return path


async def outcomes(call: Callable[[str, dict[str, Any]], Awaitable[Any]], made: list[Operation]) -> list[Any]:
    return [seen(await call(tool, arguments)) for tool, arguments in made]


def seen(result: Any) -> tuple[bool, list[str]]:
    return bool(result.is_error), [block.text for block in result.content]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_calls_at_the_same_time_end_as_calls_one_after_another(tmp_path: Path, seed: int):
    """Every result and the whole folder are equal, though the bridge was given all calls at once."""
    made = script(seed)
    env = environment(tmp_path, 0.02)
    alone, bridged = tmp_path / "alone", tmp_path / "bridged"

    async def directly() -> list[Any]:
        command = [str(EXAMPLES / "notes_server.py"), str(alone)]
        async with Client(StdioServerParameters(command=sys.executable, args=command, env=env)) as client:
            return await outcomes(client.call_tool, made)

    async def through_the_bridge() -> list[Any]:
        command = ["-m", "asyncfc_mcp", "serve", "--config", str(notes_config(tmp_path, bridged))]
        server = StdioServerParameters(command=sys.executable, args=command, env=env)
        async with Client(server, client_info=Implementation(name="test", version="1")) as client:
            await client.list_tools()
            futures: list[str] = []
            for tool, arguments in made:
                handle = await client.call_tool(tool, arguments)
                assert handle.meta is not None
                futures.append(handle.meta["asyncfc/futures"][0]["future_id"])
            return [seen(await client.call_tool("await_future", {"future_id": future})) for future in futures]

    assert anyio.run(through_the_bridge) == anyio.run(directly)
    assert state_of(bridged) == state_of(alone)
