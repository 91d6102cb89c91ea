"""Among which rows one may be called the best: what they must share, and what sets a row apart from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tokbench.report.formatting import number, style
from tokbench.report.groups import surroundings
from tokbench.report.rows import NOMINAL_BITS, Row, flatten, mean_of
from tokbench.report.view import View

Peers = Literal["equal bits", "all"]
BITS_TOLERANCE = 0.01  # of nominal bits, within which rows count as equal
BUDGET = ("steps", "batch", "width", "depth")  # of the tokenizer's training; its learning rate is a recipe's own
MAX_TOLD = 2  # differences named in a cell


@dataclass
class Comparison:
    """Rows that may be ranked among each other."""

    amount: float | None
    around: Mapping[str, Any]
    rows: list[Row]


@dataclass(frozen=True)
class Matched:
    """What rows of one comparison share: an amount within a tolerance, and settings."""

    amount: str
    unit: str
    tolerance: float
    needed: bool  # whether rows without the amount are in no comparison
    around: Callable[[Row], dict[str, Any]]


def _trained(row: Row) -> dict[str, Any]:
    config = flatten(row.records[0].config)
    parts = ("tokenizer", "loss", "budget.images", *(f"budget.tokenizer.{key}" for key in BUDGET), "budget.precision")
    kept = {key: config[key] for key in config if any(key == part or key.startswith(f"{part}.") for part in parts)}
    return kept | {"searched": bool(row.records[0].config.get("tuning"))}


def _generated(row: Row) -> dict[str, Any]:
    return flatten(json.loads(surroundings(row.records[0]))) | {"tokens": mean_of(row, "bits/tokens")}


MATCHED = {
    "equal bits": Matched(NOMINAL_BITS, "bits/image", BITS_TOLERANCE, True, _trained),
    "all": Matched("common/cost/training_flops", "FLOPs", 0.05, False, _generated),
}


def peer_groups(view: View, peers: Peers) -> list[list[Row]]:
    """The rows of each comparison, in the order of the view.

    "equal bits": discrete rows of equal nominal bits (within 1 %), one encoder and decoder, loss, and budget of the tokenizer's
    training: steps, batch, width, depth, precision, images, searched or not. "all": rows that differ in the tokenizer alone:
    one backbone, scheme and budget, as many tokens, and training FLOPs within 5 %.
    """
    return [comparison.rows for comparison in _comparisons(view, peers)]


@lru_cache(maxsize=8)
def _comparisons(view: View, peers: Peers) -> list[Comparison]:
    matched = MATCHED[peers]
    found: list[Comparison] = []
    for row in view.rows:
        amount, around = mean_of(row, matched.amount), matched.around(row)
        if amount is None and matched.needed:
            continue  # continuous: no row has as many bits
        same = (one for one in found if _near(amount, one.amount, matched.tolerance) and one.around == around)
        home = next(same, None)
        if home is None:
            found.append(Comparison(amount, around, [row]))
        else:
            home.rows.append(row)
    return found


def _near(amount: float | None, first: float | None, tolerance: float) -> bool:
    if amount is None or first is None:
        return amount is first
    return abs(amount - first) <= tolerance * first


def standing(view: View, row: Row, peers: Peers) -> str:
    """`7 rows of 638 bits`, or why a row stands alone: `none: budget.tokenizer.steps 6000, not 600`."""
    matched, found = MATCHED[peers], _comparisons(view, peers)
    own = next((one for one in found if row in one.rows), None)
    if own is None:
        return "none: no nominal bits"
    if len(own.rows) > 1:
        tokens = own.around.get("tokens")
        told = [*([f"{tokens:,.0f} tokens"] if tokens else []), *_told(own.amount, matched)]
        return " of ".join([f"{len(own.rows)} rows", *([", ".join(told)] if told else [])])
    others = [one for one in found if one is not own]
    apart = [_apart(own, one, matched) for one in others if (one.amount is None) == (own.amount is None)]
    if not apart:
        return "none: no other row in its scheme" if others else "none: no other row"
    nearest = min(apart, key=len)
    more = f", +{len(nearest) - MAX_TOLD} more" if len(nearest) > MAX_TOLD else ""
    return f"none: {', '.join(nearest[:MAX_TOLD])}{more}"


def _told(amount: float | None, matched: Matched) -> list[str]:
    return [] if amount is None else [f"{number(amount, matched.unit)} {style(matched.unit).heading}"]


def _apart(own: Comparison, other: Comparison, matched: Matched) -> list[str]:
    """What sets the one apart from the other, each with both values."""
    keys = sorted({*own.around, *other.around})
    differ = [(k, own.around.get(k), other.around.get(k)) for k in keys if own.around.get(k) != other.around.get(k)]
    told = [f"{key} {json.dumps(mine)}, not {json.dumps(theirs)}" for key, mine, theirs in differ]
    if _near(own.amount, other.amount, matched.tolerance):
        return told
    mine, theirs = (_told(one.amount, matched)[0] for one in (own, other))
    return [f"{mine}, not {theirs}", *told]
