"""Blocks on a Ray cluster of two nodes, which this machine plays: the same integers, whatever is lost on the way."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_runs import BLOCKS, REFERENCE, released, request, scenario, stacked, summed, workers_of
from packaging.requirements import Requirement

from fedsus.errors import ConfigError, DataError, EnvironmentFault
from fedsus.rounds.messages import Request
from fedsus_simulations.workers import ray_workers
from fedsus_simulations.workers.inline import Inline, Recipe
from fedsus_simulations.workers.ray_workers import OnRay

ROOT = Path(__file__).resolve().parents[2]
STORE = 80 * 2**20
# Ray leaves the null device and its children to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each; this process is a driver on the first one."""
    os.environ.update(ray_workers.ALONE | ray_workers.QUIET)
    pytest.importorskip("ray", reason="Ray is not installed: python -m pip install 'fedsus-simulations[ray]'")
    import ray

    made = started({"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False})
    ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()
    assert not made.list_all_nodes()


def started(node: dict[str, Any]) -> Any:
    """Two nodes. Ray gives each 30 s to answer and cannot be told otherwise: a busy machine takes longer."""
    import ray._private.services as services
    from ray.cluster_utils import Cluster

    ask = services.get_node

    def patient(*arguments: Any) -> Any:
        limit = time.monotonic() + 120
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    made: Any = Cluster()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(services, "get_node", patient)
        made.add_node(**node)
        made.add_node(**node)
    return made


@pytest.fixture(scope="module")
def there(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OnRay, Path]]:
    """Stacked trainers on the cluster, and the file that tells them to die."""
    folder = tmp_path_factory.mktemp("ray")
    asked = scenario(folder, {"trainer": "stacked"}, {"orders": str(folder / "orders")})
    workers = workers_of(asked, folder, cluster.address)
    assert isinstance(workers, OnRay) and workers.slots == 2 and not workers.owned
    yield workers, folder / "orders"
    workers.close()


def here(folder: Path, trainer: str = "stacked") -> tuple[Inline, Request]:
    """One worker in this process for the same scenario, and a request."""
    asked = scenario(folder, {"trainer": trainer})
    inline = workers_of(asked, folder)
    assert isinstance(inline, Inline)
    return inline, request(asked)


def test_ray_gives_the_integers_of_one_worker(there: tuple[OnRay, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    workers, orders = there
    inline, asked = here(orders.parent)
    (total, _), (rings, _) = summed(inline, asked), stacked(inline, asked)
    monkeypatch.setattr(ray_workers, "FAN_IN", 2)  # four blocks are then a tree
    assert len(BLOCKS) == 4
    assert (summed(workers, asked)[0] == total).all()
    assert (stacked(workers, asked)[0] == rings).all()
    assert total.any()


def test_a_run_on_ray_releases_the_model_of_one_worker_with_masks_and_without(
    there: tuple[OnRay, Path], tmp_path: Path
) -> None:
    workers, orders = there
    secure = {"exchange": "secure_sum"}
    alone = released(scenario(orders.parent, {"trainer": "stacked"}, **secure), tmp_path, tmp_path / "alone")
    for masks in ("none", "real"):
        asked = scenario(orders.parent, {"trainer": "stacked", "masks": masks}, **secure)
        assert released(asked, tmp_path, tmp_path / masks, workers) == alone


def test_a_worker_that_is_killed_in_a_round_changes_no_integer(there: tuple[OnRay, Path]) -> None:
    workers, orders = there
    inline, asked = here(orders.parent)
    orders.write_text("once", encoding="utf-8")
    total, _ = summed(workers, asked)
    assert not orders.exists()
    assert (total == summed(inline, asked)[0]).all()


def test_the_loop_trainer_and_who_refuses_are_the_same(cluster: Any, tmp_path: Path) -> None:
    settings = {"bad": 3}
    asked = scenario(tmp_path, {"trainer": "loop"}, settings)
    workers, inline = workers_of(asked, tmp_path, cluster.address), workers_of(asked, tmp_path)
    (total, refused), (expected, same) = summed(workers, request(asked)), summed(inline, request(asked))
    assert (total == expected).all() and refused == same and refused
    assert (stacked(workers, request(asked))[0] == stacked(inline, request(asked))[0]).all()


def test_a_node_that_finds_no_data_says_so(cluster: Any, tmp_path: Path) -> None:
    asked = scenario(tmp_path / "gone", {})
    with pytest.raises(DataError, match=r"gone.*: no such file or folder"):
        OnRay.start(Recipe(asked, tmp_path, REFERENCE), cluster.address)
    many = scenario(tmp_path, {"threads": 2})
    with pytest.raises(ConfigError, match=r"simulation\.threads = 2: no machine of the Ray cluster has so many"):
        workers_of(many, tmp_path, cluster.address)


def test_a_node_that_is_lost_in_a_round_changes_no_integer(cluster: Any, there: tuple[OnRay, Path]) -> None:
    workers, orders = there
    inline, asked = here(orders.parent)
    blocks = BLOCKS * 4
    expected = [made.rings for made in inline.rings(asked, blocks)]
    coming = workers.rings(asked, blocks)
    found = [next(coming).rings]
    (lost,) = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    cluster.remove_node(lost)
    found += [made.rings for made in coming]
    assert (np.concatenate(found) == np.concatenate(expected)).all()
    assert (summed(workers, asked)[0] == summed(inline, asked)[0]).all()


@pytest.mark.slow
def test_blocks_that_are_lost_again_and_again_end_the_run(there: tuple[OnRay, Path]) -> None:
    workers, orders = there
    orders.write_text("always", encoding="utf-8")
    with pytest.raises(
        EnvironmentFault, match=r"^Ray lost the same blocks 4 times \(WorkerCrashedError.*resume the run"
    ) as failed:
        summed(workers, request(scenario(orders.parent, {"trainer": "stacked"})))
    assert "\n" not in str(failed.value)
    orders.unlink()


def test_processes_and_ray_are_not_asked_for_together(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--ray: the cluster has workers of its own; set simulation\.workers = 2 to 1"
    ):
        workers_of(scenario(tmp_path, {"workers": 2}), tmp_path, "auto")


def test_an_address_where_no_cluster_is_fails_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match=rf"^--ray {address}: nothing answers there \(Connection refused\)"):
            ray_workers.join(None, address)
    for address in ("nonsense", "host:", ":1", "host:70000"):
        with pytest.raises(ConfigError, match=rf"^--ray {address}: expected 'auto' or HOST:PORT"):
            ray_workers.join(None, address)


def test_a_node_that_does_not_start_is_told_in_one_line() -> None:
    """Ray raises a bare Exception there."""

    class Overloaded:
        @staticmethod
        def init(*_: Any, **__: Any) -> None:
            raise Exception("The current node timed out during startup.\nmore")

    with pytest.raises(EnvironmentFault, match=r"^--ray auto: no Ray cluster answers: The current node .* startup\.$"):
        ray_workers.join(Overloaded, None)


def test_without_ray_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^--ray: Ray is not installed here; .*fedsus-simulations\[ray\]"):
        workers_of(scenario(tmp_path, {}), tmp_path, "auto")


def test_one_range_of_ray() -> None:
    """For who uses it, for who tests it, and for the peer of the benchmarks that pins it."""

    def extras(path: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = tomllib.loads((ROOT / path).read_text())["project"]["optional-dependencies"]
        return found

    (used,) = map(Requirement, extras("simulations/pyproject.toml")["ray"])
    (tested,) = (r for r in map(Requirement, extras("pyproject.toml")["dev"]) if r.name == "ray")
    assert (used.name, used.specifier) == ("ray", tested.specifier)
    locked = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert [used.specifier.contains(line.removeprefix("ray==")) for line in locked] == [True]
