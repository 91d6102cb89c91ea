"""Tokens as real bytes: what a range coder writes for them under the training split's tables, and under the backbone."""

from __future__ import annotations

from math import log

import torch

from tokbench.evaluate.measures import Measures, measured
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import TokenTable
from tokbench.generation.causal import Causal
from tokbench.information.backbone_coding import decode_images, encode_images
from tokbench.information.coding import decode_tokens, encode_tokens, fit_tables
from tokbench.interfaces import Scheme, TokenSpace
from tokbench.metrics.standard import CODED_IMAGES


def evaluate_tables(space: TokenSpace, train: TokenTable, held_out: TokenTable) -> Measures:
    """Bits of the held-out tokens under integer tables fitted to the training split; nothing where continuous."""
    if train.indices is None or held_out.indices is None:
        return {}
    tables = fit_tables(train.indices, space.codebook_sizes)
    indices = held_out.indices.reshape(-1, len(tables)).cpu().numpy()
    data = encode_tokens(indices, tables)
    assert (decode_tokens(data, tables, len(indices)) == indices).all()
    key, images = "bits/table_bits_per_image", len(held_out)
    return {key: measured(key, 8 * len(data) / images, n=images)}


@torch.no_grad()
def evaluate_backbone_coding(block: str, scheme: Scheme, space: TokenSpace, held_out: TokenTable) -> Measures:
    """Bits that come out of the coder for a few held-out images, and the excess over their likelihood.

    Nothing but for the causal scheme over indices. RuntimeError where they do not decode to the same tokens.
    """
    if not isinstance(scheme, Causal) or scheme.likelihood != "exact" or held_out.indices is None:
        return {}
    batch = held_out.batch(space, some(len(held_out), CODED_IMAGES))
    data = encode_images(scheme, batch)
    if not torch.equal(decode_images(scheme, data, batch.text, batch.lengths), batch.indices):
        raise RuntimeError(f"{block}: the tokens decoded with the backbone differ from the encoded ones")
    nats = scheme.nll(batch)
    assert nats is not None
    images, bits, ideal = len(batch.lengths), 8.0 * len(data), nats.sum().item() / log(2)
    values = {"coded_bits_per_image": bits / images, "coded_excess": bits / ideal - 1}
    return {f"{block}/bits/{k}": measured(f"{block}/bits/{k}", v, n=images) for k, v in values.items()}
