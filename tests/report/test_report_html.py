"""The one-file report: complete, without a network, and safe against what stands in files."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_factory import file, record, swept

from tokbench import build
from tokbench.report.build import build_report
from tokbench.report.html import SCRIPT, build_html, runs_section


class Seen(HTMLParser):
    """Tags with their attributes, whether they close in order, and the text."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    @property
    def addresses(self) -> list[str]:
        """What the file loads or links."""
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


WEBP = "data:image/webp;base64,"


def is_inside(address: str, folder: Path) -> bool:
    """Whether an address is one of the file's own parts or a file beside it."""
    return address.startswith(("#", WEBP)) or (folder / address).is_file()


def picture(address: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(address.removeprefix(WEBP)))


def pixels(image: Image.Image) -> bytes:
    return np.asarray(image.convert("RGBA")).tobytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for name in ("fsq", "vq"):
        for codes in (240, 1000):
            file(swept(name, codes), folder)
    file(record("fsq"), folder)
    build_report(folder)
    return folder


def test_the_file_is_whole_and_asks_no_network(made: Path) -> None:
    text = (made / "report.html").read_text()
    seen = Seen(text)
    assert seen.open == []
    assert seen.addresses
    assert all(is_inside(address, made) for address in seen.addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)
    policy = {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert ("meta", policy) in seen.tags  # a browser then refuses whatever else would load


def test_every_page_and_picture_is_inside(made: Path) -> None:
    text = (made / "report.html").read_text()
    for page in made.glob("*.md"):
        assert f'<section id="{page.stem}">' in text
    pictures = [Image.open(path) for path in made.glob("*.png")]
    inside = [Image.open(picture(address)) for address in Seen(text).addresses if address.startswith(WEBP)]
    assert pictures
    assert sorted(map(pixels, pictures)) == sorted(map(pixels, inside))


def test_what_stands_in_files_is_escaped(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# a\n\n<script>alert(1)</script>\n\n| a |\n|---|\n| <img src=x onerror=alert(1)> |\n\n![x](../../secret.png)\n"
    )
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    broken = record("fsq", status="failed", error="<b>ValueError</b>").model_copy(update={"status": "ok"})
    text = build_html(
        [page], [broken], lambda found: "<i>command</i>", {broken.file_name: [("<u>stem</u>", "<u>row</u>")]}
    ).read_text()
    assert "<script>alert" not in text
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", text)
    assert "<i>command" not in text
    assert "<u>" not in text
    assert base64.b64encode(b"secret").decode() not in text


HOSTILE = (
    "![one](http://evil.example/x.png) ![two](//evil.example/x.png) [three](http://evil.example) [four](javascript:alert(1))"
    " <http://evil.example> [five]"
)


def test_pictures_and_links_that_are_no_files_of_the_folder_are_dropped_and_their_text_stays(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "there.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])  # its head is whole
    (tmp_path / "there.csv").write_bytes(b"table")
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    links = (
        "[six](other.md) [seven](there.csv) [eight](gone.csv) [nine](../page.md) [![ten](there.png)](//evil.example)"
    )
    up = f"../{tmp_path.name}/there.png"
    more = f"![a\\[b](there.csv) ![none](none.png) ![cut](cut.png) ![long]({'x' * 300}.png) [long]({'y' * 300}) ![up]({up})"
    page.write_text(f"{HOSTILE} {links}\n\n| {more} |\n|---|\n| {HOSTILE} |\n\n[five]: http://evil.example\n")
    other.write_text("# other\n")
    seen = Seen(build_html([page, other], [], lambda found: "", {}).read_text())
    *addresses, drawn = seen.addresses
    assert addresses == ["#page", "#other", "#runs", "#other", "there.csv"]
    assert pixels(Image.open(picture(drawn))) == b"\xff\x00\x00\xff" * 6
    assert seen.open == []
    shown = "one two three [four](javascript:alert(1)) http://evil.example five"
    assert f"{shown} six seven eight nine \n" in seen.text
    assert "a[b none cut long long up" in seen.text
    assert seen.text.count(shown) == 2


def test_no_record_makes_the_file_ask_the_network(tmp_path: Path) -> None:
    """A failure's error, and settings, of which a row's label in the tables is made."""
    for levels in (HOSTILE, [4, 4]):
        config = record().config | {"quantizer": {"levels": levels}}
        file(record(config=config, hash=f"{len(levels):08x}"), tmp_path, with_arrays=False)
    file(record("lfq", status="failed", error=HOSTILE), tmp_path)
    build_report(tmp_path)
    seen = Seen((tmp_path / "report.html").read_text())
    assert all(is_inside(address, tmp_path) for address in seen.addresses)
    assert HOSTILE in seen.text  # as it stands: the error


SORTED = {  # cells from the smallest to the largest; those with nothing to sort by stand last, whichever way
    "a word before": ["gFD 5.55 (floor 0.112)", "gFD 7.37 (floor 0.112, mar)", "gFD 10.6 (floor 0.112)", "gFD 20.9"],
    "powers of two": ["2^9.5", "1,232", "2^191.8", "2^1,023.5", "2^1,024.5", "2^14,112.0"],
    "dates": ["2025-12-31", "2026-01-02", "2026-02-01", "2026-11-09", "2026-11-27"],
    "deviations": ["-0.000057 ± 4.84e-12", "9.5 ± 20.0", "23.77 ± 0.04", "23.8 ± 0.01"],
    "prefixes": ["0.261 (1 of 3 seeds)", "999", "42.2 k", "326 M", "1.44 G", "923 ± 5 G", "1.07 ± 0.00 T", "2.00 P"],
    "prefixes before more": ["1.68 k FLOPs", "1.5 M / 20", "16 G (2 of 3 seeds)"],
    "words that are no prefix": ["2 kinds", "3 Minutes", "5 rows of 638 bits", "7"],
    "signs": ["−3", "-0.5", "+0", "+0.0257 to +0.587", "+3"],
    "spans": ["-2.39 to -1.30", "3 to 6 seeds", "20.42 to 20.53", "100 to 101"],
    "pairs": ["5.1 / 30", "10.6 / 20.9", "NA (n = 66 < 5000) / 1", "– / 2", "– / –"],
    "shares": ["-34.6 %", "9.1 %", "+19.5 %", "100.0 %"],
    "bold": ["<strong>9</strong>", "10", "<b>23.4 ± 0.1</b>", "<strong>100</strong>"],
    "exponents": ["-5.72e-10 to 1.24e-09", "1.79e-12", "1e-05", "0.001", "2.3e+12"],
    "thousands": ["9.5", "160,000", "2,560,000", "281,474,976,710,655", "281,474,976,710,656"],
    "brackets": ["9.59 [9.39, 25.75]", "25.59 [25.39, 25.75]"],
    "nothing": ["-1", "0", "NA (continuous)", "–", "– ", "", "NA"],
    "words": ["1", "2.5", "flattened", "not converged (2 of 3 flattened)", "not converged (10 of 30 flattened)", "–"],
}
NAMES = ["bsq", "fsq", "JPEG 2000", "kl", "vq (V=64)", "vq (V=240)", "NA (none)"]  # of the first column
BROWSER = """
const [script, cases] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const sorted = (cells, column) => {
  const body = { rows: cells.map(html => ({ html, cells: { [column]: { textContent: html.replace(/<[^>]*>/g, "") } } })) };
  body.append = (...rows) => { body.rows = rows; };
  const table = { tBodies: [body], querySelectorAll: () => [head] }, set = {};
  const head = {
    cellIndex: column, closest: () => table, getAttribute: name => set[name] ?? null,
    setAttribute: (name, value) => { set[name] = value; }, removeAttribute: name => { delete set[name]; },
    addEventListener: (name, heard) => { head[name] = heard; },
  };
  new Function("document", script)({ querySelectorAll: () => [head] });
  return ["ascending", "descending"].map(way => {
    head.click();
    if (set["aria-sort"] !== way) throw new Error(`${set["aria-sort"]}, not ${way}`);
    return body.rows.map(row => row.html);
  });
};
console.log(JSON.stringify(cases.map(([cells, column]) => sorted(cells, column))));
"""


def clicked(cases: list[tuple[list[str], int]]) -> list[list[list[str]]]:
    """Each case's cells, of a column, after one click on its heading and after a second, by the file's own script."""
    node = shutil.which("node")
    assert node is not None
    asked = json.dumps([SCRIPT, cases])
    done = subprocess.run([node, "-e", BROWSER], input=asked, capture_output=True, encoding="utf8", timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_click_sorts_by_the_first_number_and_leaves_what_is_missing_last() -> None:
    cases = {name: (cells, 1) for name, cells in SORTED.items()} | {"names": (NAMES, 0)}
    ups = clicked([(cells[::-1], column) for cells, column in cases.values()])
    downs = clicked([(cells, column) for cells, column in cases.values()])
    for (name, (cells, _)), (up, _), (_, down) in zip(cases.items(), ups, downs, strict=True):
        missing = [cell for cell in cells if re.match(r"(NA|–|$)", cell)]
        words = [cell for cell in cells if name == "words" and cell[0] in "fn"]
        numbers = [cell for cell in cells if cell not in (*missing, *words)]
        assert up == [*numbers, *words, *missing[::-1]], name
        assert down == [*numbers[::-1], *words[::-1], *missing], name


def test_the_command_of_a_record_is_what_composes_its_configuration() -> None:
    config = build.hashed(build.compose(["quantizer=vq", "seed=2"]))
    made = record("vq", 2, config=config)
    page = runs_section([made], lambda found: " ".join(build.overrides_of(found.config)), {})
    assert "<code>quantizer=vq seed=2</code>" in page


def test_a_run_names_its_row_on_each_page_and_links_its_record(made: Path) -> None:
    text = (made / "report.html").read_text()
    runs = text.split('<section id="runs">')[1]
    record = swept("vq", 240)
    (line,) = [line for line in runs.splitlines() if record.file_name in line]
    assert '<td>vq (codebook_size=240) (<a href="#cifar10-cpu">cifar10-cpu</a>)</td>' in line
    assert f'<a href="runs/{record.file_name}">' in line
    assert "| vq (codebook_size=240) " in (made / "cifar10-cpu.md").read_text()
    assert "need the folder" in runs


def test_a_run_of_several_pages_names_the_row_of_each() -> None:
    made = record("vq")
    page = runs_section([made], lambda found: "", {made.file_name: [("all", "vq #1"), ("own", "vq")]})
    assert '<td>vq #1 (<a href="#all">all</a>)<br>vq (<a href="#own">own</a>)</td>' in page
