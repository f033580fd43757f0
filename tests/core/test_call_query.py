"""Queries for calls are parsed from words in one place, with errors that say what to write."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.errors import InvalidQuery

NOW = 1_800_000_000.0
YESTERDAY = datetime.combine(date.fromtimestamp(NOW) - timedelta(days=1), time()).timestamp()


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ({}, CallQuery()),
        ({"server": "git", "tool": ["a", "b,c"]}, CallQuery(servers=("git",), tools=("a", "b", "c"))),
        ({"state": "failed, cancelled"}, CallQuery(states=(State.FAILED, State.CANCELLED))),
        ({"text": "  two words "}, CallQuery(text="two words")),
        ({"since": "15m", "until": "90s"}, CallQuery(since=NOW - 900, until=NOW - 90)),
        ({"since": "yesterday"}, CallQuery(since=YESTERDAY)),
        ({"since": "1764300000.5"}, CallQuery(since=1764300000.5)),
        ({"since": "2026-01-31T12:00:00+00:00"}, CallQuery(since=1769860800.0)),
        ({"before": "f12", "limit": "500"}, CallQuery(before="f12", limit=500)),
        ({"server": "", "since": "", "before": "", "limit": "", "state": []}, CallQuery()),
    ],
)
def test_words_make_a_query(words: Mapping[str, str | Sequence[str]], query: CallQuery):
    assert CallQuery.of(words, NOW) == query


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"servr": "git"}, "'servr': there is no such word; the nearest is 'server'"),
        ({"state": "done"}, "'state': 'done' is none of waiting, running, input_required, completed, failed"),
        ({"since": "tomorrow"}, "'since': 'tomorrow' is no time: write an age such as 15m"),
        ({"until": "1" * 400}, "is no time"),
        ({"before": "12"}, "'before': '12' is not the ID of a call, such as f12"),
        ({"before": "f" + "a" * 32}, "is not the ID"),
        ({"limit": "0"}, "'limit': '0' is not a number from 1 to 500"),
        ({"limit": "501"}, "from 1 to 500"),
        ({"limit": ["1", "2"]}, "'limit': it is given several times"),
        ({"text": "x" * 201}, "'text': at most 200 characters"),
        ({"tool": ",".join(map(str, range(101)))}, "'tool': at most 100 values"),
    ],
)
def test_a_wrong_word_is_refused_with_what_to_write(words: Mapping[str, str | Sequence[str]], said: str):
    with pytest.raises(InvalidQuery) as refused:
        CallQuery.of(words, NOW)
    assert said in str(refused.value)


@given(st.dictionaries(st.sampled_from(["server", "state", "text", "since", "before", "limit", "x"]), st.text()))
def test_any_words_make_a_query_or_are_refused(words: dict[str, str]):
    with suppress(InvalidQuery):
        CallQuery.of(words, NOW)
