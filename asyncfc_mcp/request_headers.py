"""The HTTP headers that repeat what a request says (2026-07-28), for one server.

Owns which arguments of which tools are repeated. The SDK has the rules for arguments; it is loaded only where a tool
asks for that. Leaves sending to `streamable_client`.
"""

import base64
import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.codec import format_message
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, MODERN_VERSIONS

logger = logging.getLogger(__name__)

VERSION_HEADER: Final = "mcp-protocol-version"
METHOD_HEADER: Final = "mcp-method"
NAME_HEADER: Final = "mcp-name"
ANNOTATION: Final = "x-mcp-header"
"""The key in a tool's input schema that has an argument repeated."""
NAMED_BY: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Method → the parameter that is repeated as its name."""

_PLAIN: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")
_ENCODED: Final = re.compile(r"=\?base64\?.*\?=")


def header_value(text: str) -> str:
    """A text as a header can carry it: itself, or base64 of it where it cannot be written or would be read as such.

    Raises:
        RpcError: neither is possible.
    """
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    try:
        return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
    except UnicodeEncodeError:
        raise RpcError(INVALID_PARAMS, f"{text!r:.80} has lone surrogates, which no header can carry") from None


class Mirror:
    """The headers of requests to one server."""

    def __init__(self) -> None:
        self._maps: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, version: str, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Those of one request.

        Raises:
            RpcError: a name or an argument cannot be written in a header.
        """
        headers = {VERSION_HEADER: version}
        if version in MODERN_VERSIONS:
            headers[METHOD_HEADER] = method
            key = "taskId" if method.startswith("tasks/") else NAMED_BY.get(method)
            if key is not None and isinstance(name := params.get(key), str):
                headers[NAME_HEADER] = header_value(name)
                if method == "tools/call" and (header_map := self._maps.get(name)):
                    headers.update(_of_arguments(header_map, params.get("arguments") or {}))
        return headers

    def learn(self, server: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Learn which arguments travel as headers, too; a tool whose annotations are invalid must be left out."""
        self._maps.clear()
        kept: list[dict[str, Any]] = []
        for tool in tools:
            schema = tool.get("inputSchema")
            if ANNOTATION.encode() in format_message({"": schema}):
                from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

                if (problem := find_invalid_x_mcp_header(schema)) is not None:
                    logger.warning("server %r: tool %r is left out: %s", server, tool.get("name"), problem)
                    continue
                if header_map := x_mcp_header_map(schema):
                    self._maps[str(tool.get("name"))] = header_map
            kept.append(tool)
        return kept


def _of_arguments(header_map: dict[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    from mcp.shared.inbound import mcp_param_headers

    try:
        return mcp_param_headers(header_map, arguments)
    except UnicodeEncodeError:
        raise RpcError(INVALID_PARAMS, "an argument has lone surrogates, which no header can carry") from None
