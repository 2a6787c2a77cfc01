"""Who has which rows: nothing lost, nothing twice, as uneven as asked, the same from the same seed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_population import Toy, ToyGroups, scenario

from fedsus.errors import ConfigError, DataError
from fedsus.tasks import registry
from fedsus_simulations.clients import dividing
from fedsus_simulations.clients.partitions import classes, population_of
from fedsus_simulations.clients.population import Divided
from fedsus_simulations.scenario.seeding import generator

LABELS = np.random.default_rng(0).permutation(np.arange(60_000) % 10)
DIVISIONS: dict[str, dict[str, Any]] = {
    "iid": {},
    "dirichlet": {"alpha": 0.3},
    "dirichlet-by-class": {"alpha": 5.0},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    return tmp_path


def held(population: Any) -> list[list[int]]:
    """The rows of each client, training part then held-out part."""
    shards = [population.shard(position) for position in range(len(population.names))]
    return [torch.cat((shard.train[0], shard.held_out[0]))[:, 0].int().tolist() for shard in shards]


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("partition", DIVISIONS)
def test_each_row_has_one_client(partition: str, share: float, root: Path) -> None:
    asked = scenario(partition=partition, clients=13, held_out=share, **DIVISIONS[partition])
    population = population_of(asked, Toy.classes(501), root)
    rows = held(population)
    assert sorted(row for part in rows for row in part) == list(range(501))
    sizes = [population.shard(position).size for position in range(13)]
    assert population.sizes.tolist() == sizes
    assert [len(part) - size for part, size in zip(rows, sizes, strict=True)] == [int(len(p) * share) for p in rows]


@pytest.mark.parametrize("partition", DIVISIONS)
def test_the_targets_stay_with_their_rows(partition: str, root: Path) -> None:
    task = Toy.classes(200)
    population = population_of(scenario(partition=partition, clients=4, **DIVISIONS[partition]), task, root)
    for position in range(4):
        inputs, targets = population.shard(position).train
        assert torch.equal(task.targets[inputs[:, 0].long()], targets)


@pytest.mark.parametrize("partition", [*DIVISIONS, "sampled"])
def test_the_seed_alone_decides(partition: str, root: Path) -> None:
    table = DIVISIONS.get(partition, {"examples": 20}) | {"partition": partition, "clients": 10, "held_out": 0.1}
    task = Toy.classes(300)
    first, again, other = (held(population_of(scenario(seed, **table), task, root)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_equal_shares_differ_by_one_row_at_most() -> None:
    for rows in (dividing.iid(60_000, 7_001, generator(1)), dividing.dirichlet(LABELS, 7_001, 0.1, generator(1))):
        assert set(np.diff(rows.starts)) == {8, 9}


def test_a_small_alpha_leaves_few_classes_and_a_large_one_all() -> None:
    """The mean over clients of the largest class's share: 1 / K of equal classes, towards 1 of a single one."""

    def largest(alpha: float) -> float:
        rows = dividing.dirichlet(LABELS, 100, alpha, generator(3))
        return float(np.mean([np.bincount(LABELS[rows[client]]).max() / len(rows[client]) for client in range(100)]))

    assert largest(0.001) > 0.9
    assert 0.45 < largest(0.1) < 0.75
    assert 0.25 < largest(0.5) < 0.5
    assert largest(1000.0) < 0.15


def test_proportions_are_those_of_the_distribution() -> None:
    """Of Dirichlet(alpha, ..., alpha) a proportion's mean is 1/K, its variance (K - 1) / (K^2 (K alpha + 1)).

    The pools are so large that no class is used up for most clients. Off by its standard error, 5 of them at most;
    a division by twice or half of alpha is far outside.
    """
    alpha, kinds, clients = 0.5, 10, 600
    labels = np.arange(600_000) % kinds
    rows = dividing.dirichlet(labels, clients, alpha, generator(5))
    shares = np.array([np.bincount(labels[rows[c]], minlength=kinds) / 1000 for c in range(clients)])
    found = shares.var(axis=0).mean()

    def variance(alpha: float) -> float:
        return (kinds - 1) / (kinds**2 * (kinds * alpha + 1))

    assert shares.mean(axis=0) == pytest.approx(np.full(kinds, 0.1), abs=1e-9)  # all rows are used
    assert 0.85 * variance(alpha) < found < 1.1 * variance(alpha)
    assert not 0.85 * variance(2 * alpha) < found < 1.1 * variance(2 * alpha)
    assert not 0.85 * variance(alpha / 2) < found < 1.1 * variance(alpha / 2)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200),
    st.integers(1, 60),
    st.sampled_from([1e-3, 0.1, 1.0, 1e4]),
    st.integers(0, 2**31),
)
def test_any_labels_can_be_divided(labels: list[int], clients: int, alpha: float, seed: int) -> None:
    _, codes = np.unique(np.array(labels), return_inverse=True)
    rows = dividing.dirichlet(codes, clients, alpha, generator(seed))
    assert sorted(rows.rows.tolist()) == list(range(len(labels)))
    assert np.diff(rows.starts).max() - np.diff(rows.starts).min() <= 1


def test_by_class_sizes_differ_and_none_is_below_the_least() -> None:
    rows = dividing.dirichlet_by_class(LABELS, 100, 0.5, 150, 0.1, generator(2))
    assert rows is not None
    counts = np.diff(rows.starts)
    assert dividing.kept(counts, 0.1).min() >= 150
    assert counts.max() > 1000


def test_by_class_gives_up_in_one_line(root: Path) -> None:
    asked = scenario(partition="dirichlet-by-class", clients=100, alpha=0.01, least=5)
    with pytest.raises(ConfigError) as caught:
        population_of(asked, Toy.classes(1000), root)
    assert str(caught.value) == (
        "population.alpha = 0.01: in 100 draws some of 100 clients always had fewer than population.least = 5 training "
        'examples; raise alpha, ask for fewer clients, or choose partition = "dirichlet", where all have equally many'
    )


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_more_clients_than_rows_are_refused(partition: str, root: Path) -> None:
    asked = scenario(partition=partition, clients=34, least=2, held_out=0.5, **DIVISIONS[partition])
    with pytest.raises(ConfigError) as caught:
        population_of(asked, Toy.classes(100), root)
    assert str(caught.value) == (
        "population.clients = 34: 100 training examples give a client 1 to train on, below population.least = 2; "
        'ask for at most 33, or choose partition = "sampled", where clients share examples'
    )


@pytest.mark.parametrize(
    "targets",
    [torch.rand(50), torch.zeros(50, dtype=torch.int64), torch.zeros(50, 3, dtype=torch.int64)],
    ids=["fractions", "one class", "pieces of text"],
)
@pytest.mark.parametrize("partition", ["dirichlet", "dirichlet-by-class"])
def test_targets_without_classes_cannot_be_divided(partition: str, targets: torch.Tensor, root: Path) -> None:
    with pytest.raises(ConfigError, match=r'the targets of "toy" (are no classes|have one class), by which'):
        population_of(scenario(partition=partition, clients=5, alpha=1.0), Toy(targets), root)
    assert len(population_of(scenario(partition="iid", clients=5), Toy(targets), root).names) == 5


def test_classes_may_be_any_whole_numbers() -> None:
    found = classes(Toy(torch.tensor([3.0, -1.0, 3.0, 7.0])).load(None))  # type: ignore[arg-type]
    assert found is not None
    assert found[0].tolist() == [1, 0, 1, 2]
    assert found[1].tolist() == [-1.0, 3.0, 7.0]


def test_groups_are_the_clients_and_small_ones_are_left_out_aloud(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = ToyGroups({"c": 5, "a": 7, "b": 1})
    with caplog.at_level(logging.WARNING, "fedsus.simulation"):
        population = population_of(scenario(least=5), task, root)
    assert list(population.names) == ["a", "c"]
    assert population.sizes.tolist() == [7, 5]
    assert caplog.messages == ["population.least = 5 leaves out 1 of 3 clients"]
    assert population.central is not None
    assert population.central[0][:, 0].tolist() == [-7.0, -5.0]
    with pytest.raises(ConfigError, match=r"population.least = 8: no client of .* has so many .*; the largest has 7"):
        population_of(scenario(least=8), task, root)


def test_groups_need_a_task_that_knows_them(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"partition = \"groups\": task 'toy' does not say whose its data are; choose"
    ):
        population_of(scenario(), Toy.classes(10), root)


def test_the_hospitals_ship_with_fedsus(tmp_path: Path) -> None:
    heart = registry.build(registry.resolve("heart"), {})
    hospitals = population_of(scenario(data="heart"), heart, tmp_path)
    assert list(hospitals.names) == ["cleveland", "hungary", "switzerland", "va"]
    assert hospitals.central is not None
    together = population_of(scenario(data="heart", partition="dirichlet", alpha=0.5, clients=20), heart, tmp_path)
    assert int(together.sizes.sum()) == int(hospitals.sizes.sum())
    assert together.central is not None
    assert len(together.central[0]) == len(hospitals.central[0])


def test_a_hospital_of_the_users_own_can_be_given_as_a_path(tmp_path: Path) -> None:
    from fedsus.tasks.heart import shipped

    heart = registry.build(registry.resolve("heart"), {})
    folder = tmp_path / "heart"
    folder.mkdir()
    (folder / "mine.csv").write_bytes(shipped("va").read_bytes())
    for data in ("heart", str(folder)):
        assert list(population_of(scenario(data=data), heart, tmp_path).names) == ["mine"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            "fashion-mnist",
            "no folder {root}/fashion-mnist; get it with: fedsus data get fashion-mnist --to {root}/fashio",
        ),
        ("fashion-minst", "no such data set in {root}; did you mean 'fashion-mnist'?"),
        ("tpy", "no such data set in {root}; did you mean 'toy'?"),
        ("no/such/folder", "no such file or folder"),
        ("zzzz", "no such data set in {root}; there are: heart, "),
    ],
)
def test_data_that_are_not_there(data: str, says: str, root: Path) -> None:
    with pytest.raises(DataError) as caught:
        population_of(scenario(data=data, partition="iid", clients=2), Toy.classes(10), root)
    assert str(caught.value).startswith(f'population.data = "{data}": ' + says.format(root=root))
    assert "\n" not in str(caught.value)


def test_in_the_default_folder_the_command_needs_no_option() -> None:
    asked = scenario(data="fashion-mnist", partition="iid", clients=2)
    with pytest.raises(DataError, match=r"get it with: fedsus data get fashion-mnist$"):
        population_of(asked, Toy.classes(10), Path("data"))


METRIC = {"metrics": [{"name": "accuracy", "low": 0.0, "high": 1.0}]}


@pytest.mark.parametrize(
    "table",
    [{"partition": "iid", "clients": 20, "held_out": 0.1}, {"partition": "sampled", "clients": 3, "examples": 9}],
)
def test_metrics_need_rows_to_measure_on(table: dict[str, Any], root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"plan.metrics: population.held_out = .* leaves clients nothing to measure on"
    ):
        population_of(scenario(plan=METRIC, **table), Toy.classes(100), root)
    more = population_of(scenario(plan=METRIC, **table | {"held_out": 0.4}), Toy.classes(100), root)
    assert len(more.shard(0).held_out[0]) > 0


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"partition": "iid"}, "'groups' and 'files' have their own clients, the others need a number"),
        ({"clients": 5}, "'groups' and 'files' have their own clients, the others need a number"),
        ({"partition": "dirichlet", "clients": 5}, "'alpha' belongs to"),
        ({"partition": "iid", "clients": 5, "alpha": 0.1}, "'alpha' belongs to"),
        ({"partition": "sampled", "clients": 5}, "'examples' belongs to"),
        ({"partition": "iid", "clients": 5, "examples": 5}, "'examples' belongs to"),
        ({"held_out": 0.1}, "clients of 'groups' have held-out parts of their own"),
        ({"partition": "iid", "clients": 5, "held_out": 0.95}, "less than or equal to 0.9"),
        ({"partition": "iid", "clients": 5, "alfa": 1}, "unknown field 'population.alfa'; did you mean 'alpha'?"),
        ({"partition": "diriclet", "clients": 5}, "'population.partition' = 'diriclet'"),
    ],
)
def test_tables_that_do_not_fit(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(**table)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ten_thousand_clients_cost_a_few_sorts_of_their_rows() -> None:
    """Counted, not timed: numpy is called as often for ten thousand clients as for ten, within the rounds of a draw."""
    import sys

    def calls(clients: int) -> int:
        found = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal found
            found += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            rows = dividing.dirichlet(LABELS, clients, 0.1, generator(1))
            Divided.of(None, *dividing.held_out(rows, 0.1, generator(2)))  # type: ignore[arg-type]
        finally:
            sys.setprofile(None)
        return found

    assert calls(10_000) < calls(10) + 1_000
