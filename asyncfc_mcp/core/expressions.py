r"""Expressions of references: JMESPath with futures as variables (`$name`), read from text.

Owns the tokens, their order and the bounds on an expression; the grammar is the `jmespath` package's. Pure. Leaves
which texts are references to `references`, values to `evaluation`, functions to `expression_functions`.

The dialect is JMESPath, and in addition:

- `$f3` or `$name` is the value of a future. `@`, and a field with nothing before it, belong to the first one named.
- `.word` is a key with letters of any alphabet, digits, `_` and `-`; on an array `.0` is an index.
- `["any key"]` and `['any key']` behind a value are keys, in which a backslash makes the next character stand for
  itself. They are translated into the tokens of a quoted identifier, as the words above are.
- A number needs no backticks.
- `!a.b` negates `a.b`, for which JMESPath has no use otherwise: a boolean has no fields.
- No space stands beside a dot, nor between a value and `[`: prose and programs have such spaces.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from asyncfc_mcp.core.expression_functions import FUNCTIONS, arity_problem
from asyncfc_mcp.core.expression_parser import Node, ParseError, Token, VariableParser
from asyncfc_mcp.schema.json_types import parse_json, printable

NAME: Final = r"[A-Za-z_][A-Za-z0-9_-]*+"
"""Pattern of an ID or a name."""
MAX_OPERATORS: Final = 100
"""Maximum parts of an expression that may be nested: the grammar is read by recursion."""
MAX_DEPTH: Final = 60
"""Maximum depth of the syntax tree, without steps one after another."""

# All quantifiers are possessive, so that no text causes backtracking.
_TOKEN: Final = re.compile(
    r"""\.(?P<step>[\w-]++)
    |\[(?P<index>-?[0-9]{1,18}+)\]
    |(?P<variable>(?P<dollars>\$++)(?P<name>[A-Za-z_][A-Za-z0-9_-]*+))
    |(?P<word>[^\W\d][\w-]*+)
    |(?P<space>[\ \t\r\n]++)
    |(?P<decimal>-?[0-9]{1,18}+(?:\.[0-9]{1,18}+(?:[eE][+-]?[0-9]{1,3}+)?|[eE][+-]?[0-9]{1,3}+)(?![\w.]))
    |(?P<number>-?[0-9]{1,18}+)(?![\w.])
    |(?P<sign>\[\?|\[\]|\|\||&&|==|!=|<=|>=|[.*\],:@(){}\[|&<>!])
    |(?P<quoted>"(?:[^"\\]|\\.)*+")
    |(?P<raw>'(?:[^'\\]|\\.)*+')
    |(?P<literal>`(?:[^`\\]|\\.)*+`)""",
    re.DOTALL | re.VERBOSE,
)
_STEP: Final = r"(?:\.[\w-]++|\[-?[0-9]{1,18}+\])"
_WORD: Final = re.compile(r"[\w-]++")
_KEY: Final = re.compile(r"""\[(?:"((?:[^"\\]|\\.)*+)"|'((?:[^'\\]|\\.)*+)')\]""", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_SIGNS: Final = {
    "[?": "filter", "[]": "flatten", "||": "or", "&&": "and", "==": "eq", "!=": "ne", "<=": "lte", ">=": "gte",
    ".": "dot", "*": "star", "]": "rbracket", ",": "comma", ":": "colon", "@": "current", "(": "lparen", ")": "rparen",
    "{": "lbrace", "}": "rbrace", "[": "lbracket", "|": "pipe", "&": "expref", "<": "lt", ">": "gt", "!": "not",
}  # fmt: skip
_ENDS_VALUE: Final = frozenset(
    "variable unquoted_identifier quoted_identifier rbracket rparen rbrace current star flatten literal".split()
)
_NEVER_NESTED: Final = frozenset({"dot", "current", "comma", "rbracket", "rparen", "rbrace"})
"""Signs without an effect on the depth of the syntax tree."""
_CALCULATION: Final = re.compile(rf"\$++{NAME}{_STEP}++\s?[-+*/%]\s?(?:\$++{NAME}{_STEP}*+|[0-9.]++)")
"""Futures' parts and numbers with an operator, which JMESPath does not have."""
_TOO_DEEP: Final = "it is nested too deeply; use several calls"
_TOO_LONG: Final = f"it has more than {MAX_OPERATORS} operators; use several calls"
_PARSING: Final = 8
"""Work for a token that is parsed; one of a plain path is only read."""
_SELECTS: Final = frozenset({"dot", "lbracket", "filter", "flatten"})
_CHAINED: Final = frozenset({"subexpression", "index_expression", "pipe"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of an expression that is wrong.

    Attributes:
        at: its position in the text of the expression.
    """

    at: int
    text: str


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression as it was read."""

    text: str
    """The text that positions refer to."""
    origin: int
    """Position of the reference in the text."""
    start: int
    """Position of the expression in the text."""
    end: int
    """Position behind the expression."""
    names: tuple[str, ...]
    """IDs and names of its futures, without `$`, in order of appearance, each once."""
    selected: frozenset[str]
    """Those of which a part is taken (`$f3.a`, `$f3[0]`)."""
    dollars: int
    """Number of `$` before the first name; more than one make the expression an escape."""
    first: int
    """Position of the first `$`."""
    tokens: int
    """Number of its tokens."""
    work: int
    """Measure of the time that reading it took."""
    node: Node | None
    """Its syntax tree; None where there is a `problem`."""
    problem: Problem | None = None
    certain: bool = False
    """True for a text that only an expression can be, or an attempt at one, and neither a program nor prose."""

    def position(self, at: int) -> int:
        """Return a position in the text as one in the reference, from 1."""
        return at - self.origin + 1


class Tokens:
    """Tokens of a text, up to its end or to what is none.

    Args:
        start: position of the first token.
        end: position at which reading stops.
        origin: position of the reference.
        head: name of a future with which the expression begins, without `$`.
        braced: the expression ends before a `}` that closes nothing.
    """

    __slots__ = (
        *("braces", "dollars", "end", "first", "found", "names", "nested", "origin", "plain", "problem"),
        *("selected", "start", "steps", "text"),
    )

    def __init__(
        self, text: str, start: int, end: int, origin: int = 0, *, head: str | None = None, braced: bool = False
    ) -> None:
        self.text, self.start, self.origin = text, start, origin
        self.end = start
        """Position behind the last token."""
        self.found: list[Token] = []
        self.names: dict[str, None] = {}
        self.selected: set[str] = set()
        self.dollars = self.nested = self.braces = 0
        self.first = origin
        self.problem: Problem | None = None
        self.steps: list[Node] = []
        """A future and the keys and indices behind it."""
        self.plain = True
        """There is nothing but these steps."""
        if head is not None:
            self.dollars = 1
            self.names[head] = None
            self._add("variable", head, origin, start)
            self.steps.append({"type": "variable", "value": head, "children": []})
            if not braced:
                self._join(start)
        self._read(end, braced)
        if self.problem is None:
            self._add("eof", "", self.end, self.end)

    def _add(self, kind: str, value: Any, start: int, end: int) -> None:
        if self.found and self.found[-1]["type"] == "variable" and kind in _SELECTS:
            self.selected.add(self.found[-1]["value"])
        self.found.append({"type": kind, "value": value, "start": start, "end": end})

    def _join(self, at: int) -> None:
        """Add what stands between a future and a path: a dot, unless the path brings its own step, or a pipe."""
        first = self.text[at : at + 1]
        if first not in (".", "["):
            word = _WORD.match(self.text, at)
            called = word is None or self.text[word.end() : word.end() + 1] == "("
            if called or word is None:
                self._add("pipe", "", at, at)
                self.plain = False
            else:
                self._key(word[0], at, word.end())
                self.end = word.end()

    def _key(self, key: str, start: int, end: int) -> None:
        self._add("dot", ".", start, start)
        self._add("quoted_identifier", key, start, end)
        self.steps.append({"type": "field", "value": key, "children": [], "at": start})

    def _read(self, end: int, braced: bool) -> None:
        text, at, found, match = self.text, self.end, self.found, _TOKEN.match
        while at < end and not (braced and not self.braces and text[at] == "}"):
            kind = found[-1]["type"] if found else ""
            if text[at] == "[" and kind in _ENDS_VALUE and (key := _KEY.match(text, at, end)) is not None:
                self._key(_ESCAPED.sub(r"\1", key[1] if key[1] is not None else key[2]), at, key.end())
                at = key.end()
                continue
            token = match(text, at, end)
            if token is None:
                self.problem = Problem(at, _unreadable(text, at))
                break
            start, at = at, token.end()
            match token.lastgroup:
                case "step":
                    if text[at : at + 1] == "(":
                        self._add("dot", ".", start, start + 1)
                        self._add("unquoted_identifier", token["step"], start + 1, at)
                    else:
                        self._key(token["step"], start + 1, at)
                case "index":
                    index = int(token["index"])
                    self._add("lbracket", "[", start, start + 1)
                    self._add("number", index, start + 1, at - 1)
                    self._add("rbracket", "]", at - 1, at)
                    self.steps.append({"type": "index", "value": index, "children": [], "at": start})
                case "word":
                    self.plain = False
                    self._add("unquoted_identifier", token[0], start, at)
                case "variable":
                    self._variable(token)
                case "space":
                    self.plain = False
                    if text[at : at + 1] == "." or kind == "dot" or (kind in _ENDS_VALUE and text[at : at + 1] == "["):
                        self.problem = Problem(start, "no space may stand here")
                case "sign":
                    self.plain = False
                    self._sign(token[0], start, at)
                case _:
                    self.plain = False
                    self._constant(str(token.lastgroup), token[0], start, at)
            if self.problem is not None:
                break
        self.end = at

    def _variable(self, token: re.Match[str]) -> None:
        dollars = len(token["dollars"])
        if dollars > 1 and self.names:
            self.problem = Problem(token.start(), "one $ is enough")
        if self.names:
            self.plain = False
        else:
            self.dollars, self.first = dollars, token.start()
        self.names[token["name"]] = None
        self._add("variable", token["name"], token.start(), token.end())
        self.steps.append({"type": "variable", "value": token["name"], "children": []})

    def _sign(self, written: str, start: int, end: int) -> None:
        kind = _SIGNS[written]
        self.braces += (kind == "lbrace") - (kind == "rbrace")
        self.nested += kind not in _NEVER_NESTED
        self._add(kind, written, start, end)

    def _constant(self, sort: str, written: str, start: int, end: int) -> None:
        try:
            match sort:
                case "number":
                    self._add("number", int(written), start, end)
                case "decimal":
                    self._add("literal", parse_json(written), start, end)
                case "raw":
                    self._add("literal", written[1:-1].replace("\\'", "'"), start, end)
                case "quoted":
                    self._add("quoted_identifier", json.loads(written), start, end)
                case _:
                    self._add("literal", _literal(written[1:-1].replace("\\`", "`")), start, end)
        except (ValueError, RecursionError):
            self.problem = Problem(start, f"{printable(written, 60)} is not valid JSON")


def _literal(written: str) -> Any:
    try:
        return parse_json(written)
    except ValueError:
        # JMESPath still reads `foo` as text, and models write it.
        return json.loads(f'"{written.lstrip()}"')


def _unreadable(text: str, at: int) -> str:
    sign = text[at]
    if sign == "=":
        return "a comparison is written =="
    if sign in "+-*/%":
        return "calculations are written as add(x, y), sub(x, y), mul(x, y) and div(x, y)"
    if sign in "\"'`":
        return f"the text that begins with {sign} is not closed"
    return f"{printable(json.dumps(sign, ensure_ascii=False))} has no meaning here"


def read(tokens: Tokens) -> Expression:
    """Return the expression that the tokens make. It may be one with a problem."""
    problem = tokens.problem
    node: Node | None = None
    plain = tokens.plain and problem is None
    if plain:
        # Most references: what the parser makes of them is known.
        node = tokens.steps[0] if len(tokens.steps) == 1 else {"type": "chain", "children": tokens.steps}
    elif problem is None:
        try:
            if tokens.nested > MAX_OPERATORS:
                raise _Unusable(Problem(tokens.start, _TOO_LONG))
            node = _chained(VariableParser().tree(tokens.found), 0)
        except ParseError as exc:
            problem = _syntax_problem(exc, tokens)
        except _Unusable as exc:
            problem = exc.problem
        except RecursionError:
            problem = Problem(tokens.start, _TOO_DEEP)
    return Expression(
        tokens.text,
        tokens.origin,
        tokens.start,
        tokens.end,
        tuple(tokens.names),
        frozenset(tokens.selected),
        tokens.dollars,
        tokens.first,
        len(tokens.found),
        len(tokens.found) * (1 if plain else _PARSING),
        node,
        problem,
        not plain and _is_certain(tokens, problem),
    )


class _Unusable(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def _syntax_problem(exc: ParseError, tokens: Tokens) -> Problem:
    if str(exc.token_type) in ("None", "EOF"):
        return Problem(tokens.end, "something is missing at its end")
    at = int(exc.lex_position)
    sign = str(exc.token_value)
    if sign in ("*", "[*]"):
        return Problem(at, "* is no operation on numbers: write mul(x, y)")
    return Problem(at, f"{printable(json.dumps(sign, ensure_ascii=False), 60)} is not expected here")


def _chained(node: Node, depth: int) -> Node:
    """Return a tree in which steps one after another are one node, `chain`, so that their number is no depth.

    The package nests them to the left, wherever they are of several kinds.

    Raises:
        _Unusable: a function is unknown or has a wrong number of arguments, or the tree is too deep.
    """
    if depth > MAX_DEPTH:
        raise _Unusable(Problem(int(node.get("at", 0)), _TOO_DEEP))
    steps: list[Node] = []
    while node["type"] in _CHAINED:
        steps += reversed(node["children"][1:])
        node = node["children"][0]
    children = node["children"]
    if children and node["type"] != "slice":
        node = {**node, "children": [_chained(child, depth + 1) for child in children]}
    if node["type"] == "function_expression":
        problem = arity_problem(node["value"], node["children"])
        if problem is not None:
            raise _Unusable(Problem(node["at"], problem))
    else:
        _refuse_expref(node)
    if not steps:
        return node
    chain = [node]
    for step in reversed(steps):
        inner = _chained(step, depth + 1)
        chain += inner["children"] if inner["type"] == "chain" and step["type"] != "pipe" else [inner]
    return {"type": "chain", "children": chain}


def _refuse_expref(node: Node) -> None:
    for child in node["children"] if node["type"] != "slice" else ():
        if child["type"] == "expref":
            raise _Unusable(Problem(int(child.get("at", 0)), "& is only for arguments of functions such as min_by"))


def _is_certain(tokens: Tokens, problem: Problem | None) -> bool:
    """Return true for a text that only an expression can be, or an attempt at one."""
    if problem is not None and problem.text in (_TOO_DEEP, _TOO_LONG):
        return True
    if problem is not None and _CALCULATION.fullmatch(tokens.text) is not None:
        return True
    kinds = [token["type"] for token in tokens.found]
    for index, kind in enumerate(kinds):
        before = kinds[index - 1] if index else ""
        if kind == "filter" or (kind == "star" and before == "lbracket"):
            return True
        if kind == "current" and before in ("lparen", "comma", "pipe"):
            return True
        if kind == "expref" and before in ("lparen", "comma"):
            return True
        if kind == "lparen" and kinds[max(0, index - 2)] == "pipe" and tokens.found[index - 1]["value"] in FUNCTIONS:
            return True
    return False
