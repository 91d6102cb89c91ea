"""The runs of an experiment as a group of their own, and what a page of everything shows beside it.

A sweep that names its experiment leaves `results/sweeps/NAME.json`, the files of the records that it made or found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from tokbench.locks import held
from tokbench.records import RunRecord, write_whole
from tokbench.report.groups import plain_stem, surroundings
from tokbench.report.view import View

FOLDER = "sweeps"


def remember(results: Path, experiment: str, files: Iterable[str]) -> Path:
    """The list of an experiment's records, to which these are added."""
    path = Path(results) / FOLDER / f"{experiment}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path):
        known = sorted({*_files(path), *files})
        write_whole(path, f"{json.dumps(known, indent=1)}\n".encode())
    return path


def files_of(results: Path, experiment: str) -> list[str]:
    """The files of an experiment's records; [] without a list."""
    return _files(Path(results) / FOLDER / f"{experiment}.json")


def read_experiments(results: Path) -> dict[str, frozenset[str]]:
    """Experiment to the files of its records; what is no list of names counts as empty."""
    return {path.stem: frozenset(_files(path)) for path in sorted((Path(results) / FOLDER).glob("*.json"))}


def _files(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def own_views(views: Sequence[View], experiments: Mapping[str, frozenset[str]]) -> list[View]:
    """A view for each experiment, data set and budget: its runs in the group that has most of them, of equals the newest."""
    best: dict[tuple[str, str], View] = {}
    for view in _unmixed(views):
        for name, files in experiments.items():
            records = [record for record in view.group.records if record.file_name in files]
            key = (plain_stem(view.group.any_record), name)
            if len(records) > (len(best[key].group.records) if key in best else 0):
                best[key] = view.part(records, stem=f"{view.group.stem}-{name}", experiment=name)
    return list(best.values())


def plain_views(views: Sequence[View], experiments: Mapping[str, frozenset[str]]) -> list[View]:
    """The views without what an experiment varied beside the tokenizer, which has a page of its own.

    What stays was run by hand, or has the backbone, the schemes (common and native) and the budget of most tokenizers.
    """
    listed = frozenset[str]().union(*experiments.values())
    unmixed = _unmixed(views)
    return [_plain(view, listed) if view in unmixed else view for view in views]


@lru_cache(maxsize=64)
def plain_files(view: View) -> frozenset[str]:
    """The files of the records that are on the page of the view's group, and not on one of an experiment alone."""
    listed = frozenset[str]().union(*read_experiments(view.folder.parent).values())
    return frozenset(record.file_name for record in _plain(view, listed).group.records)


def _plain(view: View, listed: frozenset[str]) -> View:
    records = view.group.records
    rows = Counter(surroundings(row.records[0]) for row in view.rows if any(len(r.blocks) > 1 for r in row.records))
    usual = max(rows, key=lambda around: rows[around], default=None)
    kept = [r for r in records if r.file_name not in listed or not _generates([r]) or surroundings(r) == usual]
    if len(kept) == len(records):
        return view
    part = view.part(kept, stem=view.group.stem)
    part.group.failed = view.group.failed
    return part


def _generates(records: Iterable[RunRecord]) -> bool:
    return any(record.stage == "all" for record in records)


def _unmixed(views: Sequence[View]) -> list[View]:
    return [view for view in views if view.group.records and not view.group.warnings]


def pages_of(groups: Sequence[View], results: Path) -> tuple[list[View], list[View]]:
    """The groups as the report pages them, each without what experiments varied, then an experiment's runs beside it; and all
    experiments' runs, those that need no page of their own too.
    """
    experiments = read_experiments(results)
    plain, own = plain_views(groups, experiments), own_views(groups, experiments)
    there = {record.file_name for view in plain for record in view.group.records}
    more = [view for view in own if any(record.file_name not in there for record in view.group.records)]
    return [view for view in (*plain, *more) if view.group.records or view.group.failed], own
