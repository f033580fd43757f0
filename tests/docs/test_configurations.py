"""Configurations in the documentation are read by what reads them: none has an error, none a warning."""

import json
import re
import tomllib
from typing import Any

import pytest
from ruamel.yaml import YAML

from asyncfc_mcp.cli.install.hosts import HOSTS, host_named
from asyncfc_mcp.config.reader import parse_config
from asyncfc_mcp.core.effect_profiles import EffectProfile
from asyncfc_mcp.transports.http.auth.token_file import read_tokens
from tests.docs.pages import REPO, Block, blocks

DATA = ("json", "jsonc", "yaml", "toml")
BLOCKS = [block for block in blocks() if block.language in DATA]
TABLES = ("mcpServers", "servers", "mcp", "context_servers", "mcp_servers", "extensions")
OF_START = {
    "claude-desktop": "claude-desktop", "claude-code": "", "cursor": "cursor", "vscode": "vscode", "codex": "codex",
    "gemini-cli": "gemini", "opencode": "opencode", "goose": "goose", "zed": "zed",
}  # fmt: skip
"""Page for a host → the host's word; none where its own command writes the entry."""


SERVER = {"command": "x"}
NOT_OURS = ("runs mcp-remote", "matches no server")
"""Warnings about an entry for a host, and about a part of a configuration without its servers."""


def environment(text: str) -> dict[str, str]:
    """Return a value for every variable that a text names."""
    return dict.fromkeys(re.findall(r"\$\{(?:env:)?([A-Za-z_]\w*)", text), "a-value-of-enough-length")


def whole(block: Block) -> str:
    """Return the text of a block, in braces where it is a part of an object."""
    text = block.text.strip()
    return f"{{{text}}}" if block.language.startswith("json") and text.startswith('"') else text


def check(block: Block) -> str:
    """Read a block as what it is, and return what that was.

    Raises:
        Exception: it cannot be read, or is read with a warning.
    """
    text = whole(block)
    if block.language == "toml" and not text.startswith("[mcp_servers"):
        if "sha256:" not in text:
            tomllib.loads(text)
            return "TOML"
        filled = re.sub(r"sha256:(\w+)…", lambda match: f"sha256:{match[1]:0<64}", text)
        assert read_tokens(filled)
        return "tokens"
    if block.language in ("toml", "yaml"):
        file = f"config.{block.language}"
        if block.language == "yaml" and not set(YAML(typ="safe").load(text)) & set(TABLES):
            return "YAML of another program"
    else:
        file = "mcp.json"
        value: Any = json.loads(text)
        if not isinstance(value, dict):
            return "JSON"
        if "about" in value and "tools" in value:
            EffectProfile.parse("example", value)
            return "profile"
        if set(value) == {"asyncfc"}:
            of_server = "tools" in value["asyncfc"]
            servers = {"s": {**SERVER, **value} if of_server else SERVER}
            text = json.dumps({"mcpServers": servers, **({} if of_server else value)})
        elif not set(value) & set(TABLES):
            return "JSON"
    config = parse_config(text, file, environment(text))
    if "--shared" not in text:  # an entry of the bridge in a host has keys of the host
        warnings = [each for each in config.warnings if not any(words in each for words in NOT_OURS)]
        assert not warnings, warnings
    assert not config.unusable, config.unusable
    assert config.servers
    return "configuration"


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and keyrings that pages name hold a secret."""
    monkeypatch.setattr("asyncfc_mcp.config.variables.read_source", lambda *_: "secret")


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.excuse], ids=str)
def test_a_block_is_read(block: Block) -> None:
    """By the reader of configurations, tokens or profiles; other JSON is JSON."""
    check(block)


@pytest.mark.parametrize(("page", "word"), [(page, word) for page, word in OF_START.items() if word])
def test_the_entry_of_a_host_is_the_one_that_install_writes(page: str, word: str) -> None:
    """Its shape, at the place where the host looks for it, and with `--shared`."""
    host = host_named(word)
    block = next(block for block in BLOCKS if block.page == f"docs/start/{page}.md")
    if block.language == "toml":
        value: Any = tomllib.loads(block.text)
    elif block.language == "yaml":
        value = YAML(typ="safe").load(block.text)
    else:
        value = json.loads(block.text)
    for key in host.table:
        value = value[key]
    args = ["serve", "--shared", "--config", "~/.config/asyncfc/mcp.json"]
    assert value == {"asyncfc": dict(host.shape("asyncfc", "asyncfc-mcp", args))}


def test_entries_in_the_tables_about_migrating_are_read() -> None:
    """Each part of an entry in a cell, with a URL and values in place of the words that stand for them."""
    page = (REPO / "docs" / "migrating.md").read_text(encoding="utf-8")
    parts = re.findall(r'`("(?:headers|oauth|type|url|asyncfc|share)": .*?)`', page)
    assert len(parts) > 12
    for part in parts:
        values = part.replace(", …}", ', "clientId": "a", "clientSecret": "b"}').replace(
            '"URL"', '"https://a.example/b"'
        )
        value = {"url": "https://example.com/mcp", **json.loads(f"{{{values}}}")}
        if "share" in value:
            value = {"command": "x", "asyncfc": {"share": value["share"]}}
        config = parse_config(json.dumps({"mcpServers": {"s": value}}), "mcp.json", environment(part))
        assert not config.warnings, part
        assert config.servers, part


def test_every_page_for_a_host_is_checked() -> None:
    """And the hosts are those of `install`."""
    pages = {page.stem for page in (REPO / "docs" / "start").glob("*.md")} - {"index", "http"}
    assert pages == set(OF_START)
    assert {word for word in OF_START.values() if word} < set(HOSTS)


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Few blocks are excused."""
    kinds = [block.excuse or check(block) for block in BLOCKS]
    with capsys.disabled():
        print("\nblocks of data: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)))
    assert kinds.count("configuration") > len(kinds) / 2
