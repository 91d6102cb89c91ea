"""The measures of heads on densities that are known, part of `standard.STANDARD`; no tokenizer has them."""

from __future__ import annotations

from tokbench.metrics.definition import group, version_of

DIRECTIONS = 64
BATCHES = 100  # of gradients

TOYS = group(
    "toy",
    version_of("metrics.points"),
    {
        ("parameters", "parameters", "", None): "all that is trained, the state and the trunk before the head included",
        ("kl_nats", "KL", "nats", "down"): (
            "mean over test draws x of log p(x) - log q(x), p the target's known density and q the model's; NA without a likelihood"
        ),
        ("sliced_wasserstein", "sliced W2", "", "down"): (
            f"Wasserstein-2 distance of as many samples and fresh draws, root mean square over {DIRECTIONS} directions; floor: between two sets of draws"
        ),
        ("coverage", "coverage", "share", "up"): (
            "share of the target's cells of equal mass that hold at least half their share of the samples, those outside not counted"
        ),
        ("outside", "outside", "share", None): (
            "share of samples where the target's density is below its 1 % quantile over draws; floor: of draws"
        ),
        ("denoising_error", "denoising error", "", "down"): (
            "mean squared error of predicted x_0 a channel, over fixed draws, noises and times that are even in the cosine's t"
        ),
        ("gradient_variance_log10", "gradient variance (log10)", "", None): (
            f"log10 of the variance, summed over parameters, of the gradient over {BATCHES} batches, at the weights that predicting x_0 trained"
        ),
    },
)
