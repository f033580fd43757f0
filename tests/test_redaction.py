"""Texts without secrets: names and addresses stay readable, credentials do not stay."""

import subprocess
import sys

import pytest

from asyncfc_mcp.redaction import looks_like_token, secrets_of, shown_command, shown_name, shown_url, without_secrets


@pytest.mark.parametrize(
    "name",
    ["GITHUB_TOKEN", "f", "HOME", "http_proxy", "K8S_CLUSTER_URL", "userHome", "workspaceFolderBasename",
     "OPENAI_API_KEY2", "COPILOT_MCP_JIRA_PERSONAL_TOKEN", "CONTEXT7_API_KEY", "AWS_SECRET_ACCESS_KEY", "_X"],
)  # fmt: skip
def test_names_of_variables_are_shown(name: str) -> None:
    """As people write them."""
    assert shown_name(name) == name


@pytest.mark.parametrize(
    "pasted",
    ["ghp_abcdef1234567890", "ghp_SECRET", "AKIAIOSFODNN7EXAMPLE", "Bearer abcdefghij", "sk-proj-123456",
     "AbCdEfGhIjKlMnOpQr", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "deadbeefdeadbeefdeadbeefdeadbeef",
     "eyJhbGciOiJIUzI1NiJ9.e30.x", "p@ssw0rd!p@ssw0rd", "xoxb-1-2", "glpat-abcdefgh", "hunter2"],
)  # fmt: skip
def test_a_credential_in_place_of_a_name_is_shown_by_its_start(pasted: str) -> None:
    """Enough to find it, not enough to use it."""
    shown = shown_name(pasted)
    assert shown.endswith("…")
    assert pasted.startswith(shown[:-1])
    assert len(shown) <= 5


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/mcp", "https://h/mcp"),
        ("https://u:p@h:8/mcp?token=x", "https://h:8/mcp?…"),
        ("https://u:p/w@h/x", "https://h/x"),
        ("https://h/@user/server/mcp", "https://h/@user/server/mcp"),
        ("https://h/api/mcp/s/YmFiN2Q4ZjktODdl/mcp", "https://h/api/mcp/s/…/mcp"),
        ("https://h/x#access_token=1", "https://h/x?…"),
        ("example.com/mcp?x=1", "example.com/mcp?…"),
        ("http://[::1", "http://[::1"),
        ("http://[::1]:8642/mcp", "http://[::1]:8642/mcp"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    """Host and path say which server it is."""
    assert shown_url(url) == shown


def test_a_command_line_is_shown_without_values_of_secret_options() -> None:
    """Options, `NAME=value`, headers and addresses."""
    argv = ["npx", "-y", "mcp-remote", "https://h/sse?k=1", "--header", "Authorization:Bearer abc", "--api-key", "XYZ"]
    argv += ["--token=abc", "-e", "GITHUB_TOKEN=abc", "--port=80", "/a b/c", "--transport", "http", "--verbose"]
    assert shown_command(argv) == (
        "npx -y mcp-remote https://h/sse?… --header Authorization:… --api-key … "
        '--token=… -e GITHUB_TOKEN=… --port=80 "/a b/c" --transport http --verbose'
    )


def test_known_secrets_and_addresses_are_taken_out_of_any_text() -> None:
    """Error texts of libraries may contain headers and URL of a request."""
    secrets = secrets_of(headers={"Authorization": "Bearer S3CRET99"}, url="https://h/mcp?key=qwertz")
    text = "Illegal header value b'Bearer S3CRET99\\n' for https://h/mcp?key=qwertz (redirect to https://i/?code=123)"
    assert (
        without_secrets(text, secrets) == "Illegal header value b'…\\n' for https://h/mcp?… (redirect to https://i/?…)"
    )
    assert without_secrets("sent Authorization: Bearer abcdefgh") == "sent Authorization: Bearer …"
    assert without_secrets("Authorization: token abcd1234") == "Authorization: token …"


@pytest.mark.parametrize(
    "text",
    ["The access token expired", "Basic authentication is off", 'Bearer realm="mcp", error="invalid_token"',
     "a bearer token is needed"],
)  # fmt: skip
def test_words_after_the_name_of_a_scheme_stay(text: str) -> None:
    """An HTTP 401 is explained by its own text."""
    assert without_secrets(text) == text


def test_secrets_of_a_command_are_found_where_they_usually_stand() -> None:
    """Environment variables and options of telling names; a folder is none."""
    found = secrets_of(argv=["--token", "tok-12345", "/data/files"], env={"API_KEY": "key-12345", "HOME": "/home/me"})
    assert set(found) == {"tok-12345", "key-12345"}


@pytest.mark.parametrize(
    "word", ["@modelcontextprotocol/server-filesystem", "server-everything", "--no-sandbox", "C:\\x"]
)
def test_ordinary_words_are_no_tokens(word: str) -> None:
    """Names of packages and paths."""
    assert not looks_like_token(word)


def test_what_libraries_log_has_no_secrets() -> None:
    """`--verbose` shows what the SDK and others log; tracebacks hold URLs, too."""
    program = """
import logging
from asyncfc_mcp.cli.process import log_to_stderr
log_to_stderr(verbose=True)
logger = logging.getLogger("mcp.client")
logger.info("HTTP Request: %s %s", "GET", "https://u:hunter2@h/mcp?token=hunter2")
try:
    raise ValueError("no " + "https://h/?key=" + "hunter" + "2")
except ValueError:
    logger.exception("failed")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert "HTTP Request: GET https://h/mcp?…" in said
    assert "ValueError: no https://h/?…" in said
    assert "hunter2" not in said
