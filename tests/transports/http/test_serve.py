"""Sockets: what is promised of them before anything is said over them."""

import socket

import pytest

from asyncfc_mcp.transports.http.serve import listening_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_an_answer_in_two_pieces_does_not_wait_for_an_acknowledgement(host: str):
    """Whatever event loop takes the connection: Nagle's algorithm is off on it from the start."""
    try:
        listener = listening_socket(host, 0)
    except OSError:
        if ":" not in host:
            raise
        pytest.skip("no IPv6 here")
    with listener:
        with socket.create_connection(listener.getsockname()[:2]), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
