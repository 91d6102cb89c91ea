"""The columns of the main table: what each says of a row, also from other groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from tokbench.report.columns import show
from tokbench.report.equal_bits import front, quality_at
from tokbench.report.formatting import EMPTY, heading, number
from tokbench.report.peers import Peers
from tokbench.report.ranking import winners
from tokbench.report.rate_families import MODEL_BPP, PSNR, Family, make_families
from tokbench.report.rows import Row, mean_of, summarize
from tokbench.report.view import View

DISTANCES = (  # the first that a row has
    ("gFD", "generation/fd_classifier"),
    ("KID", "generation/kid_random64"),
)
BY_BUDGET = ("width", "depth")  # of a tokenizer: what its budget says
Block = Literal["common", "native"]
Cell = Callable[[View, Row, Sequence[View]], str]


@dataclass(frozen=True)
class Field:
    """One column: a heading and a cell from the row, its group and all groups."""

    heading: str
    cell: Cell


def _own(name: str, key: str, unit: str, *, peers: Peers | None = None, array: str | None = None) -> Field:
    """A measure of the row, in bold where it leads its peers."""

    def cell(view: View, row: Row, views: Sequence[View]) -> str:
        summary = summarize(row.records, key)
        return EMPTY if summary is None else _bold(show(summary), view, row, key, peers, array)

    return Field(heading(name, unit), cell)


def _bold(text: str, view: View, row: Row, key: str, peers: Peers | None, array: str | None) -> str:
    leads = peers is not None and row.label in winners(view, key, peers=peers, array=array)
    return f"**{text}**" if leads else text


def _distance(name: str, block: Block) -> Field:
    """The distance of generated images with its floor: gFD, or KID where no classes make one; of the native block with its
    scheme, which is each row's own.
    """

    def cell(view: View, row: Row, views: Sequence[View]) -> str:
        found = [(label, key, summarize(row.records, f"{block}/{key}")) for label, key in DISTANCES]
        measured = (one for one in found if one[2] is not None and one[2].mean is not None)
        label, key, summary = next(measured, found[0])
        if summary is None or summary.mean is None:
            return EMPTY if summary is None else show(summary)
        beside = [] if summary.floor is None else [f"floor {number(summary.floor, summary.unit)}"]
        beside += [row.records[0].blocks[block]] if block == "native" and block in row.records[0].blocks else []
        shown = _bold(show(summary), view, row, f"{block}/{key}", "all" if block == "common" else None, None)
        return f"{label} {shown}" + (f" ({', '.join(beside)})" if beside else "")

    return Field(name, cell)


def _sum(name: str, keys: Sequence[str], unit: str) -> Field:
    def cell(view: View, row: Row, views: Sequence[View]) -> str:
        found = [mean for key in keys if (mean := mean_of(row, key)) is not None]
        return number(sum(found), unit) if found else EMPTY

    return Field(heading(name, unit), cell)


def _per_pixel(name: str, key: str) -> Field:
    """A measure in bits an image, by pixel: over the nominal bits of both kinds, which every discrete row has."""

    def cell(view: View, row: Row, views: Sequence[View]) -> str:
        keys = key, "bits/nominal_bits_per_image", "bits/nominal_bits_per_pixel"
        found, image, pixel = (mean_of(row, each) for each in keys)
        return number(found * pixel / image, "bits/pixel") if found is not None and image and pixel else EMPTY

    return Field(heading(name, "bits/pixel"), cell)


def _elsewhere(name: str, key: str, unit: str) -> Field:
    """The measure of the same tokenizer on the data that have it: at the row's budget, or the newest at another, named then."""

    def cell(view: View, row: Row, views: Sequence[View]) -> str:
        twins = [twin for other in views for twin in other.rows if same_tokenizer(row, twin)]
        found = [(twin, s) for twin in twins if (s := summarize(twin.records, key)) is not None and s.mean is not None]
        if not found:
            return EMPTY
        budget = row.records[0].budget
        twin, summary = max(found, key=lambda pair: (pair[0].records[0].budget == budget, _made(pair[0])))
        other = twin.records[0].budget
        return show(summary) if other == budget else f"{show(summary)} (budget {other})"

    return Field(heading(name, unit), cell)


def _made(row: Row) -> str:
    return max(record.created for record in row.records)


def same_tokenizer(row: Row, other: Row) -> bool:
    """Whether two rows are one tokenizer with one quantizer, whatever data and budget trained it."""
    mine, theirs = row.records[0], other.records[0]
    same = mine.name == theirs.name and mine.config.get("quantizer") == theirs.config.get("quantizer")
    return same and _around(row) == _around(other)


def _around(row: Row) -> Mapping[str, object]:
    """What stands around a row's quantizer, but for the sizes that follow from its budget."""
    config = row.records[0].config
    tokenizer, loss = config.get("tokenizer"), config.get("loss")
    kept = tokenizer.items() if isinstance(tokenizer, dict) else ()
    return {key: value for key, value in kept if key not in BY_BUDGET} | {"loss": loss}


def _shape(view: View, row: Row, views: Sequence[View]) -> str:
    tokens, dim = (mean_of(row, key) for key in ("bits/tokens", "bits/dim"))
    return EMPTY if tokens is None or dim is None else f"{tokens:,.0f} x {dim:,.0f}"


def _interval(view: View, row: Row, views: Sequence[View]) -> str:
    found, mean = view.interval(row, "psnr_db"), mean_of(row, PSNR)
    if mean is None:
        return EMPTY
    ends = "" if found is None else f" [{number(found[0], 'dB')}, {number(found[1], 'dB')}]"
    return _bold(number(mean, "dB"), view, row, PSNR, "equal bits", "psnr_db") + ends


def _at_equal_bits(view: View, row: Row, views: Sequence[View]) -> str:
    """PSNR at the model bits of FSQ, over the V sweep of the row's method: in its group, or at another budget, named then."""
    images = view.group.any_record.data.fingerprints
    others = (other for other in views if other is not view and other.group.any_record.data.fingerprints == images)
    for other in (view, *others):
        found = _read_off(other, row)
        if found is not None:
            return found if other is view else f"{found} (budget {other.group.any_record.budget})"
    return EMPTY


def _read_off(view: View, row: Row) -> str | None:
    """The same in one group; None where it has no FSQ or no two V of the method in the row's autoencoder."""
    families = [family for family in _families(view) if _around(row) == _around(family.points[0].row)]
    wanted = [p.mean(MODEL_BPP) for f in families for p in f.points if p.row.records[0].name == "fsq"][:1]
    for family in families:
        of_row = family.points[0].row.records[0].name.split("_sized")[0] == row.records[0].name
        if wanted and of_row and len(family.points) > 1:
            bits, psnr = (np.array([p.mean(key) for p in family.points]) for key in (MODEL_BPP, PSNR))
            kept = front(bits, psnr)
            (found,) = quality_at(bits[kept], psnr[kept], wanted)
            return number(float(found), "dB") if np.isfinite(found) else "NA (outside)"
    return None


@lru_cache(maxsize=4)
def _families(view: View) -> list[Family]:
    return make_families(view.rows)


def _seeds(view: View, row: Row, views: Sequence[View]) -> str:
    whole = sum(record.stage == "all" for record in row.records)
    return f"{len({record.seed for record in row.records})} / {whole}"


def _images(view: View, row: Row, views: Sequence[View]) -> str:
    """Those that were reconstructed, generated and captioned."""
    keys = ("generation/kid_random64", "understanding/caption_accuracy", "understanding/caption_exactness")
    found = [_counted(row, f"common/{key}") for key in keys]
    counts = [row.records[0].data.sizes.get("test", 0), found[0], found[1] or found[2]]
    return " / ".join(EMPTY if count is None else f"{count:,}" for count in counts)


def _counted(row: Row, key: str) -> int | None:
    """The images of one seed behind a measure; None where it has no value."""
    measures = (record.metrics.get(key) for record in row.records)
    return next((m.n for m in measures if m is not None and m.value is not None), None)


FIELDS = (
    Field("tokens N x D", _shape),
    _own("nominal", "bits/nominal_bits_per_pixel", "bits/pixel"),
    _per_pixel("used", "bits/marginal_bits_per_image"),
    _own("model", "native/bits/model_bits_per_pixel", "bits/pixel"),
    Field("PSNR (dB) [95 %]", _interval),
    _own("SSIM", "reconstruction/ssim", "", peers="equal bits", array="ssim"),
    Field("PSNR at FSQ's model bits (dB)", _at_equal_bits),
    _elsewhere("strings read of those read in originals, glyphs", "legibility/string_accuracy_relative", "share"),
    _own("lossless total", "information/lossless_bits_per_subpixel", "bits/subpixel"),
    _own("caption accuracy, common", "common/understanding/caption_accuracy", "share"),
    _own("right caption, common", "common/understanding/caption_exactness", "share"),
    _distance("generation, common", "common"),
    _distance("generation, native", "native"),
    _elsewhere("caption shown, scenes", "common/generation/caption_shown", "share"),
    _own("text", "common/understanding/caption_bits_per_byte", "bits/byte"),
    _sum("training", ("cost/tokenizer_training_flops", "common/cost/training_flops"), "FLOPs"),
    _own("image, common", "common/cost/generation_flops_analytic", "FLOPs/image"),
    _own("passes, common", "common/cost/passes", "passes/image"),
    _own("latency, common", "common/cost/latency_seconds", "s/image"),
    _own("throughput, common", "common/cost/throughput_images_per_second", "images/s"),
    _own("encode", "cost/encode_seconds", "s/image"),
    _own("decode", "cost/decode_seconds", "s/image"),
    Field("seeds: reconstruction / generation", _seeds),
    Field("images: reconstructed / generated / captioned", _images),
)
