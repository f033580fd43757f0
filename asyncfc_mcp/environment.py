"""Environments of wrapped servers: what a child process inherits from the bridge, and what it never does.

Pure. Reading variables into entries is left to `config_variables`, starting processes to `processes`.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

Inherit = Literal["all", "safe"] | tuple[str, ...]
"""All variables, the safe ones, or the safe ones and those with these names (`*` at the end of one: any ending)."""

CHAIN_VARIABLE: Final = "ASYNCFC_CHAIN"
"""Environment variable in which the bridges above this one say what they wrap."""

OWN_TOKEN: Final = "ASYNCFC_TOKEN"
"""The variable that our container image takes its token from. Inherited by no server, even where a bridge in that
container is started without the option that names it (`inspect`)."""

_SAFE: Final = frozenset(
    # What the SDKs pass on.
    "HOME LOGNAME PATH SHELL TERM USER "
    "APPDATA HOMEDRIVE HOMEPATH LOCALAPPDATA PATHEXT PROCESSOR_ARCHITECTURE SYSTEMDRIVE SYSTEMROOT TEMP USERNAME "
    "USERPROFILE "
    # What programs on Windows read without saying so.
    "ALLUSERSPROFILE COMMONPROGRAMFILES COMPUTERNAME COMSPEC NUMBER_OF_PROCESSORS OS PROGRAMDATA PROGRAMFILES "
    "PROGRAMFILES(X86) PROGRAMW6432 WINDIR "
    "LANG LANGUAGE TZ TMP TMPDIR PWD COLORTERM NO_COLOR "
    # Reaching the network as the user does.
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "NODE_EXTRA_CA_CERTS "
    # Finding what is installed. Not `UV_*` and `NPM_CONFIG_*` as a whole: some of these are credentials.
    "NVM_DIR NVM_BIN FNM_DIR FNM_MULTISHELL_PATH VOLTA_HOME PNPM_HOME BUN_INSTALL DENO_DIR ASDF_DIR ASDF_DATA_DIR "
    "MISE_DATA_DIR NODE_PATH NPM_CONFIG_PREFIX NPM_CONFIG_CACHE NPM_CONFIG_USERCONFIG COREPACK_HOME "
    "UV_CACHE_DIR UV_PYTHON UV_PYTHON_INSTALL_DIR UV_TOOL_DIR UV_TOOL_BIN_DIR PYENV_ROOT VIRTUAL_ENV CONDA_PREFIX "
    "GEM_HOME GEM_PATH JAVA_HOME GOPATH GOROOT CARGO_HOME RUSTUP_HOME DOTNET_ROOT LD_LIBRARY_PATH NIX_PATH "
    "NIX_PROFILES PLAYWRIGHT_BROWSERS_PATH "
    # Windows of browsers, and containers that are servers.
    "DISPLAY WAYLAND_DISPLAY XAUTHORITY DBUS_SESSION_BUS_ADDRESS DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG "
    f"{CHAIN_VARIABLE}".split()
)
_SAFE_BEGINNINGS: Final = ("LC_", "XDG_")

NAME: Final = re.compile(r"[^=\0*]+\*?")
"""A variable's name in the setting, or the beginning of names and `*`."""


def inherited(environ: Mapping[str, str], inherit: Inherit) -> dict[str, str]:
    """The variables of the bridge's own environment that a server gets."""
    if inherit == "all":
        return {key: value for key, value in environ.items() if key != OWN_TOKEN}
    names: Sequence[str] = () if inherit == "safe" else inherit
    return {
        key: value
        for key, value in environ.items()
        if (_is_safe(key, value) or _named(key, names)) and key != OWN_TOKEN
    }


def environment(environ: Mapping[str, str], own: Mapping[str, str], inherit: Inherit) -> dict[str, str]:
    """The environment of a server's process.

    Args:
        environ: the bridge's own.
        own: the `env` of the server's entry, which wins.
        inherit: `env_inherit`.
    """
    return {**inherited(environ, inherit), **own}


def _is_safe(key: str, value: str) -> bool:
    # Upper case: names of proxies and of npm's settings are written in either, and Windows makes no difference. As the
    # SDKs, none whose value is a function of a shell.
    name = key.upper()
    return (name in _SAFE or name.startswith(_SAFE_BEGINNINGS)) and not value.startswith("()")


def _named(key: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(key, name.replace("[", "[[]").replace("?", "[?]")) for name in names)
