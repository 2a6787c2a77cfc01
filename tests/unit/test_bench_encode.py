"""The benchmarks of what privacy costs: encoding, and rounds of a simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_sides import CLIENTS, work

from fedsus.encoding import skellam as encoding
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import RunFailed
from fedsus.privacy.noise import SeededNoise
from fedsus.privacy.sampling import SkellamTable
from fedsus.types import LocalUpdate
from fedsus_simulations.benchmarks import encode, simulate_data, simulate_privacy
from fedsus_simulations.benchmarks.result import complete
from fedsus_simulations.benchmarks.simulate_privacy import PLAIN, PRIVACY, Asked, Measured, Spent
from fedsus_simulations.benchmarks.tables import markdown

SIZE = 3000
REPLACED = ("rotate", "clip_rows", "skellam", "_dithered", "_longer")


def test_encoding_is_compared_step_by_step() -> None:
    result = complete("encode", True, encode.measure(SIZE, 2))
    assert (result.ours.n, result.ours.unit, result.most) == (2, "ms", 250.0)
    assert len(result.figures) == 1 + 3 + 3
    (table,) = result.tables
    assert [row[0] for row in table.rows] == [*encode.STEPS, encode.REST]
    assert all(isinstance(row[2], float) and row[2] > 0 for row in table.rows), "no step was left without its clock"
    assert sum(float(row[4]) for row in table.rows) == pytest.approx(100)
    assert "| Skellam draws |" in markdown(result)


def test_clocks_and_the_peer_change_no_integer_and_are_taken_away() -> None:
    mechanism = mechanism_of(encode.plan_of(encode.CLIENT, SIZE))
    update = LocalUpdate(encode.long(SIZE), 1.0, np.zeros(0), 0, None)
    before = (*(vars(encoding)[name] for name in REPLACED), SkellamTable.draw, encoding.ClientSkellam._checked)
    ring = mechanism.encode(update, SeededNoise(1))
    with encode._clocked() as spent:
        assert np.array_equal(mechanism.encode(update, SeededNoise(1)), ring)
    assert min(spent.values()) > 0
    peer = encode._Poisson(1e7, np.random.default_rng(1))
    other = encode._with(peer, lambda: mechanism.encode(update, SeededNoise(1)))
    assert not np.array_equal(other, ring), "its noise is numpy's"
    assert before == (*(vars(encoding)[name] for name in REPLACED), SkellamTable.draw, encoding.ClientSkellam._checked)


def test_the_peer_draws_the_same_variance() -> None:
    draws = encode._Poisson(1e4, np.random.default_rng(1)).draw(SeededNoise(1), 50_000)
    assert float(np.mean(draws)) == pytest.approx(0.0, abs=5 * 100 / 50_000**0.5)
    assert float(np.var(draws)) == pytest.approx(1e4, rel=0.05)


@pytest.mark.parametrize("kind", encode._KINDS)
def test_each_mean_is_of_a_sum_that_its_mechanism_takes(kind: str) -> None:
    mechanism, noise = mechanism_of(encode.plan_of(kind, SIZE)), SeededNoise(1)
    update = LocalUpdate(encode.long(SIZE), 1.0, np.zeros(0), 0, None)
    _, mean = encode._release(mechanism, mechanism.encode(update, noise), noise)()
    assert mean.delta.shape == (SIZE,)
    assert np.isfinite(mean.delta).all()


# Rounds of a simulation


def test_each_run_makes_its_rounds_in_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = simulate_data.generated(tmp_path / "images", (CLIENTS * 50, 50))
    chosen = {name: PRIVACY[name] for name in (PLAIN, simulate_privacy.FIXED, simulate_privacy.SKELLAM)}
    monkeypatch.setattr(simulate_privacy, "PRIVACY", chosen)
    asked = Asked(files=files, folder=tmp_path, work=work(tmp_path), clients=CLIENTS)
    simulate_privacy.main(asked)
    runs = simulate_privacy.parse(f"a warning\n{capsys.readouterr().out}", asked.work)
    assert set(runs) == set(chosen)
    assert {(len(run.seconds), len(run.processor), run.survivors) for run in runs.values()} == {(2, 2, 2 * 6)}
    assert len({path.name for path in tmp_path.glob("run-*")}) == 3


def measured(change: Callable[[dict[str, Any]], None] = lambda runs: None) -> str:
    """Two rounds of six clients after the first, each run a tenth slower than the one before it."""
    runs: dict[str, Any] = {
        name: {"seconds": [1.0 + at / 10, 2.0 + at / 5], "processor": [0.5, 0.5], "survivors": 12}
        for at, name in enumerate(PRIVACY)
    }
    change(runs)
    return Measured(runs={name: Spent(**run) for name, run in runs.items()}).model_dump_json()


def test_noise_at_the_server_may_add_a_quarter(tmp_path: Path) -> None:
    runs = simulate_privacy.parse(measured(), work(tmp_path))
    body = simulate_privacy.compared(runs)
    tables = [simulate_privacy.ratios(runs), simulate_privacy.cores(runs)]
    result = complete("simulate-privacy", True, {**body, "tables": tables})
    assert result.reached is True
    assert result.ratio == pytest.approx(1 / 1.1)
    reached = {name: row.reached for name, row in result.figures.items()}
    assert reached == {
        simulate_privacy.ADAPTIVE: True,
        simulate_privacy.BANDED: False,
        simulate_privacy.SKELLAM: None,
        simulate_privacy.LOCAL: None,
        simulate_privacy.SUMS: None,
    }
    by_turn = {row[0]: row[1:4] for row in result.tables[0].rows}
    assert by_turn[simulate_privacy.BANDED] == pytest.approx((1.3, 1.3, 1.3))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda runs: runs.pop(PLAIN), "nothing of 'plain'"),
        (lambda runs: runs[PLAIN].update(survivors=11), "'plain' made 2 rounds of 11 clients in all; 2 and 12"),
        (lambda runs: runs[PLAIN].update(seconds=[1.0]), "'plain' made 1 rounds"),
    ],
)
def test_other_rounds_than_were_asked_are_no_measurement(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    with pytest.raises(RunFailed, match=complaint):
        simulate_privacy.parse(measured(change), work(tmp_path))


def test_a_silent_process_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="Segmentation fault"):
        simulate_privacy.parse("Segmentation fault\n", work(tmp_path))
    with pytest.raises(RunFailed, match="benchmark: "):
        simulate_privacy.parse(json.dumps({"runs": {PLAIN: {"seconds": [0.0]}}}), work(tmp_path))
