"""Shape of a tool's results, learned from the results themselves: the keys, never the values.

Pure. Owns what is kept of a result, the evidence by which a key counts as a field, and the form on disk. The judgement
of a single key is left to `field_names`, and finding the value of a result to `result_samples`.

A key may be data: a map keyed by user names or tokens has the same form as a record. So a key is learned at once only
if it consists of public words (`field_names.Key.FIELD`). Another identifier must recur in records, and until then it is
kept in memory only, by `_Candidate`. An object with keys that are plainly data is a map, of which nothing is learned.
Rejected: to show whatever recurs. A map of one's colleagues or accounts has the same keys in every result.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from asyncfc_mcp.core.field_names import Key, are_numbered, is_identifier, judge
from asyncfc_mcp.core.shapes import ANYTHING, DEPTH, MAP, MOST_LISTS, Field, Shape

MOST_VALUES: Final = 1_500
"""Values of one result that are looked at."""
MOST_SAMPLES: Final = 8
"""Elements of a list that are looked at."""
MOST_KEYS: Final = 200
"""An object with more keys is a map."""
MOST_FIELDS: Final = 40
"""Keys of one object that are kept."""
MOST_NODES: Final = 250
"""Values of one tool's shape that are kept."""
FORGET_AFTER: Final = 64
"""Results after which the counts are halved, so that keys which a server no longer sends are forgotten."""
RECORDS: Final = 3
"""Times that a record must have the same keys, if most of them are unknown."""


@dataclass(slots=True)
class Lesson:
    """What one result may teach, and how much of it is looked at."""

    public: Collection[str] = frozenset()
    """Words of the tool's own entry in the listing, in lower case: public like `field_names`' own."""
    echoed: Collection[str] = frozenset()
    """Words of the call's arguments, in lower case. An unknown key among them is data."""
    party: object = None
    """Principal whose result it is; None if all results are of one person."""
    counts: bool = True
    """False for a result that was learned before: it is no further evidence for unknown keys."""
    unfinished: Collection[int] = frozenset()
    """`id` of objects that were cut off, so that a missing key says nothing."""
    values_left: int = MOST_VALUES
    judged: dict[str, Key] = field(default_factory=dict[str, Key])

    def judge(self, key: str) -> Key:
        """Return the judgement of a key, with the call's arguments as a further reason against it."""
        found = self.judged.get(key)
        if found is None:
            found = judge(key, self.public)
            if found is Key.UNKNOWN and key.lower() in self.echoed:
                found = Key.DATA
            self.judged[key] = found
        return found


@dataclass(slots=True)
class _Candidate:
    """Unknown key, until it has recurred. In memory only."""

    count: int = 0
    lessons: set[int] = field(default_factory=set[int])
    parties: set[object] = field(default_factory=set[object])


class _Node:
    """Counts of what was seen at one place of the results."""

    __slots__ = (
        "candidates", "earlier", "fields", "hidden", "items", "lists", "maps", "nulls", "objects", "recent", "same",
        "widest", "words",
    )  # fmt: skip

    def __init__(self) -> None:
        self.objects = self.lists = self.nulls = self.maps = 0
        self.earlier = 0
        """Times that it was there, or is taken to have been, without a look at its value."""
        self.words: dict[str, int] = {}
        """Type of a value that is neither object nor list → times."""
        self.fields: dict[str, _Node] = {}
        self.hidden = 0
        """Objects with keys that are not shown."""
        self.items: _Node | None = None
        self.candidates: dict[str, _Candidate] | None = None
        self.same: tuple[frozenset[str], int, set[int]] | None = None
        """Keys of the last object, how often they came in a row, and in which results."""
        self.recent = 0
        """Objects in this run, as candidates are counted."""
        self.widest = 0
        """Most unknown keys of one object."""

    @property
    def seen(self) -> int:
        return self.earlier + self.objects + self.lists + self.nulls + sum(self.words.values())

    def size(self) -> int:
        """Return the number of nodes, this one included."""
        return 1 + sum(node.size() for node in self.fields.values()) + (self.items.size() if self.items else 0)

    def forget(self) -> None:
        """Halve all counts. A field that was in every object stays so."""
        for name, node in list(self.fields.items()):
            always = node.seen >= self.objects
            node.forget()
            if node.seen == 0 or (not always and node.seen == 1):
                del self.fields[name]
        for count in ("earlier", "objects", "lists", "nulls", "maps", "hidden"):
            setattr(self, count, getattr(self, count) // 2)
        self.words = {word: count // 2 for word, count in self.words.items() if count > 1}
        if self.items is not None:
            self.items.forget()

    def shape(self, depth: int, lists: int) -> Shape:
        """Return the shape of what was seen most."""
        if self.maps or (self.objects and self.objects >= max(self.lists, sum(self.words.values()))):
            if self.maps or depth == 0 or self._is_keyed_by_data:
                return MAP
            fields = tuple(
                Field(name, node.shape(depth - 1, MOST_LISTS), node.seen < self.objects or node.varies)
                for name, node in self.fields.items()
            )
            return Shape(fields, more=self.hidden > 0)
        if self.lists:
            return Shape(items=self.items.shape(depth, lists - 1) if self.items and lists else ANYTHING)
        return Shape(word=next(iter(self.words)) if len(self.words) == 1 else "")

    @property
    def _is_keyed_by_data(self) -> bool:
        """True where no key is in more than half of the objects, and there are at least twice as many keys as in one
        object: `{"book": 2, "phone": 1}`, then `{"bed": 1, "door": 3}`. The words are public, and still data."""
        times = [node.seen for node in self.fields.values()]
        if self.objects < 2 or not times:
            return False
        return 2 * max(times) <= self.objects and len(times) * self.objects >= 2 * sum(times)

    @property
    def varies(self) -> bool:
        """True where the value is null at times, or of several types."""
        return bool(self.nulls) or sum(map(bool, (self.objects, self.lists, *self.words.values()))) > 1

    # --- on disk -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            letter: count
            for letter, count in (
                ("o", self.objects), ("l", self.lists), ("z", self.nulls), ("m", self.maps), ("h", self.hidden),
                ("e", self.earlier),
            )
            if count
        }  # fmt: skip
        if self.words:
            found["w"] = self.words
        if self.fields:
            found["k"] = {name: node.to_json() for name, node in self.fields.items()}
        if self.items is not None:
            found["i"] = self.items.to_json()
        return found

    @classmethod
    def of_json(cls, value: object, levels: int = 12) -> "_Node":
        """Return what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(value, dict) or not levels:
            raise ValueError("not a shape")
        found = cast("dict[str, Any]", value)
        node = cls()
        node.objects, node.lists, node.nulls, node.maps, node.hidden, node.earlier = (
            _count(found.get(letter, 0)) for letter in "olzmhe"
        )
        words, fields = found.get("w", {}), found.get("k", {})
        if not isinstance(words, dict) or not isinstance(fields, dict) or len(fields) > MOST_FIELDS:  # pyright: ignore[reportUnknownArgumentType]
            raise ValueError("not a shape")
        for word, count in cast("dict[str, Any]", words).items():
            if word not in ("string", "number", "boolean"):
                raise ValueError("not a shape")
            node.words[word] = _count(count)
        for name, inner in cast("dict[str, Any]", fields).items():
            if not is_identifier(name):
                raise ValueError("not a shape")
            node.fields[name] = cls.of_json(inner, levels - 1)
        if "i" in found:
            node.items = cls.of_json(found["i"], levels - 1)
        return node


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 1_000_000:
        raise ValueError("not a count")
    return value


class LearnedShape:
    """Shape of one tool's results. Bounded in size, whatever the results are."""

    def __init__(self) -> None:
        self._root = _Node()
        self._lessons = 0
        self._room = MOST_NODES

    @property
    def shape(self) -> Shape:
        return self._root.shape(DEPTH + 1, MOST_LISTS + 1)

    def learn(self, value: Any, lesson: Lesson) -> None:
        """Take in one result. At most `MOST_VALUES` of its values are looked at."""
        if self._root.seen >= FORGET_AFTER:
            self._root.forget()
        self._lessons += 1
        self._room = MOST_NODES - self._root.size()
        self._learn(self._root, value, lesson, DEPTH + 1, in_list=False)

    def to_json(self) -> dict[str, Any]:
        """Return the form on disk: fields and counts, no value and no unknown key."""
        return self._root.to_json()

    @classmethod
    def of_json(cls, value: object) -> "LearnedShape":
        """Return the shape that `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        learned = cls()
        learned._root = _Node.of_json(value)
        if learned._root.size() > MOST_NODES:
            raise ValueError("too large")
        return learned

    def _learn(self, node: _Node, value: Any, lesson: Lesson, depth: int, *, in_list: bool) -> None:
        lesson.values_left -= 1
        if isinstance(value, dict):
            node.objects += 1
            node.recent += 1
            if depth:
                self._learn_object(node, cast("dict[str, Any]", value), lesson, depth, in_list=in_list)
        elif isinstance(value, list):
            node.lists += 1
            items = cast("list[Any]", value)
            if items and node.items is None and self._room > 0:
                self._room -= 1
                node.items = _Node()
            for item in _sample(items) if node.items is not None else ():
                if lesson.values_left <= 0:
                    break
                assert node.items is not None
                self._learn(node.items, item, lesson, depth, in_list=True)
        elif value is None:
            node.nulls += 1
        else:
            word = "string" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"
            node.words[word] = node.words.get(word, 0) + 1

    def _learn_object(self, node: _Node, value: dict[str, Any], lesson: Lesson, depth: int, *, in_list: bool) -> None:
        """Take in the keys of one object that are fields, and what is inside them."""
        if len(value) > MOST_KEYS:
            _become_map(node)
            return
        judged = {key: lesson.judge(key) for key in value}
        known = [key for key, found in judged.items() if found is Key.FIELD]
        unknown = [key for key, found in judged.items() if found is Key.UNKNOWN]
        if Key.DATA in judged.values() or are_numbered(value) or _is_keyed_by_names(value, known, unknown):
            _become_map(node)
            return
        fields = {*known, *self._recurring(node, value, known, unknown, lesson, in_list=in_list)}
        if node.maps:
            return
        hidden = len(fields) < len(value)
        if not hidden and any(key not in node.fields for key in unknown):
            node.hidden = 0  # what was hidden until now is shown from now on
        for key in value:
            if key not in fields:
                continue
            inner = node.fields.get(key)
            if inner is None:
                if len(node.fields) >= MOST_FIELDS or self._room <= 0:
                    hidden = True
                    continue
                self._room -= 1
                inner = node.fields[key] = _Node()
                if (candidate := (node.candidates or {}).pop(key, None)) is not None:
                    inner.earlier = node.objects - 1 - (node.recent - candidate.count)
            if lesson.values_left > 0:
                self._learn(inner, value[key], lesson, depth - 1, in_list=False)
        node.hidden += hidden
        if id(value) in lesson.unfinished:
            for key, inner in node.fields.items():
                inner.earlier += key not in value

    def _recurring(
        self, node: _Node, value: dict[str, Any], known: list[str], unknown: list[str], lesson: Lesson, *, in_list: bool
    ) -> list[str]:
        """Return the unknown keys of a record that have recurred; makes it a map if its keys change too much."""
        if not unknown:
            return []
        node.widest = max(node.widest, len(unknown))
        accepted = [key for key in unknown if key in node.fields]
        candidates = node.candidates = node.candidates or {}
        if lesson.counts:
            for key in unknown:
                if key not in node.fields:
                    candidate = candidates.setdefault(key, _Candidate())
                    candidate.count += 1
                    candidate.lessons.add(self._lessons)
                    candidate.parties.add(lesson.party)
            keys = frozenset(value)
            if node.same is None or node.same[0] != keys:
                node.same = keys, 0, set()
            node.same = keys, node.same[1] + 1, node.same[2] | {self._lessons}
        mostly_known = len(known) > len(unknown) or (in_list and len(known) == len(unknown))
        # As many different ones as two objects have: the keys depend on the result, so they are data.
        if len(candidates) + len(accepted) > 2 * node.widest + (2 if mostly_known else -1) or (
            not mostly_known and accepted and len(accepted) < len(unknown)
        ):
            _become_map(node)
            return []
        if not lesson.counts or (not mostly_known and (_kind_count(value) < 2 or not self._is_steady(node, in_list))):
            return accepted
        return accepted + [
            key
            for key, candidate in candidates.items()
            if key in value
            and candidate.count > 1
            and (in_list or len(candidate.lessons) > 1)
            and 2 * candidate.count >= node.recent
            and (lesson.party is None or len(candidate.parties) > 1)
        ]

    def _is_steady(self, node: _Node, in_list: bool) -> bool:
        """Return true where a record came with the same keys so often that these are no data."""
        if node.same is None:
            return False
        _, times, lessons = node.same
        return times >= RECORDS and (in_list or len(lessons) >= RECORDS)


def _become_map(node: _Node) -> None:
    """Forget all keys: some of them were data, so any of them may be."""
    node.maps += 1
    node.fields.clear()
    node.candidates = node.same = None
    node.hidden = 0


def _is_keyed_by_names(value: Mapping[str, Any], known: list[str], unknown: list[str]) -> bool:
    """Return true for an object of several keys, most of them unknown, with values of one kind, such as the variables
    of an environment or `{"jdoe": 12, "mk": 15}`."""
    return len(value) > 1 and len(unknown) > max(len(known), len(value) // 2) and _kind_count(value) < 2


def _kind_count(value: Mapping[str, Any]) -> int:
    return len({_word_of(item) or type(item).__name__ for item in value.values() if item is not None})


def _word_of(value: object) -> str:
    """Return the type of a value that is neither object, list nor null."""
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else ""


def _sample(items: list[Any]) -> list[Any]:
    """Return some elements of a list, evenly spread, with the first and the last."""
    if len(items) <= MOST_SAMPLES:
        return items
    return [items[number * (len(items) - 1) // (MOST_SAMPLES - 1)] for number in range(MOST_SAMPLES)]
