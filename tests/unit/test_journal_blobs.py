"""Checkpoints: named by their content, checked when read, pruned with care; a full disk is one clear line."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from fedsus.errors import CorruptionError, EnvironmentFault
from fedsus.journal import NAME, AttemptOpened, Disk, Journal, RoundReleased, RunClosed, RunOpened, get, prune, put

A = "a" * 64


def opened(checkpoint=A):
    return RunOpened(run="r", config={}, model_hash=A, checkpoint=checkpoint, fedsus_version="0")


def released(round, checkpoint):
    return RoundReleased(
        round=round,
        attempt=round,
        survivors=2,
        refused=0,
        lost=0,
        weight=2.0,
        metrics=None,
        held_out=0,
        saturated=None,
        checkpoint=checkpoint,
        bytes_sent=1,
        bytes_received=1,
        seconds=0.1,
    )


def clock():
    return 1.0


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return {
        "model": random.normal(size=1000).astype(np.float32),
        "second": random.normal(size=(2, 1000)).astype(np.float32)[:, ::2],  # not contiguous
        "steps": np.array(3, dtype=np.int64),
    }


def files(folder):
    return sorted(path.name for path in (folder / "blobs").iterdir())


def test_arrays_come_back_under_the_hash_of_their_file(tmp_path):
    name = put(tmp_path, arrays())
    assert files(tmp_path) == [f"{name}.safetensors"]
    assert hashlib.sha256((tmp_path / "blobs" / files(tmp_path)[0]).read_bytes()).hexdigest() == name
    back = get(tmp_path, name)
    for key, array in arrays().items():
        assert back[key].dtype == array.dtype
        assert np.array_equal(back[key], array)


def test_equal_arrays_have_one_name_and_others_another(tmp_path):
    first = put(tmp_path, arrays())
    assert put(tmp_path, dict(reversed(arrays().items()))) == first
    assert put(tmp_path, arrays(1)) != first
    assert len(files(tmp_path)) == 2


def test_a_changed_missing_or_misnamed_checkpoint_is_refused(tmp_path):
    name = put(tmp_path, arrays())
    path = tmp_path / "blobs" / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=f"{name}.*does not match its name"):
        get(tmp_path, name)
    assert path.read_bytes() == data
    path.unlink()
    with pytest.raises(CorruptionError, match="no such file"):
        get(tmp_path, name)
    for bad in ("../../etc/passwd", "", "A" * 64, name + "\n"):
        with pytest.raises(CorruptionError, match="no hash"):
            get(tmp_path, bad)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "blobs").mkdir()
    name = hashlib.sha256(b"pickle").hexdigest()
    (tmp_path / "blobs" / f"{name}.safetensors").write_bytes(b"pickle")
    with pytest.raises(CorruptionError, match="cannot be read"):
        get(tmp_path, name)


def test_pruning_keeps_the_last_three_that_the_journal_names(tmp_path):
    names = [put(tmp_path, arrays(seed)) for seed in range(6)]
    (tmp_path / "blobs" / ".1.tmp").write_bytes(b"half")
    (tmp_path / "blobs" / "notes.txt").write_bytes(b"the operator's")
    entries = [opened(checkpoint=names[0])] + [released(n, checkpoint=names[n]) for n in range(1, 6)]
    assert prune(tmp_path, entries[:3]) == sorted(names[3:])
    for seed in range(3, 6):
        put(tmp_path, arrays(seed))
    assert prune(tmp_path, entries) == sorted(names[:3])
    assert files(tmp_path) == sorted(["notes.txt"] + [f"{name}.safetensors" for name in names[3:]])


def test_pruning_never_removes_the_model_of_a_closed_run_nor_the_last_checkpoint(tmp_path):
    names = [put(tmp_path, arrays(seed)) for seed in range(3)]
    entries = [opened(checkpoint=names[0]), released(1, checkpoint=names[1]), released(2, checkpoint=names[2])]
    prune(tmp_path, [*entries, RunClosed(reason="stopped", model=names[1])], keep=1)
    assert files(tmp_path) == [f"{names[1]}.safetensors"]
    back = [opened(checkpoint=names[1]), released(1, checkpoint=names[2]), released(2, checkpoint=names[1])]
    prune(tmp_path, back, keep=0)
    assert files(tmp_path) == [f"{names[1]}.safetensors"]


class Recorder(Disk):
    """Notes each operation; a folder's fsync is told from a file's."""

    def __init__(self):
        self.done = []

    def write(self, file, data):
        self.done.append("write")
        super().write(file, data)

    def sync(self, file):
        self.done.append("sync folder" if Path(f"/proc/self/fd/{file}").is_dir() else "sync")
        super().sync(file)

    def save(self, path, arrays):
        self.done.append("save")
        super().save(path, arrays)

    def rename(self, old, new):
        self.done.append("rename")
        super().rename(old, new)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_everything_is_on_the_disk_before_it_is_relied_on(tmp_path):
    disk = Recorder()
    put(tmp_path, arrays(), disk)
    assert disk.done == ["sync folder", "save", "sync", "rename", "sync folder"]
    disk.done.clear()
    with Journal.create(tmp_path / "run", clock, disk) as journal:
        assert disk.done == ["sync folder", "sync folder"]
        for entry in (opened(), AttemptOpened(round=1, attempt=1, plan_digest=A, cohort=2)):
            disk.done.clear()
            journal.append(entry)
            assert disk.done == ["write", "sync"]


class FullDisk(Disk):
    """Takes half of what is written, then has no space left, as ``number``."""

    def __init__(self, number=errno.ENOSPC):
        self.number = number
        self.full = True

    def write(self, file, data):
        if self.full:
            os.write(file, data[: len(data) // 2])
            raise OSError(self.number, os.strerror(self.number))
        super().write(file, data)

    def save(self, path, arrays):
        path.write_bytes(b"half")
        raise SafetensorError(f"I/O error: {os.strerror(self.number)} (os error {self.number})")


def test_a_full_disk_is_one_line_and_the_journal_stays_whole(tmp_path):
    disk = FullDisk()
    disk.full = False
    with Journal.create(tmp_path, clock, disk) as journal:
        journal.append(opened())
        before = (tmp_path / NAME).read_bytes()
        disk.full = True
        with pytest.raises(EnvironmentFault, match="the disk is full; free some space") as caught:
            journal.append(AttemptOpened(round=1, attempt=1, plan_digest=A, cohort=2))
        assert "\n" not in str(caught.value)
        with pytest.raises(EnvironmentFault, match="closed"):
            journal.append(AttemptOpened(round=1, attempt=1, plan_digest=A, cohort=2))
    assert (tmp_path / NAME).read_bytes() == before
    with Journal.open(tmp_path, clock) as journal:
        assert journal.dropped == 0
        journal.append(AttemptOpened(round=1, attempt=1, plan_digest=A, cohort=2))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_half_checkpoint(tmp_path, number):
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        put(tmp_path, arrays(), FullDisk(number))
    assert files(tmp_path) == []


def test_other_faults_say_what_they_are(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"cannot be written: .*Read-only"):
        put(tmp_path, arrays(), FullDisk(errno.EROFS))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Journal.create(tmp_path / "file" / "run", clock)
