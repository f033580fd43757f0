"""Command `doctor`: its options, the order of the checks, and what is printed.

Owns which configurations are checked. Everything heavy is imported inside the command.
"""

import logging
import os
import shutil
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncfc_mcp.cli.process import (
    cache_folder,
    configurations_folder,
    credential_store,
    hide_secrets,
    journal_status,
    log_to_stderr,
    logs_folder,
    make_bridge,
    refuse_itself,
    run,
    state_folder,
)
from asyncfc_mcp.config.environment import CHAIN_VARIABLE
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.settings import EMBEDDED
from asyncfc_mcp.errors import BridgeError

if TYPE_CHECKING:
    from asyncfc_mcp.cli.doctor.findings import Finding, Section


@click.command(short_help="Check configuration, servers, folders and hosts, and say what to do.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Configuration to check. Default: those that bridges and hosts of this user use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(config_file: Path | None, as_json: bool) -> None:
    """Check everything that the bridge needs, one line each: `ok`, `warning` or `problem`, with what to do.

    The servers of the configuration are started, and ended again. Files of configurations and hosts are not changed.
    The exit code is 1 if there is a problem.
    """
    from asyncfc_mcp.cli.doctor import findings

    log_to_stderr(False)
    logging.getLogger("asyncfc_mcp").setLevel(logging.CRITICAL)  # the output says what is wrong
    terminal = not as_json and os.isatty(1)
    width = shutil.get_terminal_size().columns if terminal else None
    done: list[Section] = []
    for section in _sections(config_file):
        if not as_json:
            text = findings.as_text(section, colour=terminal and "NO_COLOR" not in os.environ, width=width)
            click.echo(text + "\n", nl=False, color=True)
        done.append(section)
    click.echo(findings.as_json(done) if as_json else findings.summary(done), nl=not as_json)
    if not findings.is_healthy(done):
        sys.exit(1)


def _sections(config_file: Path | None) -> "Generator[Section]":
    """Yield the sections as soon as each of them is known: those of servers take long."""
    import platformdirs

    from asyncfc_mcp.cli.doctor.configurations import check_configuration, no_configuration, read
    from asyncfc_mcp.cli.doctor.daemons import check_daemons
    from asyncfc_mcp.cli.doctor.findings import Section, cleaned
    from asyncfc_mcp.cli.doctor.folders import check_folders
    from asyncfc_mcp.cli.doctor.hosts import check_hosts, configurations_of, found_hosts
    from asyncfc_mcp.cli.doctor.program import check_program
    from asyncfc_mcp.cli.install.hosts import Machine
    from asyncfc_mcp.cli.install.records import Records
    from asyncfc_mcp.cli.known_configurations import known

    machine = Machine(Path.home(), _folder(), sys.platform, os.environ)
    usual = Path(platformdirs.user_config_dir("asyncfc", appauthor=False)) / "mcp.json"
    hosts = found_hosts(machine)
    if config_file is not None:
        paths = [Path(os.path.abspath(config_file.expanduser()))]
    else:
        paths = [*known(configurations_folder(), os.environ), *([usual] if os.path.lexists(usual) else [])]
        paths += configurations_of(hosts, machine)
    # All of them before the first server starts: a bridge's own secrets are taken out of the environment.
    found = read(paths, os.environ)
    configs = [each.config for each in found if each.config is not None]
    secrets = sorted({each for config in configs for each in _secrets(config)}, key=len, reverse=True)
    for config in configs:
        hide_secrets(config)
    yield cleaned(Section("Program", check_program(configs)), secrets)
    folders = {"cache": cache_folder(), "logs": logs_folder(), "state": state_folder()}
    yield cleaned(Section("Folders", check_folders(folders)), secrets)
    yield cleaned(Section("Hosts", check_hosts(hosts, Records(state_folder() / "install").all(), machine)), secrets)
    if daemons := check_daemons(os.environ):
        yield cleaned(Section("Daemons", daemons), secrets)
    if not found:
        yield cleaned(Section("Configuration", [no_configuration(usual)]), secrets)
    for each in found:
        checked = [*check_configuration(each), *([] if each.config is None else _resting(each.config, each.file))]
        yield cleaned(Section(f"Configuration {each.file}", checked), secrets)
        if each.config is not None:
            yield cleaned(Section(f"Servers of {each.file}", _running(each.config, each.file)), secrets)


def _folder() -> Path:
    """Return the current folder, or the user's own if it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return Path.home()


def _secrets(config: BridgeConfig) -> tuple[str, ...]:
    return (*config.settings.secrets, *(secret for server in config.servers for secret in server.secrets))


def _resting(config: BridgeConfig, file: Path) -> "list[Finding]":
    """Check what a configuration uses besides its servers."""
    from asyncfc_mcp.cli.doctor.servers import check_database, check_journal, check_ports

    if config.settings.engine == EMBEDDED:
        return [check_journal(journal_status(config)), *check_ports(config)]
    return [*run(lambda: check_database(config, str(file))), *check_ports(config)]


def _running(config: BridgeConfig, file: Path) -> "list[Finding]":
    """Start the servers of a configuration, and check them."""
    from asyncfc_mcp.cli.doctor.findings import problem
    from asyncfc_mcp.cli.doctor.servers import check_servers

    hide_secrets(config)
    chain = os.environ.get(CHAIN_VARIABLE)
    try:
        refuse_itself(config)
        bridge = partial(make_bridge, config, verbose=False, records=False)
        return run(lambda: check_servers(bridge, credential_store(config), str(file)))
    except (BridgeError, OSError) as exc:
        return [problem("servers", str(exc))]
    finally:
        # The next configuration is no bridge inside of this one.
        if chain is None:
            os.environ.pop(CHAIN_VARIABLE, None)
        else:
            os.environ[CHAIN_VARIABLE] = chain
