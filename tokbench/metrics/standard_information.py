"""The standard measures of information, part of `standard.STANDARD`: bits that code an image without loss."""

from __future__ import annotations

from tokbench.metrics.definition import group

INFORMATION_VERSION = 1
BOUND_TIMES = 16  # noise levels an image
IMAGES = 1000  # of the generation split, at most; the same for tokenizers and codecs

_SPLIT = f"mean over at most {IMAGES} images of the generation split, / (3 H W)"
_TOKENS = "-log2 p(tokens): of codes the native causal backbone's, without a caption; of pixels exact; of trained continuous latents the bits-back rate from a Gaussian of fitted (kl: own) width to a Gaussian fitted to the training latents of an image (beyond 512 of strips of it), of the denoiser on raw patches its variational bound (both upper bounds)"
_RESIDUAL = "-log2 p(image | decoded tokens): discretised logistic (with 1e-4 of a uniform), mean and scale from three 3 x 3 convolutions on the reconstruction, fitted to 4000 training images with as many steps for every tokenizer; of a latent with a width, decoded from a sample; 0 where the tokens are the image"

INFORMATION = group(
    "information",
    INFORMATION_VERSION,
    {
        ("token_bits_per_subpixel", "tokens", "bits/subpixel", None): f"{_TOKENS}; {_SPLIT}",
        ("token_bits_per_pixel", "by bits-back", "bits/pixel", None): (
            f"of trained continuous latents the tokens' bits, / (H W); {_TOKENS}; mean over at most {IMAGES} images of the generation split"
        ),
        ("coded_psnr_db", "PSNR by bits-back", "dB", "up"): (
            f"PSNR on 8 bits of what the sample decodes to that those bits code, mean over at most {IMAGES} images of the generation split"
        ),
        ("residual_bits_per_subpixel", "left open", "bits/subpixel", None): f"{_RESIDUAL}; {_SPLIT}",
        ("lossless_bits_per_subpixel", "lossless total", "bits/subpixel", "down"): (
            f"tokens + left open: an upper bound on what the image holds; {_TOKENS}; {_RESIDUAL}; {_SPLIT}"
        ),
        ("token_share", "carried", "share", None): (
            f"tokens / lossless total, of images together; {_TOKENS}; {_RESIDUAL}; generation split"
        ),
        ("table_lossless_bits_per_subpixel", "lossless, by tables", "bits/subpixel", "down"): (
            f"as the lossless total, but tokens by a range coder under tables of the training split; {_RESIDUAL}; {_SPLIT}"
        ),
        ("above_entropy_bits_per_subpixel", "above the entropy", "bits/subpixel", "down"): (
            f"lossless total less the exact entropy of the process that draws the images; {_SPLIT}"
        ),
        ("single_file_bits_per_subpixel", "a file each", "bits/subpixel", "down"): (
            "bytes x 8 of one file an image, headers counted, of the same images / sub-pixels"
        ),
        ("tiled_file_bits_per_subpixel", "one picture", "bits/subpixel", "down"): (
            "bytes x 8 of one picture with the same images as tiles / their sub-pixels"
        ),
    },
)
