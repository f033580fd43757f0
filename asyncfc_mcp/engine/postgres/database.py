"""The database that replicas share: its URL, the pool of connections, and transactions.

Owns connecting, and repetition after an interruption: a transaction whose connection broke is run again until it is
committed, so what it does must be safe to repeat, also where the commit took place and only its confirmation was lost.
Leaves tables to `schema`, and statements to the modules that use them.
"""

import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import anyio
import anyio.lowlevel
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from asyncfc_mcp.core.backoff import Backoff
from asyncfc_mcp.errors import DatabaseUnusable

logger = logging.getLogger(__name__)

T = TypeVar("T")
Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

DEFAULT_SCHEMA: Final = "asyncfc"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,49}")
"""Names that need no quotation, and leave room for the prefix of the channel (63 bytes)."""
_SCHEMES: Final = ("postgresql", "postgres")

POOL_MIN: Final = 1
POOL_MAX: Final = 8
"""Connections of one replica, without those that listen. PostgreSQL has 100 for all by default."""
_TAKE_S: Final = 0.5
"""Seconds for which a transaction waits for a connection at a time."""
_RECONNECT_S: Final = 0.0
"""Seconds for which the pool tries to connect by itself, at intervals that double without a bound. Instead, each
transaction that waits makes it try again."""
_CONNECT_S: Final = 10
_PATIENCE_S: Final = 0.5
"""Seconds without the database after which that is a warning."""
_SETTINGS: Final = {
    # Every statement finds its rows by an index, a few at a time. The planner does not know that of a table that has
    # just been filled, and a plan that is made for a small table is kept while it grows.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # For a statement that waits for locks. Its transaction is repeated, unless it was cancelled.
    "statement_timeout": "30s",
    # The process may be suspended in the middle of a transaction, with locks that all replicas need.
    "idle_in_transaction_session_timeout": "15s",
}
"""Settings of each connection."""
_TRANSPORT: Final = {
    "connect_timeout": _CONNECT_S,
    # A connection whose other end is gone without a word is noticed within seconds.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "asyncfc-mcp",
}
"""Parameters of libpq, where the URL does not have them."""

_INTERRUPTED: Final = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE that pass: connection, deadlock or conflict, no resources (a full disk), shutdown, I/O error."""
_ALSO_INTERRUPTED: Final = ("25006", "25P03", "55P03")
"""Read-only (a standby that is not the primary yet), idle for too long, lock not available."""


class Database:
    """Database of a cluster of replicas.

    Args:
        url: `postgresql://…`, with libpq's parameters, and `schema=NAME` of this program.

    Attributes:
        schema: name of the PostgreSQL schema that has all tables.
        channel: channel of `NOTIFY` for all replicas.
        shown: the URL without password and parameters.
        conninfo: for further connections (see `connect`).
        pool: connections in autocommit mode.

    Raises:
        DatabaseUnusable: the URL is malformed.
    """

    def __init__(self, url: str) -> None:
        self.shown = shown(url)
        self.schema, self.conninfo = _read(url, self.shown)
        self.channel = f"asyncfc_{self.schema}"
        # Without a check of each connection that is taken: it would cost a round trip, and every transaction is
        # repeated anyway if its connection turns out to be dead.
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self.conninfo,
            kwargs={"autocommit": True},
            min_size=POOL_MIN,
            max_size=POOL_MAX,
            open=False,
            name="asyncfc",
            timeout=_TAKE_S,
            reconnect_timeout=_RECONNECT_S,
        )
        self._lost_at: float | None = None
        """Since when the database is not available."""
        self._warned = False

    @asynccontextmanager
    async def open(self, wait_s: float = 10.0) -> AsyncGenerator[None]:
        """Keep connections until the block ends.

        Args:
            wait_s: seconds for which a database that cannot be reached is tried again.

        Raises:
            DatabaseUnusable: there is no connection, with libpq's reason.
        """
        await self._try(wait_s)
        # psycopg warns of each attempt and each transaction that fails; this module warns once. Another level than its
        # own default was chosen on purpose.
        if (library := logging.getLogger("psycopg")).level == logging.WARNING:
            library.setLevel(logging.CRITICAL)
        async with self.pool:
            yield

    async def _try(self, wait_s: float) -> None:
        backoff, until = Backoff(0.1, 1.0), time.monotonic() + wait_s
        while True:
            try:
                connection = await self.connect()
            except psycopg.Error as exc:
                if time.monotonic() > until or _is_refusal(exc):
                    raise DatabaseUnusable(self.shown, reason(exc)) from exc
                await anyio.sleep(backoff.next())
            else:
                await connection.close()
                return

    async def connect(self) -> Connection:
        """Return a connection of its own, in autocommit mode; the caller closes it.

        Raises:
            psycopg.Error: there is none.
        """
        return await AsyncConnection.connect(self.conninfo, autocommit=True)

    @property
    def available(self) -> bool:
        """False from an interruption until the next transaction that is committed."""
        return self._lost_at is None

    def fetch_blocking(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement while the event loop stands still, over a connection of its own; none
        without a connection."""
        try:
            with psycopg.Connection.connect(self.conninfo, autocommit=True) as connection:
                return connection.execute(statement, parameters, binary=True).fetchall()
        except psycopg.Error as exc:
            logger.warning("the database %s cannot be read: %s", self.shown, reason(exc))
            return []

    # --- transactions --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Run the block, which only executes statements, in a transaction. It is not repeated.

        It is shielded from cancellation: psycopg would close the connection, and the server would still go on, perhaps
        waiting for locks, and with those that it has. It is bounded by the time for a statement.

        Raises:
            psycopg.Error: it was not committed, or its commit is not confirmed.
        """
        with anyio.CancelScope(shield=True):
            async with self.pool.connection() as connection, connection.transaction():
                yield connection

    async def repeating(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Return what `work` returns, once its transaction is committed.

        Args:
            work: what is done in the transaction; repeated if the database was interrupted, perhaps after the commit.
                See `transaction`.

        Raises:
            psycopg.Error: a statement is at fault.
        """

        async def run() -> T:
            async with self.transaction() as connection:
                return await work(connection)

        return await self._until_committed(run)

    async def fetch(
        self, statement: LiteralString, parameters: Sequence[Any] = (), *, planned: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is a transaction of its own and is repeated like one. Binary
        placeholders (`%b`) take bytes without a copy in hexadecimal digits; columns are sent in binary form.

        Args:
            planned: plan the statement each time. For those that several indexes could serve: which is the right one
                depends on what is in the table by then.

        Raises:
            psycopg.Error: the statement is at fault.
        """

        async def run() -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = []
            with anyio.CancelScope(shield=True):  # see `transaction`
                async with self.pool.connection() as connection, connection.cursor(binary=True) as cursor:
                    await cursor.execute(statement, parameters, prepare=False if planned else None)
                    if cursor.description is not None:
                        found = await cursor.fetchall()
            return found

        return await self._until_committed(run)

    async def _until_committed(self, run: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(0.02, 1.0)
        while True:
            await anyio.lowlevel.checkpoint_if_cancelled()
            try:
                outcome = await run()
            except psycopg.Error as exc:
                if not is_interruption(exc):
                    raise
                if isinstance(exc, PoolTimeout) and self._lost_at is None:
                    continue  # all connections are in use
                self._interrupted(exc)
            else:
                if self._lost_at is not None:
                    self._available()
                return outcome
            await anyio.sleep(backoff.next())
            await self._check()

    def _interrupted(self, exc: psycopg.Error) -> None:
        if (exc.sqlstate or "").startswith("40"):
            logger.debug("a transaction is repeated: %s", exc)
            return
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            logger.info("a transaction is repeated: %s", reason(exc))
        elif not self._warned and time.monotonic() > self._lost_at + _PATIENCE_S:
            self._warned = True
            logger.warning("the database %s does not respond and is tried again: %s", self.shown, reason(exc))

    def _available(self) -> None:
        since, self._lost_at = self._lost_at, None
        if self._warned and since is not None:
            self._warned = False
            logger.warning("the database %s is available again, after %.0f s", self.shown, time.monotonic() - since)

    async def _check(self) -> None:
        """Have the pool replace its dead connections, which an interruption leaves behind."""
        if self._lost_at is not None and not self.pool.closed:
            with anyio.CancelScope(shield=True):  # the pool would lose those that it has taken out
                await self.pool.check()


# --- errors --------------------------------------------------------------------------------------------------------


def is_interruption(exc: BaseException) -> bool:
    """Return true for an error after which a transaction is run again: the connection broke, or the database has a
    state that passes."""
    if not isinstance(exc, psycopg.Error):
        return False
    if exc.sqlstate is not None:
        return exc.sqlstate[:2] in _INTERRUPTED or exc.sqlstate in _ALSO_INTERRUPTED
    # Without a state it is from the client's side: no connection, a broken one, or a mistake of the program.
    return isinstance(exc, psycopg.OperationalError) and not isinstance(exc, PoolClosed)


def _is_refusal(exc: psycopg.Error) -> bool:
    """Return true where waiting does not help: user, password, or database."""
    text = str(exc)
    refusals = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied", "no password")
    return any(word in text for word in refusals)


def reason(exc: psycopg.Error) -> str:
    """Return the database's reason in one line. psycopg's texts have no password."""
    return " ".join(str(exc).split()) or type(exc).__name__


# --- the URL -------------------------------------------------------------------------------------------------------


def is_database_url(text: str) -> bool:
    """Return true for a URL of PostgreSQL."""
    return text.partition("://")[0] in _SCHEMES and "://" in text


def shown(url: str) -> str:
    """Return a URL without password and parameters."""
    scheme, _, rest = url.partition("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    credentials, at, place = place.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}{at}{place}"


def _read(url: str, shown: str) -> tuple[str, str]:
    """Return the schema in a URL, and what libpq gets."""
    if not is_database_url(url):
        raise DatabaseUnusable(shown, "its URL must begin with postgresql://")
    base, _, query = url.partition("?")
    try:
        parameters = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise DatabaseUnusable(shown, "the parameters of its URL cannot be read") from None
    schema = next((value for name, value in reversed(parameters) if name == "schema"), DEFAULT_SCHEMA)
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
        raise DatabaseUnusable(
            shown, f"schema={schema[:60]} is not a name of a-z, 0-9 and '_' with at most 50 characters, without pg_"
        )
    others = urlencode([each for each in parameters if each[0] != "schema"], quote_via=quote)
    plain = f"{base}?{others}" if others else base
    try:
        given = conninfo_to_dict(plain)
        settings = [f"-c {name}={_escaped(value)}" for name, value in _SETTINGS.items()]
        own = [str(given["options"])] if given.get("options") else []
        parameters = {**_TRANSPORT, **given, "options": " ".join([*own, f"-c search_path={schema}", *settings])}
        return schema, make_conninfo("", **parameters)
    except psycopg.Error as exc:
        raise DatabaseUnusable(shown, _without_credentials(reason(exc), base)) from None


def _without_credentials(text: str, url: str) -> str:
    """Return a text of libpq, which quotes parts of a URL, without those of its user and password."""
    credentials = url.rpartition("@")[0]
    return re.sub('"([^"]*)"', lambda found: '"…"' if found[1] in credentials or "@" in found[1] else found[0], text)


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace(" ", "\\ ")
