"""What servers offer beside tools: prompts, resources, templates, completion; and futures as resources among them.

Owns those methods. Refuses to change what is passed on, but for the prefix of prompt names.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, cast

from asyncfc_mcp import results
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.callers import CallerIdentities
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.futures import Result, Scope, is_id
from asyncfc_mcp.protocol import INVALID_PARAMS, RESOURCE_NOT_FOUND
from asyncfc_mcp.requests import Handler, Request, ambiguity_refused, awaited, paged, uri_of

LISTED_FUTURES: Final = 100
"""How many futures are listed as resources, newest first."""


class Offered:
    """Answers for all servers together."""

    def __init__(self, bridge: Bridge, scope: Scope, identities: CallerIdentities) -> None:
        self.bridge = bridge
        self._scope, self._identities = scope, identities
        self.methods: Mapping[str, Handler] = {
            "prompts/list": awaited(self._list_prompts),
            "prompts/get": awaited(self._get_prompt),
            "resources/list": awaited(self._list_resources),
            "resources/templates/list": awaited(self._list_templates),
            "resources/read": awaited(self._read_resource),
            "completion/complete": awaited(self._complete),
        }

    async def _list_prompts(self, request: Request) -> Result:
        catalog = await self.bridge.listed("prompts")
        self.bridge.hand_out()
        return paged(request.params, "prompts", [entry.listed for entry in catalog.prompts.values()])

    async def _get_prompt(self, request: Request) -> Result:
        params = request.params
        entry = (await self.bridge.listed("prompts")).prompts.get(str(params.get("name")))
        if entry is None:
            raise RpcError(INVALID_PARAMS, f"Unknown prompt: {params.get('name')}")
        return await self.bridge.ask(entry.server, "prompts/get", {**params, "name": entry.prompt})

    async def _list_resources(self, request: Request) -> Result:
        params = request.params
        futures = islice((f for f in self.bridge.store.newest(self._scope) if not f.answered), LISTED_FUTURES)
        resources = [raw for _, raw in (await self.bridge.listed("resources")).resources.values()]
        return paged(params, "resources", [*resources, *map(results.listed, futures)])

    async def _list_templates(self, request: Request) -> Result:
        params = request.params
        templates = [raw for _, raw in (await self.bridge.listed("resourceTemplates")).templates.values()]
        return paged(params, "resourceTemplates", [*templates, results.TEMPLATE])

    async def _read_resource(self, request: Request) -> Result:
        params = request.params
        uri = uri_of(request)
        wanted = results.parse(uri)
        future = None
        if wanted is not None:
            with ambiguity_refused():
                future = self.bridge.store.find(self._scope, wanted[0], self._identities.namer(request))
        if wanted is not None and future is not None:
            if future.done:
                self.bridge.store.mark_read(future)
            return results.read(future, uri, wanted[1], wanted[2])
        if wanted is not None and is_id(wanted[0]):
            # Not to be asked of a server: it would learn an ID, and could answer for the future.
            fate = self.bridge.store.fate(self._scope, wanted[0])
            why = f" ({wanted[0]} {fate})" if fate else ""
            raise RpcError(RESOURCE_NOT_FOUND, f"Resource not found: {uri}{why}", {"uri": uri})
        return await self.bridge.read_resource(self._scope, uri, params)

    async def _complete(self, request: Request) -> Result:
        params = request.params
        ref = params.get("ref")
        if not isinstance(ref, dict):
            raise RpcError(INVALID_PARAMS, "completion/complete: ref must be an object")
        target = cast("dict[str, Any]", ref)
        catalog = await self.bridge.listed("prompts", "resources", "resourceTemplates")
        if target.get("type") == "ref/prompt":
            prompt = catalog.prompts.get(str(target.get("name")))
            if prompt is None:
                raise RpcError(INVALID_PARAMS, f"Unknown prompt: {target.get('name')}")
            return await self.bridge.ask(
                prompt.server, "completion/complete", {**params, "ref": {**target, "name": prompt.prompt}}
            )
        uri = str(target.get("uri"))
        server = catalog.templates.get(uri) or catalog.resources.get(uri)
        if server is None:
            raise RpcError(INVALID_PARAMS, f"Unknown resource template: {uri}")
        return await self.bridge.ask(server[0], "completion/complete", params)

    async def extension(self, request: Request) -> Result:
        """A method that no revision of MCP knows is that of a server's extension, or nobody's."""
        return await self.bridge.ask_extension(request.method, request.params)
