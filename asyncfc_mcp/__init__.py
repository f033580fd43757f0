"""asyncfc-mcp: an MCP bridge that answers tool calls at once with futures."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("asyncfc-mcp")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
