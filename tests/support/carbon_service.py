"""A source of carbon intensity over HTTP, on loopback, that answers, hangs and lies as a test says."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fedsus_client.fetching
from fedsus.energy.grid.fetching import Fetch
from fedsus.energy.grid.http_source import HttpSource
from fedsus.settings.carbon import HttpSettings

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
Reply = Callable[[BaseHTTPRequestHandler], None]


class Source:
    """The server.

    Attributes:
        reply: what it does next.
        seen: the headers that it was sent, and ``path``, of each question.
        over: set when the test is.

    Args:
        secured: speaks TLS by it; None, and it speaks plain HTTP.
    """

    def __init__(self, secured: ssl.SSLContext | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        self.over = threading.Event()
        self.reply: Reply = says({})
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
                with contextlib.suppress(ConnectionError):
                    source.reply(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.port = self.server.server_address[1]
        self.url = f"{'http' if secured is None else 'https'}://127.0.0.1:{self.port}"
        if secured is not None:
            self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes fail in tests
            self.server.socket = secured.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )


@contextlib.contextmanager
def serving(secured: ssl.SSLContext | None = None) -> Iterator[Source]:
    """A source while a test lasts; what asks it has ended after it."""
    source = Source(secured)
    thread = threading.Thread(target=source.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield source
    finally:
        source.over.set()
        source.server.shutdown()
        thread.join()
        source.server.server_close()
        for asking in threading.enumerate():
            if asking.name == "fedsus-carbon":
                asking.join(10)
                assert not asking.is_alive()


def raw(body: bytes, status: int = 200, content: str = "application/json", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def says(found: Any) -> Reply:
    return raw(json.dumps(found).encode())


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def values(*pairs: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"values": [{"time": iso(time), "value": value} for time, value in pairs]} | more


def endless(source: Source, *, head: bytes, chunk: bytes, pause: float) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while not source.over.wait(pause):
            handler.wfile.write(chunk)

    return reply


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def asked(
    source: Source, clock: Clock, folder: Path, fetch: Fetch = fedsus_client.fetching.fetch, **settings: Any
) -> HttpSource:
    chosen: dict[str, Any] = {"url": f"{source.url}/ci?key=secret", "timeout": 5.0} | settings
    return HttpSource(HttpSettings(**chosen), "average", 0.1, folder, fetch, clock)
