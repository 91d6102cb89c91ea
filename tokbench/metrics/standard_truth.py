"""The standard measures of images whose truth is known: whether what they show is still there."""

from __future__ import annotations

from tokbench.data.letters import ALPHABET, BACKGROUNDS, FONT_SIZES
from tokbench.metrics.definition import Definition, Direction, group

READER_VERSION = CHECKER_VERSION = CHOICES_VERSION = 1
DISTRACTORS, SWAPPED = 9, 5  # wrong captions beside the right one: of glyphs, of scenes
_READER = (
    "a small network trained on the training split's originals (sha256 in the record), told where each character stands"
)
_SHARE = f"of the test split's reconstructions that are read right by {_READER}; chance: {1 / len(ALPHABET):.3f}"
_RELATIVE = "divided by the same of the originals (baseline row real)"

_WHOLE: dict[tuple[str, str, str, Direction], str] = {
    ("char_accuracy", "characters", "share", "up"): f"share of characters {_SHARE}",
    ("string_accuracy", "strings", "share", "up"): f"share of strings {_SHARE} to the power of the length",
    ("char_accuracy_relative", "characters, relative", "share", "up"): f"characters {_RELATIVE}",
    ("string_accuracy_relative", "strings, relative", "share", "up"): f"strings {_RELATIVE}",
    ("bits_per_glyph", "bits/glyph", "bits", None): "nominal bits of an image / characters on it; NA if continuous",
    ("text_bits_per_glyph", "text bits/glyph", "bits", None): (
        "log2 of the alphabet + entropy of font size and place / characters of an image: what a code of the text alone needs"
    ),
}
_BY_SIZE: dict[tuple[str, str, str, Direction], str] = {
    (f"{key}_accuracy_{size}_px", label.format(size), "share", "up"): (
        f"share of {what} in images of font size {size} pixels {_SHARE}{chance}"
    )
    for key, label, what, chance in (
        ("char", "{} px", "characters", ""),
        ("string", "strings, {} px", "strings", " to the power of the length"),
    )
    for size in FONT_SIZES
}
_BY_BACKGROUND: dict[tuple[str, str, str, Direction], str] = {
    (f"char_accuracy_{name}", f"on {name}", "share", "up"): f"share of characters on background {name} {_SHARE}"
    for name in BACKGROUNDS
}
LEGIBILITY = group("legibility", READER_VERSION, _WHOLE | _BY_SIZE | _BY_BACKGROUND)
_CHECKER = "the checker, a small network trained on the training split's originals (sha256 in the record)"
_SHOWN = (
    f"relation, both shapes and both colours, as named by {_CHECKER}; what no image shows it names too: see mean colour"
)


def _shown(name: str, version: int, of: str) -> dict[str, Definition]:
    """Whether captions of scenes are shown."""
    return group(
        name,
        version,
        {
            (
                "caption_shown",
                "caption shown",
                "share",
                "up",
            ): f"share of {of} that agree with their caption in {_SHOWN}",
            ("attributes_shown", "attributes shown", "share", "up"): f"mean share, over {of}, of {_SHOWN}",
        },
    )


SCENES = (
    _shown("reconstruction", CHECKER_VERSION, "reconstructions of the test split")
    | _shown("generation", CHECKER_VERSION, "generated images")
    | group(
        "bits",
        CHECKER_VERSION,
        {
            ("source_bits_per_image", "entropy of the set", "bits/image", None): (
                "exact entropy of the process that draws the images, a sum of logarithms of its choices"
            ),
            ("source_bits_given_caption", "entropy given caption", "bits/image", None): (
                "the same but for what the caption tells: no code of the images can be shorter"
            ),
        },
    )
)
CHOICES = group(
    "understanding",
    CHOICES_VERSION,
    {
        ("reading_accuracy", "reading", "share", "up"): (
            f"share of images whose own string is likelier than {DISTRACTORS} strings of other images, as captions; chance: {1 / (DISTRACTORS + 1):g}"
        ),
        ("caption_exactness", "caption exactness", "share", "up"): (
            f"share of scenes whose own caption is likelier than {SWAPPED} with objects, colours or shapes exchanged, the other relation, or another colour; chance: {1 / (SWAPPED + 1):.3f}"
        ),
    },
)
