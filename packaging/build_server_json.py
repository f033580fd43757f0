"""The entry of the MCP registry with its version: `python packaging/build_server_json.py` writes `dist/server.json`.

Owns the version in the entry, which is that of the wheel in `dist`. All else stands in `packaging/server.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wheels import REPO, version_of, wheel_in

SOURCE = REPO / "packaging" / "server.json"


def write(version: str, folder: Path) -> Path:
    """Write the entry of a version into a folder and return its path."""
    entry = json.loads(SOURCE.read_text())
    for versioned in (entry, *entry["packages"]):
        versioned["version"] = version
    path = folder / SOURCE.name
    path.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n")
    return path


def main() -> None:
    """Write the entry and name its file."""
    parser = argparse.ArgumentParser(description="Write the entry of the MCP registry.")
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder with the wheel (default: dist)")
    folder = parser.parse_args().out
    print(write(version_of(wheel_in(folder)), folder))


if __name__ == "__main__":
    main()
