"""A server whose listings are as a JSON file says: odd entries, errors, slowness, pages without end, endless changes.

Owns no cases; tests write the file. Usage: python listing_server.py FILE [WORDS...]. Keys of the file, all optional:

    listings      key of the result → its entries
    introduction  what replaces parts of the answer to `initialize`
    errors        method → JSON-RPC error code
    slow          method → seconds before its answer
    pages         method → the pages: lists of `[entries, members of the page beside them]`; the cursor is the number
    forever       method → a page that is given again and again, with another cursor each time
    on_list       methods that have `notifications/…/list_changed` sent before their answer
    start_s       seconds that the server works (not sleeps) before it reads anything
    count         a file to which a line with the method is added for each request
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

KEYS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
LOCK = threading.Lock()


def write(message: dict[str, Any]) -> None:
    with LOCK:
        # 1e999 is JSON; the word that Python writes for what it reads is not.
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}).replace("Infinity", "1e999") + "\n")
        sys.stdout.flush()


def result_of(plan: dict[str, Any], method: str, params: dict[str, Any], asked: int) -> Any:
    """The result of a request; None if there is no such method."""
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {kind: {"listChanged": True} for kind in ("tools", "prompts", "resources")},
            "serverInfo": {"name": "listing", "version": "1"},
            **plan.get("introduction", {}),
        }
    if method in KEYS:
        key, listings = KEYS[method], plan.get("listings", {})
        if method in plan.get("pages", {}):
            entries, more = plan["pages"][method][int(params.get("cursor") or 0)]
            return {key: entries, **more}
        if method in plan.get("forever", {}):
            return {key: plan["forever"][method], "nextCursor": str(asked)}
        return {key: listings.get(key, [])}
    if method == "tools/call":
        text = json.dumps([params["name"], params.get("arguments")])
        return {"content": [{"type": "text", "text": text}]}
    if method == "prompts/get":
        return {"messages": [{"role": "user", "content": {"type": "text", "text": params["name"]}}]}
    if method == "resources/read":
        return {"contents": [{"uri": params["uri"], "text": params["uri"]}]}
    return {} if method == "ping" else None


def answer(plan: dict[str, Any], message: dict[str, Any], asked: int) -> None:
    method, number = message["method"], message["id"]
    time.sleep(plan.get("slow", {}).get(method, 0))
    if method in plan.get("on_list", ()):
        write({"method": f"notifications/{method.split('/')[0]}/list_changed"})
    if (code := plan.get("errors", {}).get(method)) is not None:
        write({"id": number, "error": {"code": code, "message": "out of order"}})
        return
    result = result_of(plan, method, message.get("params") or {}, asked)
    if result is None:
        write({"id": number, "error": {"code": -32601, "message": f"Method not found: {method}"}})
    else:
        write({"id": number, "result": result})


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    until = time.process_time() + plan.get("start_s", 0)
    while time.process_time() < until:
        pass
    asked = 0
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message or "id" not in message:
            continue
        asked += 1
        if "count" in plan:
            with Path(plan["count"]).open("a") as file:
                file.write(message["method"] + "\n")
        if message["method"] in plan.get("slow", {}):
            threading.Thread(target=answer, args=(plan, message, asked), daemon=True).start()
        else:
            answer(plan, message, asked)


if __name__ == "__main__":
    main()
