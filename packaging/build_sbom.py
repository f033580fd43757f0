"""Software bill of materials: `python packaging/build_sbom.py` writes `dist/asyncfc-mcp-VERSION.cdx.json` (CycloneDX).

It lists what `pip install 'asyncfc-mcp[EXTRAS]'` installs today with the versions of `constraints.txt`, as found in an
empty environment with the wheel of `dist`: each package with its version, license, source and what requires it. The
document has neither a date nor a random serial number, so that equal environments give equal documents.

Owns what is described. Leaves reading the environment and the validation against CycloneDX's schema to `cyclonedx-py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from wheels import REPO, version_of, wheel_in

EXTRAS = "fast,postgres,telemetry"
"""Those that the container image can have; `constraints.txt` has a version for each package of them."""
SPECIFICATION = "1.6"


def main_component(version: str, extras: str) -> str:
    """Return a pyproject.toml that names the package, this version and what it requires with these extras.

    The real one leaves the version to the build, and extras are not among the dependencies there.
    """
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    requires = [*project["dependencies"], *(each for extra in extras.split(",") if extra for each in optional[extra])]
    urls = [f"{json.dumps(name)} = {json.dumps(url)}" for name, url in project["urls"].items()]
    fields = [f"{name} = {json.dumps(project[name])}" for name in ("name", "description", "license")]
    fields += [f"version = {json.dumps(version)}", f"dependencies = {json.dumps(requires)}"]
    return "\n".join(["[project]", *fields, "[project.urls]", *urls, ""])


def describe(wheel: Path, out: Path, extras: str = EXTRAS) -> Path:
    """Install the wheel into an environment of its own and write its bill of materials.

    Raises:
        CalledProcessError: the installation failed, or the document is not valid.
    """
    version = version_of(wheel)
    path = out / f"asyncfc-mcp-{version}.cdx.json"
    with tempfile.TemporaryDirectory() as scratch:
        environment, project = Path(scratch, "environment"), Path(scratch, "pyproject.toml")
        project.write_text(main_component(version, extras))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        python = str(environment / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
        named = f"asyncfc-mcp[{extras}] @ {wheel.resolve().as_uri()}"
        constraints = ["--constraint", str(REPO / "constraints.txt")]
        subprocess.run([*pip, "--no-compile", *constraints, named], check=True, stdout=sys.stderr)
        cyclonedx = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate"]
        kind = ["--mc-type", "application", "--pyproject", str(project)]
        written = ["--spec-version", SPECIFICATION, "--output-format", "JSON", "--output-file", str(path)]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([*cyclonedx, *kind, *written, python], check=True, stdout=sys.stderr, env=env)
    return path


def main() -> None:
    """Write the document and name its file."""
    parser = argparse.ArgumentParser(description="Write the bill of materials of the wheel.")
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder with the wheel (default: dist)")
    parser.add_argument("--extras", default=EXTRAS, help=f"extras that are installed with it (default: {EXTRAS})")
    given = parser.parse_args()
    print(describe(wheel_in(given.out), given.out, given.extras))


if __name__ == "__main__":
    main()
