"""Settings that concern several replicas: what is refused, what is warned of, and that no text shows a secret."""

from typing import Any

import pytest

from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.config.replicas import replica_name
from asyncfc_mcp.config.settings import Settings
from tests.support.configurations import parse, refused

SECRET = "0123456789abcdef"


def top(environ: dict[str, str] | None = None, **settings: Any) -> BridgeConfig:
    return parse({"mcpServers": {"s": {"command": "x"}}, "asyncfc": settings}, environ)


def wrong(environ: dict[str, str] | None = None, **settings: Any) -> str:
    return refused({"mcpServers": {"s": {"command": "x"}}, "asyncfc": settings}, environ)


def test_the_engine_is_embedded_or_a_database():
    """By default there is nothing to set up."""
    assert top().settings.engine == Settings().engine == top(engine="embedded").settings.engine == "embedded"
    for url in (
        "postgresql://host/db",
        "postgres://u:p@h:5433/db?schema=team&sslmode=require",
        "postgresql:///db?host=/run/postgresql",
        "postgresql://a:1,b:2/db?target_session_attrs=read-write",
        "postgresql://[::1]:5432/db",
    ):
        assert top(engine=url, secret=SECRET).settings.engine == url
        assert not top(engine=url, secret=SECRET).warnings


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        ("postgres", 'found "postgres"'),
        ("Embedded", 'found "Embedded"'),
        ("", 'found ""'),
        ("mysql://root:hunter22@host/db", 'found "mysql://host"'),
        ("postgresql://u:hunter22@host:port/db", 'found "postgresql://host:port", whose port or host is invalid'),
        ("postgresql://u:hunter22@[::1/db", "whose port or host is invalid"),
        ("postgresql://u:hunter 22@host/db", "found "),
        ("u:hunter22@host", "found other text"),
        ("u:hunter22@host/and/more/of/it", "found other text"),
        (None, "found null"),
        (True, "found true"),
        (["postgresql://u:hunter22@host"], "found a list"),
    ],
)
def test_another_engine_is_refused_without_showing_a_password(engine: object, found: str):
    """The error names what is possible."""
    said = wrong(engine=engine)
    assert f"asyncfc.engine: {found}" in said or found in said
    assert "'embedded', or a URL such as 'postgresql://user:${PASSWORD}@host/database'" in said
    assert "hunter" not in said


def test_engine_and_secret_come_from_the_environment():
    """Servers do not inherit these variables."""
    environ = {"PASSWORD": "hunter22", "HOST": "db", "SECRET": SECRET, "NAME": "left", "OTHER": "1"}
    config = top(environ, engine="postgresql://u:${PASSWORD}@${HOST}/db", secret="${SECRET}", replica="${NAME}")
    settings = config.settings
    assert settings.engine == "postgresql://u:hunter22@db/db"
    assert (settings.secret, replica_name(settings)) == (SECRET, "left")
    assert config.own_variables == ("HOST", "PASSWORD", "SECRET")
    assert settings.shown_engine == "postgresql://db/db"
    assert settings.secrets == (SECRET, "hunter22")
    assert "hunter" not in repr(config)
    assert SECRET not in repr(config)
    assert "the environment has no PASSWORD" in wrong(engine="postgresql://u:${PASSWORD}@h/db")
    assert "the environment has no SECRET" in wrong(secret="${SECRET}")
    assert replica_name(Settings())


def test_a_password_is_secret_as_it_is_written_and_as_it_is_meant():
    """The database's own messages have the second; one in the query counts, too. Names of schemas do not."""
    url = "postgresql://user:p%40ssword@h/db?schema=default_schema&sslpassword=key%20word"
    assert set(Settings(engine=url).secrets) == {"p%40ssword", "p@ssword", "key%20word", "key word"}


def test_a_short_secret_is_refused():
    """It could be guessed from what it seals. The error does not show it."""
    said = wrong(secret="hunter22")
    assert "asyncfc.secret: found 8 characters; expected 16 or more" in said
    assert "hunter" not in said
    assert top(engine="postgresql://h/db", secret=None).settings.secret is None


def test_replicas_without_a_common_secret_are_warned_of():
    """Once, with what does not work."""
    (warning,) = top(engine="postgresql://h/db").warnings
    assert "asyncfc.secret: not set, so a question that one replica asks cannot be answered at another" in warning
    assert Settings(engine="postgresql://h/db", secret=SECRET).shared_secret == SECRET
    assert Settings(secret=SECRET).shared_secret is None


def test_what_has_no_effect_is_warned_of():
    """Replicas without a database, and a journal with one."""
    entry = {"command": "x", "asyncfc": {"owner": "r1"}}
    config = parse({"mcpServers": {"s": entry}, "asyncfc": {"replica": "r1", "secret": SECRET}})
    places = [warning.split(": ")[1] for warning in config.warnings]
    assert places == ["asyncfc.replica", "asyncfc.secret", "mcpServers.s.asyncfc.owner"]
    (warning,) = top(engine="postgresql://h/db", secret=SECRET, journal="./j.db").warnings
    assert "asyncfc.journal: no effect" in warning


def test_a_process_has_one_owner_by_default_and_a_url_any():
    """A process may have state that another process of the same command does not have."""
    servers = {
        "process": {"command": "x"},
        "remote": {"url": "http://x"},
        "pinned": {"url": "http://x", "asyncfc": {"owner": "r-1.example"}},
        "stateless": {"command": "x", "asyncfc": {"owner": "any"}},
    }
    config = parse({"mcpServers": servers, "asyncfc": {"engine": "postgresql://h/db", "secret": SECRET}})
    assert {server.name: server.runs_at for server in config.servers} == {
        "process": "auto",
        "remote": "any",
        "pinned": "r-1.example",
        "stateless": "any",
    }
    assert not config.warnings


@pytest.mark.parametrize("name", ["", "a b", "a/b", None, 1, ["r1"], "x" * 65])
def test_a_name_that_no_replica_can_have_is_refused(name: object):
    """Of the owner as of the replica itself, but that null says that it has none."""
    entry = {"command": "x", "asyncfc": {"owner": name}}
    assert "expected 'any', 'auto' or the name of a replica" in refused({"mcpServers": {"s": entry}})
    if name is not None:
        assert "asyncfc.replica: found" in wrong(replica=name)


def test_instances_for_sessions_have_no_effect_with_a_database():
    """The setting says so; without a database there is nothing to say."""
    servers = {"mcpServers": {"s": {"command": "x", "asyncfc": {"share": "session"}}}}
    with_database = parse({**servers, "asyncfc": {"engine": "postgresql://h/db", "secret": "0" * 32}})
    assert any("s.asyncfc.share: no effect" in each for each in with_database.warnings)
    assert not any("share" in each for each in parse(servers).warnings)
