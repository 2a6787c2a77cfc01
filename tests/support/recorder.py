"""A proxy that ends TLS on both sides and writes down what a device asks for: nothing that it sends is hidden."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")


class Recorder:
    """Listens on a free port of 127.0.0.1 and forwards to the gateway there.

    Args:
        gateway: its port.
        certificate, key: what to show to devices; the server's own, so that they need no other authority.
        ca: of the gateway.
    """

    def __init__(self, gateway: int, certificate: Path, key: Path, ca: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.port = 0
        self._gateway = gateway
        self._inner = ssl.create_default_context(cafile=ca)
        self._outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._outer.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        ready.wait(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=self._outer)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; an end that closes ends the other."""
        try:
            there = await asyncio.open_connection("127.0.0.1", self._gateway, ssl=self._inner)
        except OSError:
            writer.transport.abort()
            return
        ways = [_pump(reader, there[1], self._note), _pump(there[0], writer, lambda _: None)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, there[1]):
                end.transport.abort()

    def _note(self, part: bytes) -> None:
        for method, path in _REQUEST.findall(part):
            self.asked[f"{method.decode()} {path.decode()}"] += 1


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(65536):
            note(part)
            sink.write(part)
            await sink.drain()
