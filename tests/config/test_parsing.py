"""Parsing of a configuration file: encodings, comments, duplicate keys; any other text is refused in one line."""

import codecs
import contextlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.model import StdioSpec
from asyncfc_mcp.config.reader import load_config
from asyncfc_mcp.errors import ConfigError
from tests.support.configurations import FILE, VS_CODE, entry, parse, refused, refused_file

SMALL = '{"mcpServers": {"s": {"command": "x"}}}'


@pytest.mark.parametrize(
    "text",
    [
        '// first\n{"mcpServers": {"s": {"command": "x"}}} // last',
        '/* "mcpServers" */ {"mcpServers": /* { */ {"s": {"command": "x"}}}',
        '{"mcpServers": {"s": {"command": "x",},},}',
        '{"mcpServers": {"s": {"command": "x", "args": [ ],\n // and no more\n }, /**/ }\n,}',
        '{"mcpServers":\r\n{"s": // comment\r\n{"command": "x"}}}\r\n',
    ],
)
def test_comments_and_commas_at_ends_are_read(text: str) -> None:
    """VS Code and Cursor write JSON with comments."""
    assert parse(text).servers[0].spec == StdioSpec("x")


def test_what_looks_like_a_comment_inside_a_string_is_text() -> None:
    """URLs and globs have slashes and stars, and arguments may have a comma before a bracket."""
    args = ["http://h//x", "/* no */", "a, ]", '\\", } // x', "**/*"]
    assert entry({"command": "x", "args": args}).spec == StdioSpec("x", tuple(args))


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + SMALL.encode(),
        codecs.BOM_UTF16_LE + SMALL.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + SMALL.encode("utf-16-be"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, data: bytes) -> None:
    """Windows editors write one, PowerShell UTF-16."""
    path = tmp_path / FILE
    path.write_bytes(data)
    assert load_config(path, {}).servers[0].name == "s"
    assert load_config(path, {}).source == str(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"mcpServers": {', "line 1, column 17"),
        ('{\n  "mcpServers": {\n    "s": {"command": x}\n  }\n}', "line 3, column 22"),
        ('{\n // a comment\n /* two\n lines */ "mcpServers" {}}', "line 4, column 24"),
        ('{"mcpServers": {}} {', "line 1, column 20"),
        ("nonsense", "line 1, column 1"),
        ("/* never closed", "line 1, column 1"),
    ],
)
def test_broken_json_is_placed(text: str, place: str) -> None:
    """Line and column as an editor counts them, comments before it included."""
    assert place in refused(text)


def test_a_key_that_stands_twice_is_refused() -> None:
    """JSON would let the last one win without a word: the first server would be gone."""
    said = refused('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}')
    assert "a: duplicate key" in said


@pytest.mark.parametrize("text", ["", " \n", "// nothing yet\n", "null", "[]", '"x"', "5"])
def test_a_file_without_an_object_is_refused(text: str) -> None:
    """Empty, or something else than an object."""
    refused(text)


@pytest.mark.parametrize("depth", [900, 960, 990, 10_000])
def test_nesting_beyond_all_reason_is_refused(depth: int) -> None:
    """Wherever it stands, and whoever meets it first: the parser, or who shows what was found."""
    nested = "[" * depth + "]" * depth
    refused(nested)
    for place in (
        '{"mcpServers": {"s": {"command": NESTED}}}',
        '{"mcpServers": {"s": {"command": "x", "args": NESTED}}}',
        '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"mode": NESTED}}',
    ):
        refused(place.replace("NESTED", nested))


def test_numbers_beyond_all_reason_are_refused() -> None:
    """JSON sets numbers no bounds; NaN and Infinity are what Python's reader lets pass on top."""
    config = '{"mcpServers": {"s": {"command": "x"}}, "asyncfc": {"NAME": NUMBER}}'
    for number in ("1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "9" * 5000):
        for name in ("timeout_s", "max_pending"):
            refused(config.replace("NAME", name).replace("NUMBER", number))


# --- the file ---------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With its whole path."""
    path = tmp_path / "nowhere.json"
    assert refused_file(path) == f"{path}: file not found; expected a configuration file"


def test_a_relative_path_says_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts start the bridge in folders of their own."""
    monkeypatch.chdir(tmp_path)
    assert f"file not found (looked for from {tmp_path})" in refused_file(Path("nowhere.json"))


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    """It says what was found."""
    assert "found a folder" in refused_file(tmp_path)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason is passed on."""
    path = tmp_path / FILE
    path.write_text(SMALL)
    assert "Not a directory" in refused_file(path / "below")

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in refused_file(path)


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "empty"), (b"\xef\xbb\xbf \n", "empty"), (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"), (b"\x00\x00", "line 1")],
)
def test_an_empty_or_binary_file_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    """Each with what is wrong with it."""
    path = tmp_path / FILE
    path.write_bytes(data)
    assert word in refused_file(path)


def test_a_strange_file_name_breaks_no_line(tmp_path: Path) -> None:
    """A name may hold a newline or bytes that are no text; the error is one line all the same."""
    assert r"a\nb" in refused_file(tmp_path / "a\nb")
    assert refused_file(tmp_path / os.fsdecode(b"a\xff\x1b[2J")).isprintable()


@settings(deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=4))
def test_any_damage_to_a_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, where: int, junk: bytes
) -> None:
    """A few bytes of a right file are others; it is never more than a `ConfigError`."""
    data = VS_CODE.encode()
    cut = where % len(data)
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data[:cut] + junk + data[cut + random.Random(where).randrange(6) :])
    with contextlib.suppress(ConfigError):
        load_config(path, {})


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b'\xff\xfe{"')
@example(b"\xfe\xff\xd8\x00")
@example(b'"\\ud800"')
@example(b"\xef\xbb\xbf\xef\xbb\xbf{}")
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Nothing random is a configuration, and nothing random is more than a `ConfigError`."""
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(data)
    assert refused_file(path).isprintable()
