"""Plays: who says what, and the characters that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from small_data import write_plays

from fedsus.errors import ConfigError, DataError
from fedsus.learning.parameters import check_model
from fedsus.tasks import shakespeare
from fedsus.tasks.registry import build
from fedsus.tasks.shakespeare import ALPHABET, CODES, Shakespeare, ShakespeareSettings
from fedsus.tasks.task import DataSource, Grouped

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TASK = Shakespeare(ShakespeareSettings(width=8, length=10, reach=4))
PLAY = """# A Play

## ACT I

_Enter ANNA and
BEN_

**ANNA**@@
Good morrow,@@
good \\--Ben!

_She sits_

So.

**OLD BEN**
Nay. _Aside_ O *Alarum* 9\u2014\u00e9.

### SCENE II. A hall.

Nobody says this.

**Old Ben.**@@\r
Ay.
""".replace("@", " ")  # two blanks at the end of a line are a line break in Markdown


def _said(pieces: Tensor) -> str:
    return "".join("~" if c == 0 else ALPHABET[c - 1] for c in pieces.reshape(-1).tolist())


def _texts(folder: Path, play: str) -> dict[str, str]:
    (folder / "a-play.md").write_bytes(play.encode())
    return shakespeare._roles(folder)


def test_speeches_are_told_from_names_headings_and_stage_directions(tmp_path: Path) -> None:
    assert _texts(tmp_path, PLAY) == {
        "a-play.anna": "Good morrow,\ngood --Ben!\nSo.",
        "a-play.old-ben": "Nay.  O  9\u2014\u00e9.\nAy.",
    }


def test_line_ends_of_another_system_change_nothing(tmp_path: Path) -> None:
    plain = PLAY.replace("\r", "")
    assert _texts(tmp_path, plain.replace("\n", "\r\n")) == _texts(tmp_path, plain)


def test_each_character_is_predicted_once_and_the_end_is_held_out(tmp_path: Path) -> None:
    text = "".join(f"{i:03d}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(100))
    (tmp_path / "a.md").write_text(f"**Ann**\n{text}\n")
    shard = TASK.load(DataSource(tmp_path, {"least": 1}))
    pieces, successors = shard.train
    assert (pieces.dtype, tuple(pieces.shape), tuple(successors.shape)) == (torch.uint8, (23, 10), (23, 10))
    assert _said(pieces) == text[:230]
    assert _said(successors) == text[1:231]
    assert _said(shard.held_out[0]) == text[240:290]
    assert _said(shard.held_out[1]) == text[241:291]


def test_characters_outside_the_alphabet_are_zero(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("**Ann**\n" + "a9\u2014\u00e9\u0161z\U0001f600" * 20 + "\n", encoding="utf-8")
    pieces = TASK.load(DataSource(tmp_path, {"least": 1})).train[0].reshape(-1)
    letter = {c: i + 1 for i, c in enumerate(ALPHABET)}
    assert pieces[:7].tolist() == [letter["a"], 0, 0, 0, 0, letter["z"], 0]
    assert int(pieces.max()) < CODES


def test_the_clients_are_the_roles_that_say_enough(tmp_path: Path) -> None:
    write_plays(tmp_path)
    assert isinstance(TASK, Grouped)
    groups = TASK.groups(DataSource(tmp_path))
    assert list(groups) == ["first.anna", "first.old-ben", "second.anna", "second.old-ben"]
    one = TASK.load(DataSource(tmp_path, {"role": "second.old-ben"}))
    assert torch.equal(one.train[0], groups["second.old-ben"].train[0])
    assert TASK.load(DataSource(tmp_path)).size == sum(shard.size for shard in groups.values())
    assert list(TASK.groups(DataSource(tmp_path, {"least": 2500}))) == ["first.anna", "second.anna"]
    assert len(TASK.groups(DataSource(tmp_path, {"least": 1}))) == 4  # the third says less than a piece


def test_a_model_sees_nothing_that_follows(tmp_path: Path) -> None:
    pieces = TASK.load(DataSource(write_plays(tmp_path))).train[0][:4]
    changed = pieces.clone()
    changed[:, 6:] = 1
    for network in ("conv", "lstm"):
        model = build(Shakespeare, {"network": network, "width": 8, "length": 10, "reach": 4}).model(0)
        before, after = model(pieces), model(changed)
        assert before.shape == (4, 10, CODES)
        torch.testing.assert_close(before[:, :6], after[:, :6])
        assert not torch.equal(before[:, 6:], after[:, 6:])


def test_a_convolution_reaches_as_far_as_it_says(tmp_path: Path) -> None:
    pieces = TASK.load(DataSource(write_plays(tmp_path))).train[0][:4]
    changed = pieces.clone()
    changed[:, 0] = 0
    change = (TASK.model(0)(pieces) - TASK.model(0)(changed)).abs().sum(dim=(0, 2))
    assert (change > 0).tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize("network", ["conv", "lstm"])
def test_the_text_can_be_learnt(tmp_path: Path, network: str) -> None:
    task = build(Shakespeare, {"network": network, "width": 16, "length": 20})
    shard, model = task.load(DataSource(write_plays(tmp_path, lines=15), {"least": 300})), task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(25):
        optimizer.zero_grad()
        task.loss(model, shard.train).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert task.measure(model, shard.held_out)[:, 1].mean() > 0.5


def test_privacy_of_examples_takes_the_convolution_and_refuses_the_lstm() -> None:
    check_model(TASK.model(0), "shakespeare", private=True)
    with pytest.raises(ConfigError, match="cannot be trained with example privacy: .*LSTM"):
        check_model(build(Shakespeare, {"network": "lstm"}).model(0), "shakespeare", private=True)


def test_names_that_collide_or_are_none_are_one_line(tmp_path: Path) -> None:
    for name in ("a-b", "a b"):
        (tmp_path / f"{name}.md").write_text("**Ann**\nHo.\n")
    with pytest.raises(DataError, match=r"two clients would be named 'a-b\.ann'; rename one"):
        TASK.load(DataSource(tmp_path))
    (tmp_path / "a b.md").write_text(f"**{'X' * 70}**\nHo.\n")
    with pytest.raises(DataError, match=r"'a-b\.x+' cannot name a client; 1 to 64 letters"):
        TASK.load(DataSource(tmp_path))
    (tmp_path / "a b.md").write_text("**../..**\nHo.\n\n**Ann**\nHo.\n")
    (tmp_path / "a-b.md").unlink()
    assert list(shakespeare._roles(tmp_path)) == ["a-b.ann"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfe**A**", "not a text in UTF-8: invalid start byte at byte 0"),
        (b"", r"no line names a speaker as \*\*NAME\*\*; get the plays with: fedsus data get shakespeare"),
        (b"# Title\n\nText.\n", r"no line names a speaker as \*\*NAME\*\*"),
        (b"**A**\nHo.\n", "no role says 1000 characters and a piece of 10 in both parts"),
    ],
)
def test_a_bad_play_is_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a.md").write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        TASK.load(DataSource(tmp_path))
    assert "\n" not in str(caught.value)
    assert [finding.message for finding in TASK.check(DataSource(tmp_path), 1)] == [str(caught.value)]


def test_plays_are_bounded_and_folders_that_hold_none_say_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, message in ((tmp_path / "x", "no such folder"), (tmp_path, r"no play \(\.md\) is there")):
        with pytest.raises(DataError, match=f"{message}; get the plays with: fedsus data get shakespeare"):
            TASK.load(DataSource(folder))
    write_plays(tmp_path)
    monkeypatch.setattr(shakespeare, "MAX_FILE", 100)
    with pytest.raises(DataError, match=r"first\.md: larger than 100 bytes"):
        TASK.load(DataSource(tmp_path))


def test_settings_and_options_are_checked(tmp_path: Path) -> None:
    write_plays(tmp_path)
    with pytest.raises(ConfigError, match="'length' = 4: should be greater than or equal to 5"):
        build(Shakespeare, {"length": 4})
    for options, message in (
        ({"role": "first.ana"}, r"option 'role' = 'first\.ana': not in .*; did you mean 'first\.anna'\?"),
        ({"least": 0}, "option 'least' = 0: must be a whole number from 1 to"),
        ({"holdout": "half"}, "option 'holdout' = 'half': must be a number"),
    ):
        with pytest.raises(DataError, match=message):
            TASK.load(DataSource(tmp_path, options))
