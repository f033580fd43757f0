"""The setting `access`: its form, and warnings of patterns without an effect."""

import json
from typing import Any

import pytest

from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.config.settings import AccessEntry, Settings
from asyncfc_mcp.errors import ConfigError


def read(access: Any) -> tuple[Settings, list[str]]:
    """Return the settings, and the warnings that are about access."""
    servers = {"github": {"command": "x"}, "jira": {"command": "x"}, "off": {"command": "x", "disabled": True}}
    config = parse_config(json.dumps({"mcpServers": servers, "asyncfc": {"access": access}}), "f.json", {})
    return config.settings, [each for each in config.warnings if "access" in each]


def test_entries_are_read_by_their_names():
    """`allow` may be absent, which is not the same as empty."""
    settings, warnings = read(
        {"alice": {"allow": ["github", "jira/get_*"], "deny": ["*/delete_*"]}, "*": {}, "scope:x": {"allow": []}}
    )
    assert settings.access == {
        "alice": AccessEntry(("github", "jira/get_*"), ("*/delete_*",)),
        "*": AccessEntry(),
        "scope:x": AccessEntry(()),
    }
    assert not warnings
    assert read(None)[0].access is None


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ([], "asyncfc.access"),
        ({"alice": ["github"]}, "asyncfc.access.alice"),
        ({"alice": {"alow": ["github"]}}, "'allow'"),
        ({"alice": {"allow": "github"}}, "a list of strings"),
        ({"alice": {"allow": None}}, "a list of strings"),
        ({"alice": {"allow": [""]}}, "'server' or 'server/tool'"),
        ({"alice": {"deny": ["/get"]}}, "'server' or 'server/tool'"),
        ({"alice": {"deny": ["github/"]}}, "'server' or 'server/tool'"),
        ({"": {}}, "the name of a principal"),
        ({"scope:": {}}, "the name of a principal"),
        ({" alice": {}}, "the name of a principal"),
    ],
)
def test_another_form_is_an_error(access: Any, message: str):
    """A rule that is not understood must not be left out."""
    with pytest.raises(ConfigError) as caught:
        read(access)
    assert message in str(caught.value)


def test_a_pattern_that_matches_no_server_is_a_warning():
    """With the nearest name; servers that are off count."""
    [allow, deny] = read({"a": {"allow": ["githib", "off", "*/x"], "deny": ["jria/delete_*"]}})[1]
    assert "asyncfc.access.a.allow[0]: 'githib' matches no server (nearest: 'github')" in allow
    assert "asyncfc.access.a.deny[0]: 'jria/delete_*' matches no server (nearest: 'jira')" in deny


def test_access_without_an_entry_is_a_warning():
    """It is allowed, and allows nothing."""
    [warning] = read({})[1]
    assert "nobody may use anything" in warning
