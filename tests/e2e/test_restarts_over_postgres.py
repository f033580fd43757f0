"""What survives a restart survives it with PostgreSQL as well: the tests of the journal, over the other engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_restarts import (
    test_a_cancelled_future_stays_cancelled,  # noqa: F401
    test_a_dependency_of_several_restarts,  # noqa: F401
    test_a_later_call_takes_the_value_of_an_earlier_run,  # noqa: F401
    test_a_name_is_free_again_and_the_last_one_counts,  # noqa: F401
    test_a_task_survives,  # noqa: F401
    test_an_open_question_is_asked_again_or_its_call_fails,  # noqa: F401
    test_an_unfinished_call_of_a_private_tool_is_never_made_again,  # noqa: F401
    test_clients_over_http_find_their_futures_after_a_restart,  # noqa: F401
    test_ids_go_on_after_a_restart,  # noqa: F401
    test_interrupted_calls_are_made_again_where_that_is_configured_and_harmless,  # noqa: F401
    test_results_are_awaited_as_before,  # noqa: F401
    test_unread_results_of_a_conversation_are_delivered,  # noqa: F401
    test_values_of_earlier_results_are_put_in,  # noqa: F401
    test_what_needs_an_interrupted_call_fails_and_is_not_sent,  # noqa: F401
    test_what_waited_for_a_place_is_made,  # noqa: F401
    test_what_was_running_is_interrupted,  # noqa: F401
    test_what_was_waiting_is_made_in_the_same_order,  # noqa: F401
)
from tests.support.postgres import PostgresServer
from tests.support.stage import Stage, stage_in


@pytest.fixture
def stage(tmp_path: Path, postgres: PostgresServer) -> Iterator[Stage]:
    """Processes whose configuration has a database of this test."""
    with stage_in(tmp_path) as stage:
        url = postgres.url(postgres.fresh_schema())
        stage.settings = {"engine": url, "secret": "a secret of all replicas here", "replica_timeout_s": 2}
        yield stage
