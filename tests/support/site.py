"""A web server that answers as a test says, and remembers every request: what must never reach another host is looked
for here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.threaded_app import ThreadedApp

Answer = Callable[[Request, bytes], Response]


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def whole(self) -> str:
        """All of it, to look for secrets."""
        return f"{self.method} {self.path}?{self.query} {dict(self.headers)} {self.body.decode(errors='replace')}"


@dataclass
class _Answers:
    by_path: dict[str, Answer] = field(default_factory=dict[str, Answer])
    default: Answer = field(default=lambda request, body: Response("not found", 404))


class Site(ThreadedApp):
    """A site whose paths are answered by functions, and by 404 otherwise."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.answers = _Answers()
        self.seen: list[Seen] = []

    def reset(self) -> None:
        """Forget all answers and requests."""
        self.answers = _Answers()
        self.seen.clear()

    def on(self, path: str, answer: Answer | Response) -> str:
        """Answer a path in this way; its URL."""
        self.answers.by_path[path] = answer if callable(answer) and not isinstance(answer, Response) else _same(answer)
        return f"{self.origin}{path}"

    def otherwise(self, answer: Answer | Response) -> None:
        """Answer all other paths in this way."""
        self.answers.default = answer if callable(answer) and not isinstance(answer, Response) else _same(answer)

    @property
    def app(self) -> Any:
        methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append(Seen(request.method, request.url.path, request.url.query, dict(request.headers), body))
        return self.answers.by_path.get(request.url.path, self.answers.default)(request, body)


def _same(response: Any) -> Answer:
    return lambda request, body: response
