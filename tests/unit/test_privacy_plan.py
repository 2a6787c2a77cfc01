"""`fedsus privacy plan`: what it prints is what the run would do, and what cannot run is one line."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fedsus.commands.privacy import privacy
from fedsus.commands.privacy_inputs import read
from fedsus.commands.privacy_picture import curves, draw
from fedsus.commands.privacy_plan import noise_of, planned
from fedsus.commands.privacy_text import number
from fedsus.config import RunConfig, load
from fedsus.errors import ConfigError
from fedsus.model_file import metadata, write_model
from fedsus.privacy.accounting import epsilon
from fedsus.privacy.adversaries import ADVERSARIES, UNITS, spent
from fedsus.protection import ClientDistributed
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.traffic import secure_overhead
from fedsus.secagg import thresholds, wire

ROOT = Path(__file__).resolve().parents[2]
RUN = """
name = "trial"
[task]
name = "heart"
[plan]
rounds = 20
cohort = { size = 10, minimum = 8 }
secure_sum = { colluders = 2, dropouts = 2 }
[plan.privacy]
"""
LOSS, ACCURACY = '{ name = "loss", low = 0.0, high = 10.0 }', '{ name = "accuracy", low = 0.0, high = 1.0 }'
KINDS = {
    "example local": 'unit = "example"\nepsilon = 3.0\ndelta = 1e-5\nsampling_rate = 1.0\ndenominator = 100.0\n',
    "example distributed": 'unit = "example"\nplacement = "distributed"\nepsilon = 3.0\ndelta = 1e-5\n'
    "denominator = 90.0\n",
    "client distributed": 'unit = "client"\nepsilon = 8.0\ndelta = 1e-3\n',
    "client central": 'unit = "client"\nplacement = "central"\nepsilon = 8.0\ndelta = 1e-3\n',
    "client central, adaptive": 'unit = "client"\nplacement = "central"\nepsilon = 8.0\ndelta = 1e-3\nadaptive = {}\n',
}
KEYS = {
    "version": 1,
    "run": "trial",
    "task": "heart",
    "rounds": 20,
    "spare_attempts": 2,
    "dimension": 34,
    "exchange": "secure_sum",
}


def file(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def printed(path: Path, *options: str, code: int = 0) -> str:
    done = CliRunner().invoke(privacy, ["plan", str(path), *options], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def as_json(path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(printed(path, "--json", *options, code=code))
    assert isinstance(found, dict)
    return found


def refused(path: Path, *options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(privacy, ["plan", str(path), *options], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SMALL = ("--dimension", "34", "--members", "10")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_printed_is_what_the_run_fixes_when_it_opens(kind: str, tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS[kind])
    found = as_json(path, *SMALL)
    assert {name: found[name] for name in KEYS} == KEYS
    clear = load(path, RunConfig).model_dump(mode="json")
    clear["plan"] |= {"exchange": "clear_sum"}
    config = RunConfig.model_validate(clear)
    opened = open_run(tmp_path / "run", "trial", config, np.zeros(34, dtype=np.float32), lambda: 0.0)
    assert found["unit"] == opened.privacy.unit
    for unit in UNITS:
        for who in ADVERSARIES:
            spends = epsilon(spent(opened.first_plan, 22)[unit, who], opened.privacy.delta)  # type: ignore[union-attr]
            said = found["epsilon"]["least_survivors"][unit][who]
            assert said == (spends if spends < 1e9 else None), (unit, who)
    assert found["over_rounds"][-1]["attempts"] == 22
    assert found["budget"]["spends"] == opened.epsilon(22) <= found["budget"]["epsilon"]


def test_epsilon_rises_with_the_rounds_and_falls_with_survivors(tmp_path: Path) -> None:
    found = as_json(file(tmp_path, RUN + KINDS["client distributed"]), *SMALL)
    rows = found["over_rounds"]
    assert [(row["rounds"], row["attempts"]) for row in rows] == [(1, 1), (2, 2), (5, 5), (10, 10), (20, 20), (20, 22)]
    for who in ADVERSARIES:
        spends = [row["epsilon"][who] for row in rows]
        assert spends == sorted(spends) and spends[0] < spends[-1]
        least, all_ = (found["epsilon"][key]["client"][who] for key in ("least_survivors", "all_survive"))
        assert all_ < least
    assert found["cohort"] == {"size": 10, "members": 10, "colluders": 2, "dropouts": 2, "least_survivors": 8}


def test_noise_of_the_mean_is_that_of_the_sum_of_shares(tmp_path: Path) -> None:
    plan = planned(read(file(tmp_path, RUN + KINDS["client distributed"]), None, 34, 10, None))
    privacy, noise = plan.specification.privacy, noise_of(plan)
    assert isinstance(privacy, ClientDistributed) and noise is not None and noise.share_variance is not None
    assert noise.deviation == pytest.approx((noise.share_variance * 8) ** 0.5 / privacy.shares.scale / 8)
    assert noise.share == pytest.approx(1 / 6)
    assert noise.multiplier * privacy.clip == pytest.approx((noise.share_variance * 6) ** 0.5 / privacy.shares.scale)
    assert noise.length == pytest.approx(noise.deviation * 34**0.5)


@pytest.mark.parametrize("size", [3, 10, 199, 200, 1000])
def test_bytes_beside_the_masked_integers_are_those_of_the_messages(size: int) -> None:
    """Encoded as a client does, with shares of the right length."""
    found = thresholds.solve(size, thresholds.colluders(size), 0)
    holders = range(found.neighbours - (found.rule == "complete"))
    key, signature, sealed = bytes(32), bytes(wire.SIGNATURE_BYTES), bytes(wire.SEALED_BYTES)
    bodies = {
        wire.Kind.ADVERTISE: wire.Advert(0, key, key, key, signature).encode(),
        wire.Kind.SHARE: wire.Shared(key, signature, dict.fromkeys(holders, sealed), signature).encode(),
        wire.Kind.CONTRIBUTE: signature,
        wire.Kind.CONFIRM: signature,
        wire.Kind.UNMASK: signature + wire.rows(dict.fromkeys(holders, bytes(33))),
    }
    assert secure_overhead(found) == sum(len(wire.frame(kind, body)) for kind, body in bodies.items())


def test_the_benchmark_of_secure_sums_measured_as_many_bytes() -> None:
    """docs/benchmarks.md, "a client, up"; the default thresholds with a tenth of dropouts."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = text.partition("## secure-scaling")[2].partition("Bytes of a client beside")[2]
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \|", section, re.MULTILINE)
    assert len(rows) > 6
    for size, measured in ((int(size.replace(",", "")), float(kilobytes)) for size, kilobytes in rows[:5]):
        found = thresholds.solve(size, thresholds.colluders(size), size // 10)
        assert secure_overhead(found) / 1000 == pytest.approx(measured, abs=0.051)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("example local", ("from everyone, the server included", "none are sent", "against everyone")),
        ("example distributed", ("each row of any client's data", "up to 2 of the 10", "each client adds 16.7 %")),
        ("client distributed", ("all that one client has", "with 8 survivors, the least", "with all 10 surviving")),
        ("client central", ("not from the server", "warning", "against it nothing protects", "recipients")),
        ("client central, adaptive", ("the clip is public", "changes after each round")),
    ],
)
def test_words(kind: str, words: tuple[str, ...], tmp_path: Path) -> None:
    text = printed(file(tmp_path, RUN + KINDS[kind]), *SMALL)
    flat = " ".join(text.split())
    for word in (*words, "a client sends", "of secure sum", "after 20 rounds and 2 spare attempts"):
        assert word in flat, word
    assert max(map(len, text.splitlines())) <= 110


def test_without_privacy_nobody_is_protected(tmp_path: Path) -> None:
    path = file(tmp_path, RUN.replace("[plan.privacy]", ""))
    assert "nobody is protected" in printed(path, *SMALL)
    found = as_json(path, *SMALL)
    assert found["budget"] is found["noise"] is None
    assert found["epsilon"]["least_survivors"]["client"] == dict.fromkeys(ADVERSARIES)
    assert "no epsilon to draw" in refused(path, *SMALL, "--plot", str(tmp_path / "a.svg"))


def test_metrics_have_their_share_or_are_not_sent(tmp_path: Path) -> None:
    metrics = f"\nmetrics = [{LOSS}, {ACCURACY}]\n[plan.privacy]"
    asked = RUN.replace("[plan.privacy]", "").rstrip() + metrics + "\n" + KINDS["client distributed"]
    text = " ".join(printed(file(tmp_path, asked), *SMALL).split())
    assert "none is sent: no budget is set aside for them; set metrics_share" in text
    text = " ".join(printed(file(tmp_path, asked + "metrics_share = 0.2\n"), *SMALL).split())
    assert "loss, accuracy: noised, with 20 % of the budget" in text
    assert "none is sent" not in text


@pytest.mark.parametrize("options", [SMALL, ("--members", "10")])
@pytest.mark.parametrize("named", [(ACCURACY,), (ACCURACY, LOSS), (LOSS.replace("10", "9"), ACCURACY)])
def test_metrics_that_every_device_would_refuse_are_refused_here(
    named: tuple[str, ...], options: tuple[str, ...], tmp_path: Path
) -> None:
    asked = RUN.replace("[plan.privacy]", f"metrics = [{', '.join(named)}]")
    text = refused(file(tmp_path, asked), *options)
    assert f"write metrics = [{LOSS}, {ACCURACY}], or leave 'metrics' out" in text


@pytest.mark.parametrize(
    ("kind", "change", "options", "words"),
    [
        ("client distributed", ("1e-3", "0.09"), ("--members", "12"), "delta 0.09 is not below 1 / n: with n = 12"),
        ("example distributed", ("1e-5", "2e-3"), (), "with n = 900 rows of all"),
        ("client distributed", ("8.0", "11.0"), (), "epsilon 11 promises little"),
        ("client distributed", ("8.0", "8.0"), ("--members", "30"), "being drawn by chance amplifies nothing"),
        ("example distributed", ("3.0", "3.0\ngranularity = 4.0"), (), "by 25 %"),
        ("example distributed", ("3.0", "3.0\ngranularity = 2048.0\nbits = 19"), (), "they wrap around"),
        ("example distributed", ("3.0", "3.0"), (), "a patient with several rows"),
        (
            "client central",
            ("8.0", "8.0\nbands = 4"),
            ("--members", "50"),
            "about 12 in each: some turns may have fewer",
        ),
    ],
)
def test_warnings(kind: str, change: tuple[str, str], options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    text = RUN + KINDS[kind].replace(*change)
    text = text.replace("size = 10", "size = 10").replace("secure_sum = {", 'secure_sum = { choice = "named",')
    found = as_json(file(tmp_path, text), *SMALL, *options)
    assert any(words in warning for warning in found["warnings"]), found["warnings"]


def test_what_is_unobjectionable_is_not_warned_of(tmp_path: Path) -> None:
    assert as_json(file(tmp_path, RUN + KINDS["client distributed"]), *SMALL)["warnings"] == []


def test_a_patient_is_covered_once_its_rows_are_said(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["example distributed"].replace("3.0", "0.5"))
    assert as_json(path, *SMALL)["epsilon"]["least_survivors"]["patient"]["server"] is None
    found = as_json(path, *SMALL, "--rows", "3")["epsilon"]["least_survivors"]
    assert found["patient"]["server"] > found["example"]["server"]


def test_a_policy_admits_or_names_its_line(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    policy = tmp_path / "policy.toml"
    policy.write_text('[tasks.heart]\ndata = "clinic"\n', encoding="utf-8")
    found = as_json(path, *SMALL, "--policy", str(policy), code=1)["policy"]
    assert (found["admits"], found["file"]) == (False, str(policy))
    assert "'client'" in found["refusal"]
    assert f"{policy}: refuses this run: " in printed(path, *SMALL, "--policy", str(policy), code=1)
    policy.write_text("[privacy]\nepsilon = -1\n", encoding="utf-8")
    assert "'privacy.epsilon' = -1" in refused(path, *SMALL, "--policy", str(policy))


def test_the_caps_of_a_policy_are_drawn_and_told(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[privacy]\nepsilon = 9.0\ndelta = 1e-2\nunits = ["client"]\nplacements = ["distributed"]\n'
        '[[privacy.caps]]\nadversary = "server"\nepsilon = 12.0\ndelta = 1e-2\n'
        '[tasks.heart]\ndata = "clinic"\n[secure_sum]\ncolluders = 2\n',
        encoding="utf-8",
    )
    found = as_json(path, *SMALL, "--policy", str(policy), code=1)["policy"]
    assert found["caps"] == {"server": 12.0, "clients": 9.0, "recipients": 9.0}
    picture = tmp_path / "a.svg"
    printed(path, *SMALL, "--policy", str(policy), "--plot", str(picture), code=1)
    text = picture.read_text(encoding="utf-8")
    assert "<!-- the owner's cap: 12, against server -->" in text
    assert "<!-- the owner's cap: 9, against clients, recipients -->" in text


def test_a_policy_that_asks_for_more_than_the_sum_withstands(tmp_path: Path) -> None:
    text = RUN.replace("[plan.privacy]", "").replace("colluders = 2", "colluders = 1")
    policy = tmp_path / "policy.toml"
    rest = '[privacy]\nwithout_dp = true\n[tasks.heart]\ndata = "clinic"\n[secure_sum]\n'
    policy.write_text(rest + "colluders = 2\ndropout = 0.2\n", encoding="utf-8")
    found = as_json(file(tmp_path, text), *SMALL, "--policy", str(policy), code=1)["policy"]
    assert found["refusal"] == "1 colluders: at least 2 are needed ([secure_sum] colluders)"
    policy.write_text(rest + "colluders = 1\ndropout = 0.2\n", encoding="utf-8")
    assert as_json(file(tmp_path, text), *SMALL, "--policy", str(policy))["policy"]["admits"] is True


def test_the_picture_has_each_adversary_and_is_the_same_twice(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    plan = planned(read(path, None, 34, 10, None))
    drawn = [tmp_path / name for name in ("one.svg", "two.svg", "three.png")]
    for picture in drawn:
        draw(plan, None, picture)
    text = drawn[0].read_text(encoding="utf-8")
    assert drawn[1].read_text(encoding="utf-8") == text
    assert drawn[2].read_bytes().startswith(b"\x89PNG")
    for words in ("against the server with 2 clients: ", "against recipients: ", "asked for: 8", "spare attempts"):
        assert f"<!-- {words}" in text, words


def test_the_picture_names_an_adversary_whom_nothing_protects_from(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    draw(planned(read(file(tmp_path, RUN + KINDS["client central"]), None, 34, 10, None)), None, picture)
    text = picture.read_text(encoding="utf-8")
    assert "against the server" in text and ": none -->" in text


def test_the_curve_is_what_the_table_says(tmp_path: Path) -> None:
    plan = planned(read(file(tmp_path, RUN + KINDS["client central"]), None, 34, 10, None))
    attempts, found = curves(plan)
    assert (attempts[0], attempts[-1]) == (1, 22) and 20 in attempts
    assert found.keys() == {"clients", "recipients"}  # nothing protects from the server
    for done, count, row in plan.over_rounds():
        if count in attempts:
            assert found["recipients"][attempts.index(count)] == row["recipients"], done


def test_a_picture_of_another_kind(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    assert "must end in .svg or .png" in refused(path, *SMALL, "--plot", str(tmp_path / "a.pdf"))


def test_a_model_file_says_how_many_parameters(tmp_path: Path) -> None:
    path = file(tmp_path, RUN.replace('"heart"', '"mine"') + KINDS["client distributed"])
    assert "--dimension D, or --model FILE, or --task module:Class" in refused(path, "--members", "10")
    write_model(tmp_path / "model.safetensors", np.zeros(77, np.float32), metadata(load(path, RunConfig).task))
    assert as_json(path, "--members", "10")["dimension"] == 77
    other = tmp_path / "other.safetensors"
    write_model(other, np.zeros(78, np.float32), metadata(load(path, RunConfig).task))
    assert as_json(path, "--members", "10", "--model", str(other))["dimension"] == 78


def test_the_task_says_how_many_parameters_and_what_it_cannot_serve(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    assert as_json(path, "--members", "10")["dimension"] == 34
    wrong = tmp_path / "wrong.safetensors"
    write_model(wrong, np.zeros(33, np.float32), metadata(load(path, RunConfig).task))
    assert "33 parameters, but the task with these settings has 34" in refused(
        path, "--members", "10", "--model", str(wrong)
    )
    for kind in ("client distributed", "example distributed"):
        text = RUN.replace('"heart"', '"mine"') + KINDS[kind]
        message = refused(file(tmp_path, text), "--members", "10", "--task", "odd_tasks:Normalised")
        assert "running buffer" in message and "GroupNorm" in message


def test_a_secure_sum_needs_to_know_how_many_members_there_are(tmp_path: Path) -> None:
    path = file(tmp_path, RUN + KINDS["client distributed"])
    assert "--members N" in refused(path, "--dimension", "34")
    assert "a roster has 9 members" in refused(path, "--dimension", "34", "--members", "9")


def test_shares_without_a_secure_sum_are_refused_as_devices_would(tmp_path: Path) -> None:
    path = file(tmp_path, RUN.replace("cohort =", 'exchange = "clear_sum"\ncohort =') + KINDS["client distributed"])
    assert "plan.exchange = 'clear_sum'" in refused(path, *SMALL)


def test_a_scenario_is_a_run_with_a_population(tmp_path: Path) -> None:
    beyond = '[population]\ndata = "adult"\npartition = "iid"\nclients = 500\n[simulation]\nmasks = "none"\n'
    text = "seed = 1\n" + RUN.replace(", dropouts = 2", "") + KINDS["client distributed"] + beyond
    path = file(tmp_path, text.replace("colluders = 2", 'choice = "drawn"'))
    found = as_json(path, "--dimension", "34")
    assert found["cohort"]["members"] == 500
    assert found["cohort"]["colluders"] == thresholds.colluders(10)
    grouped = text.replace('partition = "iid"\nclients = 500\n', "")
    assert "the scenario's population is known when it is loaded" in refused(
        file(tmp_path, grouped), "--dimension", "3"
    )
    assert "unknown field 'plan.privacy.epsilom'" in refused(file(tmp_path, text.replace("epsilon", "epsilom")))


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "privacy-planning.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert printed(file(tmp_path, toml), "--members", "4") == shown


def test_the_page_lists_each_key_for_programs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "privacy-planning.md").read_text(encoding="utf-8").partition("## For programs")[2]
    found = as_json(file(tmp_path, RUN + KINDS["client distributed"]), *SMALL)
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", page, re.MULTILINE)
    assert {name for keys, _ in rows for name in re.findall(r"`(\w+)`", keys)} == found.keys()
    for keys, told in rows:
        value = found[keys.strip("`")] if keys.count("`") == 2 else None
        if isinstance(value, dict):
            assert [name for name in value if f"`{name}`" not in told] == [], keys


def test_the_scenarios_that_ship_can_be_planned() -> None:
    paths = sorted((ROOT / "simulations" / "scenarios").glob("*.toml"))
    found = {path.stem: read(path, None, 1000, 100_000, None) for path in paths}
    assert all(inputs.simulated and inputs.members == 100_000 for inputs in found.values())
    assert planned(found["adult-private"]).specification.privacy.unit == "example"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.toml")


def test_printed_numbers_are_never_below_the_truth() -> None:
    for value in (1.2345e-7, 0.0001, 0.0999, 1.23449, 2.9999999, 9.9999, 10.01, 59.21, 999.99):
        assert float(number(value)) >= value
    assert number(float("inf")) == "none"
    assert (number(2.5), number(0.00012345), number(59.21)) == ("2.500", "0.00013", "59.3")


def test_the_command_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["fedsus.commands"]["privacy"] == "fedsus.commands.privacy:privacy"
