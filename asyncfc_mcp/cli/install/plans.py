"""Plans: which files and commands an installation changes, shown before and done afterwards.

Owns the order of writing, so that a failure at any point loses nothing, and the copies of files before it. What is in a
plan is decided by `installing` and `removal`.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfc_mcp.cli.install.files import FileChanged, NotWritable, Snapshot, check_writable, host_lock, snapshot, write
from asyncfc_mcp.cli.install.records import Installation, Records
from asyncfc_mcp.cli.install.showing import diff
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import one_line, shortened
from asyncfc_mcp.redaction import shown_command, without_secrets

COMMAND_TIMEOUT_S: Final = 120.0
"""Timeout of a host's own command, in seconds."""


class CommandFailed(BridgeError):
    """A host's own command did not do what it was asked for."""

    def __init__(self, words: Sequence[str], said: str) -> None:
        said = shortened(one_line(without_secrets(said.strip())), 300)
        super().__init__(
            f"`{shown_command(words)}` failed{f': {said}' if said else ''}; "
            "with `--via file` the file is edited instead"
        )


@dataclass(frozen=True, slots=True)
class FileEdit:
    """A file to be written; `after` is None if it is to be deleted, `shown` are the texts that may be shown, and `lock`
    is the suffix of the host's own lock."""

    before: Snapshot
    after: bytes | None
    shown: frozenset[str]
    lock: str | None = None

    def diff(self, *, colour: bool) -> str:
        """Return what changes in the file."""
        decoded = Snapshot(self.before.path, self.before.target, self.after)
        new = None if self.after is None else decoded.text
        return diff(str(self.before.path), self.before.text, new, self.shown, colour=colour)


@dataclass(frozen=True, slots=True)
class Command:
    """A host's own command; `check` tells whether it has done its work."""

    words: tuple[str, ...]
    stdin: str | None
    check: Callable[[], bool]

    def run(self) -> None:
        """Run it.

        Raises:
            CommandFailed: it failed, or did nothing.
        """
        try:
            done = subprocess.run(
                self.words,
                input=self.stdin,
                stdin=None if self.stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CommandFailed(self.words, str(exc)) from None
        if done.returncode or not self.check():
            raise CommandFailed(self.words, done.stderr or done.stdout)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to happen.

    Attributes:
        edits: files in the order of writing.
        notes: lines for the user, said before.
        done: line for the user, said afterwards; also if there is nothing to do.
        save, forget: the record to be written or deleted.
    """

    done: str
    edits: tuple[FileEdit, ...] = ()
    command: Command | None = None
    notes: tuple[str, ...] = ()
    save: Installation | None = None
    forget: Installation | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be changed."""
        return not self.edits and self.command is None

    def shown(self, *, colour: bool = False) -> str:
        """Return the changes and notes, for the user."""
        parts = [edit.diff(colour=colour) for edit in self.edits]
        if self.command is not None:
            parts.append(f"$ {shown_command([Path(self.command.words[0]).name, *self.command.words[1:]])}")
        return "\n".join([*parts, *map(one_line, self.notes)])


def carry_out(plan: Plan, records: Records) -> list[Path]:
    """Write the files of a plan, and return the copies of them as they were. The caller holds the lock.

    Raises:
        BridgeError: nothing was changed.
    """
    for edit in plan.edits:
        now = snapshot(edit.before.path)
        if (now.target, now.data) != (edit.before.target, edit.before.data):
            raise FileChanged(edit.before.path)
        check_writable(edit.before)
    try:
        copies = [records.keep_copy(edit.before.target, edit.before.data) for edit in plan.edits]
        if plan.save is not None:
            records.save(plan.save)
    except OSError as exc:
        raise NotWritable(records.folder, exc.strerror or str(exc)) from None
    written: list[FileEdit] = []
    try:
        for edit in plan.edits:
            with host_lock(edit.before.path, edit.lock):
                write(edit.before, edit.after)
            written.append(edit)
        if plan.command is not None:
            plan.command.run()
    except BaseException:
        for edit in reversed(written):
            _take_back(edit)
        if plan.save is not None:
            records.forget(plan.save)
        raise
    if plan.forget is not None:
        records.forget(plan.forget)
    return [copy for copy in copies if copy is not None]


def _take_back(edit: FileEdit) -> None:
    """Restore a file that was written, unless it has been changed since."""
    now = snapshot(edit.before.path)
    if now.data == edit.after:
        write(Snapshot(now.path, edit.before.target, now.data, edit.before.mode), edit.before.data)
