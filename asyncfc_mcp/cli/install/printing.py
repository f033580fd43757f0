"""Entries for hosts that are set up by hand: as JSON, YAML or TOML, or as a link that opens the host.

Pure. Owns these texts. Shapes of entries are left to `hosts`.
"""

import base64
import json
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlencode

from asyncfc_mcp.cli.install.documents import format_of
from asyncfc_mcp.cli.install.hosts import HOSTS, Machine, plain, typed

FORMATS: Final = ("json", "yaml", "toml", "cursor-link", "vscode-link", "goose-link")
NOTES: Final = {
    "jetbrains": "Paste it in Settings | Tools | AI Assistant | Model Context Protocol (MCP), as JSON.",
    "librechat": "Add it to librechat.yaml; the command has to exist where LibreChat runs, also in its container.",
    "open-webui": "For mcpo. Open WebUI itself connects to URLs: start `asyncfc-mcp serve --transport http`, and add "
    "http://127.0.0.1:8642/mcp (MCP, Streamable HTTP) in its settings.",
    "goose-link": "Goose opens links of `uvx` and `npx` only, so that this one needs a package that uvx can find.",
}
"""Remarks for the user, by host or format."""
OF_SEVERAL_USERS: Final = ("librechat", "open-webui")
"""Hosts that start bridges for several people as one user of the system, who must not share one."""


def printed(host: str | None, form: str, name: str, command: str, args: Sequence[str], machine: Machine) -> str:
    """Return the text to be pasted.

    Args:
        host: whose shape of an entry it has; None, or one that is set up by hand: the usual one.
        form: one of `FORMATS`.
    """
    known = None if host is None else HOSTS.get(host)
    match form:
        case "cursor-link":
            config = base64.b64encode(json.dumps(plain(name, command, args)).encode()).decode()
            return f"cursor://anysphere.cursor-deeplink/mcp/install?{urlencode({'name': name, 'config': config})}\n"
        case "vscode-link":
            return f"vscode:mcp/install?{quote(json.dumps({'name': name, **typed(name, command, args)}))}\n"
        case "goose-link":
            words = [("cmd", "uvx"), ("arg", "asyncfc-mcp"), *(("arg", arg) for arg in args)]
            words += [("id", name), ("name", name), ("description", "Calls that answer with futures")]
            return f"goose://extension?{urlencode(words)}\n"
        case _:
            table = ("mcpServers",) if known is None else known.table
            shape = (typed if host == "librechat" else plain) if known is None else known.shape
            return format_of(f"x.{form}").rendered(table, name, shape(name, command, args))


def form_of(host: str | None, machine: Machine) -> str:
    """Return the format of a host's file."""
    from asyncfc_mcp.cli.install.hosts import PRINTED

    known = None if host is None else HOSTS.get(host)
    file = None if known is None else known.file("user", machine)
    if file is None:
        return PRINTED.get(host or "", "json")
    return {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}.get(file.suffix, "json")
