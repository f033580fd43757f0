"""Files of effect profiles: a JSON file for each well-known server, part of the package.

Owns finding and reading them, when one is needed and not before. Their meaning is left to `core.effect_profiles`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

FOLDER: Final = Path(__file__).resolve().parents[1] / "profiles"
INDEX: Final = "index.json"
"""Names that servers give themselves (`serverInfo`) → the profiles for them. It saves reading all files."""

AUTO: Final = "auto"
OFF: Final = "off"


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if path.name != INDEX)


def profiles_of_servers() -> Mapping[str, Sequence[str]]:
    """Return the names of profiles by the name that a server gives itself."""
    return cast("Mapping[str, Sequence[str]]", _read(INDEX))


def read_profile(name: str) -> Mapping[str, Any]:
    """Return the contents of a profile.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    return _read(f"{name}.json")


def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))
