"""asyncfc-mcp: an MCP bridge that answers tool calls at once with futures."""

# Written by the build, and not asked of the installed package: importlib.metadata takes a fifth of the time in which a
# bridge starts. A checkout that was never built or installed has no version.
try:
    from asyncfc_mcp._version import __version__  # pyright: ignore
except ImportError:
    __version__ = "0.0.0"

__all__ = ["__version__"]
