"""The official conformance suite's scenarios of authorization, for clients: a bridge signs in to the suite's servers.

    python tests/conformance/sign_in.py [--only PATTERN]

Every check must pass. What does not is listed in `known_sign_in.json` with its reason, and that list only shrinks: the
exit code is 1 for a check that fails and is not listed, and for a listed one that passes. Scenarios of extensions that
the bridge does not have (DPoP, ID-JAG, workload identity) are not run, and neither is the one of March 2025 whose
authorization server has no metadata: that it supports PKCE could not be known.

Owns running the suite and judging; the client is `sign_in_client.py`, the suite comes from npm, pinned in
`npm/package-lock.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support import peers  # noqa: E402
from tests.support.oidc_provider import node_of  # noqa: E402

KNOWN = HERE / "known_sign_in.json"
CLIENT = HERE / "sign_in_client.py"
TIMEOUT_S = 60
PACKAGE = "conformance-0.2"
MODERN, HANDSHAKE, OLDEST = "2026-07-28", "2025-11-25", "2025-03-26"
BOTH = (
    "metadata-default",
    "metadata-var1",
    "metadata-var2",
    "metadata-var3",
    "basic-cimd",
    "scope-from-www-authenticate",
    "scope-from-scopes-supported",
    "scope-omitted-when-undefined",
    "scope-step-up",
    "scope-retry-limit",
    "token-endpoint-auth-basic",
    "token-endpoint-auth-post",
    "token-endpoint-auth-none",
    "pre-registration",
)
"""Scenarios of both versions. The older one differs in the protocol around the sign-in, so one of them is enough."""
MODERN_ONLY = (
    "resource-mismatch",
    "offline-access-scope",
    "offline-access-not-supported",
    "authorization-server-migration",
    "iss-supported",
    "iss-not-advertised",
    "iss-supported-missing",
    "iss-wrong-issuer",
    "iss-unexpected",
    "iss-normalized",
    "metadata-issuer-mismatch",
)
EXTENSIONS = ("client-credentials-jwt", "client-credentials-basic")


@dataclass(frozen=True)
class Run:
    """A scenario at a version of the protocol; None for extensions, which are on no timeline."""

    scenario: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.scenario} {self.version or 'extension'}"


RUNS = (
    *(Run(f"auth/{name}", MODERN) for name in (*BOTH, *MODERN_ONLY)),
    Run("auth/metadata-default", HANDSHAKE),
    Run("auth/2025-03-26-oauth-metadata-backcompat", OLDEST),
    Run("auth/scope-step-up", HANDSHAKE),
    *(Run(f"auth/{name}", None) for name in EXTENSIONS),
)


@dataclass(frozen=True)
class Failure:
    """A check that did not pass."""

    run: str
    check: str
    status: str

    def __str__(self) -> str:
        return f"{self.run}, {self.check}: {self.status}"


def known() -> list[dict[str, str]]:
    """The list of failures with their reasons: `run` and `check` are patterns."""
    return json.loads(KNOWN.read_text())


def checks(run: Run, modules: Path, folder: Path) -> Mapping[str, str]:
    """Run a scenario; check → status, the worst where one is made several times."""
    version = ["--spec-version", run.version] if run.version else []
    command = [node_of(modules), str(modules / PACKAGE / "dist" / "index.js"), "client"]
    command += ["--command", f"{sys.executable} {CLIENT}", "--scenario", run.scenario, *version]
    command += ["--timeout", str(TIMEOUT_S * 1000), "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S * 2, check=False, cwd=folder)
    order = ("INFO", "SKIPPED", "SUCCESS", "WARNING", "FAILURE")
    found: dict[str, str] = {}
    for path in folder.rglob("checks.json"):
        for check in json.loads(path.read_text()):
            name, status = check["id"], check["status"]
            if status != "INFO":
                found[name] = max(found.get(name, "INFO"), status, key=order.index)
    if not found or "FAILURE" in found.values():
        print(f"--- {run}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}", file=sys.stderr)
    assert found, f"{run} left no verdicts"
    return found


def judge(runs: Sequence[Run], verdicts: Mapping[Run, Mapping[str, str]]) -> Iterator[str]:
    """What is wrong: failures that are not listed, and entries that hold no more."""
    failures = [
        Failure(str(run), check, status)
        for run in runs
        for check, status in verdicts[run].items()
        if status in ("FAILURE", "WARNING")
    ]

    def covers(entry: Mapping[str, str], failure: Failure) -> bool:
        return fnmatchcase(failure.run, entry["run"]) and fnmatchcase(failure.check, entry["check"])

    for failure in failures:
        if not any(covers(entry, failure) for entry in known()):
            yield f"NEW: {failure}"
    for entry in known():
        concerned = any(fnmatchcase(str(run), entry["run"]) for run in runs)
        if concerned and not any(covers(entry, failure) for failure in failures):
            yield f"STALE, remove it from {KNOWN.name}: {entry['run']}, {entry['check']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 0 when everything is as listed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of runs, such as '*iss*'")
    options = parser.parse_args(argv)
    runs = [run for run in RUNS if fnmatchcase(str(run), options.only)]
    try:
        modules = peers.provide("conformance") / "node_modules"
    except peers.PeerMissing as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="conformance-") as root, ThreadPoolExecutor(3) as pool:

        def one(run: Run) -> Mapping[str, str]:
            folder = Path(root) / str(run).replace("/", "-").replace(" ", "-")
            folder.mkdir()
            return checks(run, modules, folder)

        verdicts = dict(zip(runs, pool.map(one, runs), strict=True))
    for run in runs:
        bad = [f"{check} {status}" for check, status in verdicts[run].items() if status in ("FAILURE", "WARNING")]
        passed = sum(status == "SUCCESS" for status in verdicts[run].values())
        print(f"{run!s:<52} {passed} passed" + (f"; {', '.join(bad)}" if bad else ""))
    problems = list(judge(runs, verdicts))
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
