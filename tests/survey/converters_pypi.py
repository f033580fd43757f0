"""Converts tool schemas as hosts on PyPI packages do, without any network. Runs in the packages' own environment.

`python converters_pypi.py GROUP`, with `{"schemas": [...]}` on standard input; the output is converter → list of
`{"body": …}` or `{"error": "…"}`, one per schema.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import copy
import json
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

Converter = Callable[[dict[str, Any]], Any]


def dumped(model: Any) -> Any:
    """What is sent of a google-genai type."""
    return json.loads(model.model_dump_json(exclude_none=True, by_alias=True))


def opened(schema: Any) -> Any:
    """A schema without `additionalProperties` that are true or false."""
    if isinstance(schema, list):
        return [opened(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = isinstance(schema.get("additionalProperties"), bool)
    return {word: opened(value) for word, value in schema.items() if not (left_out and word == "additionalProperties")}


def google_genai() -> dict[str, Converter]:
    """`google-genai`: its own conversion of MCP tools, which refuses every closed object; and with these opened."""
    from google.genai import _mcp_utils, types

    class Tool:
        name = "t"
        description = "d"

    def mcp(schema: dict[str, Any]) -> Any:
        tool: Any = Tool()
        tool.inputSchema = schema
        return dumped(_mcp_utils.mcp_to_gemini_tool(tool).function_declarations[0])

    def vertex(schema: dict[str, Any]) -> Any:
        json_schema = types.JSONSchema(**_mcp_utils._filter_to_supported_schema(opened(schema)))
        parameters = types.Schema.from_json_schema(json_schema=json_schema, api_option="VERTEX_AI")
        return {"name": "t", "parameters": dumped(parameters)}

    return {
        "google-genai": mcp,
        "google-genai, opened": lambda schema: mcp(opened(schema)),
        "google-genai for Vertex": vertex,
    }


def google_adk() -> dict[str, Converter]:
    """The Agent Development Kit's MCP tools."""
    from google.adk.tools._gemini_schema_util import _to_gemini_schema

    return {"google-adk": lambda schema: {"name": "t", "parameters": dumped(_to_gemini_schema(schema))}}


def litellm() -> dict[str, Converter]:
    """LiteLLM, for Gemini and for Anthropic."""
    from litellm.llms.anthropic.chat.transformation import AnthropicConfig
    from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import VertexGeminiConfig

    def tool(schema: dict[str, Any]) -> dict[str, Any]:
        return {"type": "function", "function": {"name": "t", "description": "d", "parameters": schema}}

    def gemini(schema: dict[str, Any]) -> Any:
        mapped = VertexGeminiConfig()._map_function(value=[tool(schema)], optional_params={})
        return json.loads(json.dumps(mapped))[0]["function_declarations"][0]

    def anthropic(schema: dict[str, Any]) -> Any:
        return json.loads(json.dumps(AnthropicConfig()._map_tool_helper(tool(schema))[0]))

    return {"litellm gemini": gemini, "litellm anthropic": anthropic}


def langchain() -> dict[str, Converter]:
    """LangChain's MCP adapter, and its models of three makers."""
    from langchain_anthropic.chat_models import convert_to_anthropic_tool
    from langchain_core.tools import StructuredTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from langchain_google_genai._function_utils import convert_to_genai_function_declarations

    async def call(**arguments: Any) -> str:
        return ""

    def tool(schema: dict[str, Any]) -> StructuredTool:
        return StructuredTool(name="t", description="d", args_schema=schema, coroutine=call)

    def gemini(schema: dict[str, Any]) -> Any:
        [converted] = convert_to_genai_function_declarations([tool(schema)])
        return dumped(converted.function_declarations[0])

    return {
        "langchain openai": lambda schema: convert_to_openai_tool(tool(schema)),
        "langchain anthropic": lambda schema: convert_to_anthropic_tool(tool(schema)),
        "langchain gemini": gemini,
    }


def openai_agents() -> dict[str, Converter]:
    """The OpenAI Agents SDK; a schema that cannot be made strict is sent as it is."""
    from agents.strict_schema import ensure_strict_json_schema

    def strict(schema: dict[str, Any]) -> Any:
        return {"name": "t", "parameters": ensure_strict_json_schema(schema), "strict": True}

    return {
        "openai-agents": lambda schema: {"name": "t", "parameters": {"properties": {}, **schema}},
        "openai-agents strict": strict,
    }


def pydantic_ai() -> dict[str, Converter]:
    """pydantic-ai's transformers of schemas for OpenAI and Google."""
    from pydantic_ai.profiles.google import GoogleJsonSchemaTransformer
    from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer

    return {
        "pydantic-ai openai": lambda schema: {"parameters": OpenAIJsonSchemaTransformer(schema, strict=None).walk()},
        "pydantic-ai google": lambda schema: {"parameters": GoogleJsonSchemaTransformer(schema).walk()},
    }


GROUPS: dict[str, Callable[[], dict[str, Converter]]] = {
    "google_genai": google_genai,
    "google_adk": google_adk,
    "litellm": litellm,
    "langchain": langchain,
    "openai_agents": openai_agents,
    "pydantic_ai": pydantic_ai,
}


def main() -> None:
    """Convert with one group of converters."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    schemas = json.load(sys.stdin)["schemas"]
    results: dict[str, list[dict[str, Any]]] = {}
    for name, convert in GROUPS[sys.argv[1]]().items():
        results[name] = []
        for schema in schemas:
            try:
                results[name].append({"body": convert(copy.deepcopy(schema))})
            except Exception as error:  # noqa: BLE001 - any error is a refusal
                results[name].append({"error": f"{type(error).__name__}: {error}"[:300]})
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
