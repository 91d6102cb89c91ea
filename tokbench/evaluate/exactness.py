"""Whether images of scenes show their captions, by the checker. M images, A attributes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tokbench.evaluate.measures import Measures, mean_of, measured
from tokbench.evaluate.reference import Reference, mean_colour
from tokbench.interfaces import Dataset
from tokbench.judges_checker import told

VERSION = 1


def evaluate_exactness(
    prefix: str, images: Tensor, truth: Mapping[str, Tensor], reference: Reference
) -> tuple[Measures, Tensor]:
    """caption_shown and attributes_shown of uint8 images (M, 3, H, W), and (M,) whether each shows all of `truth`."""
    assert reference.checker is not None
    right = reference.checker.attributes(images) == told(truth)
    shown = right.all(dim=1).float()
    keys = {f"{prefix}caption_shown": shown, f"{prefix}attributes_shown": right.float().mean(dim=1)}
    return {key: mean_of(key, values) for key, values in keys.items()}, shown


def exactness_baselines(reference: Reference) -> Measures:
    """What the checker says of originals, the upper bound, and of their mean colours, chance."""
    test, held_out = reference.dataset.test, reference.dataset.generation
    assert test.truth is not None
    assert held_out.truth is not None
    rows = {
        "baseline/real/reconstruction/": (test.images, test.truth),
        "baseline/mean_colour/reconstruction/": (mean_colour(test), test.truth),
        "baseline/real/generation/": (held_out.images, held_out.truth),
    }
    found = [evaluate_exactness(prefix, *of, reference)[0] for prefix, of in rows.items()]
    return {key: measure for measures in found for key, measure in measures.items()}


def source_bits(dataset: Dataset) -> Measures:
    """bits/source_* of a set whose entropy is known."""
    whole, told_bits = dataset.entropy_bits, dataset.caption_bits
    assert whole is not None
    assert told_bits is not None
    values = {"bits/source_bits_per_image": whole, "bits/source_bits_given_caption": whole - told_bits}
    return {key: measured(key, value) for key, value in values.items()}
