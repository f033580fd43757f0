"""Entries of listings as no schema allows them: right ones, with parts replaced by any other JSON.

Owns making them. The same for hypothesis, which shrinks what `random` drew, and for scripts that draw from a seed.
"""

import copy
from random import Random
from typing import Any

RIGHT: dict[str, list[dict[str, Any]]] = {
    "tools": [
        {
            "name": "search",
            "title": "Search",
            "description": "Searches.",
            "inputSchema": {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "properties": {
                    "q": {"type": "string", "pattern": "^[a-z]+$", "description": "Words.", "default": None},
                    "n": {"anyOf": [{"type": "integer"}, {"type": "null"}], "minimum": 1},
                    "tree": {"$ref": "#/$defs/tree"},
                },
                "required": ["q"],
                "additionalProperties": False,
                "$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}},
            },
            "outputSchema": {
                "type": "object",
                "properties": {
                    "hits": {"type": "array", "items": {"$ref": "#/$defs/hit"}, "minItems": 0},
                    "kind": {"enum": ["a", "b"], "pattern": "^\\w+$"},
                },
                "required": ["hits"],
                "$defs": {"hit": {"type": ["object", "null"], "patternProperties": {"^x-": {}}, "not": {}}},
            },
            "annotations": {"title": "S", "readOnlyHint": True, "destructiveHint": False, "openWorldHint": True},
            "execution": {"taskSupport": "optional"},
            "icons": [{"src": "https://x/i.png", "mimeType": "image/png", "sizes": ["48x48"], "theme": "light"}],
            "_meta": {"vendor/x": {"a": [1, None]}},
            "x-unknown": [1, None],
        },
        {"name": "plain", "inputSchema": {"type": "object"}},
    ],
    "prompts": [
        {
            "name": "greet",
            "title": "Greet",
            "description": "Greets.",
            "arguments": [{"name": "who", "title": "Who", "description": "Whom.", "required": True}],
            "icons": [{"src": "data:,"}],
            "_meta": {"a": 1},
        }
    ],
    "resources": [
        {
            "uri": "file:///a/b.txt",
            "name": "b",
            "title": "B",
            "description": "A file.",
            "mimeType": "text/plain",
            "size": 5,
            "annotations": {"audience": ["user"], "priority": 0.5, "lastModified": "2025-01-12T15:00:58Z"},
            "icons": [{"src": "https://x/i.png", "sizes": ["any"]}],
            "_meta": {},
        }
    ],
    "resourceTemplates": [
        {
            "uriTemplate": "note://{name}",
            "name": "note",
            "description": "Notes.",
            "mimeType": "text/plain",
            "annotations": {"audience": ["assistant"], "priority": 1},
        }
    ],
}
"""Kind → entries that every client takes."""


def deep(levels: int) -> Any:
    """Objects in each other, as many as that."""
    value: Any = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 2.5, 1e999, -1e999, 10**400, "", "object", "null", "any", "true", "light",
    "required", "http://", "x y", "2025-13-45T00:00:00Z", "2025-01-12", "#/nowhere", "#", "http://x/y", "a" * 300,
    "(?i)x", "[a-", "\\p{L}", "\\-", "a{,2}", "x**", "[\\d-x]", "a++", [], [None], [1], [[]], ["object", "null"],
    ["object", 5],
    ["q", None], {}, {"a": None}, {"type": None}, {"type": "any"}, {"type": ["string", "string"]}, {"$ref": "#/gone"},
    {"__proto__": 1}, {"$id": "x"}, {"const": None}, {"enum": []}, {"pattern": "\\-"}, {"items": [{}, True]},
    {"required": True}, {"properties": {"a": None, "b": True, "c": []}}, {"minLength": -1}, deep(40),
    deep(150), [[[[]]]],
]  # fmt: skip
"""JSON to put in the place of anything."""


def odd(kind: str, random: Random) -> dict[str, Any]:
    """A right entry with up to three parts replaced, removed or added."""
    entry = copy.deepcopy(random.choice(RIGHT[kind]))
    for _ in range(random.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        todo: list[Any] = [entry]
        while todo:
            part = todo.pop()
            inner = part.items() if isinstance(part, dict) else enumerate(part)
            for key, value in inner:
                places.append((part, key))
                if isinstance(value, dict | list):
                    todo.append(value)
        if not places:
            break
        part, key = random.choice(places)
        match random.randint(0, 5):
            case 0 if isinstance(part, dict):
                del part[key]
            case 1 if isinstance(part, dict):
                keyword = random.choice(
                    ["type", "required", "pattern", "$ref", "title", "enum", "items", "nullable", "x", "not", "$defs"]
                )
                part[keyword] = copy.deepcopy(random.choice(ODD))
            case _:
                part[key] = copy.deepcopy(random.choice(ODD))
    return entry
