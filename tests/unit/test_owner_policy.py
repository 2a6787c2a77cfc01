"""policy.toml: strict, and empty means no."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsus.config import load, loads
from fedsus.errors import ConfigError
from fedsus.owner.policy import Cap, Policy, Range


def test_a_file_with_everything(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        """
        [privacy]
        epsilon = 3.0
        delta = 1e-5
        [cohort]
        minimum = 4
        [exchange]
        clear_sum = true
        [tasks.heart]
        data = "clinic"
        [tasks.heart.settings]
        hidden = [8, 16]
        rate = { min = 0.1, max = 1.0 }
        """
    )
    policy = load(tmp_path / "policy.toml", Policy)
    assert policy.privacy.cap == Cap(3.0, 1e-5)
    assert policy.tasks["heart"].settings == {"hidden": [8, 16], "rate": Range(min=0.1, max=1.0)}
    assert (policy.cohort.minimum, policy.exchange.clear_sum, policy.privacy.without_dp) == (4, True, False)


def test_an_empty_file_grants_nothing() -> None:
    policy = loads("", Policy)
    assert policy.privacy.cap == (0.0, 0.0)
    assert not policy.privacy.without_dp
    assert not policy.exchange.clear_sum
    assert not policy.tasks
    assert policy.cohort.minimum == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[privacy]\nepsilom = 3.0", "unknown field 'privacy.epsilom'; did you mean 'epsilon'?"),
        ("[privacy]\nepsilon = '3'", "'privacy.epsilon' = '3'"),
        ("[privacy]\nepsilon = -1.0", "greater than or equal to 0"),
        ("[privacy]\nepsilon = inf", "'privacy.epsilon' = inf"),
        ("[privacy]\ndelta = nan", "'privacy.delta' = nan"),
        ("[privacy]\nunits = ['patient']", "should be 'example'"),
        ("[privacy]\nwithout_dp = 1", "'privacy.without_dp' = 1"),
        ("[cohort]\nminimum = 0", "greater than or equal to 1"),
        ("[tasks.heart]", "'tasks.heart.data' is missing"),
        ("[tasks.heart]\ndata = '../clinic'", "'tasks.heart.data' = '../clinic'"),
        ("[tasks.heart]\ndata = 'c'\nsettings.rate = {min = 2.0, max = 1.0}", "min 2 is larger than max 1"),
        ("[tasks.heart]\ndata = 'c'\nsettings.rate = 3", "expected a list of values, or {min, max}"),
        ("[tasks.heart]\ndata = 'c'\nsettings.rate = {min = 2.0}", "rate.range.max' is missing"),
    ],
)
def test_a_mistake_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, Policy, "policy.toml")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
