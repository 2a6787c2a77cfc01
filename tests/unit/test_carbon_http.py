"""A source of carbon intensity over HTTP that answers, hangs and lies: a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsus_client.fetching
import fedsus_server.fetching
from fedsus.config import loads
from fedsus.energy.carbon import make_intensity
from fedsus.energy.fetching import Answer, Fetch, Request
from fedsus.energy.http_answers import understood
from fedsus.energy.http_source import HttpSource, token
from fedsus.energy.intensity import Intensity
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import CarbonSettings, HttpSettings

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
Reply = Callable[[BaseHTTPRequestHandler], None]


class Source:
    """The server: ``reply`` is what it does next; ``seen`` the headers it was sent."""

    def __init__(self) -> None:
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
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    thread = threading.Thread(target=source.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield source
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


@pytest.mark.parametrize("fetch", [fedsus_client.fetching.fetch, fedsus_server.fetching.fetch])
def test_answers_are_averaged_and_remembered(source: Source, tmp_path: Path, fetch: Fetch) -> None:
    clock = Clock()
    intensity = asked(source, clock, tmp_path, fetch, zone="DE")
    source.reply = says(values((-600, 100), (-300, 200), zone="DE", unit="g/kWh", kind="average"))
    rate = intensity.over(NOW - 450, NOW)
    assert rate.value == pytest.approx((150 * 100 + 300 * 200) / 450)
    assert (rate.low, rate.high) == (pytest.approx(0.9 * rate.value), pytest.approx(1.1 * rate.value))
    assert (rate.method, rate.kind, rate.source) == ("modelled", "average", "127.0.0.1/ci of DE")
    clock.now += 299
    assert intensity.over(clock.now, clock.now).value == 200
    assert len(source.seen) == 1
    clock.now += 1
    source.reply = says(values((0, 400), zone="DE"))
    assert intensity.over(NOW - 300, NOW + 300).value == 300
    assert [seen["path"] for seen in source.seen] == ["/ci?key=secret"] * 2
    assert "authorization" not in source.seen[0]


LIES: list[tuple[Any, str]] = [
    (raw(b"<html>hello</html>", content="text/html"), "the answer is HTML, not JSON"),
    (raw(b"<!doctype html>"), "the answer is HTML, not JSON"),
    (raw(b"{"), "the answer is no JSON"),
    (raw(b"[" * 100_000), "the answer is no JSON"),
    (raw(b'{"values": NaN}'), "the answer is no JSON"),
    (raw(b"\xff\xfe"), "the answer is no JSON"),
    (
        raw(b"", 302, Location="http://127.0.0.2/else?key=secret"),
        "redirects to 'http://127.0.0.2/else', which is not followed",
    ),
    (raw(b"no", 403), "has status 403 instead of 200; is the token right?"),
    (raw(b"no", 500), "has status 500 instead of 200"),
    (raw(b" " * 1_000_001), "is longer than largest = 1000000 bytes"),
    (says([]), "has no 'values'"),
    (says({"values": []}), "holds no value"),
    (says({"values": [7]}), "holds 7 where a value with its time is expected"),
    (says({"values": [{"time": iso(0)}]}), "without 'value'"),
    (says({"values": [{"value": 3}]}), "its 'time': None is no time"),
    (says({"values": [{"time": "2026-03-01T12:00:00", "value": 3}]}), "has no zone"),
    (says({"values": [{"time": iso(0), "value": "much"}]}), "its 'value': 'much' is no number"),
    (says({"values": [{"time": iso(0), "value": 10**400}]}), "is no number"),
    (says({"values": [{"time": iso(0), "value": True}]}), "its 'value': True is no number"),
    (says({"values": [{"time": iso(0), "value": 5, "low": 6, "high": 7}]}), "outside its own range"),
    (says({"values": [{"time": iso(0), "value": 5, "low": 4}]}), "outside its own range"),
    (says(values((0, -1))), "an intensity is not negative"),
    (says(values((0, 3001))), "is the unit right?"),
    (says(values((0, 0))), "no grid's average is 0"),
    (says(values((0, 5), (0, 6))), "has two values of 2026-03-01 12:00:00+00:00"),
    (says(values((301, 5))), "which is still to come; forecasts belong into 'forecast'"),
    (says(values((1e9, 5))), "which is still to come"),
    (says(values((-7201, 5))), "is stale: its newest value is of 2026-03-01 09:59:59+00:00"),
    (says(values((-1.7e9, 5))), "is stale"),
    (says(values((0, 5), zone="FR")), "says zone 'FR', where 'DE' is expected"),
    (says(values((0, 5), unit="kg/kWh")), "says unit 'kg/kWh', where 'g/kWh' is expected"),
    (says(values((0, 5), kind="marginal")), "says kind 'marginal', where 'average' is expected"),
    (says(values((0, 5), forecast=values((2e6, 5))["values"])), "over 14 days ahead"),
    (raw(b"{}", **{"X-Long": "y" * 200_000}), "broke off"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=[said[:40] for _, said in LIES])
def test_lies_are_one_clear_line(source: Source, tmp_path: Path, lie: Reply, said: str) -> None:
    intensity = asked(source, Clock(), tmp_path, zone="DE")
    source.reply = lie
    with pytest.raises(EnvironmentFault) as caught:
        intensity.over(NOW, NOW)
    line = str(caught.value)
    assert line.startswith("127.0.0.1/ci: ") and said in line
    assert "\n" not in line and "secret" not in line
    assert len(source.seen) == 1


ODD = (
    st.sampled_from(
        [None, True, -0.0, 0, 5, 5.5, 1e308, 10**400, "", "7", "DE", "g/kWh", "average", "\n", "\ud800", [], {}]
    )
    | st.sampled_from([iso(0), iso(-300), iso(300), iso(1e9), "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
    | st.floats(allow_nan=True)
)
VALUE = st.dictionaries(st.sampled_from(["time", "value", "low", "high"]), ODD, min_size=2)
ANSWER = st.dictionaries(
    st.sampled_from(["values", "forecast", "zone", "unit", "kind"]), st.lists(VALUE | ODD, max_size=3) | VALUE | ODD
)


@settings(max_examples=50, deadline=None)
@given(ANSWER | ODD)
def test_any_answer_is_understood_or_refused_with_one_line(found: Any) -> None:
    answer = Answer(status=200, content="", body=json.dumps(found).encode())
    said, values, ahead = "", [], []
    try:
        values, ahead = understood(answer, HttpSettings(url="https://grid.example", zone="DE"), "average", NOW)
    except EnvironmentFault as fault:
        said = str(fault)
    assert len(said) < 300 and said.isprintable() and bool(said) != bool(values)
    assert all(0 < point.value <= 3000 and abs(point.time - NOW) <= 7200 for point in values)
    assert all(0 <= point.value <= 3000 for point in ahead)


def endless(source: Source, *, head: bytes, chunk: bytes, pause: float) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while not source.over.wait(pause):
            handler.wfile.write(chunk)

    return reply


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


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


def test_the_last_good_value_holds_for_a_while_marked_and_wider(source: Source, tmp_path: Path) -> None:
    clock = Clock()
    intensity = asked(source, clock, tmp_path, oldest=3600.0)
    source.reply = says(values((0, 100)))
    assert intensity.over(NOW, NOW).method == "modelled"
    source.reply = raw(b"", 500)
    clock.now = NOW + 1800
    held = intensity.over(clock.now, clock.now)
    assert (held.value, held.method) == (100, "assumed")
    assert (held.low, held.high) == (pytest.approx(80), pytest.approx(120))
    assert "held since 2026-03-01 12:00:00+00:00: 127.0.0.1/ci: the answer has status 500" in held.source
    clock.now = NOW + 3601
    with pytest.raises(EnvironmentFault, match="status 500"):
        intensity.over(clock.now, clock.now)
    source.reply = says(values((3600, 300)))
    clock.now += 300
    again = intensity.over(clock.now, clock.now)
    assert (again.value, again.method) == (300, "modelled")
    with pytest.raises(EnvironmentFault, match="no value for"):
        intensity.over(NOW - 3601, NOW)
    assert intensity.over(NOW - 600, NOW).method == "assumed"


def test_a_clock_that_is_set_back_asks_again(source: Source, tmp_path: Path) -> None:
    clock = Clock()
    intensity = asked(source, clock, tmp_path)
    source.reply = says(values((0, 100)))
    assert intensity.over(NOW, NOW).value == 100
    clock.now = NOW - 86_400
    source.reply = says(values((-86_400, 50)))
    assert intensity.over(clock.now, clock.now).value == 50
    assert len(source.seen) == 2


def test_forecasts(source: Source, tmp_path: Path) -> None:
    source.reply = says(values((-300, 100), forecast=values((3600, 50), (0, 90), (1800, 70))["values"]))
    steps = asked(source, Clock(), tmp_path).forecast(NOW + 600, NOW + 4000)
    assert [(step.start - NOW, step.end - NOW, step.rate.value) for step in steps] == [
        (600, 1800, 90),
        (1800, 3600, 70),
        (3600, 4000, 50),
    ]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (
            {"values": "", "time": "datetime", "value": "carbonIntensity"},
            {"zone": "DE", "carbonIntensity": 302, "datetime": iso(-60)},
        ),
        (
            {"values": "data", "forecast": "data", "time": "from", "value": "intensity.forecast"},
            {"data": [{"from": iso(60 * k), "intensity": {"forecast": 300 + k}} for k in (-28, 2, 32)]},
        ),
    ],
)
def test_other_forms_are_read_by_naming_their_fields(
    source: Source, tmp_path: Path, fields: dict[str, str], answer: Any
) -> None:
    source.reply = says(answer)
    assert asked(source, Clock(), tmp_path, fields=fields).over(NOW, NOW).value in (302, 272)


def test_what_is_to_come_in_one_list_is_a_forecast(source: Source, tmp_path: Path) -> None:
    source.reply = says(values((-1800, 300), (0, 310), (1800, 320), (3600, 330)))
    intensity = asked(source, Clock(), tmp_path, fields={"forecast": "values"})
    assert intensity.over(NOW, NOW).value == 310
    assert [step.rate.value for step in intensity.forecast(NOW, NOW + 7200)] == [310, 320, 330]


def test_tokens_come_from_a_file_that_others_cannot_read(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("abc123\n")
    path.chmod(0o600)
    source.reply = says(values((0, 5)))
    assert asked(source, Clock(), tmp_path, token_file="token").over(NOW, NOW).value == 5
    assert asked(source, Clock(), tmp_path, token_file="token", header="auth-token").over(NOW, NOW).value == 5
    assert source.seen[0]["authorization"] == "Bearer abc123"
    assert source.seen[1]["auth-token"] == "abc123" and "authorization" not in source.seen[1]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read the token: chmod 600"):
        token(path)
    path.chmod(0o600)
    for text in ("", "two words", "two\nlines", "ünïcode"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="one line with a token") as caught:
            token(path)
        assert not text or text not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        asked(source, Clock(), tmp_path, token_file="none")


def made(source: Source, folder: Path, clock: Clock, rest: str) -> Intensity:
    text = f'{rest}\n[http]\nurl = "{source.url}/ci"\n'
    made = make_intensity(loads(text, CarbonSettings), folder, fedsus_client.fetching.fetch, clock)
    assert made is not None
    return made


def test_a_run_goes_on_or_refuses_as_the_owner_says(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source.reply = raw(b"<html>")
    clock = Clock()
    world = made(source, tmp_path, clock, "")
    rate = world.over(NOW, NOW)
    assert (rate.value, rate.low, rate.high, rate.method) == (481, 0, 1400, "assumed")
    assert "instead of a source that failed: 127.0.0.1/ci: the answer is HTML" in rate.source
    world.over(NOW, NOW)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once, not with every round
    assert "going on with an assumed carbon intensity" in caplog.text
    stated = made(source, tmp_path, clock, "spread = 0.25\nfallback = { grams_per_kwh = 400.0 }").over(NOW, NOW)
    assert (stated.value, stated.low, stated.high, stated.method) == (400, 200, 600, "assumed")
    assert (
        "yearly average of France"
        in made(source, tmp_path, clock, 'fallback = { country = "FRA" }').over(NOW, NOW).source
    )
    with pytest.raises(EnvironmentFault, match="is HTML"):
        made(source, tmp_path, clock, 'missing = "refuse"').over(NOW, NOW)
    source.reply = says(values((0, 100)))
    clock.now += 300
    assert world.over(clock.now, clock.now).value == 100


def test_without_one_who_opens_connections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing here opens connections"):
        make_intensity(loads('http = { url = "https://a.example/ci" }', CarbonSettings), tmp_path, None, Clock())
