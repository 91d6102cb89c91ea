"""What separates each row from the leader of its comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, isnan

import numpy as np

from tokbench.metrics.statistics import Difference, clusters_to_separate, seeds_to_separate, students_difference
from tokbench.report.definitions import direction
from tokbench.report.floors import FLOORS, noise_floor
from tokbench.report.formatting import markdown_table, number, style
from tokbench.report.peers import Peers, peer_groups
from tokbench.report.ranking import MIN_SEEDS
from tokbench.report.rows import Row, flatten, mean_of
from tokbench.report.rules import ARRAYS, difference
from tokbench.report.view import LEVEL, View

DIVISIONS = 10_000  # of seeds into two parts: all there are up to 7 and 7 seeds
TITLE = "Paired differences to the leader of each comparison"
NOTHING = "No two rows of one comparison share seeds and what was measured."
NOTE = (
    "The leader is the row with the best mean among those that may be ranked together (ranked among, above): of those with at"
    f" least {MIN_SEEDS} seeds, where there are any. Rows of one tokenizer, which differ in what was trained on it, are not"
    " compared in what it reconstructs."
    " PSNR and SSIM: same test images and seeds on both sides; the bootstrap draws seeds and whole clusters of images together,"
    " and where Student's interval over the seeds reaches farther it counts; with one seed the interval knows nothing of what"
    " another training would give. Other measures have one value a seed: Student's interval over the seeds in common. Seeds to"
    " separate: if they scatter as these do; images to separate, where the seeds do: if the width falls with their root. p:"
    " exact permutation test of the seeds' values, two-sided; three seeds against three cannot reach below 0.1."
)


@dataclass(frozen=True)
class Compared:
    """A measure whose rows are held against their leader."""

    name: str
    key: str
    peers: Peers

    @property
    def array(self) -> str | None:
        """Of single images; without one the seeds' values are compared."""
        return ARRAYS.get(self.key)


COMPARED = (
    Compared("PSNR", "reconstruction/psnr_db", "equal bits"),
    Compared("SSIM", "reconstruction/ssim", "equal bits"),
    Compared("gFD classifier, common", "common/generation/fd_classifier", "all"),
    Compared("KID random64, common", "common/generation/kid_random64", "all"),
    Compared("caption accuracy, common", "common/understanding/caption_accuracy", "all"),
)


def differences(view: View) -> tuple[str, list[str]]:
    """Title and lines of the differences of every row to the leader of its comparison, a table for each of COMPARED."""
    lines: list[str] = []
    for compared in COMPARED:
        found = [line for rows in peer_groups(view, compared.peers) for line in _group(view, rows, compared)]
        if found:
            unit = style(view.units[compared.key]).heading
            headings = ["tokenizer", "leader", f"minus leader{f' ({unit})' if unit else ''}", "95 % interval"]
            table = markdown_table([*headings, "verdict", "p over seeds", "seeds"], found)
            lines += [f"### {compared.name}", "", *table, ""]
    return TITLE, [*lines, NOTE] if lines else [NOTHING]


def _group(view: View, rows: Sequence[Row], compared: Compared) -> list[list[str]]:
    found = [(mean, row) for row in rows if (mean := mean_of(row, compared.key)) is not None]
    if len(found) < 2:
        return []
    best = max if direction(compared.key) == "up" else min
    _, leader = best([pair for pair in found if len(pair[1].records) >= MIN_SEEDS] or found, key=lambda pair: pair[0])
    others = [row for _, row in found if compared.array is None or not _one_tokenizer(row, leader)]
    gaps = [(row, difference(view, row, leader, compared.key)) for row in others if row is not leader]
    return [_line(view, row, leader, compared, gap[0], gap[1]) for row, gap in gaps if gap is not None]


def _one_tokenizer(row: Row, other: Row) -> bool:
    """Whether two rows have one tokenizer, trained alike; a row has its own."""
    first, second = (flatten(each.records[0].config) for each in (row, other))
    keys = {key for key in first | second if key.startswith(("tokenizer", "quantizer", "loss", "budget.tokenizer"))}
    named = row.records[0].name == other.records[0].name
    return named and all(first.get(key) == second.get(key) for key in keys)


def _line(view: View, row: Row, leader: Row, compared: Compared, gap: Difference, seeds: int) -> list[str]:
    unit = view.units[compared.key]
    ends = "NA (1 seed)" if isnan(gap.low) else f"{number(gap.low, unit)} to {number(gap.high, unit)}"
    by_seed = view.gaps(row, leader, compared.array) if compared.array is not None else None
    verdict = _of_seeds(row, compared, gap, seeds) if by_seed is None else _of_images(view, row, gap, by_seed)
    p = permutation_p(*(_values(view, each, compared) for each in (row, leader)))
    return [row.label, leader.label, number(gap.mean, unit), ends, verdict, f"{p:.2g}", str(seeds)]


def _values(view: View, row: Row, compared: Compared) -> np.ndarray:
    """(S,) the seeds' values."""
    if compared.array is not None:
        return np.array([found.mean for found in view.sampled(row, compared.array).values()])
    measures = [record.metrics.get(compared.key) for record in row.records]
    return np.array([m.value for m in measures if m is not None and m.value is not None])


def _of_images(view: View, row: Row, gap: Difference, by_seed: np.ndarray) -> str:
    if gap.separable:
        return "separable" if len(by_seed) > 1 else "separable for this training (1 seed)"
    student = students_difference(by_seed, level=LEVEL)
    if len(by_seed) > 1 and not student.separable:
        return _not_with(len(by_seed), seeds_to_separate(student, len(by_seed)))
    resamples = view.resamples(row)
    assert resamples is not None, row.label
    clusters = resamples.num_clusters
    wanted = clusters_to_separate(gap, clusters)
    return f"not separable at N = {clusters:,}" + (f" (about {wanted:,})" if wanted is not None else "")


def _of_seeds(row: Row, compared: Compared, gap: Difference, seeds: int) -> str:
    floor = noise_floor(row, compared.key)
    if floor is not None and abs(gap.mean) <= FLOORS * floor:
        return "within three floors"
    if gap.separable:
        return "separable"
    return _not_with(seeds, seeds_to_separate(gap, seeds))


def _not_with(seeds: int, wanted: int | None) -> str:
    told = f" (about {wanted:,})" if wanted is not None else ""
    return f"not separable with {seeds} seed{'s' * (seeds > 1)}{told}"


def permutation_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of equal means of (S,) and (T,) seeds, over all divisions of them, or `DIVISIONS` drawn of more."""
    pooled, size = np.concatenate((a, b)), len(a)
    chosen = pooled[_divisions(len(pooled), size)].sum(axis=1)
    gaps = np.abs(chosen / size - (pooled.sum() - chosen) / len(b))
    return float((gaps >= abs(a.mean() - b.mean()) - 1e-9).mean())


@lru_cache(maxsize=32)
def _divisions(total: int, size: int) -> np.ndarray:
    """(P, size) places of the first part: every choice of `size` of `total`, or the given one and others at random."""
    if comb(total, size) <= DIVISIONS:
        return np.array(list(combinations(range(total), size)))
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(total), (DIVISIONS, 1)), axis=1)[:, :size]
    draws[0] = np.arange(size)
    return draws
