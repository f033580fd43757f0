"""The wheel in an empty environment: `python packaging/try_wheel.py dist/asyncfc_mcp-VERSION-py3-none-any.whl`.

Installs the wheel for the interpreter that runs this, in a temporary folder, and uses it as a new user would: the
version, the demo, and a session of the SDK's client with one call. Nothing of the checkout is on the path.

Owns the trial; needs the `venv` of its interpreter, or uv (`--uv`), and nothing else outside the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SESSION = """
import json
import sys
from pathlib import Path
import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
import asyncfc_mcp

program, config = sys.argv[1:]
assert Path(asyncfc_mcp.__file__).is_relative_to(sys.prefix), asyncfc_mcp.__file__
travel = Path(asyncfc_mcp.__file__).parent / "examples" / "travel_server.py"
entry = {"command": sys.executable, "args": [str(travel)], "env": {"ASYNCFC_DEMO_SCALE": "0.05"}}
Path(config).write_text(json.dumps({"mcpServers": {"travel": entry}}))

async def main():
    async with Client(StdioServerParameters(command=program, args=["serve", "--config", config])) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        while "travel__weather" not in tools:
            await anyio.sleep(0.1)
            tools = {tool.name for tool in (await client.list_tools()).tools}
        handle = await client.call_tool("travel__weather", {"city": "Lisbon", "_as": "w"})
        assert handle.meta["asyncfc/futures"][0]["name"] == "w", handle
        result = await client.call_tool("await_future", {"future_id": "w"})
        assert not result.is_error and result.structured_content["city"] == "Lisbon", result

anyio.run(main)
"""
"""Runs in the environment of the wheel."""


def environment(wheel: Path, folder: Path, uv: str | None) -> Path:
    """Make an environment with the wheel and return its folder of programs. Raises CalledProcessError."""
    place = folder / "environment"
    python = str(place / "bin" / "python")
    if uv is not None:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, str(wheel)], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    return place / "bin"


def own_folders(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user or of a checkout is found."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ASYNCFC_", "VIRTUAL"))}
    for name in ("CACHE", "LOG", "STATE", "RUNTIME", "DATA", "CONFIG"):
        env[f"ASYNCFC_{name}_DIR"] = str(folder / name.lower())
    return env | {"HOME": str(folder), "ASYNCFC_DEMO_SCALE": "0.05"}


def run(command: list[str], folder: Path, env: Mapping[str, str]) -> str:
    """Run a command in the folder and return its output. Raises SystemExit with that of a command that fails."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def attempt(wheel: Path, uv: str | None) -> str:
    """Try all of it and return the report. Raises SystemExit for what does not hold."""
    with tempfile.TemporaryDirectory(prefix="run-") as scratch:
        folder = Path(scratch)
        programs = environment(wheel, folder, uv)
        env = own_folders(folder)
        program, python = str(programs / "asyncfc-mcp"), str(programs / "python")
        version = run([program, "--version"], folder, env).split()[-1]
        if version != wheel.name.split("-")[1]:
            raise SystemExit(f"{wheel.name} says that it has version {version}")
        if run([python, "-m", "asyncfc_mcp", "--version"], folder, env).split()[-1] != version:
            raise SystemExit("`python -m asyncfc_mcp` has another version than `asyncfc-mcp`")
        if "same results" not in run([program, "demo"], folder, env):
            raise SystemExit("the demo's two runs have no or other results")
        run([python, "-c", SESSION, program, str(folder / "mcp.json")], folder, env)
        released = ".".join(map(str, sys.version_info[:3]))
        return json.dumps({"python": released, "version": version, "passed": ["version", "demo", "session"]})


def main() -> None:
    """Try the wheel and print what was tried."""
    parser = argparse.ArgumentParser(description="Try a wheel in an empty environment.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--uv", help="program of uv, which installs faster than pip")
    given = parser.parse_args()
    print(attempt(given.wheel.resolve(), given.uv))


if __name__ == "__main__":
    main()
