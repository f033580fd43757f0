"""Host profiles: the known behaviour of MCP hosts, keyed by the name that they send in `clientInfo`.

Owns one small table, from the hosts' documentation and from observation. Profiles are convenience only: conversations
and timeouts. They never decide access to a future. The setting `host_profiles` overrides them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from asyncfc_mcp.config.settings import setting


@dataclass(frozen=True, slots=True)
class HostProfile:
    """Behaviour of a host towards its servers."""

    single_conversation: bool = setting(
        False,
        "`true` if a connection carries one conversation only (a process or session per chat), not several chats.",
    )
    timeout_s: float = setting(60.0, "The client's timeout for a call, in seconds.", above=True)
    name_limit: int = setting(64, "Maximum length of a tool name, including the client's own prefix.", minimum=1)
    progress_resets_timeout: bool = setting(
        False, "`true` if progress notifications reset the client's timeout for a call."
    )
    reads_instructions: bool = setting(
        False,
        "`true` if the model receives servers' instructions. Otherwise the description of `await_future` summarises "
        "them.",
    )
    untyped_arguments: bool = setting(
        False,
        "`true` if the host's model API takes arguments without a type (Gemini's refuses the whole request). The "
        "bridge's own three then need none, cost 16 tokens instead of 24 for each tool, and may be lists.",
    )

    @property
    def wait_s(self) -> float:
        """Maximum wait within one call, in seconds, that leaves the host time to receive the answer."""
        return max(1.0, self.timeout_s * 0.75)


UNKNOWN: Final = HostProfile()

PROFILES: Final[Mapping[str, HostProfile]] = {
    # One process per session:
    "claude-code": HostProfile(
        single_conversation=True,
        timeout_s=600.0,
        progress_resets_timeout=True,
        reads_instructions=True,
        untyped_arguments=True,
    ),
    "codex-mcp-client": HostProfile(
        single_conversation=True, timeout_s=60.0, reads_instructions=True, untyped_arguments=True
    ),
    "gemini-cli-mcp-client": HostProfile(single_conversation=True, timeout_s=600.0, reads_instructions=True),
    "opencode": HostProfile(single_conversation=True, timeout_s=30.0, reads_instructions=True),
    # One process for all chats of an application or window:
    "claude-ai": HostProfile(timeout_s=60.0, reads_instructions=True),
    "cursor-vscode": HostProfile(timeout_s=60.0, name_limit=60, reads_instructions=True),
    "Visual Studio Code": HostProfile(timeout_s=60.0, reads_instructions=True),
    # Agent frameworks: a connection belongs to the program that opened it, often to one run.
    # `mcp` is the default name of the Python SDK: LangChain, and the OpenAI Agents SDK with its timeout of 5 s.
    "mcp": HostProfile(timeout_s=5.0),
    "openai-agents": HostProfile(timeout_s=5.0),
    "asyncfc-scripted-agent": HostProfile(single_conversation=True, reads_instructions=True, untyped_arguments=True),
}


def profile_for(name: str | None, overrides: Mapping[str, Mapping[str, object]]) -> HostProfile:
    """Return the profile of the host with this `clientInfo.name`; the cautious default for an unknown host.

    Args:
        overrides: the setting `host_profiles`, whose keys `settings_reader` has checked.
    """
    profile = PROFILES.get(name or "", UNKNOWN)
    override = overrides.get(name or "")
    return profile if override is None else replace(profile, **override)  # pyright: ignore[reportArgumentType]
