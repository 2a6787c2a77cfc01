"""The simulators' benchmarks: the work that all sides do, and what counts as done."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulated_sides import CLIENTS, SAMPLES, begun, work

from fedsus.errors import DataError, RunFailed
from fedsus.tasks import registry as tasks
from fedsus.tasks.fashion import FashionMnist, FashionMnistSettings
from fedsus.tasks.task import DataSource
from fedsus_simulations.benchmarks import (
    models,
    peer_loop,
    peer_work,
    simulate_data,
    simulate_images,
    simulate_ours,
    simulate_peers,
    tables,
)
from fedsus_simulations.benchmarks.peer_work import network
from fedsus_simulations.benchmarks.result import complete
from fedsus_simulations.benchmarks.simulate_flops import operations
from fedsus_simulations.benchmarks.simulate_ours import ENCODING, REST, TRAINING, Asked, Run
from fedsus_simulations.benchmarks.simulate_peers import Places, Spent

PARAMETERS = {"mlp": 50_890, "cnn": 26_010, "trivial": 1_000}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small IDX files."""
    return simulate_data.generated(tmp_path_factory.mktemp("data") / "images", (CLIENTS * SAMPLES + 7, 50))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_have_the_promised_size(name: str) -> None:
    assert sum(p.numel() for p in network(name).parameters()) == PARAMETERS[name]


def test_operations_of_the_perceptron_by_hand() -> None:
    products = 784 * 64 + 64 * 10
    assert operations(network("mlp"), (1, 28, 28)) == 2 * products + 2 * products + 2 * 64 * 10 == 204_544


def test_operations_of_the_convolutions_by_hand() -> None:
    # 28 -> 14 by 16 kernels of 8 x 8, pooled to 13; -> 5 by 32 of 16 x 4 x 4, pooled to 4; 512 -> 32 -> 10.
    first, others = 16 * 14 * 14 * 8 * 8, 32 * 5 * 5 * 16 * 4 * 4 + 512 * 32 + 32 * 10
    assert operations(network("cnn"), (1, 28, 28)) == 4 * first + 6 * others == 2_131_840


def test_steps_count_the_last_small_batch() -> None:
    assert work(Path()).steps == 6 * 4
    assert dataclasses.replace(work(Path()), batch=6).steps == 6 * 4
    assert dataclasses.replace(work(Path()), batch=7).steps == 6 * 3


def test_the_tasks_of_ours_are_the_peers_networks() -> None:
    images = tasks.build(tasks.resolve(models.IMAGES), {"network": "cnn"})
    assert sum(p.numel() for p in images.model(3).parameters()) == PARAMETERS["cnn"]
    assert torch.equal(next(images.model(3).parameters()), next(images.model(3).parameters()))
    trivial = tasks.build(tasks.resolve(models.TRIVIAL), {"rows": 5})
    shard = trivial.load(DataSource(Path()))
    assert shard.size == 5
    assert torch.equal(shard.train[0], peer_work.trivial(5)[0])
    model = trivial.model(1)
    losses = trivial.loss(model, shard.train)
    assert float(losses.mean().detach()) == pytest.approx(float(peer_work.loss(model, *shard.train).detach()))
    assert trivial.measure(model, shard.train).shape == (5, 1)


def test_images_are_divided_alike_for_all_and_none_twice(files: Path, tmp_path: Path) -> None:
    simulate_data.hand_over_images(files, tmp_path, CLIENTS, SAMPLES)
    inputs, targets = peer_work.load(str(tmp_path))
    assert inputs.shape == (CLIENTS, SAMPLES, 1, 28, 28)
    assert inputs.dtype == torch.float32
    assert 0 <= float(inputs.min()) < float(inputs.max()) <= 1
    assert targets.shape == (CLIENTS, SAMPLES)
    whole = FashionMnist(FashionMnistSettings()).load(DataSource(files))
    pixels = {image.tobytes() for image in whole.train[0].numpy()}
    handed = [image.tobytes() for image in np.load(tmp_path / "inputs.npy").reshape(-1, 28, 28)]
    assert len(set(handed)) == len(handed) == CLIENTS * SAMPLES
    assert set(handed) <= pixels


@pytest.mark.parametrize("packed", [False, True])
def test_a_peer_reads_the_files_as_the_task_does(files: Path, tmp_path: Path, packed: bool) -> None:
    for file in files.iterdir():
        name = tmp_path / (f"{file.name}.gz" if packed else file.name)
        name.write_bytes(gzip.compress(file.read_bytes()) if packed else file.read_bytes())
    inputs, targets = peer_work.read_files(str(tmp_path))
    whole = FashionMnist(FashionMnistSettings()).load(DataSource(files))
    assert torch.equal(inputs[:, 0], whole.train[0].float() / 255)
    assert torch.equal(targets, whole.train[1])


def test_data_are_the_named_ones_or_the_default_or_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate_data, "ROWS", (30, 20))
    made, real = simulate_data.images(None, tmp_path / "made")
    assert not real
    assert len(FashionMnist(FashionMnistSettings()).load(DataSource(made)).train[0]) == 30
    Path("data/fashion-mnist").mkdir(parents=True)
    assert simulate_data.images(None, tmp_path / "more") == (tmp_path / "data/fashion-mnist", True)
    assert simulate_data.images(tmp_path, tmp_path / "more") == (tmp_path, True)


def test_a_named_folder_without_images_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fedsus data get fashion-mnist"):
        simulate_data.hand_over_images(tmp_path / "none", tmp_path, CLIENTS, SAMPLES)


def test_adapters_need_no_fedsus() -> None:
    allowed = {"torch", "numpy", "pfl", "flwr", *sys.stdlib_module_names}
    for name in simulate_peers._MODULES:
        tree = ast.parse(Path(simulate_peers.__file__).with_name(name).read_text())
        for node in ast.walk(tree):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in found:
                own = f"{simulate_peers.__package__}.peer_work"
                assert module == own or module.partition(".")[0] in allowed, f"{name} imports {module}"


# What a side says


LINE = {"seconds": [0.5, 0.2, 0.3], "parameters": 50_890, "steps": 72, "score": [2.0, 0.4], "versions": {"torch": "2"}}


def test_rounds_are_read_among_what_libraries_print(tmp_path: Path) -> None:
    output = f'a warning\n{json.dumps(LINE | {"seconds": [9.0, 9.0, 9.0]})}\n{{"other": 1}}\n{json.dumps(LINE)}\nbye'
    found = simulate_peers.parse("it", output, work(tmp_path), 50_890, Spent)
    assert found.seconds == [0.5, 0.2, 0.3]
    assert found.score == (2.0, 0.4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seconds": [0.5, 0.2]}, "made 2 rounds"),
        ({"steps": 71}, "of 71 steps in all"),
        ({"parameters": 50_889}, "with 50889 parameters; 3, 72 and 50890 were asked"),
        ({"seconds": [0.5, 0.2, -0.1]}, "seconds.2"),
        ({"seconds": [0.5, 0.2, math.nan]}, "seconds.2"),
        ({"more": 1}, "more: Extra"),
    ],
)
def test_other_work_than_was_asked_is_no_measurement(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RunFailed, match=f"^benchmark: it.*{complaint}"):
        simulate_peers.parse("it", json.dumps(LINE | change), work(tmp_path), 50_890, Spent)


def test_a_silent_side_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"it printed no rounds: Segmentation fault"):
        simulate_peers.parse("it", "Segmentation fault\n", work(tmp_path), 1, Spent)


def test_the_bare_loop_trains_and_its_line_is_read(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_data.hand_over_images(files, tmp_path, CLIENTS, SAMPLES)
    begun(tmp_path)
    asked = work(tmp_path)
    before = peer_work.score(peer_work.begin(asked), str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["peer_loop", json.dumps(dataclasses.asdict(asked))])
    monkeypatch.setattr(peer_loop, "peak", lambda: 1e9)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        peer_loop.main()
    found = simulate_peers.parse("loop", capsys.readouterr().out, asked, 50_890, Spent)
    assert found.peak == 1e9
    assert before is not None
    assert found.score is not None
    assert found.score[0] < before[0] - 0.1


def test_a_process_of_another_environment_gets_the_adapters_alone(tmp_path: Path) -> None:
    code = simulate_peers.hand_over(tmp_path / "code")
    assert {path.name for path in code.rglob("*.py")} == {*simulate_peers._MODULES}
    what = "import fedsus_simulations.benchmarks.peer_work as w; print(w.network('mlp')[1].out_features, w.__file__)"
    output = simulate_peers.run("it", [sys.executable, "-c", what], tmp_path, {"PYTHONPATH": str(code)})
    assert output.split() == ["64", str(code / "fedsus_simulations/benchmarks/peer_work.py")]


def test_peak_is_a_rate() -> None:
    assert 1e8 < peer_work.peak() < 1e14


# Ours


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_ours_does_the_work_that_is_asked(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    simulate_data.hand_over_images(files, tmp_path, CLIENTS, SAMPLES)
    asked = work(tmp_path, model)
    task = {"name": "images", "settings": {"network": model}}
    # 247 images: 12 clients have 20 or 21, as many steps but for those with one more.
    scenario = simulate_ours.scenario(dataclasses.replace(asked, batch=1), CLIENTS, task, files, threads=1)
    simulate_ours.main(Asked(scenario=scenario, reference=models.IMAGES, root=tmp_path, parts=True, started=1.0))
    line = capsys.readouterr().out.strip().splitlines()[-1]
    run = Run.model_validate_json(line)
    assert run.parameters == PARAMETERS[model]
    assert 3 * 6 * SAMPLES <= run.steps <= 3 * 6 * (SAMPLES + 1)
    assert set(run.parts) == {TRAINING, ENCODING, REST}
    assert sum(run.parts.values()) == pytest.approx(sum(run.seconds[1:]))
    assert min(run.parts[TRAINING], run.parts[ENCODING]) > 0
    assert run.start > 0
    assert run.memory > 10**7
    initial = peer_work.score(peer_work.begin(asked), str(tmp_path))
    assert initial is not None
    assert run.score is not None
    assert run.score[0] < initial[0]


def test_ours_trains_the_trivial_model_with_more_registered_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = dataclasses.replace(work(tmp_path, "trivial"), samples=1, batch=1)
    task = {"name": "trivial", "settings": {"rows": 40}}
    scenario = simulate_ours.scenario(asked, 40, task, tmp_path, threads=1)
    simulate_ours.main(Asked(scenario=scenario, reference=models.TRIVIAL, root=tmp_path))
    found = simulate_peers.parse("ours", capsys.readouterr().out, asked, 1_000, Run)
    assert found.score is None
    assert found.parts == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["peer_pfl", "peer_flower"])
def test_the_peers_do_the_same_work(files: Path, tmp_path: Path, name: str) -> None:
    environment = Path(sys.prefix) if name == "peer_flower" else simulate_peers.cache()
    needed = {"flwr", "ray", "torch"} if name == "peer_flower" else {"pfl", "torch"}
    if not needed <= simulate_peers.installed(environment).keys():
        pytest.skip(f"{' and '.join(sorted(needed))} are not in {environment}")
    simulate_data.hand_over_images(files, tmp_path, CLIENTS, SAMPLES)
    begun(tmp_path)
    asked = work(tmp_path, rounds=2)
    python = simulate_peers.python_of(environment)
    with tempfile.TemporaryDirectory(prefix="fs-") as short:  # Ray's sockets need a short path
        found = simulate_peers.rounds(name, python, name, tmp_path, asked, 50_890, str(Path(short) / "r"))
    assert found.score is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_comparison_with_all_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(environment: Path) -> Path:
        pytest.skip(f"{environment}: not there, and no environment is built in tests")

    monkeypatch.setattr(simulate_peers, "build", refuse)
    sizes = {"CLIENTS": CLIENTS, "COHORT": 6, "SAMPLES": SAMPLES, "BATCH": 5, "THREADS": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(simulate_images, name, value)
    files = simulate_data.generated(tmp_path / "images", (CLIENTS * SAMPLES, 50))
    case = simulate_images.Case(network="mlp", rounds=2, most=10.0, times=0.001, masked=6)
    result = complete("simulate-mlp", False, simulate_images.measure(case, False, Places(data=files)))
    assert result.reached
    assert {"bare loop", "arithmetic limit"} < result.figures.keys()
    assert [len(table.rows) >= 2 for table in result.tables] == [True, True, True]
    assert "| bare loop |" in tables.markdown(result)
