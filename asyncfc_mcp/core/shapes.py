"""Shapes of results: the keys of a tool's result as one short text for its description.

Pure. Owns the text and its bounds. Where a shape comes from is left to `declared_shapes` and `learned_shapes`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from asyncfc_mcp.core.field_names import is_identifier, most_tokens

MOST_TOKENS: Final = 25
"""Upper bound of the tokens of a shape's text."""
MOST_KEYS: Final = 12
DEPTH: Final = 3
"""Levels of objects whose keys are shown."""
MOST_LISTS: Final = 3
"""Levels of lists directly inside each other that are shown."""
MOST_FIELDS: Final = 64
"""Fields of one object that are considered; a shape of more is a map."""
MOST_MISFITS: Final = 3
"""Names that are too long for the rest of the text, before no further one is tried."""
_LEAD: Final = "Returns "
_LEAD_TOKENS: Final = 2
"""The line break before it included."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape of one value."""

    fields: tuple["Field", ...] = ()
    """Keys of an object."""
    more: bool = False
    """The object has further keys, or is a map keyed by data."""
    items: "Shape | None" = None
    """Shape of the elements, if it is a list."""
    word: str = ""
    """Type of a value that is neither object nor list; empty if nothing is known of it."""

    @property
    def is_object(self) -> bool:
        return bool(self.fields) or (self.more and self.items is None)

    @property
    def says_something(self) -> bool:
        """True where the text of the shape would be of use: a single text or number has no part to refer to."""
        return self.is_object or self.items is not None


@dataclass(frozen=True, slots=True)
class Field:
    """Key of an object, with the shape of its value."""

    name: str
    shape: Shape
    optional: bool = False
    """The key is not in every object, or its value is not always of this shape."""


ANYTHING: Final = Shape()
MAP: Final = Shape(more=True)


def described(shape: Shape | None) -> str:
    """Return the text for a description, such as `Returns {flights: [{id, price}], total}`; empty if it says nothing.

    Only names that are identifiers appear. Where not all of the shape fits, the outer keys are shown before the inner
    ones, and `…` stands for what is left out.
    """
    if shape is None or not shape.says_something:
        return ""
    return _LEAD + _Text(shape).fitted()


class _Text:
    """Chooses which parts of a shape are shown: first all as `…`, then level by level as long as the bounds allow.

    An expansion is the list of names that are shown for the object at one path.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = _named(shape, DEPTH)
        self._shown: dict[tuple[int, ...], frozenset[int]] = {}
        """Path of an object, by positions of fields → positions of its fields that are shown."""

    def fitted(self) -> str:
        """Return the fullest text within the bounds."""
        level: list[tuple[tuple[int, ...], Shape]] = [((), self._shape)]
        while level:
            below: list[tuple[tuple[int, ...], Shape]] = []
            for path, shape in level:
                inside = _innermost(shape)
                if inside.fields:
                    below += self._expand(path, inside)
            level = below
        return "".join(self._pieces((), self._shape))

    def _expand(self, path: tuple[int, ...], shape: Shape) -> Iterator[tuple[tuple[int, ...], Shape]]:
        """Show as many fields of one object as fit, and return those that can be expanded in turn."""
        kept: frozenset[int] = frozenset()
        misfits = 0
        for number in _by_use(shape.fields[:MOST_FIELDS]):
            self._shown[path] = kept | {number}
            if self._is_within_bounds():
                kept |= {number}
            elif (misfits := misfits + 1) > MOST_MISFITS:
                break
        if kept:
            self._shown[path] = kept
        else:
            del self._shown[path]
        return iter([((*path, number), shape.fields[number].shape) for number in sorted(kept)])

    def _is_within_bounds(self) -> bool:
        if sum(map(len, self._shown.values())) > MOST_KEYS:
            return False
        tokens = _LEAD_TOKENS
        for piece in self._pieces((), self._shape):
            tokens += most_tokens(piece) if piece[0].isalpha() or piece[0] == "_" else len(piece.replace(" ", ""))
        return tokens <= MOST_TOKENS

    def _pieces(self, path: tuple[int, ...], shape: Shape) -> Iterator[str]:
        """Yield the names and the punctuation of the text."""
        if shape.items is not None:
            yield "["
            yield from self._pieces(path, shape.items)
            yield "]"
            return
        if not shape.is_object:
            yield shape.word or "…"
            return
        shown = self._shown.get(path, frozenset())
        yield "{"
        for place, number in enumerate(sorted(shown)):
            field = shape.fields[number]
            if place:
                yield ", "
            yield field.name
            if field.optional:
                yield "?"
            if field.shape.is_object or field.shape.items is not None:
                yield ": "
                yield from self._pieces((*path, number), field.shape)
        if shape.more or len(shown) < len(shape.fields):
            yield ", …" if shown else "…"
        yield "}"


def _innermost(shape: Shape) -> Shape:
    """Return the elements of a list, or of lists inside each other; any other shape itself."""
    while shape.items is not None:
        shape = shape.items
    return shape


def _by_use(fields: Sequence[Field]) -> list[int]:
    """Return the positions of fields in the order in which they are chosen: what a reference most likely takes is
    first, which is an ID, and what contains others."""

    def rank(number: int) -> tuple[bool, bool]:
        field = fields[number]
        useful = field.name == "id" or field.name.endswith(("_id", "Id")) or _innermost(field.shape).is_object
        return not useful, field.optional

    return sorted(range(len(fields)), key=rank)


def _named(shape: Shape, depth: int, lists: int = MOST_LISTS) -> Shape:
    """Return the shape without levels that are too deep and without names that are no identifiers."""
    if shape.items is not None:
        return replace(shape, items=_named(shape.items, depth, lists - 1) if lists else ANYTHING)
    if not shape.is_object:
        return shape
    if depth == 0:
        return MAP
    fields = tuple(
        Field(field.name, _named(field.shape, depth - 1), field.optional)
        for field in shape.fields
        if is_identifier(field.name)
    )
    return Shape(fields, more=shape.more or len(fields) < len(shape.fields))
