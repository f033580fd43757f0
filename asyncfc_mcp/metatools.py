"""The bridge's own tools: `await_future`, `gather`, `cancel_future`, `list_futures`; each schema beside its handler.

Owns waiting on behalf of a client: how long, in which slices, with which progress. They never run a downstream tool,
so a host's permission prompt for every tool keeps working.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio

from asyncfc_mcp import answers, own_arguments, results
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.errors import InvalidArguments
from asyncfc_mcp.futures import CallerIdentity, Future, Question, Result, Scope, State
from asyncfc_mcp.hosts import UNKNOWN, HostProfile
from asyncfc_mcp.questions import CLAIM_S
from asyncfc_mcp.quotation import quoted, said
from asyncfc_mcp.scheduler import wait_for

HEARTBEAT_S: Final = 5.0
"""While a wait lasts, a client that gave a progress token hears something at least this often."""
PROGRESS_S: Final = 0.05
"""Progress that follows within this time is passed on as one."""
IMPATIENT_SHARE: Final = 0.8
"""A client that gave up on a wait after T seconds gets waits of this share of T from then on."""
IMPATIENT_FLOOR_S: Final = 3.0
"""A cancellation sooner than this says nothing about a client's time-out: somebody pressed a key. The shortest time-out
that was seen is 5 s."""
LIST_LIMIT: Final = 50
"""How many futures `list_futures` shows."""
GATHER_LIMIT: Final = 5000
"""How many futures one `gather` may name."""
CANCEL_WAIT_S: Final = 5.0
"""How long `cancel_future` waits for a running call to be told."""
ENOUGH: Final = ("all", "any")
"""When `gather` returns."""
_ENOUGH_IN_PYTHON: Final = {"all_completed": "all", "first_completed": "any"}
"""The same in the words of Python's `wait`, as models write them."""
STATES: Final = tuple(state.value for state in State)


class Report(Protocol):
    """Sends progress to the waiting client; does nothing where it gave no token."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


class InputNeeded(Exception):
    """Not a failure: the answer to the request is a question, which the client answers on its next try (2026-07-28)."""

    def __init__(self, questions: Sequence[tuple[Future, Question]], futures: Sequence[Future] = ()) -> None:
        super().__init__(f"{len(questions)} questions")
        self.questions = tuple(questions)
        self.futures = tuple(futures)
        """What the call with `_wait` waits for; its own future last."""


@dataclass(slots=True, eq=False)
class Client:
    """Who is asking: what they may see, whose unread results are theirs, and how patient they are."""

    scope: Scope
    conversation: str | None = None
    profile: HostProfile = UNKNOWN
    patience_s: float | None = None
    """Learned: waits longer than this were given up on."""
    proven_s: float = 0.0
    """Learned: an answer was waited for this long, and not given up on."""
    _unread: dict[str, Future] = field(default_factory=dict[str, Future])
    """Futures of the conversation whose results nobody has received, in order of submission; some may have been read
    since, and are dropped when they are come across."""
    _ended: list[Future] = field(default_factory=list[Future])
    """Those that ended since somebody looked, in that order: what an answer may bring along. Apart from the others, so
    that looking costs what ended and not what is open."""
    _sweep_at: int = 256

    def waited(self, seconds: float) -> None:
        """Remember that a request was answered after this time and had not been cancelled."""
        if seconds > self.proven_s:
            self.proven_s = seconds

    def follow(self, future: Future) -> None:
        """Count a future among the conversation's unread ones."""
        self._unread[future.key] = future
        if future.done:
            self._ended.append(future)
        else:
            future.watchers.append(self._on_change)
        if len(self._unread) > self._sweep_at:
            self._sweep_at = max(256, 2 * len(self.unread_futures()))

    def _on_change(self, future: Future) -> None:
        if future.done:
            future.watchers.remove(self._on_change)
            self._ended.append(future)

    def unread_futures(self) -> list[Future]:
        """The conversation's futures that were not read yet, finished or not."""
        self._unread = {key: future for key, future in self._unread.items() if future.read_at is None}
        return list(self._unread.values())

    def take_ended(self, max_bytes: int) -> list[Future]:
        """The unread results of at most `max_bytes` that came since the last time, in order of completion. A larger one
        is not asked about again; it stays unread."""
        if not self._ended:
            return []
        ended, self._ended = self._ended, []
        for future in ended:
            if future.read_at is not None:
                self._unread.pop(future.key, None)
        return [future for future in ended if future.read_at is None and future.size <= max_bytes]

    def wait_s(self, bridge: Bridge, asked: float | None = None, *, hears: bool = False) -> float:
        """How long a wait may last, in seconds.

        Args:
            hears: it is sent progress meanwhile, which keeps some hosts waiting.
        """
        longest = bridge.settings.max_wait_s
        if not (hears and self.profile.progress_resets_timeout):
            longest = min(longest, max(self.profile.wait_s, self.proven_s))
        if self.patience_s is not None:
            longest = min(longest, self.patience_s)
        return longest if asked is None else min(asked, longest)


@dataclass(slots=True)
class Caller:
    """A client in the course of one request."""

    client: Client
    report: Report | None = None
    """Sends progress; None where it did not ask for any."""
    put: Callable[[Question], bool] | None = None
    """Puts a question to it at once, in the background, or cannot; None where questions travel in answers."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it can be asked."""
    identity: CallerIdentity | None = None
    """Which client this is among those of its scope, as far as it can be told."""
    namer: CallerIdentity | None = None
    """The caller among whose names those in the request are."""


async def wait(
    bridge: Bridge,
    caller: Caller,
    futures: Sequence[Future],
    *,
    any_: bool = False,
    timeout_s: float | None = None,
) -> None:
    """Wait until the futures are terminal or the wait's bound is reached; keep the client awake, and have it asked
    what the servers of these futures want to know. A client that cancels the wait tells of its patience, which is
    remembered.

    Raises:
        InputNeeded: there are questions, and they travel in the answer.
    """
    client = caller.client
    began = anyio.current_time()
    deadline = began + client.wait_s(bridge, timeout_s, hears=caller.report is not None)
    needed: list[tuple[Future, Question]] = []
    try:
        if caller.report is None:
            needed = await _wait_until(bridge, caller, futures, any_, deadline)
        else:
            async with anyio.create_task_group() as tg:
                tg.start_soon(_keep_awake, futures, caller.report, min(HEARTBEAT_S, client.profile.timeout_s / 2))
                needed = await _wait_until(bridge, caller, futures, any_, deadline)
                tg.cancel_scope.cancel()
    except anyio.get_cancelled_exc_class():
        waited = anyio.current_time() - began
        if waited >= IMPATIENT_FLOOR_S:
            client.patience_s = min(IMPATIENT_SHARE * waited, client.patience_s or waited)
        raise
    if needed:
        raise InputNeeded(needed)


async def _wait_until(
    bridge: Bridge, caller: Caller, futures: Sequence[Future], any_: bool, deadline: float
) -> list[tuple[Future, Question]]:
    """The questions that the client has to be asked in the answer, if that is what ended the wait."""
    enough = any if any_ else all
    stirred = anyio.Event()

    def watch(future: Future) -> None:
        if future.done or future.questions:
            stirred.set()

    for future in futures:
        future.watchers.append(watch)
    try:
        with bridge.questions.taking(caller.put, caller.capabilities, caller.identity) as take:
            while not enough(future.done for future in futures):
                if claimed := take(futures):
                    return claimed
                # A claim that its owner does not keep runs out without anything changing.
                until = deadline
                if any(future.questions for future in futures):
                    until = min(deadline, anyio.current_time() + CLAIM_S)
                with anyio.CancelScope(deadline=until):
                    await stirred.wait()
                if anyio.current_time() >= deadline:
                    break
                stirred = anyio.Event()
    finally:
        for future in futures:
            future.watchers.remove(watch)
    return []


async def _keep_awake(futures: Sequence[Future], report: Report, every_s: float) -> None:
    """Forward the downstream's progress, a question as soon as it is asked, or a heartbeat where there is neither. The
    numbers only grow, as MCP asks."""
    last = 0.0
    passed: tuple[float, float | None, str | None] | None = None
    told: set[str] = set()
    began = anyio.current_time()
    changed = anyio.Event()

    def watch(_: Future) -> None:
        changed.set()

    watched = list(futures)
    for future in watched:
        future.watchers.append(watch)
    said_at = began
    try:
        while True:
            for future in watched:
                for question in [q for key, q in future.questions.items() if key not in told and not q.settled]:
                    told.add(question.id)
                    last += 1e-3
                    total = None if len(watched) == 1 else float(len(watched))
                    await report(last, total, f"{future.id} {future.state.value}, asks: {quoted(question.text)}")
            # From the last report, not from the last change: futures that report often must not silence this one.
            with anyio.CancelScope(deadline=said_at + every_s):
                await changed.wait()
            changed = anyio.Event()
            heard = anyio.current_time() < said_at + every_s
            if len(watched) == 1 and (progress := watched[0].progress) is not None and progress != passed:
                passed = progress
                done, total, message = progress
                # A server may say something new without being any further (the status of a task).
                last = done if done > last else last + 1e-3
                await report(last, total, said(message) if message else message)
                said_at = anyio.current_time()
                await anyio.sleep(PROGRESS_S)
                continue
            ended = sum(future.done for future in watched)
            if heard and (len(watched) == 1 or ended <= last):
                await anyio.sleep(PROGRESS_S)
                continue
            said_at = anyio.current_time()
            seconds = f"{anyio.current_time() - began:.0f} s"
            if len(watched) == 1:
                last += 1e-3
                asks = f", asks: {quoted(watched[0].question)}" if watched[0].question is not None else ""
                await report(last, None, f"{watched[0].id} {watched[0].state.value}{asks}, {seconds}")
            else:
                last = max(float(ended), last + 1e-3)
                await report(last, float(len(watched)), f"{ended} of {len(watched)} ended, {seconds}")
    finally:
        for future in watched:
            future.watchers.remove(watch)


def _given(arguments: Mapping[str, Any], *keys: str) -> Any:
    """The argument under the first of these names that is there."""
    return next((arguments[key] for key in keys if arguments.get(key) is not None), None)


async def _future(bridge: Bridge, caller: Caller, tool: str, arguments: Mapping[str, Any]) -> Future:
    ref = own_arguments.one_ref(tool, _given(arguments, "future_id", "future_ids", "id", "future"))
    [future] = await bridge.arrivals.futures(caller.client.scope, [ref], caller.namer)
    return future


async def await_future(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    timeout_s = own_arguments.seconds("await_future", arguments.get("timeout_s"))
    future = await _future(bridge, caller, "await_future", arguments)
    await wait(bridge, caller, [future], timeout_s=timeout_s)
    if not future.done:
        return answers.handle(future, bridge.scheduler.waiting_for(future))
    bridge.store.mark_read(future)
    limit = bridge.settings.max_result_bytes
    if limit is not None and future.result is not None and results.has_more(future.result, limit):
        return results.first_part(future, limit)
    return answers.alone(future)


async def gather(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    refs = own_arguments.several_refs("gather", _given(arguments, "future_ids", "future_id", "ids", "futures"))
    if len(refs) > GATHER_LIMIT:
        raise InvalidArguments("gather", f"future_ids has {len(refs)} entries; {GATHER_LIMIT} at most at a time")
    words = (*ENOUGH, *_ENOUGH_IN_PYTHON)
    when = own_arguments.choice("gather", "return_when", arguments.get("return_when"), words, '"all" or "any"')
    timeout_s = own_arguments.seconds("gather", arguments.get("timeout_s"))
    futures = await bridge.arrivals.futures(caller.client.scope, refs, caller.namer)
    distinct = list({future.key: future for future in futures}.values())
    await wait(bridge, caller, distinct, any_=_ENOUGH_IN_PYTHON.get(when or "", when) == "any", timeout_s=timeout_s)
    for future in distinct:
        if future.done:
            bridge.store.mark_read(future)
    return answers.several((future, bridge.scheduler.waiting_for(future)) for future in futures)


async def cancel_future(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    future = await _future(bridge, caller, "cancel_future", arguments)
    if future.done:
        answer = answers.handle(future)
        answer["content"][0]["text"] += "; it had ended before, nothing was cancelled"
        return answer
    bridge.scheduler.cancel(future)
    await wait_for([future], timeout_s=CANCEL_WAIT_S)
    if not future.done:
        answer = answers.handle(future)
        answer["content"][0]["text"] = f"{future.id} {future.tool} is being cancelled; the server has not let go yet."
        return answer
    if future.failure is None:  # it ended by itself before the cancellation reached it: its result is still unread
        return answers.handle(future)
    bridge.store.mark_read(future)
    answer = answers.handle(future)
    answer["content"][0]["text"] = answers.failure_text(future)
    return answer


async def list_futures(bridge: Bridge, caller: Caller, arguments: Mapping[str, Any]) -> Result:
    expected = f"one of {', '.join(STATES)}"
    status = own_arguments.choice("list_futures", "status", arguments.get("status"), (*STATES, "all"), expected)
    now = anyio.current_time()
    shown: list[tuple[Future, tuple[Sequence[str], str], float]] = []
    more = 0
    for future in bridge.store.newest(caller.client.scope):
        if status not in (None, "all", future.state.value):
            continue
        if len(shown) == LIST_LIMIT:
            more += 1
            continue
        end = future.ended_at if future.ended_at is not None else now
        shown.append((future, bridge.scheduler.waiting_for(future), end - (future.started_at or future.submitted_at)))
    answer = answers.listing(shown, more, bridge.troubles())
    if not caller.client.scope.listed:
        answer["content"][0]["text"] = "Futures are not listed here: nobody is authenticated. Use the IDs that you got."
        answer["structuredContent"]["note"] = answer["content"][0]["text"]
    return answer


Handler = Callable[[Bridge, Caller, Mapping[str, Any]], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class MetaTool:
    """One of the bridge's own tools."""

    handler: Handler
    description: str
    properties: Mapping[str, Any]
    required: Sequence[str] = ()
    read_only: bool = True

    def listed(self, name: str) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": dict(self.properties)}
        if self.required:
            schema["required"] = list(self.required)
        annotations: dict[str, Any] = {"readOnlyHint": self.read_only, "openWorldHint": False}
        if not self.read_only:
            annotations |= {"destructiveHint": False, "idempotentHint": True}
        return {
            "name": name,
            "description": self.description,
            "inputSchema": schema,
            "annotations": annotations,
        }


# Wider than what is meant, where hosts that validate would keep a model's slip from being understood (`own_arguments`).
_ID: Final = {"type": ["string", "array"], "items": {"type": "string"}}
_IDS: Final = {"type": ["array", "string"], "items": {"type": "string"}}
_TIMEOUT: Final = {"type": ["number", "string", "null"], "minimum": 0}

METATOOLS: Final[Mapping[str, MetaTool]] = {
    "await_future": MetaTool(
        await_future,
        "Wait for a future (ID or name) and return its tool's result. "
        "If it is not ready within timeout_s, its status comes back; call again.",
        {"future_id": _ID, "timeout_s": _TIMEOUT},
        ["future_id"],
    ),
    "gather": MetaTool(
        gather,
        "Wait for several futures (IDs or names) and return all their results; return_when any: as soon as one ended.",
        {
            "future_ids": _IDS,
            "return_when": {"type": ["string", "null"], "description": " | ".join(ENOUGH)},
            "timeout_s": _TIMEOUT,
        },
        ["future_ids"],
    ),
    "cancel_future": MetaTool(
        cancel_future,
        "Cancel a future that is not needed any more.",
        {"future_id": _ID},
        ["future_id"],
        read_only=False,
    ),
    "list_futures": MetaTool(
        list_futures,
        "List futures, newest first, with status and which results are unread.",
        {"status": {"type": ["string", "null"], "description": " | ".join(STATES)}},
    ),
}
"""Name → schema and handler. The one place to add a tool of ours."""


_GIST: Final = """
Other tools answer at once with a future ID (f1) if slow. Optional arguments of each:
_wait:"this", or IDs and names ("f1, x"): the answer brings these results.
_as:"x" names the future. Pass results on as arguments: "$x", "$f1", "$x.items[0].id", inside text "${f:x.title}"."""
"""The protocol for models whose host hands no instructions on, in the description of a tool."""


def listed(*, reads_instructions: bool) -> list[dict[str, Any]]:
    """The bridge's own tools as `tools/list` has them."""
    tools = [tool.listed(name) for name, tool in METATOOLS.items()]
    if not reads_instructions:
        tools[0]["description"] += _GIST
    return tools


def instructions(*, conversation: bool) -> str:
    """The protocol for the model, cheapest pattern first; at most 512 characters, since Codex reads no more.

    Args:
        conversation: whether the client's connection is one conversation, so that `_wait: "all"` means something.
    """
    last = (
        '_wait:"all": its answer brings all unread results'
        if conversation
        else '_wait with IDs or names ("f1, x") or "this": its answer brings these results and its own'
    )
    return (
        "Tools run in the background: a call answers at once with a future ID (f1), or with the result if quick. "
        f"Send independent calls together; on the last call of a turn pass {last}. "
        'Name a call with _as:"x" and pass results on: "$x", "$f1", "$x.items[0].id", inside text "${f:x.title}"; '
        "dependent calls may share a turn. Only calls on the same declared state keep order; "
        "else await_future or gather first. list_futures shows all."
    )
