"""Server entries and files without servers: every error names the key path, what was found and what was expected."""

import pytest

from asyncfc_mcp.config.model import StdioSpec
from tests.support.configurations import parse, refused


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("npx", ["mcpServers.s: found", '"command" or "url"']),
        ([], ["mcpServers.s", "a list"]),
        ({}, ["mcpServers.s", 'neither "command" nor "url"']),
        ({"command": "x", "url": "http://h"}, ['both "command" and "url"']),
        ({"comand": "x"}, ["but 'comand'"]),
        ({"command": ""}, ["mcpServers.s.command", "empty"]),
        ({"command": "${E}"}, ["mcpServers.s.command", "empty"]),
        ({"command": []}, ["mcpServers.s.command", "found a list", "a string"]),
        ({"command": {"args": []}}, ["mcpServers.s.command", "found an object", "a string"]),
        ({"command": ["npx", ["-y"]]}, ["mcpServers.s.args[0]", "found a list", "a string"]),
        ({"command": "x", "args": "-y pkg"}, ["mcpServers.s.args", "found a string", "a list of strings"]),
        ({"command": "x", "args": ["-p", 1.5]}, ["mcpServers.s.args[1]", "found a number", "a string"]),
        ({"command": "x", "args": [True]}, ["mcpServers.s.args[0]", "found true", "a string"]),
        ({"command": "x", "env": {"A": 1.5}}, ["mcpServers.s.env.A", "found a number"]),
        ({"command": "x", "env": {"A": False}}, ["mcpServers.s.env.A", "found false"]),
        ({"command": "x", "cwd": 5}, ["mcpServers.s.cwd"]),
        ({"command": "x", "type": "http"}, ["mcpServers.s.type", "'http'", '"command"', "'stdio'"]),
        ({"url": "http://h", "type": "stdio"}, ["mcpServers.s.type", '"url"', "'http' or 'sse'"]),
        ({"url": "http://h", "type": "websocket"}, ["mcpServers.s.type", "'websocket'", "'streamable-http'"]),
        ({"url": "http://h", "type": 5}, ["mcpServers.s.type", "a number"]),
        ({"url": 5}, ["mcpServers.s.url"]),
        ({"url": "example.com/mcp"}, ["mcpServers.s.url", '"example.com/mcp"', "http://"]),
        ({"url": "ws://example.com/mcp"}, ["mcpServers.s.url", "ws://"]),
        ({"url": "http://"}, ["mcpServers.s.url"]),
        ({"url": "http://[::1"}, ["mcpServers.s.url"]),
        ({"url": "http://h:port/"}, ["mcpServers.s.url"]),
        ({"url": "http://h:70000/"}, ["mcpServers.s.url"]),
        ({"url": "http://h", "headers": ["a"]}, ["mcpServers.s.headers", "found a list"]),
        ({"url": "http://h", "headers": {"A": 1.5}}, ["mcpServers.s.headers.A"]),
        ({"command": "x", "asyncfc": []}, ["mcpServers.s.asyncfc", "an object"]),
    ],
)
def test_a_wrong_entry_is_explained(value: object, words: list[str]) -> None:
    """Key path, what was found, what was expected."""
    said = refused({"mcpServers": {"s": value}}, {"E": " "})
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, ["no servers", '"mcpServers"']),
        ({"mcpServer": {}}, ["'mcpServer'", '"mcpServers"']),
        ({"mcpServers": {}, "servers": {}}, ['both "mcpServers" and "servers"']),
        ({"mcpServers": {}}, ["mcpServers: found no server"]),
        ({"mcpServers": {"a": {"command": "x", "disabled": True}}}, ["all servers are disabled (1)"]),
        ({"servers": []}, ["servers: found a list"]),
        ({"mcpServers": {"": {"command": "x"}}}, ["the name of a server is empty"]),
        ({"mcpServers": {" ": {"command": "x"}}}, ["the name of a server is empty"]),
        ({"mcpServers": {"s": {"command": "x"}}, "asyncfc": 5}, ["asyncfc: found 5", "an object"]),
    ],
)
def test_a_wrong_file_is_explained(value: object, words: list[str]) -> None:
    """What every configuration needs: exactly one table with at least one server."""
    said = refused(value)
    assert [word for word in words if word not in said] == [], said


def test_a_whole_number_among_the_arguments_is_its_text() -> None:
    """People write `["--port", 3000]`; other values disable the server."""
    config = parse(
        {"mcpServers": {"a": {"command": "x", "args": ["--port", 3000]}, "b": {"command": "x", "args": [1.5]}}}
    )
    [server] = config.servers
    assert server.spec == StdioSpec("x", ("--port", "3000"))
