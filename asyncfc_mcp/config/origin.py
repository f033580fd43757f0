"""Origin of a configuration: its file, and what is needed to read it again.

Owns reading it in the same way as at the start. Leaves the decision when to do so to `bridge.config_file`.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.parsing import read_text


def as_read(config: BridgeConfig) -> BridgeConfig:
    """Return a configuration as it was read."""
    return config


@dataclass(frozen=True)
class FileOrigin:
    """A file with a configuration. Implements `settings.Origin`.

    Attributes:
        path: of the file, as it was given.
        digest: of the text from which the configuration was read.
        parse: reads such a text, with the environment.
        environ: the environment of this process, whose variables are looked up again at each reading.
        own: the variables of it with secrets of the bridge, which it has no longer (`BridgeConfig.own_variables`).
        adapt: what the transport makes of the configuration; raises `ConfigError`.
    """

    path: Path
    digest: bytes
    parse: Callable[[str, Mapping[str, str]], BridgeConfig] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    own: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    adapt: Callable[[BridgeConfig], BridgeConfig] = as_read

    def text(self) -> str:
        """Return the present text of the file.

        Raises:
            ConfigError: it cannot be read.
        """
        return read_text(self.path)

    def config(self, text: str) -> BridgeConfig:
        """Return the configuration in a text of the file.

        Raises:
            ConfigError: it is wrong.
        """
        config = self.parse(text, ChainMap(dict(self.own), dict(self.environ)))
        return replace(self.adapt(config), origin=replace(self, digest=digest(text)))

    def adapted(self, adapt: Callable[[BridgeConfig], BridgeConfig]) -> "FileOrigin":
        return replace(self, adapt=adapt)


def digest(text: str) -> bytes:
    """Return what tells one text of a file from another."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def variables(environ: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Return the variables with these names."""
    return {name: environ[name] for name in names if name in environ}
