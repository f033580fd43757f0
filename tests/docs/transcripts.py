"""Transcripts of pages: parsing them, and making their calls at a real bridge with the example servers.

A transcript is a fenced block of `text` after the comment `<!-- transcript -->`: a line for each call, as Python would
write it, and below it, indented, the text of its answer. `…` stands for any text. Tools of the bridge are called like
any other. `python -m tests.docs.transcripts FILE` prints the transcripts of a page as they are now.
"""

import ast
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docs.pages import REPO
from tests.support.client import text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage, stage_in

_BLOCK = re.compile(r"<!-- transcript -->\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
PACE = "0.25"
"""Delays of the example servers, in relation to what they declare: the shortest takes many times `grace_ms`."""


@dataclass
class Step:
    """A call, and the lines of its answer."""

    written: str
    tool: str
    arguments: dict[str, Any]
    answer: list[str] = field(default_factory=list[str])


def transcripts(page: Path) -> Iterator[tuple[int, list[Step]]]:
    """Yield the line and the steps of each transcript of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 2, steps(match[1])


def steps(text: str) -> list[Step]:
    """Return the steps of a transcript."""
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("    "):
            found[-1].answer.append(line.strip())
        elif line.strip():
            call = ast.parse(line, mode="eval").body
            assert isinstance(call, ast.Call), line
            assert isinstance(call.func, ast.Name), line
            arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            found.append(Step(line, call.func.id, arguments))
    return found


def example_servers(stage: Stage) -> dict[str, Any]:
    """Return the servers of `examples/config.json`, with paths that hold in any folder."""
    servers = json.loads((REPO / "examples" / "config.json").read_text(encoding="utf-8"))["mcpServers"]
    for server in servers.values():
        server["command"] = sys.executable
        server["args"] = [str(REPO / server["args"][0]), str(stage.folder / "notes")]
    return servers


def play(stage: Stage, scripts: Sequence[list[Step]]) -> list[list[list[str]]]:
    """Make the calls of all transcripts, each as a principal of its own, and return the lines of each answer."""
    tokens = [f"{number:064}" for number in range(len(scripts))]
    hashes = (hashlib.sha256(token.encode()).hexdigest() for token in tokens)
    file = stage.folder / "tokens.toml"
    file.write_text("".join(f'reader{n} = "sha256:{digest}"\n' for n, digest in enumerate(hashes)), encoding="utf-8")
    file.chmod(0o600)
    bridge = stage.http_bridge(
        example_servers(stage), "--auth-tokens", str(file), env={"ASYNCFC_DEMO_SCALE": PACE}, journal="off"
    )
    # One after the other: their calls would wait for each other at the servers, which are common to all.
    return [_played(bridge, script, token) for script, token in zip(scripts, tokens, strict=True)]


def _played(bridge: HttpBridge, script: list[Step], token: str) -> list[list[str]]:
    # A host whose connection carries one conversation, so that `_wait="all"` is allowed.
    client = bridge.client(name="claude-code", headers={"Authorization": f"Bearer {token}"})
    client.request("tools/list")
    return [_lines(client, step) for step in script]


def _lines(client: HttpWire, step: Step) -> list[str]:
    text = text_of(client.call(step.tool, step.arguments))
    return [line.strip() for line in text.splitlines() if line.strip()]


def differences(script: Sequence[Step], answers: Sequence[list[str]]) -> list[str]:
    """Return what is not as written.

    An answer consists of parts: what is said about each future. A part may come with an earlier answer than it is
    written at, since a finished result is delivered with the next answer; white space is not compared.
    """
    problems: list[str] = []
    open_parts: list[str] = []
    for step, answer in zip(script, answers, strict=True):
        open_parts += _parts(answer)
        for part in _parts(step.answer):
            pattern = ".*?".join(map(re.escape, part.split("…")))
            found = next((other for other in open_parts if re.fullmatch(pattern, other)), None)
            if found is None:
                problems.append(f"{step.written}\n  written:  {part}\n  answered: {' | '.join(open_parts)}")
            else:
                open_parts.remove(found)
    return problems + [f"not written: {part}" for part in open_parts]


def _parts(lines: Sequence[str]) -> list[str]:
    """Return the text about each future, and what is before the first one, without white space."""
    found: list[str] = []
    for line in lines:
        tight = re.sub(r"\s+", "", line)
        if found and not re.match(r"f\d+\b", line):
            found[-1] += tight
        else:
            found.append(tight)
    return found


def _main(page: Path) -> None:
    scripts = list(transcripts(page))
    with tempfile.TemporaryDirectory(prefix="run-") as folder, stage_in(Path(folder)) as stage:
        for (line, script), answers in zip(scripts, play(stage, [script for _, script in scripts]), strict=True):
            print(f"--- {page}:{line}")
            for step, answer in zip(script, answers, strict=True):
                print(step.written, *(f"    {text}" for text in answer), sep="\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
