"""What a server offers, as it said it, and its copy on disk.

Some hosts do not wait for a slow server: their first turn then has no tools. So the last known listings of every
server are kept, keyed by its configuration, and are listed at once while it starts. Owns that file and its format.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

from pydantic_core import to_json

from asyncfc_mcp.config import ServerConfig

logger = logging.getLogger(__name__)

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
LISTINGS: Final[Mapping[str, tuple[str, str]]] = {
    "tools": ("tools/list", "tools"),
    "prompts": ("prompts/list", "prompts"),
    "resources": ("resources/list", "resources"),
    "resourceTemplates": ("resources/templates/list", "resources"),
}
"""Kind of a listing (the key of its result) → its method and the capability that it needs."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A server's raw listings, its capabilities and itself."""

    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instructions: str | None = None
    protocol_version: str = ""
    listings: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    @property
    def extensions(self) -> Mapping[str, Any]:
        """The protocol extensions that it declares, but for tasks, which we take care of ourselves."""
        declared = self.capabilities.get("extensions")
        found: Mapping[str, Any] = cast("Mapping[str, Any]", declared) if isinstance(declared, dict) else {}
        # Clients refuse an introduction as a whole where one of them is no object.
        return {key: value for key, value in found.items() if key != TASKS_EXTENSION and isinstance(value, dict)}

    def listing(self, kind: str) -> list[dict[str, Any]]:
        return self.listings.get(kind, [])


class OfferCache:
    """One file per server configuration. Everything here is best effort: a cache that cannot be used costs only time.

    Args:
        folder: where the files are; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def _path(self, config: ServerConfig) -> Path | None:
        if self._folder is None:
            return None
        # Only a hash of the configuration is stored: it may hold secrets.
        identity = json.dumps([config.name, asdict(config.spec)], sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"

    def load(self, config: ServerConfig) -> Offer | None:
        path = self._path(config)
        if path is None:
            return None
        try:
            offer = Offer(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            logger.debug("ignored the cached listings of %r: %s", config.name, exc)
            return None
        return offer if _is_sound(offer) else None

    def save(self, config: ServerConfig, offer: Offer) -> None:
        path = self._path(config)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Renamed into place, so that another bridge never reads half a file.
            part = path.with_suffix(f".{os.getpid()}.part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(_written(offer))
            part.replace(path)
        except (OSError, ValueError, RecursionError) as exc:
            logger.debug("could not cache the listings of %r: %s", config.name, exc)


def _written(offer: Offer) -> bytes:
    # `asdict` copies whatever is inside, and `json` is slow: 0.8 s for 10,000 tools, in which nothing else happens.
    plain = {each.name: getattr(offer, each.name) for each in fields(offer)}
    try:
        return to_json(plain)
    except ValueError:
        return json.dumps(plain).encode()


def _is_sound(offer: Offer) -> bool:
    """Whether an offer that was read has the types that it declares: anybody may have written the file."""
    kinds: list[tuple[Any, Any]] = [
        (offer.capabilities, dict),
        (offer.info, dict),
        (offer.instructions, str | None),
        (offer.protocol_version, str),
        (offer.listings, dict),
    ]
    if not all(isinstance(value, kind) for value, kind in kinds):
        return False
    listings: list[Any] = list(offer.listings.values())
    return all(isinstance(items, list) and all(isinstance(item, dict) for item in items) for items in listings)  # pyright: ignore[reportUnknownVariableType]
