"""Source distribution and wheel of this package: `python packaging/wheels.py` writes both into `dist`.

The version is that of the Git tag, and `SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP` overrides it. Whatever else is
published takes its version from the name of the wheel.

Owns how distributions are built and read; needs `build`, and nothing else outside the standard library.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def build(folder: Path, *, isolated: bool = True, source: Path = REPO) -> Path:
    """Build both distributions into a folder and return the wheel, which is built from the source distribution.

    Args:
        folder: is made, and holds no other wheel.
        isolated: whether the build's requirements are installed for it; otherwise they must be installed already.
        source: the checkout. Its `asyncfc_mcp/_version.py` is written.

    Raises:
        CalledProcessError: the build failed, and has said why.
        SystemExit: the folder holds a wheel.
    """
    if any(folder.glob("*.whl")):
        raise SystemExit(f"{folder} holds a wheel already: remove it, so that one version is published only")
    options = [] if isolated else ["--no-isolation"]
    command = [sys.executable, "-m", "build", *options, "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def version_of(wheel: Path) -> str:
    """Return the version in the name of a wheel."""
    return wheel.name.split("-")[1]


def wheel_in(folder: Path) -> Path:
    """Return the only wheel of a folder. Raises SystemExit for none or several."""
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        names = ", ".join(wheel.name for wheel in found) or "no wheel"
        raise SystemExit(f"{folder} must hold one wheel, but holds {names}; `python packaging/wheels.py` builds it")
    return found[0]


def main() -> None:
    """Build both and name the wheel."""
    parser = argparse.ArgumentParser(description="Build the source distribution and the wheel.")
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder for both (default: dist)")
    parser.add_argument("--no-isolation", action="store_true", help="use the installed build requirements")
    given = parser.parse_args()
    print(build(given.out, isolated=not given.no_isolation))


if __name__ == "__main__":
    main()
