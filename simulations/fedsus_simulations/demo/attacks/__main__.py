"""``python -m fedsus_simulations.demo.attacks``: every attack; figures and pictures into the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedsus.errors import FedsusError


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where data sets are, by name: fashion-mnist is read.",
)
@click.option(
    "--docs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs"),
    show_default=True,
    help="Folder of the page and its pictures.",
)
def main(data: Path, docs: Path) -> None:
    """Attack what a server sees of an update, in clear, in a secure sum and with noise."""
    import torch

    from fedsus_simulations.demo.attacks import images, picture, report, study

    torch.set_num_threads(1)

    def say(text: str) -> None:
        click.echo(text, err=True)

    try:
        pool, sizes = images.real(data / "fashion-mnist"), study.Sizes()
        inverted, gallery = study.inversions(pool, sizes, say)
        members, scores = study.memberships(pool, sizes, say)
        figures = {"inversion": inverted, "search": study.searches(pool, sizes, say), "membership": members}
        written = report.publish(figures, docs) + picture.draw(gallery, scores, docs / "images")
    except FedsusError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    for name, table in report.TABLES.items():
        click.echo(f"{name}\n\n{table(figures[name])}")
    for path in written:
        click.echo(f"written: {path}", err=True)


if __name__ == "__main__":
    main()
