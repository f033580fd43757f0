"""Private files: their modes, and protection against files of other users in their place."""

import os
import sys
from pathlib import Path

import pytest

from asyncfc_mcp.private_files import make_folder, open_private, read_private, replace_private

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def append(path: Path, text: str) -> None:
    with os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
        file.write(text)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest):
    """Set the umask of the bridge's own process."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_are_the_same_whatever_the_umask(tmp_path: Path):
    """Also of folders above; a folder that was there stays as it is."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    make_folder(folder)
    replace_private(folder / "one", [b"1"])
    append(folder / "two", "2")
    assert [mode(each) for each in (folder, folder.parent, tmp_path)] == [0o700, 0o700, 0o755]
    assert [mode(each) for each in sorted(folder.iterdir())] == [0o600, 0o600]
    assert [read_private(each) for each in sorted(folder.iterdir())] == ["1", "2"]


@pytest.mark.parametrize("before", [0o644, 0o666, 0o640, 0o604])
def test_a_file_that_others_may_read_is_made_private(tmp_path: Path, before: int):
    """When it is read, appended to or replaced."""
    ways = {
        "read": read_private,
        "append": lambda path: append(path, "x"),
        "replace": lambda p: replace_private(p, []),
    }
    for name, use in ways.items():
        path = tmp_path / name
        path.write_text("old")
        path.chmod(before)
        use(path)
        assert mode(path) == 0o600, name


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link", "pipe", "folder"])
def test_what_somebody_put_in_place_of_a_file_is_not_used(tmp_path: Path, kind: str):
    """Nothing is read of it, written to it, or waited for."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    victim.chmod(0o644)
    match kind:
        case "symlink":
            path.symlink_to(victim)
        case "dangling":
            path.symlink_to(tmp_path / "new")
        case "hard link":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - which one differs
        append(path, "x")
    with pytest.raises(OSError):  # noqa: PT011
        read_private(path)
    assert victim.read_text() == "precious"
    assert mode(victim) == 0o644
    assert not (tmp_path / "new").exists()


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path):
    """A link in place of the temporary file is not followed either."""
    victim, path = tmp_path / "victim", tmp_path / "file.json"
    victim.write_text("precious")
    path.symlink_to(victim)
    (tmp_path / f"file.{os.getpid()}.part").symlink_to(victim)
    replace_private(path, [b"n", b"ew"])
    assert victim.read_text() == "precious"
    assert read_private(path) == "new"
    assert not path.is_symlink()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_used(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("theirs")
    os.chown(path, 12345, 12345)
    with pytest.raises(OSError, match="not a private file of this user"):
        append(path, "x")
    assert path.read_text() == "theirs"
