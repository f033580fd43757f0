"""Bounded tables that several parties fill."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.shared_lru import SharedLru


def test_who_fills_the_table_loses_its_own():
    """The least recently used first; the others keep theirs, however long ago they used them."""
    table = SharedLru[str, str](4)
    table.add("bob", "b", "bob's")
    dropped = [table.add("alice", f"a{number}", f"{number}") for number in range(5)]
    assert dropped == [None, None, None, "0", "1"]
    assert table.get("bob", "b") == "bob's"
    assert table.get("alice", "a2") == "2"
    assert table.add("alice", "new", "new") == "3"  # `a2` was used since
    assert table.get("alice", "a1") is None


def test_with_one_party_it_is_a_usual_table():
    """As before there were several."""
    table = SharedLru[int, int](2)
    assert [table.add(None, number, number) for number in range(4)] == [None, None, 0, 1]
    assert len(table) == 2


@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=80))
def test_a_party_within_an_equal_part_never_loses_anything(most: int, steps: list[tuple[str, int]]):
    """And the bound holds."""
    table, own = SharedLru[int, int](most), dict[str, OrderedDict[int, None]]()
    for party, key in steps:
        entries = own.setdefault(party, OrderedDict())
        if table.get(party, key) is None:
            table.add(party, key, key)
        entries[key] = None
        entries.move_to_end(key)
        assert len(table) <= most
        for each, keys in own.items():
            if len(keys) <= most // 3:
                assert all(table.get(each, known) == known for known in keys)
