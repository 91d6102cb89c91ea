"""Whether text survives: characters and strings that the reader still reads, by font size and by background.

M images, L characters of a string.
"""

from __future__ import annotations

from torch import Tensor

from tokbench.data.glyphs import BACKGROUNDS, FONT_SIZES, text_bits
from tokbench.evaluate.measures import Measures, mean_of, measured, missing
from tokbench.evaluate.reference import Reference, mean_colour

VERSION = 1


def evaluate_legibility(
    images: Tensor, reference: Reference, *, nominal_bits: float | None
) -> tuple[Measures, dict[str, Tensor]]:
    """legibility/* of the test split's reconstructions (M, 3, H, W) uint8, and the (M,) shares behind two of them.

    `nominal_bits` of an image; None: continuous.
    """
    right = reference.read(images)
    length = right.shape[1]
    measures = _accuracies("", right, reference)
    for name, part in _shares(right).items():
        key = f"legibility/{name}_relative"
        originals = _shares(reference.read_originals)[name].double().mean().item()
        value = part.double().mean().item()
        no_value = missing(key, "originals are not read")
        measures[key] = measured(key, value / originals, n=len(part)) if originals else no_value
    key = "legibility/bits_per_glyph"
    measures[key] = missing(key, "continuous") if nominal_bits is None else measured(key, nominal_bits / length)
    key = "legibility/text_bits_per_glyph"
    measures[key] = measured(key, sum(text_bits(size=images.shape[-1], length=length)) / length)
    return measures, _shares(right)


def legibility_baselines(reference: Reference) -> Measures:
    """What the reader reads of the test split's originals, and of their mean colours: chance."""
    flat = reference.read(mean_colour(reference.dataset.test))
    real = _accuracies("baseline/real/", reference.read_originals, reference)
    return real | _accuracies("baseline/mean_colour/", flat, reference)


def _shares(right: Tensor) -> dict[str, Tensor]:
    return {"char_accuracy": right.float().mean(dim=1), "string_accuracy": right.all(dim=1).float()}


def _accuracies(prefix: str, right: Tensor, reference: Reference) -> Measures:
    truth = reference.dataset.test.truth
    assert truth is not None
    sizes = {f"{size}_px": truth["font_size"] == size for size in FONT_SIZES}
    grounds = {name: truth["background"] == place for place, name in enumerate(BACKGROUNDS)}
    shares = _shares(right)
    parts = shares | {
        f"char_accuracy_{name}": shares["char_accuracy"][rows] for name, rows in (sizes | grounds).items()
    }
    parts |= {f"string_accuracy_{name}": shares["string_accuracy"][rows] for name, rows in sizes.items()}
    keys = {f"{prefix}legibility/{name}": part for name, part in parts.items()}
    return {key: mean_of(key, part) if len(part) else missing(key, "no images") for key, part in keys.items()}
