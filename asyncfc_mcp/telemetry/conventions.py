"""Names of OpenTelemetry's semantic conventions for MCP, and those that the bridge adds.

Pure. The first part follows https://github.com/open-telemetry/semantic-conventions-genai (`docs/gen-ai/mcp.md`,
status: development). Names of the bridge begin with `asyncfc.`; `docs/telemetry.md` lists them (a test compares).
"""

from typing import Final

from asyncfc_mcp.protocol import CLIENT_METHODS, HANDSHAKE_VERSIONS, MODERN_VERSIONS

# --- attributes of the conventions -----------------------------------------------------------------------------------

METHOD: Final = "mcp.method.name"
PROTOCOL_VERSION: Final = "mcp.protocol.version"
SESSION_ID: Final = "mcp.session.id"
RESOURCE_URI: Final = "mcp.resource.uri"
REQUEST_ID: Final = "jsonrpc.request.id"
TOOL: Final = "gen_ai.tool.name"
PROMPT: Final = "gen_ai.prompt.name"
OPERATION: Final = "gen_ai.operation.name"
EXECUTE_TOOL: Final = "execute_tool"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
ERROR_TYPE: Final = "error.type"
TOOL_ERROR: Final = "tool_error"
STATUS_CODE: Final = "rpc.response.status_code"
TRANSPORT: Final = "network.transport"
NETWORK_PROTOCOL: Final = "network.protocol.name"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
OTHER: Final = "_OTHER"

# --- metrics of the conventions --------------------------------------------------------------------------------------

SERVER_OPERATION: Final = "mcp.server.operation.duration"
CLIENT_OPERATION: Final = "mcp.client.operation.duration"
SERVER_SESSION: Final = "mcp.server.session.duration"
CLIENT_SESSION: Final = "mcp.client.session.duration"
SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Bounds of the buckets of all durations."""

# --- of the bridge ---------------------------------------------------------------------------------------------------

SERVER: Final = "asyncfc.server.name"
"""Name of a wrapped server in the configuration."""
FUTURE_ID: Final = "asyncfc.future.id"
STATE: Final = "asyncfc.future.state"
WAIT_KIND: Final = "asyncfc.wait.kind"
WAIT_ON: Final = "asyncfc.wait.on"
WAIT_PATH: Final = "asyncfc.wait.path"
WAITED_S: Final = "asyncfc.wait.duration_s"
ATTEMPT: Final = "asyncfc.attempt"
PAUSE_S: Final = "asyncfc.retry.pause_s"
LINK: Final = "asyncfc.link"
"""Why a span has a link: `submission` (the request that made the call), `value` (a call whose result this one takes),
`result` (a call whose result the answer brings), `ambient` (the transport's own span)."""

WAITING_EVENT: Final = "asyncfc.waiting"
QUEUED_EVENT: Final = "asyncfc.queued"
WAITED_EVENT: Final = "asyncfc.waited"
ATTEMPT_EVENT: Final = "asyncfc.attempt"
RETRY_EVENT: Final = "asyncfc.retry"

SUBMITTED: Final = "asyncfc.futures.submitted"
ENDED: Final = "asyncfc.futures.ended"
OPEN: Final = "asyncfc.futures.open"
WAIT: Final = "asyncfc.wait.duration"
RETRIES: Final = "asyncfc.retries"
RESTARTS: Final = "asyncfc.server.restarts"
REFERENCES: Final = "asyncfc.references"
TIME_SAVED: Final = "asyncfc.time_saved"

METHODS: Final = CLIENT_METHODS | {"tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update"}
"""Methods with an attribute of their own in metrics; all others are `_OTHER`, since clients can make up any number."""
VERSIONS: Final = frozenset((*HANDSHAKE_VERSIONS, *MODERN_VERSIONS))
TARGETS: Final = {"tools/call": TOOL, "prompts/get": PROMPT}
"""Method → the attribute of the `name` in its parameters."""
WITH_URI: Final = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})
NAME_LENGTH: Final = 128
"""Characters of a name in spans."""
URI_LENGTH: Final = 1000
