"""Effect profiles of the wrapped servers.

One applies to a server by the setting, by its name and its tools, or by its command line while these are not known.

Owns the loaded profiles. What a profile says of a tool is left to `core.effect_profiles`.
"""

from collections.abc import Mapping, Sequence

from asyncfc_mcp.config.profile_files import AUTO, OFF, profile_names, profiles_of_servers, read_profile
from asyncfc_mcp.core.effect_profiles import EffectProfile, best_fit


class ServerProfiles:
    """Chooses the profile of a server. Files are read when a server needs them."""

    def __init__(self) -> None:
        self._loaded: dict[str, EffectProfile] = {}
        self._by_server: Mapping[str, Sequence[str]] | None = None

    def choose(
        self, setting: str, info: Mapping[str, object], tools: Sequence[Mapping[str, object]]
    ) -> EffectProfile | None:
        """Return the profile that applies to a server; None if there is none.

        Args:
            setting: the server's setting `profile`.
            info: the server's `serverInfo`.
            tools: its listing, with tools that are left out.
        """
        if setting == OFF or not tools:
            return None
        if setting != AUTO:
            return self._load(setting)
        name = info.get("name")
        if not isinstance(name, str):
            return None
        if self._by_server is None:
            self._by_server = profiles_of_servers()
        return best_fit((self._load(profile) for profile in self._by_server.get(name, ())), tools)

    def expect(self, setting: str, words: Sequence[str]) -> EffectProfile | None:
        """Return the profile that is expected to apply to a server whose tools are not known; None if none is. What
        its tools do is not said by that: it may list others.

        Args:
            setting: the server's setting `profile`.
            words: its command line.
        """
        if setting == OFF:
            return None
        if setting != AUTO:
            return self._load(setting)
        profiles = [self._load(name) for name in profile_names()]
        return next((profile for word in words for profile in profiles if profile.is_named_by(word)), None)

    def _load(self, name: str) -> EffectProfile:
        profile = self._loaded.get(name)
        if profile is None:
            profile = self._loaded[name] = EffectProfile.parse(name, read_profile(name))
        return profile
