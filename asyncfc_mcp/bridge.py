"""The bridge: servers, catalog and scheduler put together, and every call's way through them.

The composition root, opened once above all connections: its state outlives a request and a client. Refuses to know
how clients are connected and in which words they are answered.
"""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp import references
from asyncfc_mcp.answers import without_our_keys
from asyncfc_mcp.arrivals import Arrival, Arrivals
from asyncfc_mcp.barriers import barrier_reason
from asyncfc_mcp.catalog import Catalog, CatalogBuilder, Source, ToolEntry
from asyncfc_mcp.checker import Checker
from asyncfc_mcp.codec import held_size
from asyncfc_mcp.config import BridgeConfig, StdioSpec
from asyncfc_mcp.downstream import Downstream, Status
from asyncfc_mcp.errors import (
    AmbiguousName,
    BridgeError,
    CallFailed,
    ConfigError,
    ForeignName,
    ProtocolFailure,
    RpcError,
    ServerDied,
    ServerUnavailable,
    StaleReference,
    UnknownTool,
)
from asyncfc_mcp.expect import expected
from asyncfc_mcp.following import follow_task
from asyncfc_mcp.future_ids import FutureIds
from asyncfc_mcp.futures import RECORD_BYTES, CallerIdentity, Future, FutureStore, NumbersOfRun, Result, Scope, is_id
from asyncfc_mcp.json_types import json_type, parse_json
from asyncfc_mcp.names import Handed
from asyncfc_mcp.offers import TASKS_EXTENSION, OfferCache
from asyncfc_mcp.ordering import Effect, EffectTemplate, ServerState, declared_effect
from asyncfc_mcp.owners import extension_owner, linking, resource_owner
from asyncfc_mcp.processes import Child, Reaper
from asyncfc_mcp.protocol import LOG_LEVEL_META_KEY, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND, OnProgress, OnSent
from asyncfc_mcp.questions import CAPABILITY, MAX_ROUNDS, Questions, refuse_unless_able
from asyncfc_mcp.scheduler import Abandon, Call, Ended, Rest, Scheduler
from asyncfc_mcp.start_queue import StartQueue
from asyncfc_mcp.state_roots import server_states, use_roots
from asyncfc_mcp.stderr import log_path
from asyncfc_mcp.validate import Validator

logger = logging.getLogger(__name__)

RESERVED: Final = ("await_future", "gather", "cancel_future", "list_futures")
"""Names of the bridge's own tools, which no wrapped tool may have."""
FIRST_LISTING_S: Final = 10.0
"""A client that asks for lists while servers without a cached listing start is kept waiting this long at most."""
INTRODUCTION_S: Final = 1.0
"""How long servers are kept waiting for a client to say what it can be asked."""
SET_LEVEL_S: Final = 5.0
"""How long servers may take to accept a log level."""
STEP_S: Final = 0.005
"""How long a step of the preparation of a listing takes before others have their turn."""
STRAGGLERS_S: Final = 2.0
"""How long those that know their lists wait for the servers that do not."""
_OURS: Final = ("io.modelcontextprotocol/", "asyncfc/")
"""Keys of `_meta` that belong to one hop; they are not passed on."""


NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Sends a request to the client and returns its result; raises `RpcError`."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """A tool with what is derived from it once: its effect and the check of its arguments."""

    entry: ToolEntry
    effect: EffectTemplate
    validator: Validator
    loosened: "_Loosened"
    fixed_effect: Effect | None
    """The effect of every call, where it does not depend on the arguments."""

    @property
    def ordered(self) -> bool:
        """Whether its calls read or write any state, as far as is known before their arguments are."""
        fixed = self.fixed_effect
        return fixed is None or bool(fixed.reads or fixed.writes)

    @classmethod
    def of(cls, entry: ToolEntry, state: ServerState) -> "Wiring":
        policy = entry.policy
        barrier = barrier_reason(entry.raw) if entry.read_only else None
        effect = declared_effect(state, policy.reads, policy.writes, policy.ordering, entry.annotations, barrier)
        return cls(
            entry,
            effect,
            Validator(entry.input_schema),
            _Loosened(entry),
            None if effect.placeholders else effect.bind({}, lambda value: False),
        )


@dataclass(slots=True)  # not frozen: one is made for every call, and that would cost twice as much
class Origin:
    """Who makes a call, and how."""

    scope: Scope
    conversation: str | None = None
    name: str | None = None
    """How the caller wants to refer to the future (`_as`)."""
    meta: Mapping[str, Any] | None = None
    """`_meta` of the request."""
    capabilities: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What the client can be asked."""
    client: CallerIdentity | None = None
    """Which of its scope's clients it is."""
    namer: CallerIdentity | None = None
    """The caller among whose names `name` and those in the arguments are."""
    answers: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """`inputResponses` and `requestState` of a call that is sent again, if its questions go through."""
    asks_through: bool = False
    """Questions go up in the result, as the server put them, instead of waiting on the future."""
    answered_first: bool = False
    """The caller is answered with a handle, at once."""


@dataclass(frozen=True, slots=True)
class _Meant:
    """What the references in a call's arguments mean."""

    bindings: Mapping[str, str]
    """Reference as written → key of its future."""
    takes: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """ID or name as written → key of the future whose value the arguments take. Escaped references are bound and take
    nothing."""
    missing: tuple[str, ...] = ()
    """Names that nothing has yet, but a parallel call may be about to take."""


NOTHING_MEANT: Final = _Meant(NOTHING)


def loop_clock() -> Callable[[], float]:
    """The clock of the event loop in which it is first asked, in seconds.

    `anyio.current_time` finds out which loop that is each time anew: five calls instead of one.
    """
    clock: Callable[[], float] | None = None

    def now() -> float:
        nonlocal clock
        if clock is None:
            loop: Any = anyio.lowlevel.current_token().native_token
            clock = cast("Callable[[], float]", getattr(loop, "time", anyio.current_time))
        return clock()

    return now


class Bridge:
    """All wrapped servers behind one door.

    Args:
        config: which servers, and all settings.
        cache: the listings last seen.
        log_folder: where each server's stderr goes; None keeps only its tail.
        echo: where stderr lines are repeated (`--verbose`).
        reaper: what ends the servers' processes if we vanish, if there is one already.
        children: the servers' processes that were started ahead, by server.
        ids: numbers of future IDs; None counts from 1 in this run only.
    """

    def __init__(
        self,
        config: BridgeConfig,
        *,
        cache: OfferCache | None = None,
        log_folder: Path | None = None,
        echo: TextIO | None = None,
        reaper: Reaper | None = None,
        children: Mapping[str, Child] | None = None,
        ids: FutureIds | None = None,
    ) -> None:
        self.config = config
        self.settings = config.settings
        self._cache = cache or OfferCache(None)
        self._reaper = reaper or Reaper()
        self._ids = ids
        clock = loop_clock()
        self.store = FutureStore(
            clock,
            max_pending=self.settings.max_pending,
            max_bytes=self.settings.max_result_bytes_total,
            keep_s=self.settings.keep_s,
            unread_keep_s=self.settings.unread_keep_s,
            caller_share=self.settings.max_caller_share,
            numbers=ids.count if ids is not None else NumbersOfRun,
        )
        self._checker = Checker()
        self.scheduler = Scheduler(
            self.store,
            self._execute,
            clock=clock,
            server_limits={server.name: server.limit for server in config.servers},
            send=self._send,
            check=self._checker.first_error,
            order_s=self.settings.public_order_s,
        )
        self.questions = Questions(self.scheduler, clock, self.settings.question_timeout_s)
        self._client_capabilities: Mapping[str, Any] = {}
        self._introduced = anyio.Event()
        self._parts = _ClientParts()
        self._direct: Ask | None = None
        self._log_level: str | None = None
        self.on_notification: Callable[[str, str, Mapping[str, Any]], Callable[[], Awaitable[None]] | None] | None = (
            None
        )
        """Told of what servers say that is for clients: the server, the method, the parameters."""
        self.starts = StartQueue(len(config.servers))
        self.downstreams: dict[str, Downstream] = {}
        for server in config.servers:
            local = isinstance(server.spec, StdioSpec)
            self.downstreams[server.name] = Downstream(
                server,
                self,
                capabilities=lambda: self._client_capabilities,
                reaper=self._reaper,
                log_path=log_path(log_folder, server.name) if log_folder and local else None,
                echo=echo,
                offer=self._cache.load(server),
                child=(children or {}).get(server.name),
                starts=self.starts,
            )
        self.catalog = Catalog()
        self._builder = CatalogBuilder()
        self.handed = Handed(frozenset(RESERVED))
        self._handed_out = self.catalog
        self._mended: set[str] = set()
        """Servers of which the log has said that their listings had to be mended."""
        self._states = server_states(config.servers)
        self._subscribed: dict[str, str] = {}
        """URI → the server that was asked to announce its changes."""
        self._prepared: dict[str, dict[int, Wiring]] = {}
        """Server → tools that are to be listed soon, by the identity of their raw entries."""
        self.wirings: dict[str, Wiring] = {}
        """The tools listed at this moment."""
        self._observers: list[Callable[[frozenset[str]], None]] = []
        _check_effects(config, self._states)
        self.arrivals = Arrivals(self.store, self.settings.forward_wait_ms / 1000)
        self._settled = anyio.Event()
        self._rebuilt = anyio.Event()
        """Set, and replaced, when the catalog has changed."""
        self._started_at = 0.0
        self._rebuild()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Bridge"]:
        """Start all servers side by side and keep them until the block ends; then nothing of theirs is left."""
        self._started_at = anyio.current_time()
        try:
            async with anyio.create_task_group() as tg:
                await tg.start(self.scheduler.run)
                for downstream in self.downstreams.values():
                    tg.start_soon(downstream.run)
                tg.start_soon(self._watch_start)
                yield self
                tg.cancel_scope.cancel()
        finally:
            await self._checker.aclose()
            self._reaper.close()
            if self._ids is not None:
                self._ids.close()

    async def _watch_start(self) -> None:
        for downstream in self.downstreams.values():
            await downstream.settled()
        self._settled.set()

    # --- the catalog ---------------------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        self.catalog = self._builder.build(
            (
                Source(
                    downstream.config,
                    downstream.offer.listing("tools"),
                    downstream.offer.listing("prompts"),
                    downstream.offer.listing("resources"),
                    downstream.offer.listing("resourceTemplates"),
                )
                for downstream in self.downstreams.values()
            ),
            self.handed,
        )
        old, self.wirings = self.wirings, {}
        for name, entry in self.catalog.tools.items():
            known = old.get(name)
            if known is not None and known.entry.raw is entry.raw:
                self.wirings[name] = known if known.entry is entry else replace(known, entry=entry)
            else:
                ready = self._prepared.get(entry.server, {}).get(id(entry.raw))
                same = ready is not None and ready.entry.raw is entry.raw
                self.wirings[name] = (
                    replace(ready, entry=entry, loosened=_Loosened(entry))
                    if ready is not None and same
                    else Wiring.of(entry, self._states[entry.server])
                )
        for server, remarks in self.catalog.mended.items():
            if server not in self._mended:
                self._mended.add(server)
                logger.warning("server %r does not keep to MCP's schema: %s (all: see inspect)", server, remarks[0])

    def hand_out(self) -> None:
        """Record that a client was given the names of the catalog: from now on they are of these tools only."""
        self.starts.answered()
        if self._handed_out is not self.catalog:
            self._handed_out = self.catalog
            self.handed.tools |= {name: (entry.server, entry.tool) for name, entry in self.catalog.tools.items()}
            self.handed.prompts |= {name: (entry.server, entry.prompt) for name, entry in self.catalog.prompts.items()}

    async def found(self, name: str) -> Wiring:
        """The tool listed under this name, as soon as it is listed, or all listings are known.

        Raises:
            UnknownTool: there is none.
        """
        if name not in self.wirings:
            async with anyio.create_task_group() as tg:

                async def appear() -> None:
                    while name not in self.wirings:
                        await self._rebuilt.wait()
                    tg.cancel_scope.cancel()

                tg.start_soon(appear)
                await self.listed()
                tg.cancel_scope.cancel()
        return self.wiring(name)

    def wiring(self, name: str) -> Wiring:
        """The tool listed under this name at this moment.

        Raises:
            UnknownTool: there is none.
        """
        wiring = self.wirings.get(name)
        if wiring is None:
            known = {server for server, downstream in self.downstreams.items() if downstream.known}
            absent = [(server, why) for server, why in self.troubles() if server not in known]
            raise UnknownTool(name, [*self.wirings, *RESERVED], absent)
        return wiring

    def observe(self, observer: Callable[[frozenset[str]], None]) -> None:
        """Have `observer` called with the kinds of listings (see `offers.LISTINGS`) that changed."""
        self._observers.append(observer)

    async def listed(self, *kinds: str) -> Catalog:
        """The catalog, as soon as every server's listings are known: from its cache, from itself, or it has failed.

        Waits for the first server until `FIRST_LISTING_S` after the start, and no longer than that for the others, nor
        `STRAGGLERS_S` longer than for the one before: a slow one must not hold up the others' tools, and comes with
        `list_changed`.

        Args:
            kinds: those that are asked for (see `offers.LISTINGS`); tools, if none is named.
        """
        kinds = kinds or ("tools",)
        unknown = [d for d in self.downstreams.values() if not d.has_listed(kinds)]
        left = self._started_at + FIRST_LISTING_S - anyio.current_time()
        if not unknown or left <= 0:
            return self.catalog
        first = anyio.Event()
        if len(unknown) < len(self.downstreams):
            first.set()

        with anyio.move_on_after(left):
            async with anyio.create_task_group() as tg:

                async def settle(downstream: Downstream) -> None:
                    await downstream.listed(kinds)
                    first.set()
                    wait_for_others()

                def wait_for_others() -> None:
                    tg.cancel_scope.deadline = anyio.current_time() + STRAGGLERS_S

                for downstream in unknown:
                    tg.start_soon(settle, downstream)
                await first.wait()
                wait_for_others()
        return self.catalog

    def notes(self) -> list[str]:
        """Remarks for `inspect`: on the catalog, and on declared state paths."""
        unknown = [
            f"{{{argument}}} in the state paths of {name} is no argument of it"
            for name, wiring in self.wirings.items()
            for argument in _unknown_placeholders(wiring)
        ]
        listings = [
            f"server {name!r}: {problem}"
            for name, downstream in self.downstreams.items()
            for problem in downstream.listing_problems.values()
            if problem
        ]
        return [*self.catalog.notes, *listings, *unknown]

    async def started(self) -> None:
        """Return when every server is up or has failed once."""
        await self._settled.wait()

    def state_of(self, server: str) -> ServerState:
        """The part of the state tree in which a server's state lies."""
        return self._states[server]

    def silent_tools(self) -> list[str]:
        """Tools that say nothing of what they change and are not ordered for that."""
        return [name for name, wiring in self.wirings.items() if wiring.effect.source == "nothing said"]

    async def ask_extension(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Pass a request that no revision of MCP knows on to the server that declared its extension.

        Raises:
            CallFailed: that server gave no answer, or it cannot be told which one it is.
        """
        server = extension_owner(method, {name: d.offer.extensions for name, d in self.downstreams.items()})
        if server is None:
            raise ProtocolFailure(method, METHOD_NOT_FOUND, "Method not found", method)
        return await self.ask(server, method, params)

    def troubles(self) -> list[tuple[str, str]]:
        """Name and condition of every server that is not up, or does not list its tools."""
        return [(server.name, f"misconfigured: {server.reason}") for server in self.config.unusable] + [
            (name, f"{d.status.value}: {reason}" if reason else d.status.value)
            for name, d in self.downstreams.items()
            if (reason := d.reason or d.listing_problems.get("tools")) or d.status is not Status.READY
        ]

    # --- a call's way --------------------------------------------------------------------------------------------

    async def submit(
        self,
        wiring: Wiring,
        arguments: dict[str, Any] | None,
        origin: "Origin",
        *,
        along: Sequence[str] = (),
        after_all: bool = False,
    ) -> Future:
        """Take a call on and return its future. Waits only where the arguments name a future that does not exist yet.

        Args:
            along: IDs and names that the caller waits for beside this call; unknown ones refuse it.
            after_all: its caller wants to know of all calls that came before it, so none of them is submitted later.

        Raises:
            TooManyFutures, InvalidName, NameInUse: see `FutureStore.create`.
            UnknownFuture: there is none that `along` names, nor a call that is going to take the name.
            AmbiguousName, ForeignName, StaleReference: a reference, or a name in `along`, is not only this caller's, or
                its future is gone.
            Cycle: the call refers to itself through others.
        """
        scope, namer = origin.scope, origin.namer
        meant = self._meant(wiring, arguments, origin)
        unknown = tuple(ref for ref in along if self.store.own(scope, ref, namer) is None)
        if meant.missing or unknown or self.arrivals:
            typed = _as_typed(arguments, wiring.loosened, meant.bindings) or {}
            effect = wiring.effect.bind(typed, lambda value: _may_refer(value))
            arrival = Arrival(scope, namer, origin.name, effect, meant.missing, unknown, after_all)
            await self.arrivals.pass_through(arrival)
            for ref in unknown:
                if self.arrivals.announced(scope, ref, namer) is None:
                    self.store.get(scope, ref, namer)
            meant = self._meant(wiring, arguments, origin, waited=True)
        return self._submit(wiring, arguments, origin, meant)

    def submit_now(self, wiring: Wiring, arguments: dict[str, Any] | None, origin: Origin) -> Future | None:
        """Like `submit`; None, and nothing is done, where that would have to wait.

        Raises:
            TooManyFutures, InvalidName, NameInUse: see `FutureStore.create`.
            AmbiguousName, ForeignName, StaleReference: a reference is not only this caller's, or its future is gone.
        """
        if self.arrivals:
            return None
        meant = self._meant(wiring, arguments, origin)
        return None if meant.missing else self._submit(wiring, arguments, origin, meant)

    def _meant(
        self, wiring: Wiring, arguments: dict[str, Any] | None, origin: "Origin", *, waited: bool = False
    ) -> "_Meant":
        """What the references in the arguments mean at this moment.

        Args:
            waited: names that the caller has not given yet were waited for.

        Raises:
            InvalidName, NameInUse: see `FutureStore.check_name`.
            AmbiguousName, ForeignName, StaleReference: a reference is not only this caller's, or its future is gone.
        """
        policy, scope = wiring.entry.policy, origin.scope
        if origin.name is not None:
            self.store.check_name(scope, origin.name, origin.namer)
        may_refer = policy.references == "all" or (policy.references == "read-only" and wiring.entry.read_only)
        if not arguments or not may_refer or not references.may_refer(arguments):
            return NOTHING_MEANT
        bindings: dict[str, str] = {}
        refused: dict[str, BridgeError] = {}
        fates: dict[str, str | None] = {}
        """Of IDs that are not known: each costs a look at the disk."""
        waits = policy.names and scope.listed and self.settings.forward_wait_ms > 0
        look_up = self.store.own if waits and not waited else self.store.referred

        def known(ref: str) -> str | None:
            try:
                future = look_up(scope, ref, origin.namer)
            except (AmbiguousName, ForeignName) as exc:
                refused[ref] = exc  # unless it is escaped: then the text is meant, whichever future it is
                bindings[ref] = f"{scope.key}/{exc.future_ids[-1]}"
                return bindings[ref]
            if future is None:
                if is_id(ref) and ref not in fates:
                    fates[ref] = self.store.fate(scope, ref)
                fate = fates.get(ref)
                if fate is None:
                    return None
                refused[ref] = StaleReference(ref, fate)  # the literal text would be taken for the result
                bindings[ref] = f"{scope.key}/{ref}"
                return bindings[ref]
            bindings[ref] = future.key
            return future.key

        found = references.find(arguments, known)
        for ref, exc in refused.items():
            if ref in found.names:
                raise exc
        return _Meant(bindings, found.names, found.unknown if waits else ())

    def _submit(self, wiring: Wiring, arguments: dict[str, Any] | None, origin: "Origin", meant: "_Meant") -> Future:
        entry, policy, scope, bindings = wiring.entry, wiring.entry.policy, origin.scope, meant.bindings
        if arguments:
            arguments = _as_typed(arguments, wiring.loosened, bindings)
        effect = wiring.fixed_effect
        if effect is None:
            effect = wiring.effect.bind(arguments or {}, lambda value: references.is_reference(value, bindings.get))
        future = self.store.create(
            scope,
            tool=entry.name,
            server=entry.server,
            name=origin.name,
            conversation=origin.conversation,
            caller=origin.client,
            namer=origin.namer,
            keep=bindings.values(),
        )
        self.store.charge(future, RECORD_BYTES + (held_size(arguments) if arguments else 0))
        if meant.takes:
            future.put_in = {name: key.rpartition("/")[2] for name, key in meant.takes.items()}
        if not scope.listed and policy.on_failure == "stop":
            # Where nobody is known, nobody's failure may stop what somebody else has asked for.
            policy = replace(policy, on_failure="continue")
        self.scheduler.submit(
            Call(
                future,
                entry.tool,
                arguments,
                policy,
                effect,
                read_only=entry.read_only,
                repeatable=entry.repeatable,
                validator=wiring.validator,
                schema=entry.input_schema,
                bindings=bindings,
                takes=tuple(dict.fromkeys(meant.takes.values())),
                needs_task=entry.needs_task,
                meta=origin.meta,
                capabilities=origin.capabilities,
                client=origin.client,
                asks_through=origin.asks_through,
                answers=origin.answers,
                answered_first=origin.answered_first,
            )
        )
        if origin.name is not None:
            self.arrivals.stir()
        return future

    async def _execute(
        self, call: Call, arguments: dict[str, Any] | None, on_progress: OnProgress, on_sent: OnSent
    ) -> Result:
        params = self._params(call, arguments)
        return await self._finish(call, params, await self._request(call, params, on_progress, on_sent))

    def _send(self, call: Call, arguments: dict[str, Any] | None, ended: Ended) -> Abandon | None:
        params = self._params(call, arguments)

        def answered(how: Result | CallFailed | Rest) -> None:
            if isinstance(how, ProtocolFailure):
                how = ProtocolFailure(call.future.tool, how.code, how.message, how.data)
            elif callable(how):
                how = partial(self._finish_rest, call, params, how)
            elif not (isinstance(how, CallFailed) or _final(call, how)):
                how = partial(self._finish, call, params, how)
            ended(how)

        return self.downstreams[call.future.server].post(
            "tools/call",
            params,
            answered,
            on_progress=call.on_progress,
            capabilities=self._parts.of(call.capabilities),
        )

    async def _finish_rest(self, call: Call, params: dict[str, Any], rest: Rest) -> Result:
        """Finish a call that had to be sent again."""
        try:
            result = await rest()
        except ProtocolFailure as exc:
            raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None
        return await self._finish(call, params, result)

    def _params(self, call: Call, arguments: dict[str, Any] | None) -> dict[str, Any]:
        params: dict[str, Any] = {"name": call.tool}
        if arguments is not None:
            params["arguments"] = arguments
        downstream = self.downstreams[call.future.server]
        if call.needs_task and not downstream.modern:
            params["task"] = {}
        meta = passed_on(call.meta)
        level = (call.meta or {}).get(LOG_LEVEL_META_KEY, self._log_level)
        if level is not None and downstream.modern:
            meta[LOG_LEVEL_META_KEY] = level
        if meta:
            params["_meta"] = meta
        params |= call.answers
        return params

    async def _request(
        self,
        call: Call,
        params: dict[str, Any],
        on_progress: OnProgress,
        on_sent: OnSent | None = None,
    ) -> Result:
        try:
            return await self.downstreams[call.future.server].request(
                "tools/call",
                params,
                on_progress=on_progress,
                on_sent=on_sent,
                capabilities=self._parts.of(call.capabilities),
            )
        except ProtocolFailure as exc:
            raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None

    async def _finish(self, call: Call, params: dict[str, Any], result: Result) -> Result:
        """The result of a call whose first answer this is: a task is followed, questions are answered and it is sent
        again.

        Raises:
            CallFailed: it has none. Never `ServerUnavailable`: the first part of the call was sent.
        """
        try:
            return await self._finish_sent(call, params, result)
        except ServerUnavailable as exc:
            raise ServerDied(exc.server, exc.how) from None

    async def _finish_sent(self, call: Call, params: dict[str, Any], result: Result) -> Result:
        downstream = self.downstreams[call.future.server]
        for left in reversed(range(MAX_ROUNDS)):
            if _final(call, result):
                return result
            kind, task = result.get("resultType"), result.get("task")
            if kind is None:
                return await follow_task(
                    self.questions, call, downstream, cast("dict[str, Any]", task), extension=False
                )
            if kind == "task":
                return await follow_task(self.questions, call, downstream, result, extension=True)
            if kind != "input_required":
                raise CallFailed(f"{call.future.tool} answered with a result of an unknown type: {kind!r:.80}")
            params = {key: value for key, value in params.items() if key not in ("inputResponses", "requestState")}
            params |= await self.questions.answer_round(call, result)
            if left:
                result = await self._request(call, params, call.on_progress)
        raise CallFailed(f"{call.future.tool} asked more than {MAX_ROUNDS} times and was given up")

    async def ask(self, server: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Pass a request that is no tool call on to one server.

        Raises:
            CallFailed: it gave no answer.
        """
        out = dict(params or {})
        meta = passed_on(out.pop("_meta", None))
        if meta:
            out["_meta"] = meta
        return without_our_keys(await self.downstreams[server].request(method, out))

    async def read_resource(self, scope: Scope, uri: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Read a resource from its owner (see `owners`). No other server is asked, whatever that one answers.

        Raises:
            CallFailed: it gave no answer; or no server has resources.
        """
        await self.listed()
        return await self.ask(self._owner_of(scope, uri, "resources/read"), "resources/read", params)

    def _owner_of(self, scope: Scope, uri: str, method: str) -> str:
        """
        Raises:
            ProtocolFailure: no server has resources.
        """
        catalog = self.catalog
        listed = uri in catalog.resources
        linked = () if listed else linking(uri, self.store.newest(scope))
        serving = [name for name, d in self.downstreams.items() if d.offer.capabilities.get("resources") is not None]
        server = resource_owner(uri, catalog.resources, catalog.templates, linked, serving)
        if server is None:
            raise ProtocolFailure(method, RESOURCE_NOT_FOUND, f"Resource not found: {uri}", {"uri": uri})
        return server

    # --- told by the servers -------------------------------------------------------------------------------------

    async def prepare(self, downstream: Downstream, kind: str, entries: list[dict[str, Any]]) -> None:
        known = {id(raw) for raw in downstream.offer.listing(kind)}
        self._builder.begin(downstream.name, kind)
        wirings: dict[int, Wiring] = {}
        if kind == "tools":
            self._prepared[downstream.name] = wirings
        since = time.monotonic()
        for raw in entries:
            if id(raw) not in known:
                entry = self._builder.prepare(downstream.config, kind, raw)
                if entry is not None:
                    wirings[id(raw)] = Wiring.of(entry, self._states[entry.server])
            if time.monotonic() - since > STEP_S:
                await anyio.lowlevel.checkpoint()
                since = time.monotonic()

    def downstream_changed(self, downstream: Downstream, kinds: frozenset[str]) -> None:
        if not kinds:
            return
        before = self.catalog
        self._rebuild()
        rebuilt, self._rebuilt = self._rebuilt, anyio.Event()
        rebuilt.set()
        for kind in kinds:
            self._builder.begin(downstream.name, kind)
        if "tools" in kinds:
            self._prepared.pop(downstream.name, None)
        # Kept only once it has been worked with: what stops us there must not stop the next start, too.
        self._cache.save(downstream.config, downstream.offer)
        # A server announces what clients may not see: what it leaves out, or lists again as it was.
        changed = frozenset(kind for kind in kinds if self.catalog.part(kind) != before.part(kind))
        if changed:
            for observer in self._observers:
                observer(changed)

    def introduce(self, capabilities: Mapping[str, Any], direct: "Ask | None" = None) -> None:
        """Say what the client can be asked; servers that shake hands are told at their next start.

        Args:
            direct: asks the client at any time, where there is one client and its protocol allows that.
        """
        self._client_capabilities = client_part(capabilities)
        self._direct = direct or self._direct
        self._introduced.set()

    async def introduced(self) -> None:
        with anyio.move_on_after(INTRODUCTION_S):
            await self._introduced.wait()
        self._introduced.set()  # once for all: servers that start a few at a time would wait for it in turns

    async def downstream_asks(
        self, downstream: Downstream, method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        params = params or {}
        calls = await self.questions.askers(downstream.name)
        if self._direct is not None and (not calls or method == "roots/list"):
            # Nobody has to be shown anything for roots, and servers ask for them before any call.
            refuse_unless_able(self._client_capabilities, method, params)
            answer = await self._direct(method, params)
        elif calls:
            answer = await self.questions.ask(calls, method, params)
        else:
            raise RpcError(METHOD_NOT_FOUND, f"there is nobody to answer {method}")
        if method == "roots/list":
            use_roots(self._states[downstream.name], answer)
        return answer

    def downstream_notifies(
        self, downstream: Downstream, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        return self.on_notification and self.on_notification(downstream.name, method, params or {})

    # --- told by the clients -------------------------------------------------------------------------------------

    async def subscribe(self, scope: Scope, uri: str) -> None:
        """Have the owner of a resource (see `owners`) announce its changes.

        Raises:
            CallFailed: no server has it, or it refuses.
        """
        await self.listed()
        server = self._owner_of(scope, uri, "resources/subscribe")
        self._subscribed[uri] = server  # before its answer: a change may be announced right behind that
        try:
            await self.downstreams[server].subscribe(uri)
        except BaseException:
            self._subscribed.pop(uri, None)
            raise

    async def unsubscribe(self, uri: str) -> None:
        """End a subscription at the server that has it; best effort."""
        server = self._subscribed.pop(uri, None)
        if server is None:
            return
        try:
            await self.downstreams[server].unsubscribe(uri)
        except CallFailed as exc:
            logger.debug("unsubscribing from %s: %s", uri, exc)

    def subscribed_at(self, uri: str) -> str | None:
        """The server that announces the changes of this resource."""
        return self._subscribed.get(uri)

    async def set_log_level(self, level: str) -> None:
        """Ask all servers that have log messages for those of this level and above."""
        self._log_level = level

        async def tell(downstream: Downstream) -> None:
            try:
                await downstream.set_log_level(level)
            except CallFailed as exc:
                logger.debug("server %r: %s", downstream.name, exc)

        # Side by side and not for ever: it is the client that waits.
        with anyio.move_on_after(SET_LEVEL_S):
            async with anyio.create_task_group() as tg:
                for downstream in self.downstreams.values():
                    tg.start_soon(tell, downstream)

    async def tell_servers(self, method: str) -> None:
        """Pass a client's notification on to all servers that shook hands."""
        for downstream in self.downstreams.values():
            await downstream.tell(method)


def passed_on(meta: object) -> dict[str, Any]:
    """What of a request's `_meta` is for the server: not this hop's envelope, progress token or our own keys."""
    if not meta or not isinstance(meta, dict):
        return {}
    return {
        key: value
        for key, value in cast("dict[str, Any]", meta).items()
        if not key.startswith(_OURS) and key != "progressToken"
    }


def _final(call: Call, result: Result) -> bool:
    """Whether this is what the call came to: no task to be followed, no question to be answered."""
    kind = result.get("resultType")
    if kind is None:
        return "content" in result or not isinstance(result.get("task"), dict)
    return kind == "complete" or (kind == "input_required" and call.asks_through)


def _may_refer(value: object) -> bool:
    """Whether a value may turn out to be a reference; until that is known it stands for anything."""
    return isinstance(value, str) and "$" in value


def _check_effects(config: BridgeConfig, states: Mapping[str, ServerState]) -> None:
    """Read every declared state path once, so that a wrong one is an error of the file and not of a server's listing.

    Raises:
        ConfigError: with the place in the file.
    """
    for server in config.servers:
        for tool in ("", *server.tool_names):
            policy = server.policy(tool)
            try:
                declared_effect(states[server.name], policy.reads, policy.writes, policy.ordering, None)
            except ConfigError as exc:
                where = f"mcpServers.{server.name}.asyncfc" + (f".tools.{tool}" if tool else "")
                raise ConfigError(config.source, f"{where}.{exc.path}", exc.found, exc.expected) from None


def _unknown_placeholders(wiring: Wiring) -> list[str]:
    """Arguments in declared state paths that the tool does not have; such a path never tells two calls apart."""
    properties = wiring.entry.input_schema.get("properties")
    if not isinstance(properties, dict) or wiring.entry.input_schema.get("additionalProperties") not in (None, False):
        return []
    known = cast("dict[str, Any]", properties)
    return sorted(name for name in wiring.effect.placeholders if name.partition(".")[0] not in known)


class _Loosened:
    """Arguments that the server's schema wants as something else than text, and ours lets be text.

    Each is looked up when a call has it: a server may list 10,000 tools, and few of them are called.
    """

    __slots__ = ("_entry", "_types")

    def __init__(self, entry: ToolEntry) -> None:
        self._entry = entry
        self._types: dict[str, frozenset[str] | None] | None = None

    def types(self, name: str) -> frozenset[str] | None:
        """The types that the server wants, if text is none of them."""
        if self._types is None:
            properties = self._entry.input_schema.get("properties")
            same = self._entry.listed.get("inputSchema") == self._entry.raw.get("inputSchema")
            declared = cast("dict[str, Any]", properties) if isinstance(properties, dict) and not same else {}
            self._types = dict.fromkeys(declared, _NOT_LOOKED_UP)
        types = self._types.get(name)
        if types is _NOT_LOOKED_UP:
            types = expected(self._entry.input_schema, [name]).types
            self._types[name] = types = None if types is None or "string" in types else types
        return types


_NOT_LOOKED_UP: Final[frozenset[str]] = frozenset({"not looked up"})


def _as_typed(
    arguments: dict[str, Any] | None, loosened: _Loosened, bindings: Mapping[str, str]
) -> dict[str, Any] | None:
    """The arguments with text that stands for a number, a list and so on as what it stands for.

    Clients turn what a person typed into what a schema asks for (the Inspector's `--tool-arg seconds=2`). Ours asks
    for text, too, so that references get through; without this a tool would get `"2"` where a direct call sends `2`.
    """
    typed = arguments
    for name, value in (arguments or {}).items():
        if not isinstance(value, str) or (types := loosened.types(name)) is None:
            continue
        if references.is_reference(value, bindings.get):
            continue
        try:
            parsed = parse_json(value)
        except (ValueError, RecursionError):
            continue
        if json_type(parsed) in types:
            typed = {**(typed or {}), name: parsed}
    return typed


class _ClientParts:
    """What servers are offered for a client. The calls of one client say the same, so it is found once."""

    def __init__(self) -> None:
        self._last: Mapping[str, Any] = {}
        self._part = client_part(self._last)

    def of(self, capabilities: Mapping[str, Any]) -> dict[str, Any]:
        """See `client_part`; not to be changed."""
        if capabilities is not self._last:
            self._last, self._part = capabilities, client_part(capabilities)
        return self._part


def client_part(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """What the bridge can offer to a server: what of its client's capabilities is being asked, and following tasks."""
    asked = {key: capabilities[key] for key in CAPABILITY.values() if capabilities.get(key) is not None}
    return {**asked, "extensions": {TASKS_EXTENSION: {}}}
