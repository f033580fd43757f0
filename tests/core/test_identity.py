"""Parties: among whom bounds are shared."""

import pytest

from asyncfc_mcp.core.identity import LOCAL, PUBLIC, TOKEN, CallerIdentity, Scope, is_only_principal, party_of

PERSON, SUBJECT = Scope("person:alice"), Scope("oauth:https://issuer.test#alice")


@pytest.mark.parametrize("scope", [LOCAL, TOKEN])
def test_the_only_principal_of_an_endpoint_shares_with_nobody(scope: Scope):
    """All its callers are one."""
    assert is_only_principal(scope)
    assert party_of(scope, CallerIdentity()) is None


def test_principals_are_parties_by_their_scopes():
    """All callers of a principal together; two principals of one name are two."""
    assert party_of(PERSON, CallerIdentity()) == party_of(PERSON, None) == "person:alice"
    assert party_of(PERSON, None) != party_of(SUBJECT, None)
    assert not is_only_principal(PERSON)


def test_where_nobody_is_authenticated_each_caller_is_a_party():
    """Without a caller there is none."""
    caller = CallerIdentity()
    assert party_of(PUBLIC, caller) is caller
    assert party_of(PUBLIC, None) is None
    assert not is_only_principal(PUBLIC)
