"""The n8n workflow, checked and run with n8n's own MCP Client node and its own evaluation of expressions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.stand import EXAMPLES, Stand
from tests.support.stage import Stage

NODES = Path(__file__).resolve().parent / "n8n_nodes.cjs"


@pytest.mark.node
@pytest.mark.examples_long
def test_nodes_that_n8n_runs_one_after_another_overlap(stage: Stage, npm_n8n: Path) -> None:
    """Look-ups of three nodes run at the same time. The fourth refers to the first by its ID, since each node of n8n is
    a session with names of its own."""
    stand = Stand(stage)
    travel = stage.entry(stand.env["ASYNCFC_PYTHON"], str(EXAMPLES / "travel_server.py"))
    bridge = stage.http_bridge({"travel": travel})
    written = (EXAMPLES / "n8n" / "workflow.json").read_text()
    workflow = stage.folder / "workflow.json"
    workflow.write_text(written.replace("http://127.0.0.1:8642", bridge.base))
    outputs = json.loads(stand.run(["node", str(NODES), str(npm_n8n), str(workflow)]))
    results = outputs["Hold a seat on the cheapest flight"][0]["structuredContent"]["results"]
    assert [each["status"] for each in results] == ["completed"] * 4
    assert results[-1]["result"] == {"flight_id": "BER-LIS-1", "seat": "12A", "held": True}
    assert len(outputs["See how long each ran"][0]["structuredContent"]["futures"]) == 4
    runs = stand.runs()
    flights, hotels, sky, seat = (
        runs[f"travel__{tool}"] for tool in ("search_flights", "search_hotels", "weather", "hold_seat")
    )
    assert flights.overlaps(hotels)
    assert flights.overlaps(sky)
    assert seat.started >= flights.ended
