"""Two pictures: what came back of one client's images, and the ROC curves of membership."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from matplotlib.axes import Axes

    from fedsus_simulations.demo.attacks.images import Images
    from fedsus_simulations.demo.attacks.membership import Scores
    from fedsus_simulations.demo.attacks.study import Gallery

IMAGES, CURVES = "attack-images", "attack-members"
# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS: Final = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999")
_EDGE: Final = 2


def draw(gallery: Gallery, scores: dict[str, Scores], folder: Path) -> list[Path]:
    """Write attack-images.png and attack-members.png into ``folder``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.6), layout="constrained", sharey=True)
    for number, title in enumerate(("first layer inverted, model as it is", "the same, model chosen by the server")):
        _mosaic(axes[number], gallery, number)
        axes[number].set_title(title, fontsize=10)
    paths = [folder / f"{IMAGES}.png", folder / f"{CURVES}.png"]
    figure.savefig(paths[0], dpi=80)
    pyplot.close(figure)
    figure, single = pyplot.subplots(figsize=(8.5, 4.6), layout="constrained")
    _curves(single, scores)
    figure.legend(*single.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(paths[1], dpi=90)
    pyplot.close(figure)
    _shrink(paths[0], "L", 32)
    _shrink(paths[1], "RGB", 128)
    return paths


def _shrink(path: Path, mode: Literal["L", "RGB"], colours: int) -> None:
    """Few colours, which are enough here, take a third of the space."""
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert(mode).quantize(colours)
    few.save(path, optimize=True)


def _mosaic(axes: Axes, gallery: Gallery, number: int) -> None:
    rows = {"the client's images": gallery.originals, **{name: pair[number] for name, pair in gallery.rows.items()}}
    tiled = np.concatenate([_strip(images) for images in rows.values()])
    axes.imshow(tiled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    height = tiled.shape[0] / len(rows)
    axes.set_yticks([height * (i + 0.5) for i in range(len(rows))], list(rows), fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _strip(images: Images) -> Images:
    """Images side by side, with a white edge."""
    strip: Images = np.hstack([np.pad(image, _EDGE, constant_values=1.0) for image in images])
    return strip


def _curves(axes: Axes, scores: dict[str, Scores]) -> None:
    """Members found against false alarms, both logarithmic: what counts is on the left (Carlini et al. 2022)."""
    for (name, one), colour in zip(scores.items(), _COLOURS, strict=False):
        outside, inside = np.sort(one.outside.ravel())[::-1], np.sort(one.inside.ravel())
        alarms = np.arange(1, len(outside) + 1) / len(outside)
        found = 1 - np.searchsorted(inside, outside, side="left") / len(inside)
        style = "--" if "epsilon" in name else "-"
        axes.plot(alarms, found, color=colour, linestyle=style, label=name, drawstyle="steps-post", linewidth=1.5)
    axes.plot([1e-3, 1], [1e-3, 1], color="#bbbbbb", linewidth=1, label="chance")
    axes.set(xscale="log", yscale="log", xlim=(2e-3, 1), ylim=(2e-3, 1.1))
    axes.set_xlabel("others taken for members")
    axes.set_ylabel("members found")
