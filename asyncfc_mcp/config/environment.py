"""Environments of wrapped servers: variables that a child process inherits from the bridge, or never does.

Pure. Expanding variables in entries is left to `variables`, starting processes to `downstream.process`.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

Inherit = Literal["all", "safe"] | tuple[str, ...]
"""All variables, the safe ones, or the safe ones and those with these names (a trailing `*` matches any suffix)."""

CHAIN_VARIABLE: Final = "ASYNCFC_CHAIN"
"""Environment variable with the identities of the bridges above this one, to detect a bridge that wraps itself."""

OWN_TOKEN: Final = "ASYNCFC_TOKEN"
"""Variable of the container image's token. Never inherited, even if a bridge in that container is started without the
option that names it (`inspect`)."""

_SAFE: Final = frozenset(
    # The list of the MCP SDKs.
    "HOME LOGNAME PATH SHELL TERM USER "
    "APPDATA HOMEDRIVE HOMEPATH LOCALAPPDATA PATHEXT PROCESSOR_ARCHITECTURE SYSTEMDRIVE SYSTEMROOT TEMP USERNAME "
    "USERPROFILE "
    # Variables that programs on Windows rely on.
    "ALLUSERSPROFILE COMMONPROGRAMFILES COMPUTERNAME COMSPEC NUMBER_OF_PROCESSORS OS PROGRAMDATA PROGRAMFILES "
    "PROGRAMFILES(X86) PROGRAMW6432 WINDIR "
    "LANG LANGUAGE TZ TMP TMPDIR PWD COLORTERM NO_COLOR "
    # Network access as configured by the user.
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "NODE_EXTRA_CA_CERTS "
    # Locations of installed programs. Not all of `UV_*` and `NPM_CONFIG_*`: some of these are credentials.
    "NVM_DIR NVM_BIN FNM_DIR FNM_MULTISHELL_PATH VOLTA_HOME PNPM_HOME BUN_INSTALL DENO_DIR ASDF_DIR ASDF_DATA_DIR "
    "MISE_DATA_DIR NODE_PATH NPM_CONFIG_PREFIX NPM_CONFIG_CACHE NPM_CONFIG_USERCONFIG COREPACK_HOME "
    "UV_CACHE_DIR UV_PYTHON UV_PYTHON_INSTALL_DIR UV_TOOL_DIR UV_TOOL_BIN_DIR PYENV_ROOT VIRTUAL_ENV CONDA_PREFIX "
    "GEM_HOME GEM_PATH JAVA_HOME GOPATH GOROOT CARGO_HOME RUSTUP_HOME DOTNET_ROOT LD_LIBRARY_PATH NIX_PATH "
    "NIX_PROFILES PLAYWRIGHT_BROWSERS_PATH "
    # Display of browsers, and access to containers.
    "DISPLAY WAYLAND_DISPLAY XAUTHORITY DBUS_SESSION_BUS_ADDRESS DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG "
    f"{CHAIN_VARIABLE}".split()
)
_SAFE_PREFIXES: Final = ("LC_", "XDG_")

NAME: Final = re.compile(r"[^=\0*]+\*?")
"""Name of a variable in the setting, or a prefix and `*`."""


def inherited(environ: Mapping[str, str], inherit: Inherit) -> dict[str, str]:
    """Return the variables of the bridge's environment that a server inherits."""
    if inherit == "all":
        return {key: value for key, value in environ.items() if key != OWN_TOKEN}
    names: Sequence[str] = () if inherit == "safe" else inherit
    return {
        key: value
        for key, value in environ.items()
        if (_is_safe(key, value) or _named(key, names)) and key != OWN_TOKEN
    }


def environment(environ: Mapping[str, str], own: Mapping[str, str], inherit: Inherit) -> dict[str, str]:
    """Return the environment of a server's process.

    Args:
        environ: the bridge's environment.
        own: the `env` of the server's entry, which takes precedence.
        inherit: the setting `env_inherit`.
    """
    return {**inherited(environ, inherit), **own}


def _is_safe(key: str, value: str) -> bool:
    # Case is ignored: proxies and npm settings are written in either, and Windows ignores it. Values that are shell
    # functions are left out, as in the SDKs.
    name = key.upper()
    return (name in _SAFE or name.startswith(_SAFE_PREFIXES)) and not value.startswith("()")


def _named(key: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(key, name.replace("[", "[[]").replace("?", "[?]")) for name in names)
