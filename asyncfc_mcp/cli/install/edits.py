"""Interface of the formats in which entries are inserted and removed.

Pure. Owns what an edit is, and strings as all formats write them. Formats are `json_format`, `toml_format` and
`yaml_format`; `documents` checks their edits.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Insertion:
    """Text that an edit inserted, so that it can be taken out again exactly.

    Attributes:
        path: key path of what was inserted: the entry, or a table that did not exist before, with the entry inside.
        text: the text, in one piece.
        offset: position of the key in the text.
        comma: a comma was also inserted after the entry before it.
    """

    path: Path
    text: str
    offset: int = 0
    comma: bool = False


class Format(Protocol):
    """Edits of one format. Positions are found in the text, so that nothing is written that was not asked for.

    Every method raises `ValueError` with a reason if the text has a form that it does not edit.
    """

    def insert(self, text: str, path: Path, name: str, entry: Any, raw: str | None) -> tuple[str, Insertion]:
        """Return the text with an entry at the end of the table at `path`, which is created if it is missing.

        Args:
            raw: the entry as `raw` returned it, which is inserted instead of a text of its value.
        """
        ...

    def remove(self, text: str, path: Path) -> str:
        """Return the text without the entry or table at this key path."""
        ...

    def undo(self, text: str, insertion: Insertion) -> str | None:
        """Return the text without an insertion, exactly; None if it is no longer there as it was."""
        ...

    def raw(self, text: str, path: Path) -> str:
        """Return the text of the entry at this key path."""
        ...

    def rendered(self, path: Path, name: str, entry: Any) -> str:
        """Return a document of this entry only."""
        ...


_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
"""Characters that some format takes for a line end, or does not allow."""


def dumped(value: Any, indent: str | None = None) -> str:
    """Return a value as JSON whose strings are also strings of YAML, and of TOML."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
