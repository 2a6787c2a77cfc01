"""Results in the documentation are those of the JSON beside it; nothing there was written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedsus.errors import ConfigError
from fedsus_simulations.benchmarks import cli, speed_plot, tables
from fedsus_simulations.benchmarks.result import Result, comparison, complete, figure

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"
SEEN = "<!-- simulate -->\n<!-- end of simulate -->\n"
NAMES = (
    *("simulate-mlp", "simulate-cnn", "simulate-trivial"),
    *("utility-heart", "utility-fashion", "utility-clients"),
    *("encode", "dp-step", "simulate-privacy"),
)


def result(name: str = "simulate-mlp", **more: Any) -> Result:
    ours = figure([0.04, 0.05, 0.0625], "s", "fedsus", warm_up=1)
    body = comparison(ours, figure([0.5], "s", "pfl-research"), most=0.05, times=12)
    loop = comparison(ours, figure([0.2, 0.25, 0.25], "s", "bare loop"))
    memory = comparison(figure([1234.0], "MB", "many"), figure([500.0], "MB", "few"), most=1500)
    parts = {"title": "parts", "columns": ("part", "s"), "rows": (("training", 0.123456), ("rounds", 12))}
    figures = {"bare loop": loop, "memory": memory}
    return complete(name, True, {**body, "figures": figures, "tables": [parts], "notes": ["a note"], **more})


def test_a_table_says_what_was_measured_and_what_was_missed() -> None:
    lines = tables.markdown(result()).splitlines()
    ours = "0.04 / 0.05 / 0.0625 s (n = 3)"
    target = "at most 0.05 s, 12 times faster"
    assert f"| pfl-research | {ours} | 0.5 s (n = 1) | 10 | {target} | **no** |" in lines
    assert f"| bare loop | {ours} | 0.2 / 0.25 / 0.25 s (n = 3) | 5 |  |  |" in lines
    assert "| memory | 1,234 MB (n = 1) | 500 MB (n = 1) | 0.405 | at most 1500 MB | yes |" in lines
    assert "| training | 0.123 |" in lines
    assert "| rounds | 12 |" in lines
    assert "- a note" in lines
    assert "quick sizes" in lines[0]
    assert "torch" in lines[-1]


def test_results_are_published_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"{SEEN}before\n<!-- simulate-mlp -->\nold\n<!-- end of simulate-mlp -->\nafter\n")
    files = tables.publish([result()], page)
    assert [file.relative_to(tmp_path / "docs").as_posix() for file in files] == [
        "page/simulate-mlp.json", "page.md", "images/simulate.png", "images/simulate.svg",
    ]  # fmt: skip
    assert all(file.stat().st_size > 100 for file in files)
    text = page.read_text()
    assert "images/simulate.png" in text.partition("<!-- end of simulate -->\nbefore\n<!-- simulate-mlp -->\n")[0]
    assert text.endswith("<!-- end of simulate-mlp -->\nafter\n")
    assert tables.markdown(result()) in text
    assert "old" not in text
    assert tables.read(files[0]) == result()
    tables.publish([result()], page)
    assert page.read_text() == text


def test_what_is_not_compared_with_peers_leaves_the_picture_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- encode -->\n<!-- end of encode -->\n")
    assert tables.publish([result("encode")], page) == [tmp_path / "page" / "encode.json", page]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- simulate-mlp -->\n",
        "<!-- end of simulate-mlp -->\n<!-- simulate-mlp -->\n",
        2 * "<!-- simulate-mlp -->\n<!-- end of simulate-mlp -->\n",
        "<!-- simulate-mlp -->\n<!-- end of simulate-mlp -->\n",
    ],
)
def test_a_page_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match="needs one line '<!-- simulate"):
        tables.publish([result()], page)
    assert page.read_text() == text
    assert list(tmp_path.iterdir()) == [page]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        tables.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json: not a benchmark's result: ours: Field required"):
        tables.read(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match=r"cannot be read"):
        tables.publish([result()], tmp_path / "none.md")


def test_the_command_prints_or_publishes(tmp_path: Path) -> None:
    file, page = tmp_path / "x.json", tmp_path / "page.md"
    file.write_text(result().model_dump_json())
    done = CliRunner().invoke(cli.bench, ["table", str(file)], catch_exceptions=False)
    assert done.stdout == f"{tables.markdown(result())}\n"
    page.write_text(f"{SEEN}<!-- simulate-mlp -->\n<!-- end of simulate-mlp -->\n")
    done = CliRunner().invoke(cli.bench, ["table", "--docs", str(page), str(file)], catch_exceptions=False)
    assert f"wrote {page}" in done.stdout
    assert "pfl-research" in page.read_text()


def test_the_picture_compares_whole_rounds_alone() -> None:
    rows = speed_plot.sides(result())
    assert list(rows) == ["fedsus", "pfl-research", "bare loop"]
    assert rows["bare loop"].median == 0.25


@pytest.mark.parametrize("name", [*NAMES, "simulate"])
def test_the_page_has_a_place_for_each(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert tables.replaced(text, name, "x", "page") != text


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_its_json_says_and_nothing_without_one(name: str) -> None:
    file, text = DOCS / "benchmarks" / f"{name}.json", PAGE.read_text(encoding="utf-8")
    if file.exists():
        assert tables.read(file).name == name
        assert tables.replaced(text, name, tables.markdown(tables.read(file)), "page") == text
    else:
        assert f"<!-- {name} -->\n<!-- end of {name} -->\n" in text


def test_every_json_beside_the_page_is_in_it() -> None:
    assert {file.stem for file in (DOCS / "benchmarks").glob("*.json")} <= set(NAMES)
