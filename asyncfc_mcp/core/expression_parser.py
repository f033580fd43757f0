# pyright: basic
"""The `jmespath` package's parser over the tokens of `expressions`, with positions in its nodes.

Type checking is basic here, because the package has no types for the methods that are extended. Owns nothing of the
dialect but what its grammar needs: variables, numbers without backticks, and the binding power of `!`.
"""

from typing import Any, ClassVar, Final

from jmespath import ast, exceptions, parser

Node = dict[str, Any]
"""Node of a syntax tree: `type`, `value`, `children`; where an evaluation may fail `at`, its position in the text."""
Token = dict[str, Any]
"""`type`, `value`, `start` and `end`."""
ParseError = exceptions.ParseError
_Parser: Final[Any] = parser.Parser


class VariableParser(_Parser):
    """The package's parser, for tokens."""

    BINDING_POWER: ClassVar = {**_Parser.BINDING_POWER, "variable": 0, "not": 39}
    """Of tokens. That of `not` is below that of `dot`, unlike in the package."""

    def tree(self, tokens: list[Token]) -> Node:
        """Return the syntax tree of tokens, of which the last is `eof`.

        Raises:
            ParseError: they are not an expression.
        """
        self._tokens = tokens
        self._index = 0
        node = self._expression()
        if self._current_token() != "eof":
            self._raise_parse_error_for_token(self._lookahead_token(0), "unexpected")
        return node

    def _token_nud_variable(self, token: Token) -> Node:
        return {"type": "variable", "children": [], "value": token["value"], "at": token["start"]}

    def _token_nud_number(self, token: Token) -> Node:
        return dict(ast.literal(token["value"]))

    def _token_nud_unquoted_identifier(self, token: Token) -> Node:
        return {**super()._token_nud_unquoted_identifier(token), "at": token["start"]}

    def _token_nud_quoted_identifier(self, token: Token) -> Node:
        return {**super()._token_nud_quoted_identifier(token), "at": token["start"]}

    def _token_led_lparen(self, left: Node) -> Node:
        return {**super()._token_led_lparen(left), "at": left.get("at", 0)}

    def _parse_index_expression(self) -> Node:
        at = self._lookahead_token(0)["start"] - 1
        return {**super()._parse_index_expression(), "at": at}

    def _parse_comparator(self, left: Node, comparator: str) -> Node:
        at = self._lookahead_token(-1)["start"]
        return {**super()._parse_comparator(left, comparator), "at": at}

    def _token_led_filter(self, left: Node) -> Node:
        at = self._lookahead_token(-1)["start"]
        return {**super()._token_led_filter(left), "at": at}

    def _token_led_flatten(self, left: Node) -> Node:
        at = self._lookahead_token(-1)["start"]
        return {**super()._token_led_flatten(left), "at": at}
