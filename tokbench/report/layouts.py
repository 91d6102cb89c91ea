"""Which tables a page has, and which measures each shows."""

from __future__ import annotations

from dataclasses import dataclass

from tokbench.data.letters import BACKGROUNDS, FONT_SIZES
from tokbench.metrics.standard_shapes import SHAPES
from tokbench.metrics.standard_systems import WAYS
from tokbench.report.columns import (
    Column,
    bound,
    flattened,
    floor,
    interval,
    preset,
    ranked_among,
    seeds,
    value,
    warning,
)
from tokbench.report.peers import Peers
from tokbench.report.view import View

_INTERVAL = (
    "95 % intervals are bootstrapped over seeds and images together, images in clusters that share a source photograph, and as"
    " wide as Student's over the seeds where that is wider; ± is the standard deviation over training seeds."
)
_AMONG = (
    "ranked among: the rows of equal nominal bits (within 1 %) in one encoder, decoder and loss, trained for the same steps of"
    " the same batch, width, depth, precision and images; none: what differs from the nearest comparison."
)
_COMMON = (
    "ranked among: the rows that differ in the tokenizer alone: as many tokens, one backbone, scheme and budget, and training"
    " FLOPs within 5 %; none: what differs from the nearest comparison."
)
_COLLAPSE = (
    "None of these is an achievement by itself: a collapsed codebook also lowers entropy and error. They are read"
    " together with the reconstruction."
)
_FLIPPED = "No achievement by itself: codes that hardly differ, or that the decoder hardly reads, are safe to replace."
_NATIVE = (
    "Never ranked, and never compared with the common table: another scheme gives another cost and another likelihood."
)
_COST = (
    "FLOPs are twice the multiply-accumulates. A timing on a busy machine is NA. Even where it is not, times of one and the same"
    " generator differ between runs on a shared machine (see the ±): FLOPs and passes compare, times say what to expect."
    " latency / roofline: below 1 where decoding starts a block faster than the plain block that is timed for the bound, or"
    " weights stay in a cache. Peak memory has in it what a decoder copies of the weights; the code of some records copied none."
)


@dataclass(frozen=True)
class Layout:
    """One table."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()  # names of equal shares of the columns, in order: each share is a line of its own

    def shown(self, view: View) -> list[Column]:
        """The columns of which a run has anything."""
        return [column for column in self.columns if column.present(view)]


@dataclass(frozen=True)
class Section:
    """Tables under one heading."""

    title: str
    layouts: tuple[Layout, ...]
    always: bool = True  # False: only where a run has any of it


RECONSTRUCTION = Layout(
    "Reconstruction",
    (
        Column("seeds", "reconstruction/psnr_db", seeds, bare=True),
        Column("warning", "reconstruction/psnr_db", warning, bare=True),
        Column("PSNR", "reconstruction/psnr_db", value, rank="equal bits", array="psnr_db"),
        Column("95 % interval", "reconstruction/psnr_db", interval, array="psnr_db", bare=True),
        Column("SSIM", "reconstruction/ssim", value, rank="equal bits", array="ssim"),
        Column("≥ 40 dB", "reconstruction/psnr_ge_40", value),
        Column("rFD classifier", "reconstruction/fd_classifier", value, rank="equal bits"),
        Column("floor", "reconstruction/fd_classifier", floor, bare=True),
        Column("rFD random64", "reconstruction/fd_random64", value, rank="equal bits"),
        Column("floor", "reconstruction/fd_random64", floor, bare=True),
        Column("caption shown", "reconstruction/caption_shown", value, rank="equal bits", array="caption_shown"),
        Column("attributes shown", "reconstruction/attributes_shown", value),
        Column("ranked among", "reconstruction/psnr_db", ranked_among, rank="equal bits", bare=True),
    ),
    (_INTERVAL, _AMONG),
)
BITS = Layout(
    "Bits",
    (
        Column("tokens", "bits/tokens", value),
        Column("D", "bits/dim", value),
        Column("of the set", "bits/source_bits_per_image", value),
        Column("nominal", "bits/nominal_bits_per_image", value),
        Column("marginal", "bits/marginal_bits_per_image", value),
        Column("usage", "bits/usage", value),
        Column("cap", "bits/usage_cap", value),
        Column("n", "bits/usage_tokens", value),
        Column("perplexity", "bits/perplexity", value),
        Column("rel. error", "bits/relative_quantization_error", value),
        Column("|z|", "bits/norm_z", value),
        Column("|z_q|", "bits/norm_z_q", value),
    ),
    (_COLLAPSE, "cap: the usage that n tokens spread evenly over the codes would show; n: the tokens counted."),
)
MODEL_BITS = Layout(
    "Model bits",
    (
        Column("preset", "native/bits/model_bits_per_image", preset, bare=True),
        Column("nominal", "bits/nominal_bits_per_image", value),
        Column("model, image", "native/bits/model_bits_per_image", value),
        Column("model, pixel", "native/bits/model_bits_per_pixel", value),
    ),
    (_COLLAPSE,),
)
ROBUSTNESS = Layout(
    "Robustness",
    (
        Column("PSNR lost at 1 %", "reconstruction/psnr_lost_1_percent", value),
        Column("PSNR lost at 10 %", "reconstruction/psnr_lost_10_percent", value),
    ),
    (f"Of the tokens replaced by another code, at random. {_FLIPPED}",),
)
LEGIBILITY = Layout(
    "Legibility",
    (
        Column("needs", "legibility/text_bits_per_glyph", value),
        Column("has", "legibility/bits_per_glyph", value),
        Column("characters", "legibility/char_accuracy", value, rank="equal bits", array="char_accuracy"),
        Column("of originals'", "legibility/char_accuracy_relative", value),
        Column("strings", "legibility/string_accuracy", value, rank="equal bits", array="string_accuracy"),
        Column("of originals'", "legibility/string_accuracy_relative", value),
        *(Column(f"{size} px", f"legibility/char_accuracy_{size}_px", value) for size in FONT_SIZES),
        *(Column(f"strings, {size} px", f"legibility/string_accuracy_{size}_px", value) for size in FONT_SIZES),
        *(Column(name, f"legibility/char_accuracy_{name}", value) for name in BACKGROUNDS),
    ),
    (
        "needs: bits a character of its text and layout alone; has: nominal bits of an image a character. Sizes and"
        " backgrounds: characters read in those images, or strings where it says so.",
    ),
)
_TOKENIZER_COST = (
    Column("parameters", "cost/tokenizer_parameters", value),
    Column("training", "cost/tokenizer_training_flops", value),
    Column("encode", "cost/encode_seconds", value),
    Column("decode", "cost/decode_seconds", value),
)


_DISTANCES = (
    ("gFD classifier", "fd_classifier"),
    ("gFD random64", "fd_random64"),
    ("KID random64", "kid_random64"),
    ("sliced W2", "sliced_wasserstein"),
)


def _generation(block: str, group: str) -> tuple[Column, ...]:
    rank: Peers | None = "all" if block == "common" else None
    at = f"{block}/{group}"
    first = f"{block}/generation/fd_classifier"
    return (
        *((Column("preset", first, preset, bare=True),) if block == "native" else ()),
        *((Column("guidance", f"{at}/guidance", value),) if group == "guided" else ()),
        *(
            column
            for name, short in _DISTANCES
            for column in (
                Column(name, f"{at}/{short}", value, rank=rank),
                Column("floor", f"{at}/{short}", floor, bare=True),
            )
        ),
        Column("nearest train", f"{at}/nearest_train_distance", value),
        Column("class agreement", f"{at}/class_agreement", value),
        Column("caption shown", f"{at}/caption_shown", value, rank=rank),
        Column("attributes shown", f"{at}/attributes_shown", value),
        *((Column("ranked among", f"{at}/sliced_wasserstein", ranked_among, rank=rank, bare=True),) if rank else ()),
    )


def _understanding(block: str) -> tuple[Column, ...]:
    at = f"{block}/understanding"
    rank: Peers | None = "all" if block == "common" else None
    return (
        Column("caption accuracy", f"{at}/caption_accuracy", value, rank=rank),
        Column("caption", f"{at}/caption_bits_per_byte", value),
        Column("caption, content", f"{at}/caption_content_bits_per_byte", value),
        Column("text alone", f"{at}/text_bits_per_byte", value),
        Column("text, content", f"{at}/text_content_bits_per_byte", value),
        Column("reading", f"{at}/reading_accuracy", value, rank=rank),
        Column("exactness", f"{at}/caption_exactness", value, rank=rank),
    )


def _cost(block: str) -> tuple[Column, ...]:
    at = f"{block}/cost"
    return (
        Column("preset", f"{at}/parameters", preset, bare=True),
        Column("parameters", f"{at}/parameters", value),
        Column("training", f"{at}/training_flops", value),
        Column("image, analytic", f"{at}/generation_flops_analytic", value),
        Column("image, counted", f"{at}/generation_flops_counted", value),
        Column("passes", f"{at}/passes", value),
        Column("latency", f"{at}/latency_seconds", value),
        Column("bound", f"{at}/compute_bound_seconds", bound, bare=True),
        Column("latency / roofline", f"{at}/latency_over_roofline", value),
        Column("throughput", f"{at}/throughput_images_per_second", value),
        Column("best batch", f"{at}/best_batch", value),
        Column("bound there", f"{at}/compute_bound_seconds_at_best", bound, bare=True),
        Column("peak memory", f"{at}/peak_memory_bytes", value),
        Column("KV cache", f"{at}/kv_cache_bytes", value),
        Column("KV allocated", f"{at}/kv_cache_allocated_bytes", value),
    )


def _shapes(block: str) -> Layout:
    sizes = [f"{rows}x{columns}" for rows, columns in SHAPES]
    bits = (Column(f"image, {size}", f"{block}/shapes/image_bits_per_token_{size}", value) for size in sizes)
    words = (Column(f"caption, {size}", f"{block}/shapes/caption_bits_per_byte_{size}", value) for size in sizes)
    note = "Mosaics of so many rows and columns of images of one class; 1x1 is the shape trained on."
    return Layout(block.capitalize(), (*bits, *words), (note,))


def _steps(block: str) -> Layout:
    measured = (("gFD classifier", "fd_classifier"), ("alone", "latency_seconds"), ("best batch", "best_batch_seconds"))
    columns = (
        Column(name, f"{block}/steps/{key}_{way}_{count}", value) for way, count in WAYS for name, key in measured
    )
    note = "Quality at the chosen guidance; times of one image alone, and of an image at the best batch, at guidance 1."
    return Layout(block.capitalize(), tuple(columns), (note,), tuple(f"{way} {count}" for way, count in WAYS))


def _pairs(block: str) -> Layout:
    at = f"{block}/understanding"
    return Layout(
        block.capitalize(),
        (
            Column("right", f"{at}/same_different_accuracy", value),
            Column("tokens differ", f"{at}/pairs_told_apart_by_tokens", value),
        ),
        ("Two images, alike or but for a small square; right by chance: half.",),
    )


def _training(at: str, name: str) -> tuple[Column, ...]:
    return (
        Column(f"{name} loss", f"{at}training/flattened", flattened, bare=True),
        Column("best step", f"{at}training/best_step", value),
    )


SECTIONS = (
    Section("Reconstruction and bits", (RECONSTRUCTION, BITS, ROBUSTNESS, LEGIBILITY)),
    Section(
        "Generation, common: one scheme for all",
        (
            Layout("Guidance 1", _generation("common", "generation"), (_COMMON,)),
            Layout("Best guidance", _generation("common", "guided")),
        ),
    ),
    Section(
        "Generation, native: each tokenizer in its own scheme",
        (
            Layout("Guidance 1", _generation("native", "generation"), (_NATIVE,)),
            Layout("Best guidance", _generation("native", "guided")),
        ),
    ),
    Section(
        "Understanding",
        (
            Layout("Common: bidirectional image mask", _understanding("common")),
            Layout("Native: the scheme's own mask", _understanding("native"), (_NATIVE,)),
        ),
    ),
    Section("Images of other shapes", (_shapes("common"), _shapes("native")), always=False),
    Section("One model over its steps", (_steps("common"), _steps("native")), always=False),
    Section("Same or different", (_pairs("common"), _pairs("native")), always=False),
    Section("Model bits", (MODEL_BITS,)),
    Section(
        "Cost",
        (
            Layout("Tokenizer", _TOKENIZER_COST),
            Layout("Common", _cost("common"), (_COST,)),
            Layout("Native", _cost("native")),
        ),
    ),
    Section(
        "Training",
        (
            Layout(
                "Losses",
                (*_training("", "tokenizer"), *_training("common/", "common"), *_training("native/", "native")),
            ),
        ),
    ),
)
