"""Build the bundle for Claude Desktop: `python packaging/build_mcpb.py` writes `dist/asyncfc-mcp-VERSION.mcpb`.

The wheel in `dist` is used if there is one, as in a release, and built otherwise.

The bundle holds the manifest, the entry point, a wheel of this package, and a project file by which uv installs the
wheel and its dependencies, in the versions of `constraints.txt`, on the user's machine. The wheel is in the bundle, in
place of a dependency on PyPI, so that a bundle can be built and tried before its version is published.

Owns what is in the bundle; needs pip where it builds the wheel, and nothing outside the standard library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from wheels import REPO, version_of, wheel_in

SOURCE = REPO / "packaging" / "mcpb"
EXTRAS = "keyring"
"""Not left to the user, who cannot install anything into the environment of a bundle."""
DATE = (2020, 1, 1, 0, 0, 0)
"""Of every file in the bundle: the same sources give the same bytes."""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this package into an empty folder. Raises CalledProcessError."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(REPO)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def project_file(version: str, wheel: str) -> str:
    """Return the pyproject.toml of the bundle, which is no package itself."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = (REPO / "constraints.txt").read_text().splitlines()
    constraints = [line for line in lines if line and not line.startswith("#")]
    return "\n".join(
        (
            "[project]",
            'name = "asyncfc-mcp-bundle"',
            f"version = {json.dumps(version)}",
            f"requires-python = {json.dumps(project['requires-python'])}",
            f'dependencies = ["asyncfc-mcp[{EXTRAS}]=={version}"]',
            "",
            "[tool.uv]",
            "package = false",
            f"constraint-dependencies = {json.dumps(constraints, indent=2)}",
            "",
            "[tool.uv.sources]",
            f"asyncfc-mcp = {{ path = {json.dumps(wheel)} }}",
            "",
        )
    )


def pack(wheel: Path, folder: Path) -> Path:
    """Write the bundle with this wheel into a folder and return its path."""
    version = version_of(wheel)
    manifest = json.loads((SOURCE / "manifest.json").read_text()) | {"version": version}
    files = {"server.py": (SOURCE / "server.py").read_bytes()}
    files["manifest.json"] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    files["pyproject.toml"] = project_file(version, wheel.name).encode()
    files["LICENSE"] = (REPO / "LICENSE").read_bytes()
    files[wheel.name] = wheel.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"asyncfc-mcp-{version}.mcpb"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return bundle


def main() -> None:
    """Build the bundle and name its file."""
    parser = argparse.ArgumentParser(description="Build the bundle for Claude Desktop.")
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder for the bundle (default: dist)")
    folder = parser.parse_args().out
    if any(folder.glob("*.whl")):
        print(pack(wheel_in(folder), folder))
        return
    with tempfile.TemporaryDirectory() as scratch:
        print(pack(build_wheel(Path(scratch)), folder))


if __name__ == "__main__":
    main()
