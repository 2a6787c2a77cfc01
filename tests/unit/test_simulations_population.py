"""Clients by position and by name, in numbers and as a picture; many of them in little memory."""

from __future__ import annotations

import sys
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from toy_population import Toy, ToyGroups, scenario

from fedsus.errors import ConfigError
from fedsus_simulations.clients.description import counts, describe, described, draw
from fedsus_simulations.clients.partitions import population_of
from fedsus_simulations.clients.population import Given, Numbered, Sampled

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.tasks.task import DataSource

NOWHERE: DataSource = None  # type: ignore[assignment]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    return tmp_path


@pytest.mark.parametrize("count", [1, 9, 10, 11, 100_000])
def test_names_are_in_order_and_lead_back(count: int) -> None:
    names = Numbered(count)
    some = sorted({0, 1, count // 2, count - 2, count - 1} & set(range(count)))
    assert [names.position(names[i]) for i in some] == some
    assert sorted(names[i] for i in some) == [names[i] for i in some]
    assert names[-1] == names[count - 1]
    assert names[:2] == [names[i] for i in range(min(2, count))]


@pytest.mark.parametrize(
    "name", ["", "client-", "client-010", "client-11", "client--1", "client-٠٣", "Client-03", "03"]
)
def test_other_names_are_nobodys(name: str) -> None:
    assert Numbered(11).position(name) is None


def test_groups_are_found_by_name() -> None:
    given = Given.of(ToyGroups({"b": 2, "a": 3}).groups(NOWHERE))
    assert [given.position(name) for name in ("a", "b", "c")] == [0, 1, None]
    assert given.shard(1).size == given.sizes[1] == 2


def test_groups_that_hold_nothing_out_have_no_central_test_set() -> None:
    shard = Toy.classes(5).load(NOWHERE)
    none = type(shard)(shard.train, tuple(tensor[:0] for tensor in shard.held_out))
    assert Given.of({"a": none}).central is None


def test_a_sampled_client_has_the_same_distinct_rows_whenever_it_is_asked(root: Path) -> None:
    asked = scenario(partition="sampled", clients=1000, examples=40, held_out=0.25)
    population = population_of(asked, Toy.classes(200), root)
    assert isinstance(population, Sampled)
    shard, again, other = (population.shard(position) for position in (999, 999, 0))
    assert (shard.size, len(shard.held_out[0])) == (30, 10)
    rows = torch.cat((shard.train[0], shard.held_out[0]))[:, 0].tolist()
    assert len(set(rows)) == 40
    assert torch.equal(shard.train[0], again.train[0])
    assert not torch.equal(shard.train[0], other.train[0])


def test_sampled_rows_are_of_the_whole_training_part() -> None:
    """Each of 100 rows comes 300 times on average; chi-squared of 99 degrees exceeds 180 once in a million."""
    population = Sampled(Toy.classes(100).load(NOWHERE), 3_000, 10, 0, 7)
    found = np.zeros(100)
    for position in range(3_000):
        found[population.shard(position).train[0][:, 0].long().numpy()] += 1
    assert found.sum() == 30_000
    assert ((found - 300) ** 2 / 300).sum() < 180


def test_a_hundred_thousand_sampled_clients_take_no_memory(root: Path) -> None:
    task = Toy.classes(500)
    tracemalloc.start()
    population = population_of(scenario(partition="sampled", clients=100_000, examples=50), task, root)
    sizes, last = population.sizes, population.shard(99_999)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sizes) == len(population.names) == 100_000
    assert int(sizes[99_999]) == last.size == 50
    assert population.position("client-99999") == 99_999
    assert most < 1_000_000


def test_sizes_and_names_cost_the_same_for_many_clients_as_for_few(root: Path) -> None:
    """Counted in calls, not timed: asked each round, they must not grow with the registered."""

    def calls(clients: int) -> int:
        population = population_of(scenario(partition="iid", clients=clients), Toy.classes(20_000), root)
        found = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal found
            found += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            for name in ("client-1", "client-00001"):
                population.position(name)
            assert population.sizes is population.sizes
            len(population.names)
        finally:
            sys.setprofile(None)
        return found

    assert calls(20_000) == calls(10)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"examples": 201}, "population.examples = 201: the data have 200 training examples; lower it"),
        ({"examples": 5, "least": 5, "held_out": 0.2}, "population.examples = 5: 4 to train on, below"),
    ],
)
def test_sampled_rows_that_are_not_there(table: dict[str, int], says: str, root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        population_of(scenario(partition="sampled", clients=3, **table), Toy.classes(200), root)
    assert str(caught.value).startswith(says)


def test_a_population_in_one_line(root: Path) -> None:
    task = Toy(torch.tensor([0] * 6 + [1] * 3 + [2]))
    one = population_of(scenario(partition="iid", clients=1), task, root)
    assert described(one) == (
        "1 clients, 10 training examples; of a client 10; classes of a client 3 of 3, its commonest 60% of its examples"
    )
    three = describe(population_of(scenario(partition="iid", clients=3), task, root))
    assert (three.examples, three.fewest, three.median, three.most, three.kinds) == (10, 3, 3.0, 4, 3)
    assert "of a client 3 to 4, median 3" in str(three)
    fractions = population_of(scenario(partition="iid", clients=2), Toy(torch.rand(10)), root)
    assert described(fractions) == "2 clients, 10 training examples; of a client 5"


def test_classes_of_groups_are_put_side_by_side() -> None:
    def shard(*targets: int) -> object:
        return Toy(torch.tensor(targets)).load(NOWHERE)

    given = Given.of({"a": shard(7, 7, 2), "b": shard(5), "c": shard(2, 2)})  # type: ignore[dict-item]
    found = counts(given, range(3))
    assert found is not None
    assert found.tolist() == [[1, 0, 2], [0, 1, 0], [2, 0, 0]]


def test_a_partition_as_a_picture(root: Path, tmp_path: Path) -> None:
    table = {"partition": "dirichlet", "clients": 120, "alpha": 0.1}
    population = population_of(scenario(**table), Toy.classes(2000), root)
    paths = draw(population, tmp_path)
    assert paths is not None
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    first = paths[1].read_text(encoding="utf-8")
    assert "<svg" in first
    draw(population, tmp_path)
    assert paths[1].read_text(encoding="utf-8") == first  # the same run again leaves the same file
    fractions = population_of(scenario(partition="iid", clients=2), Toy(torch.rand(10)), root)
    (tmp_path / "none").mkdir()
    assert draw(fractions, tmp_path / "none") is None
    assert list((tmp_path / "none").iterdir()) == []
