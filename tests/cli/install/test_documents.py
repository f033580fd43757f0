"""Edits of documents: what is inserted can be taken out to the byte, and nothing else is touched."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.cli.install.documents import Document, EditRefused
from asyncfc_mcp.errors import ConfigError

ENTRY = {"command": "/usr/bin/asyncfc-mcp", "args": ["serve", "--config", "/home/u/ä.json"], "env": {"A": "1"}}
TABLE = ("mcpServers",)


# --- JSON ----------------------------------------------------------------------------------------------------------

SPACES = st.sampled_from(["", " ", "\n", "\n  ", "\t", "\r\n"])
COMMENTS = st.sampled_from(["", "", "", "/* c , } */", '// it\'s } "a": {\n', "/**/ ", "// é\r\n"])
GAPS = st.tuples(SPACES, COMMENTS, SPACES).map("".join)
STRINGS = st.text(max_size=6) | st.sampled_from(["a//b", "/*", '"', "\\", "}", ",]"])
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | STRINGS


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> tuple[str, dict[str, Any]]:
    """Text of an object in any layout, and its value."""
    keys = draw(st.lists(STRINGS | st.sampled_from(["mcpServers", "mcp", "servers"]), max_size=4, unique=True))
    text, value = "{", dict[str, Any]()
    for i, key in enumerate(keys):
        if key in ("mcpServers", "mcp", "servers") or (depth and draw(st.booleans())):
            item_text, value[key] = draw(objects(depth - 1)) if depth > 0 else ("{}", {})
        elif draw(st.booleans()):
            value[key] = draw(st.lists(SCALARS, max_size=2))
            item_text = "[" + ",".join(draw(GAPS) + json.dumps(each) for each in value[key]) + draw(GAPS) + "]"
        else:
            value[key] = draw(SCALARS)
            item_text = json.dumps(value[key], ensure_ascii=draw(st.booleans()))
        text += draw(GAPS) + json.dumps(key) + draw(GAPS) + ":" + draw(GAPS) + item_text + draw(GAPS)
        text += "," if i + 1 < len(keys) or draw(st.booleans()) else ""
    return text + draw(GAPS) + "}", value


DOCUMENTS = st.tuples(GAPS, objects(), GAPS).map(lambda parts: (parts[0] + parts[1][0] + parts[2], parts[1][1]))
PRETTY = st.tuples(objects(), st.sampled_from([2, 4, "\t", None]), st.sampled_from(["", "\n"])).map(
    lambda parts: (json.dumps(parts[0][1], indent=parts[1]) + parts[2], parts[0][1])
)
PATHS = st.sampled_from([TABLE, ("mcp", "servers"), ("context_servers",)])


@settings(deadline=None, max_examples=200)
@given(DOCUMENTS | PRETTY, PATHS, st.sampled_from(["asyncfc", "a b", "é"]))
def test_what_was_inserted_into_json_can_be_taken_out_to_the_byte(
    written: tuple[str, dict[str, Any]], path: tuple[str, ...], name: str
) -> None:
    """Comments, order, indentation, trailing commas and line ends are those of before, in any layout."""
    text, value = written
    document = Document("mcp.json", text)
    assert document.value == value
    if name in document.table(path):
        return
    insertion = document.insert(path, name, ENTRY)
    assert document.table(path)[name] == ENTRY
    comma, rest = "," if insertion.comma else "", document.text
    assert len(rest) == len(text) + len(insertion.text) + len(comma), "nothing else was changed"
    document.undo(path, name, insertion)
    assert document.text == text


@settings(deadline=None, max_examples=100)
@given(DOCUMENTS | PRETTY, PATHS, st.data())
def test_entries_of_json_are_removed_and_added_in_any_order(
    written: tuple[str, dict[str, Any]], path: tuple[str, ...], data: st.DataObject
) -> None:
    """Also where others were added behind an insertion since, or ones before it were removed."""
    document = Document("mcp.json", written[0])
    insertion = document.insert(path, "asyncfc", ENTRY)
    document.insert(path, "later", {"command": "x"})
    others = [name for name in document.table(path) if name != "asyncfc"]
    for name in data.draw(st.permutations(others)):
        if data.draw(st.booleans()):
            document.remove(path, name)
    kept = {name: entry for name, entry in document.table(path).items() if name != "asyncfc"}
    document.undo(path, "asyncfc", insertion)
    assert document.table(path) == kept
    for name in kept:
        raw = document.remove(path, name)
        document.insert(path, name, kept[name], raw)
    assert document.table(path) == kept


JSON_EXAMPLES = [
    ("", '{\n  "mcpServers": {\n    "s": {\n      "command": "x"\n    }\n  }\n}\n'),
    ("{}", '{\n  "mcpServers": {\n    "s": {\n      "command": "x"\n    }\n  }\n}'),
    ('{"a":1}', '{"a":1, "mcpServers": {"s": {"command": "x"}}}'),
    ('{"mcpServers":{}}\n', '{"mcpServers":{"s": {"command": "x"}}}\n'),
    (
        '{\n\t"mcpServers": {\n\t\t// mine\n\t\t"a": {"command": "a"}, // why\n\t},\n}\n',
        '{\n\t"mcpServers": {\n\t\t// mine\n\t\t"a": {"command": "a"}, // why\n'
        '\t\t"s": {\n\t\t\t"command": "x"\n\t\t},\n\t},\n}\n',
    ),
    (
        '{\r\n    "mcpServers": {\r\n        "a": {} // why\r\n    }\r\n}',
        '{\r\n    "mcpServers": {\r\n        "a": {}, // why\r\n'
        '        "s": {\r\n            "command": "x"\r\n        }\r\n    }\r\n}',
    ),
    (
        '{\n  "mcpServers": {\n    // none yet\n  }\n}',
        '{\n  "mcpServers": {\n    // none yet\n    "s": {\n      "command": "x"\n    }\n  }\n}',
    ),
]


@pytest.mark.parametrize(("before", "after"), JSON_EXAMPLES)
def test_an_inserted_entry_of_json_looks_like_its_neighbours(before: str, after: str) -> None:
    """Indentation, line ends, trailing commas; a comment stays with what it is about."""
    document = Document("mcp.json", before)
    insertion = document.insert(TABLE, "s", {"command": "x"})
    assert document.text == after
    document.undo(TABLE, "s", insertion)
    assert document.text == before


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ('{"mcpServers": {\n  "a": {},\n  "s": {} // ours\n}}', "s", '{"mcpServers": {\n  "a": {}\n}}'),
        ('{"mcpServers": {\n  "a": {},\n  "s": {},\n}}', "s", '{"mcpServers": {\n  "a": {},\n}}'),
        (
            '{"mcpServers": {\n  "s": {},\n  // about a\n  "a": {}\n}}',
            "s",
            '{"mcpServers": {\n  // about a\n  "a": {}\n}}',
        ),
        ('{"mcpServers": {"s": {}, "a": {}}}', "s", '{"mcpServers": {"a": {}}}'),
        ('{"mcpServers": {"a": {}, "s": {}}}', "s", '{"mcpServers": {"a": {}}}'),
        ('{"mcpServers": {"s": {}}}', "s", '{"mcpServers": {}}'),
    ],
)
def test_an_entry_of_json_is_removed_with_its_line(before: str, name: str, after: str) -> None:
    """And with the comma that would be left over."""
    document = Document("mcp.json", before)
    document.remove(TABLE, name)
    assert document.text == after


def test_an_insertion_that_the_user_changed_is_removed_all_the_same() -> None:
    """Everything else that was changed since stays."""
    document = Document("mcp.json", '{\n  "a": 1\n}\n')
    insertion = document.insert(TABLE, "s", {"command": "x"})
    edited = document.text.replace('"command": "x"', '"command": "y", "env": {}').replace('"a": 1', '"a": 2')
    document = Document("mcp.json", edited)
    document.undo(TABLE, "s", insertion)
    assert document.value == {"a": 2, "mcpServers": {}}


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("mcp.json", '{"mcpServers": []}', "no table"),
        ("mcp.json", '{"mcpServers": {}, "mcpServers": {}}', "twice"),
        ("mcp.json", '{"mcpServers": {"s": {}}}', "already"),
        ("config.toml", 'mcpServers = {a = {command = "x"}}\n', "by hand"),
        ("config.yaml", "mcpServers: [a]\n", "no table"),
        ("config.yaml", "{a: 1}\n", "block of keys"),
        ("config.yaml", "a: 1\n...\n", "by hand"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(file: str, text: str, words: str) -> None:
    """With a reason, and the text stays as it is."""
    document = Document(file, text)
    with pytest.raises(EditRefused, match=words):
        document.insert(TABLE, "s", {"command": "x"})
    assert document.text == text


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("mcp.json", '{"a": 1,\n b}', "line 2"),
        ("mcp.json", "[]", "no object"),
        ("config.toml", "a = \n", "line 1"),
        ("config.yaml", "a: [\n", "line 2"),
        ("config.yaml", "- a\n", "no object"),
    ],
)
def test_a_broken_document_is_refused_with_its_place(file: str, text: str, words: str) -> None:
    """Before anything is changed."""
    with pytest.raises(ConfigError, match=words):
        Document(file, text)


ANY_ENTRY = st.fixed_dictionaries(
    {"command": STRINGS, "args": st.lists(st.text(max_size=5), max_size=2)},
    optional={"env": st.dictionaries(STRINGS, STRINGS, max_size=2), "enabled": st.booleans(), "n": st.integers(0, 9)},
)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["x.json", "x.toml", "x.yaml"]), STRINGS.filter(bool), ANY_ENTRY, ANY_ENTRY)
@example(
    "x.yaml",
    "\x85",
    {"command": "\u2028 a", "args": ["\ufeff", "\x7f", "a: b", "- c", "#", "~", "1e3"]},
    {"command": "0o7"},
)
@example(
    "x.toml",
    "a.b\n",
    {"command": "\x7f\x85", "args": ["\U0001f600", "\u2028[x]"], "env": {"a b": "\r\n"}},
    {"command": ""},
)
def test_any_entry_can_be_written_in_every_format(file: str, name: str, entry: Any, other: Any) -> None:
    """Its value is the same when it is read, moved and put back, whatever its texts hold."""
    document = Document(file, "")
    document.insert(TABLE, "other", other)
    before = document.text
    insertion = document.insert(TABLE, name, entry) if name != "other" else None
    if insertion is None:
        return
    assert document.table(TABLE) == {"other": other, name: entry}
    raw = document.remove(TABLE, name)
    assert document.table(TABLE) == {"other": other}
    document.insert(TABLE, name, entry, raw)
    assert document.table(TABLE)[name] == entry
    document = Document(file, before)
    insertion = document.insert(TABLE, name, entry)
    document.undo(TABLE, name, insertion)
    assert document.text == before


# --- TOML ----------------------------------------------------------------------------------------------------------

SERVERS = ("mcp_servers",)
TOML_PARTS = st.sampled_from(
    [
        'model = "o5" # the model\n', "# comment\n", "\n", "[tui]\nx = 1\n\n", '[mcp_servers.a]\ncommand = "a"\n',
        '[mcp_servers.b]\ncommand = "b"\n[mcp_servers.b.env]\nA = "[x]"\n\n',
        "# about c\n[mcp_servers.c]\ncommand = '''\n[z]\n'''\n",
        '[projects."/home/u"]\ntrust_level = "trusted"\n', "[[rules]]\na = 1\n", "[[rules]]\na = 2\n",
        '[mcp_servers."d e"]\nurl = "http://h"\nhttp_headers = { A = "b" }\n',
    ]
)  # fmt: skip
TOML = st.lists(TOML_PARTS, max_size=6, unique=True).map(
    lambda parts: "".join(sorted(parts, key=lambda part: not part.startswith("model")))
)


@settings(deadline=None, max_examples=50)
@given(TOML, st.booleans(), st.booleans())
def test_what_was_inserted_into_toml_can_be_taken_out_to_the_byte(text: str, windows: bool, cut: bool) -> None:
    """With line ends of both kinds, and without one at the end."""
    text = text.rstrip("\n") if cut else text
    text = text.replace("\n", "\r\n") if windows else text
    document = Document("config.toml", text)
    insertion = document.insert(SERVERS, "asyncfc", ENTRY)
    assert document.text.startswith(text)
    document.undo(SERVERS, "asyncfc", insertion)
    assert document.text == text


@settings(deadline=None, max_examples=50)
@given(TOML, st.data())
def test_entries_of_toml_are_removed_and_put_back_with_their_comments(text: str, data: st.DataObject) -> None:
    """Any of them, in any order; what is between them stays."""
    document = Document("config.toml", text)
    before = dict(document.table(SERVERS))
    for name in data.draw(st.permutations(list(before))):
        raw = document.remove(SERVERS, name)
        assert name not in document.table(SERVERS)
        if data.draw(st.booleans()):
            document.insert(SERVERS, name, before[name], raw)
    assert {line for line in text.splitlines() if line.startswith(("model", "[tui", "[projects", "[[rules"))} <= set(
        document.text.splitlines()
    )


def test_toml_in_other_forms_is_edited_with_its_comments() -> None:
    """Inline tables and dotted keys are removed; a new table is put behind them."""
    text = 'a = 1 # one\nmcp_servers.x.command = "x" # two\nmcp_servers.y.command = "y"\n[t]\n'
    document = Document("config.toml", text)
    document.remove(SERVERS, "x")
    assert document.text == 'a = 1 # one\nmcp_servers.y.command = "y"\n[t]\n'


def test_a_new_table_of_toml_looks_as_codex_writes_it() -> None:
    """A table of its own, and one for its environment."""
    document = Document("config.toml", 'model = "o5"')
    document.insert(SERVERS, "a.b", {"command": "x", "args": ["-y", "a\\b"], "env": {"K": "v"}})
    assert document.text == (
        'model = "o5"\n\n[mcp_servers."a.b"]\n'
        'command = "x"\nargs = ["-y", "a\\\\b"]\n\n[mcp_servers."a.b".env]\nK = "v"\n'
    )


# --- YAML ----------------------------------------------------------------------------------------------------------

EXTENSIONS = ("extensions",)
GOOSE = {
    "enabled": True,
    "type": "stdio",
    "name": "asyncfc",
    "cmd": "/a b",
    "args": ["serve"],
    "envs": {},
    "timeout": 300,
}
YAML_ENTRIES = st.lists(
    st.sampled_from(
        [
            "  a:\n    cmd: npx  # why\n    args:\n    - -y\n    - 'x'\n",
            "  b: {type: builtin, name: b}\n",
            "  # about c\n  c:\n    description: |\n      some\n\n      text\n",
            '  d:\n    description: "a\n      b"\n\n',
            "  e:\n    cmd: é\n    args: [a, b]\n",
            "  f:\n    cmd: >-\n      folded\n      text\n    none:\n",
            "  g: &g\n    cmd: x\n  h: *g\n",
        ]
    ),
    max_size=4,
    unique=True,
).map("".join)
YAML = st.tuples(
    st.sampled_from(["", "GOOSE_MODEL: x # model\n", "# top\n\nA: 1\n"]),
    YAML_ENTRIES.map(lambda entries: "extensions:\n" + entries) | st.sampled_from(["", "extensions: {}\n"]),
    st.sampled_from(["", "z: 1\n", "\n# end\n", "list:\n- a\n- b\n"]),
).map("".join)


@settings(deadline=None, max_examples=60)
@given(YAML, st.booleans(), st.booleans())
def test_what_was_inserted_into_yaml_can_be_taken_out_to_the_byte(text: str, windows: bool, cut: bool) -> None:
    """Quotes, comments, blank lines, block texts and anchors are those of before."""
    # Without a line end, a block text would have another value with one behind it; that is refused.
    text = text.rstrip("\n") if cut and not text.endswith("      text\n") else text
    text = text.replace("\n", "\r\n") if windows else text
    document = Document("config.yaml", text)
    insertion = document.insert(EXTENSIONS, "asyncfc", GOOSE)
    assert len(document.text) == len(text) + len(insertion.text)
    document.undo(EXTENSIONS, "asyncfc", insertion)
    assert document.text == text


@settings(deadline=None, max_examples=60)
@given(YAML, st.data())
def test_entries_of_yaml_are_removed_and_put_back(text: str, data: st.DataObject) -> None:
    """With the lines as they were; an entry whose anchor is used elsewhere is refused."""
    document = Document("config.yaml", text)
    before = dict(document.table(EXTENSIONS))
    for name in data.draw(st.permutations(list(before))):
        if name == "g" and "h" not in document.table(EXTENSIONS):
            continue
        if name == "g":
            with pytest.raises(EditRefused):
                document.remove(EXTENSIONS, name)
            continue
        raw = document.remove(EXTENSIONS, name)
        assert name not in document.table(EXTENSIONS)
        if name != "h" and document.table(EXTENSIONS):
            document.insert(EXTENSIONS, name, before[name], raw)


def test_a_new_entry_of_yaml_looks_as_goose_writes_it() -> None:
    """One line for each key, quotes only where they are needed."""
    document = Document("config.yaml", "extensions:\n  a:\n    cmd: x\nz: 1\n")
    document.insert(EXTENSIONS, "asyncfc", GOOSE)
    assert document.text == (
        "extensions:\n  a:\n    cmd: x\n  asyncfc:\n    enabled: true\n    type: stdio\n    name: asyncfc\n"
        '    cmd: "/a b"\n    args:\n    - serve\n    envs: {}\n    timeout: 300\nz: 1\n'
    )
