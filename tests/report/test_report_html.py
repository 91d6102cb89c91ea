"""The one-file report: complete, without a network, and safe against what stands in files."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_factory import file, record, swept

from tokbench import build
from tokbench.report.build import build_report
from tokbench.report.html import build_html, runs_section


class Seen(HTMLParser):
    """Tags with their attributes, and whether they close in order."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


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
    loaded = [value for _, attrs in seen.tags for key, value in attrs.items() if key in ("src", "href") and value]
    assert loaded
    assert all(value.startswith(("#", "data:image/png;base64,")) or (made / value).is_file() for value in loaded)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)


def test_every_page_and_picture_is_inside(made: Path) -> None:
    text = (made / "report.html").read_text()
    for page in made.glob("*.md"):
        assert f'<section id="{page.stem}">' in text
    pictures = list(made.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert base64.b64encode(picture.read_bytes()).decode() in text


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
