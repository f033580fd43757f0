"""A database for each test, and replicas that share it."""

from collections.abc import AsyncGenerator

import pytest

from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable
from asyncfc_mcp.engine.postgres.schema import migrate


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """psycopg needs asyncio."""
    return request.param


@pytest.fixture
async def database(postgres_url: str, anyio_backend: str) -> AsyncGenerator[Database]:
    """An open database with all tables, and nothing in them."""
    database = Database(postgres_url)
    await migrate(database)
    async with database.open():
        yield database


@pytest.fixture
def table(database: Database) -> FuturesTable:
    """The table as replica A uses it."""
    return FuturesTable(database, "A")


@pytest.fixture
def other(database: Database) -> FuturesTable:
    """The same table as replica B uses it."""
    return FuturesTable(database, "B")
