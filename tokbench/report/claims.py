"""Published claims about quantizers, each a set of expected signs between two rows, with a verdict computed from records.

A comparison is the paired difference of PSNR between two rows on the same images and seeds; its sign counts where the
interval leaves out 0 and at least three seeds are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokbench.metrics.statistics import Difference
from tokbench.report.formatting import EMPTY, markdown_table, number
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, flatten, summarize
from tokbench.report.view import View

Settings = Mapping[str, Any]
SIGNS = {1: "above", -1: "below", 0: "no change"}
SAME_DB = 0.1  # an interval inside it is no change, one outside it is


@dataclass(frozen=True)
class Side:
    """A row by its name and by settings of its configuration, dotted."""

    name: str
    settings: Settings

    def find(self, view: View) -> Row | None:
        """The one row with these settings, and the defaults in all others that the claims vary; None of none or several."""
        wanted = {**DEFAULTS, **self.settings}
        found = [row for row in view.rows if row.records[0].name == self.name and _fits(row, wanted)]
        return found[0] if len(found) == 1 else None


DEFAULTS: Settings = {
    "quantizer.codebook_size": 1000,
    "quantizer.init": "uniform",
    "quantizer.beta": 0.25,
}


@dataclass(frozen=True)
class Pair:
    """One comparison: `label`, two rows, and the sign that the claim expects of first - second (0: no difference)."""

    label: str
    first: Side
    second: Side
    expected: int


@dataclass(frozen=True)
class Claim:
    """A claim of a paper or post, its number in the list of claims, and the comparisons that decide it."""

    name: str
    source: str
    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Finding:
    """What became of one comparison."""

    cells: tuple[str, ...]
    agrees: bool | None  # None: undecided


def render_claims(view: View) -> list[str]:
    """Markdown of the verdicts and of their comparisons; [] where the group has none of the rows."""
    found = [(claim, [_compare(view, pair) for pair in claim.pairs]) for claim in CLAIMS]
    known = [(claim, findings) for claim, findings in found if any(findings)]
    if not known:
        return []
    summary = [[claim.name, claim.source, claim.text, verdict(findings)] for claim, findings in known]
    lines = [*markdown_table(["claim", "source", "says", "verdict here"], summary, words=True), "", RULE, ""]
    heads = [
        "comparison",
        "expected",
        "PSNR difference (dB)",
        "95 % interval",
        "seeds",
        "usage (%)",
        "rel. error",
        "agrees",
    ]
    for claim, findings in known:
        rows = [finding.cells for finding in findings if finding]
        lines += [f"#### {claim.name}: {claim.text}", "", *markdown_table(heads, rows), ""]
    return lines


RULE = (
    "Supported: every comparison agrees. Contradicted: none agrees, and one disagrees. Mixed: some agree, some disagree."
    f" No change: the interval lies within {SAME_DB} dB of 0."
    f" Undecided: otherwise, such as intervals that hold 0, rows that are missing, or fewer than {MIN_SEEDS} seeds."
    " All of it at this scale only: small networks, short training, small images."
)


def verdict(findings: Sequence[Finding | None]) -> str:
    """The word for a claim, from its comparisons; None is one whose rows are missing."""
    votes = [finding.agrees for finding in findings if finding]
    if len(votes) == len(findings) and all(vote is True for vote in votes):
        return "supported"
    if True in votes and False in votes:
        return "mixed"
    return "contradicted" if False in votes and True not in votes else "undecided"


def _compare(view: View, pair: Pair) -> Finding | None:
    first, second = pair.first.find(view), pair.second.find(view)
    found = view.difference(first, second, "psnr_db") if first and second else None
    if first is None or second is None or found is None:
        return None
    difference, seeds = found
    agrees = _agrees(difference, pair.expected) if seeds >= MIN_SEEDS else None
    cells = (
        pair.label,
        SIGNS[pair.expected],
        f"{difference.mean:+.2f}",
        f"{difference.low:+.2f} to {difference.high:+.2f}",
        str(seeds),
        _both(first, second, "bits/usage"),
        _both(first, second, "bits/relative_quantization_error"),
        {True: "yes", False: "no", None: "undecided"}[agrees],
    )
    return Finding(cells, agrees)


def _agrees(difference: Difference, expected: int) -> bool | None:
    """Whether the interval lies where the claim expects it; None where it holds both answers."""
    if expected == 0:
        inside = difference.low > -SAME_DB and difference.high < SAME_DB
        outside = difference.low > SAME_DB or difference.high < -SAME_DB
        return True if inside else False if outside else None
    return (difference.mean > 0) == (expected > 0) if difference.separable else None


def _both(first: Row, second: Row, key: str) -> str:
    return " / ".join(_mean(row, key) for row in (first, second))


def _mean(row: Row, key: str) -> str:
    summary = summarize(row.records, key)
    return EMPTY if summary is None or summary.mean is None else number(summary.mean, summary.unit)


def _fits(row: Row, wanted: Settings) -> bool:
    config = flatten(row.records[0].config)
    depth = config.get("budget.tokenizer.depth")  # the budget's own, unless the claim wants another
    same_depth = "tokenizer.depth" in wanted or config.get("tokenizer.depth") == depth
    return same_depth and all(config.get(key, DEFAULTS.get(key)) == value for key, value in wanted.items())


def _size(name: str, codes: int) -> Side:
    return Side(name, {"quantizer.codebook_size": codes})


def _both_estimators(init: str | float, beta: float) -> tuple[Side, Side]:
    """Rotation, then straight-through."""
    names = ("rotation", "straight_through")
    rotation, straight = ({"quantizer.estimator": n, "quantizer.init": init, "quantizer.beta": beta} for n in names)
    return Side("vq", rotation), Side("vq", straight)


def _levels(levels: list[int]) -> Side:
    return Side("fsq_levels", {"quantizer.levels": levels})


def _at_depth(name: str, depth: int) -> Side:
    return Side(name, {"tokenizer.depth": depth})


def _shifted(estimator: str, offset: float) -> Side:
    return Side("vq_shifted", {"quantizer.inner.estimator": estimator, "quantizer.offset": offset})


def _crossing(name: str) -> tuple[Pair, ...]:
    pairs = [(codes, -1) for codes in (15, 64, 240)] + [(codes, 1) for codes in (4375, 15360, 64000)]
    return tuple(Pair(f"FSQ - {name}, V = {v}", _size("fsq_sized", v), _size(name, v), sign) for v, sign in pairs)


_FEW = ([4] * 6, [2] * 12)
_FULL = ([8] * 4, [7, 5, 5, 5, 5])
CLAIMS = (
    Claim(
        "C5", "arXiv:2309.15505", "below 2^10 codes VQ is slightly better than FSQ, above it FSQ is", _crossing("vq")
    ),
    Claim("C5, tuned", "arXiv:2309.15505", "the same against a VQ that is well trained", _crossing("vq_tuned")),
    Claim(
        "C6",
        "arXiv:2309.15505, A.4.1",
        "levels below five are worse than levels of five or more, at 4096 codes (the paper's own set has 4375)",
        tuple(Pair(f"{full} - {few}", _levels(full), _levels(few), 1) for full in _FULL for few in _FEW),
    ),
    Claim(
        "C8",
        "kexue.fm/archives/9826",
        "FSQ wins with a strong encoder and decoder, VQ with a weak one",
        tuple(
            Pair(f"FSQ - {name}, {depth} residual blocks a side", _at_depth("fsq", depth), _at_depth(name, depth), sign)
            for name in ("vq", "vq_tuned")
            for depth, sign in ((0, -1), (3, 1))
        ),
    ),
    Claim(
        "C9",
        "kexue.fm/archives/9826",
        "plain VQ gets worse as its codebook grows (5000 codes worse than 500)",
        tuple(
            Pair(f"plain VQ, V = {v} - {w}", _size("vq", v), _size("vq", w), -1)
            for v in (4375, 15360)
            for w in (240, 1000)
        ),
    ),
    Claim(
        "C10",
        "arXiv:2410.06424",
        "the rotation trick reconstructs better than straight-through (in pixels, not in the paper's own VQ-VAE of 1024 codes)",
        (
            Pair("rotation - straight-through, plain VQ", Side("vq_rotation", {}), Side("vq", {}), 1),
            Pair("the same from k-means", *_both_estimators("kmeans", 0.25), 1),
            Pair("the same with running means", Side("vq_ema_rotation", {}), Side("vq_ema", {}), 1),
            Pair("the same, tuned VQ", Side("vq_tuned_rotation", {}), Side("vq_tuned", {}), 1),
        ),
    ),
    Claim(
        "C11",
        "kexue.fm/archives/10489",
        "where codes start much shorter than latents, the rotation trick is worse than straight-through",
        tuple(
            Pair(f"rotation - straight-through, start {start}, beta {beta}", *_both_estimators(start, beta), -1)
            for start in (0.006, 0.06)
            for beta in (0.25, 1.0, 4.0)
        ),
    ),
    Claim(
        "C12",
        "the rule itself",
        "far from the origin the rotation trick gets worse, straight-through does not",
        tuple(
            Pair(f"{estimator}, offset 16 - 0", _shifted(estimator, 16.0), _shifted(estimator, 0.0), sign)
            for estimator, sign in (("rotation", -1), ("straight_through", 0))
        ),
    ),
    Claim(
        "C12, by the rule",
        "arXiv:2410.06424, algorithm 1",
        "far from the origin the rotation trick is straight-through: angles vanish and the ratio of norms is 1",
        tuple(
            Pair(
                f"rotation - straight-through, offset {c:g}",
                _shifted("rotation", c),
                _shifted("straight_through", c),
                0,
            )
            for c in (4.0, 16.0)
        ),
    ),
)
