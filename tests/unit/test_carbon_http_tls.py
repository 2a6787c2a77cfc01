"""A source of carbon intensity over TLS: whose certificates are taken, and one clear line for those that are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from authorities import DAY, certificate, pem, secret, secured
from authorities import NOW as TODAY
from carbon_service import NOW, Clock, Source, asked, says, serving, values

import fedsus_client.fetching
import fedsus_server.fetching
from fedsus.config import loads
from fedsus.energy.grid.carbon import make_intensity
from fedsus.energy.grid.fetching import Fetch
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import CarbonSettings

FETCHES = [fedsus_client.fetching.fetch, fedsus_server.fetching.fetch]
Serve = Callable[..., Source]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a source over TLS that answers 100 g/kWh; its authority is in ca.pem."""
    with ExitStack() as stack:

        def start(name: str = "localhost", end: datetime = TODAY + DAY) -> Source:
            root = certificate("authority", TODAY + 2 * DAY, None)
            (tmp_path / "ca.pem").write_bytes(pem(root[0]))
            found = stack.enter_context(serving(secured(tmp_path / "source.pem", certificate(name, end, root))))
            found.url = f"https://localhost:{found.port}"
            found.reply = says(values((0, 100)))
            return found

        yield start


@pytest.mark.parametrize("fetch", FETCHES)
def test_a_source_of_an_authority_of_its_own_is_taken(serve: Serve, tmp_path: Path, fetch: Fetch) -> None:
    source, clock = serve(), Clock()
    (tmp_path / "token").write_text("abc123")
    (tmp_path / "token").chmod(0o600)
    intensity = asked(source, clock, tmp_path, fetch, ca="ca.pem", token_file="token")
    rate = intensity.over(NOW, NOW)
    assert (rate.value, rate.method, rate.source) == (100, "modelled", "localhost/ci")
    assert [seen["authorization"] for seen in source.seen] == ["Bearer abc123"]


def test_authorities_that_were_renewed_count_without_a_new_start(serve: Serve, tmp_path: Path) -> None:
    source, clock = serve(), Clock()
    right = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / "ca.pem").write_bytes(pem(certificate("authority", TODAY + DAY, None)[0]))
    intensity = asked(source, clock, tmp_path, ca="ca.pem")
    with pytest.raises(EnvironmentFault, match="an authority that does not count"):
        intensity.over(NOW, NOW)
    (tmp_path / "ca.pem").write_bytes(right)
    clock.now += 300
    assert intensity.over(NOW, NOW).value == 100
    (tmp_path / "ca.pem").unlink()
    source.reply = says(values((600, 300)))
    clock.now += 300
    held = intensity.over(clock.now, clock.now)
    assert (held.value, held.method) == (100, "assumed")
    assert f"ca: {tmp_path / 'ca.pem'}: no such file" in held.source


MISTRUSTED = [
    ({}, None, "its certificate is from an authority that does not count here; ca names the file of those that do"),
    ({}, "other.pem", "its certificate is from an authority that does not count here"),
    ({"name": "elsewhere.example"}, "ca.pem", "its certificate is for another name than that in url"),
    ({"end": TODAY - DAY}, "ca.pem", "its certificate has expired"),
]


@pytest.mark.parametrize("fetch", FETCHES)
@pytest.mark.parametrize(("made", "ca", "said"), MISTRUSTED, ids=["system's", "other", "name", "expired"])
def test_a_certificate_that_is_not_accepted_is_one_line_and_no_token_leaves(
    serve: Serve, tmp_path: Path, made: dict[str, object], ca: str | None, said: str, fetch: Fetch
) -> None:
    source = serve(**made)
    (tmp_path / "other.pem").write_bytes(pem(certificate("authority", TODAY + DAY, None)[0]))
    (tmp_path / "token").write_text("abc123")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(EnvironmentFault) as caught:
        asked(source, Clock(), tmp_path, fetch, ca=ca, token_file="token").over(NOW, NOW)
    line = str(caught.value)
    assert line.startswith(f"localhost/ci: {said}")
    assert line.isprintable() and "secret" not in line and "abc123" not in line
    assert source.seen == []


@pytest.mark.parametrize("fetch", FETCHES)
def test_a_source_that_speaks_no_tls(tmp_path: Path, fetch: Fetch) -> None:
    with serving() as plain:
        plain.url = f"https://localhost:{plain.port}"
        with pytest.raises(EnvironmentFault, match=r"^localhost/ci: cannot be reached: \[SSL: ") as caught:
            asked(plain, Clock(), tmp_path, fetch).over(NOW, NOW)
        assert str(caught.value).isprintable() and plain.seen == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "holds no certificate in PEM form"),
        (b"nothing of the kind", "holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate in PEM form"),
        (b"key", "holds no certificate in PEM form"),
        (b"folder", "not a file"),
        (b"pipe", "not a file"),
    ],
    ids=["missing", "empty", "text", "broken", "a key", "a folder", "a pipe"],
)
def test_a_file_without_authorities_is_refused_before_anything_is_asked(
    serve: Serve, tmp_path: Path, content: bytes | None, said: str
) -> None:
    source, file = serve(), tmp_path / "own.pem"
    if content == b"key":
        content = secret(certificate("authority", TODAY + DAY, None)[1])
    if content == b"folder":
        file.mkdir()
    elif content == b"pipe":
        os.mkfifo(file)
    elif content is not None:
        file.write_bytes(content)
    text = f"http = {{ url = '{source.url}/ci', ca = 'own.pem' }}"
    with pytest.raises(ConfigError, match=f"^run.toml: 'carbon.http': ca: {file}: ({said})") as caught:
        make_intensity(loads(text, CarbonSettings), tmp_path, FETCHES[0], Clock(), "run.toml")
    assert str(caught.value).isprintable()
    assert source.seen == []


def test_a_run_goes_on_or_ends_as_the_policy_says(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = serve(end=TODAY - DAY)

    def made(rest: str) -> float:
        text = f"{rest}\n[http]\nurl = '{source.url}/ci?key=secret'\nca = 'ca.pem'\n"
        found = make_intensity(loads(text, CarbonSettings), tmp_path, FETCHES[0], Clock(), "agent.toml")
        assert found is not None
        rate = found.over(NOW, NOW)
        assert rate.method == "assumed" and "localhost/ci: its certificate has expired" in rate.source
        return rate.value

    assert made("") == 481
    assert made("fallback = { grams_per_kwh = 400.0 }") == 400
    assert [record.getMessage() for record in caplog.records] == [
        "localhost/ci: its certificate has expired; going on with an assumed carbon intensity"
    ] * 2
    with pytest.raises(EnvironmentFault, match="^localhost/ci: its certificate has expired$"):
        made("missing = 'refuse'")
