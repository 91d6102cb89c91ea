"""`results/report.html`: all pages and pictures in one file that needs no network, tables sortable by a click on a heading.

The pages are Markdown that this package has written; raw HTML in what comes from files is escaped by the renderer.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from tokbench.records import RunRecord, write_whole

PAGE = "report.html"
PICTURE = re.compile(r'<img src="([^"]+)"')
LINK = re.compile(r'<a href="([^":#]+)\.md"')

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #1a1a1a; display: grid; grid-template-columns: 15rem 1fr; }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1rem; background: #f4f4f2; font-size: 14px; }
nav a { display: block; padding: .2rem 0; color: #14507a; text-decoration: none; overflow-wrap: anywhere; }
main { padding: 1rem 2rem; min-width: 0; }
section { border-bottom: 2px solid #ddd; margin-bottom: 2rem; padding-bottom: 1rem; }
.scroll { overflow-x: auto; max-height: 44rem; overflow-y: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #ddd; padding: .2rem .5rem; text-align: left; white-space: nowrap; }
td:not(:first-child) { max-width: 34rem; overflow-wrap: anywhere; white-space: normal; }
th { background: #f4f4f2; cursor: pointer; position: sticky; top: 0; }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
img { max-width: 100%; border: 1px solid #ddd; } code { background: #f4f4f2; padding: 0 .2rem; }
@media (max-width: 60rem) { body { display: block; } nav { position: static; height: auto; } main { padding: 1rem; } }
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const scale = { P: 1e15, T: 1e12, G: 1e9, M: 1e6, k: 1e3 };
  const value = row => {
    const text = row.cells[column].textContent.trim();
    const found = text.replaceAll(",", "").match(/^[+-]?[\\d.]+(e[+-]?\\d+)?/i);
    const prefix = text.match(/ ([PTGMk])$/);
    return found ? parseFloat(found[0]) * (prefix ? scale[prefix[1]] : 1) : text;
  };
  const number = x => typeof x === "number";
  const compare = (a, b) => number(a) && number(b) ? a - b : number(a) ? -1 : number(b) ? 1 : a.localeCompare(b);
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return number(x) !== number(y) ? compare(x, y) : (up ? 1 : -1) * compare(x, y);
  });
  body.append(...rows);
});
"""


Rows = Mapping[str, Sequence[tuple[str, str]]]  # file of a record to the pages that it is on, each with its row's label


def build_html(
    pages: Sequence[Path], records: Sequence[RunRecord], command: Callable[[RunRecord], str], rows: Rows
) -> Path:
    """The path of the file, beside the pages (Markdown files of one folder); `command` makes a record anew."""
    folder = pages[0].parent
    sections = [(page.stem, page.read_text()) for page in pages]
    names = [*(name for name, _ in sections), "runs"]
    body = "\n".join(
        [*(_section(name, text, folder, names) for name, text in sections), runs_section(records, command, rows)]
    )
    links = "\n".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in names)
    document = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>tokbench: results</title><style>{STYLE}</style></head>\n"
        f"<body><nav>{links}</nav><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
    write_whole(folder / PAGE, document.encode())
    return folder / PAGE


def _section(name: str, text: str, folder: Path, names: Sequence[str]) -> str:
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    rendered = PICTURE.sub(lambda found: f'<img loading="lazy" src="{_embedded(folder, found[1])}"', rendered)
    rendered = LINK.sub(lambda found: f'<a href="#{found[1]}"' if found[1] in names else found[0], rendered)
    rendered = rendered.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return f'<section id="{html.escape(name)}">{rendered}</section>'


def _embedded(folder: Path, name: str) -> str:
    """A picture of the folder as a data address; its name where it is none of the folder's PNG files."""
    path = folder / html.unescape(name)
    if path.parent != folder or path.suffix != ".png" or not path.is_file():
        return name
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


RUNS = ("row (page)", "seed", "data", "budget", "stage", "made", "record", "command")
HOW = """How each number was made: the row that a run is in, on each page (what a row shows is the mean over the runs that name
it here); its record, with the whole configuration under <code>config</code>, all numbers, and what they were measured with; and
the command that makes it again. This file opens by itself, with all pages and pictures in it; only links to records
(<code>runs/</code>), to tables (<code>.csv</code>) and to the pictures' own files (<code>.png</code>) need the folder that it
was written into."""


def runs_section(records: Sequence[RunRecord], command: Callable[[RunRecord], str], rows: Rows) -> str:
    """HTML: the rows that each run is in, the record that holds its configuration and numbers, how it is made again.

    Not by way of Markdown, which takes most of a report's time where there are thousands.
    """
    lines = [
        "".join(
            [
                f"<td>{_rows(rows.get(r.file_name, ()))}</td>",
                *(f"<td>{html.escape(str(text))}</td>" for text in (r.seed, r.data.name, r.budget, r.stage)),
                f'<td>{r.created[:10]}</td><td><a href="runs/{html.escape(r.file_name)}">{html.escape(r.file_name)}</a></td>',
                f"<td><code>{html.escape(command(r))}</code></td>",
            ]
        )
        for r in records
    ]
    head = "".join(f"<th>{name}</th>" for name in RUNS)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<section id="runs"><h1>Runs</h1>\n<p>{HOW}</p>\n<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></section>"
    )


def _rows(found: Sequence[tuple[str, str]]) -> str:
    named = [(html.escape(page), html.escape(label)) for page, label in found]
    return "<br>".join(f'{label} (<a href="#{page}">{page}</a>)' for page, label in named)
