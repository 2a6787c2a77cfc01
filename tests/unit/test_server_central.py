"""Central evaluation on an operator's file: one line a released round, and a run never fails because of it."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from fedsus.config import RunConfig
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus_server.central import NAME, CentralEvaluation, evaluate
from fedsus_simulations.demo.study import FEDERATED
from fedsus_simulations.whole.memory import simulate

START = np.zeros(34, dtype=np.float32)


def config(file: Path) -> RunConfig:
    fields = FEDERATED[1].fields(2)
    fields["server"]["evaluate"] = str(file)
    return RunConfig.model_validate(fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = {hospital: DataSource(shipped(hospital)) for hospital in HOSPITALS}
    simulate(FEDERATED[1].config(2), tmp_path, "r", START, sources, seed=1)
    return tmp_path


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / NAME).read_text(encoding="utf-8").splitlines()]


def test_each_released_round_is_evaluated_once_on_the_whole_file(folder: Path) -> None:
    file = shipped("cleveland")
    evaluate(folder, config(file), threading.Event())
    found = lines(folder)
    assert [line["round"] for line in found] == [1, 2]
    assert {line["examples"] for line in found} == {304}
    assert all(line["auc"] > 0.8 for line in found), "a private run too: the operator's file is the operator's"
    evaluate(folder, config(file), threading.Event())
    assert lines(folder) == found


def test_a_file_that_does_not_fit_is_logged_and_harms_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "fedsus.server"):
        CentralEvaluation(folder, config(tmp_path / "none.csv")).close()
    assert "central evaluation ended" in caplog.text
    assert "none.csv: no such file" in caplog.text
