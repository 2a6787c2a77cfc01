"""What is asked of a source over HTTP, how long its values hold, and what a run does where it has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from carbon_service import NOW, Clock, Source, asked, raw, says, serving, values

import fedsus_client.fetching
import fedsus_server.fetching
from fedsus.config import loads
from fedsus.energy.grid.carbon import make_intensity
from fedsus.energy.grid.fetching import Fetch
from fedsus.energy.grid.http_source import token
from fedsus.energy.grid.intensity import Intensity
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import CarbonSettings


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as source:
        yield source


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
    made = make_intensity(loads(text, CarbonSettings), folder, fedsus_client.fetching.fetch, clock, "agent.toml")
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
    with pytest.raises(ConfigError, match="^agent.toml: 'carbon.http': nothing here opens connections"):
        make_intensity(
            loads('http = { url = "https://a.example/ci" }', CarbonSettings), tmp_path, None, Clock(), "agent.toml"
        )
