"""Environments of servers: what is inherited under each setting, and what under none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.environment import OWN_TOKEN, environment, inherited
from asyncfc_mcp.transports.http.auth.bearer_token import MissingToken, UnsendableToken, take_token

BRIDGE = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_ALL": "C.UTF-8",
    "XDG_CACHE_HOME": "/c",
    "https_proxy": "http://proxy",
    "NPM_CONFIG_CACHE": "/n",
    "npm_config__authToken": "s3cret",
    "UV_PUBLISH_TOKEN": "s3cret",
    "GITHUB_TOKEN": "s3cret",
    "AWS_PROFILE": "dev",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "SSH_AUTH_SOCK": "/agent",
    "ASYNCFC_CHAIN": "0123",
    "ASYNCFC_TOKEN": "s3cret",
    "SHELL": "() { :; }; evil",
}


def test_all_is_everything_but_the_token_of_the_bridge():
    """A server that worked with a host's environment works behind the bridge."""
    assert inherited(BRIDGE, "all") == {key: value for key, value in BRIDGE.items() if key != OWN_TOKEN}


def test_safe_has_no_credentials():
    """What programs need to run as the user, and what keeps a bridge from starting itself."""
    names = {"PATH", "HOME", "LC_ALL", "XDG_CACHE_HOME", "https_proxy", "NPM_CONFIG_CACHE", "ASYNCFC_CHAIN"}
    assert set(inherited(BRIDGE, "safe")) == names


@pytest.mark.parametrize(
    ("names", "more"),
    [
        ((), set()),
        (("GITHUB_TOKEN",), {"GITHUB_TOKEN"}),
        (("AWS_*",), {"AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"}),
        (("ASYNCFC_TOKEN", "ASYNCFC_*"), set()),
        (("NOT_SET", "github_token"), set()),
    ],
)
def test_names_are_added_to_the_safe_ones(names: tuple[str, ...], more: set[str]):
    """And the bridge's token cannot be named."""
    assert set(inherited(BRIDGE, names)) == set(inherited(BRIDGE, "safe")) | more


def test_the_env_of_an_entry_wins():
    """It is the one place where a server can be given anything."""
    assert environment(BRIDGE, {"PATH": "/mine", OWN_TOKEN: "x"}, "safe") | {} == {
        **inherited(BRIDGE, "safe"),
        "PATH": "/mine",
        OWN_TOKEN: "x",
    }


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_a_token_of_visible_ascii_is_taken_out_of_the_environment(token: str):
    """What is started later cannot inherit it."""
    environ = {"T": token, "OTHER": "1"}
    assert take_token(environ, "T") == token
    assert environ == {"OTHER": "1"}


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        ("two words", "has a space"),
        ("s3cret\n", "ends with a line end"),
        ("s3cret\r\n", "ends with a line end"),
        (" s3cret", "begins or ends with a space"),
        ("s3cret\t", "begins or ends with a space"),
        ("s3\ncret", "has a control character"),
        ("s3cret\x7f", "has a control character"),
        ("s3cret\0", "has a control character"),
        ("s3crét", "not ASCII"),
        ("  ", "is blank"),
        ("\n", "is blank"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused_by_the_name_of_its_variable(token: str, fault: str):
    """The value is not shown."""
    with pytest.raises(UnsendableToken) as caught:
        take_token({"BRIDGE_TOKEN": token}, "BRIDGE_TOKEN")
    assert "BRIDGE_TOKEN" in str(caught.value)
    assert fault in str(caught.value)
    assert "s3" not in str(caught.value)


def test_no_token_is_no_token():
    """Nobody is let in by an empty one."""
    for environ in ({}, {"T": ""}):
        with pytest.raises(MissingToken):
            take_token(environ, "T")
