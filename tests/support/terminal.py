"""A real terminal: tmux, with a shell in it, whose screen is read as text."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.client import PATIENCE, eventually


class Terminal:
    """A terminal of a size, which ends with everything in it.

    Args:
        environ: of the programs in it.
    """

    def __init__(self, width: int, height: int, environ: Mapping[str, str]) -> None:
        self._size = (width, height)
        self._folder = tempfile.TemporaryDirectory(prefix="run-")  # a short path: tmux has a socket there
        self._environ = {**environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}

    def _tmux(self, *words: str) -> str:
        base = ["tmux", "-S", str(Path(self._folder.name) / "tmux"), "-f", "/dev/null"]
        done = subprocess.run(
            [*base, *words], env=self._environ, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        return done.stdout

    def __enter__(self) -> Terminal:
        width, height = map(str, self._size)
        self._tmux("new-session", "-d", "-x", width, "-y", height, "env PS1='$ ' sh")
        self.wait_for("$")
        return self

    def __exit__(self, *_: object) -> None:
        screen = self.screen()
        self._tmux("kill-server")
        self._folder.cleanup()
        print(screen)  # shown for a test that fails

    def run(self, words: Sequence[str]) -> None:
        """Type a command line; a word that is `;` and all after it are the shell's own."""
        at = words.index(";") if ";" in words else len(words)
        self._tmux("send-keys", "-l", " ".join([*map(shlex.quote, words[:at]), *words[at:]]))
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait_for(self, text: str) -> str:
        """Wait until the screen has a text; return the screen."""
        return eventually(lambda: screen if text in (screen := self.screen()) else "", f"the screen shows {text!r}")
