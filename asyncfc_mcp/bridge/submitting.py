"""Submission of calls: references bound, arguments typed, the effect worked out, and the call handed to the engine.

Owns a call's way from its tool's route to its future. Leaves references to `bindings`, effects to `core.effects`, and
everything after that to the engine.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any

from asyncfc_mcp.bridge.bindings import Bindings, bind, mentioned
from asyncfc_mcp.bridge.caller_connections import CallerConnections
from asyncfc_mcp.bridge.look_ups import LookUps
from asyncfc_mcp.bridge.tool_routes import ToolRoute, as_typed
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core import references
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.core.overridden_tools import MASK
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import CallContext, PendingCall, Submission


class Submitter:
    """Submits calls.

    Args:
        settings: returns those that count now.
        shared: the servers that all callers share.
        callers: connections of callers; None where there are none.
        add_user: called with the server and the principal of each call.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Callable[[], Settings],
        shared: Container[str],
        callers: CallerConnections | None,
        add_user: Callable[[str, Scope], None],
    ) -> None:
        self._engine, self._settings, self._shared = engine, settings, shared
        self._callers, self._add_user = callers, add_user
        self._look_ups = LookUps(engine)

    async def submit(
        self,
        route: ToolRoute,
        arguments: dict[str, Any] | None,
        context: CallContext,
        *,
        also_wait_for: Sequence[str] = (),
        after_pending: bool = False,
    ) -> Future:
        """Submit a call and return its future. Waits where the arguments name a future that does not exist yet, and
        where the engine does.

        Args:
            also_wait_for: IDs and names that the caller waits for beside this call; unknown ones refuse it.
            after_pending: submit it after all calls received before it: its caller wants to know of all of them.

        Raises:
            TooManyFutures, InvalidName, NameInUse: see `Engine.submit`.
            UnknownFuture: there is none that `also_wait_for` names, nor a call that is going to take the name.
            AmbiguousName, ForeignName, StaleReference: a reference, or a name in `also_wait_for`, is not only this
                caller's, or its future is gone.
            UnknownName: no call takes a name in `_after`, or one in the arguments that cannot be meant as text.
            Cycle: the call refers to itself through others.
        """
        engine, scope, namer = self._engine, context.scope, context.namer
        if (preset := route.entry.preset) is not None:
            arguments = preset.of_caller(arguments)
        if not engine.submits_nowait:
            refs = mentioned(route, arguments, context, also_wait_for)
            await self._look_ups.bring(scope, refs, namer, announced=context.name)
        bindings = bind(engine, self._settings(), route, arguments, context)
        unknown = tuple(ref for ref in also_wait_for if engine.find_own_nowait(scope, ref, namer) is None)
        if bindings.missing or bindings.required or unknown or engine.has_pending:
            typed = as_typed(arguments, route.loosened, bindings.keys) or {}
            typed = typed if preset is None else preset.filled(typed)
            effect = route.effect.bind(typed, _may_refer)
            await engine.wait_for_turn(
                PendingCall(
                    scope,
                    namer,
                    context.name,
                    effect,
                    bindings.missing,
                    unknown,
                    after_pending,
                    required=bindings.required,
                )
            )
            for ref in unknown:
                if not engine.is_announced(scope, ref, namer):
                    engine.get_nowait(scope, ref, namer)
            bindings = bind(engine, self._settings(), route, arguments, context, waited=True)
        return self._held(await engine.submit(self._submission(route, arguments, context, bindings)), context)

    def submit_nowait(self, route: ToolRoute, arguments: dict[str, Any] | None, context: CallContext) -> Future | None:
        """Do as `submit` does; None, and nothing is done, where that would have to wait.

        Raises:
            TooManyFutures, InvalidName, NameInUse: see `Engine.submit`.
            AmbiguousName, ForeignName, StaleReference, UnknownName: a reference is not only this caller's, or its
                future is gone, or was never there.
        """
        if not self._engine.submits_nowait or self._engine.has_pending:
            return None
        if route.entry.preset is not None:
            arguments = route.entry.preset.of_caller(arguments)
        bindings = bind(self._engine, self._settings(), route, arguments, context)
        if bindings.missing or bindings.required:
            return None
        future = self._engine.submit_nowait(self._submission(route, arguments, context, bindings))
        return None if future is None else self._held(future, context)

    def _held(self, future: Future, context: CallContext) -> Future:
        """Keep the connections of a call's caller until it has ended."""
        if self._callers is not None and context.credentials is not None and future.server not in self._shared:
            self._callers.hold(context.credentials, future)
        return future

    def _submission(
        self, route: ToolRoute, arguments: dict[str, Any] | None, context: CallContext, bindings: Bindings
    ) -> Submission:
        entry, keys, preset = route.entry, bindings.keys, route.entry.preset
        if arguments:
            if bindings.arguments is not None:
                arguments = bindings.arguments
            arguments = as_typed(arguments, route.loosened, keys)
        effect, recorded = route.fixed_effect, None
        if effect is None:

            def refers(value: object) -> bool:
                return bool(keys) and references.is_reference(value, keys.get)

            effect = route.effect.bind((arguments or {}) if preset is None else preset.filled(arguments), refers)
            if preset is not None and preset.secrets:
                # What is unknown counts as the path above it, which is more order than necessary and no secret.
                recorded = route.effect.bind(preset.masked(arguments), lambda value: value is MASK or refers(value))
            if not entry.policy.journal:  # its paths have values of arguments that must not be written
                recorded = route.effect.bind_unknown()
        self._add_user(entry.server, context.scope)
        credentials = context.credentials if entry.server not in self._shared else None
        return Submission(
            context,
            entry.server,
            entry.name,
            entry.tool,
            arguments,
            entry.policy,
            effect,
            read_only=entry.read_only,
            repeatable=entry.repeatable,
            validator=route.validator,
            schema=entry.input_schema,
            bindings=keys,
            value_dependencies=bindings.value_dependencies,
            after=bindings.after,
            needs_task=entry.needs_task,
            preset=preset,
            recorded_effect=recorded,
            credentials=credentials,
            session=None if credentials is None or self._callers is None else self._callers.conversation(credentials),
        )


def _may_refer(value: object) -> bool:
    """Return whether a value may turn out to be a reference; until that is known it stands for anything."""
    return isinstance(value, str) and "$" in value
