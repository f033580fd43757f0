"""Headers of callers: which servers may have them, their templates, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.caller_headers import (
    all_caller_names,
    filled,
    passes_on_authorization,
    template_names,
    uses_callers,
    without_callers,
)
from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import Json, entry, parse, refused


def test_headers_of_callers_are_templates_beside_those_of_the_configuration() -> None:
    """Names and text around are kept; a header of the configuration is sent as before."""
    server = entry(
        {
            "url": "https://h/mcp",
            "headers": {"Authorization": "${caller:authorization}", "X-Api-Key": "${caller:X-Token}", "X-A": "${A}"},
        },
        {"A": "one"},
    )
    assert server.spec == HttpSpec(
        "https://h/mcp",
        {"X-A": "one"},
        caller_headers={"Authorization": "${caller:authorization}", "X-Api-Key": "${caller:X-Token}"},
    )
    assert uses_callers(server)
    assert all_caller_names([server]) == ("authorization", "x-token")


def test_a_server_without_them_needs_no_header_of_callers() -> None:
    """Neither a process nor another URL."""
    config = parse({"mcpServers": {"a": {"command": "x"}, "b": {"url": "http://h/mcp", "headers": {"K": "v"}}}})
    assert all_caller_names(config.servers) == ()
    assert not any(map(uses_callers, config.servers))


@given(st.text(st.characters(codec="ascii", exclude_characters="$"), max_size=20), st.text(max_size=20))
def test_a_template_is_filled_with_text_around(around: str, value: str) -> None:
    """Values are put in once and not expanded again, whatever they look like."""
    text = f"{around}${{caller:X-Key}}{around}"
    assert template_names(text) == ("x-key",)
    assert filled(text, {"x-key": value}) == f"{around}{value}{around}"
    assert filled(text, {"x-key": "${caller:other}"}) == f"{around}${{caller:other}}{around}"


def test_a_missing_header_is_named() -> None:
    """By the caller's name of it."""
    with pytest.raises(KeyError) as caught:
        filled("Bearer ${caller:X-Key}", {"other": "secret"})
    assert caught.value.args == ("x-key",)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"command": "${caller:x-key}"}, "command"),
        ({"command": "x", "args": ["--key", "${caller:x-key}"]}, "args[1]"),
        ({"command": "x", "env": {"KEY": "${caller:x-key}"}}, "env.KEY"),
        ({"command": "x", "cwd": "/${caller:x-key}"}, "cwd"),
        ({"url": "https://h/${caller:x-key}"}, "url"),
    ],
)
def test_it_is_refused_elsewhere(value: Json, key: str) -> None:
    """With the place, and where it is allowed: a process and a URL are the same for all callers."""
    said = refused({"mcpServers": {"s": value}})
    assert f"mcpServers.s.{key}: found ${{caller:" in said
    assert 'expected it in "headers" of a server with "url"' in said


def test_a_script_of_a_shell_keeps_it() -> None:
    """There it is a part of a shell's own variable."""
    script = "echo ${caller:1:2}"
    assert entry({"command": "sh", "args": ["-c", script]}).spec.args == ("-c", script)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Key": "${caller:}"}, "without the name of a header"),
        ({"X-Key": "${caller:a b}"}, "without the name of a header"),
        ({"X-Key": "${caller:x-key} ${HOME}"}, "another ${…} beside"),
        ({"X-Key": "${caller:x-key"}, "another ${…} beside"),
        ({"Host": "${caller:x-key}"}, "belongs to the connection"),
        ({"Mcp-Session-Id": "${caller:x-key}"}, "belongs to the connection"),
        ({"X-Key": "${caller:mcp-session-id}"}, "of the caller's own connection"),
        ({"X-Key": "${caller:x-key}", "x-key": "fixed"}, "twice"),
        ({"X Key": "${caller:x-key}"}, "invalid header name"),
    ],
)
def test_a_template_that_cannot_be_sent_disables_its_server(headers: Json, words: str) -> None:
    """The error names the header."""
    said = refused({"mcpServers": {"s": {"url": "http://h/mcp", "headers": headers}}})
    assert "mcpServers.s.headers" in said
    assert words in said


def test_a_database_of_several_replicas_is_refused() -> None:
    """Another replica may have to make the call, and credentials of callers are stored nowhere."""
    server = {"url": "http://h/mcp", "headers": {"Authorization": "${caller:authorization}"}}
    said = refused({"mcpServers": {"s": server}, "asyncfc": {"engine": "postgresql://localhost/x"}})
    assert "mcpServers.s.headers.Authorization" in said
    assert "in memory only" in said
    assert "a bridge of its own" in said


def test_a_client_over_stdio_has_no_headers() -> None:
    """The server is left out with a reason; where no other is left, that is the error."""
    server = {"url": "http://h/mcp", "headers": {"A": "${caller:x-key}", "B": "${caller:x-other}"}}
    config = parse({"mcpServers": {"own": server, "common": {"command": "x"}}})
    local = without_callers(config)
    assert [each.name for each in local.servers] == ["common"]
    (left_out,) = local.unusable
    assert left_out.name == "own"
    assert "x-key and x-other" in left_out.reason
    assert "--transport http" in left_out.reason
    with pytest.raises(ConfigError, match="--transport http"):
        without_callers(parse({"mcpServers": {"own": server}}))
    plain = parse({"mcpServers": {"common": {"command": "x"}}})
    assert without_callers(plain) is plain


def test_the_authorization_of_callers_is_found() -> None:
    """In whatever header it is sent, and however it is written."""
    servers = parse({"mcpServers": {"s": {"url": "http://h", "headers": {"X": "a ${caller:AUTHORIZATION}"}}}}).servers
    assert passes_on_authorization(servers) == "s"
    servers = parse({"mcpServers": {"s": {"url": "http://h", "headers": {"Authorization": "${caller:x}"}}}}).servers
    assert passes_on_authorization(servers) is None
