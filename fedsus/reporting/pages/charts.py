"""Pictures as inline SVG, by matplotlib. Colours are the page's own variables, so that light and dark both work.

The palette is Okabe and Ito's (2008), which people with any colour vision tell apart; lines differ in style too.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final, cast

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY, PINK = "#0072b2", "#d55e00", "#009e73", "#767676", "#cc79a7"
INK, _RULE = "#1a1b1c", "#d3d4d5"
_VARIABLES: Final = {
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    GREY: "--grey",
    PINK: "--pink",
    INK: "--ink",
    _RULE: "--rule",
}
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedsus",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": _RULE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
}
_WIDTH: Final = 4.7
"""Inches: as wide as a phone is, so that letters are not shrunk there."""
_HEAD: Final = re.compile(r"<\?xml.*?(?=<svg)", re.DOTALL)
_LEFT_OUT: Final = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>")
_SIZES: Final = re.compile(r' (width|height|version|xmlns|xmlns:xlink)="[^"]*"')
_NAMED: Final = re.compile(r'(\bid="|url\(#|href="#)')
_FONT: Final = re.compile(r"font-family: [^;\"]*; ?")
_SPACE: Final = re.compile(r"\s+")


def check() -> None:
    """Refuse what cannot be drawn, before anything is computed.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise EnvironmentFault(
            "report.html needs matplotlib, which the extra fedsus[plots] brings; --markdown and --card do without"
        ) from None


def drawn(name: str, plot: Callable[[Axes], None], height: float = 2.7) -> str:
    """One pair of axes as an SVG element, whose identifiers begin with ``name``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(cast("Any", _STYLE)):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
        axis = figure.add_subplot(facecolor="none")
        axis.grid(visible=True)
        plot(axis)
        text = io.StringIO()
        # Not by savefig(), which draws everything twice.
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata=dict.fromkeys(("Date", "Creator", "Type", "Format")))
    return _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Without a head, a size of its own, or names that another picture of the page has; in the page's own colours."""
    head, _, rest = _HEAD.sub("", svg).partition(">")
    head = _SIZES.sub("", head) + ' aria-hidden="true" focusable="false">'
    return head + _TAG.sub(lambda tag: _tag(tag.group(), name), _LEFT_OUT.sub("", rest).strip())


def _tag(tag: str, name: str) -> str:
    """One tag; what stands between tags is text that others wrote, and stays."""
    tag = _NAMED.sub(lambda found: f"{found.group(1)}{name}-", _SPACE.sub(" ", tag)).replace("xlink:href", "href")
    tag = _FONT.sub("", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag


def scalar(axis: Axes, unit: str) -> None:
    """Plain numbers on an axis from 0 up, with its unit."""
    axis.set_ylim(bottom=0)
    axis.set_ylabel(unit)


def rounds(axis: Axes, last: int, label: str = "round") -> None:
    """A horizontal axis of whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlim(*((0.5, 1.5) if last <= 1 else (1 - 0.02 * last, 1.02 * last)))


def line(axis: Axes, x: Sequence[float], y: Sequence[float], colour: str, style: str = "-", label: str = "") -> None:
    """A line; with dots where there are few points."""
    axis.plot(x, y, style, color=colour, marker="o" if len(x) <= 30 else "", markersize=3.5, label=label)


def bars(
    axis: Axes,
    names: Sequence[str],
    groups: Sequence[tuple[str, str, Sequence[float | None]]],
    unit: str,
    ranges: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """Lying bars, a group (label, colour, values) beside the other; ``ranges`` as (low, high) of each."""
    from fedsus.reporting.pages.words import digits

    thick = 0.8 / len(groups)
    most = max((one or 0.0 for _, _, values in groups for one in values), default=0.0)
    tops = [high for group in ranges for _, high in group]
    reach = max([most, *tops]) or 1.0
    for at, (label, colour, values) in enumerate(groups):
        places = [row + (at - (len(groups) - 1) / 2) * thick for row in range(len(names))]
        axis.barh(places, [one or 0.0 for one in values], thick * 0.9, color=colour, label=label)
        for row, (place, one) in enumerate(zip(places, values, strict=True)):
            end = one or 0.0
            if ranges and one is not None:
                low, high = ranges[at][row]
                axis.plot([low, high], [place, place], color=INK, linewidth=1.0)
                end = max(end, high)
            if one is not None:
                axis.text(end + 0.015 * reach, place, digits(one), va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.2 * reach)
    axis.set_xlabel(unit)
    axis.grid(visible=False, axis="y")
    if len(groups) > 1:
        legend(axis, len(groups))


def legend(axis: Axes, columns: int = 3) -> None:
    """Above the axes, where it covers nothing."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.6)
