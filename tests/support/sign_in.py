"""Sign-in to a wrapped server by `asyncfc-mcp login`, with a script in the place of the browser.

Owns running the command and its conversation; authorization servers and protected servers are other helpers.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.browser import Browser
from tests.support.client import PATIENCE
from tests.support.stage import Ran, Stage

AUTHORIZATION_URL = re.compile(r"https?://\S+[?&]response_type=code\S*")


def login(
    stage: Stage,
    config: Path | None,
    server: str,
    *options: str,
    browse: Callable[[str], str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Run `asyncfc-mcp login SERVER --no-browser`, and paste the redirect that ends the sign-in; how it ended, with
    stdout and stderr in one text.

    Args:
        browse: from the URL that the command prints to the redirect; by default a browser in which alice signs in.
    """
    given = ("--config", str(config)) if config is not None else ()
    process = subprocess.Popen(
        stage.command("login", server, *given, "--no-browser", *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=stage.env | dict(env or {}),
        cwd=stage.folder,
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    said: list[str] = []
    try:
        assert process.stdout
        assert process.stdin
        for line in process.stdout:
            said.append(line)
            if found := AUTHORIZATION_URL.search(line):
                redirect = (browse or Browser().authorize)(found[0])
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(redirect + "\n")
                    process.stdin.flush()
        code = process.wait(PATIENCE)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    return Ran(code, "".join(said), "")


def login_options(said: str) -> list[str]:
    """The options of the first `asyncfc-mcp login` that a text says to run, without the name of the server."""
    command = said.partition("asyncfc-mcp login ")[2].splitlines()[0]
    words = shlex.split(command)
    return words[1:3] if words[1:2] == ["--scope"] else []
