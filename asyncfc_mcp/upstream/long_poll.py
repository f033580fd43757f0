"""Waiting for futures on behalf of a client: bounds, learned timeouts, progress and heartbeats.

Owns `wait`, which the meta-tools and `_wait` use. Sync calls wait without a bound (`sync_calls`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Future, Question, watching
from asyncfc_mcp.engine.question_rules import AGAIN_S
from asyncfc_mcp.quotation import quoted, said
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.upstream.clients import Caller
from asyncfc_mcp.upstream.input_required import InputRequired
from asyncfc_mcp.upstream.request import Progress

HEARTBEAT_S: Final = 5.0
"""Longest pause between two progress notifications of a wait whose client gave a progress token."""
PROGRESS_S: Final = 0.05
"""Progress within this time is forwarded as one notification."""
LEARNED_TIMEOUT_SHARE: Final = 0.8
"""After a client cancelled a wait of T seconds, its waits are bounded by this share of T."""
LEARNED_TIMEOUT_MIN_S: Final = 3.0
"""Shortest cancelled wait from which a timeout is learned, in seconds: an earlier cancellation may be a user's. The
shortest timeout seen in a client is 5 s."""
CANCEL_WAIT_S: Final = 5.0
"""Longest wait for a running call to end after its cancellation was sent."""


async def wait(
    bridge: Bridge,
    caller: Caller,
    futures: Sequence[Future],
    *,
    any_: bool = False,
    timeout_s: float | None = None,
) -> None:
    """Wait until the futures are terminal, the wait's bound is reached or the bridge is about to stop. Meanwhile send
    progress, and put questions of these futures' servers to the client. If the client cancels the wait, its timeout is
    learned from that.

    Raises:
        InputRequired: there are questions to be put in the answer.
    """
    client = caller.client
    began = anyio.current_time()
    deadline = began + client.wait_s(bridge, timeout_s, with_progress=caller.report is not None)
    needed: list[tuple[Future, Question]] = []
    try:
        if caller.report is None:
            needed = await _wait_until(bridge, caller, futures, any_, deadline)
        else:
            async with anyio.create_task_group() as tg:
                tg.start_soon(send_progress, futures, caller.report, min(HEARTBEAT_S, client.profile.timeout_s / 2))
                needed = await _wait_until(bridge, caller, futures, any_, deadline)
                tg.cancel_scope.cancel()
    except anyio.get_cancelled_exc_class():
        waited = anyio.current_time() - began
        if waited >= LEARNED_TIMEOUT_MIN_S:
            client.learned_timeout_s = min(LEARNED_TIMEOUT_SHARE * waited, client.learned_timeout_s or waited)
        raise
    if needed:
        raise InputRequired(needed)
    await load(bridge, futures)


async def load(bridge: Bridge, futures: Iterable[Future]) -> None:
    """Have results in memory that calls have elsewhere: reading them while an answer is built would stop everything."""
    for future in futures:
        if future.done and not future.loaded:
            await bridge.engine.load(future)


async def _wait_until(
    bridge: Bridge, caller: Caller, futures: Sequence[Future], any_: bool, deadline: float
) -> list[tuple[Future, Question]]:
    """Return the questions that have to be put to the client in the answer, if they ended the wait."""
    enough = any if any_ else all
    changed = WakeUp()

    def on_change(future: Future) -> None:
        if future.done or future.questions:
            changed.set()

    with (
        watching(futures, on_change),
        bridge.stopping.waking(changed.set),
        bridge.engine.claiming(caller.put, caller.capabilities, caller.identity) as take,
    ):
        while not enough(future.done for future in futures):
            if claimed := take(futures):
                return claimed
            # A claim that its owner does not keep expires without a change of the future.
            until = deadline = min(deadline, bridge.stopping.waits_until)
            if any(future.questions for future in futures):
                until = min(deadline, anyio.current_time() + AGAIN_S)
            with anyio.CancelScope(deadline=until):
                await changed.wait()
            if anyio.current_time() >= deadline:
                break
    return []


async def send_progress(futures: Sequence[Future], report: Progress, every_s: float) -> None:
    """Forward the downstream's progress, each question as soon as it is asked, and a heartbeat where there is neither,
    until cancelled. The numbers only grow, as MCP demands.

    Args:
        every_s: longest pause between two reports, in seconds.
    """
    last = 0.0
    forwarded: tuple[float, float | None, str | None] | None = None
    announced: set[str] = set()
    began = anyio.current_time()
    changed = WakeUp()
    watched = list(futures)
    reported_at = began
    with watching(watched, lambda _: changed.set()):
        while True:
            for future in watched:
                for question in [q for key, q in future.questions.items() if key not in announced and not q.settled]:
                    announced.add(question.id)
                    last += 1e-3
                    total = None if len(watched) == 1 else float(len(watched))
                    await report(last, total, f"{future.id} {future.state.value}, asks: {quoted(question.text)}")
            # From the last report, not from the last change: futures that change often must not suppress heartbeats.
            with anyio.CancelScope(deadline=reported_at + every_s):
                await changed.wait()
            early = anyio.current_time() < reported_at + every_s
            if len(watched) == 1 and (progress := watched[0].progress) is not None and progress != forwarded:
                forwarded = progress
                done, total, message = progress
                # A server may report something new without a larger number (the status of a task).
                last = done if done > last else last + 1e-3
                await report(last, total, said(message) if message else message)
                reported_at = anyio.current_time()
                await anyio.sleep(PROGRESS_S)
                continue
            ended = sum(future.done for future in watched)
            if early and (len(watched) == 1 or ended <= last):
                await anyio.sleep(PROGRESS_S)
                continue
            reported_at = anyio.current_time()
            seconds = f"{anyio.current_time() - began:.0f} s"
            if len(watched) == 1:
                last += 1e-3
                asks = f", asks: {quoted(watched[0].question)}" if watched[0].question is not None else ""
                await report(last, None, f"{watched[0].id} {watched[0].state.value}{asks}, {seconds}")
            else:
                last = max(float(ended), last + 1e-3)
                await report(last, float(len(watched)), f"{ended} of {len(watched)} ended, {seconds}")
