"""The judges of a dataset, trained once on its originals, and what they say of images that no tokenizer made."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tokbench.evaluate.baselines import evaluate_baselines
from tokbench.evaluate.exactness import exactness_baselines
from tokbench.evaluate.legibility import legibility_baselines
from tokbench.evaluate.measures import Measures
from tokbench.evaluate.reference import Reference
from tokbench.job import Job, data_key, load_dataset
from tokbench.judges import ColourClassifier, train_classifier
from tokbench.judges_checker import train_checker
from tokbench.judges_reader import train_reader

CLASSIFIER_WIDTH, TRUTH_WIDTH = 32, 16


def judged(job: Job) -> tuple[Reference, Measures]:
    """The originals of the job's dataset with their judges, and the measures of the baseline rows; the last are kept."""
    budget = job.config["budget"]
    arguments = data_key(job.config), budget["judge"]["steps"], Path(job.config["cache_dir"])
    return _reference(*arguments), _baselines(*arguments, budget["evaluation"]["samples"])


@lru_cache(maxsize=1)
def _reference(key: str, steps: int, cache: Path) -> Reference:
    dataset, fingerprints = load_dataset(key)
    splits, truth = (dataset.train, dataset.validation), dataset.train.truth or {}
    options: dict[str, Any] = {"steps": steps, "seed": 0, "fingerprint": fingerprints["train"]}
    options |= {"cache": cache / "judges", "device": "cuda" if torch.cuda.is_available() else "cpu"}
    if "characters" in truth:
        return Reference(dataset, None, None, reader=train_reader(*splits, width=TRUTH_WIDTH, **options))
    if "relation" in truth:
        return Reference(dataset, None, None, checker=train_checker(*splits, width=TRUTH_WIDTH, **options))
    if dataset.train.labels is None or len(dataset.class_names) < 2:
        return Reference(dataset, None, None)
    classifier = train_classifier(*splits, len(dataset.class_names), width=CLASSIFIER_WIDTH, **options)
    return Reference(dataset, classifier, ColourClassifier(dataset.train, len(dataset.class_names)))


@lru_cache(maxsize=1)
def _baselines(key: str, steps: int, cache: Path, samples: int) -> Measures:
    reference = _reference(key, steps, cache)
    measures = evaluate_baselines(reference, samples=samples)
    if reference.reader is not None:
        measures |= legibility_baselines(reference)
    return measures if reference.checker is None else measures | exactness_baselines(reference)
