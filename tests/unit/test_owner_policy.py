"""policy.toml: strict, and empty means no."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsus.config import load, loads
from fedsus.errors import ConfigError
from fedsus.owner.caps import UNLIMITED, Account, Cap
from fedsus.owner.policy import Policy, Range, SecureSumPolicy
from fedsus.privacy.adversaries import Adversary, Unit
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Pins

KEYS = sorted(Identity.generate().public.hex() for _ in range(3))


def pins(signers: list[str], needed: int | None = None) -> str:
    return f"[federation]\nname = 'heart'\nsigners = {signers}" + (f"\nneeded = {needed}" if needed is not None else "")


def test_a_file_with_everything(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        f"""
        [privacy]
        epsilon = 3.0
        delta = 1e-5
        [cohort]
        minimum = 4
        [federation]
        name = "heart"
        signers = ["{KEYS[1]}", "{KEYS[0]}"]
        needed = 1
        [exchange]
        clear_sum = true
        [secure_sum]
        colluders = 2
        dropout = 0.25
        named = ["north", "south"]
        named_minimum = 1
        draws = false
        [tasks.heart]
        data = "clinic"
        [tasks.heart.settings]
        hidden = [8, 16]
        rate = {{ min = 0.1, max = 1.0 }}
        """
    )
    policy = load(tmp_path / "policy.toml", Policy)
    assert policy.privacy.cap == Cap(3.0, 1e-5)
    assert policy.tasks["heart"].settings == {"hidden": [8, 16], "rate": Range(min=0.1, max=1.0)}
    assert (policy.cohort.minimum, policy.exchange.clear_sum, policy.privacy.without_dp) == (4, True, False)
    assert policy.federation is not None
    assert policy.federation.pins == Pins("heart", frozenset(KEYS[:2]), 1)
    assert policy.secure_sum == SecureSumPolicy(
        colluders=2, dropout=0.25, named=["north", "south"], named_minimum=1, draws=False
    )
    assert policy.secure_sum.named_needed == 1


def test_an_empty_file_grants_nothing() -> None:
    policy = loads("", Policy)
    assert policy.privacy.cap == (0.0, 0.0)
    assert not policy.privacy.without_dp
    assert not policy.exchange.clear_sum
    assert not policy.tasks
    assert policy.cohort.minimum == 3
    assert policy.federation is None


def test_the_first_cap_that_fits_counts_and_who_is_not_protected_has_none() -> None:
    policy = loads(
        """
        [privacy]
        epsilon = 3.0
        delta = 1e-5
        units = ["example", "client"]
        trusted = ["clients"]
        [[privacy.caps]]
        data = "ward"
        unit = "example"
        epsilon = 1.0
        delta = 1e-6
        [[privacy.caps]]
        unit = "client"
        adversary = "server"
        unlimited = true
        [[privacy.caps]]
        data = "ward"
        unit = "patient"
        epsilon = 2.0
        delta = 1e-6
        """,
        Policy,
    ).privacy

    def cap(data: str, unit: Unit, adversary: Adversary) -> Cap | None:
        return policy.cap_of(Account(data, unit, adversary))

    assert cap("clinic", "example", "server") == cap("clinic", "client", "recipients") == Cap(3.0, 1e-5)
    assert cap("ward", "example", "server") == cap("ward", "example", "clients") == Cap(1.0, 1e-6)
    assert cap("clinic", "client", "server") == cap("clinic", "example", "clients") == UNLIMITED
    assert (cap("clinic", "patient", "server"), cap("ward", "patient", "server")) == (None, Cap(2.0, 1e-6))
    assert loads("", Policy).privacy.cap_of(Account("clinic", "example", "server")) == Cap(0.0, 0.0)


def test_masked_sums_are_the_default_and_need_pins() -> None:
    policy = loads("", Policy)
    assert policy.exchange.secure_sum
    assert (policy.secure_sum.colluders, policy.secure_sum.draws, policy.secure_sum.named_needed) == (None, True, 0)
    # A third: one of four may be planned to drop out, two of six, three of nine.
    assert [int(policy.secure_sum.dropout * n) for n in (3, 4, 5, 6, 8, 9)] == [1, 1, 1, 2, 2, 3]
    assert loads('[secure_sum]\nnamed = ["a", "b"]', Policy).secure_sum.named_needed == 2


@pytest.mark.parametrize(("signers", "needed"), [(1, 1), (2, 2), (3, 2)])
def test_more_than_half_of_the_pinned_keys_sign(signers: int, needed: int) -> None:
    policy = loads(pins(KEYS[:signers]), Policy)
    assert policy.federation is not None
    assert policy.federation.pins.needed == needed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[privacy]\nepsilom = 3.0", "unknown field 'privacy.epsilom'; did you mean 'epsilon'?"),
        ("[privacy]\nepsilon = '3'", "'privacy.epsilon' = '3'"),
        ("[privacy]\nepsilon = -1.0", "greater than or equal to 0"),
        ("[privacy]\nepsilon = inf", "'privacy.epsilon' = inf"),
        ("[privacy]\ndelta = nan", "'privacy.delta' = nan"),
        ("[privacy]\nunits = ['person']", "should be 'example', 'patient' or 'client'"),
        ("[privacy]\ntrusted = ['operator']", "should be 'server', 'clients' or 'recipients'"),
        ("[privacy]\ncomposition = 'pld'", "should be 'renyi' or 'runs'"),
        ("[privacy]\nrows_per_patient = 0", "'privacy.rows_per_patient' = 0"),
        ("[[privacy.caps]]\nunit = 'client'", "'privacy.caps.0': give epsilon and delta, or unlimited = true"),
        ("[[privacy.caps]]\nepsilon = 1.0", "'privacy.caps.0': give epsilon and delta, or unlimited = true"),
        ("[[privacy.caps]]\nepsilon = 1.0\ndelta = 1e-5\nunlimited = true", "unlimited = true and epsilon exclude"),
        ("[[privacy.caps]]\nepsilon = inf\ndelta = 1e-5", "'privacy.caps.0.epsilon' = inf"),
        (
            "[[privacy.caps]]\nunit = 'client'\nunlimited = true\n"
            "[[privacy.caps]]\nunit = 'client'\nadversary = 'server'\nepsilon = 1.0\ndelta = 1e-5",
            "caps: entry 2 never counts, for entry 1 fits all that it fits",
        ),
        ("[privacy]\nwithout_dp = 1", "'privacy.without_dp' = 1"),
        ("[cohort]\nminimum = 0", "greater than or equal to 1"),
        ("[federation]\nname = 'heart'", "'federation.signers' is missing"),
        ("[federation]\nname = 'heart'\nsigners = []", "at least 1 item"),
        (pins([KEYS[0], KEYS[0]]), "'federation': signers: each key once"),
        (pins(KEYS, 4), "needed 4: expected 1 to 3"),
        (pins(KEYS, 0), "'federation.needed' = 0"),
        (pins(["0" * 64]), "a point of low order: anyone could sign for it"),
        (pins([KEYS[0].upper()]), "'federation.signers.0' = "),
        ("[exchange]\nsecure_sum = 'yes'", "'exchange.secure_sum' = 'yes'"),
        ("[secure_sum]\ncolluders = 0", "'secure_sum.colluders' = 0"),
        ("[secure_sum]\ndropout = 0.6", "'secure_sum.dropout' = 0.6"),
        ("[secure_sum]\nnamed = ['a', 'a']", "'secure_sum': named: each member once"),
        ("[secure_sum]\nnamed = ['a']\nnamed_minimum = 2", "named_minimum 2: named has 1"),
        ("[secure_sum]\ncoluders = 1", "unknown field 'secure_sum.coluders'; did you mean 'colluders'?"),
        ("[federation]\nname = 'h'\nsigner = []", "unknown field 'federation.signer'"),
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
