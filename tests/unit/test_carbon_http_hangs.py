"""A source of carbon intensity over HTTP that hangs, drips, breaks or is not there costs its timeout and no more."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from carbon_service import HEAD, NOW, Clock, Source, asked, endless, says, serving, values

import fedsus_client.fetching
import fedsus_server.fetching
from fedsus.energy.grid.fetching import Answer, Fetch, Request
from fedsus.energy.grid.http_source import HttpSource
from fedsus.errors import EnvironmentFault
from fedsus.settings.carbon import HttpSettings


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as source:
        yield source


@pytest.mark.parametrize("fetch", [fedsus_client.fetching.fetch, fedsus_server.fetching.fetch])
@pytest.mark.parametrize(
    ("head", "chunk", "pause"),
    [(b"", b"", 60.0), (HEAD, b" ", 0.02), (b"HTTP/1.0 200 OK\r\nX: ", b"y", 0.02)],
    ids=["silent", "dripping body", "dripping header"],
)
def test_a_source_that_hangs_costs_its_timeout_and_no_more(
    source: Source, tmp_path: Path, head: bytes, chunk: bytes, pause: float, fetch: Fetch
) -> None:
    clock = Clock()
    intensity = asked(source, clock, tmp_path, fetch, timeout=0.5)
    source.reply = endless(source, head=head, chunk=chunk, pause=pause)
    with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1/ci: no (whole )?answer within 0\.5 s"):
        intensity.over(NOW, NOW)
    with pytest.raises(EnvironmentFault):  # remembered: nobody waits again
        intensity.over(NOW, NOW)
    assert len(source.seen) <= 1
    for asking in [thread for thread in threading.enumerate() if thread.name == "fedsus-carbon"]:
        asking.join(10)
        assert not asking.is_alive(), "the connection is closed, though the source goes on"
    source.reply = says(values((300, 100)))  # it was mended: it is asked again
    intensity._own = intensity._own.model_copy(update={"timeout": 60.0})  # an answer may take long here
    clock.now += 300
    assert intensity.over(clock.now, clock.now).value == 100


def test_while_an_answer_hangs_nothing_more_is_asked(tmp_path: Path) -> None:
    clock, free, threads = Clock(), threading.Event(), []

    def hangs(_: Request) -> Answer:
        threads.append(threading.current_thread())
        free.wait(60)
        return Answer(status=200, content="", body=json.dumps(values((0, 100))).encode())

    intensity = HttpSource(
        HttpSettings(url="https://grid.example", timeout=0.05), "average", 0.1, tmp_path, hangs, clock
    )
    for said in ("no whole answer within 0.05 s", "the last answer has not ended yet"):
        with pytest.raises(EnvironmentFault, match=said):
            intensity.over(NOW, NOW)
        clock.now += 300
    free.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "fedsus-carbon"]:
        thread.join()
    assert len(threads) == 1
    assert intensity.over(NOW, NOW).value == 100


def test_whatever_a_connection_raises_is_one_line_and_no_forecast(tmp_path: Path) -> None:
    def breaks(_: Request) -> Answer:
        raise ValueError("of nobody's\nmaking")

    intensity = HttpSource(HttpSettings(url="https://grid.example/ci"), "average", 0.1, tmp_path, breaks, Clock())
    assert intensity.forecast(NOW, NOW + 3600) == ()
    with pytest.raises(EnvironmentFault, match=r"^grid\.example/ci: cannot be read: ValueError$"):
        intensity.over(NOW, NOW)


def test_an_endless_body_is_cut(source: Source, tmp_path: Path) -> None:
    source.reply = endless(source, head=HEAD, chunk=b" " * 65_536, pause=0.0)
    with pytest.raises(EnvironmentFault, match="is longer than largest = 2000 bytes"):
        asked(source, Clock(), tmp_path, largest=2000).over(NOW, NOW)


def test_a_source_that_is_not_there(source: Source, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # held, so that nobody else takes it, and not listened to
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/ci"
        with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1/ci: cannot be reached"):
            asked(source, Clock(), tmp_path, url=url).over(NOW, NOW)
