"""`results/report.html`: all pages and pictures in one file that needs no network, tables sortable by a click on a heading.

The pages are Markdown that this package has written, with words of records in it. Raw HTML is escaped by the renderer; a picture
that is no PNG file of the folder, or a link to what is no file of it, is left out here whoever wrote it, and only its text stays;
and the file tells the browser to load nothing. Pictures keep every pixel, in two thirds of their bytes, as lossless WebP.
"""

from __future__ import annotations

import base64
import html
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from PIL import Image

from tokbench.records import RunRecord, write_whole

_log = logging.getLogger(__name__)

PAGE = "report.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
RENDERER = RendererHTML()

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
# A cell sorts by its first number, at its start or after one word such as gFD; a power of two by its size, a date by its day.
# Cells without a number follow as words, then NA and dashes, whichever way a column is sorted; a first column is of words.
SCRIPT = r"""
const missing = /^$|^NA(?![\w-])|^[–—-](?!\S)/, date = /^(\d{4})-(\d\d)-(\d\d)\b/;
const first = new RegExp([
  /^(?:[^\s\d]*[A-Z≥≤<>~≈][^\s\d]* )?/, /([+−-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?)/,
  /(?:\^(\d[\d,.]*))?/, /(?: ± [\d,.eE+-]+)?/, /(?: ([PTGMk])\b)?/,
].map(part => part.source).join(""));
const scale = { P: 1e15, T: 1e12, G: 1e9, M: 1e6, k: 1e3 };
const order = new Intl.Collator("en", { numeric: true }).compare;
const number = text => parseFloat(text.replaceAll(",", "").replace("−", "-"));
const key = (text, words) => {  // what kind of cell, its value, and the exponent that tells values beyond 2^1023 apart
  if (missing.test(text)) return ["missing", 0, 0];
  const day = words ? null : text.match(date), found = words ? null : text.match(first);
  if (day) return ["number", number(day.slice(1).join("")), 0];
  if (!found) return ["words", text, 0];
  const [value, power] = [number(found[1]), found[2] ? number(found[2]) : 0];
  return ["number", found[2] ? value ** power : value * (scale[found[3]] ?? 1), power];
};
const compare = ([kind, a, i], [, b, j]) => kind === "words" ? order(a, b) : a === b ? i - j : a - b;
const kinds = ["number", "words", "missing"];
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [key(row.cells[column].textContent.trim(), column === 0), row]);
  rows.sort(([a], [b]) => kinds.indexOf(a[0]) - kinds.indexOf(b[0]) || (up ? 1 : -1) * compare(a, b));
  body.append(...rows.map(([, row]) => row));
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
    there = {path.name: path for path in folder.iterdir() if path.is_file()}
    body = "\n".join(
        [*(_section(name, text, names, there) for name, text in sections), runs_section(records, command, rows)]
    )
    links = "\n".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in names)
    document = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>tokbench: results</title><style>{STYLE}</style></head>\n"
        f"<body><nav>{links}</nav><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
    write_whole(folder / PAGE, document.encode())
    return folder / PAGE


def _section(name: str, text: str, names: Sequence[str], there: Mapping[str, Path]) -> str:
    """HTML of one page; `names` are the sections, `there` the files of the folder."""
    tokens = MARKDOWN.parse(text)
    for token in tokens:
        _keep_inside(token.children or [], names, there)
    rendered = RENDERER.render(tokens, MARKDOWN.options, {})
    rendered = rendered.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return f'<section id="{html.escape(name)}">{rendered}</section>'


def _keep_inside(tokens: Sequence[Token], names: Sequence[str], there: Mapping[str, Path]) -> None:
    """Change the tokens of one line: PNG files of the folder become data addresses, links to pages lead to their sections.

    Of any other picture its alternative text stays, of a link to no file of the folder its text.
    """
    outside = False  # whether the link that is open leads out of the folder
    for token in tokens:
        if token.type == "image":
            source = str(token.attrs["src"])
            data = _webp(there[source]) if source in there and source.endswith(".png") else None
            if data is not None:
                token.attrs = {"loading": "lazy", "src": f"data:image/webp;base64,{base64.b64encode(data).decode()}"}
            else:
                token.type, token.content = "text", RENDERER.renderInlineAsText(token.children, MARKDOWN.options, {})
        elif token.type == "link_open":
            target = str(token.attrs["href"])
            page = target.removesuffix(".md")
            if target.endswith(".md") and page in names:
                token.attrs["href"] = f"#{page}"
            outside = target not in there
            token.hidden = outside
        elif token.type == "link_close":
            token.hidden = outside


def _webp(path: Path) -> bytes | None:
    """The picture of a PNG file with the same pixels; None, with a warning, where the file holds none that can be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.save(buffer, "WEBP", lossless=True, exact=True, method=1)  # slower methods save a hundredth more
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # cut, broken, too large
        _log.warning("picture left out: %s: %s", path.name, error)
        return None
    return buffer.getvalue()


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
                *(
                    f"<td>{html.escape(str(text))}</td>"
                    for text in (r.seed, r.data.name, r.budget, r.stage, r.created[:10])
                ),
                f'<td><a href="runs/{html.escape(r.file_name)}">{html.escape(r.file_name)}</a></td>',
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
