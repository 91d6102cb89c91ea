"""Rows that need no tokenizer: what the measures say of originals, of flat colours and of training images replayed."""

from __future__ import annotations

from torch import Tensor

from tokbench.evaluate.generation import sample_measures
from tokbench.evaluate.measures import Measures, mean_of, measured
from tokbench.evaluate.reference import Reference, mean_colour, some
from tokbench.evaluate.tokenizer import reconstruction_measures
from tokbench.interfaces import Split

VERSION = 1


def evaluate_baselines(reference: Reference, *, samples: int) -> Measures:
    """Measures under baseline/real, baseline/mean_colour, baseline/replayed_train and baseline/colour_only.

    Real are images of the generation split scored as samples against the rest of it; replayed are training images, others
    than the noise floor's where there are enough, whose class agreement is that of their own labels.
    """
    dataset = reference.dataset
    test, held_out, train = dataset.test, dataset.generation, dataset.train
    measures = reconstruction_measures("baseline/real/", test.images, test, reference)[1]
    measures |= reconstruction_measures("baseline/mean_colour/", mean_colour(test), test, reference)[1]
    rows = some(len(held_out), len(held_out))
    rows, rest = rows[: min(samples, len(rows) // 2)], rows[min(samples, len(rows) // 2) :]
    measures |= sample_measures(
        "baseline/real/generation/", held_out.images[rows], _labels(held_out, rows), reference, against=rest
    )
    replayed = some(len(train), 2 * samples)[-samples:]
    labels = _labels(train, replayed)
    measures |= sample_measures("baseline/replayed_train/generation/", train.images[replayed], labels, reference)
    if reference.classifier is not None and reference.colour is not None and held_out.labels is not None:
        key = "understanding/caption_accuracy"
        right = reference.classifier.predict(held_out.images, batch=500).cpu() == held_out.labels
        measures[f"baseline/real/{key}"] = mean_of(f"baseline/real/{key}", right.double())
        share = reference.colour.accuracy(held_out)
        for name in (key, *(["generation/class_agreement"] if dataset.ranked else [])):
            name = f"baseline/colour_only/{name}"
            measures[name] = measured(name, share, n=len(held_out))
    return measures


def _labels(split: Split, rows: Tensor) -> Tensor | None:
    return None if split.labels is None else split.labels[rows]
