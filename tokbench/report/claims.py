"""Published claims, each kept in the experiment that decides it (`about.claims` of experiments/*.yaml), with its verdict.

A verdict is computed from records by a rule of `tokbench.report.rules`; what counts as an effect is fixed in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tokbench.report.bits_rule import equal_bits
from tokbench.report.experiments import files_of, plain_files
from tokbench.report.floors import FLOORS
from tokbench.report.formatting import EMPTY, markdown_table
from tokbench.report.levels import at_least, at_most, carried, collapse, enough, levels
from tokbench.report.parity import parity
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rules import Finding, signs
from tokbench.report.view import View

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RULES: Mapping[str, Callable[..., list[Finding | None]]] = {
    **{"signs": signs, "levels": levels, "at_most": at_most, "at_least": at_least},
    **{"carried": carried, "collapse": collapse, "enough": enough, "parity": parity, "equal_bits": equal_bits},
}
TOYS = "python -m tokbench.toys"
ABOUT = {"question", "tier", "minutes"}  # which a file must say, beside its claims
SWEPT = {"stages", "images", "image_weights"}  # and what its own values may be looked up in
TIERS = ("cpu", "gpu", "reference")
UNDECIDED = "cannot decide"


@dataclass(frozen=True)
class Claim:
    """One claim: `name` is its number in the list of claims, with what tells variants of it apart."""

    name: str
    source: str
    hypothesis: str
    measure: str  # a record's key
    minimum_effect: float  # in the measure's unit: an effect below it is none
    verdict: Mapping[str, Any]  # `rule`, a name of RULES, and its arguments
    experiment: str
    tier: str
    minutes: float  # that the whole experiment takes on two quiet cores, about
    afterwards: bool = False  # the rule was written when records of it were known

    @property
    def title(self) -> str:
        """The name, with a mark of a rule that was written afterwards."""
        return f"{self.name} †" if self.afterwards else self.name

    @property
    def command(self) -> str:
        """What makes its records."""
        return TOYS if self.measure.startswith("toy/") else f"make sweep EXPERIMENT={self.experiment}"


def load_claims(folder: Path = EXPERIMENTS) -> list[Claim]:
    """The claims of all experiments by their numbers; ValueError names a file, the key and the rule it breaks."""
    return list(_load(Path(folder)))


@lru_cache(maxsize=8)
def questions(folder: Path = EXPERIMENTS) -> dict[str, str]:
    """Experiment to what it asks, of all that say so."""
    about = {path.stem: yaml.safe_load(path.read_text()).get("about") or {} for path in sorted(folder.glob("*.yaml"))}
    return {name: str(said["question"]) for name, said in about.items() if "question" in said}


@lru_cache(maxsize=8)
def _load(folder: Path) -> tuple[Claim, ...]:
    claims = [claim for path in sorted(folder.glob("*.yaml")) for claim in _claims(path)]
    return tuple(sorted(claims, key=lambda claim: (number_of(claim.name), claim.name)))


def _claims(path: Path) -> list[Claim]:
    about = yaml.safe_load(path.read_text()).get("about") or {}
    if about and set(about) - {"claims"} - SWEPT != ABOUT:
        must, may = ", ".join(sorted(ABOUT)), ", ".join(sorted({"claims"} | SWEPT))
        raise ValueError(f"{path.name}: about must hold {must} and perhaps {may}, got {sorted(about)}")
    if about and about["tier"] not in TIERS:
        raise ValueError(f"{path.name}: about.tier must be one of {', '.join(TIERS)}, got {about['tier']!r}")
    claims = []
    for entry in about.get("claims", ()):
        try:
            claim = Claim(**entry, experiment=path.stem, tier=about["tier"], minutes=about["minutes"])
        except TypeError as error:
            raise ValueError(f"{path.name}: a claim of about.claims: {error}".replace("Claim.__init__()", "")) from None
        if claim.verdict.get("rule") not in RULES:
            raise ValueError(
                f"{path.name}: {claim.name}: verdict.rule must be one of {', '.join(RULES)}, got {claim.verdict.get('rule')!r}"
            )
        claims.append(claim)
    return claims


def number_of(name: str) -> int:
    """10 of "C10" or of "C10, tuned"."""
    return int(name.split(",")[0].removeprefix("C"))


def findings_of(claim: Claim, view: View) -> list[Finding | None]:
    """What became of each comparison of the claim; None of one whose rows are missing."""
    view.asked[:] = [frozenset(files_of(view.folder.parent, claim.experiment)), plain_files(view)]
    arguments = {key: value for key, value in claim.verdict.items() if key != "rule"}
    return RULES[claim.verdict["rule"]](view, claim.measure, claim.minimum_effect, **arguments)


def verdict(findings: Sequence[Finding | None]) -> str:
    """The word for a claim, from its comparisons."""
    votes = [finding.agrees for finding in findings if finding]
    if votes and len(votes) == len(findings) and all(vote is True for vote in votes):
        return "supported"
    if True in votes and False in votes:
        return "mixed"
    return "contradicted" if False in votes and True not in votes else UNDECIDED


def qualified(findings: Sequence[Finding | None]) -> str:
    """The verdict with what kind of yes or no all of its comparisons are, or what leaves it undecided."""
    word = verdict(findings)
    found = [finding for finding in findings if finding]
    if word == UNDECIDED:
        return f"{word} ({_lacks(findings)})"
    kinds = {finding.why for finding in found if finding.agrees is (word == "supported")}
    (kind,) = kinds if len(kinds) == 1 and word != "mixed" else (None,)
    return f"{word} ({kind})" if kind else word


def _lacks(findings: Sequence[Finding | None]) -> str:
    """What leaves them undecided: rows, seeds, what all that are open share, or wide intervals."""
    if None in findings:
        return "rows are missing"
    if min(finding.seeds for finding in findings if finding) < MIN_SEEDS:
        return "too few seeds"
    reasons = {finding.why for finding in findings if finding and finding.agrees is None}
    (reason,) = reasons if len(reasons) == 1 else (None,)
    return reason or "both answers are within reach"


def span(findings: Sequence[Finding | None]) -> str:
    """The effect with its interval of a single comparison, of several how many, the least and the most; with the unit."""
    found = [finding for finding in findings if finding]
    amounts = [finding for finding in found if finding.amount is not None]
    if not amounts:
        return "none"
    if len(found) == 1:
        interval = found[0].interval.replace(" (", ", ").rstrip(")")
        return f"{found[0].effect} ({interval}) {found[0].unit}".rstrip()
    least, most = (end(amounts, key=lambda finding: finding.amount or 0.0) for end in (min, max))
    return f"{len(amounts)} effects: {least.effect} … {most.effect} {least.unit}".rstrip()


def render_claims(view: View) -> list[str]:
    """Markdown of the verdicts and of their comparisons; [] where the group has none of the rows."""
    found = [(claim, findings_of(claim, view)) for claim in load_claims()]
    known = [(claim, findings) for claim, findings in found if any(findings)]
    if not known:
        return []
    summary = [[c.title, c.source, c.hypothesis, f"`{c.experiment}`", qualified(findings)] for c, findings in known]
    heads = ["claim", "source", "says", "experiment", "verdict here"]
    lines = [*markdown_table(heads, summary, words=True), "", RULE, ""]
    for claim, findings in known:
        lines += [f"#### {claim.title}: {claim.hypothesis}", "", *comparisons(claim, findings), ""]
    return lines


def comparisons(claim: Claim, findings: Sequence[Finding | None]) -> list[str]:
    """Markdown table of the comparisons that have their rows, and how many have not."""
    shown = [finding for finding in findings if finding]
    extra = list(dict.fromkeys(key for finding in shown for key in finding.shown))
    effect = f"effect ({shown[0].unit})" if shown[0].unit else "effect"
    heads = ["comparison", "expected", effect, "95 % interval", "seeds", *extra, "agrees"]
    rows = [
        [f.label, f.expected, f.effect, f.interval, str(f.seeds), *(f.shown.get(key, EMPTY) for key in extra), f.word]
        for f in shown
    ]
    missing = len(findings) - len(shown)
    told = f" {missing} of {len(findings)} comparisons have no runs here." if missing else ""
    counts = f"An effect counts from {claim.minimum_effect:g} {shown[0].unit}".rstrip()
    return [*markdown_table(heads, rows), "", f"{counts}.{told}"]


RULE = (
    "Supported: every comparison agrees. Contradicted: none agrees, and one disagrees. Mixed: some agree, some disagree;"
    " mixed is decided, with an answer for each comparison that has one."
    " A comparison agrees where its interval lies on the expected side of 0 and the effect is as large as what counts; it"
    " disagrees where the interval holds no such effect: because it lies on the other side, holds 0, or has the claimed sign and"
    " is too small to count. No change is expected: the interval lies within what counts. Not below is expected: the interval"
    " lies above less than what counts (no worse, which nothing at all is too)."
    f" Cannot decide: otherwise, such as intervals that hold both, rows that are missing, or fewer than {MIN_SEEDS} seeds."
    f" Nothing within {FLOORS} noise floors decides: of a distance between unpaired images, where both sides are so near 0, or"
    f" where their difference is within {FLOORS} floors and these are more than what counts."
    " †: the rule, what counts or the number of seeds were chosen when records of it were known. All of it at this scale only:"
    " small networks, short training, small images."
)
