#!/usr/bin/env bash
# Checks of a CI job through a bridge over HTTP, with curl: three jobs at the same time, then one that follows them.
#
#     asyncfc-mcp serve --config examples/config.json --transport http &
#     examples/ci_job/checks.sh
#
# Version 2026-07-28 of the protocol needs no session: each call is one request. All calls of a job have the same
# conversation, so that names of another job on the same bridge are none of theirs.
set -euo pipefail
url=http://127.0.0.1:${PORT:-8642}/mcp
conversation=ci-${GITHUB_RUN_ID:-$$}

call() { # call TOOL ARGUMENTS: prints the answer; fails if the tool has failed
  local answer
  answer=$(
    curl --silent --show-error --fail-with-body --max-time 120 "$url" \
      -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
      -H 'mcp-protocol-version: 2026-07-28' -H 'mcp-method: tools/call' -H "mcp-name: $1" \
      -d '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "'"$1"'", "arguments": '"$2"', "_meta": {
            "asyncfc/conversation": "'"$conversation"'",
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "ci-job", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}}}}'
  )
  printf '%5s s  %s\n' "$SECONDS" "$1"
  sed -n 's/^data: //p; /^{/p' <<<"$answer" | python3 -c '
import json, sys
answer = json.loads(sys.stdin.readlines()[-1])
result = answer.get("result") or sys.exit(answer["error"]["message"])
for block in result["content"]:
    print("         " + block["text"].replace("\n", "\n         "))
sys.exit(bool(result.get("isError")))'
}

# Each answer is a handle, so that the next call is made while this one runs.
call ci__run_tests '{"suite": "unit", "_as": "tests"}'
call ci__lint '{"path": "src", "_as": "lint"}'
call ci__build '{"target": "site", "_as": "build"}'
# Not sent if one of the three fails. `_wait` has this call answer with all results.
call ci__publish '{"target": "site", "_after": "tests, lint, build", "_wait": "tests, lint, build, this"}'
call list_futures '{}'
