"""Reports in a real browser: their numbers are seen, nothing overlaps or is cut, nothing runs, they print."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import reported_runs as made
from PIL import Image

from fedsus.reporting import pages
from fedsus.reporting.pages.render import document

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (320, 390, 768, 1200)
NAMES = ("private", "waiting", "hostile")

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed"),
    pytest.mark.timeout(400),
]

HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="found">not measured</pre><script>
const found = [];
const inside = (text, box) => text.left >= box.left - 2 && text.right <= box.right + 2
  && text.top >= box.top - 2 && text.bottom <= box.bottom + 2;
const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
function measure(frame) {
  const page = frame.contentDocument, cut = [], over = [], small = [];
  for (const svg of page.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
    texts.forEach(([words, at], place) => {
      if (!inside(at, box)) cut.push(words);
      if (Math.min(at.height, at.width + 99) < 8.5 && at.width > at.height) small.push(words);
      for (const [others, beside] of texts.slice(place + 1)) if (overlap(at, beside)) over.push(words + " | " + others);
    });
  }
  found.push({name: frame.dataset.name, width: frame.width, scroll: page.documentElement.scrollWidth,
    title: page.title, text: page.body.innerText, scripts: page.querySelectorAll("script").length,
    images: page.querySelectorAll("img").length, svgs: page.querySelectorAll("svg").length, cut, over, small});
}
addEventListener("load", () => {
  document.querySelectorAll("iframe").forEach(measure);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>FRAMES</body>"""


def browse(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One launch, with nowhere to go."""
    assert BROWSER is not None
    still = ("--no-first-run", "--disable-background-networking", "--disable-extensions", "--disable-sync")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *still]
    command += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for name in NAMES:
        source = pages.load(getattr(made, name)(folder / name))
        (folder / f"{name}.html").write_text(pages.html(source), encoding="utf-8")
    return folder


@cache
def measured(folder: Path) -> tuple[list[dict[str, object]], str]:
    """Every report at every width, and what the browser's console said."""
    frames = "".join(
        f'<iframe data-name="{name}" width="{width}" height="900" src="{name}.html"></iframe>'
        for name in NAMES
        for width in WIDTHS
    )
    harness = folder / "harness.html"
    harness.write_text(HARNESS.replace("FRAMES", frames), encoding="utf-8")
    shown = browse(folder, harness, "--allow-file-access-from-files", "--dump-dom")
    found = re.search(r'<pre id="found">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found.group(1))), shown.stderr


def test_nothing_is_cut_overlaps_or_is_too_small_at_any_width(reports: Path) -> None:
    found, _ = measured(reports)
    assert len(found) == len(NAMES) * len(WIDTHS)
    for one in found:
        where = (one["name"], one["width"])
        assert one["scroll"] <= int(str(one["width"])), where
        assert (one["cut"], one["over"]) == ([], []), where
        if one["width"] != "320":
            assert one["small"] == [], where


def test_the_numbers_are_seen_and_the_console_is_silent(reports: Path) -> None:
    found, console = measured(reports)
    assert "CONSOLE" not in console
    for one in found:
        page = document(pages.load(reports / str(one["name"])))
        text = " ".join(str(one["text"]).split())
        assert one["title"] == page.title
        for tile in page.tiles:
            assert f"{tile.label} {tile.value}" in text
        assert (one["scripts"], one["images"]) == (0, 0)
        assert one["svgs"] == sum(len(section.charts) for section in page.sections)


def test_even_a_script_that_got_in_would_not_run_nor_fetch(reports: Path) -> None:
    evil = '<script>document.title = "ran"</script><img src="http://127.0.0.1:9/x.png" onerror="document.title=1">'
    page = reports / "evil.html"
    page.write_text((reports / "waiting.html").read_text(encoding="utf-8").replace("<main>", f"<main>{evil}"))
    shown = browse(reports, page, "--dump-dom")
    assert "<title>Report of run phones-1</title>" in shown.stdout
    refused = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert any("Content Security Policy" in line and "script" in line for line in refused)
    assert any("Content Security Policy" in line and "127.0.0.1" in line for line in refused)


def test_light_and_dark_as_the_reader_has_it(reports: Path) -> None:
    corners = []
    for scheme in (1, 0):  # Blink's light and dark
        picture = reports / f"{scheme}.png"
        size, light = "--window-size=390,800", f"--blink-settings=preferredColorScheme={scheme}"
        browse(reports, reports / "private.html", size, light, f"--screenshot={picture}")
        with Image.open(picture) as opened:
            assert opened.size == (390, 800)
            grey = opened.convert("L")
            corners.append(grey.getpixel((2, 2)))
            assert min(grey.get_flattened_data()) < 60
            assert max(grey.get_flattened_data()) > 200
    assert corners[0] == 255
    assert corners[1] < 40


def test_it_prints_on_a4(reports: Path) -> None:
    paper = reports / "report.pdf"
    browse(reports, reports / "private.html", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    raw = paper.read_bytes()
    sheets = len(re.findall(rb"/Type\s*/Page\b", raw))
    assert 4 <= sheets <= 14
    width, height = (float(side) for side in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", raw)[0])
    assert (round(width), round(height)) == (595, 842)
