"""`examples/observability/` is valid, and its dashboard asks for metrics and attributes that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from asyncfc_mcp.telemetry import conventions
from asyncfc_mcp.telemetry.instruments import Instruments

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "observability"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
FUNCTIONS = {"sum", "by", "rate", "increase", "histogram_quantile", "le", "__rate_interval", "__range"}


def yaml(name: str) -> Any:
    """A file of the example."""
    return YAML(typ="safe").load((EXAMPLE / name).read_text())


@pytest.fixture
def exposed() -> set[str]:
    """The names of all our series, as Prometheus has them."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    instruments = Instruments(provider.get_meter("x"), lambda: {"waiting": 1})
    for instrument in vars(instruments).values():
        (instrument.record if hasattr(instrument, "record") else instrument.add)(1, {"a": "b"})
    text = generate_latest(registry).decode()
    provider.shutdown()
    return {match[1] for match in re.finditer(r"^([a-z_]+)\{", text, re.M)}


def test_every_query_of_the_dashboard_has_its_metrics(exposed: set[str]):
    """Names of metrics and labels; and every metric of the bridge is shown."""
    dashboard = json.loads((EXAMPLE / "grafana/dashboards/asyncfc-mcp.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    values = vars(conventions).items()
    labels = {value.replace(".", "_") for name, value in values if name.isupper() and isinstance(value, str)}
    shown: set[str] = set()
    for query in queries:
        words = set(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", re.sub(r'"[^"]*"', "", query))) - FUNCTIONS
        metrics = words & exposed
        assert metrics, query
        assert words - metrics <= labels, query
        shown |= {re.sub(r"_(bucket|count|sum)$", "", each) for each in metrics}
    all_of_them = {re.sub(r"_(bucket|count|sum)$", "", each) for each in exposed} - {"target_info"}
    assert shown == all_of_them


def test_the_services_fit_each_other():
    """Files that are mounted exist; addresses name services; nothing listens beyond loopback."""
    services = yaml("docker-compose.yml")["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (EXAMPLE / source).exists(), source
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    collector = yaml("collector.yaml")
    for pipeline in collector["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(collector[part])
    assert collector["exporters"]["otlp/tempo"]["endpoint"].partition(":")[0] in services
    scraped = [target for job in yaml("prometheus.yaml")["scrape_configs"] for target in job["static_configs"]]
    assert scraped[0]["targets"][0].partition(":")[0] in services
    assert yaml("tempo.yaml")["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    sources = {each["uid"]: each for each in yaml("grafana/provisioning/datasources/sources.yaml")["datasources"]}
    assert set(sources) == {"prometheus", "tempo"}
    assert yaml("grafana/provisioning/dashboards/dashboards.yaml")["providers"]


def test_the_documentation_lists_every_name():
    """Metrics, attributes and events."""
    page = DOCS.read_text()
    values = [(name, value) for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)]
    names = [
        value for _, value in values if re.fullmatch(r"(mcp|asyncfc|gen_ai|rpc|network|server|jsonrpc)\.\S+", value)
    ]
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in page and f"`{name}:" not in page] == []
