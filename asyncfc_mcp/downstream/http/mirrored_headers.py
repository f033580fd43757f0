"""The HTTP headers that mirror parts of a request's body (2026-07-28), for one server.

Owns the mapping of tool arguments to headers. The SDK implements the rules for arguments; it is imported only when a
tool's schema requests such a header. Sending is left to `streamable`.
"""

import base64
import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.protocol import INVALID_PARAMS, MODERN_VERSIONS
from asyncfc_mcp.slices import Slices

logger = logging.getLogger(__name__)

VERSION_HEADER: Final = "mcp-protocol-version"
METHOD_HEADER: Final = "mcp-method"
NAME_HEADER: Final = "mcp-name"
ANNOTATION: Final = "x-mcp-header"
"""Key in a tool's input schema that requests a header for an argument."""
NAMED_BY: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Method → parameter that is sent in the `mcp-name` header."""

_PLAIN: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")
_ENCODED: Final = re.compile(r"=\?base64\?.*\?=")


def header_value(text: str) -> str:
    """Encode a text as a header value: unchanged, or as base64 if a header cannot carry it or it looks encoded.

    Raises:
        RpcError: the text has lone surrogates, so that base64 is not possible either.
    """
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    try:
        return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
    except UnicodeEncodeError:
        raise RpcError(INVALID_PARAMS, f"{text!r:.80} has lone surrogates, which no header can carry") from None


class RequestHeaders:
    """Derives the headers of requests to one server."""

    def __init__(self) -> None:
        self._argument_maps: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, version: str, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers that mirror one request.

        Raises:
            RpcError: a name or an argument cannot be encoded in a header.
        """
        headers = {VERSION_HEADER: version}
        if version in MODERN_VERSIONS:
            headers[METHOD_HEADER] = method
            key = "taskId" if method.startswith("tasks/") else NAMED_BY.get(method)
            if key is not None and isinstance(name := params.get(key), str):
                headers[NAME_HEADER] = header_value(name)
                if method == "tools/call" and (header_map := self._argument_maps.get(name)):
                    headers.update(_argument_headers(header_map, params.get("arguments") or {}))
        return headers

    def read_tools(self, server: str, tools: list[dict[str, Any]]) -> Slices[list[dict[str, Any]]]:
        """Read from a tools listing which arguments are sent as headers; return the tools without those whose header
        annotations are invalid, which the protocol requires clients to reject."""
        maps: dict[str, dict[tuple[str, ...], str]] = {}
        kept: list[dict[str, Any]] = []
        for number, tool in enumerate(tools):
            if number % 20 == 0:
                yield
            schema = tool.get("inputSchema")
            if ANNOTATION.encode() in format_message({"": schema}):
                from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

                if (problem := find_invalid_x_mcp_header(schema)) is not None:
                    logger.warning("server %r: tool %r is not listed: %s", server, tool.get("name"), problem)
                    continue
                if header_map := x_mcp_header_map(schema):
                    maps[str(tool.get("name"))] = header_map
            kept.append(tool)
        self._argument_maps = maps
        return kept


def _argument_headers(header_map: dict[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    from mcp.shared.inbound import mcp_param_headers

    try:
        return mcp_param_headers(header_map, arguments)
    except UnicodeEncodeError:
        raise RpcError(INVALID_PARAMS, "an argument has lone surrogates, which no header can carry") from None
