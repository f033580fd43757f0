"""`WWW-Authenticate` is read as servers write it, and nothing in it raises or takes long."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.downstream.oauth.challenges import (
    MAX_CHALLENGES,
    MAX_SCOPES,
    BearerChallenge,
    bearer_challenge,
    challenges_in,
    union,
)
from tests.support.cpu_time import least_cpu_s

URL = "https://mcp.example/.well-known/oauth-protected-resource"
TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
PARAMS = st.dictionaries(TOKENS.map(str.lower), st.text(max_size=20), max_size=5)


@pytest.mark.parametrize(
    "values",
    [
        [f'Bearer resource_metadata="{URL}", scope="a b", error="invalid_token"'],
        [f'Bearer resource_metadata={URL}, scope="a b", error=invalid_token'],
        [f'bearer  Resource_Metadata = "{URL}" ,scope="a b",, error = "invalid_token"'],
        [f'Bearer resource_metadata="{URL}" scope="a b" error="invalid_token"'],
        [f'Basic realm="a, b", Bearer resource_metadata="{URL}", scope="a b", error="invalid_token", Negotiate'],
        ['Basic realm="x"', f'Bearer resource_metadata="{URL}", scope="a b", error="invalid_token"'],
        [f'Bearer realm="other", Bearer resource_metadata="{URL}", scope="a b", error="invalid_token"'],
        [f'Negotiate YII==, Bearer resource_metadata="{URL}", scope="a b b a", error="invalid_token"'],
        [f'???, Bearer resource_metadata="{URL}", scope="a b", error="invalid_token", ("x'],
    ],
)
def test_the_same_challenge_in_every_spelling(values: list[str]):
    """Several challenges, several fields, quoted or not, with commas or without, beside other schemes and garbage."""
    assert bearer_challenge(values) == BearerChallenge(URL, ("a", "b"), "invalid_token")


def test_a_scheme_in_a_quoted_text_is_no_challenge():
    """What one server quotes must not become another's instruction."""
    values = ['Basic realm="Bearer resource_metadata=\\"https://evil.example\\", scope=admin"']
    assert bearer_challenge(values) == BearerChallenge()
    assert [each.scheme for each in challenges_in(values)] == ["basic"]


def test_the_first_of_a_repeated_parameter_counts():
    """RFC 9110 forbids repeating; whatever is appended later must not win."""
    assert bearer_challenge(['Bearer error="a", error="b"']).error == "a"


def _written(scheme: str, params: dict[str, str]) -> str:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in params.values())
    return f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in zip(params, quoted, strict=True))


@given(st.lists(st.tuples(TOKENS, PARAMS), max_size=6), st.booleans())
def test_what_is_written_by_the_rules_is_read_as_it_was(challenges: list[tuple[str, dict[str, str]]], apart: bool):
    """Any text in a quoted value, in one field or in several."""
    fields = [_written(scheme, params) for scheme, params in challenges]
    read = challenges_in(fields if apart else [", ".join(fields)])
    assert [(each.scheme, dict(each.params)) for each in read] == [(s.lower(), params) for s, params in challenges]


@given(st.lists(st.one_of(st.text(), st.text('"\\,=; Bearerscope')), max_size=5))
def test_garbage_never_raises(values: list[str]):
    """And no more is read than the bounds allow."""
    found = bearer_challenge(values)
    assert len(challenges_in(values)) <= MAX_CHALLENGES
    assert len(found.scopes) <= MAX_SCOPES


@pytest.mark.parametrize("piece", ['a="', "Bearer ", "a=b,", '"', "a=\\", ", ", "a ", "=", 'a="\\"', "a\t", "a="])
def test_long_fields_take_no_time(piece: str):
    """Linear, whatever is repeated."""
    values = [piece * (1_000_000 // len(piece))] * 20
    assert least_cpu_s(lambda: challenges_in(values), 0.1) < 0.1


@given(st.lists(st.lists(st.text(max_size=4), max_size=4), max_size=3))
def test_a_union_of_scopes_keeps_the_valid_ones_in_order(lists: list[list[str]]):
    """Each once; what is no scope could break out of the parameter."""
    scopes = union(*lists)
    assert len(set(scopes)) == len(scopes)
    assert all(scope.isprintable() and not set(scope) & set(' "\\') and scope for scope in scopes)
    flat = [scope for each in lists for scope in each]
    assert list(scopes) == [scope for scope in dict.fromkeys(flat) if scope in scopes]
