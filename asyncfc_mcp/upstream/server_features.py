"""Features of servers other than tools: prompts, resources, templates, completion.

Owns those methods, and the list of resources, among which are futures and the instructions of servers. Refuses to
change what is forwarded, except for the prefix of prompt names.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, cast

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import is_id
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_PARAMS, RESOURCE_NOT_FOUND
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.upstream import future_resources
from asyncfc_mcp.upstream.callers import CallerIdentities
from asyncfc_mcp.upstream.instructions import InstructionsFor, is_docs, listed_docs, read_docs
from asyncfc_mcp.upstream.request import Handler, Request, ambiguity_refused, awaited, paged, uri_of

LISTED_FUTURES: Final = 100
"""Bound on the futures that are listed as resources, newest first."""


class ServerFeatures:
    """Answers the requests about prompts and resources, for all servers together."""

    def __init__(self, bridge: Bridge, identities: CallerIdentities, instructions: InstructionsFor) -> None:
        self.bridge = bridge
        self._identities = identities
        self._instructions = instructions
        self.methods: Mapping[str, Handler] = {
            "prompts/list": awaited(self._list_prompts),
            "prompts/get": awaited(self._get_prompt),
            "resources/list": awaited(self._list_resources),
            "resources/templates/list": awaited(self._list_templates),
            "resources/read": awaited(self._read_resource),
            "completion/complete": awaited(self._complete),
        }

    async def _list_prompts(self, request: Request) -> Result:
        view = self.bridge.views.of(request.principal)
        catalog = await view.wait_for_catalog("prompts")
        view.directory.hand_out()
        return paged(request.params, "prompts", [entry.listed for entry in catalog.prompts.values()])

    async def _get_prompt(self, request: Request) -> Result:
        params = request.params
        view = self.bridge.views.of(request.principal)
        catalog = await view.wait_for_catalog("prompts")
        entry = catalog.prompts.get(str(params.get("name")))
        if entry is None:
            raise RpcError(INVALID_PARAMS, f"Unknown prompt: {params.get('name')}")
        return await self.bridge.forwarding.ask(
            request.scope,
            entry.server,
            "prompts/get",
            {**params, "name": entry.prompt},
            view.credentials_for(entry.server),
            self._identities.session(request),
        )

    async def _list_resources(self, request: Request) -> Result:
        params = request.params
        newest = await self.bridge.engine.list_futures(request.scope)
        futures = islice((future for future in newest if not future.answered), LISTED_FUTURES)
        view = self.bridge.views.of(request.principal)
        resources = [raw for _, raw in (await view.wait_for_catalog("resources")).resources.values()]
        docs = listed_docs(self._instructions.host(view, request.host, takes_tasks=request.takes_tasks))
        return paged(params, "resources", [*resources, *docs, *map(future_resources.listed, futures)])

    async def _list_templates(self, request: Request) -> Result:
        params = request.params
        catalog = await self.bridge.views.of(request.principal).wait_for_catalog("resourceTemplates")
        templates = [raw for _, raw in catalog.templates.values()]
        return paged(params, "resourceTemplates", [*templates, future_resources.TEMPLATE])

    async def _read_resource(self, request: Request) -> Result:
        params = request.params
        uri = uri_of(request)
        view = self.bridge.views.of(request.principal)
        if is_docs(uri):
            docs = read_docs(uri, self._instructions.servers(view))
            if docs is None:
                raise RpcError(RESOURCE_NOT_FOUND, f"Resource not found: {uri}", {"uri": uri})
            return docs
        wanted = future_resources.parse(uri)
        future = None
        if wanted is not None:
            with ambiguity_refused():
                future = await self.bridge.engine.find(request.scope, wanted[0], self._identities.namer(request))
        if wanted is not None and future is not None:
            if future.done:
                self.bridge.engine.mark_read(future)
            return await in_slices(future_resources.reading(future, uri, wanted[1], wanted[2]))
        if wanted is not None and is_id(wanted[0]):
            # Never forwarded to a server: it would learn an ID, and could answer in the future's place.
            fate = await self.bridge.engine.fate(request.scope, wanted[0])
            why = f" ({wanted[0]} {fate})" if fate else ""
            raise RpcError(RESOURCE_NOT_FOUND, f"Resource not found: {uri}{why}", {"uri": uri})
        return await self.bridge.forwarding.read_resource(
            request.scope, uri, params, view, self._identities.session(request)
        )

    async def _complete(self, request: Request) -> Result:
        params = request.params
        ref = params.get("ref")
        if not isinstance(ref, dict):
            raise RpcError(INVALID_PARAMS, "completion/complete: ref must be an object")
        target = cast("dict[str, Any]", ref)
        view = self.bridge.views.of(request.principal)
        catalog = await view.wait_for_catalog("prompts", "resources", "resourceTemplates")
        if target.get("type") == "ref/prompt":
            prompt = catalog.prompts.get(str(target.get("name")))
            if prompt is None:
                raise RpcError(INVALID_PARAMS, f"Unknown prompt: {target.get('name')}")
            return await self.bridge.forwarding.ask(
                request.scope,
                prompt.server,
                "completion/complete",
                {**params, "ref": {**target, "name": prompt.prompt}},
                view.credentials_for(prompt.server),
                self._identities.session(request),
            )
        uri = str(target.get("uri"))
        found = catalog.templates.get(uri) or catalog.resources.get(uri)
        if found is None:
            raise RpcError(INVALID_PARAMS, f"Unknown resource template: {uri}")
        server, credentials = found[0], view.credentials_for(found[0])
        caller = self._identities.session(request)
        return await self.bridge.forwarding.ask(
            request.scope, server, "completion/complete", params, credentials, caller
        )

    async def extension(self, request: Request) -> Result:
        """Forward a method that no revision of MCP defines to the server whose extension has it.

        Raises:
            RpcError: no server has it.
        """
        view = self.bridge.views.of(request.principal)
        caller = self._identities.session(request)
        return await self.bridge.forwarding.ask_extension(request.scope, request.method, request.params, view, caller)
