"""Each claim, by its own rule, on made-up records of the very runs that the experiments make."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from claim_rows import Run, Values, all_runs, parts_of, sides_of, stems_of, view_of
from report_factory import file, swept, swept_arrays

from tokbench import build, claims
from tokbench.report.bits_rule import SIZES
from tokbench.report.claims import TOYS, Claim, findings_of, load_claims, verdict
from tokbench.report.information import TOTAL
from tokbench.report.levels import TOKENS
from tokbench.report.parity import BACKBONE, PROXY, TOKENIZER
from tokbench.report.rules import expand, find_rows, in_block
from tokbench.report.view import View

CLAIMS = load_claims()
BIG = 1000.0  # in effects that count: decides whatever small noise does
SIGNS = {"above": 1, "below": -1, "not below": 1, "no change": 0}
Outcome = Callable[[int, int], float]  # sign and seed to effects that count
OUTCOMES: dict[str, Outcome] = {
    "supported": lambda sign, seed: BIG * sign,
    "contradicted": lambda sign, seed: -BIG * sign if sign else BIG,
    "cannot decide": lambda sign, seed: BIG * (seed - 1),
}


def stem_of(claim: Claim) -> str:
    """The group that holds the claim's experiment and a row for each of its sides."""
    name = "toys" if claim.command == TOYS else claim.experiment
    fitting = [
        stem for stem in sorted(stems_of(name)) if all(matching(stem, side, free_of(claim)) for side in sides_of(claim))
    ]
    assert len(fitting) == 1, f"{claim.name}: a side is no row of {claim.experiment} or of its neighbours"
    return fitting[0]


def _named(side: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": side} if isinstance(side, str) else side


def free_of(claim: Claim) -> tuple[str, ...]:
    """The settings that a side of the claim runs through."""
    return SIZES if claim.verdict["rule"] == "equal_bits" else ()


def matching(stem: str, side: Mapping[str, Any], free: tuple[str, ...] = ()) -> list[Run]:
    """The runs that a side stands for."""
    return _matching(stem, json.dumps({key: value for key, value in side.items() if key != "block"}), free)


@cache
def _matching(stem: str, side: str, free: tuple[str, ...]) -> list[Run]:
    view, by_hash = _plain(stem)
    return [by_hash[record.hash] for row in find_rows(view, json.loads(side), free=free) for record in row.records]


@cache
def _plain(stem: str) -> tuple[View, dict[str, Run]]:
    runs = all_runs()[stem]
    view = view_of(runs, lambda config, seed: {}, seeds=1)
    return view, {record.hash: run for record, run in zip(view.group.records, runs, strict=True)}


def keyed(config: Values) -> str:
    return build.digest(config)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_side_is_one_row_or_of_sizes_those_of_the_experiment_alone(claim: Claim) -> None:
    stem = stem_of(claim)
    for side in sides_of(claim):
        found = matching(stem, side, free_of(claim))
        if claim.verdict["rule"] == "equal_bits":
            assert len(found) > 1
        elif claim.verdict["rule"] == "parity":
            assert len(found) > 1
            assert {home for home, _ in found} == {claim.experiment}
        else:
            assert len(found) == 1, f"{side}: {[home for home, _ in found]}"


@pytest.mark.parametrize("word", OUTCOMES)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_records_make_a_claim_supported_contradicted_or_leave_it_open(claim: Claim, word: str) -> None:
    stem = stem_of(claim)
    values = VALUES[claim.verdict["rule"]](claim, stem, OUTCOMES[word])
    runs = [run for run in all_runs()[stem] if keyed(run[1]) in values]
    view = view_of(runs, lambda config, seed: values[keyed(config)](seed))
    findings = findings_of(claim, view)
    assert verdict(findings) == word, findings
    few = findings_of(claim, view_of(runs, lambda config, seed: values[keyed(config)](seed), seeds=2))
    assert verdict(few) == "cannot decide", "two seeds decide nothing"


Made = dict[str, Callable[[int], dict[str, float]]]  # digest of a configuration, to measures of a seed


def signs(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """Each first side, or effect, so far from its second: of what is not placed yet, the last gives way and the others are 0."""
    pairs = [pair for family in claim.verdict["pairs"] for pair in expand(family)]
    placed: dict[str, Callable[[int], float]] = {}
    keys: dict[str, str] = {}
    while pairs:
        ready = (
            p for p in pairs if any(_key(stem, parts_of(_named(p[way]))[0]) in placed for way in ("first", "second"))
        )
        pair = next(ready, pairs[0])
        pairs.remove(pair)
        weights: dict[str, int] = {}
        for way, sign in (("second", -1), ("first", 1)):
            parts = parts_of(_named(pair[way]))
            for part, own in zip(parts, (sign, -sign)[: len(parts)], strict=True):
                key = _key(stem, part)
                weights[key] = weights.get(key, 0) + own
                keys[key] = in_block(claim.measure, part.get("block"))
        free = [key for key, weight in weights.items() if weight and key not in placed]
        for key in free[:-1]:
            placed[key] = lambda seed: 0.0
        if free:
            placed[free[-1]] = _solved(dict(placed), weights, free[-1], _gap(claim, SIGNS[pair["expected"]], outcome))
    return {key: lambda seed, key=key, value=value: {keys[key]: value(seed)} for key, value in placed.items()}  # type: ignore[misc]


def _solved(
    placed: Mapping[str, Callable[[int], float]], weights: Mapping[str, int], last: str, gap: Callable[[int], float]
) -> Callable[[int], float]:
    others = {key: weight for key, weight in weights.items() if weight and key != last}
    return lambda seed: (gap(seed) - sum(w * placed[key](seed) for key, w in others.items())) / weights[last]


def _key(stem: str, side: Mapping[str, Any]) -> str:
    ((_, config),) = matching(stem, side)
    return keyed(config)


def _gap(claim: Claim, sign: int, outcome: Outcome) -> Callable[[int], float]:
    return lambda seed: (claim.minimum_effect or 1.0) * outcome(sign, seed)


def levels(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """At the level, or off it in every seed or in some."""
    off = {"supported": (0, 0, 0), "contradicted": (1, 1, 1), "cannot decide": (0, 1, 0)}[_word(outcome)]
    sides = [_key(stem, side) for side in sides_of(claim)]
    return {
        k: lambda seed: {claim.measure: claim.verdict["level"] + off[seed] * 2 * claim.minimum_effect} for k in sides
    }


def at_most(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """Half of the most allowed, or twice the level."""
    most = claim.verdict["level"] - claim.minimum_effect
    value = {"supported": (0.5, 0.5, 0.5), "contradicted": (2, 2, 2), "cannot decide": (0.5, 2, 0.5)}[_word(outcome)]
    sides = [_key(stem, side) for side in sides_of(claim)]
    return {k: lambda seed: {claim.measure: value[seed] * most} for k in sides}


def carried(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """The same share of the 4 bits a sub-pixel that the images hold."""
    made, measure = at_most(claim, stem, outcome), claim.measure
    return {
        k: lambda seed, values=values: {measure: 3 * 4.0 * values(seed)[measure], TOTAL: 4.0}
        for k, values in made.items()
    }


def at_least(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """Twice the least allowed above the level, or as much below it."""
    least = claim.verdict["level"] + claim.minimum_effect
    value = {"supported": (2, 2, 2), "contradicted": (-2, -2, -2), "cannot decide": (2, -2, 2)}[_word(outcome)]
    sides = [_key(stem, side) for side in sides_of(claim)]
    return {k: lambda seed: {claim.measure: value[seed] * least} for k in sides}


def equal_bits(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """Each family on a straight line of PSNR over the logarithm of bits, the first so far above the second."""
    made = Made()
    for pair in claim.verdict["pairs"]:
        gap = _gap(claim, SIGNS[pair["expected"]], outcome)
        for way in ("second", "first"):
            runs = matching(stem, _named(pair[way]), SIZES)
            for place, (_, config) in enumerate(runs):
                rate = 0.32 * 2 ** (place / (len(runs) - 1))  # round every number of bits that a rule asks for

                def values(
                    seed: int, rate: float = rate, gap: Any = gap, own: bool = way == "first"
                ) -> dict[str, float]:
                    quality = 10 * math.log(rate) - 1000 + (gap(seed) if own else 0.0)
                    return {"native/bits/model_bits_per_pixel": rate, claim.measure: quality}

                made[keyed(config)] = values
    return made


def collapse(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """One row with less than it needs, one with enough that must not count; or the other way around."""
    value = {"supported": (0.1, 0.1, 0.1), "contradicted": (1, 1, 1), "cannot decide": (0.1, 1, 0.1)}[_word(outcome)]
    has, needs = claim.verdict["has"], claim.verdict["needs"]
    poor, rich = (keyed(config) for _, config in all_runs()[stem][:2])
    if claim.verdict.get("above"):
        return {
            rich: lambda seed: {claim.measure: 1.1 - value[seed], has: 3.0, needs: 2.0},
            poor: lambda seed: {claim.measure: 0.5, has: 1.0, needs: 2.0},
        }
    spared = next(keyed(config) for _, config in all_runs()[stem] if config["name"] in claim.verdict["control"])
    return {
        poor: lambda seed: {claim.measure: value[seed], has: 1.0, needs: 2.0, TOKENS: 4.0},
        rich: lambda seed: {claim.measure: 0.5, has: 3.0, needs: 2.0},
        spared: lambda seed: {claim.measure: 0.9, TOKENS: 4.0},
    }


def enough(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """So many percent above what many steps reach."""
    more = {"supported": (0, 0, 0), "contradicted": (50, 50, 50), "cannot decide": (-30, 0, 50)}[_word(outcome)]
    found: dict[str, dict[str, str]] = {}
    for row in claim.verdict["rows"]:
        found.setdefault(_key(stem, row["row"]), {})[row["few"]] = row["label"]
    return {
        key: lambda seed, keys=tuple(keys): {
            claim.measure: 10.0,
            **{row["many"]: 10.0 for row in claim.verdict["rows"] if "many" in row},
            **dict.fromkeys(keys, 10.0 * (1 + more[seed] / 100)),
        }  # type: ignore[misc]
        for key, keys in found.items()
    }


def parity(claim: Claim, stem: str, outcome: Outcome) -> Made:
    """Lines of one slope: the first side needs a hundredth or a hundred times the training; or the metric is noise."""
    word, made = _word(outcome), Made()
    for pair in claim.verdict["pairs"]:
        fewer = (pair["expected"] == "below") is (word == "supported")
        for way, scale in (("first", 0.01 if fewer else 100.0), ("second", 1.0)):
            block = pair[way].get("block") or claim.measure.split("/")[0]
            key = "/".join((block, *claim.measure.split("/")[1:]))
            for place, (_, config) in enumerate(matching(stem, pair[way])):
                values = _trained(
                    made.get(keyed(config)), block, key, 10.0 ** (12 + place), scale, noise=word == "cannot decide"
                )
                made[keyed(config)] = values
    return made


def _trained(
    known: Callable[[int], dict[str, float]] | None, block: str, key: str, flops: float, scale: float, *, noise: bool
) -> Callable[[int], dict[str, float]]:
    def values(seed: int) -> dict[str, float]:
        wobble = 10.0 ** (seed - 1) if noise else 1 + 1e-3 * seed
        own = {
            key: 50 * (flops / scale / 1e12) ** -0.3 * wobble,
            f"{block}/{PROXY}": flops,
            f"{block}/{BACKBONE}": flops,
        }
        return {**(known(seed) if known else {}), **own, TOKENIZER: 1.0}

    return values


def _word(outcome: Outcome) -> str:
    return next(word for word, known in OUTCOMES.items() if known is outcome)


VALUES: dict[str, Callable[[Claim, list[Run], Outcome], Made]] = {
    **{"signs": signs, "levels": levels, "at_most": at_most, "at_least": at_least, "equal_bits": equal_bits},
    **{"carried": carried, "collapse": collapse, "enough": enough, "parity": parity},
}


@pytest.mark.parametrize(
    "spared", [{}, {TOKENS: 8.0}, {TOKENS: 4.0, "legibility/char_accuracy_relative": 0.1}], ids=str
)
def test_what_codes_lose_is_not_laid_on_their_bits_where_a_continuous_latent_loses_it_too(
    spared: dict[str, float],
) -> None:
    claim = next(claim for claim in CLAIMS if claim.name == "C3, collapse")
    stem = stem_of(claim)
    *_, control = made = collapse(claim, stem, OUTCOMES["supported"])
    values = {**made, control: lambda seed: {claim.measure: 0.9, **spared}}
    runs = [run for run in all_runs()[stem] if keyed(run[1]) in values]
    (found,) = findings_of(claim, view_of(runs, lambda config, seed: values[keyed(config)](seed)))
    assert found is not None
    assert found.word == "cannot decide (no continuous latent of as many tokens keeps more)"


def test_the_shortest_comes_first_and_what_is_recorded_takes_no_time(tmp_path: Path) -> None:
    before = claims.missing(tmp_path, "cpu")
    assert [need.minutes for need in before] == sorted(need.minutes for need in before)
    for codes in (240, 1000, 4375, 15360):  # all of C9's rows, half of C5's, none of "C5, tuned"
        for seed in range(3):
            made = swept("vq", codes, seed)
            file(made, tmp_path, kept=swept_arrays(made))
    for codes in (15, 64, 240):
        for name in ("vq", "fsq_sized"):
            for seed in range(3):
                made = swept(name, codes, seed)
                file(made, tmp_path, kept=swept_arrays(made))
    lacks = {need.experiment: need for need in claims.missing(tmp_path, "cpu")}["codebook_size"]
    assert lacks.claims == ("C5", "C5, tuned")
    (whole,) = {claim.minutes for claim in load_claims() if claim.experiment == "codebook_size"}
    assert lacks.minutes == whole
    assert claims._need([c for c in load_claims() if c.name == "C5"], {"C5": 0.5}).minutes == whole / 2
