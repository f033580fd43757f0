"""Keys of what is sealed: the same for replicas with one secret, another for each purpose."""

from asyncfc_mcp.keys import KEY_BYTES, derived_key
from asyncfc_mcp.upstream.input_required import CodecSeal


def test_replicas_with_one_secret_have_the_same_keys():
    """Each purpose has its own. Without a secret each process has other keys."""
    assert derived_key("secret", "a") == derived_key("secret", "a")
    keys = {derived_key(secret, purpose) for secret in ("secret", "other", None, None) for purpose in ("a", "b")}
    assert len(keys) == 8
    assert {len(key) for key in keys} == {KEY_BYTES}


def test_a_state_that_one_replica_sealed_is_opened_by_another():
    """Only with the same secret."""
    token = CodecSeal("secret").seal(b"state")
    assert CodecSeal("secret").open(token) == b"state"
    assert CodecSeal("other").open(token) is None
    assert CodecSeal().open(token) is None
    assert CodecSeal().open(CodecSeal().seal(b"state")) is None
