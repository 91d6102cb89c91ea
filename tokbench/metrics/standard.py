"""The standard measures: what each column of a table is, and how it is measured.

A record's key is "group/name" and so is the key here. Raising a VERSION retires old records of its measures. An arrow
(`direction`) is only for what collapse cannot improve by itself: none on image likelihoods, entropies, usage or norms.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokbench.metrics.definition import PSNR_CAP, Definition, group, version_of
from tokbench.metrics.standard_cost import COST, TRAINING
from tokbench.metrics.standard_information import INFORMATION
from tokbench.metrics.standard_shapes import SHAPED
from tokbench.metrics.standard_systems import SYSTEMS
from tokbench.metrics.standard_toys import TOYS
from tokbench.metrics.standard_truth import CHOICES, LEGIBILITY, SCENES

VERSION = 1
RANDOM_SEED = 0  # of random64's weights
RANDOM_MINIMUM = 5000  # images below which an unpaired distance on random64 is not given
SLICES, SLICES_SEED = 128, 0
FLIP_SHARES = {1: 0.01, 10: 0.1}  # percent to share of the tokens replaced
FLIP_IMAGES, FLIP_SEED = 1000, 0
CODED_IMAGES = 16  # coded with the backbone
UNDERSTANDING_VERSION = KODAK_VERSION = CODED_VERSION = LIKELIHOOD_VERSION = ROBUSTNESS_VERSION = 1

FEATURES = {  # measures by the network whose features they are computed on: no rank for who was trained on those (C40)
    "fd_classifier": "classifier",
    "fd_random64": "random64",
    "kid_random64": "random64",
    "class_agreement": "classifier",
}

_FRECHET = "Fréchet distance in float64; NA where images <= features"
_CLASSIFIER = "64 features of a small classifier trained on the training split's originals (sha256 in the record)"
_RANDOM = f"64 features of a fixed random convolutional network, seed {RANDOM_SEED} (sha256 in the record)"
_PAIRED = "test originals against their own reconstructions"
_UNPAIRED = "generated images against originals of the generation split"
_COUNTED = "over all tokens of the test split"

_IMAGES = group(
    "reconstruction",
    version_of("metrics.images"),
    {
        ("psnr_db", "PSNR", "dB", "up"): (
            f"mean of per-image PSNR on 8-bit RGB (clamped, rounded); identical images count {PSNR_CAP:g} dB"
        ),
        ("ssim", "SSIM", "", "up"): (
            "mean over images; 8-bit RGB, range 255, Gaussian window of sigma 1.5 (11 pixels), borders reflected"
        ),
        ("psnr_ge_40", "PSNR >= 40 dB", "share", "up"): "share of images whose PSNR on 8-bit RGB is at least 40 dB",
    },
)
_RECONSTRUCTION = group(
    "reconstruction",
    version_of("metrics.features"),
    {
        ("fd_classifier", "rFD classifier", "", "down"): f"{_FRECHET}; {_PAIRED}; {_CLASSIFIER}",
        ("fd_random64", "rFD random64", "", "down"): f"{_FRECHET}; {_PAIRED}; {_RANDOM}; not FID",
    },
)
_ROBUSTNESS = group(
    "reconstruction",
    ROBUSTNESS_VERSION,
    {
        (f"psnr_lost_{percent}_percent", f"PSNR lost at {percent} %", "dB", None): (
            f"mean over at most {FLIP_IMAGES} test images of PSNR minus PSNR with round({share:g} n) of all their n tokens, drawn without replacement (seed {FLIP_SEED}), each replaced by another code, uniformly, in every stage; NA if continuous"
        )
        for percent, share in FLIP_SHARES.items()
    },
)
_BITS = group(
    "bits",
    version_of("metrics.codes"),
    {
        ("tokens", "tokens", "tokens/image", None): "image tokens N of one image",
        ("dim", "D", "channels", None): "channels D of one token as the decoder reads it",
        ("nominal_bits_per_image", "nominal bits", "bits/image", None): (
            "N sum(log2 V_k) with the actual V; NA if continuous"
        ),
        ("nominal_bits_per_pixel", "nominal bpp", "bits/pixel", None): "N sum(log2 V_k) / (H W); NA if continuous",
        ("usage", "usage", "share", None): (
            f"share of the V codes that occur {_COUNTED}; mean over stages; read with its cap"
        ),
        ("usage_cap", "usage cap", "share", None): (
            "1 - exp(-n / V): usage expected of n independent uniform tokens; mean over stages"
        ),
        ("usage_tokens", "tokens counted", "tokens", None): (
            "tokens n that usage, perplexity and entropy were counted over"
        ),
        ("perplexity", "perplexity", "codes", None): "2^H of the marginal entropy H of one token (bias corrected)",
        ("marginal_entropy_bits", "H", "bits/token", None): (
            f"entropy of code counts {_COUNTED}; plug-in + Miller-Madow, at most log2 V; summed over stages"
        ),
        ("marginal_bits_per_image", "N H", "bits/image", None): "N times the marginal entropy of one token",
        ("relative_quantization_error", "quantization error", "", None): (
            f"sum |z - z_q|^2 / sum |z|^2 {_COUNTED}; scale free, but z is each tokenizer's own (FSQ: before its bound)"
        ),
        ("norm_z", "norm of z", "", None): f"mean Euclidean norm of a token before quantization, {_COUNTED}",
        ("norm_z_q", "norm of z_q", "", None): f"mean Euclidean norm of a token after quantization, {_COUNTED}",
    },
)
_LIKELIHOOD = group(
    "bits",
    LIKELIHOOD_VERSION,
    {
        ("model_bits_per_image", "model bits", "bits/image", None): (
            "mean -log2 p(image tokens | caption) over the generation split: a bound on their entropy given the caption; NA if continuous"
        ),
        (
            "model_bits_per_pixel",
            "model bpp",
            "bits/pixel",
            None,
        ): "model bits per image / (H W), over the generation split; NA if continuous",
        ("model_bits_bound_per_image", "model bits, bound", "bits/image", None): (
            "an upper bound on model bits per image: N E[1/k sum over k random masked tokens of -log2 p], k uniform on 1..N, 8 masks an image"
        ),
        ("model_density_bits_per_channel", "density bits", "bits/channel", None): (
            "mean -log2 of the density of the image tokens given the caption / (N D), in the tokenizer's own units: may be negative, and compares within one tokenizer alone"
        ),
        ("position_drop", "fall along the tokens", "bits/token", None): (
            "mean model bits of a token in the first quarter of an image's tokens minus the last quarter's, over the generation split"
        ),
    },
)
_CODED = group(
    "bits",
    CODED_VERSION,
    {
        ("table_bits_per_image", "bits by table", "bits/image", None): (
            "bytes x 8 of a range coder for the tokens of the generation split as one string, each code by its share of the training split in whole 2^-22 parts, decoded again and equal; / images; NA if continuous"
        ),
        ("coded_bits_per_image", "coded bits", "bits/image", None): (
            f"bytes x 8 of a range coder for the tokens of {CODED_IMAGES} images of the generation split as one string, each by the backbone's step probabilities in whole 2^-22 parts, decoded again by the same steps and equal; / images"
        ),
        ("coded_excess", "coded / model - 1", "share", None): (
            "coded bits over -log2 p(image tokens | caption) of the same images, less 1"
        ),
    },
)
_TILED = "24 Kodak photographs in tiles of the training size"
_KODAK = group(
    "kodak",
    KODAK_VERSION,
    {
        ("psnr_db", "Kodak PSNR", "dB", "up"): f"{_TILED}: mean of PSNR of the photographs put together, 8-bit RGB",
        (
            "ssim",
            "Kodak SSIM",
            "",
            "up",
        ): f"{_TILED}: mean of SSIM of the photographs put together, as reconstruction/ssim",
        ("nominal_bpp", "Kodak nominal bpp", "bits/pixel", None): f"{_TILED}: N sum(log2 V_k) / (H W) of a tile",
        ("table_bpp", "Kodak coded bpp", "bits/pixel", None): (
            f"{_TILED}: bytes x 8 of a range coder for each photograph's tokens as one string by the training split's tables, / pixels; mean"
        ),
        ("model_bpp", "Kodak model bpp", "bits/pixel", None): (
            f"{_TILED}: -log2 p(tokens of a tile) without a caption, summed over a photograph's tiles, / pixels; mean"
        ),
    },
)
_GENERATION = group(
    "generation",
    version_of("metrics.features"),
    {
        ("fd_classifier", "gFD classifier", "", "down"): f"{_FRECHET}; {_UNPAIRED}; {_CLASSIFIER}",
        ("fd_random64", "gFD random64", "", "down"): (
            f"{_FRECHET}; {_UNPAIRED}; {_RANDOM}; not FID; NA below {RANDOM_MINIMUM} images a side"
        ),
        ("kid_random64", "KID random64", "", "down"): (
            f"unbiased squared MMD under (x.y / 64 + 1)^3 over all pairs; {_UNPAIRED}; {_RANDOM}; may be below 0"
        ),
        ("sliced_wasserstein", "sliced W2", "", "down"): (
            f"Wasserstein-2 of pixels in [0, 1], RMS over {SLICES} random directions, seed {SLICES_SEED}; {_UNPAIRED}"
        ),
        ("guidance", "guidance", "", None): (
            "candidate whose samples were nearest to the validation split (gFD classifier; sliced W2 without it)"
        ),
        ("nearest_train_distance", "nearest training image", "levels", None): (
            "mean over generated images of the RMS pixel difference to the nearest training image; 0 is a copy"
        ),
        ("class_agreement", "class agreement", "share", "up"): (
            "share of generated images that the classifier gives their caption's class; blind to variety; colour alone: of real images, by colour"
        ),
    },
)
_UNDERSTANDING = group(
    "understanding",
    UNDERSTANDING_VERSION,
    {
        ("caption_accuracy", "caption accuracy", "share", "up"): (
            "share of images whose own caption is the likeliest of all classes' captions; baseline rows: accuracy of the judge, of colour alone"
        ),
        ("caption_bits_per_byte", "caption bits/byte", "bits/byte", "down"): (
            "-log2 p(caption and its end | image) / bytes, over all captions; the same text for every tokenizer"
        ),
        ("caption_content_bits_per_byte", "caption content bits/byte", "bits/byte", "down"): (
            "-log2 p(caption and that it ends | image, and that its first byte is one) / bytes, over all captions: not of the kind of row"
        ),
    },
)
STANDARD: Mapping[str, Definition] = (
    _IMAGES
    | _RECONSTRUCTION
    | _ROBUSTNESS
    | _BITS
    | _LIKELIHOOD
    | _CODED
    | _KODAK
    | _GENERATION
    | _UNDERSTANDING
    | SHAPED
    | TOYS
    | COST
    | TRAINING
    | LEGIBILITY
    | SCENES
    | CHOICES
    | INFORMATION
    | SYSTEMS
)
