"""`python -m tokbench.toys`: heads on known densities and what a denoiser should predict, as records and a page of their own.

About forty runs a seed, each seconds long; those recorded before are not made again. Words are Hydra overrides of conf/toys.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokbench import build
from tokbench.environment import describe
from tokbench.evaluate.measures import Measures
from tokbench.records import (
    SCHEMA_VERSION,
    DataInfo,
    RunRecord,
    find_record,
    record_file_name,
    write_arrays,
    write_record,
)
from tokbench.report.build import build_report
from tokbench.report.toys import FOLDER, STEM
from tokbench.report.unwritten import say_unwritten
from tokbench.toys import densities, previous
from tokbench.toys.targets import TARGETS

ROOMS = (
    *("tokbench.toys.targets", "tokbench.toys.densities", "tokbench.toys.previous", "tokbench.metrics.points"),
    *("tokbench.diffusion", "tokbench.layers", "tokbench.train"),
)
DATA, BUDGET = STEM.split("-")


def plan(toys: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration of each run: a head on a target, or an error to minimise at a number of diffusion steps."""
    shared = {key: toys[key] for key in ("training", "evaluation")}
    for seed in toys["seeds"]:
        for target in toys["targets"]:
            for name, head in toys["rows"].items():
                model = {key: toys[key] for key in ("parameters", "depth")}
                yield {"name": name, "seed": seed, "target": target, "head": head, **model, **shared}
        for steps in toys["previous"]["diffusion_steps"]:
            for name in previous.ERRORS:
                yield {**toys["previous"], "name": name, "seed": seed, "diffusion_steps": steps, **shared}


def run(config: Mapping[str, Any]) -> tuple[Measures, dict[str, np.ndarray]]:
    """What the run measures, and arrays for the picture."""
    return densities.run(config) if "head" in config else (previous.run(config), {})


def record(config: dict[str, Any], folder: Path, *, pictured: bool) -> Path:
    """The path of the run's record, made unless it is there."""
    versions = build.versions([config.get("head")], ROOMS)
    fingerprints = {"targets": build.digest(sorted(TARGETS), versions["toys.targets"])}
    name, seed, hash = config["name"], config["seed"], build.run_hash(config, fingerprints, versions)
    path = folder / record_file_name(name, seed, hash)
    if find_record(folder, name, seed, hash) is not None:
        return path
    start = time.perf_counter()
    metrics, arrays = run(config)
    folder.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".npz")
    files = {file.name: write_arrays(file, arrays)} if pictured and arrays else {}
    made = RunRecord(
        schema_version=SCHEMA_VERSION,
        name=name,
        status="ok",
        stage="all",
        seed=seed,
        budget=BUDGET,
        hash=hash,
        config=build.hashed(config),
        data=DataInfo(name=DATA, ranked=True, fingerprints=fingerprints, sizes=config["evaluation"], skipped=0),
        blocks={},
        metrics=metrics,
        versions=versions,
        environment=describe(torch.device("cpu")),
        files=files,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds={"run": round(time.perf_counter() - start, 2)},
    )
    return write_record(made, folder)


def main(words: Sequence[str]) -> int:
    """Make what is missing, then the pages; the exit code."""
    config = build.compose(["+toys=heads", *words])
    results = Path(config["results_dir"])
    try:
        for own in plan(config["toys"]):
            print(record(own, results / FOLDER, pictured=own["seed"] == config["toys"]["seeds"][0]), flush=True)
        for path in build_report(results):
            print(f"wrote {path}")
    except OSError as error:
        return say_unwritten(results, error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
