"""The standard measures of systems: quality and time over sampler steps, text alone, pairs of images; part of `standard.STANDARD`."""

from __future__ import annotations

from tokbench.metrics.definition import Direction, group, version_of

STEPS_VERSION = PAIRS_VERSION = TEXT_VERSION = 1
EVALUATIONS = (1, 2, 4, 10, 25, 50, 100, 250)  # of the backbone by a sampler
SAMPLERS = ("ddpm", "ddim", "heun", "dpm_solver_2m")
ROUNDS = (1, 2, 4, 8, 16, 32, 64)
WAYS = tuple((sampler, count) for sampler in SAMPLERS for count in EVALUATIONS) + tuple(("rounds", n) for n in ROUNDS)
PAIR_SEED = 0

_QUALITY: dict[tuple[str, str, str, Direction], str] = {
    (f"fd_classifier_{way}_{count}", f"gFD, {count} x {way}", "", "down"): (
        f"gFD classifier of samples at the chosen guidance after {count} {'rounds' if way == 'rounds' else f'evaluations in {way}'}, "
        "of one model that is not trained again"
    )
    for way, count in WAYS
}
_TIME: dict[tuple[str, str, str, Direction], str] = {
    (f"latency_seconds_{way}_{count}", f"latency, {count} x {way}", "s/image", "down"): (
        "median wall-clock seconds of one image, batch 1, guidance 1, tokens alone, of 3 runs after a warm-up"
    )
    for way, count in WAYS
}
_TIME_TOGETHER: dict[tuple[str, str, str, Direction], str] = {
    (f"best_batch_seconds_{way}_{count}", f"time at the best batch, {count} x {way}", "s/image", "down"): (
        "wall-clock seconds an image at the batch that is best for the preset's own steps, guidance 1, tokens alone, of one run"
    )
    for way, count in WAYS
}
STEPS = group("steps", max(STEPS_VERSION, version_of("metrics.features")), _QUALITY | _TIME | _TIME_TOGETHER)
TEXT = group(
    "understanding",
    TEXT_VERSION,
    {
        ("text_bits_per_byte", "text bits/byte", "bits/byte", "down"): (
            "-log2 p(caption and its end) / bytes without any image, over all captions; the same text for every tokenizer"
        ),
        ("text_content_bits_per_byte", "text content bits/byte", "bits/byte", "down"): (
            "-log2 p(caption and that it ends | its first byte is one) / bytes without any image, over all captions: not of the kind of row"
        ),
    },
)
PAIRS = group(
    "understanding",
    PAIRS_VERSION,
    {
        ("same_different_accuracy", "same or different", "share", "up"): (
            "share of pairs of generation images, half alike and half but for one small square, whose likelier caption of 'same' and 'different' is right, after the scheme was trained on such pairs; chance: 0.5"
        ),
        ("pairs_told_apart_by_tokens", "pairs whose tokens differ", "share", None): (
            "of the pairs that differ, those whose tokens do: what no backbone can exceed"
        ),
    },
)
SYSTEMS = STEPS | TEXT | PAIRS
