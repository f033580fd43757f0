"""Downstream servers of the benchmarks.

    python benchmarks/servers.py echo [--http PORT]   the SDK's low-level server, as anybody would write it
    python benchmarks/servers.py state                the same with state, for scripted agents
    python benchmarks/servers.py raw                  standard library only: cheap, holds any number of calls
    python benchmarks/servers.py relay --http PORT    `echo` over stdio, its bytes relayed to HTTP: no bridge beats it

`echo` and `state` are built on the SDK on purpose, with its own transports: they are the baseline. Run as a script, so
that a proxy in another virtual environment can start them with our interpreter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Any

Json = dict[str, Any]
FAST = "fast_"
"""Prefix of the quick twins of the state server's tools: real tools are either quick or slow, not both by turns."""


def text_schema(**properties: str) -> Json:
    """An input schema whose properties have the given JSON types."""
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}


# --- echo ----------------------------------------------------------------------------------------------------------


def echo_server() -> Any:
    """`echo` (at once), `slow` (after `seconds`), `blob` (`n_bytes` of text), and `note`, which is either of the first
    two, not annotated."""
    import anyio
    import mcp_types as types
    from mcp.server.lowlevel.server import Server

    hints = types.ToolAnnotations(read_only_hint=True)
    tools = [
        types.Tool(name="echo", input_schema=text_schema(text="string"), annotations=hints),
        types.Tool(name="slow", input_schema=text_schema(seconds="number"), annotations=hints),
        types.Tool(name="blob", input_schema=text_schema(n_bytes="integer"), annotations=hints),
        types.Tool(name="note", input_schema=text_schema(text="string", seconds="number")),
    ]

    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
        arguments = params.arguments or {}
        match params.name:
            case "slow":
                await anyio.sleep(arguments["seconds"])
                text = "slept"
            case "note" if "seconds" in arguments:
                await anyio.sleep(arguments["seconds"])
                text = "slept"
            case "blob":
                text = "x" * arguments["n_bytes"]
            case _:
                text = arguments.get("text", "")
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    return Server("bench-echo", on_list_tools=list_tools, on_call_tool=call_tool)


# --- state ---------------------------------------------------------------------------------------------------------


def digest(*parts: object) -> str:
    """Short text that changes with any of its parts: shows whether a value arrived, and in which order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def state_server() -> Any:
    """Cells that can be read and written, and tools that touch nothing; every call takes the time it is told to.

    `ns` keeps the runs of several agents apart. `label` names a call in the log of durations that `report` returns.
    """
    import anyio
    import mcp_types as types
    from mcp.server.lowlevel.server import Server

    cells: dict[str, dict[str, str]] = {}
    durations: dict[str, dict[str, float]] = {}
    common = {"ns": "string", "label": "string", "seconds": "number"}
    own: dict[str, dict[str, str]] = {
        "read": {"cell": "string"},
        "write": {"cell": "string", "value": "string", "seen": "string"},
        "compute": {"inputs": "array"},
        "lookup": {"query": "string"},
    }
    tools = [
        types.Tool(
            name=prefix + kind,
            input_schema=text_schema(**common, **more),
            annotations=types.ToolAnnotations(read_only_hint=kind != "write"),
        )
        for prefix in ("", FAST)
        for kind, more in own.items()
    ]
    tools.append(types.Tool(name="report", input_schema=text_schema(ns="string")))

    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
        began = time.perf_counter()
        given = params.arguments or {}
        space = cells.setdefault(given["ns"], {})
        log = durations.setdefault(given["ns"], {})
        if params.name == "report":
            found: Json = {"cells": dict(sorted(space.items())), "durations": log}
            cells.pop(given["ns"])
            durations.pop(given["ns"])
        else:
            await anyio.sleep(given["seconds"])
            match params.name.removeprefix(FAST):
                case "read":
                    found = {"value": space.get(given["cell"], "empty")}
                case "write":
                    # What a cell holds tells the whole history of its writes: two that swap show. So do calls that
                    # were to come after others.
                    seen = [space.get(cell, "empty") for cell in given.get("seen", "").split()]
                    space[given["cell"]] = digest(space.get(given["cell"], "empty"), given["value"], seen)
                    found = {"value": space[given["cell"]]}
                case "compute":
                    found = {"value": digest(given["inputs"])}
                case _:
                    ids = [digest(given["query"], n) for n in range(3)]
                    found = {"items": [{"id": id_, "price": int(id_[:4], 16)} for id_ in ids]}
            log[given["label"]] = time.perf_counter() - began
        content = [types.TextContent(type="text", text=json.dumps(found))]
        return types.CallToolResult(content=content, structured_content=found)

    return Server("bench-state", on_list_tools=list_tools, on_call_tool=call_tool)


def serve(server: Any, port: int | None) -> None:
    """Over the SDK's stdio transport, or over Streamable HTTP with uvicorn on loopback."""
    if port is not None:
        import uvicorn

        # The same parser as the bridge's, whether or not httptools is installed.
        config = uvicorn.Config(
            server.streamable_http_app(), host="127.0.0.1", port=port, log_level="error", http="h11"
        )
        uvicorn.Server(config).run()
        return

    import anyio
    from mcp.server.stdio import stdio_server

    async def main() -> None:
        async with stdio_server() as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())

    anyio.run(main)


# --- raw -----------------------------------------------------------------------------------------------------------


def serve_raw() -> None:
    """`echo` answers at once, `hold` never; handshake era, one blocking loop."""
    hints = {"readOnlyHint": True}
    tools = [
        {"name": name, "inputSchema": text_schema(text="string"), "annotations": hints} for name in ("echo", "hold")
    ]
    for line in sys.stdin.buffer:
        message = json.loads(line)
        request_id, params = message.get("id"), message.get("params") or {}
        if request_id is None:
            continue
        result: Json = {}
        match message.get("method"):
            case "initialize":
                result = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "bench-raw", "version": "1"},
                }
            case "tools/list":
                result = {"tools": tools}
            case "tools/call" if params["name"] == "hold":
                continue
            case "tools/call":
                result = {"content": [{"type": "text", "text": (params.get("arguments") or {}).get("text", "")}]}
            case "ping":
                pass
            case method:
                error = {"code": -32601, "message": f"Method not found: {method}"}
                write({"jsonrpc": "2.0", "id": request_id, "error": error})
                continue
        write({"jsonrpc": "2.0", "id": request_id, "result": result})


def write(message: Json) -> None:
    """One line on stdout."""
    data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    while data:
        data = data[os.write(1, data) :]


# --- relay ---------------------------------------------------------------------------------------------------------


def relay(port: int) -> None:
    """Put what is posted on the standard input of an `echo`, and its next line into the response. One blocking thread
    for each connection, one request at a time, no parser."""
    echo = [sys.executable, __file__, "echo"]
    with (
        subprocess.Popen(echo, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        socket.create_server(("127.0.0.1", port)) as listener,
    ):
        assert child.stdin
        assert child.stdout
        there, back = child.stdin.fileno(), child.stdout.fileno()
        turn = threading.Lock()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=relay_connection, args=(connection, there, back, turn), daemon=True).start()


def relay_connection(connection: socket.socket, there: int, back: int, turn: threading.Lock) -> None:
    """All requests of a connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    got = b""
    while True:
        while b"\r\n\r\n" not in got:
            chunk = connection.recv(1 << 16)
            if not chunk:
                return
            got += chunk
        head, _, got = got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *([0-9]+)", head)
        assert length, head
        size = int(length[1])
        while len(got) < size:
            chunk = connection.recv(1 << 16)
            if not chunk:
                return
            got += chunk
        body, got = got[:size], got[size:]
        line = b""
        with turn:
            os.write(there, body + b"\n")
            while not line.endswith(b"\n"):
                chunk = os.read(back, 1 << 16)
                if not chunk:
                    return
                line += chunk
        answer = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(line)}\r\n\r\n"
        connection.sendall(answer.encode() + line)


def main() -> None:
    """Serve until the client disconnects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["echo", "state", "raw", "relay"])
    parser.add_argument("--http", type=int, metavar="PORT")
    options = parser.parse_args()
    if options.kind == "raw":
        serve_raw()
    elif options.kind == "relay":
        relay(options.http)
    else:
        serve(echo_server() if options.kind == "echo" else state_server(), options.http)


if __name__ == "__main__":
    main()
