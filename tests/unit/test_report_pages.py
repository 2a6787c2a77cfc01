"""`fedsus report`: the same content as HTML, Markdown and a model card, whatever the run did."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import reported_runs as made
import yaml
from receipts import IDENTITIES, OPERATOR, private_run

from fedsus import envelope
from fedsus.cli import run as command
from fedsus.errors import ConfigError
from fedsus.journal import NAME
from fedsus.plan import canonical
from fedsus.reporting import pages, read, receipt
from fedsus.reporting.figures import Absent
from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.card import _yaml
from fedsus.reporting.pages.document import Document, Share
from fedsus.reporting.pages.parts import traffic
from fedsus.reporting.pages.render import POLICY, document, escaped
from fedsus.secagg.keys import Identity, fingerprint

VOID = {"meta", "link", "img", "br", "hr", "input", "base"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "figure"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "div", "span", "ul", "li", "a", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "defs", "use", "text", "clippath", "rect", "tspan"),
}


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def said(found: Document) -> list[str]:
    """Every text of a document that stands in both forms."""
    texts = [found.title, *found.lead, *found.notices, found.made]
    texts += [text for tile in found.tiles for text in (tile.label, tile.value, *tile.detail)]
    for section in found.sections:
        texts += [section.title, *section.text, section.before, *section.points]
        texts += [chart.title for chart in section.charts]
        for table in (*section.tables, *([section.beside] if section.beside else [])):
            texts += [table.caption, table.note, *table.head]
            texts += [cell.text if isinstance(cell, Share) else cell for row in table.rows for cell in row]
    return [" ".join(text.split()) for text in texts if text]


@pytest.mark.parametrize("name", ["private", "waiting", "stopped", "empty", "old", "simulated", "hostile"])
def test_html_and_markdown_say_the_same_and_nothing_else_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in ("private", "hostile"):  # pictures take time, and these two have all kinds
        monkeypatch.setattr(charts, "drawn", lambda *_: "<svg></svg>")
    source = pages.load(getattr(made, name)(tmp_path))
    page = Page(pages.html(source))
    assert page.open == []
    shown, markdown = page.text, pages.markdown(source)
    for text in said(document(source)):
        assert text in shown
        assert escaped(text) in markdown
    assert {tag for tag, _ in page.tags} <= ALLOWED
    for tag, given in page.tags:
        assert not any(one.startswith("on") for one in given), tag
        for attribute in ("href", "src", "srcset", "action", "xlink:href"):
            assert given.get(attribute, "#").startswith("#"), given  # nothing but places in the page itself
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert {given["href"][1:] for _, given in page.tags if "href" in given} <= set(ids)
    assert [given["content"] for _, given in page.tags if given.get("http-equiv")] == [POLICY]
    for each in (shown, markdown):
        assert not re.search(r"\b(nan|None|inf)\b|absent=", each)
    pictures = [given for _, given in page.tags if given.get("role") == "img"]
    assert all(len(given["aria-label"] or "") > 20 for given in pictures)
    assert len(pictures) == sum(len(section.charts) for section in document(source).sections)


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    source = pages.load(made.hostile(tmp_path))
    html, markdown, card = pages.html(source), pages.markdown(source), pages.card(source)
    for each in (html, markdown, card):
        assert "<script" not in each
        assert "<img" not in each
        assert "\u202e" not in each
    assert '<script>alert("1")</script> | `x`' in Page(html).text
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["metrics"] == [made.HOSTILE.replace("\u202e\n", "? "), "accuracy"]
    assert not re.search(r"^\s*#+ z", markdown, re.MULTILINE)
    for line in markdown.splitlines():  # no cell is split by what stands in it
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in {3, 4, 5, 6, 7}, line


def test_figures_are_those_of_the_statement_with_range_and_method(tmp_path: Path) -> None:
    source = pages.load(made.private(tmp_path))
    goal = next(loss for loss in source.said.privacy.losses if loss.goal)
    tiles = {tile.label: tile for tile in document(source).tiles}
    assert tiles["Privacy (epsilon)"].value == f"{goal.epsilon:g}" == "10"
    assert "against the operator of the server" in tiles["Privacy (epsilon)"].detail[0]
    assert "1 in 100,000" in tiles["Privacy (epsilon)"].detail[1]
    server, devices = source.said.energy.server, source.said.energy.devices
    assert not isinstance(server, Absent)
    assert not isinstance(devices, Absent)
    both = (server.total.value + devices.total.value) / 3600
    assert tiles["Energy"].value == f"{both:.1f} Wh"
    low, high = ((getattr(server.total, one) + getattr(devices.total, one)) / 3600 for one in ("low", "high"))
    assert tiles["Energy"].detail[0] == f"range {low:.1f} to {high:.1f} Wh, {devices.total.method}"
    sent, back = source.said.traffic.total.sent.value, source.said.traffic.total.received.value
    assert tiles["Bytes sent and received"].value == f"{(sent + back) / 1e6:.0f} MB"
    assert tiles["Clients in each sum"].value == f"{source.said.participation.survivors / 12:.1f} of 60"
    assert tiles["How it ended"].value == "completed"


def test_without_privacy_it_says_infinite_and_draws_no_curve(tmp_path: Path) -> None:
    source = pages.load(made.waiting(tmp_path))
    privacy = next(one for one in document(source).sections if one.name == "privacy")
    assert "epsilon is infinite for everybody" in privacy.text[0]
    assert privacy.charts == ()
    assert {cell for row in privacy.tables[0].rows for cell in row[1:]} == {"no protection"}


def test_what_is_not_known_is_said_and_never_zero(tmp_path: Path) -> None:
    source = pages.load(made.old(tmp_path))
    tiles = {tile.label: tile for tile in document(source).tiles}
    for label in ("Energy", "Carbon"):
        assert tiles[label].value == "not known"
        assert tiles[label].detail[0]
    markdown = pages.markdown(source)
    assert "| Released model | its hash is not noted in this journal |" in markdown
    assert "| Software of the server | not known: the journal has no list |" in markdown
    assert "1 attempt not noted" in markdown
    assert "| The devices' data | not known: no device tells the size of its data |" in markdown
    head = yaml.safe_load(pages.card(source).split("---\n")[1])
    assert "co2_eq_emissions" not in head
    assert "# co2_eq_emissions: not known" in pages.card(source)


def test_noise_below_zero_is_no_negative_figure(tmp_path: Path) -> None:
    entries = read(made.private(tmp_path / "a"))
    taken = [
        replace(entry, costs={"joules": -900.0, "grams": -0.2}) if getattr(entry, "costs", None) else entry
        for entry in entries
    ]
    source = pages.load(made.written(tmp_path / "b", taken))
    costs = [one for one in document(source).sections if one.name in ("energy", "carbon")]
    for section in costs:
        for table in (*section.tables, section.beside):
            cells = [str(cell) for row in (table.rows if table else ()) for cell in row[1:4]]
            assert not any(re.match(r"-\d", cell) for cell in cells)
    assert "took the sum below zero" in pages.markdown(source)


def test_what_noise_hides_is_nowhere_a_number(tmp_path: Path) -> None:
    """A journal of nothing but noise: its values are seldom ones that nothing else on the page has."""
    entries = read(private_run(tmp_path / "a").folder)
    noisy = {"costs": {"joules": 7654.3, "grams": 8.7654}, "metrics": {"accuracy": 0.43219, "loss": 6.5432}}
    taken = [replace(entry, **noisy, server=None) if hasattr(entry, "costs") else entry for entry in entries]
    source = pages.load(made.written(tmp_path / "b", taken))
    shown, card = pages.markdown(source), pages.card(source)
    for number in ("7,65", "22,96", "8.77", "26.3", "26.2", "0.43", "6.54"):
        assert number not in shown + card
    tiles = {tile.label: tile for tile in document(source).tiles}
    assert (tiles["Accuracy"].value, tiles["Carbon"].value) == ("not known", "not known")
    assert tiles["Accuracy"].detail[0].startswith("noise of +-")
    assert "co2_eq_emissions" not in (yaml.safe_load(card.split("---\n")[1]) or {})
    assert "Its accuracy is not known: noise of" in card
    metrics = next(one for one in document(source).sections if one.name == "metrics")
    assert metrics.charts == ()


def test_phases_that_ride_on_others_have_words_on_charts_too() -> None:
    assert [traffic._label(one) for one in ("confirm+advertise", "unmask+share", "other+thing")] == [
        "confirm, and the next keys",
        "unmask, and the next secrets",
        "other+thing",
    ]


def test_a_stopped_run_says_what_ended_it_and_how_much_is_used(tmp_path: Path) -> None:
    source = pages.load(made.stopped(tmp_path))
    budgets = next(one for one in document(source).sections if one.name == "budgets")
    assert "Ended by: [budget] joules is spent" in budgets.text[0]
    (row,) = (row for row in budgets.tables[0].rows if row[0] == "Energy (joules)")
    counted = source.said.budgets.counted["joules"].value
    assert row[1:] == ("3.06 Wh", f"{counted / 3600:.2f} Wh", Share(counted / 11_000, f"{counted / 110:.0f}%"))


def test_open_simulated_and_growing_journals(tmp_path: Path) -> None:
    folder = made.simulated(tmp_path)
    with (folder / NAME).open("ab") as file:
        file.write(b'{"attempt":3,"coh')
    found = document(pages.load(folder))
    assert "It is still open" in found.lead[1]
    assert "It is a simulation" in found.lead[1]
    empty = document(pages.load(made.empty(tmp_path / "empty")))
    assert all(section.charts == () for section in empty.sections)


def test_waits_are_shown(tmp_path: Path) -> None:
    carbon = next(one for one in document(pages.load(made.waiting(tmp_path))).sections if one.name == "carbon")
    assert carbon.beside is not None
    told = dict(row[:2] for row in carbon.beside.rows)
    assert told["Rounds that were put off"] == "5 of 24"
    assert told["Put off for cleaner hours, in all"] == "4.00 hours"
    assert told["Longest that one round was put off"] == "2.00 hours"
    assert [chart.name for chart in carbon.charts] == ["hours", "waits"]


def test_receipts_hold_or_not(tmp_path: Path) -> None:
    folder = made.private(tmp_path)
    tile = document(pages.load(folder)).tiles[-1]
    assert (tile.label, tile.value) == ("Receipt", "none")
    raw = receipt.make(folder, OPERATOR)
    member = Identity.load(bytes([16]) * 32)
    both = envelope.decode(raw).signed(member).encode()
    (folder / receipt.FILE).write_bytes(both)
    source = pages.load(folder)
    assert (source.checked.status, source.checked.operator) == ("holds", fingerprint(OPERATOR.public))
    assert source.checked.countersigners == ("clinic-00",)
    assert "1 countersignature" in document(source).tiles[-1].detail[1]


def test_a_receipt_that_does_not_hold_is_the_first_thing_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "drawn", lambda *_: "<svg></svg>")
    folder = made.stopped(tmp_path)
    raw = receipt.make(folder, OPERATOR)
    payload = json.loads(envelope.decode(raw).payload)
    payload["predicate"]["participation"]["survivors"] += 1
    lied = envelope.Envelope(canonical(payload), {}).signed(OPERATOR).encode()
    stranger = envelope.decode(raw).signed(IDENTITIES["ada"]).encode()
    for wrong, status, tile in (
        (lied, "broken", "does NOT hold"),
        (b"{}", "broken", "does NOT hold"),
        (stranger, "unknown", "not checked"),
    ):
        (folder / receipt.FILE).write_bytes(wrong)
        source = pages.load(folder)
        assert (source.checked.status, document(source).tiles[-1].value) == (status, tile)
        assert 'class="notice"' in pages.html(source)
    (folder / receipt.FILE).write_bytes(raw)
    assert 'class="notice"' not in pages.html(pages.load(folder))


def test_the_card_has_what_the_hub_reads(tmp_path: Path) -> None:
    source = pages.load(made.waiting(tmp_path))
    card = pages.card(source)
    head = yaml.safe_load(card.split("---\n")[1])
    total = source.said.carbon.total
    assert not isinstance(total, Absent)
    assert head["co2_eq_emissions"]["emissions"] == total.value
    assert set(head["co2_eq_emissions"]) == {
        *("emissions", "source", "training_type", "geographical_location", "hardware_used")
    }
    assert head["library_name"] == "fedsus"
    assert "license" not in head
    assert card.count("FILL IN") >= 5
    assert "differential-privacy" not in head["tags"]
    private = pages.card(pages.load(made.private(tmp_path / "private")))
    assert {"differential-privacy", "secure-aggregation"} <= set(yaml.safe_load(private.split("---\n")[1])["tags"])
    assert "no such number leaves a device" in private


@pytest.mark.parametrize("value", [1e-05, 1e16, 6.2e-05, 0.0, 0.1, 5e-324, "\U0001f600 Zürich: '\"", ["a", "<b>"]])
def test_the_head_of_a_card_means_what_was_put_into_it(value: object) -> None:
    found = yaml.safe_load(f"x: {_yaml(value)}")["x"]
    assert (found, type(found)) == (value, type(value))


def test_a_clock_that_was_set_back_is_told(tmp_path: Path) -> None:
    source = pages.load(made.waiting(tmp_path))
    assert "set back" not in pages.markdown(source)
    entries = [replace(entry, time=entry.time - 1e5 * (at > 9)) for at, entry in enumerate(source.entries)]
    text = pages.markdown(pages.load(made.written(tmp_path / "late", entries)))
    assert re.search(r"First to last entry \| .*at least: the clock was set back", text)


def test_the_command_writes_three_files_and_keeps_an_edited_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "drawn", lambda *_: "<svg></svg>")
    folder = made.stopped(tmp_path / "run")
    assert command(["report", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {NAME, "report.html", "report.md", "model-card.md"}
    card = folder / "model-card.md"
    assert command(["report", str(folder), "--card"]) == 0
    assert capsys.readouterr().out.count("wrote") == 4
    card.write_text(card.read_text().replace("FILL IN", "For nobody", 1))
    assert command(["report", str(folder), "--card", "--markdown"]) == 0
    assert f"kept {card}, which was edited" in capsys.readouterr().out
    assert "For nobody" in card.read_text()
    assert command(["report", str(folder), "--markdown", "--into", str(tmp_path / "new" / "er")]) == 0
    assert [path.name for path in (tmp_path / "new" / "er").iterdir()] == ["report.md"]


def test_without_matplotlib_one_line_names_the_extra_and_text_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.stopped(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "fedsus[plots]" in error) == (1, True)
    assert not (folder / "report.md").exists()
    assert command(["report", str(folder), "--markdown", "--card"]) == 0


@pytest.mark.parametrize(("given", "why"), [("nowhere", "no such file; is"), ("young", "it is empty")])
def test_what_is_no_run_is_one_line(given: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / NAME).touch()
    assert command(["report", str(tmp_path / given)]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), why in error) == (1, True)


def test_a_broken_journal_is_refused(tmp_path: Path) -> None:
    folder = made.stopped(tmp_path)
    raw = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(raw.replace(b'"survivors":9', b'"survivors":8', 1))
    with pytest.raises(Exception, match="line") as caught:
        pages.load(folder)
    assert not isinstance(caught.value, ConfigError)


def test_many_rounds_are_thinned_and_it_is_said(tmp_path: Path) -> None:
    source = pages.load(made.long(tmp_path, 500))
    metrics, people = document(source).sections[:2]
    for section, points in ((metrics, "Each point"), (people, "Each bar")):
        assert f"{points} is the mean of 3 rounds." in section.charts[0].note
        assert max(len(table.rows) for table in section.tables) <= 12
    assert metrics.beside is not None
    assert metrics.beside.note == "12 of 500 rounds."
    line = max(re.findall(r'd="([^"]*)"', metrics.charts[0].draw()), key=len)
    assert 150 < line.count("L") <= series.MOST_POINTS
