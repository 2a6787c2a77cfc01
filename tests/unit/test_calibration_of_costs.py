"""Costs of devices in a planned run: paid for by the share that metrics have, shown, not sent where nothing pays."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedsus.commands.privacy import privacy as command
from fedsus.commands.privacy_inputs import Inputs
from fedsus.commands.privacy_plan import Planned, planned
from fedsus.config import RunConfig
from fedsus.encoding.costs import told_devices, told_spread
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.owner.charges import events_of
from fedsus.privacy.sensitivity import client_metrics
from fedsus.protection import ClientCentral, ClientDistributed
from fedsus.rounds.planning.cautions import cautions

DIMENSION, SIZE = 1000, 20
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
COSTS = {"joules": 500.0, "grams": 0.25}
CLIENT = {"unit": "client", "epsilon": 3.0, "delta": 1e-5, "metrics_share": 0.2}
CENTRAL = CLIENT | {"placement": "central"}
EXAMPLE = {"unit": "example", "placement": "distributed", "epsilon": 3.0, "delta": 1e-5, "denominator": 200.0}
SHARED = EXAMPLE | {"metrics_share": 0.2}


def run(
    privacy: dict[str, Any], metrics: bool = True, costs: bool = True, members: int = SIZE, **changes: Any
) -> Planned:
    plan: dict[str, Any] = {
        "rounds": 20,
        "cohort": {"size": SIZE, "minimum": 18},
        "secure_sum": {"colluders": 2, "dropouts": 2},
        "privacy": privacy,
        "metrics": METRICS if metrics else [],
    }
    plan |= {"costs": COSTS} if costs else {}
    config = RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan | changes})
    return planned(Inputs(config, DIMENSION, "a test", members))


@pytest.mark.parametrize("privacy", [CLIENT, CENTRAL])
@pytest.mark.parametrize("metrics", [False, True])
def test_costs_are_within_the_budget_and_their_noise_is_for_all_that_is_told(
    privacy: dict[str, Any], metrics: bool
) -> None:
    found = run(privacy, metrics)
    specification, plan = found.specification, found.specification.first_plan
    unit, who = specification.goal
    assert 0.99 * 3.0 < found.epsilon(unit, who, found.attempts) <= 3.0
    assert plan.costs is not None and plan.told == 2 + 2 * metrics
    made = plan.privacy
    if isinstance(made, ClientDistributed):
        update = math.sqrt(made.shares.variance) / 32 / math.sqrt(1024)
        assert made.shares.metrics is not None
        told = math.sqrt(made.shares.metrics) / client_metrics(plan.told).l2
    else:
        assert isinstance(made, ClientCentral) and made.metrics is not None
        update, told = made.noise_multiplier, made.metrics
    assert told == pytest.approx(update * math.sqrt(0.8 / 0.2), rel=1e-9), "noise follows the share"
    assert mechanism_of(plan).size == (1024 if isinstance(made, ClientDistributed) else DIMENSION) + plan.told


@pytest.mark.parametrize("more", [{"bands": 2}, {"adaptive": {}}], ids=["banded", "adaptive"])
def test_costs_are_paid_for_in_each_round_of_a_client(more: dict[str, Any]) -> None:
    """Correlated noise covers all rounds with one release of the updates, and costs in none but their own."""
    named = {"choice": "named", "colluders": 2, "dropouts": 2}
    found = run(CENTRAL | more, metrics=False, members=2 * SIZE, secure_sum=named)
    privacy, plan = found.specification.privacy, found.specification.first_plan
    assert isinstance(privacy, ClientCentral) and privacy.metrics is not None and plan.costs is not None
    rounds = 1 if privacy.banded is None else privacy.banded.participations
    assert privacy.metrics == pytest.approx(privacy.noise_multiplier * math.sqrt(rounds * 0.8 / 0.2))
    assert found.epsilon("client", "recipients", found.attempts) <= 3.0
    assert mechanism_of(plan).size == DIMENSION + 2 + (privacy.adaptive is not None)


def test_devices_charge_what_the_larger_block_spends() -> None:
    """The same noise for metrics alone would be charged less: a plan with costs is charged for four coordinates."""
    plan = run(CLIENT).specification.first_plan
    silent = plan.model_copy(update={"costs": None})
    (_, charged), (_, before) = (json.loads(events_of(one, None)["client/server"])["events"] for one in (plan, silent))
    assert (charged["l1"], charged["l2"]) == (client_metrics(4).l1, client_metrics(4).l2)
    assert charged["l2"] == pytest.approx(math.sqrt(2) * before["l2"]) and charged["variance"] == before["variance"]


@pytest.mark.parametrize(
    ("privacy", "why"),
    [
        ({**CLIENT, "metrics_share": None}, "set metrics_share"),
        ({**CENTRAL, "metrics_share": None}, "set metrics_share"),
        (EXAMPLE, "set metrics_share"),
        (EXAMPLE | {"placement": "local"}, "placement = 'distributed' has, with a metrics_share"),
    ],
)
def test_where_nothing_pays_nothing_is_sent_and_the_operator_is_told(privacy: dict[str, Any], why: str) -> None:
    found = run(privacy, metrics=False)
    assert found.specification.first_plan.costs is None
    said = [line for line in cautions(found.specification, SIZE) if line.startswith("plan.costs")]
    assert len(said) == 1 and why in said[0] and "assume it from public numbers" in said[0]
    silent = cautions(run(privacy, metrics=False, costs=False).specification, SIZE)
    assert not any("plan.costs" in line for line in silent)


def test_noise_that_drowns_what_is_told_is_said_with_how_many_devices_it_is() -> None:
    drowned = [line for line in cautions(run(SHARED).specification, SIZE) if line.startswith("noise drowns")]
    assert len(drowned) == 1
    noise = told_devices(run(SHARED).specification.first_plan, SIZE)
    assert (
        f"in a sum over 20 devices its deviation is the whole range of {noise:.3g}, over all rounds of " in drowned[0]
    )
    assert f" {noise * math.sqrt(20):.3g} in 400; larger" in drowned[0]
    loud = cautions(run(SHARED | {"metrics_share": 0.04}).specification, SIZE)
    assert any(re.search(r"over all rounds of 1,\d\d0 in 400", line) for line in loud), loud
    many = run(SHARED | {"epsilon": 20.0}, members=20_000, cohort={"size": 2000, "minimum": 1998})
    assert told_devices(many.specification.first_plan, 2000) < 200
    assert not any(line.startswith("noise drowns") for line in cautions(many.specification, 20_000))


@pytest.mark.parametrize("privacy", [CLIENT, CENTRAL, EXAMPLE | {"metrics_share": 0.3}])
def test_noise_in_devices_is_that_of_each_cost(privacy: dict[str, Any]) -> None:
    plan = run(privacy).specification.first_plan
    spread = told_spread(plan, 18)
    assert spread["joules"] / 500 == pytest.approx(told_devices(plan, 18)) == pytest.approx(spread["grams"] / 0.25)


def test_the_hash_that_devices_compare_covers_costs() -> None:
    one = run({"unit": "none"}).specification.hash(DIMENSION)
    none = run({"unit": "none"}, costs=False).specification.hash(DIMENSION)
    assert one != none


RUN = """
[task]
name = "heart"
[plan]
rounds = 20
cohort = { size = 20, minimum = 18 }
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
[plan.costs]
joules = 500
grams = 0.25
[plan.secure_sum]
colluders = 2
dropouts = 2
"""
COSTS_ASKED = "[plan.costs]\njoules = 500\ngrams = 0.25\n"
PRIVATE = '[plan.privacy]\nunit = "client"\nplacement = "central"\nepsilon = 3.0\ndelta = 1e-5\n'


def shown(folder: Path, text: str, *options: str) -> str:
    (folder / "run.toml").write_text(text)
    found = CliRunner().invoke(
        command, ["plan", str(folder / "run.toml"), *options, "--dimension", "1000", "--members", "20"]
    )
    assert found.exit_code == 0, found.output
    return found.output if "--json" in options else " ".join(found.output.split())


def test_what_is_printed(tmp_path: Path) -> None:
    exact = shown(tmp_path, RUN)
    assert (
        "costs up to 500 J and 0.25 g of a device in a round, 10,000 J and 5 g of all 20; their sum is exact but for"
        in exact
    )
    noised = shown(tmp_path, RUN + PRIVATE + "metrics_share = 0.2\n")
    assert "told 20 devices tell at most 10,000 J a round; the noise is +-14,600 J (95 %): no round will be" in noised
    assert "only the costs of all 20 together loss, accuracy, joules, grams: noised, with 20 % of the budget" in noised
    assert "their sum is noised by" in noised and "(standard deviations)" in noised
    nothing = shown(tmp_path, RUN + PRIVATE)
    assert "costs none are sent" in nothing and "warning plan.costs asks for what devices use" in nothing


def test_what_is_printed_of_the_example_unit(tmp_path: Path) -> None:
    example = PRIVATE.replace("client", "example").replace("central", "distributed") + "denominator = 200.0\n"
    text = shown(tmp_path, RUN + example + "metrics_share = 0.2\n")
    assert "told 20 devices tell at most 10,000 J a round; the noise is +-" in text
    assert (
        "loss, accuracy, joules, grams: noised, with 20 % of the budget; in a sum over 20 the noise of each is" in text
    )
    assert "alone spends 0.600 the gradients' noise is 0.9" in text and "instead of 2^16" in text
    assert "their sum is noised by" in text and "warning noise drowns what a round tells" in text
    said = json.loads(shown(tmp_path, RUN + example + "metrics_share = 0.2\n", "--json"))
    told = said["budget"]["told"]
    assert told["epsilon"] == pytest.approx(0.6, rel=1e-3) and told["alone"] == 16 < told["bits"]
    assert said["budget"]["told_devices"] * 500 == pytest.approx(said["costs"]["deviation"]["joules"])
    local = shown(tmp_path, RUN + example.replace("distributed", "local"))
    assert "costs none are sent" in local and "placement 'local' has no noise for them" in local


def test_whether_anything_will_be_seen_is_said_first_and_from_how_many_devices_on(tmp_path: Path) -> None:
    few = RUN.replace("rounds = 20", "rounds = 2") + PRIVATE.replace("client", "example").replace(
        "central", "distributed"
    )
    text = shown(tmp_path, few + "denominator = 200.0\nmetrics_share = 0.02\n")
    assert "(95 %): nothing will be seen from about" in text
    assert re.search(r"or leave metrics_share out: it makes the gradients' noise [\d.e-]+ % larger for nothing", text)
    found = re.search(
        r"from about ([\d,]+) devices on a round would be seen, from ([\d,]+) on the costs of all 2", text
    )
    assert found is not None
    metrics = shown(tmp_path, (few + "denominator = 200.0\nmetrics_share = 0.02\n").replace(COSTS_ASKED, ""))
    assert "metrics a metric's mean over 20 devices is off by +-" in metrics and "on the costs" not in metrics
    enough, together = (int(count.replace(",", "")) for count in found.groups())
    noise = [_noise_of(count) for count in (enough, enough // 2, together, together // 2)]
    assert 4 * noise[0] < enough and 4 * noise[1] > enough // 2
    assert 4 * noise[2] < together * math.sqrt(2) and 4 * noise[3] > together // 2 * math.sqrt(2)


def _noise_of(count: int) -> float:
    """Of a cohort of so many, in which as large a part may collude and fall out."""
    made = run(
        EXAMPLE | {"metrics_share": 0.02},
        members=count,
        rounds=2,
        cohort={"size": count, "minimum": math.ceil(0.9 * count)},
        secure_sum={"colluders": count // 10, "dropouts": count // 10},
    )
    return told_devices(made.specification.first_plan, count)


def test_what_programs_read(tmp_path: Path) -> None:
    said = json.loads(shown(tmp_path, RUN + PRIVATE + "metrics_share = 0.2\n", "--json"))
    costs = said["costs"]
    assert costs["most"] == {"joules": 500.0, "grams": 0.25}
    multiplier = said["noise"]["multiplier"] * math.sqrt(0.8 / 0.2)
    assert costs["deviation"]["joules"] == pytest.approx(multiplier * math.sqrt(4) / 2 * 500, rel=1e-6)
    assert costs["rounding"]["grams"] == pytest.approx(20 / 2 * 0.25 / 4096)
    assert said["budget"]["metrics_share"] == 0.2
    assert (
        json.loads(shown(tmp_path, RUN.replace("[plan.costs]\njoules = 500\ngrams = 0.25\n", ""), "--json"))["costs"]
        is None
    )
    assert json.loads(shown(tmp_path, RUN + PRIVATE, "--json"))["costs"] == {
        "most": {},
        "deviation": {},
        "rounding": {},
    }
