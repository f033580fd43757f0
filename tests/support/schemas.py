"""Schemas for tests: real ones of well-known servers, and helpers that build and judge schemas."""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]


def is_valid(instance: Any, schema: Any) -> bool:
    """As a strict host judges it: formats are enforced."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=jsonschema.FormatChecker()).is_valid(instance)


def takes(sub: Any, **more: Any) -> Schema:
    return {"type": "object", "properties": {"a": sub}, **more}


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


REAL: dict[str, Schema] = {
    "filesystem read_file": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "tail": {"type": "number", "description": "If provided, returns only the last N lines of the file"},
            "head": {"type": "number", "description": "If provided, returns only the first N lines of the file"},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    "filesystem write_file": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
    "filesystem list_directory_with_sizes": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "sortBy": {"type": "string", "enum": ["name", "size"], "default": "name", "description": "Sort by"},
        },
    },
    "memory create_entities": {
        "type": "object",
        "properties": {
            "entities": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "The name of the entity"},
                        "observations": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["name", "observations"],
                },
            }
        },
    },
    "everything get-sum": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    "fetch": {
        "type": "object",
        "properties": {
            "url": {"type": "string", "format": "uri", "minLength": 1, "title": "Url"},
            "max_length": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 1000000, "default": 5000},
            "raw": {"type": "boolean", "default": False, "title": "Raw"},
        },
    },
    "pydantic": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "title": "Query"},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Limit"},
            "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}], "default": None},
        },
    },
    "none": {"type": "object", "properties": {}},
}
