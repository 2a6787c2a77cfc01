"""Run what docs/simulation-data.md shows of accuracy, and write its table and pictures: `python scripts/accuracy.py`.

Needs Fashion-MNIST in ``data/fashion-mnist`` (or FEDSUS_DATA). Curves are kept in docs/results/accuracy.json, run by
run, so that it can be stopped and started again; remove the file to run everything anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import numpy as np  # noqa: E402
from accuracy_pairs import Verdict  # noqa: E402
from fashion_curves import MORE, SERIES  # noqa: E402
from scipy import stats  # noqa: E402

Curves = dict[str, dict[str, list[float]]]
KEPT = ROOT / "docs" / "results" / "accuracy.json"
PAGE = ROOT / "docs" / "simulation-data.md"
IMAGES = ROOT / "docs" / "images"
LAST = 5
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def main() -> None:
    data = Path(os.environ.get("FEDSUS_DATA", "data"))
    if not (data / "fashion-mnist").is_dir():
        sys.exit(f"{data}/fashion-mnist: no such folder; get it with: fedsus data get fashion-mnist")
    wanted = sys.argv[1:] or list(SERIES)
    for seed in MORE:
        for name in wanted:
            if seed not in SERIES[name].seeds or str(seed) in kept().get(name, {}):
                continue
            with tempfile.TemporaryDirectory() as folder:
                curve = SERIES[name].curve(seed, data, Path(folder) / "run")
            keep(name, seed, curve)
            print(f"{name}, seed {seed}: {curve[-1]:.3f}", flush=True)
    curves = kept()
    if all(len(curves.get(name, {})) == len(series.seeds) for name, series in SERIES.items()):
        write(curves)


def kept() -> Curves:
    """Series -> seed -> accuracy after each round."""
    return dict(json.loads(KEPT.read_text(encoding="utf-8"))) if KEPT.exists() else {}


def keep(name: str, seed: int, curve: list[float]) -> None:
    """Add one run; two processes may share the work."""
    KEPT.parent.mkdir(exist_ok=True)
    with (Path(tempfile.gettempdir()) / "fedsus-accuracy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        curves = kept()
        curves.setdefault(name, {})[str(seed)] = curve
        lines = (f'  "{one}": {json.dumps(dict(sorted(curves[one].items())))}' for one in sorted(curves))
        KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write(curves: Curves) -> None:
    """The tables between the page's marks, and the pictures."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, table in (("reference", reference(curves)), ("skew", skew(curves))):
        start, end = f"<!-- {mark}: written by scripts/accuracy.py -->\n", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(start)
        text = before + start + "\n".join(table) + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text, encoding="utf-8")
    draw(curves, "reference", "accuracy-reference")
    draw(curves, "skew", "accuracy-skew")


def reference(curves: Curves) -> list[str]:
    table = [
        "| the simulator minus | seeds | mean difference | 99% interval | noise of a seed | equal |",
        "|---|---|---|---|---|---|",
    ]
    for name, series in SERIES.items():
        if series.done is None:
            continue
        strategy = name.partition(": ")[2].partition(",")[0]
        ours = ordered(curves, f"reference: {strategy}, simulator")
        verdict = Verdict.of(ours[: len(series.seeds)], ordered(curves, name))
        low, high = verdict.interval
        table.append(
            f"| {name.partition(': ')[2]} | {len(series.seeds)} | {verdict.difference:+.4f} | "
            f"{low:+.4f} to {high:+.4f} | {verdict.noise:.4f} | {'yes' if verdict.equal else 'no'} |"
        )
    return table


def skew(curves: Curves) -> list[str]:
    table = [
        f"| strategy | accuracy, mean of the last {LAST} rounds | standard deviation over seeds | "
        "minus FedAvg, same seed | 95% interval |",
        "|---|---|---|---|---|",
    ]
    base = ends(curves, "skew: FedAvg")
    for name in (name for name in SERIES if name.startswith("skew")):
        own = ends(curves, name)
        row = f"| {name.partition(': ')[2]} | {own.mean():.3f} | {own.std(ddof=1):.3f} | "
        if name == "skew: FedAvg":
            table.append(row + "| |")
            continue
        gaps = own - base
        half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
        table.append(row + f"{gaps.mean():+.3f} | {gaps.mean() - half:+.3f} to {gaps.mean() + half:+.3f} |")
    return table


def ordered(curves: Curves, name: str) -> list[list[float]]:
    """By seed."""
    return [curves[name][str(seed)] for seed in SERIES[name].seeds]


def ends(curves: Curves, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of each seed."""
    return np.array([np.mean(one[-LAST:]) for one in ordered(curves, name)])


def draw(curves: Curves, kind: str, file: str) -> None:
    """Mean and range over the seeds, by round."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    figure, axis = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for colour, name in zip(COLOURS, (name for name in SERIES if name.startswith(kind)), strict=False):
        values = np.array(ordered(curves, name))
        rounds = np.arange(1, values.shape[1] + 1)
        style = "--" if "plain" in name else "-"
        axis.plot(rounds, values.mean(axis=0), style, color=colour, label=name.partition(": ")[2])
        axis.fill_between(rounds, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="round", ylabel="accuracy, test images")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(IMAGES / f"{file}.png", dpi=110)
    figure.savefig(IMAGES / f"{file}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
