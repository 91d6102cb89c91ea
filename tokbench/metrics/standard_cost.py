"""The standard measures of cost and training, part of `standard.STANDARD`; FLOPs are 2 x multiply-adds throughout."""

from __future__ import annotations

from tokbench.metrics.definition import group

COST_VERSION = 1
TRAINING_VERSION = 1

COST = group(
    "cost",
    COST_VERSION,
    {
        ("tokenizer_parameters", "tokenizer parameters", "", "down"): (
            "parameters of encoder, quantizer and decoder, frozen ones included"
        ),
        ("tokenizer_training_flops", "tokenizer training FLOPs", "FLOPs", "down"): (
            "counted forward and backward of one step x steps; 2 FLOPs a multiply-add; 0 if nothing is trained"
        ),
        ("tuning_flops", "tuning FLOPs", "FLOPs", "down"): (
            "counted forward and backward of one step x steps of all tuning trials; one search serves all seeds of a row"
        ),
        (
            "encode_seconds",
            "encode",
            "s/image",
            "down",
        ): "median wall-clock seconds of encoding a training batch / its images",
        (
            "decode_seconds",
            "decode",
            "s/image",
            "down",
        ): "median wall-clock seconds of decoding a training batch / its images",
        ("parameters", "backbone parameters", "", "down"): "trainable parameters of backbone, input maps and heads",
        ("training_flops", "backbone training FLOPs", "FLOPs", "down"): (
            "forward and backward of one step x steps; 2 FLOPs a multiply-add, attention included"
        ),
        ("training_flops_proxy", "backbone training 6 N D", "FLOPs", "down"): (
            "6 x parameters of the blocks x tokens of all steps, text, image and padding alike: without attention, heads and embeddings"
        ),
        ("head_seconds_share", "head's share of time", "share", "down"): (
            "wall-clock seconds inside the head's draws / seconds of one image, batch 1, guidance 1, decoding left out; 0 without a head"
        ),
        ("generation_flops_analytic", "FLOPs/image (formula)", "FLOPs/image", "down"): (
            "backbone, head and code search for one image at guidance 1, from shapes alone; 2 FLOPs a multiply-add; guidance doubles it"
        ),
        ("generation_flops_counted", "FLOPs/image (counted)", "FLOPs/image", "down"): (
            "backbone, head and code search for one image at guidance 1, as dispatched; 2 FLOPs a multiply-add; attention counted dense"
        ),
        ("passes", "passes", "passes/image", "down"): "sequential backbone passes for one image, guidance not doubled",
        ("latency_seconds", "latency", "s/image", "down"): (
            "median wall-clock seconds of one image in float32, batch 1, guidance 1, from caption to pixels, of 5 runs after a warm-up"
        ),
        ("throughput_images_per_second", "throughput", "images/s", "up"): (
            "images a second in float32 at the best batch, from the budget's largest halved while the rate does not fall, guidance 1, from caption to pixels"
        ),
        ("best_batch", "best batch", "images", None): "images at once of the throughput",
        ("latency_over_roofline", "latency / roofline", "", "down"): (
            "latency over max(FLOPs / F, bytes / BW) + launches of all passes, at batch 1, decoding in the numerator alone"
        ),
        **{
            (f"{bound}_bound_seconds{at}", f"{bound} bound{where}", "s", "down"): (
                f"seconds of one {batch} if {what} alone held, from this machine's own rates in float32"
            )
            for at, where, batch in (("", "", "image"), ("_at_best", ", best batch", "best batch"))
            for bound, what in (
                ("compute", "matrix products"),
                ("weights", "reading weights and cache"),
                ("launch", "starting each block of each pass"),
            )
        },
        ("peak_memory_bytes", "peak memory", "bytes", "down"): (
            "most held at once by tensors of one generation at batch 1 and guidance 1, weights excluded, by the allocator's record"
        ),
        ("kv_cache_bytes", "KV cache", "bytes", "down"): (
            "keys and values held at the last pass of one image at guidance 1, by the formula; guidance doubles it"
        ),
        ("kv_cache_allocated_bytes", "KV cache, allocated", "bytes", "down"): (
            "keys and values held at the last pass of one image at guidance 1, as allocated"
        ),
    },
)
TRAINING = group(
    "training",
    TRAINING_VERSION,
    {
        ("final_loss", "final loss", "", None): (
            "mean training loss of the last tenth of the steps; not comparable across heads"
        ),
        ("steps", "training steps", "steps", None): (
            "optimizer steps; where budget.backbone.training_flops is set, as many as it pays for by the count of one step"
        ),
        ("flattened", "flattened", "0 or 1", None): (
            "1 where the loss had stopped falling; 0 is printed as not converged"
        ),
        ("rotation_fallbacks", "rotation fallbacks", "tokens", None): (
            "tokens of the training that the rotation trick gave straight-through (|z| near 0) or a reflection (code opposite z)"
        ),
        (
            "tuning_trials",
            "tuning trials",
            "trials",
            None,
        ): "short trainings that the settings of this row were chosen from",
        (
            "tuned_lr_factor",
            "learning rate",
            "times default",
            None,
        ): "the chosen trial's learning rate over the budget's",
        ("tuned_weight_factor", "method weight", "times default", None): (
            "the chosen trial's weight of the method (the first of conf/tuning's list that it has) over its conf's; 1 where it has none"
        ),
        ("best_step", "best step", "steps", None): "step of the lowest validation loss, whose weights are kept",
        ("micro_batches", "micro-batches", "parts a batch", None): (
            "parts that each batch was read in after memory failed, gradients averaged: the same effective batch, but k-means "
            "starts, running means and batch entropies see parts; no number where memory sufficed"
        ),
    },
)
