"""ASGI applications on loopback, each with uvicorn in a thread of this process.

Owns the socket and the thread. The application's state is the test's to read and to change: handlers run in the
other thread, one at a time between their awaits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

import uvicorn


class ThreadedApp:
    """An application that answers at `origin` while the block runs."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, 0))
        self.origin = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def app(self) -> Any:
        """Return the ASGI application."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        config = uvicorn.Config(self.app, http="h11", ws="none", lifespan="off", log_level="critical", access_log=False)
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join(10)
        with contextlib.suppress(OSError):
            self._socket.close()
