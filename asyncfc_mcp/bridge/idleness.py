"""Idleness: which servers start when they are needed, and when one of these may be ended.

Owns these decisions, from the settings, the effect profile and the calls that have not ended. Pure but for the time of
cached listings. Starting and ending a server is left to `downstream.on_demand`.
"""

from collections.abc import Callable
from typing import Final

from asyncfc_mcp.config.model import ANY_OWNER, BridgeConfig, ServerConfig
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.core.effect_profiles import EffectProfile
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.engine.api import Engine

STATELESS_IDLE_S: Final = 900.0
"""Idle limit of a server that is known to keep no state in its process, if none is configured."""


def runs_on_demand(server: ServerConfig, config: BridgeConfig, *, daemon: bool) -> bool:
    """Return whether a server is started when it is needed, as soon as its listings are known.

    One that a single replica at a time runs is not: the others get its listings, and their requests, from a server that
    runs.
    """
    if config.settings.engine != EMBEDDED and server.runs_at != ANY_OWNER:
        return False
    return server.is_lazy(daemon=daemon)


def idle_limit_s(server: ServerConfig, profile: EffectProfile | None) -> float | None:
    """Return the seconds without a request after which a server that was used is ended; None: never.

    A server that keeps state of a session in its process is never ended, whatever is configured: its next process would
    not have that state. One of which nothing is known is ended only if the configuration says so.
    """
    stateless = profile is not None and profile.is_stateless
    of_session = server.share == "session" or (profile is not None and profile.process_state == "session")
    if of_session and not stateless:
        return None
    if server.idle_s is not None:
        return server.idle_s
    return STATELESS_IDLE_S if stateless else None


class ServerDemand:
    """Decides about one server that runs on demand. Implements `downstream.on_demand.Demand`.

    Args:
        profile: returns the effect profile that applies to the server at this moment.
        cache: has the listings of the server.
        credentials: see `Call.credentials`; None for a server that all callers share.
    """

    def __init__(
        self,
        server: ServerConfig,
        engine: Engine,
        profile: Callable[[], EffectProfile | None],
        cache: ListingCache,
        credentials: str | None = None,
    ) -> None:
        self._server, self._engine, self._profile, self._cache = server, engine, profile, cache
        self._credentials = credentials
        self.listing_age_s = cache.age_s(server)

    @property
    def idle_limit_s(self) -> float | None:
        return idle_limit_s(self._server, self._profile())

    def configure(self, server: ServerConfig) -> None:
        self._server = server

    def has_calls(self) -> bool:
        key, name = self._credentials, self._server.name
        return any(call.future.server == name and call.credentials == key for call in self._engine.unfinished)

    def on_listed(self) -> None:
        self._cache.confirm(self._server)
