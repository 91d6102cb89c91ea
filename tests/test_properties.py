"""Properties that hold for every value: records come back equal and refuse what is not theirs; positions keep their contract."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tokbench.backbone.positions import LAYOUTS, Layout, rotate, rotation, sequence
from tokbench.records import SCHEMA_VERSION, DataInfo, Measure, RunRecord, parse_key

settings.register_profile(
    "suite", max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
groups = st.sampled_from(["bits/usage", "common/generation/kid", "native/cost/passes", "baseline/real/generation/kid"])


@st.composite
def measures(draw: st.DrawFn) -> Measure:
    value = draw(st.none() | numbers)
    reason = draw(words.filter(bool)) if value is None else None
    counts, spreads = draw(st.none() | st.integers(0, 10**9)), draw(st.none() | numbers)
    return Measure(value=value, unit=draw(words), n=counts, spread=spreads, reason=reason, protocol=draw(words))


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    failed = draw(st.booleans())
    prints = draw(st.dictionaries(words, words, max_size=2))
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        name=draw(names),
        status="failed" if failed else "ok",
        stage=draw(words),
        seed=draw(st.integers(0, 2**40)),
        budget=draw(names),
        hash=draw(st.from_regex(r"[0-9a-f]{8}", fullmatch=True)),
        config=draw(st.dictionaries(words, plain, max_size=4)),
        data=DataInfo(name=draw(names), ranked=draw(st.booleans()), fingerprints=prints, sizes={}, skipped=0),
        blocks=draw(st.dictionaries(st.sampled_from(["common", "native"]), words)),
        metrics=draw(st.dictionaries(groups, measures(), max_size=4)),
        versions=draw(st.dictionaries(words, st.integers(0, 99), max_size=3)),
        environment=draw(st.dictionaries(words, plain, max_size=3)),
        files=draw(st.dictionaries(words, words, max_size=2)),
        error=draw(words.filter(bool)) if failed else None,
        created="2025-01-02T03:04:05+00:00",
        seconds=draw(st.dictionaries(words, numbers, max_size=3)),
    )


@given(records())
def test_a_record_comes_back_equal_from_its_json(record: RunRecord) -> None:
    text = json.dumps(record.model_dump(mode="json"), allow_nan=False)
    assert RunRecord.model_validate_json(text) == record


# a value that no field of the type takes
WRONG: dict[type, Any] = {str: 3.5, int: "3", bool: "yes", dict: [1], list: {"a": 1}, float: "1.5", type(None): [[]]}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside that the schema types; what lies in `config` and `environment` is free."""
    found = [path] if path else []
    if isinstance(value, dict) and path[:1] not in (("config",), ("environment",)):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    return found


@given(records(), st.data())
def test_any_field_of_another_type_is_refused(record: RunRecord, data: st.DataObject) -> None:
    made = record.model_dump(mode="json")
    path = data.draw(st.sampled_from(places(made)))
    changed = copy.deepcopy(made)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = WRONG[type(node[path[-1]])]
    with pytest.raises(ValidationError):
        RunRecord.model_validate_json(json.dumps(changed))


@given(records(), st.data())
def test_a_field_too_many_or_too_few_is_refused(record: RunRecord, data: st.DataObject) -> None:
    made = record.model_dump(mode="json")
    with pytest.raises(ValidationError):
        RunRecord.model_validate_json(json.dumps(made | {"surprise": 1}))
    required = [name for name, field in RunRecord.model_fields.items() if field.is_required()]
    del made[data.draw(st.sampled_from(required))]
    with pytest.raises(ValidationError):
        RunRecord.model_validate_json(json.dumps(made))


@given(records(), st.integers(0, 10_000))
def test_a_record_that_was_cut_off_is_refused(record: RunRecord, keep: int) -> None:
    text = json.dumps(record.model_dump(mode="json"))
    with pytest.raises(ValidationError):
        RunRecord.model_validate_json(text[: keep % len(text)])


@given(st.text(st.sampled_from("ab/ "), max_size=12))
def test_a_key_is_taken_apart_or_refused(key: str) -> None:
    good = key.count("/") == 1 and all(key.split("/"))
    if not good:
        with pytest.raises(ValueError, match="must be group/short"):
            parse_key(key)
        return
    parts = parse_key(key)
    assert parts.block == "tokenizer"
    assert f"{parts.group}/{parts.short}" == key


turns = st.tuples(st.integers(-500, 500), st.integers(-500, 500))


@given(turns, turns, turns, st.sampled_from([4, 8, 32]))
def test_what_two_tokens_see_of_each_other_depends_on_their_difference_alone(
    one: tuple[int, int], two: tuple[int, int], shift: tuple[int, int], head: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, head, dtype=torch.float64, generator=generator)

    def seen(a: tuple[int, int], b: tuple[int, int]) -> float:
        turned = [
            rotate(x, double(rotation(torch.tensor([[list(map(float, at))]]), head, 100.0)))
            for x, at in ((q, a), (k, b))
        ]
        return float((turned[0] * turned[1]).sum())

    moved = [(at[0] + shift[0], at[1] + shift[1]) for at in (one, two)]
    assert seen(*moved) == pytest.approx(
        seen(one, two), abs=2e-3
    )  # angles are float32: 1000 positions lose four digits


def double(turn: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(part.double() for part in turn)


ROTARY = ["rope1d", "rope_tie", "rope_tie_v2", "mrope"]  # those that tell text and image apart in one sequence
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
parts = st.lists(st.integers(1, 7) | grids, min_size=1, max_size=5)


@given(parts, st.sampled_from(ROTARY))
def test_no_two_tokens_share_a_position_and_text_goes_forward(sizes: list[Any], name: str) -> None:
    layout = sequence(*sizes)
    places = LAYOUTS[name](layout)[0]
    assert len({tuple(place) for place in places.tolist()}) == layout.length
    starts, text = layout.starts[0].tolist(), torch.ones(layout.length, dtype=torch.bool)
    for start, (height, width) in zip(starts, layout.grids, strict=True):
        text[start : start + height * width] = False
    assert (places[text].diff(dim=0) > 0).all()
    assert torch.equal(places[text][:, 0], places[text][:, 1]), "text stands on the diagonal"


@given(parts, st.integers(1, 9), st.sampled_from(ROTARY))
def test_text_before_moves_all_by_as_much(sizes: list[Any], more: int, name: str) -> None:
    """A longer prompt shifts everything after it: what tokens see of each other does not change."""
    alone, later = LAYOUTS[name](sequence(1, *sizes))[0], LAYOUTS[name](sequence(1 + more, *sizes))[0]
    assert torch.equal(later[more + 1 :], alone[1:] + more)


@given(grids, st.integers(1, 9))
def test_an_image_is_as_far_from_the_text_before_it_as_from_the_text_after_it(
    grid: tuple[int, int], prompt: int
) -> None:
    places = LAYOUTS["rope_tie_v2"](sequence(prompt, grid, 1))[0]
    image = places[prompt:-1]
    assert torch.allclose(image.mean(dim=0) - places[prompt - 1], places[-1] - image.mean(dim=0))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), grids, st.sampled_from(ROTARY))
def test_rows_of_a_batch_do_not_know_each_other(starts: list[int], grid: tuple[int, int], name: str) -> None:
    length = max(starts) + grid[0] * grid[1] + 2
    together = LAYOUTS[name](Layout(torch.tensor(starts)[:, None], (grid,), length))
    for row, start in enumerate(starts):
        alone = LAYOUTS[name](Layout(torch.tensor([[start]]), (grid,), length))
        assert torch.equal(together[row], alone[0])
