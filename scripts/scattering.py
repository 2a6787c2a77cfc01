"""Scattering features of Fashion-MNIST, for ``fedsus bench utility-fashion``.

    python scripts/scattering.py IMAGES FOLDER

kymatio 0.3.0 needs scipy below 1.17, and fedsus is locked to a later one, so this runs in an environment of its own:

    python3.11 -m venv scattering
    scattering/bin/pip install kymatio==0.3.0 'scipy<1.17' torch numpy packaging
    scattering/bin/python scripts/scattering.py data/fashion-mnist data/fashion-scattering

The transform of two scales and eight angles turns an image into 81 x 7 x 7 coefficients, which are normalised over 27
groups of channels (Tramèr and Boneh 2021, "Differentially private learning needs better features"). Both look at one
image alone, so that an example is protected as before. Written: (n, 3969) float16 and labels (n,) int64 of each part.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from kymatio.torch import Scattering2D

SIDE, GROUPS, AT_ONCE = 28, 27, 500


def main(images: Path, folder: Path) -> None:
    scattering = Scattering2D(J=2, shape=(SIDE, SIDE), L=8)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        pixels = torch.from_numpy(idx(images / f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, SIDE, SIDE).copy())
        labels = idx(images / f"{part}-labels-idx1-ubyte", 8).astype(np.int64)
        found = [
            torch.nn.functional.group_norm(scattering(some.float() / 255)[:, 0], GROUPS).flatten(1).half().numpy()
            for some in pixels.split(AT_ONCE)
        ]
        np.save(folder / f"{part}-features.npy", np.concatenate(found))
        np.save(folder / f"{part}-labels.npy", labels)
        print(f"{part}: {len(labels)} images", flush=True)


def idx(path: Path, header: int) -> np.ndarray:
    """What follows the header of an IDX file of bytes, gzipped or not."""
    packed = path.with_name(f"{path.name}.gz")
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=header)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
