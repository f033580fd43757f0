"""Credentials that sign-in to a server yields: the registration of this client, and the grant of a user.

Pure values and their JSON. Storing them is left to `store`, obtaining them to `sign_in` and `token_endpoint`.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, cast

ClientKind = Literal["configured", "metadata_document", "registered"]
"""Origin of a client ID: the configuration, a client ID metadata document, or dynamic registration (RFC 7591)."""
AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
"""Authentication of this client at a token endpoint."""

EXPIRY_MARGIN_S: Final = 30.0
"""A token is refreshed this long before it expires: a request and clocks take time."""


class _Record:
    """JSON of a record. Unknown members are ignored, so that another version of the program can read it."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the members that have a value."""
        return {key: value for key, value in asdict(cast("Any", self)).items() if value is not None}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the record of these members.

        Raises:
            ValueError: a member is missing, or of a wrong type.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{cls.__name__} is no object")
        members = cast("dict[str, Any]", value)
        known = {each.name: members[each.name] for each in fields(cast("Any", cls)) if each.name in members}
        try:
            record = cls(
                **{
                    key: tuple(cast("list[Any]", item)) if isinstance(item, list) else item
                    for key, item in known.items()
                }
            )
        except TypeError:
            raise ValueError(f"{cls.__name__} lacks a member") from None
        for each in fields(cast("Any", cls)):
            item = getattr(record, each.name)
            kind = str(each.type)
            allowed = (
                (int, float) if "float" in kind else tuple if "tuple" in kind else str,
                *((type(None),) if "None" in kind else ()),
            )
            if isinstance(item, bool) or not isinstance(item, cast("Any", allowed)):
                raise ValueError(f"{cls.__name__}.{each.name} has a wrong type")
        return record


@dataclass(frozen=True, slots=True)
class Registration(_Record):
    """This program as a client of one authorization server. Never used at another one.

    Attributes:
        issuer: identifier of the authorization server.
        kind: see `ClientKind`.
        redirect_uri: the one that was registered; None where none is needed.
        secret_expires_at: seconds of the epoch; None if the secret does not expire.
    """

    issuer: str
    client_id: str
    kind: ClientKind
    auth_method: AuthMethod = "none"
    client_secret: str | None = field(default=None, repr=False)
    redirect_uri: str | None = None
    secret_expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Grant(_Record):
    """Tokens for one resource, with everything that a refresh needs, also in another run.

    Attributes:
        issuer, token_endpoint, revocation_endpoint: of the authorization server that issued the tokens.
        access_token: empty once the grant is dead (see `without_tokens`).
        resource: the `resource` of all requests (RFC 8707).
        scopes: as granted; if the server does not say, as requested.
        expires_at: of the access token, in seconds of the epoch; None if the server does not say.
        client_id, redirect_uri, auth_method: of the registration that the tokens belong to. It is in the store if it is
            neither configured nor a metadata document.
        obtained_at: in seconds of the epoch. Of two grants, the later one counts.
    """

    issuer: str
    token_endpoint: str
    resource: str
    client_id: str
    access_token: str = field(repr=False)
    obtained_at: float
    scopes: tuple[str, ...] = ()
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    revocation_endpoint: str | None = None
    redirect_uri: str | None = None
    auth_method: AuthMethod = "none"

    def without_tokens(self) -> Self:
        """Return what stays of a grant that is dead: which client belongs to which issuer."""
        return replace(self, access_token="", refresh_token=None, expires_at=None, scopes=())

    def is_fresh(self, now: float) -> bool:
        """Return whether the access token may still be used, as far as is known."""
        return self.expires_at is None or now < self.expires_at - EXPIRY_MARGIN_S
