"""States of servers for tests."""

from asyncfc_mcp.core.state_paths import ServerState


def own_state(server: str) -> ServerState:
    """Return the state of a server that shares none and whose files are not located."""
    return ServerState(server, (server,))
