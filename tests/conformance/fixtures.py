"""What the official conformance suite wants a server to offer: tools, prompts and resources by fixed names.

Every tool works in both protocol eras: what it asks of the user goes out as a live request on a handshake connection
and as an `InputRequiredResult` on 2026-07-28. Owns content and behaviour; knows nothing of transports.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

Json = dict[str, Any]

PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV: Final = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
RESOURCE_NOT_FOUND: Final = -32002
"""What a missing resource is answered with in the handshake era."""
STEP_S: Final = 0.05
"""Between two notifications of one tool: long enough for them to travel one by one."""

LONGEST_S: Final = 4.0
"""Where calls are no tasks the suite waits for `slow_compute` to its end."""


# --- asking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One `tools/call` or `prompts/get`, with what a client that was asked has brought back."""

    ctx: Any
    arguments: Mapping[str, Any]

    @property
    def modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def answers(self) -> Mapping[str, Any]:
        return self.ctx.params.get("inputResponses") or {}

    def state(self) -> Json | None:
        """The state of an earlier round. Raises MCPError when somebody has changed it."""
        sealed = self.ctx.params.get("requestState")
        return None if sealed is None else unseal(sealed)


class Asked(Exception):
    """Not a failure: the answer to the request is a question."""

    def __init__(self, questions: Mapping[str, Json], state: Json | None) -> None:
        super().__init__(", ".join(questions))
        self.result: Json = {"resultType": "input_required", "inputRequests": dict(questions)}
        if state is not None:
            self.result["requestState"] = seal(state)


KEY: Final = secrets.token_bytes(32)


def seal(state: Json) -> str:
    """State that a client can carry and cannot change. A nonce keeps the states of two rounds apart."""
    body = json.dumps({**state, "nonce": secrets.token_hex(8)})
    return f"{hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest()}.{body}"


def unseal(sealed: str) -> Json:
    """The state that was sealed. Raises MCPError when it was not, or not here."""
    digest, _, body = sealed.partition(".")
    if not hmac.compare_digest(digest, hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest()):
        raise MCPError(INVALID_PARAMS, "requestState failed its integrity check")
    return json.loads(body)


async def ask(call: Call, questions: Mapping[str, Json], state: Json | None = None) -> Mapping[str, Json]:
    """The answers to `questions`, by their keys.

    Args:
        state: carried by the client until it answers; without it an answer on 2026-07-28 does not count.

    Raises:
        Asked: the client has to bring the answers (2026-07-28).
    """
    if not call.modern:
        return {key: await live(call.ctx, question) for key, question in questions.items()}
    given = call.answers
    if any(not isinstance(given.get(key), dict) for key in questions) or (state is not None and call.state() is None):
        raise Asked(questions, state)
    return {key: given[key] for key in questions}


async def live(ctx: Any, question: Json) -> Json:
    """Ask a client of the handshake era, on the stream of the request that is being answered."""
    request = TypeAdapter(types.ServerRequest).validate_python(question)
    answer = await ctx.session.send_request(
        request, ANSWERS[question["method"]], metadata=ServerMessageMetadata(related_request_id=ctx.request_id)
    )
    return answer.model_dump(by_alias=True, mode="json", exclude_none=True)


ANSWERS: Final[Mapping[str, Any]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


def form(message: str, properties: Json, required: list[str] | None = None) -> Json:
    """A question to the user."""
    schema = {"type": "object", "properties": properties, "required": required or []}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def one_field(message: str, field: str, kind: str = "string") -> Json:
    """A question to the user with one required field."""
    return form(message, {field: {"type": kind}}, [field])


def sample(text: str, max_tokens: int = 100) -> Json:
    """A question to the client's model."""
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": max_tokens}}


ROOTS: Final = {"method": "roots/list", "params": {}}


def filled_in(answer: Mapping[str, Any], field: str) -> Any:
    """A field of a form that came back."""
    return (answer.get("content") or {}).get(field, "unknown")


# --- tools ---------------------------------------------------------------------------------------------------------

Tool = Callable[[Call], Awaitable[Json]]
TOOLS: Final[dict[str, tuple[Json, Tool]]] = {}


def text(words: str, **more: Any) -> Json:
    """A result of one text block."""
    return {"content": [{"type": "text", "text": words}], **more}


def fields(*required: str, **properties: str) -> Json:
    """An input schema whose properties have the given JSON types."""
    schema: Json = {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}
    return schema | ({"required": list(required)} if required else {})


def tool(name: str, schema: Json | None = None, **definition: Any) -> Callable[[Tool], Tool]:
    """Register a tool; its docstring is its description."""

    def register(run: Tool) -> Tool:
        listed = {"name": name, "description": run.__doc__, "inputSchema": schema or fields(), **definition}
        TOOLS[name] = (listed, run)
        return run

    return register


@tool("test_simple_text")
async def simple_text(_: Call) -> Json:
    """Returns one text block."""
    return text("This is a simple text response for testing.")


@tool("test_image_content")
async def image_content(_: Call) -> Json:
    """Returns an image."""
    return {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}]}


@tool("test_audio_content")
async def audio_content(_: Call) -> Json:
    """Returns a sound."""
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


@tool("test_embedded_resource")
async def embedded_resource(_: Call) -> Json:
    """Returns a resource."""
    return {
        "content": [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")],
    }


@tool("test_multiple_content_types")
async def multiple_content_types(_: Call) -> Json:
    """Returns blocks of several types."""
    return {
        "content": [
            {"type": "text", "text": "Multiple content types test:"},
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
        ]
    }


@tool("test_error_handling")
async def error_handling(_: Call) -> Json:
    """Fails in the way of a tool."""
    return text("This tool intentionally returns an error for testing", isError=True)


@tool("test_tool_with_logging")
async def with_logging(call: Call) -> Json:
    """Logs three messages."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.ctx.session.send_log_message("info", message, related_request_id=call.ctx.request_id)
        await anyio.sleep(STEP_S)
    return text("Tool with logging executed successfully")


@tool("test_logging_tool")
async def logging_tool(call: Call) -> Json:
    """Logs if the request has asked for that."""
    await call.ctx.session.send_log_message("info", "the tool runs", related_request_id=call.ctx.request_id)
    return text("Logging evaluated")


@tool("test_tool_with_progress")
async def with_progress(call: Call) -> Json:
    """Reports progress three times."""
    for progress in (0, 50, 100):
        await call.ctx.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await anyio.sleep(STEP_S)
    return text("Progress reported")


@tool("test_streaming_elicitation")
async def streaming_elicitation(call: Call) -> Json:
    """Reports progress, then asks."""
    await call.ctx.session.report_progress(50, 100, "about to ask")
    answer = (await ask(call, {"confirm": one_field("Go on?", "ok", "boolean")}))["confirm"]
    return text(f"Streaming complete: {answer['action']}")


@tool("test_reconnection")
async def reconnection(call: Call) -> Json:
    """Closes its event stream and goes on; the result waits for the client to come back."""
    if call.ctx.close_sse_stream is not None:
        await call.ctx.close_sse_stream()
    await anyio.sleep(0.2)
    return text("Reconnection test completed successfully")


@tool("test_sampling", fields("prompt", prompt="string"))
async def sampling(call: Call) -> Json:
    """Asks the client's model."""
    answer = (await ask(call, {"sample": sample(call.arguments["prompt"])}))["sample"]
    return text(f"LLM response: {answer['content'].get('text', 'no text')}")


@tool("test_elicitation", fields("message", message="string"))
async def elicitation(call: Call) -> Json:
    """Asks the user."""
    question = form(
        call.arguments["message"],
        {
            "username": {"type": "string", "description": "The user's name"},
            "email": {"type": "string", "description": "The user's address"},
        },
        ["username", "email"],
    )
    return user_said(await ask(call, {"user": question}))


@tool("test_elicitation_sep1034_defaults")
async def elicitation_defaults(call: Call) -> Json:
    """Asks the user with a default for every type."""
    properties = {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "description": "Verification status", "default": True},
    }
    return user_said(await ask(call, {"user": form("Please review the defaults", properties)}))


@tool("test_elicitation_sep1330_enums")
async def elicitation_enums(call: Call) -> Json:
    """Asks the user with every kind of enum."""
    titled = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second", "Third"))]
    plain = ["option1", "option2", "option3"]
    properties = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return user_said(await ask(call, {"user": form("Please select options", properties)}))


def user_said(answers: Mapping[str, Json]) -> Json:
    """The result of a tool that asks the user."""
    answer = answers["user"]
    return text(f"User response: action={answer['action']}, content={json.dumps(answer.get('content') or {})}")


@tool(
    "json_schema_2020_12_tool",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema(call: Call) -> Json:
    """Takes arguments by the whole of JSON Schema 2020-12."""
    return text(json.dumps(call.arguments))


@tool(
    "test_custom_header",
    {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "query": {"type": "string"}},
        "required": ["region"],
    },
)
async def custom_header(call: Call) -> Json:
    """Takes an argument that is repeated in an HTTP header."""
    return text(f"region {call.arguments['region']}")


@tool("test_missing_capability")
async def missing_capability(call: Call) -> Json:
    """Refuses clients that cannot be asked for a sample."""
    needed: Json = {"sampling": {}}
    if not call.ctx.session.check_client_capability(types.ClientCapabilities.model_validate(needed)):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs a model to sample", {"requiredCapabilities": needed}
        )
    return text("The client can be asked")


@tool("test_input_required_result_elicitation")
async def input_required_elicitation(call: Call) -> Json:
    """Asks for a name."""
    answers = await ask(call, {"user_name": one_field("What is your name?", "name")})
    return text(f"Hello, {filled_in(answers['user_name'], 'name')}!")


@tool("test_input_required_result_sampling")
async def input_required_sampling(call: Call) -> Json:
    """Asks the client's model about France."""
    answers = await ask(call, {"capital_question": sample("What is the capital of France?")})
    return text(str(answers["capital_question"]["content"]))


@tool("test_input_required_result_list_roots")
async def input_required_roots(call: Call) -> Json:
    """Asks for the client's roots."""
    answers = await ask(call, {"client_roots": ROOTS})
    return text(f"Found {len(answers['client_roots']['roots'])} root(s)")


@tool("test_input_required_result_request_state")
async def input_required_state(call: Call) -> Json:
    """Asks, and has the client carry state."""
    await ask(call, {"confirm": one_field("Please confirm", "ok", "boolean")}, {"kind": "request-state"})
    return text("state-ok")


@tool("test_input_required_result_multiple_inputs")
async def input_required_multiple(call: Call) -> Json:
    """Asks for three things at once."""
    questions = {
        "user_name": one_field("What is your name?", "name"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await ask(call, questions, {"kind": "multiple"})
    return text(f"{filled_in(answers['user_name'], 'name')}: {answers['greeting']['content']}")


@tool("test_input_required_result_multi_round")
async def input_required_rounds(call: Call) -> Json:
    """Asks twice, one after the other."""
    known = call.state() or {}
    name = known.get("name")
    if name is None:
        first = await ask(call, {"step1": one_field("Step 1: What is your name?", "name")}, {"round": 1})
        name = filled_in(first["step1"], "name")
    question = {"step2": one_field("Step 2: What is your favourite colour?", "color")}
    second = await ask(call, question, {"round": 2, "name": name})
    return text(f"{name} likes {filled_in(second['step2'], 'color')}")


@tool("test_input_required_result_tampered_state")
async def input_required_tampered(call: Call) -> Json:
    """Asks, and refuses state that is not its own."""
    await ask(call, {"confirm": one_field("Please confirm", "ok", "boolean")}, {"kind": "tamper"})
    return text("integrity-ok")


@tool("test_input_required_result_capabilities")
async def input_required_capabilities(call: Call) -> Json:
    """Asks only for what the client can answer."""
    capabilities = call.ctx.session.client_capabilities or types.ClientCapabilities()
    questions: Json = {}
    if capabilities.elicitation is not None:
        questions["elicit_input"] = one_field("Elicitation input", "value")
    if capabilities.sampling is not None:
        questions["sample_input"] = sample("Sample request", 50)
    if not questions:
        return text("The client can be asked nothing")
    return text(f"capabilities-ok: {', '.join(await ask(call, questions, {'kind': 'capabilities'}))}")


# --- tools of the tasks scenarios: ordinary ones, which something in between may turn into tasks ---------------------


@tool("greet", fields("name", name="string"))
async def greet(call: Call) -> Json:
    """Greets at once."""
    return text(f"Hello, {call.arguments['name']}!")


@tool("slow_compute", fields("seconds", seconds="number", label="string"))
async def slow_compute(call: Call) -> Json:
    """Takes the given number of seconds; no more than it takes to cancel it, where nobody does."""
    await anyio.sleep(min(call.arguments["seconds"], LONGEST_S))
    return text(f"computed {call.arguments.get('label', '')} in {call.arguments['seconds']} s")


@tool("failing_job")
async def failing_job(_: Call) -> Json:
    """Fails in the way of a tool after a second."""
    await anyio.sleep(1)
    return text("the job failed", isError=True)


@tool("protocol_error_job")
async def protocol_error_job(_: Call) -> Json:
    """Fails in the way of the protocol."""
    await anyio.sleep(STEP_S)
    raise MCPError(-32050, "the job broke down")


@tool("confirm_delete", fields("filename", filename="string"))
async def confirm_delete(call: Call) -> Json:
    """Asks before it deletes nothing."""
    filename = call.arguments["filename"]
    answer = (await ask(call, {"confirm": one_field(f"Delete {filename}?", "confirm", "boolean")}))["confirm"]
    return text(f"{filename}: {'deleted' if filled_in(answer, 'confirm') is True else 'kept'}")


@tool("multi_input")
async def multi_input(call: Call) -> Json:
    """Asks for two things at once."""
    questions = {
        "first": form("Who?", {"name": {"type": "string"}, "confirm": {"type": "boolean"}}),
        "second": form("And who else?", {"name": {"type": "string"}, "confirm": {"type": "boolean"}}),
    }
    answers = await ask(call, questions)
    return text(" and ".join(str(filled_in(answer, "name")) for answer in answers.values()))


@tool("test_tool_with_task")
async def tool_with_task(call: Call) -> Json:
    """Asks for a name, then takes its time."""
    answers = await ask(call, {"user_name": one_field("What is your name?", "name")})
    await anyio.sleep(0.2)
    return text(f"Task done for {filled_in(answers['user_name'], 'name')}")


# --- prompts -------------------------------------------------------------------------------------------------------


def user(content: Json) -> Json:
    """A message of a prompt."""
    return {"role": "user", "content": content}


def embedded(uri: str, mime_type: str, words: str) -> Json:
    """A block with a resource in it."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


PROMPTS: Final[list[Json]] = [
    {"name": "test_simple_prompt", "description": "A prompt without arguments"},
    {
        "name": "test_prompt_with_arguments",
        "description": "A prompt with required arguments",
        "arguments": [
            {"name": "arg1", "description": "First test argument", "required": True},
            {"name": "arg2", "description": "Second test argument", "required": True},
        ],
    },
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "A prompt with a resource in it",
        "arguments": [{"name": "resourceUri", "description": "URI of the resource", "required": True}],
    },
    {"name": "test_prompt_with_image", "description": "A prompt with an image in it"},
    {"name": "test_input_required_result_prompt", "description": "A prompt that asks the user"},
]


async def prompt(name: str, call: Call) -> Json:
    """The answer of `prompts/get`. Raises MCPError for an unknown name."""
    arguments = call.arguments
    match name:
        case "test_simple_prompt":
            contents = [{"type": "text", "text": "This is a simple prompt for testing."}]
        case "test_prompt_with_arguments":
            words = f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
            contents = [{"type": "text", "text": words}]
        case "test_prompt_with_embedded_resource":
            contents = [
                embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing."),
                {"type": "text", "text": "Please process the embedded resource above."},
            ]
        case "test_prompt_with_image":
            contents = [
                {"type": "image", "data": PNG, "mimeType": "image/png"},
                {"type": "text", "text": "Please analyze the image above."},
            ]
        case "test_input_required_result_prompt":
            answers = await ask(call, {"user_context": one_field("What context should the prompt use?", "context")})
            words = f"Prompt with context: {filled_in(answers['user_context'], 'context')}"
            contents = [{"type": "text", "text": words}]
        case _:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {name}")
    return {"messages": [user(content) for content in contents]}


# --- resources -----------------------------------------------------------------------------------------------------

SKILL: Final = "skill://conformance/greeting"
SKILL_FILES: Final[Mapping[str, str]] = {
    f"{SKILL}/SKILL.md": "---\nname: greeting\ndescription: Greets people.\n---\n\nSay hello.\n",
    f"{SKILL}/words/hello.md": "Hello.\n",
}
"""Files of the skills extension, by their URIs."""
DIRECTORIES: Final[Mapping[str, list[Json]]] = {
    SKILL: [
        {"uri": f"{SKILL}/SKILL.md", "name": "greeting", "mimeType": "text/markdown"},
        {"uri": f"{SKILL}/words", "name": "words", "mimeType": "inode/directory"},
    ],
    f"{SKILL}/words": [{"uri": f"{SKILL}/words/hello.md", "name": "hello.md", "mimeType": "text/markdown"}],
}

RESOURCES: Final[list[Json]] = [
    {"uri": "test://static-text", "name": "static-text", "mimeType": "text/plain"},
    {"uri": "test://static-binary", "name": "static-binary", "mimeType": "image/png"},
    {"uri": "test://watched-resource", "name": "watched-resource", "mimeType": "text/plain"},
    {
        "uri": f"{SKILL}/SKILL.md",
        "name": "greeting",
        "description": "Greets people.",
        "mimeType": "text/markdown",
    },
]
TEMPLATES: Final[list[Json]] = [
    {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
]


def resource(uri: str, *, modern: bool) -> Json:
    """The answer of `resources/read`. Raises MCPError for an unknown URI, in the way of the era."""
    plain = {
        "test://static-text": "This is the content of the static text resource.",
        "test://watched-resource": "Watched resource content",
    }
    if uri in plain:
        content = {"uri": uri, "mimeType": "text/plain", "text": plain[uri]}
    elif uri in SKILL_FILES:
        content = {"uri": uri, "mimeType": "text/markdown", "text": SKILL_FILES[uri]}
    elif uri == "test://static-binary":
        content = {"uri": uri, "mimeType": "image/png", "blob": PNG}
    elif uri.startswith("test://template/") and uri.endswith("/data"):
        name = uri.removeprefix("test://template/").removesuffix("/data")
        body = json.dumps({"id": name, "templateTest": True, "data": f"Data for ID: {name}"})
        content = {"uri": uri, "mimeType": "application/json", "text": body}
    else:
        code = INVALID_PARAMS if modern else RESOURCE_NOT_FOUND
        raise MCPError(code, f"Resource not found: {uri}", {"uri": uri})
    return {"contents": [content]}


def completion(_: Any) -> Json:
    """The answer of `completion/complete`."""
    return {"completion": {"values": ["paris", "park"], "total": 2, "hasMore": False}}


def skills() -> list[Json]:
    """What `skills/list` shows."""
    files = [
        {"uri": uri, "digest": f"sha256:{hashlib.sha256(words.encode()).hexdigest()}", "size": len(words.encode())}
        for uri, words in SKILL_FILES.items()
    ]
    frontmatter = {"name": "greeting", "description": "Greets people."}
    return [{"uri": f"{SKILL}/SKILL.md", "frontmatter": frontmatter, "resources": files}]


def skill(uri: str) -> Json:
    """What `skills/get` answers. Raises MCPError for a skill that there is not."""
    for each in skills():
        if each["uri"] == uri:
            return each
    raise MCPError(INVALID_PARAMS, f"No such skill: {uri}", {"uri": uri})


def directory(uri: str) -> list[Json]:
    """What `resources/directory/read` shows. Raises MCPError for what is no directory."""
    if uri not in DIRECTORIES:
        raise MCPError(INVALID_PARAMS, f"Not a directory: {uri}", {"uri": uri})
    return DIRECTORIES[uri]
