"""What clients were shown about their calls, held against what the server recorded and what a later bridge says.

Owns the rules of at-most-once over any number of crashes. Reads nothing but answers and the server's log.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.client import Json, RpcError, canonical, eventually, records, text_of
from tests.support.restarting import INTERRUPTED, NEVER_SENT, UNFINISHED, Restarting, whole

BEFORE = "is from before the restart"
"""Said of an ID that was given before the first commit of a run, which also records the block that the ID is from."""
READ_ONLY = ("read", "big")
ACTS = (
    *("write", "write", "append", "append", "append", "read", "idempotent", "big"),
    *("value", "after", "see", "list", "burst"),
)
GONE = (ConnectionError, OSError)
"""What a client gets from a bridge that died during a request."""


@dataclass
class Made:
    """One call that was sent to a bridge."""

    label: str
    tool: str
    arguments: Json
    future: str | None = None
    """Its ID, if the handle arrived."""
    shown: Json | None = None
    """The result, if it was shown."""
    refused: str | None = None
    """The answer, if it had no handle: it names a future that does not exist."""
    failed: str | None = None
    """The reason, if it was shown as failed."""


@dataclass
class Ledger:
    """Everything that the clients of a house were shown."""

    house: Restarting
    dice: random.Random
    made: list[Made] = field(default_factory=list)
    prefix: str = "n"

    # -- making calls

    def call(self, client: Any, tool: str, **arguments: Any) -> Made:
        """Call a tool and note what is answered. Raises what the client raises."""
        made = Made(f"{self.prefix}{len(self.made)}", tool, arguments)
        self.made.append(made)
        answer = client.call(tool, {"label": made.label, **arguments})
        if not (answer.get("_meta") or {}).get("asyncfc/futures"):
            assert answer["isError"], answer
            made.refused = text_of(answer)
            return made
        (record,) = records(answer)
        made.future = record["future_id"]
        if record["status"] == "completed":
            made.shown = answer
        return made

    def read(self, client: Any, made: Made) -> None:
        """Await a result and note it."""
        answer = client.await_future(made.future)
        if "asyncfc/futures" not in (answer.get("_meta") or {}):
            known = made.shown
            made.shown = answer
            if known is not None and "asyncfc/futures" not in (known.get("_meta") or {}):
                assert canonical(whole(known)) == canonical(whole(answer))
        elif records(answer)[0]["status"] == "failed":
            made.failed = text_of(answer)

    def act(self, client: Any, acts: Sequence[str] = ACTS) -> None:
        """Do one thing that clients do, at random."""
        dice = self.dice
        known = [each for each in self.made[-20:] if each.future]
        match what := dice.choice(acts):
            case "value" if known:
                self.call(client, "append", text=f"${dice.choice(known).future}")
            case "after" if known:
                self.call(client, "write", _after=dice.choice(known).future)
            case "see" if known:
                self.read(client, dice.choice(known))
            case "burst":
                gate = self.house.gate()
                self.call(client, "append", until=str(gate))
                for _ in range(3):
                    self.call(client, "append")
                gate.touch()
            case "list":
                client.call("list_futures")
            case "big":
                self.call(client, "big", n_bytes=dice.choice([100, 100_000]))
            case "write" | "append" | "read" | "idempotent":
                self.call(client, what)
            case _:
                self.call(client, "write")

    def few(self, client: Any) -> None:
        """A fixed sequence that hits every point: quick and slow calls, an order, values, a large result."""
        write, read = self.call(client, "write"), self.call(client, "read")
        gate = self.house.gate()
        held = self.call(client, "append", until=str(gate))
        waiting = [self.call(client, "append") for _ in range(2)]
        value = self.call(client, "append", text=f"${write.future}")
        after = self.call(client, "write", _after=waiting[0].future)
        big, idempotent = self.call(client, "big", n_bytes=200_000), self.call(client, "idempotent")
        gate.touch()
        for each in (write, read, held, *waiting, value, after, big, idempotent):
            self.read(client, each)
        client.call("list_futures")

    # -- judging

    def settled(self, client: Any) -> None:
        """Return when every future of the house has ended."""

        def ended() -> bool:
            answer = client.call("list_futures", {"status": "all"})["structuredContent"]
            return all(entry["status"] not in UNFINISHED for entry in answer["futures"]) and all(
                not client.call("list_futures", {"status": status})["structuredContent"]["futures"]
                for status in UNFINISHED
            )

        eventually(ended, "all futures have ended")

    def judge(self, client: Any) -> Counter[str]:
        """Hold everything that was shown against the server's log and the present bridge; count the outcomes."""
        runs = self.house.runs()
        assert max(runs.values(), default=0) <= 1, {k: v for k, v in runs.items() if v > 1}
        outcomes = Counter[str]()
        for made in self.made:
            if made.refused is not None:
                assert runs[made.label] == 0, f"{made.label} was executed, though: {made.refused}"
                outcomes["refused"] += 1
                continue
            if made.future is None:
                outcomes["unanswered"] += 1
                continue
            outcome = self._outcome(client, made, runs[made.label])
            outcomes[outcome] += 1
        order = [each.label for each in self.made if each.tool == "append"]
        place = {label: number for number, label in enumerate(order)}
        appended = [event["label"] for event in self.house.events("run") if event["label"] in place]
        assert appended == sorted(appended, key=place.__getitem__), appended
        return outcomes

    def _outcome(self, client: Any, made: Made, runs: int) -> str:
        """The outcome of a call in one word; fails if it contradicts what was shown or what the server recorded."""
        what = f"{made.future} {made.tool} {made.label}, {runs} runs"
        answer = client.await_future(made.future)
        if "asyncfc/futures" not in (answer.get("_meta") or {}):
            assert not answer.get("isError"), f"{what}: {text_of(answer)}"
            assert made.failed is None, f"{what}: was shown as {made.failed}, and now has a result"
            assert runs == 1, f"{what}: completed"
            assert answer["structuredContent"]["label"] == made.label, f"{what}: another call's result"
            if made.shown is not None:
                assert result_of(made.shown) == answer["structuredContent"], f"{what}: another result than was shown"
            return "completed"
        text = text_of(answer)
        assert made.shown is None, f"{what}: was shown as completed, and now: {text}"
        assert made.failed in (None, text), f"{what}: was shown as {made.failed}, and now: {text}"
        if BEFORE in text or NEVER_SENT in text:
            # A call that only reads may be sent before it is recorded.
            assert runs == 0 or made.tool in READ_ONLY, f"{what}: executed, and now: {text}"
            return "never sent" if NEVER_SENT in text else "before"
        if "not sent" in text:
            assert runs == 0, f"{what}: executed, and now: {text}"
            return "not sent"
        if INTERRUPTED in text:
            return "interrupted"
        assert made.arguments.get("_after") or "$" in str(made.arguments.get("text")), f"{what}: {text}"
        assert runs == 0, f"{what}: {text}"
        return "needs another"


def result_of(answer: Json) -> Any:
    """The structured content of a result, in a handle or alone."""
    structured = answer["structuredContent"]
    return structured["result"] if "future_id" in structured else structured


def tolerate(act: Callable[[], object]) -> bool:
    """Do something with a bridge that may die; false once it has."""
    try:
        act()
    except GONE:
        return False
    except RpcError as error:
        raise AssertionError(error) from None
    return True
