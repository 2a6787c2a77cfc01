"""`fedsus privacy audit`: what it prints, what it says of a broken mechanism, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedsus.cli import explain
from fedsus.commands.audits.broken import FAULTS
from fedsus.commands.audits.small import DIMENSION, small
from fedsus.commands.privacy import privacy
from fedsus.commands.privacy_audit import BROKEN
from fedsus.commands.privacy_inputs import read
from fedsus.commands.privacy_plan import planned
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed

SHARED = """
name = "shared"
task = { name = "heart" }
[plan]
rounds = 2
spare_attempts = 0
cohort = { size = 40, minimum = 30 }
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
secure_sum = { colluders = 5 }
[plan.privacy]
unit = "client"
epsilon = 8.0
delta = 1e-5
metrics_share = 0.2
"""
CENTRAL = """
name = "central"
task = { name = "heart" }
[plan]
rounds = 60
exchange = "clear_sum"
cohort = { size = 3, minimum = 3 }
[plan.privacy]
unit = "client"
placement = "central"
epsilon = 8.0
delta = 1e-5
bands = 12
"""


def run(folder: Path, text: str, *options: str) -> Result:
    file = folder / "run.toml"
    file.write_text(text)
    given = ["audit", str(file), "--members", "40", "--dimension", "1000", "--draws", "3000", *options]
    return CliRunner().invoke(privacy, given)


def test_it_prints_claims_and_bounds(tmp_path: Path) -> None:
    done = run(tmp_path, SHARED)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "run 'shared': what the mechanism gives away of one client"
    assert "8 coordinates instead of 1000, as many steps in each" in lines[1]
    assert "claimed for the whole run (2 attempts) at delta 1e-05: 8.000 against clients" in done.output
    assert [line.split()[0] for line in lines if line.split()[1:2] == ["server,"]] == [
        *("update", "update", "metrics", "metrics", "all", "all")
    ]
    assert lines[-1] == "no claim is refuted by these draws; each line fails with a chance of 0.001"
    assert "REFUTED" not in done.output


@pytest.mark.parametrize("fault", ["half-the-noise", "plain-weights"])
def test_a_broken_mechanism_ends_with_1(tmp_path: Path, fault: str) -> None:
    done = run(tmp_path, SHARED, "--broken", fault)
    assert done.exit_code == 1
    assert f"broken on purpose: {FAULTS[fault].says}" in done.output
    assert "REFUTED" in done.output and "the audit finds what was broken" in done.output


def test_a_reduced_uplink_is_audited_reduced(tmp_path: Path) -> None:
    reduced = SHARED + '[plan.encoding.uplink]\nname = "projection"\nshare = 0.25\n'
    done = run(tmp_path, reduced)
    assert done.exit_code == 0, done.output
    assert "8 coordinates instead of 250, as many steps in each" in done.output
    done = run(tmp_path, reduced, "--broken", "clip-before-upscale")
    assert done.exit_code == 1 and "REFUTED" in done.output, done.output
    done = run(tmp_path, SHARED, "--broken", "clip-before-upscale")
    assert "does not fit this run" in str(done.exception)


def test_costs_are_audited_beside_the_metrics(tmp_path: Path) -> None:
    asked = SHARED + "[plan.costs]\njoules = 500\ngrams = 0.25\n"
    done = run(tmp_path, asked, "--draws", "1000")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines() if line.split()[1:2] == ["server,"]] == [
        *("update", "update", "told", "told", "all", "all")
    ]
    done = run(tmp_path, asked, "--broken", "plain-metrics", "--draws", "1000")
    assert done.exit_code == 1 and "metrics, and costs beside them, have no noise" in done.output
    assert "does not fit this run" in str(run(tmp_path, SHARED, "--broken", "forgotten-costs").exception)


def test_for_programs_and_as_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "audit.svg"
    done = run(tmp_path, SHARED, "--json", "--plot", str(picture))
    said = json.loads(done.output)
    assert (said["version"], said["unit"], said["refuted"], said["broken"]) == (1, "client", False, None)
    assert {finding["released"] for finding in said["findings"]} == {"update", "metrics", "all"}
    for finding in said["findings"]:
        assert finding["confidence"] == 0.999 and finding["draws"] == 3000 // finding["rounds"]
        assert all(bound["seen"] <= bound["claim"] for bound in finding["bounds"])
        assert all(claim == pytest.approx(8, abs=4) for claim in finding["claim_of_the_run"].values())
    assert "<!-- seen at least -->" in picture.read_text() and "refuted" not in picture.read_text()
    run(tmp_path, SHARED, "--broken", "half-the-noise", "--plot", str(picture))
    for words in ("seen at least: refuted", "broken on purpose: half-the-noise"):
        assert f"{words} -->" in picture.read_text()


def test_correlated_noise_is_audited_over_a_shorter_run(tmp_path: Path) -> None:
    done = run(tmp_path, CENTRAL)
    assert done.exit_code == 0, done.output
    assert "8 bands and 3 rounds of one client instead of 12 and 5" in " ".join(done.output.split())
    assert "against the server nothing is claimed" in done.output
    assert any(line.startswith("update") and " all " in line for line in done.output.splitlines())


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (SHARED, ["--broken", "next-clip"], "'next-clip' .* does not fit this run; choose of: half-the-noise"),
        (SHARED.partition("[plan.privacy]")[0], [], "there is no claim to audit"),
        (SHARED, ["--plot", "audit.txt"], ".svg or .png"),
    ],
)
def test_what_cannot_be_audited_is_told_in_one_line(tmp_path: Path, text: str, options: list[str], said: str) -> None:
    done = run(tmp_path, text, *options)
    assert isinstance(done.exception, Exception) and done.exit_code != 0
    line, code = explain(done.exception)
    assert code == 2 and "\n" not in line
    assert re.search(said, line), line


def test_names_of_faults_are_those_that_are_there() -> None:
    assert set(FAULTS) == set(BROKEN)


def test_the_small_plan_keeps_what_is_audited(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(SHARED)
    plan = planned(read(file, None, 1000, 40, None), None).specification.first_plan
    made, _ = small(plan)
    assert isinstance(plan.privacy, (ClientDistributed, ExampleDistributed)) and made.dimension == DIMENSION
    assert isinstance(made.privacy, ClientDistributed)
    before, after = plan.privacy.shares, made.privacy.shares
    steps = before.scale / 1024**0.5, after.scale / DIMENSION**0.5
    assert steps[0] == pytest.approx(steps[1]), "as many steps a coordinate"
    noise = [shares.variance * (shares.survivors - shares.colluders) / shares.scale**2 for shares in (before, after)]
    assert noise[0] == pytest.approx(noise[1]), "as much noise of honest clients"
    assert after.survivors - after.colluders >= 3 and after.colluders >= 1

    file.write_text(CENTRAL)
    central = planned(read(file, None, 1000, 40, None), None).specification.first_plan
    assert isinstance(central.privacy, ClientCentral) and central.privacy.noise_multiplier == getattr(
        small(central)[0].privacy, "noise_multiplier", None
    )
