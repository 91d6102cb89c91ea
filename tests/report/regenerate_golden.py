"""Writes golden_table.md: `python tests/report/regenerate_golden.py`. What changed in it is for a reader to judge."""

from __future__ import annotations

import tempfile
from pathlib import Path

from report_factory import failure, file, record

from tokbench.report.build import build_report


def golden_page(results: Path) -> str:
    """The numbered sections of a page over three tokenizers, two seeds and a failure."""
    for name in ("fsq", "vq", "continuous_4"):
        for seed in range(2):
            file(record(name, seed, ranked=True), results)
    file(record("patches", stage="tokenizer", ranked=True), results)
    file(failure(ranked=True), results)
    build_report(results)
    return (results / "cifar10-cpu.md").read_text().split("## How these were measured")[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(__file__).with_name("golden_table.md").write_text(golden_page(Path(folder)))
