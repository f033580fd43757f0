"""A downstream MCP server with state of a session in its process; standard library only.

    python tests/support/session_server.py [NAME]

`count` adds one to a number in memory, `where` and `late` return folder and variables of the process, `slow` ends when
a file exists. At its start it asks for roots, and again when these have changed; `asked` returns each answer. `ask` has
a user answer a question during the call.
"""

import json
import os
import sys
import time
from typing import Any

TOOLS = ("count", "where", "asked", "ask", "slow", "late")
Json = dict[str, Any]


def send(message: Json) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "session-server"
    count, answers, open_calls = 0, [], dict[str, Any]()

    def answer(request_id: Any, value: Any) -> None:
        content = [{"type": "text", "text": json.dumps(value)}]
        send({"id": request_id, "result": {"content": content, "structuredContent": {"value": value}}})

    def ask_for_roots() -> None:
        send({"id": f"roots-{len(answers)}-{count}", "method": "roots/list"})

    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params") or {}
        match method, params.get("name"):
            case "initialize", _:
                offered = params["capabilities"]
                result = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": name, "version": "1"},
                }
                send({"id": message["id"], "result": result})
            case "notifications/initialized", _:
                if "roots" in offered:
                    ask_for_roots()
            case "notifications/roots/list_changed", _:
                ask_for_roots()
            case "tools/list", _:
                tools = [{"name": tool, "inputSchema": {"type": "object"}} for tool in TOOLS]
                send({"id": message["id"], "result": {"tools": tools}})
            case "tools/call", "count":
                count += 1
                answer(message["id"], count)
            case "tools/call", "where" | "late":
                names = params.get("arguments", {}).get("names", [])
                values = {each: os.environ.get(each) for each in names}
                answer(message["id"], {"cwd": os.getcwd(), "pid": os.getpid(), "env": values})
            case "tools/call", "asked":
                answer(message["id"], answers)
            case "tools/call", "slow":
                while not os.path.exists(params["arguments"]["until"]):
                    time.sleep(0.01)
                count += 1
                answer(message["id"], count)
            case "tools/call", "ask":
                open_calls[f"ask-{message['id']}"] = message["id"]
                schema = {"type": "object", "properties": {"name": {"type": "string"}}}
                question = {"message": "Your name?", "requestedSchema": schema}
                send({"id": f"ask-{message['id']}", "method": "elicitation/create", "params": question})
            case None, _ if message.get("id") in open_calls:
                answer(open_calls.pop(message["id"]), message.get("result") or message.get("error"))
            case None, _:
                answers.append(message.get("result") or message.get("error"))
            case _ if "id" in message:
                send({"id": message["id"], "result": {}})
            case _:
                pass


if __name__ == "__main__":
    main()
