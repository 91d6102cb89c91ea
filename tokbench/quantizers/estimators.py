"""How a gradient passes a quantizer: functions (z, codes) -> out with out == codes exactly and a gradient for z alone.

z and codes are (..., D). Every form is sg(codes) + (out - sg(out)), which is exact in floats in every dtype; the usual
z + sg(codes - z) is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VERSION = 1
Estimator = Callable[[Tensor, Tensor], Tensor]

SMALL = 1e-6  # |z| below SMALL * |code|: the rotation's scale explodes, straight-through is used
CACHED = 2**17  # numbers of a tensor that the backward pass looks at together: several such tensors fit a core's cache
OPPOSITE = 1e-3  # |z^ + code^| below this: the rotation's plane is undefined, a reflection is used


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """`codes`, with dL/dz = dL/dout (arXiv:1308.3432; VQ-VAE, arXiv:1711.00937 section 3.2)."""
    return codes.detach() + (z - z.detach())


def rotate(z: Tensor, codes: Tensor, *, radial: bool = True, rescale: bool = True) -> Tensor:
    """`codes`, with dL/dz = (|code| / |z|) R^T dL/dout where R turns z^ onto code^ (arXiv:2410.06424, algorithm 1).

    Without `radial`, the part of that gradient along z is projected out, as in the code behind the paper's tables 3 and 4;
    without `rescale`, it lacks the ratio of norms. Computed in float32, in the backward pass alone. Departs from the paper
    where its rule has no finite value: see `rotation_fallbacks`.
    """
    out: Tensor = _Rotation.apply(z, codes.detach(), radial, rescale)
    return out


class _Rotation(torch.autograd.Function):
    """The value is known, so the turned latents are made where their gradient is asked for, and never kept."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, codes: Tensor, radial: bool, rescale: bool) -> Tensor:
        ctx.save_for_backward(z, codes)
        ctx.options = radial, rescale
        return codes.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        z, codes = ctx.saved_tensors
        with torch.autocast(device_type=z.device.type, enabled=False):
            found = torch.cat([_turned_back(g, x, q, *ctx.options) for g, x, q in _in_parts(grad, z, codes)])
        return found.view(z.shape).to(z.dtype), None, None, None


def _in_parts(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """(..., D) tensors as float32 (n, D) parts; on a CPU such that several fit its cache, which a dozen passes pay for."""
    tokens = tensors[0].numel() // tensors[0].shape[-1]
    size = max(1, CACHED // tensors[0].shape[-1]) if tensors[0].device.type == "cpu" else max(1, tokens)
    rows = (tensor.reshape(tokens, -1).split(size) for tensor in tensors)
    return ([tensor.float() for tensor in part] for part in zip(*rows, strict=True))


def _turned_back(grad: Tensor, z: Tensor, q: Tensor, radial: bool, rescale: bool) -> Tensor:
    """(n, D) float32 (|q| / |z|) R^T grad, where R = I - 2 a a^T + 2 q^ z^^T with a along z^ + q^."""
    tiny = torch.finfo(torch.float32).tiny
    z_norm, q_norm = z.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
    small = z_norm <= SMALL * q_norm
    z_norm = z_norm.clamp_min(tiny)
    z_hat, q_hat = z / z_norm, q / q_norm.clamp_min(tiny)
    axis = z_hat + q_hat
    length = axis.norm(dim=-1, keepdim=True)
    opposite = ~small & (length < OPPOSITE)
    if opposite.any():
        axis = torch.where(opposite, z_hat - q_hat, axis)
        length = axis.norm(dim=-1, keepdim=True)
    axis /= length.clamp_min(tiny)
    scaled = grad * (q_norm / z_norm).masked_fill(small, 0.0) if rescale else grad.masked_fill(small, 0.0)
    along = 2 * (scaled * q_hat).sum(-1, keepdim=True).masked_fill(opposite, 0.0)
    back = (along * z_hat).add_(scaled)
    back -= 2 * (scaled * axis).sum(-1, keepdim=True) * axis
    if not radial:
        back = back - (back * z_hat).sum(-1, keepdim=True) * z_hat
    return torch.where(small, grad, back)


def rotation_fallbacks(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Two (...) bool masks of `rotate`'s special cases: tokens given straight-through, tokens given a reflection."""
    masks = [torch.stack(_fallbacks(x, q)) for x, q in _in_parts(z.detach(), codes.detach())]
    small, opposite = torch.cat(masks, dim=1).view(2, *z.shape[:-1])
    return small, opposite


def _fallbacks(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    z_norm, q_norm = z.norm(dim=-1), codes.norm(dim=-1)
    small = z_norm <= SMALL * q_norm
    tiny = torch.finfo(torch.float32).tiny
    sums = z / z_norm.clamp_min(tiny)[..., None] + codes / q_norm.clamp_min(tiny)[..., None]
    return small, ~small & (sums.norm(dim=-1) < OPPOSITE)


ESTIMATORS: dict[str, Estimator] = {
    "straight_through": straight_through,
    "rotation": rotate,
    "rotation_no_radial": partial(rotate, radial=False),
    "rotation_no_rescale": partial(rotate, rescale=False),
}


def resolve(estimator: str | Estimator) -> Estimator:
    """The estimator of that name, or the function itself; ValueError lists the names."""
    if callable(estimator):
        return estimator
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {sorted(ESTIMATORS)}, got {estimator!r}")
    return ESTIMATORS[estimator]
