"""Expressions in references: what is one, what it selects and computes, where a key is missing, and how long it takes.

Plain paths and the forms of references are `test_references.py`'s.
"""

import copy
import gc
import json
from collections.abc import Iterator
from time import thread_time
from typing import Any

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError

from asyncfc_mcp.core.reference_values import substituting
from asyncfc_mcp.core.references import MAX_REFERENCES, find, is_reference
from asyncfc_mcp.errors import ExpressionFailed, PathMissing, PathUnreadable, ReferenceFailed, TooManyReferences
from asyncfc_mcp.slices import at_once
from tests.support.cpu_time import least_cpu_s

MIB = 1 << 20
LONGEST_STEP_S = 0.1
MOST_S = 5


def text(*parts: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": part} for part in parts]}


def structured(value: Any) -> dict[str, Any]:
    return {"content": [], "structuredContent": value}


FLIGHTS = [
    {"id": "A", "price": 168, "stops": ["FRA"]},
    {"id": "B", "price": 99.5, "stops": []},
    {"id": "C", "price": 120, "stops": ["MUC", "ZRH"], "note": None},
]
RESULTS = {
    "flights": structured({"flights": FLIGHTS, "total": 3}),
    "shop": structured({"items": [{"sku": "x", "stock": 0, "name": "Ann"}, {"sku": "y", "stock": 3, "name": "Bob"}]}),
    "list": text('{"files": ["a", "b"], "größe": 2}'),
    "rows": structured({"result": [{"p": "168"}, {"p": "99"}]}),
    "tank": text("12.5"),
    "version": text("3.10"),
    "page": text("hello"),
    "f3": structured({"price": 8.95, "name": "Bob", "nothing": None, "word": "null"}),
}


def put(value: Any, results: dict[str, dict[str, Any]] | None = None, sub: Any = None, max_bytes: int = MIB) -> Any:
    """The value of an argument `a`, whose schema is `sub`."""
    known = RESULTS if results is None else results
    schema = {"type": "object", "properties": {"a": sub}} if sub is not None else None
    work = substituting(
        {"a": value}, lambda name: name.upper() if name in known else None, _lower(known), schema, max_bytes, str.lower
    )
    return at_once(work)["a"]


def _lower(results: dict[str, dict[str, Any]]) -> Any:
    return lambda key: results[key.lower()]


def known(*names: str) -> Any:
    return {name: name.upper() for name in names}.get


# --- what is a reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$flights.flights | min_by(@, &price).id", "B"),
        ("$flights.flights|min_by(@,&price).id", "B"),
        ("min_by($flights.flights, &price).id", "B"),
        ("$shop.items[?stock > `0`] | [0].sku", "y"),
        ("$shop.items[?stock > 0] | [0].sku", "y"),
        ("$shop.items[?name == 'Bob'].sku | [0]", "y"),
        ("length($list.files)", 2),
        ("$list.files | length(@)", 2),
        ("$list.files.length(@)", 2),
        ("$list | length(files)", 2),
        ("$list.größe", 2),
        ("$flights.flights[*].id", ["A", "B", "C"]),
        ("$flights.flights[-1].stops[-1]", "ZRH"),
        ("$flights.flights[:2].id", ["A", "B"]),
        ("$flights.flights[*].stops[] | sort(@)", ["FRA", "MUC", "ZRH"]),
        ("$flights.flights[*].{id: id, eur: price} | [1]", {"id": "B", "eur": 99.5}),
        ("$flights.flights[*].[id, price] | [0]", ["A", 168]),
        ("sort_by($flights.flights, &price)[*].id", ["B", "C", "A"]),
        ("$flights.flights[?length(stops) == 0].id | [0]", "B"),
        ("$flights.flights[?!stops].id | [0]", "B"),
        ("$flights.flights.0.id", "A"),
        ("$flights['flights'][?price < 100] | [0]['id']", "B"),
        ('$flights["flights"][0]["id"]', "A"),
        ("$f3.nick || $f3.name", "Bob"),
        ("$f3.nick || 'none'", "none"),
        ("$f3.price == 8.95", True),
        ("not_null($f3.nick, $f3.nothing, $f3.name)", "Bob"),
        ("contains($list.files, 'a')", True),
        ("join(', ', $list.files)", "a, b"),
        ("to_string($list.files)", '["a","b"]'),
        ("max($flights.flights[*].price)", 168),
        ("$rows | min_by(@, &to_number(p)).p", "99"),
        ("$rows[0].p", "168"),
        ("$rows.result[0].p", "168"),
        ("length($page)", 5),
        ("merge($f3, $list).name", "Bob"),
        ({"$future": "flights", "path": "flights | min_by(@, &price).id"}, "B"),
        ({"$future": "list", "path": "length(files)"}, 2),
        ({"$future": "list", "path": "sub(length(files), 1)"}, 1),
        ({"$future": "flights", "path": "@ | [flights[0].id, total]"}, ["A", 3]),
        ({"$future": "flights", "path": "flights[?price > $f3.price] | [0].id"}, "A"),
        ("from ${f:flights.flights | min_by(@, &price).id} on", "from B on"),
        ("${f:length($list.files)} files", "2 files"),
        ("${f:flights.flights[0].{a: id, b: '}'}}", {"a": "A", "b": "}"}),
        ("<${f:shop.items[?name == '}'] || `none`}>", "<none>"),
    ],
)
def test_an_expression_selects_and_computes(written: Any, value: Any) -> None:
    """Whole strings, inside text and in the object form, at any depth."""
    given = put(written)
    assert given == value
    assert type(given) is type(value)
    assert put([{"x": written}]) == [{"x": value}]
    assert is_reference([written], known(*RESULTS))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("sub(50, $tank)", 37.5),
        ("sub(`50`, $tank)", 37.5),
        ("add($f3.price, 0.1)", 9.05),
        ("mul($f3.price, 3)", 26.85),
        ("mul($tank, 2)", 25),
        ("div($flights.total, 3)", 1),
        ("div($flights.total, 2)", 1.5),
        ("add($flights.total, 1, 2, 3)", 9),
        ("add($rows[0].p, $rows[1].p)", 267),
        ("round($f3.price, 1)", 9),
        ("round(mul($f3.price, 0.5), 2)", 4.48),
        ("round($flights.flights[1].price)", 100),
        ("round(168.5) | add(@, $flights.total)", 172),
        ("round($flights.flights[0].price, -2)", 200),
        ("format('{} costs {:.2f} EUR', $f3.name, $f3.price)", "Bob costs 8.95 EUR"),
        ("format('{1}-{0}', $f3.name, $list.files)", '["a","b"]-Bob'),
        ("format('{{{}}}', $f3.nothing)", "{null}"),
        ("format('{:.1f}', $tank)", "12.5"),
        ("format('v{}', $version)", "v3.10"),
    ],
)
def test_our_functions_calculate_as_on_paper_and_write_texts(written: str, value: Any) -> None:
    """Decimal fractions stay what they are, halves are rounded up, and text that is a number counts as one."""
    given = put(written)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("written", "sub", "value"),
    [
        ("length($list.files)", {"type": "string"}, "2"),
        ("length($list.files)", {"type": "integer"}, 2),
        ("$rows[0].p", {"type": "number"}, 168),
        ("$flights.flights[*].id", {"type": "string"}, '["A","B","C"]'),
        ("$flights.flights[*].id", {"type": "array"}, ["A", "B", "C"]),
        ("format('{}', $flights.total)", {"type": "integer"}, 3),
        ("div($flights.total, 2)", {"type": "string"}, "1.5"),
    ],
)
def test_a_computed_value_has_the_type_that_the_target_asks_for(written: str, sub: Any, value: Any) -> None:
    """As a part of a result has."""
    given = put(written, sub=sub)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    "literal",
    [
        # nothing of theirs is known
        "$HOME | grep x", "length($x)", "strlen($x)", "round($total, 2)", "$x.items[?a > 1] | [0]", "add($x, $y)",
        "${f:x | length(@)}", "$x | sort_by(@, &y", "$x.price * 2", "join(',', $items)",
        # their names are, but they are no expressions
        "$f3 | grep x", "$f3 [0]", "$f3 .name", "$f3. Done", "$f3 |", "$list.files | wc -l", "strlen($f3)",
        "count($list.files)", "echo($f3)", "($f3)", "[$f3, $list]", "{a: $f3}", "!$f3", "$f3 = 5", "$f3->name",
        "$f3::name", "$f3[$list]", "$f3(1)", "$f3; $list", "if ($f3 > 1) {}", "length ($f3.name) + 1", "$f3 + 1",
        "$f3 -gt 3", "$f3,$list", "length($f3", "length($f3);", "max($f3, $list) {", "x | $f3", "$f3 && echo $list",
        " length($list.files)", "length($list.files) ", "length($list.files)\n", "$f3.name is here", "$list.files.",
        "add($$f3, $list) and", "add($f3, $$list)", "${f:length(list.files)}", "${f:length($$list.files)}",
        "${f:0:3}", "${f:list.files | }", "${f:list.files", "${f:list .files}", "`50`", "$f3 | `", "$f3.'x'",
    ],
)  # fmt: skip
def test_programs_and_prose_stay_text(literal: str) -> None:
    """Only what is an expression over known futures, and nothing else, is a reference."""
    arguments = {"a": [literal]}
    assert put([literal]) == [literal]
    assert not is_reference(arguments, known(*RESULTS))


@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("$$flights.flights | length(@)", "$flights.flights | length(@)"),
        ("length($$list.files)", "length($list.files)"),
        ("length($$$list.files)", "length($$list.files)"),
        ("add($$f3, $list)", "add($f3, $list)"),
        ("join('$', $$list.files)", "join('$', $list.files)"),
        ("$$x.price | add(@, $f3)", "$x.price | add(@, $f3)"),
        ("$$f3.items[?a", "$f3.items[?a"),
        ("a $${f:length($list.files)} b", "a ${f:length($list.files)} b"),
    ],
)
def test_one_dollar_more_before_the_first_name_makes_it_text(written: str, literal: str) -> None:
    """Of an expression as of a path; every text can be written."""
    assert put([written]) == [literal]
    assert not is_reference(written, known(*RESULTS))


def test_all_futures_of_an_expression_are_dependencies() -> None:
    """In order of appearance; unknown ones may be ahead of the call that takes the name."""
    arguments = ["add($a.x, $b.y)", "${f:c | add(@, $d)} $e", {"$future": "g", "path": "x[?y == $h]"}, "length($z)"]
    found = find(arguments, known("a", "b", "c", "g"))
    assert list(found.names) == ["a", "b", "c", "g"]
    assert found.unknown == ("d", "h", "z")
    assert find("length($x | y z)", known()).unknown == ()


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "problem", "position", "message"),
    [
        ("$flights.flights | min_by(@, &price.id", PathUnreadable, 39, "something is missing at its end"),
        ("$flights.flights | first(@)", PathUnreadable, 20, "there is no function first(); there are abs, add,"),
        ("$flights.flights | min_by(@, price)", PathUnreadable, 20, "write min_by(list, &price)"),
        ("$flights.flights | length(@, 1)", PathUnreadable, 20, "length() takes 1 argument, not 2"),
        ("$shop.items[?name = 'Bob']", PathUnreadable, 19, "a comparison is written =="),
        ("$shop.items[?name == 'Bob]", PathUnreadable, 22, "the text that begins with ' is not closed"),
        ("$f3.price * 2", PathUnreadable, 11, "write mul(x, y)"),
        ("$f3.price + $tank", PathUnreadable, 11, "calculations are written as add(x, y)"),
        ("add($f3.price, $tax.rate)", PathUnreadable, None, "no future is called tax"),
        ({"$future": "f3", "path": "items[?a ="}, PathUnreadable, 10, "a comparison is written =="),
        ("x ${f:shop.items[?a = 1]}", PathUnreadable, 19, "a comparison is written =="),
        ("$shop.items[?stok > 0] | [0].sku", ExpressionFailed, 14, 'no element has stok; the first has the keys "sku"'),
        ("$shop.items[?stock > 0][0].sku", ExpressionFailed, 24, "for element 0 of the array write | [0]"),
        ('$shop.items[?name == "Bob"] | [0]', ExpressionFailed, 22, "text is written 'Bob', in single quotes"),
        ("$shop.items[?stock == true] | [0]", ExpressionFailed, 23, "the value is written `true`"),
        ("$shop.items[?name > 5]", ExpressionFailed, 19, "string and integer have no order; write to_number(x)"),
        ("$shop.items[*].prize", ExpressionFailed, 16, "no element has prize"),
        ("$flights.flights | min_by(@, &prize)", ExpressionFailed, 31, "no element has prize"),
        ("$rows | min_by(@, &p)", ExpressionFailed, 9, 'such as the string "168"'),
        ("$rows[?p < '99.5']", ExpressionFailed, 10, '"168" and the string "99.5" are compared letter'),
        ("sum($rows[*].p)", ExpressionFailed, 1, 'needs an array of numbers, but there is the string "168"'),
        ("$f3.price.{a: b}", PathMissing, None, "b at character 15"),
        ("$flights.flights | min_by(@, &price).idd", PathMissing, None, 'idd at character 38; it has the keys "id"'),
        ("$shop.items[?name == 'Zoe'] | [0].sku", PathMissing, None, "it is an array of length 0"),
        ("$shop.items[?name == 'Zoe'] | min_by(@, &stock)", ExpressionFailed, 31, "of an empty array has no value"),
        ("length($list.fils)", PathMissing, None, 'list has no fils; the top level has the keys "files"'),
        ("$f3.nothing.x", PathMissing, None, "nothing is null"),
        ("to_number($page)", ExpressionFailed, 1, 'the string "hello" is not a number'),
        ("div($f3.price, 0)", ExpressionFailed, 1, "div() by zero"),
        ("add($f3.price, $f3.name)", ExpressionFailed, 1, 'add() needs numbers, not the string "Bob"'),
        ("round($f3.price, 1.5)", ExpressionFailed, 1, "needs a whole number n"),
        ("format('{} {}', $f3.name)", ExpressionFailed, 1, "format() has 1 values"),
        ("format('%s', $f3.name)", ExpressionFailed, 1, "needs a {} in its text"),
        ("$f3.name[*].x", ExpressionFailed, None, "an array is needed here, but the value is a string"),
        ("$flights.flights[::0]", ExpressionFailed, 17, "the step of a slice cannot be 0"),
        ("x ${f:shop.items[?stok > 0]}", ExpressionFailed, 17, "no element has stok"),
    ],
)
def test_a_failure_names_the_position_and_says_what_to_do(
    written: Any, problem: type[ReferenceFailed], position: int | None, message: str
) -> None:
    """Positions count from 1, in the reference or the path of the object form."""
    with pytest.raises(problem) as failed:
        put(written)
    assert message in str(failed.value)
    assert len(str(failed.value)) < 700
    if position is not None:
        assert f" at character {position}: " in str(failed.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$flights.flights[*].note", []),  # one has it, and it is null
        ("$flights.flights[*].{id: id, n: note} | [0]", {"id": "A", "n": None}),
        ("$flights.flights[?note == `null`].id", ["A", "B", "C"]),
        ("$flights.flights[?gate == `null`].id", ["A", "B", "C"]),
        ("$flights.flights[?gate].id", []),
        ("$flights.flights[?!gate].id", ["A", "B", "C"]),
        ("$flights.flights[?gate && gate > 3].id", []),
        ("$flights.flights[?gate > 3 || price > 150].id | [0]", "A"),
        ("$flights.flights[*].gate || 'none'", "none"),
        ("$f3.a.b.c || 'none'", "none"),
        ("!$f3.gate", None),  # begins with neither a future nor a function
        ("$f3.nothing", None),
        ("$f3.nothing || $f3.word", "null"),
        ("$f3.gate == `null`", True),
        ("$f3.a && $f3.b", None),
    ],
)
def test_null_is_meant_where_an_expression_asks(written: str, value: Any) -> None:
    """Left of ||, behind !, left of && and alone in a filter, in not_null, beside null; and where some element has
    the key."""
    assert put(written) == (written if written[0] == "!" else value)


# --- bounds ----------------------------------------------------------------------------------------------------------

ROWS = [{"id": n, "price": (n * 7919) % 100_003, "name": f"row {n}", "tags": ["a", "b"]} for n in range(100_000)]
BIG = {
    "big": structured({"rows": ROWS, "words": [f"w{n}" for n in range(200_000)], "text": "x" * 5_000_000}),
    "f3": structured({"n": 9.5, "s": "s" * 10_000}),
}
HOSTILE = [
    "$big.rows | sort_by(@, &price)[0].id",
    "sort_by($big.rows, &name) | reverse(@) | [0].id",
    "$big.rows[*].[id, price, name, tags[*].[@, @]][] | length(@)",
    "$big.rows[?contains(name, '99')].tags[] | length(@)",
    "join(',', $big.words)",
    "length(join($big.text, $big.words))",
    "$big.words | sort(@) | max(@)",
    "to_string($big)",
    "$big == $big",
    "$big.rows == reverse(reverse($big.rows))",
    "contains($big.rows, $big.words)",
    "merge(" + ", ".join(["$big"] * 50) + ")",
    "map(&merge(@, @, @), $big.rows) | length(@)",
    "$big | [@, @]" + " | [@, @]" * 40,
    "$big | [@, @]" + "[] | [@, @]" * 40 + " | length(@)",
    "$big.text | join(@, [@, @])" + " | join(@, [@, @])" * 20,
    "$big.rows" + " | [@, @][]" * 40,
    "$f3.n | mul(@, @)" + " | mul(@, @)" * 40,
    "$f3 | " + " | ".join(["to_string(@)"] * 90),
    "$big.rows[*].join('', [name, name, name]) | join('', @)",
    "$big.rows[*].format('{}{}{}', $big.text, $big.text, $big.text) | length(@)",
    "$big.rows | map(&sort_by($big.rows, &price), @)",
    "$big.rows[?$big.rows[?$big.rows]]",
    "$big.rows[*].not_null(" + ", ".join(["tags[*].tags"] * 100) + ")",
    "reverse($big.text)" + " | reverse(@)" * 90,
    "$big.rows" + "[]" * 90,
    "$big.rows[*].*[]" + ".*[]" * 20,
    "$big" + " | {a: @, b: @}" * 40,
    "values($big.rows[0])" + " | values({a: @, b: @})" * 40,
]


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector as the bridge's process sets it."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(10_000, 5, 1000)
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


@pytest.mark.parametrize("written", HOSTILE, ids=range(len(HOSTILE)))
def test_no_expression_blocks_the_event_loop(written: str, collector: None) -> None:
    """Each pause comes soon, whatever is asked of 100,000 rows; it ends with a value or with words.

    In processor time, and the least of some runs: the machine has other work too.
    """
    before = json.dumps(BIG["f3"])
    longest: list[float] = []
    while not longest or (longest[-1] > LONGEST_STEP_S / 2 and len(longest) < 3):
        steps, error = _steps(written)
        longest.append(max(steps))
        assert sum(steps) < MOST_S
        assert len(error) < 2000
    assert min(longest) < LONGEST_STEP_S
    assert json.dumps(BIG["f3"]) == before


def _steps(argument: Any) -> tuple[list[float], str]:
    """Substitute; return the processor time between pauses, in seconds, and the error."""
    work = substituting({"a": argument}, lambda name: name if name in BIG else None, BIG.get, None, 8 * MIB, str)
    steps, since = [0.0], thread_time()
    try:
        for _ in work:
            now = thread_time()
            steps.append(now - since)
            since = now
    except ReferenceFailed as failed:
        return [*steps, thread_time() - since], str(failed)
    return [*steps, thread_time() - since], ""


def test_a_hundred_thousand_rows_are_sorted() -> None:
    """The bound on the work leaves room for tables."""
    assert put("$big.rows | sort_by(@, &price)[0].id", BIG) == 0
    assert put("$big.rows | max_by(@, &price).price", BIG) == max(row["price"] for row in ROWS)
    assert put("$big.rows[?price > 50000 && id < 90000] | length(@)", BIG) == sum(
        row["price"] > 50_000 and row["id"] < 90_000 for row in ROWS
    )
    assert put("sort($big.words)[0]", BIG) == "w0"


@pytest.mark.parametrize(
    "written",
    [
        "$f3.n | " + "(" * 2000 + "@" + ")" * 2000,
        "$f3.n" + " | @" * 2000,
        "$f3.n | " + "!" * 8000,
        "$f3.n | [" + "[" * 4000,
        "$f3.n" + "[*]" * 2000,
        "$f3.n[?" + "a[?" * 2000,
        "$f3.n | {a: " * 500,
        "add(" * 1000 + "$f3.n",
        "$f3.n || " * 900 + "@",
        "$f3.n | `" + "[" * 8000 + "`",
        "$f3.n | `" + "9" * 8000 + "`",
        '$f3["' + "\\" * 8000,
        "$f3" + ".a[0]" * 1600,
        "$f3.n | '" * 800,
        "$f3.n == " * 900,
    ],
    ids=range(15),
)
@pytest.mark.timeout(20)
def test_no_text_is_slow_to_read_or_too_deep(written: str) -> None:
    """Reading is bounded, and what it cannot read is text or fails in words."""

    def read() -> None:
        for argument in (written, "${f:" + written.replace("$f3", "f3", 1) + "}", {"$future": "f3", "path": written}):
            assert len(_steps(argument)[1]) < 2000

    assert least_cpu_s(read, 0.5) < 0.5


def test_expressions_of_a_call_are_bounded() -> None:
    """Data that looks like them is just data; too many of them are refused before they are read."""
    arguments = [f"$f3.items[?a == {n}] | [0].sku" for n in range(MAX_REFERENCES)]
    with pytest.raises(TooManyReferences):
        find(arguments, known("f3"))
    assert not find(arguments, known()).names
    with pytest.raises(TooManyReferences):
        find(" ".join(f"${{f:f3.items[?a == {n}]}}" for n in range(MAX_REFERENCES - 1)), known("f3"))
    assert find(["$f3.items | [0].sku"] * MAX_REFERENCES, known("f3")).names


def test_values_are_not_changed() -> None:
    """A result is shared with every later reference."""
    before = copy.deepcopy(RESULTS)
    for written in (
        "sort_by($flights.flights, &price)", "reverse($list.files)", "merge($f3, $flights)", "$flights.flights[]",
        "$flights.flights[:]", "to_array($flights.flights)", "map(&@, $flights.flights)", "sort($list.files)",
    ):  # fmt: skip
        put([written, {"x": written}])
    assert before == RESULTS


# --- the same as the package -----------------------------------------------------------------------------------------

KEYS = ("a", "b", "c")
VALUES = st.recursive(
    st.one_of(st.integers(-3, 3), st.sampled_from(["", "x", "yy", True, False, None, 1.5])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=12,
)
STEPS = st.sampled_from(
    [".a", ".b", "[0]", "[-1]", "[*]", "[]", ".*", "[?a]", "[?a > `0`]", "[?a == 'x']", "[?!b]", "[?a && b]", "[1:]",
     "[::-1]", " | [0]", " | a", ".[a, b]", ".{x: a, y: b}", " | length(@)", " | sort_by(@, &a)", " | min_by(@, &a)",
     " | keys(@)", " | values(@)", " | type(@)", " | to_string(@)", " | not_null(a, b)", " | reverse(@)", " | sum(@)",
     " | sort(@)", " | max(@)", " | map(&a, @)", " || a", " && b", " == a", " != `null`", " | to_array(@)",
     " | contains(@, 'x')", " | to_number(@)", " | avg(@)", " | merge(@, @)", " | join('-', @)", "[?a || b]"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(VALUES, st.lists(STEPS, min_size=1, max_size=5))
def test_a_value_is_the_one_that_the_package_gives(value: Any, steps: list[str]) -> None:
    """Where an expression has a value here it is JMESPath's; where it fails, JMESPath gives null, nothing or an error,
    or a key is missing in all elements."""
    path = "@" + "".join(steps)
    before = copy.deepcopy(value)
    try:
        expected = jmespath.search(path, value)
    except (JMESPathError, TypeError):
        expected = JMESPathError
    try:
        given = put({"$future": "v", "path": path}, {"v": structured({"result": value})})
    except ReferenceFailed:
        return
    finally:
        assert value == before
    if expected is not JMESPathError:
        assert json.dumps(given) == json.dumps(expected)
