"""What one run leaves behind: a validated JSON and its arrays, each written whole or not at all.

A record is `<name>-s<seed>-<hash8>.json`; a run that failed leaves `<name>-s<seed>-<hash8>.failed.json`, which a later
success removes.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SCHEMA_VERSION: Final = 1
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of a row, a data set, a budget: it goes into file names
PARTIAL = ".tmp"  # ends the names of files that are being written
BLOCKS = ("common", "native")  # of generation: one like-for-like scheme, and each tokenizer's own
BASELINE_ROWS = ("real", "mean_colour", "replayed_train", "colour_only", "png", "webp", "jpeg_xl")

_log = logging.getLogger(__name__)


class MeasureKey(NamedTuple):
    """The parts of one key of `RunRecord.metrics`."""

    block: Literal["tokenizer", "common", "native", "baseline"]
    baseline: str | None  # one of BASELINE_ROWS where block is "baseline"
    group: str  # reconstruction, bits, generation, guided, understanding, cost, training
    short: str

    @property
    def standard(self) -> str:
        """The key of the measure's definition, "group/short"; guided samples are measured as all generation is."""
        return f"{'generation' if self.group == 'guided' else self.group}/{self.short}"


@lru_cache(maxsize=4096)
def parse_key(key: str) -> MeasureKey:
    """The parts of "group/short", "common/group/short", "native/group/short" or "baseline/row/group/short"."""
    match key.split("/"):
        case [group, short] if group and short and group not in (*BLOCKS, "baseline"):
            return MeasureKey("tokenizer", None, group, short)
        case ["common", group, short] if group and short:
            return MeasureKey("common", None, group, short)
        case ["native", group, short] if group and short:
            return MeasureKey("native", None, group, short)
        case ["baseline", row, group, short] if row in BASELINE_ROWS and group and short:
            return MeasureKey("baseline", row, group, short)
    raise ValueError(
        "a measure's key must be group/short, common/group/short, native/group/short or baseline/row/group/short"
        f" with row in {list(BASELINE_ROWS)}, got {key!r}"
    )


def _check_time(value: str) -> str:
    datetime.fromisoformat(value)
    return value


def _check_keys(metrics: dict[str, Measure]) -> dict[str, Measure]:
    for key in metrics:
        parse_key(key)
    return metrics


Shared = Annotated[str, AfterValidator(sys.intern)]  # the same text in thousands of records: once in memory


STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Strict(BaseModel):
    model_config = ConfigDict(**STRICT, frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Measure:
    """One number with what is needed to read it; finite, or None with the reason.

    A dataclass, which takes a seventh of a model's memory: reports hold a million of them.
    """

    value: float | None
    unit: Shared
    n: Annotated[int, Field(ge=0)] | None = None  # how many things the value is over
    spread: float | None = None  # standard deviation over the n, in the unit
    floor: float | None = None  # noise floor: the same measure between train and test originals
    reason: str | None = None  # why value is None
    protocol: Shared

    @model_validator(mode="after")
    def _reason_iff_no_value(self) -> Self:
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"reason must be given iff value is None, got {self.value} and {self.reason!r}")
        return self


class DataInfo(_Strict):
    """Which images a run saw."""

    name: str = Field(pattern=f"^{NAME}$")
    ranked: bool  # False: a demonstration, whose tables never rank
    fingerprints: dict[str, str]  # split to the hash of its images and captions
    sizes: dict[str, int]  # split to its number of images
    skipped: int = Field(ge=0)  # unreadable files left out on request


class RunRecord(_Strict):
    """One run: what made it, what it measured, or why it failed. `config` is what `hash` covers, with the seed."""

    schema_version: Literal[1]  # SCHEMA_VERSION: a record of another is skipped
    name: str = Field(pattern=f"^{NAME}$")
    status: Literal["ok", "failed"]
    stage: str
    seed: int = Field(ge=0)
    budget: str = Field(pattern=f"^{NAME}$")
    hash: str = Field(pattern=r"^[0-9a-f]{8}$")
    config: dict[str, JsonValue]
    data: DataInfo
    blocks: dict[Literal["common", "native"], str]  # generation block to the name of its preset
    metrics: Annotated[dict[str, Measure], AfterValidator(_check_keys)]
    versions: dict[str, int]  # VERSION of each room used
    environment: dict[str, JsonValue]
    files: dict[str, str]  # file name, in the record's folder, to sha256
    error: str | None = None  # type, message and step of a failure
    created: Annotated[str, AfterValidator(_check_time)]  # ISO 8601
    seconds: dict[str, float]  # wall time of each step

    @model_validator(mode="after")
    def _error_iff_failed(self) -> RunRecord:
        if (self.status == "failed") != bool(self.error):
            raise ValueError(f"error must be given iff status is failed, got {self.status} and {self.error!r}")
        return self

    @property
    def file_name(self) -> str:
        return record_file_name(self.name, self.seed, self.hash, failed=self.status == "failed")


def record_file_name(name: str, seed: int, hash: str, *, failed: bool = False) -> str:
    """`<name>-s<seed>-<hash8>.json`, or `.failed.json`."""
    return f"{name}-s{seed}-{hash}{'.failed' if failed else ''}.json"


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put content, whole or in parts, at path, or leave the folder as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp gives 0600, and results are shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(folder: Path, stem: str) -> None:
    """Remove what killed writers left of files whose names start with `stem`; for whoever alone may write them."""
    for path in Path(folder).glob(f".{stem}*{PARTIAL}"):
        path.unlink(missing_ok=True)


def write_record(record: RunRecord, folder: Path) -> Path:
    """The path of the record, written into folder; a success removes the failure of the same run."""
    content = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path = Path(folder) / record.file_name
    write_whole(path, (content + "\n").encode())
    if record.status == "ok":
        (path.parent / record_file_name(record.name, record.seed, record.hash, failed=True)).unlink(missing_ok=True)
    return path


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 of the compressed .npz written to path; the same arrays give the same bytes."""
    objects = [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]
    if objects:
        raise ValueError(f"arrays must hold numbers or strings, not Python objects, got {objects}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_whole(Path(path), buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a record's .npz files, each read when it is asked for, and not kept.

    ValueError names a file that is missing or not the one recorded.
    """

    def __init__(self, record: RunRecord, folder: Path) -> None:
        self._places: dict[str, Path] = {}
        for name, expected in sorted(record.files.items()):
            if not name.endswith(".npz"):
                continue
            path = Path(folder) / name
            if not path.is_file():
                raise ValueError(f"{path}: missing, though {record.file_name} lists it")
            content = path.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise ValueError(f"{path}: sha256 is {found}, but {record.file_name} says {expected}")
            with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
                self._places |= dict.fromkeys(loaded.files, path)

    def __getitem__(self, name: str) -> np.ndarray:
        with np.load(self._places[name], allow_pickle=False) as loaded:
            return loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_arrays(record: RunRecord, folder: Path) -> Arrays:
    """All arrays of the record's .npz files; ValueError names a file that is missing or not the one recorded."""
    return Arrays(record, folder)


def _read_or_warn(path: Path) -> RunRecord | None:
    """The record at path, or None and one line of warning; the file stays."""
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
        if record.file_name != path.name:
            raise ValueError(f"the record inside belongs into {record.file_name}")
    except (OSError, ValueError) as error:
        _log.warning("record %s skipped: %s", path, _one_line(error))
        return None
    return record


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}"
    return re.sub(r"\s+", " ", str(error))


def read_records(path: Path) -> list[RunRecord]:
    """The records of a folder, or of one file, by name, seed and hash; a warning names each corrupt one it skips."""
    path = Path(path)
    files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    collect = gc.isenabled()
    gc.disable()  # thousands of records that all stay: each round of the collector would walk them in vain
    try:
        records = [record for file in files if (record := _read_or_warn(file))]
    finally:
        if collect:
            gc.enable()
    return sorted(records, key=lambda record: (record.name, record.seed, record.hash, record.status))


def find_record(folder: Path, name: str, seed: int, hash: str) -> RunRecord | None:
    """The record of a run that succeeded; None where there is none, or it cannot be read (then with a warning)."""
    path = Path(folder) / record_file_name(name, seed, hash)
    return _read_or_warn(path) if path.is_file() else None
