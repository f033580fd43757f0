"""Checks off the event loop: a call keeps its place while its arguments are judged, and nothing takes for ever."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncfc_mcp.bridge.argument_checks import OVERRUNS, Checker
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.errors import ArgumentsRejected, Cancelled
from asyncfc_mcp.schema.validate import Validator
from tests.support.parked_calls import OK
from tests.support.scheduler_lab import Lab, lab
from tests.support.virtual_time import settle

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}}
ENDLESS = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
TRAP = {"a" * 40 + "!": 1}


# --- a call's place --------------------------------------------------------------------------------------------------


class Judge:
    """Answers checks when it is told to."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.answer: tuple[str, str] | None = None
        self.told = anyio.Event()

    async def __call__(self, validator: Validator, arguments: Mapping[str, Any], tool: str) -> tuple[str, str] | None:
        self.asked.set()
        await self.told.wait()
        return self.answer


@asynccontextmanager
async def judged() -> AsyncGenerator[tuple[Lab, Judge, Future, Future]]:
    """A write whose arguments are being checked, and one behind it on the same state."""
    async with lab() as it:
        judge = Judge()
        scheduler: Any = it.scheduler
        scheduler._runner._attempts._check = judge
        given = it.submit()
        await it.end(given, {"content": [{"type": "text", "text": "many"}]})
        arguments = {"n": f"${given.id}", "more": 1}
        schema: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "string", "minLength": 9}}}
        held = it.submit(writes="a", needs=[given], arguments=arguments, schema=schema, validator=Validator(schema))
        behind = it.submit(writes="a")
        await judge.asked.wait()
        await settle()
        assert it.running == []
        yield it, judge, held, behind


async def test_a_call_keeps_its_place_while_its_arguments_are_checked():
    """What conflicts with it stays behind it, and what does not goes on."""
    async with judged() as (it, judge, held, behind):
        other = it.submit(writes="b")
        await settle()
        assert it.running == [other.id]
        judge.told.set()
        await settle()
        assert it.running == [held.id, other.id]
        assert it.downstream.running[held.id].arguments == {"n": "many", "more": 1}
        await it.end(held)
        assert it.running == sorted([behind.id, other.id])
        await it.end(behind)
        await it.end(other, OK)
        it.assert_nothing_is_left()


async def test_a_call_whose_check_fails_is_never_sent():
    """The calls behind it go on."""
    async with judged() as (it, judge, held, behind):
        judge.answer = ("n", "too short")
        judge.told.set()
        await settle()
        assert isinstance(held.failure, ArgumentsRejected)
        assert it.running == [behind.id]
        await it.end(behind)
        it.assert_nothing_is_left()


async def test_a_call_can_be_cancelled_while_it_is_checked():
    """It was never sent, and the answer says so."""
    async with judged() as (it, _, held, behind):
        it.scheduler.cancel(held)
        await settle()
        assert held.state is State.CANCELLED
        assert str(held.failure) == str(Cancelled(sent=False))
        assert it.running == [behind.id]
        await it.end(behind)
        it.assert_nothing_is_left()


# --- the processes ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def checking() -> AsyncGenerator[Checker]:
    checker = Checker()
    try:
        with anyio.fail_after(60):
            yield checker
    finally:
        await checker.aclose()


def processes(checker: Any) -> list[Any]:
    return [each._process for each in checker._idle]


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("schema", "value", "error"),
    [
        (NUMBER, {"n": 1}, None),
        (NUMBER, {"n": "x"}, ("n", "'x' is not of type 'integer'")),
        (NUMBER, {"n": "\ud83d"}, ("n", "'\\ud83d' is not of type 'integer'")),
        ({"type": "nonsense"}, {"n": 1}, None),
        ({"properties": {"n": {"unevaluatedProperties": False}}}, {"n": {"a": 1}}, True),
    ],
)
def test_a_check_says_what_the_validator_says(schema: dict[str, Any], value: dict[str, Any], error: Any):
    """In a process of its own, which is kept for the next check."""

    async def check() -> None:
        async with checking() as checker:
            for _ in range(2):
                found = await checker.first_error(Validator(schema), value, "tool")
                assert found == Validator(schema).first_error(value)
                assert error is True or found == error
            [process] = processes(checker)
        assert process.returncode is not None

    anyio.run(check)


def test_a_check_without_end_is_given_up_and_the_next_one_made():
    """The process ends itself, and after some of these the tool is not checked any more."""

    async def check() -> None:
        validator = Validator(ENDLESS)
        async with checking() as checker:
            for _ in range(OVERRUNS):
                assert await checker.first_error(validator, TRAP, "tool") is None
            assert validator.overruns == OVERRUNS
            with anyio.fail_after(1):
                assert await checker.first_error(validator, TRAP, "tool") is None
            assert await checker.first_error(Validator(NUMBER), {"n": "x"}, "other") is not None

    anyio.run(check)


def test_a_cancelled_check_leaves_no_process():
    """Whatever it is in the midst of."""

    async def check() -> None:
        async with checking() as checker:
            assert await checker.first_error(Validator(NUMBER), {"n": "x"}, "tool") is not None
            [process] = processes(checker)
            with anyio.move_on_after(0.3):
                await checker.first_error(Validator(ENDLESS), TRAP, "tool")
            assert process.returncode is not None
            assert not processes(checker)
            assert await checker.first_error(Validator(NUMBER), {"n": "x"}, "tool") is not None

    anyio.run(check)


def test_a_process_that_ended_in_a_pause_is_replaced():
    """It ends itself after a minute without a check."""

    async def check() -> None:
        async with checking() as checker:
            assert await checker.first_error(Validator(NUMBER), {"n": "x"}, "tool") is not None
            [process] = processes(checker)
            process.terminate()
            await process.wait()
            validator = Validator(NUMBER)
            assert await checker.first_error(validator, {"n": "x"}, "tool") is not None

    anyio.run(check)


def test_a_process_that_cannot_be_started_costs_the_check_only(monkeypatch: pytest.MonkeyPatch):
    """The server judges."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    async def check() -> None:
        async with checking() as checker:
            assert await checker.first_error(Validator(NUMBER), {"n": "x"}, "tool") is None

    anyio.run(check)
