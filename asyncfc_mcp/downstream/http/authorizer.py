"""Interface of what authorizes requests to one server: OAuth tokens, or the credentials of a caller.

Pure. The client asks for headers before every request, and reports 401 and 403. Implementations hold no lock while a
request is out.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Authorizer(Protocol):
    """Authorizes the requests to one server."""

    @property
    def secrets(self) -> Sequence[str]:
        """The current credentials, which must not appear in any text."""
        ...

    def renewed(self) -> bool:
        """Return whether credentials have changed since they were last found missing or unusable, so that another
        attempt is worth while. Cheap: called about every second in that state, and for every call."""
        ...

    async def headers(self) -> Mapping[str, str]:
        """Return the headers to add to a request that is about to be sent.

        Raises:
            SignInNeeded: there are no usable credentials. Nothing was sent.
            TransportFailure: the authorization server could not be reached. Nothing was sent.
        """
        ...

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        """Handle a response with 401 or 403; return whether to send the request again, with new headers.

        Args:
            challenges: the values of `WWW-Authenticate`.
            sent: the headers of `headers` that the refused request had.

        Raises:
            SignInNeeded, TransportFailure: see `headers`. The server did not process the request.
        """
        ...
