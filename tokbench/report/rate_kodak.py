"""The Kodak photographs on the page on rate and distortion: tokenizers beside image codecs, and BD-rates of any pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokbench.report.equal_bits import BD_POINTS, bd_rate
from tokbench.report.formatting import markdown_table, number
from tokbench.report.rate_families import Family, RatePoint
from tokbench.report.view import View

KODAK_BPP = "MODEL/kodak/model_bpp"
CODEC_ANCHOR = "JPEG 4:2:0"
PICTURE, TILES = "picture", "tiles"
KODAK = (
    "The 24 Kodak photographs, which no lossy codec has touched; points are means over them. Tokenizers and backbones were"
    " trained on other images, and see a photograph tile by tile, each tile without its neighbours and without a caption. Image"
    " codecs in two layouts. *Picture*: a photograph is one file, as codecs are meant. *Tiles*: a sample of tiles, each a file of"
    " its own, as the tokenizers see them. Bits are without the header (what the file of a 16 x 16 grey picture takes), which has"
    " a column."
)
BD = (
    "BD-rate: bits more (+) or fewer (-) at equal PSNR, in percent of the anchor's, over the quality both reach; at least four"
    " points that buy something."
)
NO_OVERLAP = "NA (no overlap)"


def with_kodak(families: Sequence[Family]) -> list[Family]:
    """The families with those of their points that were measured on Kodak; without those that have none."""
    kept = (Family(f.label, tuple(p for p in f.points if np.isfinite(p.mean(KODAK_BPP)))) for f in families)
    return [family for family in kept if family.points]


def series_of(families: Sequence[Family], bits: str, quality: str) -> dict[str, Any]:
    """Label to (bits, quality, None) of each family's points: lines as the plot takes them."""
    return {f.label: ([p.mean(bits) for p in f.points], [p.mean(quality) for p in f.points], None) for f in families}


def bd_lines(means: Mapping[str, tuple[Sequence[float], Sequence[float]]], anchor: str) -> list[str]:
    """Markdown: the BD-rate of each label's (bits, PSNR) against the anchor's; [] of the anchor alone."""
    cells = []
    for label, own in means.items():
        if label != anchor and len(own[0]) > 1:
            found = bd_rate(means[anchor], own)
            few = min(len(own[0]), len(means[anchor][0])) < BD_POINTS
            missing = f"NA (fewer than {BD_POINTS} points)" if few else NO_OVERLAP
            cells.append([label, missing if found is None else f"{found:+.1f} %"])
    if not cells:
        return []
    return ["### BD-rate", "", *markdown_table(["family", f"against {anchor}"], cells), "", BD, ""]


def kodak_row(label: str, point: RatePoint) -> dict[str, Any]:
    """A line of the CSV: one point of a family on Kodak, whose model bits and qualities are those of tiles."""
    line: dict[str, Any] = {
        "images": "kodak",
        "series": label,
        "setting": point.codes,
        "tokens": point.mean("bits/tokens"),
    }
    line |= {"layout": TILES, "seeds": len(point.row.records)}
    keys = {"PSNR (dB)": "psnr_db", "SSIM": "ssim", "nominal bpp": "nominal_bpp", "coded bpp": "table_bpp"}
    line |= {name: point.mean(f"kodak/{key}") for name, key in keys.items()}
    return line | {"model bpp": point.mean(KODAK_BPP)}


def codec_rows(codecs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lines of the CSV, one a codec, setting and layout: means over photographs, bits without the header and the header's."""
    rows = []
    for name, codec in codecs["codecs"].items():
        for point in codec["points"]:
            files, pixels, size = (np.asarray(point[key], dtype=float) for key in ("files", "pixels", "bytes"))
            header = 8 * point["header_bytes_a_file"] * files / pixels
            row = {"images": "kodak", "series": name, "setting": point["setting"], "layout": point["layout"]}
            row |= {"PSNR (dB)": float(np.mean(point["psnr_db"])), "SSIM": float(np.mean(point.get("ssim", np.nan)))}
            rows.append(
                row | {"coded bpp": float((8 * size / pixels - header).mean()), "header bpp": float(header.mean())}
            )
    return rows


def kodak_series(coded: Sequence[Mapping[str, Any]], on_kodak: Sequence[tuple[View, list[Family]]]) -> dict[str, Any]:
    """Label to (bits, PSNR, layout of a codec or None of a tokenizer)."""
    series: dict[str, Any] = {}
    for row in coded:
        label = row["series"] if row["layout"] == PICTURE else f"{row['series']}, tiles"
        bits, quality, _ = series.setdefault(label, ([], [], row["layout"]))
        bits.append(row["coded bpp"])
        quality.append(row["PSNR (dB)"])
    for view, families in on_kodak:
        found = series_of(families, KODAK_BPP, "kodak/psnr_db")
        several = len(on_kodak) > 1
        series |= {f"{label} ({view.group.stem})" if several else label: own for label, own in found.items()}
    return series


def kodak_section(
    codecs: Mapping[str, Any], series: Mapping[str, Any], table: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Markdown: BD-rates against JPEG, all points, and which codecs these are."""
    means = {label: (bits, quality) for label, (bits, quality, _) in series.items()}
    lines = ["## Kodak", "", KODAK, ""]
    lines += bd_lines(means, CODEC_ANCHOR) if CODEC_ANCHOR in means else []
    headings = {"PSNR (dB)": "dB", "SSIM": "", "model bpp": "bits/pixel", "nominal bpp": "bits/pixel"}
    headings |= {"coded bpp": "bits/pixel", "header bpp": "bits/pixel"}
    cells = [
        [
            str(row["series"]),
            f"{row['setting']:g}",
            row["layout"],
            *(_number(row.get(key), unit) for key, unit in headings.items()),
        ]
        for row in table
        if row["images"] == "kodak"
    ]
    lines += ["### All points on Kodak", "", *markdown_table(["series", "setting", "layout", *headings], cells), ""]
    versions = [
        f"- {name}: {codec['version']}; setting: {codec['setting']}" for name, codec in codecs["codecs"].items()
    ]
    return [
        *lines,
        *(["Codecs, and what their setting is (of tokenizers it is V):", "", *versions] if versions else []),
    ]


def _number(value: float | None, unit: str) -> str:
    return "" if value is None or not np.isfinite(value) else number(value, unit)
