"""asyncfc-mcp: an MCP bridge that answers tool calls at once with futures."""

# Not asked of the installed package: importlib.metadata takes a fifth of the time in which a bridge starts.
__version__ = "0.1.0"

__all__ = ["__version__"]
