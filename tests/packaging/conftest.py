"""Distributions of this package, built once in a run and shared by its workers.

They are built from a copy, since a build writes `asyncfc_mcp/_version.py`, which running tests import; the copy also
holds what a developer's checkout holds and nobody must publish.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.stage import REPO

VERSION = "3.2.1"
NOT_COPIED = (".git", ".venv*", ".cache", ".*_cache", ".hypothesis", "__pycache__", "dist", "build", "node_modules")
LITTER = (
    ".cache/uv/tool.py",
    ".hypothesis/examples/one",
    "asyncfc_mcp/__pycache__/app.cpython-311.pyc",
    "examples/__pycache__/travel_server.cpython-311.pyc",
    "examples/docker/secrets/notes_key",
    "dist/old.txt",
)


@dataclass(frozen=True)
class Distributions:
    """What `packaging/wheels.py` has built, and the sources that it was built from."""

    folder: Path
    source: Path

    @property
    def wheel(self) -> Path:
        """The only wheel."""
        (wheel,) = self.folder.glob("*.whl")
        return wheel

    @property
    def sdist(self) -> Path:
        """The only source distribution."""
        (sdist,) = self.folder.glob("*.tar.gz")
        return sdist


def copied(target: Path) -> Path:
    """Copy the checkout, with litter of a developer's machine."""
    shutil.copytree(REPO, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for name in LITTER:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("not to be published")
    return target


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Wheel and source distribution of version `VERSION`, built as for a release, without isolation."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    built = Distributions(shared / "distributions", shared / "checkout")
    with (shared / "distributions.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.folder.exists():
            program = str(copied(built.source) / "packaging" / "wheels.py")
            unfinished = shared / "unfinished"
            env = os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP": VERSION}
            command = [sys.executable, program, "--no-isolation", "--out", str(unfinished)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            unfinished.rename(built.folder)
    return built
