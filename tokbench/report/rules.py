"""The rule by which pairs of rows decide a claim, and what all rules share: each gives what became of its comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np

from tokbench.metrics.statistics import Difference, students_difference
from tokbench.report.floors import at_chance, within_floors
from tokbench.report.formatting import EMPTY, number
from tokbench.report.ranking import MIN_SEEDS, seed_gaps, seed_values
from tokbench.report.rows import Row, flatten, summarize
from tokbench.report.view import LEVEL, View

ARRAYS = {  # measures with a value an image
    "reconstruction/psnr_db": "psnr_db",
    "reconstruction/ssim": "ssim",
    "legibility/char_accuracy": "char_accuracy",
    "legibility/string_accuracy": "string_accuracy",
    "reconstruction/caption_shown": "caption_shown",
}
TOO_SMALL, OTHER_WAY, NONE_THAT_COUNTS = "claimed sign, too small to count", "the other way", "no effect that counts"
Expected = Literal["above", "below", "not below", "no change"]
DEFAULTS: Mapping[str, Any] = {  # of what the claims vary, where a side does not say
    "tokenizer.factor": 4,
    "quantizer.codebook_size": 1000,
    "quantizer.init": "uniform",
    "quantizer.beta": 0.25,
}


@dataclass(frozen=True)
class Finding:
    """What became of one comparison, as text; `agrees` is None where the records leave it open."""

    label: str
    expected: str
    effect: str
    interval: str
    unit: str
    seeds: int
    agrees: bool | None
    shown: Mapping[str, str] = field(default_factory=dict)
    amount: float | None = None  # of the effect; None where it cannot be told
    why: str | None = (
        None  # in a few words: what kind of no or yes it is, or what leaves it open beside seeds and interval
    )

    @property
    def word(self) -> str:
        told = f" ({self.why})" if self.why else ""
        return {True: "yes", False: "no", None: "cannot decide"}[self.agrees] + told


def find_row(view: View, side: str | Mapping[str, Any]) -> Row | None:
    """The one row of that name and those dotted settings, other settings as in DEFAULTS; None of none or several.

    Of several that fit, such as a run by hand with another learning rate, the one of the experiment that is asked, or else
    the one on the group's own page.
    """
    fitting = found = find_rows(view, side)
    for files in view.asked:
        if len(found) != 1:
            found = [row for row in fitting if any(record.file_name in files for record in row.records)]
    return found[0] if len(found) == 1 else None


def find_rows(view: View, side: str | Mapping[str, Any], *, free: Sequence[str] = ()) -> list[Row]:
    """The rows of that name and those dotted settings, other settings as in DEFAULTS but for those that are free."""
    side = _named(side)
    usual = {key: value for key, value in DEFAULTS.items() if key not in free}
    wanted = {**usual, **{key: value for key, value in side.items() if key != "name"}}
    return [row for row in view.rows if row.records[0].name == side["name"] and _fits(row, wanted)]


def _fits(row: Row, wanted: Mapping[str, Any]) -> bool:
    config = flatten(row.records[0].config)
    depth = config.get("budget.tokenizer.depth")  # the budget's own, unless the claim wants another
    same_depth = "tokenizer.depth" in wanted or config.get("tokenizer.depth", depth) == depth
    return same_depth and all(_is(config, key, value) for key, value in wanted.items())


def _is(config: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a flat configuration has that value; a node with values of its own is not None."""
    if value is None and any(name.startswith(f"{key}.") for name in config):
        return False
    return bool(config.get(key, DEFAULTS.get(key)) == value)


def signs(
    view: View, measure: str, minimum_effect: float, *, pairs: Sequence[Mapping[str, Any]], show: Sequence[str] = ()
) -> list[Finding | None]:
    """Of each pair, whether `measure` of `first` - `second` has the `expected` sign; `show` adds other measures of both.

    A pair's `each` maps settings of both sides to lists: one comparison for each combination; `label` may hold {setting}.
    """
    return [_sign(view, measure, minimum_effect, pair, show) for family in pairs for pair in expand(family)]


def expand(family: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pairs that a pair with `each` stands for; itself without."""
    pair = {key: value for key, value in family.items() if key != "each"}
    each = family.get("each", {})
    for values in product(*each.values()):
        settings = dict(zip(each, values, strict=True))
        label = pair["label"]
        for key, value in settings.items():
            label = label.replace(f"{{{key}}}", str(value))
        sides = {name: _named(pair[name]) | settings for name in ("first", "second")}
        yield {**pair, **sides, "label": label}


def _named(side: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": side} if isinstance(side, str) else dict(side)


Term = tuple[Row, str]  # with the key of its measure


def _sign(
    view: View, measure: str, minimum_effect: float, pair: Mapping[str, Any], show: Sequence[str]
) -> Finding | None:
    terms = [_terms(view, pair[name], measure) for name in ("first", "second")]
    found = _gap(view, terms, measure) if all(terms) else None
    if found is None:
        return None
    gap, seeds, unit = found
    first, second = (own[0][0] for own in terms)
    sides = [] if measure in ARRAYS else [term for own in terms for term in own]
    noise = within_floors(sides, gap.mean, minimum_effect) or at_chance(sides) if seeds >= MIN_SEEDS else None
    vote = agrees(gap, pair["expected"], minimum_effect) if seeds >= MIN_SEEDS and noise is None else None
    return Finding(
        label=pair["label"],
        expected=pair["expected"],
        effect=f"{gap.mean:+.3g}",
        interval=ends(gap),
        unit=unit,
        seeds=seeds,
        agrees=vote,
        why=noise if vote is None else kind(gap, pair["expected"], agrees=vote),
        shown={key.rpartition("/")[2].replace("_", " "): _both(first, second, key) for key in show},
        amount=gap.mean,
    )


def _terms(view: View, side: str | Mapping[str, Any], measure: str) -> list[Term]:
    """The row of a side and, where the side is an effect `over` another row, that one: itself but for the settings told.

    A side's `block` takes the place of the measure's. [] where a row is missing.
    """
    side = _named(side)
    own = {key: value for key, value in side.items() if key != "over"}
    rows = [
        (
            find_row(view, {key: value for key, value in part.items() if key != "block"}),
            in_block(measure, part.get("block")),
        )
        for part in (own, *([own | side["over"]] if "over" in side else []))
    ]
    return [(row, key) for row, key in rows if row] if all(row for row, _ in rows) else []


def in_block(measure: str, block: str | None) -> str:
    """The measure of that block of a run's generation; itself of None."""
    return measure if block is None else "/".join((block, *measure.split("/")[1:]))


def _gap(view: View, terms: Sequence[Sequence[Term]], measure: str) -> tuple[Difference, int, str] | None:
    """The first side less the second, as `difference` gives it; effects and other blocks by Student's t over the seeds."""
    (first, *more), (second, *others) = terms
    if not more and not others and first[1] == second[1] == measure:
        return difference(view, first[0], second[0], measure)
    values = [seed_values(row, key) for own in terms for row, key in own]
    signs = [1, *(-1 for _ in more), -1, *(1 for _ in others)]
    shared = [taken for taken in values[0] if all(taken in one for one in values)]
    gaps = [sum(sign * one[taken] for sign, one in zip(signs, values, strict=True)) for taken in shared]
    if not gaps:
        return None
    unit = next(r.metrics[first[1]].unit for r in first[0].records if first[1] in r.metrics)
    return students_difference(np.array(gaps), level=LEVEL), len(gaps), unit


def difference(view: View, first: Row, second: Row, measure: str) -> tuple[Difference, int, str] | None:
    """first - second with its 95 % interval (nan of one seed), the seeds behind it and the unit; None without common seeds.

    Measures of single images: the paired bootstrap over seeds and images, widened to Student's over seeds. Others: Student's t
    over paired seeds.
    """
    if measure in ARRAYS:
        found = view.difference(first, second, ARRAYS[measure])
        return None if found is None else (*found, "dB" if measure.endswith("_db") else "")
    gaps = seed_gaps(first, second, measure)
    if not len(gaps):
        return None
    unit = next(r.metrics[measure].unit for r in first.records if measure in r.metrics)
    return students_difference(gaps, level=LEVEL), len(gaps), unit


def ends(gap: Difference) -> str:
    """The interval as text."""
    return "NA (1 seed)" if math.isnan(gap.low) else f"{gap.low:+.3g} to {gap.high:+.3g}"


def agrees(gap: Difference, expected: Expected, minimum_effect: float) -> bool | None:
    """Whether the interval says what the claim expects; None where it holds both answers."""
    if expected == "no change":
        inside = gap.low > -minimum_effect and gap.high < minimum_effect
        outside = gap.low > minimum_effect or gap.high < -minimum_effect
        return True if inside else False if outside else None
    if expected == "not below":
        return True if gap.low > -minimum_effect else False if gap.high < -minimum_effect else None
    sign = {"above": 1, "below": -1}[expected]
    low, high = sorted((sign * gap.low, sign * gap.high))
    if low > 0 and sign * gap.mean >= minimum_effect:
        return True
    return False if high < minimum_effect else None


def kind(gap: Difference, expected: Expected, *, agrees: bool) -> str | None:
    """What kind of yes or no a vote is, of the sign and of what counts; None of a plain one."""
    if expected == "no change":
        return None
    if expected == "not below":
        return "no worse" if agrees and gap.low <= 0 else None
    low, high = sorted((gap.low, gap.high) if expected == "above" else (-gap.low, -gap.high))
    return None if agrees else TOO_SMALL if low > 0 else OTHER_WAY if high < 0 else NONE_THAT_COUNTS


def _both(first: Row, second: Row, key: str) -> str:
    return " / ".join(_mean(row, key) for row in (first, second))


def _mean(row: Row, key: str) -> str:
    summary = summarize(row.records, key)
    return EMPTY if summary is None or summary.mean is None else number(summary.mean, summary.unit)
