"""Servers' regular expressions: read as ECMA-262 and Python read them, and matched in linear time."""

import re
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.schema.patterns import matches
from tests.support.cpu_time import least_cpu_s

HOSTILE = [
    ".?" * 200,
    "(a|a)*$",
    "^(a+)+$",
    "^(a|aa)+$",
    "^(([a-z])+.)+[A-Z]$",
    "a?" * 28 + "a" * 28,
    "^" + "a{0,99}" * 6 + "$",
    "^(a{0,99}){0,99}$",
    "((((((a{0,9}){0,9}){0,9}){0,9}){0,9}){0,9})$",
    r"\w{0,999}\w{0,999}$",
    "a[ab]{100}c",
    "(.*)*" * 20 + "x",
    "(" * 500 + ")" * 500,
    "|".join(f"w{i}" for i in range(5000)),
    "(?=(a+)+$)",
    r"^(a+)+\1$",
    "[^a]{5000}",
    r"(\p{L}+)+$",
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:20])
@pytest.mark.parametrize("text", ["a" * 40 + "!", "ab" * 50_000 + "!", "_as", "é" * 3000], ids=len)
def test_no_pattern_takes_long(pattern: str, text: str):
    """Linear engines need at most some 50 ms for these; one that backtracks needs hours. So the bound can be loose."""
    assert least_cpu_s(lambda: matches(pattern, text), 1) < 1


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^[a-z]+$", "abc", True),
        ("^[a-z]+$", "aBc", False),
        ("b", "abc", True),
        (r"^\d{4}-\d{2}-\d{2}$", "2026-01-31", True),
        (r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$", "x.y@example.org", True),
        (r"^\/[\w\-]+$", "/a-b", True),
        ("[[]", "[", True),
        ("[a&&b]", "&", True),
        ("[^-a]", "-", False),
        (r"[\d-x]", "-", True),
        (r"\u0041\x42", "AB", True),
        (r"^\u{1F600}$", "😀", True),
        (r"^\p{L}+$", "héllo", True),
        (r"^\p{L}+$", "h1", False),
        ("{a}", "{a}", True),
        ("(?<name>a)b", "ab", True),
        ("a+?b", "aab", True),
        (r"^\bword\b$", "word", True),
        # The two readings differ, and either will do.
        (r"^\d$", "٣", True),
        (r"^\w+$", "é", True),
        (r"^\W$", "é", True),
        ("^a$", "a\n", True),
        ("^a.b$", "a\rb", True),
        # Nothing is said of what is not regular, not ECMA's, or too large.
        ("(?=a)a", "a", None),
        ("(?<!a)b", "b", None),
        (r"(a)\1", "aa", None),
        ("(?i)a", "A", None),
        ("a{,3}", "aa", None),
        ("a**", "a", None),
        ("(", "a", None),
        (r"\Aa\Z", "a", None),
        ("[]", "a", None),
        ("[b-a]", "a", None),
        ("a" * 5000, "a", None),
        ("a{1000}{1000}", "a", None),
        ("(a{1000}){1000}", "a", None),
        ("a", "\ud83d", None),
    ],
)
def test_what_is_found(pattern: str, text: str, found: bool | None):
    """False is certain: no engine that a server may use would find anything."""
    assert matches(pattern, text) is found


atoms = st.sampled_from(["a", "b", "-", ".", r"\d", r"\w", r"\s", "[ab]", "[^a]", "[a-c0-9]", r"[\w-]", r"\.", "é"])


@st.composite
def patterns(draw: st.DrawFn, depth: int = 2) -> str:
    def part() -> str:
        inner = draw(patterns(depth - 1)) if depth and draw(st.booleans()) else None
        atom = draw(atoms) if inner is None else f"({inner})"
        return atom + draw(st.sampled_from(["", "", "", "*", "+", "?", "{1,2}", "{2}", "{0,3}"]))

    alternatives = ["".join(part() for _ in range(draw(st.integers(1, 3)))) for _ in range(draw(st.integers(1, 2)))]
    text = "|".join(alternatives)
    return f"^(?:{text})$" if draw(st.booleans()) else text


@settings(deadline=None)
@given(patterns(), st.text("ab-1 .é", max_size=8))
def test_regular_patterns_are_read_as_python_reads_them(pattern: str, text: str):
    """ECMA-262 and Python agree for these characters, except in classes and for é."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            expected = re.search(pattern, text) is not None
        except (re.error, FutureWarning):
            assume(False)
    if text.isascii():
        assert matches(pattern, text) is expected
    else:
        assert matches(pattern, text) or not expected
