"""The rules by which records decide a claim: each gives what became of its comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
from scipy import stats

from tokbench.metrics.statistics import Difference
from tokbench.report.formatting import EMPTY, number
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, flatten, summarize
from tokbench.report.view import LEVEL, View

ARRAYS = {  # measures with a value an image
    "reconstruction/psnr_db": "psnr_db",
    "reconstruction/ssim": "ssim",
    "legibility/char_accuracy": "char_accuracy",
    "legibility/string_accuracy": "string_accuracy",
    "reconstruction/caption_shown": "caption_shown",
}
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

    @property
    def word(self) -> str:
        return {True: "yes", False: "no", None: "cannot decide"}[self.agrees]


def find_row(view: View, side: str | Mapping[str, Any]) -> Row | None:
    """The one row of that name and those dotted settings, other settings as in DEFAULTS; None of none or several."""
    found = find_rows(view, side)
    return found[0] if len(found) == 1 else None


def find_rows(view: View, side: str | Mapping[str, Any]) -> list[Row]:
    """The rows of that name and those dotted settings, other settings as in DEFAULTS."""
    side = _named(side)
    wanted = {**DEFAULTS, **{key: value for key, value in side.items() if key != "name"}}
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


def _sign(
    view: View, measure: str, minimum_effect: float, pair: Mapping[str, Any], show: Sequence[str]
) -> Finding | None:
    first, second = find_row(view, pair["first"]), find_row(view, pair["second"])
    found = difference(view, first, second, measure) if first and second else None
    if first is None or second is None or found is None:
        return None
    gap, seeds, unit = found
    return Finding(
        label=pair["label"],
        expected=pair["expected"],
        effect=f"{gap.mean:+.3g}",
        interval=_ends(gap),
        unit=unit,
        seeds=seeds,
        agrees=agrees(gap, pair["expected"], minimum_effect) if seeds >= MIN_SEEDS else None,
        shown={key.rpartition("/")[2].replace("_", " "): _both(first, second, key) for key in show},
        amount=gap.mean,
    )


def difference(view: View, first: Row, second: Row, measure: str) -> tuple[Difference, int, str] | None:
    """first - second with its 95 % interval (nan of one seed), the seeds behind it and the unit; None without common seeds.

    Measures of single images: the paired bootstrap over seeds and images. Others: Student's t over paired seeds.
    """
    if measure in ARRAYS:
        found = view.difference(first, second, ARRAYS[measure])
        return None if found is None else (*found, "dB" if measure.endswith("_db") else "")
    values = [{r.seed: m.value for r in row.records if (m := r.metrics.get(measure))} for row in (first, second)]
    seeds = [s for s in values[0] if values[0][s] is not None and values[1].get(s) is not None]
    if not seeds:
        return None
    gaps = np.array([float(values[0][s]) - float(values[1][s]) for s in seeds])  # type: ignore[arg-type]
    unit = next(r.metrics[measure].unit for r in first.records if measure in r.metrics)
    return interval(gaps), len(seeds), unit


def interval(gaps: np.ndarray) -> Difference:
    """The mean of (n,) gaps, one a seed, with Student's 95 % interval; of one gap without bounds (nan)."""
    if len(gaps) == 1:
        return Difference(float(gaps[0]), math.nan, math.nan, separable=False)
    reach = stats.t.ppf((1 + LEVEL) / 2, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    low, high = float(gaps.mean() - reach), float(gaps.mean() + reach)
    return Difference(float(gaps.mean()), low, high, separable=low > 0 or high < 0)


def _ends(gap: Difference) -> str:
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


def _both(first: Row, second: Row, key: str) -> str:
    return " / ".join(_mean(row, key) for row in (first, second))


def _mean(row: Row, key: str) -> str:
    summary = summarize(row.records, key)
    return EMPTY if summary is None or summary.mean is None else number(summary.mean, summary.unit)


def levels(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure` of each side is at `level` in every seed, to less than what counts."""
    rows = [find_row(view, side) for side in sides]
    return [
        None if row is None else _level(row, measure, level, f"{level:g}", lambda v: abs(v - level) < minimum_effect)
        for row in rows
    ]


def at_most(
    view: View, measure: str, minimum_effect: float, *, sides: Sequence[str | Mapping[str, Any]], level: float
) -> list[Finding | None]:
    """Whether `measure` of each side stays below `level` by what counts in every seed."""
    rows = [find_row(view, side) for side in sides]
    most = level - minimum_effect
    return [
        None if row is None else _level(row, measure, level, f"below {level:g}", lambda v: v <= most) for row in rows
    ]


def collapse(view: View, measure: str, minimum_effect: float, *, has: str, needs: str) -> list[Finding | None]:
    """Whether `measure` has fallen from 1 by what counts in every seed of each row whose `has` is below its `needs`."""
    pairs = [(row, _value(row, has), _value(row, needs)) for row in view.rows]
    poor = [row for row, own, least in pairs if own is not None and least is not None and own < least]
    most = 1 - minimum_effect
    return [_level(row, measure, 1.0, f"at most {most:g}", lambda v: v <= most) for row in poor] or [None]


def enough(
    view: View, measure: str, minimum_effect: float, *, rows: Sequence[Mapping[str, Any]]
) -> list[Finding | None]:
    """Whether the measure `few` of each of the `rows` is at most `minimum_effect` percent above the row's own `measure`."""
    return [_enough(view, measure, minimum_effect, side) for side in rows]


def _enough(view: View, measure: str, most: float, side: Mapping[str, Any]) -> Finding | None:
    row = find_row(view, side["row"])
    pairs = [[r.metrics.get(key) for key in (side["few"], measure)] for r in row.records] if row else []
    values = [(few.value, many.value) for few, many in pairs if few and many and few.value is not None and many.value]
    if not values:
        return None
    gap = interval(np.array([100 * (few - many) / many for few, many in values]))
    agreed = True if gap.high <= most else False if gap.low > most else None
    return Finding(
        label=side["label"],
        expected=f"at most {most:g} % above",
        effect=f"{gap.mean:+.3g}",
        interval=_ends(gap),
        unit="%",
        seeds=len(values),
        agrees=agreed if len(values) >= MIN_SEEDS else None,
        amount=gap.mean,
    )


def _level(row: Row, measure: str, level: float, expected: str, holds: Callable[[float], bool]) -> Finding | None:
    values = [m.value for r in row.records if (m := r.metrics.get(measure)) is not None and m.value is not None]
    if not values:
        return None
    votes = {holds(value) for value in values}
    return Finding(
        label=row.label,
        expected=expected,
        effect=f"{np.mean(values) - level:+.3g}",
        interval=f"{min(values) - level:+.3g} to {max(values) - level:+.3g} (all seeds)",
        unit="",
        seeds=len(values),
        agrees=votes.pop() if len(values) >= MIN_SEEDS and len(votes) == 1 else None,
        amount=float(np.mean(values)) - level,
    )


def _value(row: Row, key: str) -> float | None:
    summary = summarize(row.records, key)
    return None if summary is None else summary.mean


RULES: Mapping[str, Callable[..., list[Finding | None]]] = {
    "signs": signs,
    "levels": levels,
    "at_most": at_most,
    "collapse": collapse,
    "enough": enough,
}
