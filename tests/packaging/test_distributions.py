"""Wheel and source distribution: what is in them, their metadata, and what PyPI shows of the README."""

import email.message
import email.parser
import email.policy
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from readme_renderer import markdown
from trove_classifiers import classifiers

from tests.packaging.conftest import LITTER, VERSION, Distributions
from tests.support.stage import REPO

BASE = f"asyncfc_mcp-{VERSION}"
ACCOUNT = re.compile(
    r"(?:(?:github\.com/|githubusercontent\.com/|ghcr\.io/|io\.github\.)([\w-]+)|https://([\w-]+)\.github\.io)/asyncfc-mcp\b"
)


def files_of(distributions: Distributions) -> set[str]:
    """Names in the wheel."""
    with zipfile.ZipFile(distributions.wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(distributions: Distributions) -> email.message.EmailMessage:
    """METADATA of the wheel."""
    with zipfile.ZipFile(distributions.wheel) as archive:
        text = archive.read(f"{BASE}.dist-info/METADATA").decode()
    return email.parser.Parser(email.message.EmailMessage, policy=email.policy.default).parsestr(text)  # pyright: ignore


@pytest.fixture(scope="module")
def description(metadata: email.message.EmailMessage) -> str:
    """README.md as PyPI gets it."""
    return str(metadata.get_payload())


def test_a_wheel_holds_the_package_and_nothing_else(distributions: Distributions):
    """Every module and every data file of it, and the examples that the demo plays; no test, no cache, no secret."""
    found = {name for name in files_of(distributions) if not name.startswith(f"{BASE}.dist-info/")}
    package = distributions.source / "asyncfc_mcp"
    wanted = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    examples = {f"asyncfc_mcp/examples/{name}.py" for name in ("scripted_agent", "travel_server", "ci_server")}
    assert found == (wanted - set(LITTER)) | examples
    assert {"asyncfc_mcp/py.typed", "asyncfc_mcp/_version.py", "asyncfc_mcp/profiles/index.json"} <= found


def test_a_source_distribution_holds_what_a_build_and_the_tests_need(distributions: Distributions):
    """Its wheel is the published one, since that is built from it."""
    with tarfile.open(distributions.sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    kept = {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "Dockerfile", "tests/conftest.py", ".ci/run"}
    assert kept | {"tests/packaging/test_distributions.py", "examples/config.json", "docs/security.md"} <= found
    # What a test, a page or a build refers to is in it; what only a forge or Git reads is not.
    assert not found & set(LITTER)
    caches = [name for name in found if "__pycache__" in name or name.startswith((".github", ".cache", ".git_"))]
    assert not caches


def test_the_version_is_written_into_the_package(distributions: Distributions, metadata: email.message.EmailMessage):
    """It is read from there, not from the metadata of the installed package."""
    with zipfile.ZipFile(distributions.wheel) as archive:
        text = archive.read("asyncfc_mcp/_version.py").decode()
    assert f'__version__ = "{VERSION}"' in text
    assert metadata["Version"] == VERSION


def test_the_metadata_is_complete(metadata: email.message.EmailMessage):
    """What PyPI shows beside the description; unknown classifiers are refused there."""
    assert metadata["Name"] == "asyncfc-mcp"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    given = set(metadata.get_all("Classifier", []))
    assert given <= classifiers
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= given
    assert "Typing :: Typed" in given
    urls = dict(re.split(", *", url, maxsplit=1) for url in metadata.get_all("Project-URL", []))
    assert urls.keys() >= {"Homepage", "Documentation", "Source", "Changelog", "Issues", "Security"}


def test_the_description_renders_on_pypi(description: str):
    """With PyPI's own renderer."""
    rendered = markdown.render(description)
    assert rendered is not None
    assert "<h1" in rendered


def test_the_description_needs_no_file_beside_it(description: str):
    """Every link and image is absolute, and those into the repository name a file that exists, at the tag."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", description, flags=re.DOTALL)
    targets = re.findall(r'\]\(<?([^)\s>]+)|(?:src|srcset|href)="([^"]+)"', prose)
    links = [one or other for one, other in targets]
    assert links
    assert [link for link in links if not link.startswith(("https://", "http://", "mailto:", "#"))] == []
    places = r"https://(?:github\.com/[\w-]+/asyncfc-mcp/blob|raw\.githubusercontent\.com/[\w-]+/asyncfc-mcp)/(.+)"
    at_tag = re.compile(places)
    own = [found[1].partition("#")[0] for link in links if (found := at_tag.match(link))]
    assert own
    for path in own:
        tag, _, name = path.partition("/")
        assert tag == f"v{VERSION}"
        assert (REPO / name).exists(), name


def test_one_account_publishes():
    """A placeholder, until the first release, is the same everywhere; `docs/releasing.md` replaces it."""
    folders = ("docs", "packaging", ".github", "asyncfc_mcp")
    pages = [*REPO.glob("*.md"), REPO / "pyproject.toml", REPO / "Dockerfile", REPO / "mkdocs.yml"]
    pages += [path for folder in folders for path in (REPO / folder).rglob("*")]
    found: dict[str, set[str]] = {}
    for path in pages:
        if path.is_file() and path.suffix in (".md", ".toml", ".yml", ".yaml", ".json", ".py", ""):
            for one, other in ACCOUNT.findall(path.read_text(errors="replace")):
                found.setdefault(one or other, set()).add(path.name)
    found.pop("YOU", None)
    assert len(found) == 1, found


GIT = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]


def version_in(folder: Path) -> str:
    """The version that a build would have."""
    command = [sys.executable, "-m", "hatchling", "version"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_version_is_that_of_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tagged commit has the version of its tag, a later one a development version of the next; a checkout without
    tags, an archive of a tag, and sources without Git have one as well."""
    for name in ("SETUPTOOLS_SCM_PRETEND_VERSION", "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    clone, archive, bare = tmp_path / "clone", tmp_path / "archive", tmp_path / "bare"
    for folder in (clone, archive, bare):
        folder.mkdir()
    for name in ("pyproject.toml", "README.md", ".gitattributes", ".git_archival.txt", ".gitignore"):
        (clone / name).write_bytes((REPO / name).read_bytes())

    def git(*words: str) -> bytes:
        return subprocess.run([*GIT, *words], cwd=clone, capture_output=True, check=True).stdout

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message=one")
    assert re.fullmatch(r"0\.0\.1\.dev1\+g[0-9a-f]+", version_in(clone))
    git("tag", "v0.4.0")
    assert version_in(clone) == "0.4.0"
    for name, content in (("archive", git("archive", "HEAD")), ("bare", git("archive", "HEAD"))):
        (tmp_path / f"{name}.tar").write_bytes(content)
        with tarfile.open(tmp_path / f"{name}.tar") as packed:
            packed.extractall(tmp_path / name, filter="data")
    assert version_in(archive) == "0.4.0"
    (bare / ".git_archival.txt").unlink()
    assert version_in(bare) == "0.0.0"
    git("commit", "--quiet", "--allow-empty", "--message=two")
    assert re.fullmatch(r"0\.4\.1\.dev1\+g[0-9a-f]+", version_in(clone))


def test_a_checkout_that_was_never_built_runs(distributions: Distributions, tmp_path: Path):
    """Without a version."""
    package = tmp_path / "asyncfc_mcp"
    package.mkdir()
    (package / "__init__.py").write_bytes((REPO / "asyncfc_mcp" / "__init__.py").read_bytes())
    program = "import asyncfc_mcp; print(asyncfc_mcp.__version__)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0.0.0\n"
