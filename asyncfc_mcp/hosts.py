"""What is known of the MCP hosts, keyed by the name that they give in `clientInfo`.

Owns one small table, from the hosts' documentation and from what was seen of them. Everything in it is convenience:
whose unread results these are, how long the client waits. Nothing of it decides who may see what. The setting
`host_profiles` overrides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from asyncfc_mcp.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class HostProfile:
    """How a host behaves towards its servers."""

    single_conversation: bool = False
    """One connection is one conversation: a process or session per chat. False where chats share a connection."""
    timeout_s: float = 60.0
    """After how many seconds it gives up on a call."""
    name_limit: int = 64
    """How long a tool name may be, with what the host itself puts before it."""
    progress_resets_timeout: bool = False
    """Whether progress notifications keep a call alive."""
    reads_instructions: bool = False
    """Whether its model gets the instructions of servers. Where it may not, a tool's description has their gist."""

    @property
    def wait_s(self) -> float:
        """The longest wait within one call that leaves the host time to receive the answer."""
        return max(1.0, self.timeout_s * 0.75)


UNKNOWN: Final = HostProfile()

PROFILES: Final[Mapping[str, HostProfile]] = {
    # One process per session.
    "claude-code": HostProfile(
        single_conversation=True, timeout_s=600.0, progress_resets_timeout=True, reads_instructions=True
    ),
    "codex-mcp-client": HostProfile(single_conversation=True, timeout_s=60.0, reads_instructions=True),
    "gemini-cli-mcp-client": HostProfile(single_conversation=True, timeout_s=600.0, reads_instructions=True),
    "opencode": HostProfile(single_conversation=True, timeout_s=30.0, reads_instructions=True),
    # One process for all chats of an application or window.
    "claude-ai": HostProfile(timeout_s=60.0, reads_instructions=True),
    "cursor-vscode": HostProfile(timeout_s=60.0, name_limit=60, reads_instructions=True),
    "Visual Studio Code": HostProfile(timeout_s=60.0, reads_instructions=True),
    # Agent frameworks: a connection belongs to the program that opened it, often to one run.
    # `mcp` is every program on the Python SDK that gives no name of its own: LangChain, and the OpenAI Agents SDK,
    # which gives up on a call after 5 s.
    "mcp": HostProfile(timeout_s=5.0),
    "openai-agents": HostProfile(timeout_s=5.0),
    "asyncfc-scripted-agent": HostProfile(single_conversation=True, reads_instructions=True),
}


def profile_for(name: str | None, overrides: Mapping[str, Mapping[str, object]]) -> HostProfile:
    """The profile of the host with this `clientInfo.name`; an unknown host gets the cautious one.

    Raises:
        ConfigError: an override has a key that profiles do not.
    """
    profile = PROFILES.get(name or "", UNKNOWN)
    override = overrides.get(name or "")
    if override is None:
        return profile
    known = {f.name for f in fields(HostProfile)}
    for key in override:
        if key not in known:
            close = nearest(key, known) or sorted(known)
            raise ConfigError("config", f"asyncfc.host_profiles.{name}", f"unknown key {key!r}", f"{close[0]!r}")
    return replace(profile, **override)  # pyright: ignore[reportArgumentType]
