"""Smartwatch recordings: windows by person, and files that are not what they say."""

from __future__ import annotations

import math
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small_data import CHANNELS, pickled, recordings, write_watch

from fedsus.errors import ConfigError, DataError
from fedsus.tasks import pickled as reader
from fedsus.tasks import watch
from fedsus.tasks.pickled import numbers, read_pickled
from fedsus.tasks.registry import build
from fedsus.tasks.task import DataSource, Grouped
from fedsus.tasks.watch import Watch, WatchSettings

if TYPE_CHECKING:
    from pathlib import Path

TASK = Watch(WatchSettings(network="mlp", width=8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_watch(tmp_path)


def test_persons_are_the_clients(folder: Path) -> None:
    assert isinstance(TASK, Grouped)
    groups = TASK.groups(DataSource(folder))
    assert list(groups) == ["person-01", "person-02", "person-03"]
    whole = TASK.load(DataSource(folder))
    assert sum(shard.size for shard in groups.values()) == whole.size
    alone = TASK.load(DataSource(folder / "watch_dataset.npy", {"person": "person-02"}))
    assert torch.equal(alone.train[0], groups["person-02"].train[0])
    assert list(TASK.groups(DataSource(folder, {"person": "person-02"}))) == ["person-02"]


def test_windows_lie_on_one_side_of_the_cut(tmp_path: Path) -> None:
    content = recordings(persons=1, samples=410)
    for wave in content["X"]:
        wave[:, 5] = np.arange(410) / 410  # says when a sample was taken
    shard = TASK.load(DataSource(write_watch(tmp_path, content)))
    when = [part[0][:, 5, :] * math.pi * 410 for part in (shard.train, shard.held_out)]
    assert (len(when[0]), len(when[1])) == (7 * 5, 7 * 1)  # 308 samples: starts at 0, 50, ..., 200; 102 samples: at 308
    assert [round(float(w)) for w in when[0][:5, 0]] == [0, 50, 100, 150, 200]
    assert round(float(when[0].max())) == 299
    assert round(float(when[1].min())) == 308
    torch.testing.assert_close(when[0].diff(dim=1), torch.ones(35, 99), rtol=0, atol=1e-3)


def test_channels_are_scaled_by_public_constants_and_clipped(tmp_path: Path) -> None:
    content = recordings(persons=1)
    for wave in content["X"]:
        wave[:] = [1, -2, 30, math.pi, -math.pi / 2, -99]
    windows = TASK.load(DataSource(write_watch(tmp_path, content))).train[0]
    expected = torch.tensor([1, -2, 4, 1, -0.5, -4]).view(1, 6, 1).expand_as(windows)
    torch.testing.assert_close(windows, expected)


def test_one_persons_windows_do_not_depend_on_the_others(tmp_path: Path) -> None:
    before = TASK.groups(DataSource(write_watch(tmp_path)))["person-01"]
    content = recordings()
    content["X"] = [wave * (1 if k == 1 else 7) for wave, k in zip(content["X"], content["subject"], strict=True)]
    after = TASK.groups(DataSource(write_watch(tmp_path, content)))["person-01"]
    assert torch.equal(before.train[0], after.train[0])


@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_the_exercises_can_be_learnt(folder: Path, network: str) -> None:
    task = build(Watch, {"network": network, "width": 8})
    shard, model = task.load(DataSource(folder)), task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        task.loss(model, shard.train).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert task.measure(model, shard.held_out)[:, 1].mean() > 0.9


def test_settings_and_options_are_checked(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'window' = 50: should be a multiple of 4"):
        build(Watch, {"window": 50})
    for options, message in (
        ({"person": "person-4"}, r"option 'person' = 'person-4': not in .*; did you mean 'person-0\d'\?"),
        ({"holdout": 1}, r"option 'holdout' = 1: must be a number from 0 to 0\.9"),
        ({"persn": 1}, "unknown option 'persn'; known here: holdout, person"),
    ):
        with pytest.raises(DataError, match=message):
            TASK.groups(DataSource(folder, options))
    long = build(Watch, {"window": 400})
    with pytest.raises(DataError, match="person-01 has no training window of 400 samples; lower 'window'"):
        long.load(DataSource(folder))


def _changed(**fields: Any) -> dict[str, Any]:
    return {**recordings(), **fields}


CODES = recordings()["y"]
WAVES = recordings()["X"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": [1]}, "no entry 'X' inside"),
        (_changed(X_labels=CHANNELS[::-1]), "its channels are not ax, ay, az, wx, wy, wz"),
        (_changed(X="abc"), "'X' is no list of recordings"),
        (_changed(X=[wave[:, :5] for wave in WAVES]), "a recording has not 6 channels"),
        (_changed(X=[wave[:, 0] for wave in WAVES]), "not an array of 2 dimensions"),
        (_changed(X=[wave.astype(np.float32) for wave in WAVES]), "not little-endian float64 or int64"),
        (_changed(X=[wave.astype(">f8") for wave in WAVES]), "not little-endian float64 or int64"),
        (_changed(X=[np.full((400, 6), np.nan) for _ in WAVES]), "a value is not finite"),
        (_changed(X=[[1.0] * 6]), "FLOAT|not an array"),
        (_changed(X=WAVES[1:]), "20 recordings, 21 exercises, 21 persons"),
        (_changed(y=CODES + 1), "'y' are not whole numbers from 0 to 6"),
        (_changed(y=CODES - 0.5), "'y' are not whole numbers from 0 to 6"),
        (_changed(y=CODES.astype(object)), "not little-endian float64 or int64"),
        (_changed(subject=-CODES - 1), "'subject' are not whole numbers from 0 to 99"),
        (_changed(y=np.zeros_like(CODES)), "rows have the label 0; two classes are needed"),
        ([1, 2], "the object is no dictionary"),
        ({1: 2}, "the object is no dictionary"),
    ],
)
def test_wrong_content_is_one_line(tmp_path: Path, content: Any, message: str) -> None:
    write_watch(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        TASK.load(DataSource(tmp_path))
    assert "\n" not in str(caught.value)
    assert [f.message for f in TASK.check(DataSource(tmp_path), 1) if f.severity == "refuse"] == [str(caught.value)]


class _Calls:
    """A pickle of it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def test_a_file_cannot_have_a_function_called(tmp_path: Path) -> None:
    written = tmp_path / "written"
    (tmp_path / "watch_dataset.npy").write_bytes(pickled(_changed(side=_Calls(open, str(written), "w"))))
    with pytest.raises(DataError, match=r"it names (io|_io|builtins|__builtin__)\.open, which is no data"):
        TASK.load(DataSource(tmp_path))
    assert not written.exists()


@pytest.mark.parametrize("function", [np.load, np.frombuffer, getattr, pickle.loads])
def test_no_function_but_those_of_arrays_is_known(tmp_path: Path, function: object) -> None:
    (tmp_path / "watch_dataset.npy").write_bytes(pickled({"X": _Calls(function, "x")}))
    with pytest.raises(DataError, match="which is no data"):
        read_pickled(tmp_path / "watch_dataset.npy")


HEADER = pickled({})[:128]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02(cposix\nsystem\nX\x01\x00\x00\x00xo.", "the opcode OBJ is not needed for data"),
        (b"\x80\x02(X\x01\x00\x00\x00xiposix\nsystem\n.", "the opcode INST is not needed for data"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "the opcode NEWOBJ is not needed for data"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1 is not needed for data"),
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "the opcode BINPERSID is not needed for data"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "the opcode SHORT_BINUNICODE is not needed for data"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "too many memos"),
        (b"\x80\x02cposix\nsystem\n.", r"it names posix\.system, which is no data"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "not a pickled .npy file of plain data"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "not a pickled .npy file of plain data"),
        (b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00xK\x01sb.", "not a pickled .npy file of plain data"),
        (b"\x80\x02c_codecs\nencode\nN}X\x01\x00\x00\x00xK\x01s\x86b.", "not a pickled .npy file of plain data"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00utf-7\x86R.", "an encoding other than latin1"),
        (b"\x80\x02(((((.", "not a pickled .npy file of plain data"),
        (b"\x80\x02}.trailing", "the object is no dictionary"),
        (b"\x80\x02}", "not a pickled .npy file of plain data"),
        (b"", "not a pickled .npy file of plain data"),
    ],
)
def test_programs_that_are_no_data_are_refused_by_name(tmp_path: Path, program: bytes, message: str) -> None:
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(HEADER + program)
    with pytest.raises(DataError, match=message) as caught:
        read_pickled(path)
    assert "\n" not in str(caught.value)


def test_the_header_is_where_the_programs_of_these_tests_begin() -> None:
    assert pickletools.optimize(pickled({})[128:]).startswith(b"\x80\x02")


@pytest.mark.parametrize("cut", [0, 5, 60, 128, 200, 3000, -1])
def test_a_truncated_file_is_one_line(folder: Path, cut: int) -> None:
    path = folder / "watch_dataset.npy"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"watch_dataset\.npy: not a pickled \.npy file of plain data: ") as caught:
        TASK.load(DataSource(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros(3), np.array([{}, {}], dtype=object)])
def test_another_kind_of_npy_file_is_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "watch_dataset.npy", array)
    with pytest.raises(DataError, match="it does not hold one object"):
        TASK.load(DataSource(tmp_path))


def test_a_file_is_bounded_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="larger than 100 bytes"):
        TASK.load(DataSource(folder))


def test_one_array_many_times_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = recordings(persons=1)
    monkeypatch.setattr(watch, "MAX_BYTES", 3 * content["X"][0].nbytes)
    with pytest.raises(DataError, match="the recordings are larger than 57600 bytes"):
        TASK.load(DataSource(write_watch(tmp_path, {**content, "X": content["X"][:1] * 7})))


def test_an_array_has_the_bytes_of_its_shape(tmp_path: Path) -> None:
    raw = pickled({"a": np.arange(6.0).reshape(2, 3)})
    path = tmp_path / "x.npy"
    path.write_bytes(raw)
    assert numbers(read_pickled(path)["a"], 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(raw.replace(b"K\x02K\x03\x86", b"K\x02K\xff\x86"))
    with pytest.raises(ValueError, match="more or fewer bytes than its shape says"):
        numbers(read_pickled(path)["a"], 2)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"watch_dataset\.npy: no such file; get it with: fedsus data get watch"):
        TASK.load(DataSource(tmp_path))
