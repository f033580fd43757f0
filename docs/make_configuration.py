"""Writes `configuration.md` from what `asyncfc_mcp.config` says of its own settings.

Run it after changing a setting: `.venv/bin/python docs/make_configuration.py` (`--print` shows the page instead).
"""

# ruff: noqa: E501 - a paragraph of the page is one line

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from asyncfc_mcp.config import Policy, Settings, field_docs
from asyncfc_mcp.hosts import UNKNOWN

PAGE = Path(__file__).with_name("configuration.md")

INTRO = """\
# Configuration

<!-- Written by docs/make_configuration.py; change the texts there or in asyncfc_mcp/config.py. -->

`asyncfc-mcp serve --config FILE` reads the files of MCP hosts, pasted unchanged: `mcpServers` of Claude Desktop, Claude Code, Cursor, Windsurf, Cline, Gemini CLI and Copilot CLI, `servers` of VS Code, `context_servers` of Zed, `mcp` of opencode, and Codex's `config.toml`. Comments and commas at ends are fine. What the bridge itself can be told stands in sections named `"asyncfc"`: one at the top of the file, and one in each server that needs it.

```json
{
  "mcpServers": {
    "github": {
      "url": "https://api.githubcopilot.com/mcp/",
      "headers": {"Authorization": "Bearer ${GITHUB_TOKEN}"}
    },
    "files": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/data"],
      "asyncfc": {
        "prefix": "",
        "ordering": "strict",
        "max_concurrency": 4,
        "exclude": ["move_*"],
        "tools": {
          "write_file": {"writes": ["{path:file}"]},
          "read_file": {"reads": ["{path:file}"], "timeout_s": 20}
        }
      }
    }
  },
  "asyncfc": {"grace_ms": 25, "max_wait_s": 45}
}
```

A setting may stand at the **top**, where it is the default for all servers, on a **server**, or on a **tool** of it (under `"tools"`); the nearest wins.

A server whose entry is wrong (a type, a URL, a variable that is not set) is left out with its reason, on stderr, in `inspect` and in `list_futures`, and the others run. A file that cannot be read, a wrong setting of ours, or a file without a usable server is one line on stderr that names the file, the key, what was found and what was expected, and exit code 2.
"""

SERVERS = """\
## Servers

| key of an entry | what it is |
|---|---|
| `command`, `args`, `env`, `envFile`, `cwd` | A server that is a command. `env` is added to what is inherited (`env_inherit`), and `envFile` to `env`. `~/` at the start of the command, of an argument and of `cwd` is the home folder. A command that holds its arguments (`"npx -y server"`, or a list) is split. |
| `url`, `headers` | A server at a URL, over Streamable HTTP; over HTTP+SSE if the path ends in `/sse`. Space around a header's value is trimmed. |
| `type` | `stdio`, `http` (or `streamable-http`), `sse`: says it where the URL does not. Other spellings of hosts (`local`, `remote`, `streamableHttp`, …) are understood. |
| `includeTools`, `excludeTools`, `disabledTools`, `tools` | The choice of tools made for a host is kept, unless the `asyncfc` section has `include` or `exclude`. |
| `disabled: true`, `enabled: false` | The server is left out. |
| `asyncfc` | The settings below. |

Other names that hosts have for these keys are understood, too (`httpUrl`, `serverUrl`, `environment`, `cmd`, …). Every other key is for the host that the entry was copied from: it is ignored with a warning. In an `asyncfc` section an unknown key is an error, because a setting that is silently ignored is worse than none.

With a file, tools are listed as `server__tool`, unless `prefix` says otherwise. Names are made of letters, digits and `_` and have at most 49 characters, so that every host takes them; a server whose name is longer than 24 is represented by the last segment of it and a hash (`github.com/org/repo/src/memory` → `memory_b486__read_graph`). No two tools have the same name: of a server's tools whose names would become one (`get.user`, `get_user`) the one with that very name has it, the others get a hash of theirs; of servers with the same `prefix` the first in the file has it, and the others' tools get their server's name. `inspect` lists them. A name that a client was given leads to the same tool for as long as the bridge runs. One server needs no file, and its tools keep their names: `asyncfc-mcp serve -- CMD ARGS...` or `asyncfc-mcp serve --url URL`.

## Variables

In `command`, `args`, `env`, `cwd`, `url` and `headers`:

| written | becomes |
|---|---|
| `${NAME}`, `${env:NAME}` | the variable of the entry's own `env`, else of the environment. If neither has it: in `command` and `args` it stays as it is, with a warning, since a shell or the program may fill it in; elsewhere the server is left out |
| `${NAME:-default}` | the environment variable, or `default` if it is not set or empty; a default may hold variables |
| `${userHome}`, `${workspaceFolder}`, `${workspaceFolderBasename}`, `${pathSeparator}`, `${/}` | as in Cursor and VS Code; the workspace is the folder that the bridge was started in |
| `${input:…}`, `${command:…}`, `${config:…}` | the server is left out: only VS Code can ask for them; use an environment variable |

In the script of a shell (`"command": "bash", "args": ["-c", "…"]`) variables that the script sets itself, and forms with a default, are left to the shell. Every other dollar sign stays as it is, and the value of a variable is not expanded again; a line end at its end is left out.

No warning, error or log shows values of `env` and `headers`, or user, password and query of a URL.
"""

WHERE = {
    "top, server, tool": (
        "Settings of tools: at the top, on a server, or on a tool",
        "`max_concurrency` limits what it stands on: on a tool the calls of that tool, on a server all calls of that "
        "server, at the top all calls of each server that does not say otherwise.",
    ),
    "server, tool": (
        "Effects: on a server or a tool",
        "A state path is text such as `repo/{id}`, in which `{argument}` stands for that argument of the call; it lies "
        "below the server's own root, or with a leading `/` below a root that all servers share. `{argument:file}` is a "
        'file: one real absolute path for all its spellings and for all servers on this machine. `"reads": []` with '
        '`"writes": []` says that nothing is touched. Without them the tool\'s annotations count '
        "(see [How it works](how-it-works.md)).",
    ),
    "top, server": (
        "Settings of servers' processes: at the top, or on a server",
        "No server inherits the variable that `--auth-token-env` names, whatever is set here "
        "(see [Security](security.md)).",
    ),
    "server": ("Settings of a server", "Globs are matched against the names that the server gives its tools."),
    "top": ("Settings of the bridge: at the top only", ""),
}

PROFILES = """\
A host profile overrides what is known of a client (see [Clients](clients.md)), by the name that it gives in `clientInfo`:

| key | default | meaning |
|---|---|---|
"""
PROFILE_DOCS = {
    "single_conversation": "Whether one connection is one conversation.",
    "timeout_s": "Seconds after which the client gives up on a call.",
    "name_limit": "Longest tool name, with what the client puts before it.",
    "progress_resets_timeout": "Whether progress keeps a call alive.",
    "reads_instructions": "Whether the model gets servers' instructions; where it may not, `await_future` has their gist.",
}


def _values(kind: Any) -> str:
    """The values of a setting of this type, in words."""
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{word}"`' for word in get_args(kind))
    if get_origin(kind) is UnionType:
        return " or ".join("`null`" if part is type(None) else _values(part) for part in get_args(kind))
    words: Mapping[Any, str] = {bool: "`true`, `false`", int: "whole number", float: "number", tuple: "list of strings"}
    return words.get(get_origin(kind) or kind, "object")


SERVER_VALUES = {
    "env_inherit": '`"all"`, `"safe"` or list of strings',
    "prefix": "string",
    "state": "string",
    "tools": "object: tool name → settings",
}


def page() -> str:
    """The whole page."""
    kinds = {f.name: _values(f.type) for model in (Policy, Settings) for f in fields(model)}
    kinds |= {"reads": "list of strings", "writes": "list of strings"}  # null is what nothing said means
    parts = [INTRO, SERVERS, "## Every setting\n"]
    for where, (title, remark) in WHERE.items():
        rows = [row for row in field_docs() if row[0] == where]
        lines = [f"### {title}\n", *([f"{remark}\n"] if remark else [])]
        lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        for _, name, default, doc in rows:
            shown = "" if default is None else f"`{json.dumps(default)}`"
            values = kinds.get(name) or SERVER_VALUES.get(name, "list of strings")
            lines.append(f"| `{name}` | {values} | {shown} | {doc} |")
        parts.append("\n".join(lines) + "\n")
    profile = [
        f"| `{f.name}` | `{json.dumps(getattr(UNKNOWN, f.name))}` | {PROFILE_DOCS[f.name]} |" for f in fields(UNKNOWN)
    ]
    parts.append(PROFILES + "\n".join(profile) + "\n")
    return "\n".join(parts)


def main() -> None:
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
