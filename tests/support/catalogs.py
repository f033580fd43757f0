"""Catalogs for tests, built at once."""

from collections.abc import Iterable

from asyncfc_mcp.core.catalog import Catalog, Source
from asyncfc_mcp.core.catalog_builder import CatalogBuilder
from asyncfc_mcp.core.names import PublishedNames
from asyncfc_mcp.slices import at_once


def built(builder: CatalogBuilder, sources: Iterable[Source], published: PublishedNames | None = None) -> Catalog:
    """Return the catalog that a builder makes of these servers."""
    return at_once(builder.building(sources, published))
