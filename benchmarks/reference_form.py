"""`python -m benchmarks.reference_form FOLDER...`: how often published files hold the text of a reference by chance.

Calls carry files. So the form that is a reference inside text (`${f:name.path}`) must be one that no language, shell or
template uses. This counts it, and `${name}` for comparison, in the sources of installed or unpacked packages. Archives
(`.tgz`, `.tar.gz`, `.whl`, `.zip`) are read in place, so that a folder of downloads can be given as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

NAME: Final = rb"[A-Za-z_][A-Za-z0-9_-]*"
STEPS: Final = rb"""(?:\.[\w-]+|\[-?[0-9]+\]|\["[^"\n]*"\]|\['[^'\n]*'\])*"""
FORMS: Final = {
    "${f:name.path}": re.compile(rb"\$\{f:" + NAME + STEPS + rb"\}"),
    "${name.path}": re.compile(rb"\$\{" + NAME + STEPS + rb"\}"),
}
"""Form → pattern of a reference, if a future had that name."""
MAX_BYTES: Final = 5 << 20
"""Maximum size of a source file, in bytes; larger files count as data."""
ARCHIVES: Final = (".tgz", ".tar.gz", ".whl", ".zip")
PARENTS: Final = ("node_modules", "site-packages", "dist-packages", "share", "lib")
"""Folders whose entries are packages each."""


@dataclass
class Counts:
    """Counts of files and of occurrences."""

    files: int = 0
    bytes: int = 0
    packages: set[str] = field(default_factory=set[str])
    hits: Counter[str] = field(default_factory=Counter[str])
    holding: dict[str, set[str]] = field(default_factory=lambda: {form: set[str]() for form in FORMS})
    """Form → packages that hold it."""
    kinds: Counter[str] = field(default_factory=Counter[str])
    """File name extension → number of files."""
    examples: list[str] = field(default_factory=list[str])
    """Places that hold the form that is a reference."""

    def take(self, package: str, name: str, data: bytes) -> None:
        """Count one file; binary ones are left out."""
        if b"\0" in data[:8192]:
            return
        self.files += 1
        self.bytes += len(data)
        self.packages.add(package)
        self.kinds[PurePosixPath(name).suffix or "(none)"] += 1
        if b"${" not in data:
            return
        for form, pattern in FORMS.items():
            found = pattern.findall(data)
            if found:
                self.hits[form] += len(found)
                self.holding[form].add(package)
                if form == "${f:name.path}":
                    self.examples += [f"{name}: {each.decode(errors='replace')}" for each in found[:3]]


def package_of(path: Path) -> str:
    """The package that a file belongs to, by the folder that it is installed in."""
    parts = path.parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in PARENTS or parts[index].startswith("python3"):
            scoped = parts[index + 1].startswith("@") and len(parts) > index + 3
            return "/".join(parts[index + 1 : index + (3 if scoped else 2)])
    return parts[-2] if len(parts) > 1 else parts[-1]


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an archive."""
    if path.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and entry.file_size <= MAX_BYTES:
                    yield f"{path.name}/{entry.filename}", archive.read(entry)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.size <= MAX_BYTES and (opened := archive.extractfile(member)) is not None:
                yield f"{path.name}/{member.name}", opened.read()


def scan(folder: Path, counts: Counts) -> None:
    """Count all files below a folder; links are not followed, unreadable files are skipped."""
    for root, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each not in (".git", "__pycache__")]
        for name in names:
            path = Path(root, name)
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                if name.endswith(ARCHIVES):
                    for inner, data in members(path):
                        counts.take(name, inner, data)
                elif path.stat().st_size <= MAX_BYTES:
                    counts.take(package_of(path), str(path), path.read_bytes())
            except (OSError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError):
                continue


def main() -> int:
    """Print the counts; return 1 if the reference form was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference_form", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    counts = Counts()
    for folder in parser.parse_args().folders:
        scan(folder, counts)
    print(f"{len(counts.packages)} packages, {counts.files} text files, {counts.bytes / 1e6:.0f} MB")
    print("most: " + ", ".join(f"{kind} {number}" for kind, number in counts.kinds.most_common(20)))
    for form in FORMS:
        print(f"{form}: {counts.hits[form]} times, in {len(counts.holding[form])} packages")
    for example in counts.examples[:20]:
        print(f"  {example}")
    return 1 if counts.examples else 0


if __name__ == "__main__":
    sys.exit(main())
