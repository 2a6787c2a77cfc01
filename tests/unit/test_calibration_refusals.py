"""What a private run cannot be: one line each, which names what would fit, and what it names does fit."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest

from fedsus.config import RunConfig, validate
from fedsus.errors import ConfigError
from fedsus.protection import MOST_VARIANCE, Distributed, Shares
from fedsus.rounds.planning import demands
from fedsus.rounds.planning.specification import Specification, specified

DISTRIBUTED: dict[str, Any] = {"unit": "client", "epsilon": 3.0, "delta": 1e-5}
STEPS: dict[str, Any] = {
    "unit": "example",
    "placement": "distributed",
    "epsilon": 3.0,
    "delta": 1e-5,
    "denominator": 200.0,
}
LOCAL: dict[str, Any] = {"unit": "example", "epsilon": 3.0, "delta": 1e-5, "denominator": 20.0}
CENTRAL: dict[str, Any] = {"unit": "client", "placement": "central", "epsilon": 3.0, "delta": 1e-5}


def data(privacy: dict[str, Any], **plan: Any) -> dict[str, Any]:
    """``run.toml`` as plain data: 20 clients, summed in clear as a simulation does it."""
    base: dict[str, Any] = {
        "rounds": 20,
        "exchange": "clear_sum",
        "cohort": {"size": 20, "minimum": 18},
        "secure_sum": {"colluders": 2},
        "privacy": privacy,
    }
    return copy.deepcopy({"task": {"name": "heart"}, "plan": base | plan})


def made(found: dict[str, Any], dimension: int = 1000) -> Specification:
    return specified("one", validate(found, RunConfig, "run.toml"), dimension)


def refused(found: dict[str, Any], dimension: int = 1000) -> str:
    """The line."""
    with pytest.raises(ConfigError) as caught:
        made(found, dimension)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def numbers(text: str, pattern: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, text
    return float(match[1])


@pytest.mark.parametrize("privacy", [DISTRIBUTED, STEPS], ids=["client", "example"])
def test_too_small_an_epsilon_names_the_least_and_the_rounds_that_fit(privacy: dict[str, Any]) -> None:
    asked = data(privacy | {"epsilon": 1.0, "sampling_rate": 1.0}, rounds=1000)
    text = refused(asked, 10**6)
    least, rounds = numbers(text, r"ask for epsilon = ([\d.]+)"), int(numbers(text, r"at most (\d+) rounds"))
    assert "1000 rounds with 100 spare attempts" in text
    assert "granularity below 32" in text
    asked["plan"]["privacy"]["epsilon"] = least
    assert made(asked, 10**6).privacy.unit == privacy["unit"]
    asked["plan"]["privacy"]["epsilon"] = least * 0.999
    refused(asked, 10**6)
    asked["plan"] |= {"rounds": rounds, "privacy": asked["plan"]["privacy"] | {"epsilon": 1.0}}
    made(asked, 10**6)
    asked["plan"]["rounds"] = rounds + 1
    refused(asked, 10**6)


def test_an_epsilon_that_no_round_reaches_names_no_rounds() -> None:
    text = refused(data(DISTRIBUTED | {"epsilon": 1e-6, "delta": 1e-12}), 10**6)
    assert "ask for epsilon = " in text
    assert "at most" not in text


def test_spare_attempts_that_are_given_count_in_the_rounds_that_fit() -> None:
    asked = data(DISTRIBUTED | {"epsilon": 1.0}, rounds=1000, spare_attempts=40)
    rounds = int(numbers(refused(asked, 10**6), r"at most (\d+) rounds"))
    asked["plan"]["rounds"] = rounds
    specification = made(asked, 10**6)
    assert specification.attempts == rounds + 40
    asked["plan"]["rounds"] = rounds + 1
    refused(asked, 10**6)


def test_local_noise_beyond_what_devices_train_with_is_refused() -> None:
    """Found by the smallest noise that devices train with: the largest takes a while to account for."""
    text = refused(data(LOCAL | {"epsilon": 1e-4, "delta": 1e-9, "sampling_rate": 1.0}))
    assert "multiplier 100" in text
    assert "ask for epsilon = " in text


def test_an_adaptive_clip_whose_count_spends_too_much_names_its_noise() -> None:
    asked = data(CENTRAL | {"epsilon": 1.0, "adaptive": {"noise": 1.0}})
    text = refused(asked)
    assert "more noise than adaptive.noise = 1" in text
    asked["plan"]["privacy"]["adaptive"]["noise"] = 50.0
    made(asked)


def test_a_delta_that_no_single_attempt_reaches_is_named_and_not_the_rounds() -> None:
    asked = data(LOCAL | {"delta": 1e-30})
    assert refused(asked).endswith("ask for a delta above 1e-30")
    asked["plan"]["privacy"]["delta"] = 1e-12
    made(asked)


def test_bands_name_no_rounds() -> None:
    text = refused(data(CENTRAL | {"epsilon": 1e-6, "delta": 1e-9, "bands": 4}))
    assert "rounds" in text and "at most" not in text


def test_metrics_with_next_to_no_share_of_the_budget_stay_within_a_plan() -> None:
    metrics = [{"name": "loss", "low": 0.0, "high": 10.0}]
    for privacy in (DISTRIBUTED, CENTRAL):
        for share in (1e-4, 1 - 1e-4):
            found = made(data(privacy | {"metrics_share": share, "epsilon": 8.0}, metrics=metrics))
            assert found.epsilon(found.attempts) <= 8.0
    text = refused(data(DISTRIBUTED | {"metrics_share": 1e-6, "epsilon": 8.0}, metrics=metrics))
    assert "spend more than 1000" in text
    assert text.endswith("ask for fewer rounds, a metrics_share above 1e-06")


def test_a_granularity_that_shares_cannot_carry_names_one_that_they_can() -> None:
    asked = data(DISTRIBUTED | {"granularity": 4096.0}, cohort={"size": 3, "minimum": 3})
    text = refused(asked, 2**30)
    fits = numbers(text, r"ask for at most ([\d.]+)")
    assert text.startswith("plan.privacy.granularity = 4096")
    asked["plan"]["privacy"] |= {"granularity": fits * 0.99, "epsilon": 1000.0}
    assert "cannot carry noise" not in outcome(asked, 2**30)


def outcome(found: dict[str, Any], dimension: int) -> str:
    try:
        made(found, dimension)
    except ConfigError as error:
        return str(error)
    return ""


def test_sums_beyond_32_bits_name_a_granularity_that_fits() -> None:
    asked = data(
        STEPS | {"denominator": 1e7, "granularity": 64.0, "sampling_rate": 0.5, "epsilon": 100.0},
        cohort={"size": 100, "minimum": 90},
    )
    text = refused(asked)
    assert "32 are there" in text
    asked["plan"]["privacy"]["granularity"] = numbers(text, r"at most ([\d.]+)")
    privacy = made(asked).privacy
    assert isinstance(privacy, Distributed)
    assert privacy.shares.bits == 32


def test_too_few_bits_for_the_noise_alone_name_how_many_are_needed() -> None:
    asked = data(DISTRIBUTED | {"bits": 16, "granularity": 2048.0})
    text = refused(asked)
    assert text.startswith("plan.privacy.bits = 16")
    needed, least = int(numbers(text, r"for (\d+),")), int(numbers(text, r"alone needs (\d+)"))
    assert 16 < least <= needed
    for bits in (needed, least):
        asked["plan"]["privacy"]["bits"] = bits
        privacy = made(asked).privacy
        assert isinstance(privacy, Distributed) and privacy.shares.bits == bits
    asked["plan"]["privacy"]["bits"] = least - 1
    refused(asked)


@pytest.mark.parametrize("bits", [15, 33])
def test_bits_out_of_range(bits: int) -> None:
    assert f"'plan.privacy.bits' = {bits}" in refused(data(DISTRIBUTED | {"bits": bits}))


@pytest.mark.parametrize("field", ["clip", "epsilon", "delta", "sampling_rate", "denominator", "granularity"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_zero_negative_and_no_numbers(field: str, value: float) -> None:
    text = refused(data(STEPS | {field: value}))
    assert f"'plan.privacy.{field}' = {value!r}" in text


def test_a_clip_that_devices_refuse() -> None:
    assert "'plan.privacy.clip' = 1e-10: should be greater than or equal to" in refused(data(LOCAL | {"clip": 1e-10}))


def test_a_clip_so_small_that_no_step_carries_it() -> None:
    asked = data(DISTRIBUTED | {"clip": 1e-9, "granularity": 4096.0}, cohort={"size": 20000, "minimum": 20000})
    assert "too fine" in refused(asked, 2**20)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        (LOCAL | {"placement": "central"}, ("placement 'central'", "'local' or 'distributed'")),
        (DISTRIBUTED | {"placement": "local"}, ("placement 'local'", "'distributed' or 'central'")),
        (LOCAL | {"full_weight": 10.0}, ("'full_weight'", "unit = 'client'")),
        (LOCAL | {"metrics_share": 0.1}, ("'metrics_share'", "unit = 'client'")),
        (DISTRIBUTED | {"denominator": 10.0}, ("'denominator'", "unit = 'example'")),
        (CENTRAL | {"bits": 20}, ("'bits'", "placement = 'distributed'")),
        (DISTRIBUTED | {"bands": 4}, ("'bands'", "placement = 'central'")),
        (DISTRIBUTED | {"adaptive": {}}, ("'adaptive'", "placement = 'central'")),
        (CENTRAL | {"adaptive": {}, "bands": 4}, ("'adaptive' and 'bands' exclude each other",)),
        (CENTRAL | {"adaptive": {"noise": 0.01}}, ("'plan.privacy.adaptive.noise' = 0.01", "0.05")),
        ({"unit": "example", "epsilon": 3.0, "delta": 1e-5}, ("needs 'denominator'",)),
        ({"unit": "client", "delta": 1e-5}, ("needs 'epsilon'",)),
        ({"unit": "patient"}, ("'plan.privacy.unit' = 'patient'",)),
        ({"epsilon": 3.0}, ("'epsilon'", "need unit = 'example' or 'client'")),
        ({"delta": 1e-5}, ("'delta'", "need unit")),
        ({"bits": 20}, ("'bits'", "need unit")),
        ({"bands": 4}, ("'bands'", "need unit")),
        ({"metrics_share": 0.1}, ("'metrics_share'", "need unit")),
        (DISTRIBUTED | {"metrics_share": 0.1}, ("metrics_share = 0.1", "no metrics are asked for")),
        (DISTRIBUTED | {"delta": 1e-16}, ("plan.privacy", "delta above 2**-50")),
        (LOCAL | {"sampling_rate": 1e-7}, ("10000000 batches", "at most 1000000", "ask for 1e-06")),
    ],
)
def test_what_does_not_fit_together(privacy: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refused(data(privacy))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"local_epochs": 2}, ("local_epochs = 2", "set it to 1")),
        ({"optimizer": {"name": "adam"}}, ("optimizer.name = adam", "set it to sgd")),
        ({"optimizer": {"momentum": 0.9}}, ("optimizer.momentum = 0.9", "fedavgm")),
        ({"optimizer": {"weight_decay": 0.1}}, ("weight_decay = 0.1",)),
        ({"proximal": 0.1}, ("proximal = 0.1",)),
        ({"gradient_clip": 1.0}, ("gradient_clip = 1.0", "leave it out")),
        ({"precision": "bfloat16"}, ("precision = 'bfloat16'", "'float32'")),
    ],
)
def test_training_that_is_not_one_plain_step(training: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refused(data(STEPS, training=training))
    for word in ("plan.training", *words):
        assert word in text
    if "precision" not in training:
        assert made(data(DISTRIBUTED, training=training)).privacy.unit == "client"


def test_nobodys_noise_is_left() -> None:
    asked = data(DISTRIBUTED, cohort={"size": 20, "minimum": 4}, secure_sum={"colluders": 4})
    text = refused(asked)
    assert "4 survivors of which 4 may collude leave nobody's noise" in text
    asked["plan"]["cohort"]["minimum"] = 5
    made(asked)


def test_shares_of_noise_without_a_secure_sum() -> None:
    asked = data(DISTRIBUTED)
    del asked["plan"]["secure_sum"]
    assert "'clear_sum'" in refused(asked) and "placement = 'central'" in refused(asked)
    simulated = validate(data(STEPS), RunConfig, "run.toml")
    with pytest.raises(ConfigError, match="placement = 'local'"):
        demands.check_deployed(simulated)
    for privacy in (LOCAL, CENTRAL, {}):
        demands.check_deployed(validate(data(privacy), RunConfig, "run.toml"))


def test_bands_need_enough_members_to_take_turns() -> None:
    config = validate(data(CENTRAL | {"bands": 4}), RunConfig, "run.toml")
    demands.check(config, 80)
    demands.check(config, None)
    with pytest.raises(ConfigError, match=r"every 4th round .* need 80 members, and there are 79; at most 3 bands fit"):
        demands.check(config, 79)
    with pytest.raises(ConfigError, match="leave bands out"):
        demands.check(config, 25)


def test_bands_and_cohorts_that_are_drawn_from_all() -> None:
    config = validate(data(CENTRAL | {"bands": 4}, exchange="secure_sum"), RunConfig, "run.toml")
    with pytest.raises(ConfigError, match="choice = 'named'"):
        demands.check(config, 1000)


def test_a_share_has_no_more_variance_than_a_sampler_draws() -> None:
    from fedsus.privacy.sampling import _reach

    assert _reach(MOST_VARIANCE) > 0
    shares = {"scale": 1.0, "bits": 32, "colluders": 1, "survivors": 3}
    assert Shares(variance=MOST_VARIANCE, **shares).variance == MOST_VARIANCE
