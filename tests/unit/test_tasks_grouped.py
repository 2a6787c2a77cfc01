"""The data's own clients: their names, and one shard each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fedsus.errors import DataError
from fedsus.tasks.fashion import FashionMnist
from fedsus.tasks.groups import client_name, grouped, picked
from fedsus.tasks.heart import HOSPITALS, HeartDisease, HeartDiseaseSettings, shipped
from fedsus.tasks.task import DataSource, Grouped

HEART = HeartDisease(HeartDiseaseSettings())
FOLDER = shipped("va").parent


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("KING HENRY V", "king-henry-v"),
        ("Outlying-US(Guam-USVI-etc)", "outlying-us-guam-usvi-etc"),
        ("Trinadad&Tobago", "trinadad-tobago"),
        ("../../etc/passwd", "etc-passwd"),
        ("\u00c9", ""),
    ],
)
def test_words_become_names(words: str, name: str) -> None:
    assert client_name(words) == name


def test_groups_are_sorted_whatever_the_order() -> None:
    assert list(grouped("here", [("b", 1), ("a", 2), ("C", 3)]).items()) == [("C", 3), ("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "a"), "here: two clients would be named 'a'; rename one"),
        (("a b",), "here: 'a b' cannot name a client"),
        (("-a",), "here: '-a' cannot name a client"),
        (("",), "here: '' cannot name a client"),
        (("x" * 65,), "cannot name a client; 1 to 64 letters"),
        (("\u0661",), "cannot name a client"),
        ((), "here: no client's data here"),
    ],
)
def test_names_that_no_client_can_have_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        grouped("here", ((name, 0) for name in names))


def test_the_option_picks_one_group_or_says_which_there_are() -> None:
    groups = {f"person-{k}": k for k in range(9)}
    here = Path("here")
    assert picked(DataSource(here), "person", groups) == groups
    assert picked(DataSource(here, {"person": "person-3"}), "person", groups) == {"person-3": 3}
    for value, message in (
        ("person3", r"option 'person' = 'person3': not in here; did you mean 'person-3'\?"),
        ("z", r"not in here; there are: person-0, .*, person-4, \.\.\.$"),
        (3, "option 'person' = 3: not in here"),
    ):
        with pytest.raises(DataError, match=message):
            picked(DataSource(here, {"person": value}), "person", groups)


def test_the_hospitals_are_the_shipped_files() -> None:
    assert isinstance(HEART, Grouped)
    assert not issubclass(FashionMnist, Grouped)
    shards = HEART.groups(DataSource(FOLDER))
    assert tuple(shards) == HOSPITALS
    for hospital, shard in shards.items():
        alone = HEART.load(DataSource(shipped(hospital)))
        assert torch.equal(shard.train[0], alone.train[0])
        assert torch.equal(shard.held_out[1], alone.held_out[1])


def test_the_owners_options_reach_every_hospital() -> None:
    assert all(len(shard.held_out[0]) == 0 for shard in HEART.groups(DataSource(FOLDER, {"holdout": 0})).values())


def test_hospitals_that_collide_and_folders_that_are_none_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; one .csv or .parquet file for each hospital"):
        HEART.groups(DataSource(shipped("va")))
    with pytest.raises(DataError, match="no client's data here"):
        HEART.groups(DataSource(tmp_path))
    for name in ("a.csv", "a.CSV"):
        (tmp_path / name).write_bytes(shipped("va").read_bytes())
    with pytest.raises(DataError, match="two clients would be named 'a'"):
        HEART.groups(DataSource(tmp_path))
