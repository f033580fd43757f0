"""Several ways to be authenticated at one endpoint.

Owns their order. Leaves tokens to each of them.
"""

from collections.abc import Sequence

import anyio
import anyio.abc

from asyncfc_mcp.transports.http.auth.authenticator import Access, Authenticator, NotAuthenticated, Token


class AnyOf:
    """Accepts what one of several authenticators accepts.

    Args:
        authenticators: none of them accepts everyone. The error of the last one is given, so it is the one whose
            errors say most.
    """

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    @property
    def anyone(self) -> Access | None:
        """See `Authenticator`."""
        return None

    @property
    def lapses(self) -> bool:
        """See `Authenticator`."""
        return any(each.lapses for each in self._authenticators)

    def known(self, token: Token) -> Access | None:
        """See `Authenticator`."""
        for each in self._authenticators:
            if (access := each.known(token)) is not None:
                return access
        return None

    async def check(self, token: Token) -> Access:
        """See `Authenticator`."""
        refusal = NotAuthenticated("no token is accepted here")
        for each in self._authenticators:
            try:
                return await each.check(token)
            except NotAuthenticated as exc:
                refusal = exc
        raise refusal

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """See `Authenticator`."""
        async with anyio.create_task_group() as tg:
            for each in self._authenticators:
                await tg.start(each.run)
            task_status.started()
