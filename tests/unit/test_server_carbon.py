"""A run whose [carbon] cannot be used is refused before it is opened: no folder, and no device is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fedsus.errors import ConfigError
from fedsus.model_file import metadata, write_model
from fedsus.plan import TaskPart
from fedsus_server import runs

RUN = """
name = "trial"
task = { name = "heart" }
plan = { rounds = 4, exchange = "clear_sum", cohort = { size = 2, minimum = 2 } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model.safetensors", np.zeros(4, np.float32), metadata(TaskPart(name="heart")))
    (tmp_path / "a.csv").write_text("time,v\n2021-03-01T00:00Z,5\n2021-03-01T01:00Z,-5\n")
    return tmp_path


@pytest.mark.parametrize(
    ("carbon", "said"),
    [
        ("series = { files = 'a.csv', value = 'v', unit = 'g/kWh' }", "'carbon.series': {folder}/a.csv: line 3: '-5'"),
        (
            "series = { files = 'b.csv', value = 'v', unit = 'g/kWh' }",
            "'carbon.series': {folder}/b.csv: cannot be read",
        ),
        ("http = { url = 'https://a.example/', token_file = 't' }", "'carbon.http': token_file: {folder}/t: cannot be"),
        ("http = { url = 'https://a.example/', ca = 'c.pem' }", "'carbon.http': ca: {folder}/c.pem: no such file"),
        ("country = 'GER'", "'carbon.country': 'GER' is not in the table of yearly averages; did you mean"),
    ],
    ids=["broken series", "no series", "no token", "no authority", "no country"],
)
def test_it_is_told_with_file_and_setting_before_a_run_opens(folder: Path, carbon: str, said: str) -> None:
    if "country" in carbon:
        pytest.importorskip("codecarbon.data", reason="the extra 'energy' is not installed")
    file = folder / "run.toml"
    file.write_text(f"{RUN}[carbon]\n{carbon}\n")
    with pytest.raises(ConfigError) as caught:
        runs.open_new(file, folder / "runs", lambda: 0.0)
    assert str(caught.value).startswith(f"{file}: {said.format(folder=folder)}")
    assert "\n" not in str(caught.value)
    assert not (folder / "runs").exists()
    file.write_text(f"{RUN}[carbon]\ngrams_per_kwh = 300.0\n")
    assert Path(runs.open_new(file, folder / "runs", lambda: 0.0).folder).is_dir()


def test_a_source_without_a_value_for_now_opens_no_run_that_refuses_to_go_on_without(folder: Path) -> None:
    """Else the first round is released, and its privacy spent, before the run is given up."""
    (folder / "good.csv").write_text("time,v\n2021-03-01T00:00Z,5\n2021-03-01T01:00Z,6\n")
    table = "[carbon]\nmissing = 'refuse'\nseries = { files = 'good.csv', value = 'v', unit = 'g/kWh' }\n"
    file, now = folder / "run.toml", datetime(2021, 3, 1, 0, 30, tzinfo=UTC).timestamp()
    file.write_text(RUN + table)
    with pytest.raises(ConfigError, match=r'\[carbon\] has no figure for now, and missing = "refuse"') as caught:
        runs.open_new(file, folder / "runs", lambda: now + 86_400)
    assert "\n" not in str(caught.value)
    assert not (folder / "runs").exists()
    assert Path(runs.open_new(file, folder / "runs", lambda: now).folder).is_dir()
    file.write_text(f"{RUN}{table}fallback = {{ grams_per_kwh = 300.0 }}\n")
    assert Path(runs.open_new(file, folder / "runs", lambda: now + 86_400).folder).is_dir()
