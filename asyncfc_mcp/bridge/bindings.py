"""Bindings: the futures that the references in a call's arguments mean, and those that its `_after` names.

Owns which tools' arguments may refer, which IDs and names a call mentions, and when a reference or a name is refused.
Finding references in text is `core.references`' job, looking up futures the engine's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core import references, unknown_names
from asyncfc_mcp.core.identity import Scope, future_key, is_id
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import NO_KEYS, CallContext
from asyncfc_mcp.errors import AmbiguousName, BridgeError, ForeignName, StaleReference, UnknownFuture, UnknownName


@dataclass(frozen=True, slots=True)
class Bindings:
    """References of one call."""

    keys: Mapping[str, str]
    """Reference as written → key of its future."""
    value_dependencies: Mapping[str, str] = field(default_factory=lambda: NO_KEYS)
    """The part of `keys` whose values the arguments take. Escaped references are bound and take nothing."""
    missing: tuple[str, ...] = ()
    """Names that do not exist yet, and may be text; a parallel call may be about to define them."""
    required: tuple[str, ...] = ()
    """The same for names that cannot be text."""
    after: Mapping[str, str] = field(default_factory=lambda: NO_KEYS)
    """ID or name in `_after` → key of its future."""
    arguments: dict[str, Any] | None = None
    """The arguments with escapes of names that do not exist undone; None where nothing is changed."""


NO_BINDINGS: Final = Bindings(NO_KEYS)


def mentioned(
    route: ToolRoute, arguments: dict[str, Any] | None, context: CallContext, also_wait_for: Sequence[str] = ()
) -> list[str]:
    """Return every ID and name that `bind` may look up, and those that the caller waits for."""
    names = [*context.after, *also_wait_for]
    if isinstance(context.name, str):
        names.append(context.name)
    if _may_refer(route):
        names += references.mentioned(arguments)
    return list(dict.fromkeys(names))


def _may_refer(route: ToolRoute) -> bool:
    """Return whether arguments of a tool may contain references."""
    policy = route.entry.policy
    return policy.references == "all" or (policy.references == "read-only" and route.entry.read_only)


def bind(
    engine: Engine,
    settings: Settings,
    route: ToolRoute,
    arguments: dict[str, Any] | None,
    context: CallContext,
    *,
    waited: bool = False,
) -> Bindings:
    """Return what the references in the arguments mean at this moment, by what the engine has in memory.

    Args:
        waited: names that the caller has not given yet were waited for.

    Raises:
        InvalidName, NameInUse: see `Engine.check_name_nowait`.
        AmbiguousName, ForeignName, StaleReference: a reference is not only this caller's, or its future is gone.
        UnknownName: no call has taken a name that cannot be text, and it is not waited for, or was.
    """
    policy, scope = route.entry.policy, context.scope
    if context.name is not None:
        engine.check_name_nowait(scope, context.name, context.namer)
    if not arguments or not _may_refer(route) or not references.may_refer(arguments):
        if not context.after:
            return NO_BINDINGS
        after, missing = _bind_after(engine, settings, context, waited)
        return Bindings(NO_KEYS, required=missing, after=after)
    after, missing = _bind_after(engine, settings, context, waited) if context.after else (NO_KEYS, ())
    keys: dict[str, str] = {}
    refused: dict[str, BridgeError] = {}
    fates: dict[str, str | None] = {}
    """Of IDs that are not known: each costs a look at the disk."""
    unknown: set[str] = set()
    waits = policy.names and _waits(settings, scope)
    look_up = engine.find_own_nowait if waits and not waited else engine.find_referred_nowait
    renamed: list[str] = []
    """Names that exist, and that received calls are going to take again."""

    def known(ref: str) -> str | None:
        try:
            future = look_up(scope, ref, context.namer)
        except (AmbiguousName, ForeignName) as exc:
            refused[ref] = exc  # unless it is escaped: then the text is meant, whichever future it is
            keys[ref] = future_key(scope, exc.future_ids[-1])
            return keys[ref]
        if future is None:
            if is_id(ref) and ref not in fates:
                fates[ref] = engine.fate_nowait(scope, ref)
            fate = fates.get(ref)
            if fate is None:
                unknown.add(ref)
                return None
            refused[ref] = StaleReference(ref, fate)  # the literal text would be taken for the result
            keys[ref] = future_key(scope, ref)
            return keys[ref]
        if waits and not waited and future.id != ref and engine.is_announced(scope, ref, context.namer):
            renamed.append(ref)
        keys[ref] = future.key
        return future.key

    found = references.find(arguments, known)
    for ref, exc in refused.items():
        if ref in found.names:
            raise exc
    rewritten = None
    if unknown and policy.names and len(unknown) <= references.MAX_UNKNOWN:
        required = unknown_names.required(arguments, unknown)
        for ref, written in required.items():
            if waited or not waits or is_id(ref):
                raise _unknown(engine, context, ref, written)
        missing = (*missing, *required)
    may_be_text = (*renamed, *(ref for ref in found.unknown if ref not in missing)) if waits and not waited else ()
    if unknown and policy.names and not (missing or may_be_text):
        rewritten = unknown_names.unescaped(arguments, unknown)
    # A call that is going to fail in any case does not wait for values.
    values = NO_KEYS if found.unreadable else found.names
    return Bindings(keys, values, may_be_text, missing, after, rewritten)


def _waits(settings: Settings, scope: Scope) -> bool:
    """Return whether names that do not exist are waited for."""
    return scope.listed and settings.name_wait_s > 0


def _bind_after(
    engine: Engine, settings: Settings, context: CallContext, waited: bool
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return the futures that `_after` names, by ID or name, and the names that do not exist yet.

    Raises:
        AmbiguousName, ForeignName: several have the name, or only another session has it.
        UnknownName: no call has taken a name, and it is not waited for, or was.
    """
    scope, namer = context.scope, context.namer
    waits = not waited and _waits(settings, scope)
    keys: dict[str, str] = {}
    missing: list[str] = []
    for ref in context.after:
        future = (engine.find_own_nowait if waits else engine.find_referred_nowait)(scope, ref, namer)
        if future is None and is_id(ref.lower()):
            future = engine.find_own_nowait(scope, ref.lower())
            if future is None:
                raise _unknown(engine, context, ref, None)
        if future is None or (waits and future.id != ref and engine.is_announced(scope, ref, namer)):
            if not waits:
                raise _unknown(engine, context, ref, None)
            missing.append(ref)
        else:
            keys[ref] = future.key
    return keys, tuple(missing)


def _unknown(engine: Engine, context: CallContext, ref: str, written: str | None) -> UnknownName:
    """Return the refusal of a call that names a future which does not exist.

    Args:
        written: the argument with the name; None for `_after`.
    """
    try:
        engine.get_nowait(context.scope, ref, context.namer)
    except UnknownFuture as exc:
        return UnknownName(ref, written, exc.live, exc.fate)
    except AmbiguousName:
        pass
    return UnknownName(ref, written, ())
