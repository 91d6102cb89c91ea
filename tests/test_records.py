"""Records: strict, whole or absent, found again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tokbench import records
from tokbench.records import (
    SCHEMA_VERSION,
    DataInfo,
    Measure,
    RunRecord,
    find_record,
    parse_key,
    read_arrays,
    read_records,
    write_arrays,
    write_record,
)


def make(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "fsq",
        "status": "ok",
        "stage": "all",
        "seed": 1,
        "budget": "smoke",
        "hash": "0123abcd",
        "config": {"seed": 1, "quantizer": {"levels": [8, 5, 5, 5]}},
        "data": DataInfo(name="photos32", ranked=False, fingerprints={"test": "aa"}, sizes={"test": 4}, skipped=0),
        "blocks": {"common": "transfusion"},
        "metrics": {
            "reconstruction/psnr_db": Measure(value=23.5, unit="dB", n=4, spread=1.0, protocol="per image"),
            "bits/nominal_bits": Measure(value=None, unit="bits", reason="continuous", protocol="N log2 V"),
        },
        "versions": {"metrics.images": 1},
        "environment": {"torch": "2.11", "threads": 2, "load": [0.1, 0.2, 0.3]},
        "files": {},
        "created": "2025-01-02T03:04:05+00:00",
        "seconds": {"tokenizer": 1.5},
    }
    return RunRecord(**(values | changes))


def failed(**changes: Any) -> RunRecord:
    return make(status="failed", error="ValueError: loss is nan at step 3", metrics={}, **changes)


def test_a_record_comes_back_equal_under_its_name(tmp_path: Path) -> None:
    path = write_record(make(), tmp_path)
    assert path.name == "fsq-s1-0123abcd.json"
    assert read_records(tmp_path) == read_records(path) == [make()]
    assert os.listdir(tmp_path) == [path.name]


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_record(make(), tmp_path).read_bytes()
    assert write_record(make(), tmp_path).read_bytes() == first


def test_records_are_sorted_by_name_seed_and_hash(tmp_path: Path) -> None:
    wanted = [("fsq", 2, "bb000000"), ("fsq", 10, "aa000000"), ("vq", 0, "00000000")]
    for name, seed, hash in reversed(wanted):
        write_record(make(name=name, seed=seed, hash=hash), tmp_path)
    assert [(r.name, r.seed, r.hash) for r in read_records(tmp_path)] == wanted


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: str
) -> None:
    write_record(make(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(records.os, step, fail)
    for write in (
        lambda: write_record(make(stage="tokenizer"), tmp_path),
        lambda: write_record(make(seed=2), tmp_path),
        lambda: write_arrays(tmp_path / "a.npz", {"x": np.zeros(3)}),
    ):
        with pytest.raises(error):
            write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_success_removes_the_failure_of_the_same_run_only(tmp_path: Path) -> None:
    other = write_record(failed(seed=2), tmp_path)
    path = write_record(failed(), tmp_path)
    assert path.name == "fsq-s1-0123abcd.failed.json"
    assert find_record(tmp_path, "fsq", 1, "0123abcd") is None
    done = write_record(make(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {other.name, done.name}
    assert find_record(tmp_path, "fsq", 1, "0123abcd") == make()


def changed(schema_version: int | None) -> str:
    """A good record but for its schema, which None leaves out."""
    values = make(name="vq", seed=0, hash="00000000").model_dump(mode="json") | {"schema_version": schema_version}
    return json.dumps({key: value for key, value in values.items() if value is not None or key == "error"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "EOF"),
        ("", "EOF"),
        ("[]", "object"),
        ('{"schema_version": 1}', "Field required"),
        (changed(schema_version=0), "schema_version: Input should be 1"),
        (changed(schema_version=2), "schema_version: Input should be 1"),
        (changed(schema_version=None), "schema_version: Field required"),
        (json.dumps(make().model_dump() | {"surprise": 1}), "surprise"),
        (json.dumps(make(seed=7).model_dump()), "fsq-s7-0123abcd.json"),
    ],
)
def test_a_corrupt_record_is_named_skipped_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, reason: str
) -> None:
    write_record(make(), tmp_path)
    bad = tmp_path / "vq-s0-00000000.json"
    bad.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_records(tmp_path) == [make()]
    (line,) = caplog.messages
    assert str(bad) in line
    assert reason in line
    assert "\n" not in line
    assert bad.read_text() == content


def test_a_corrupt_record_is_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(make(), tmp_path).write_bytes(b"\xff\xfe")
    assert find_record(tmp_path, "fsq", 1, "0123abcd") is None
    assert "fsq-s1-0123abcd.json" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"seed": "1"},
        {"seed": -1},
        {"hash": "XYZ"},
        {"name": "../up"},
        {"status": "done"},
        {"status": "failed"},
        {"error": "none of it"},
        {"created": "yesterday"},
        {"schema_version": 2},
        {"blocks": {"other": "x"}},
        {"seconds": {"a": float("nan")}},
        {"config": {"rate": [float("nan")]}},
        {"metrics": {"psnr": Measure(value=1.0, unit="dB", protocol="p")}},
    ],
)
def test_a_record_refuses_what_it_does_not_know(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1", True, None])
def test_a_measure_refuses_what_is_no_finite_number_and_none_without_a_reason(value: Any) -> None:
    with pytest.raises(ValidationError):
        Measure(value=value, unit="dB", protocol="p")


def test_a_measure_refuses_a_reason_beside_a_value() -> None:
    with pytest.raises(ValidationError, match="reason"):
        Measure(value=1.0, unit="dB", reason="busy", protocol="p")


def test_nothing_can_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        make().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "parts", "standard"),
    [
        ("bits/usage", ("tokenizer", None, "bits", "usage"), "bits/usage"),
        ("common/guided/kid", ("common", None, "guided", "kid"), "generation/kid"),
        ("native/cost/passes", ("native", None, "cost", "passes"), "cost/passes"),
        ("baseline/real/generation/kid", ("baseline", "real", "generation", "kid"), "generation/kid"),
    ],
)
def test_a_key_names_block_group_and_definition(key: str, parts: tuple[str, ...], standard: str) -> None:
    assert tuple(parse_key(key)) == parts
    assert parse_key(key).standard == standard


@pytest.mark.parametrize("key", ["psnr", "a/b/c", "common/psnr", "baseline/other/bits/usage", "bits/", "common/a/b/c"])
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"must be group/short"):
        parse_key(key)


def test_arrays_come_back_and_are_checked(tmp_path: Path) -> None:
    arrays = {"psnr_db": np.arange(3.0), "sample_captions": np.array(["a cat", "ein Käfer"])}
    digest = write_arrays(tmp_path / "fsq.npz", arrays)
    assert write_arrays(tmp_path / "again.npz", arrays) == digest
    found = read_arrays(make(files={"fsq.npz": digest}), tmp_path)
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in arrays.items()}
    (tmp_path / "fsq.npz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"fsq\.npz: sha256"):
        read_arrays(make(files={"fsq.npz": digest}), tmp_path)
    with pytest.raises(ValueError, match=r"gone\.npz: missing"):
        read_arrays(make(files={"gone.npz": digest}), tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_is_read_as_numpy_reads_it(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "fsq.npz"
    table = np.random.default_rng(0).normal(size=(5, 7))
    save(path, table=table, turned=table.T, captions=np.array(["a", "bc"]), none=np.empty((0, 3)), one=np.float32(2.5))
    found = read_arrays(make(files={path.name: hashlib.sha256(path.read_bytes()).hexdigest()}), tmp_path)
    with np.load(path) as wanted:
        assert list(found) == wanted.files
        for name in wanted.files:
            assert found[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(found[name], wanted[name], strict=True)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="captions"):
        write_arrays(tmp_path / "a.npz", {"captions": np.array(["a", None], dtype=object)})
    assert not list(tmp_path.iterdir())
