"""Guests: what other replicas want of a server counts as long as they live, and the server runs here."""

from asyncfc_mcp.bridge.guests import Guests


def test_a_subscription_counts_until_the_last_replica_has_ended_it():
    """By its own request, by its death, or because the server has moved."""
    living = {"b", "c"}
    guests = Guests(lambda: living)
    for replica in "bc":
        guests.subscribe(replica, "s", "x://1")
    guests.subscribe("c", "s", "x://2")
    assert guests.wants("s", "x://1")
    assert not guests.wants("other", "x://1")
    guests.unsubscribe("b", "s", "x://1")
    assert guests.wants("s", "x://1")
    living.discard("c")
    assert not guests.has_subscriptions("s")
    living.add("c")
    assert guests.has_subscriptions("s")
    guests.forget("s")
    assert not guests.has_subscriptions("s")
    guests.unsubscribe("c", "s", "x://1")


def test_the_least_level_of_all_replicas_counts():
    """Of those that live; and none that is no level."""
    living = {"b", "c"}
    guests = Guests(lambda: living)
    assert guests.least_level() is None
    guests.own_level = "error"
    guests.set_level("b", "debug")
    guests.set_level("c", "info")
    assert guests.least_level() == "debug"
    living.discard("b")
    assert guests.least_level() == "info"
    guests.set_level("c", "loud")
    assert guests.least_level() == "error"
