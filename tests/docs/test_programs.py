"""Programs in the documentation run: Python and TypeScript against a real bridge over HTTP; all others are excused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks
from tests.docs.transcripts import PACE, example_servers
from tests.support.stage import Stage

URL = "http://127.0.0.1:8642/mcp"
ANSWER = {"flight_id": "BER-LIS-1", "seat": "12A", "held": True}
KNOWN = (
    "", "text", "sh", "bash", "console", "json", "jsonc", "yaml", "toml",  # other tests, or the output of something
    "python", "typescript",
)  # fmt: skip


def programs(language: str) -> list[Block]:
    """Return the blocks in a language that are to be run."""
    return [block for block in blocks() if block.language == language and not block.excuse]


@pytest.fixture(scope="module")
def url(shared_stage: Stage) -> str:
    """The address of a bridge with the example servers."""
    bridge = shared_stage.http_bridge(example_servers(shared_stage), env={"ASYNCFC_DEMO_SCALE": PACE}, journal="off")
    return f"{bridge.base}/mcp"


def run(command: list[str], folder: Path) -> str:
    """Return the output of a program."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", programs("python"), ids=str)
def test_python(block: Block, url: str, tmp_path: Path) -> None:
    """Prints the result of its last call."""
    (tmp_path / "program.py").write_text(block.text.replace(URL, url), encoding="utf-8")
    assert run([sys.executable, "program.py"], tmp_path).strip() == str(ANSWER)


@pytest.mark.node
@pytest.mark.parametrize("block", programs("typescript"), ids=str)
def test_typescript(block: Block, url: str, npm_examples: Path, tmp_path: Path) -> None:
    """The same; it has no types of its own, so that node runs it as it is."""
    (tmp_path / "node_modules").symlink_to(npm_examples / "node_modules")
    (tmp_path / "program.mjs").write_text(block.text.replace(URL, url), encoding="utf-8")
    words = re.findall(r"\w[\w-]*", run(["node", "program.mjs"], tmp_path))
    assert words == ["flight_id", "BER-LIS-1", "seat", "12A", "held", "true"]


def test_other_languages_are_excused() -> None:
    """A block that no test runs or reads has a comment before it that says why: `<!-- not run: … -->`."""
    assert [str(block) for block in blocks() if block.language not in KNOWN and not block.excuse] == []
