"""What is known of hosts: cautious where nothing is, and overridable."""

import pytest

from asyncfc_mcp.config.hosts import PROFILES, UNKNOWN, HostProfile, profile_for


@pytest.mark.parametrize("name", [None, "", "a host of tomorrow", "Claude-Code"])
def test_an_unknown_host_gets_the_cautious_profile(name: str | None):
    """Several conversations may share its connection, and it gives up early; names are compared exactly."""
    assert profile_for(name, {}) is UNKNOWN
    assert not UNKNOWN.single_conversation
    assert not UNKNOWN.progress_resets_timeout
    assert not UNKNOWN.reads_instructions


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_known_host_is_answered_before_it_gives_up(name: str):
    """A wait leaves it at least a fifth of its patience to receive the answer."""
    profile = profile_for(name, {})
    assert profile is PROFILES[name]
    assert 0 < profile.wait_s <= 0.8 * profile.timeout_s


def test_applications_with_many_chats_on_one_connection_are_no_single_conversation():
    """Results of one chat must not be delivered into another."""
    for name in ("claude-ai", "cursor-vscode", "Visual Studio Code"):
        assert not PROFILES[name].single_conversation


def test_a_program_on_the_python_sdk_without_a_name_of_its_own_is_answered_within_five_seconds():
    """The OpenAI Agents SDK is one, gives up then, and hands no instructions to its model."""
    profile = profile_for("mcp", {})
    assert profile.wait_s < 4.5
    assert not profile.reads_instructions
    assert profile_for("mcp", {"mcp": {"timeout_s": 300.0}}).wait_s > 200


def test_an_override_changes_what_it_says_and_nothing_else():
    """Of a known host, and of one that the table does not have."""
    overrides = {"claude-ai": {"timeout_s": 240.0}, "mine": {"single_conversation": True}}
    assert profile_for("claude-ai", overrides) == HostProfile(timeout_s=240.0, reads_instructions=True)
    assert profile_for("mine", overrides) == HostProfile(single_conversation=True)
    assert profile_for("codex-mcp-client", overrides) is PROFILES["codex-mcp-client"]
    assert profile_for("claude-ai", {}) is PROFILES["claude-ai"]


def test_even_an_impatient_host_is_given_a_second():
    """Less would be no wait at all."""
    assert HostProfile(timeout_s=0.1).wait_s == 1.0
