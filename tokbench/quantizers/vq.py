"""Vector quantization with a codebook (VQ-VAE, arXiv:1711.00937, section 3), and what practice has added to it.

z -> k* = argmin_k |z - e_k| -> z_q = e_k*;  L = |sg(z) - e_k*|^2 (codebook) + beta |z - sg(e_k*)|^2 (commitment)

Both terms are means over all elements. The gradient past the argmin is the estimator's: straight-through, or the rotation
trick (arXiv:2410.06424). B images, N tokens, D channels, C channels of a code (D where not projected), V codes.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokbench.interfaces import Quantized
from tokbench.quantizers.assignment import assignment_entropies, squared_distance_logits
from tokbench.quantizers.estimators import Estimator, resolve, rotation_fallbacks, straight_through
from tokbench.quantizers.kmeans import kmeans
from tokbench.quantizers.latents import check_codebook, check_latents, on_sphere
from tokbench.quantizers.nearest import nearest_code
from tokbench.quantizers.ranks import from_first_rank, gather_tokens, num_ranks, sum_over_ranks

VERSION = 1
MIN_COUNT = 1e-5  # a code with a smaller running count stays where it is: its mean would be noise


class VectorQuantizer(nn.Module):
    """A codebook (V, C) and the nearest-code rule; any combination of the options below.

    `code_dim`: codes have C < D channels, behind linear maps to and from them (arXiv:2110.04627, section 3.2).
    `cosine`: latents and codes are scaled to norm 1 before the search and after it (the same paper).
    `ema_decay`: codes are running means of their tokens (arXiv:1711.00937, appendix A.1) instead of learned by the codebook
    term. Not smoothed: Laplace's rule moves unused codes toward the origin.
    `init`: "uniform" is U(-1/V, 1/V) (the paper's code), a number the deviation of a normal, "kmeans" fits the codebook to
    the first training batches that together hold V tokens. With `cosine` codes start uniform on the sphere all the same.
    `restart_below`: a code whose running share of the tokens falls below this part of 1/V moves to a random token of the
    batch (arXiv:2005.00341, section 3.1); 0 never restarts. `restart_decay` is the running share's memory.
    `entropy_weight` w adds w (E_n[H(p_n)] - gamma H(E_n[p_n])), p_n the softmax of -|z_n - e|^2 / temperature.
    `learned=False` freezes the codebook where it starts: a baseline.
    """

    initialized: Tensor
    fallbacks: Tensor
    shares: Tensor  # (V,) running share of the tokens, in units of 1 / V
    ema_counts: Tensor  # (V,)
    ema_sums: Tensor  # (V, C)

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        beta: float,
        estimator: str | Estimator,
        code_dim: int | None = None,
        cosine: bool = False,
        ema_decay: float | None = None,
        init: str | float = "uniform",
        restart_below: float = 0.0,
        restart_decay: float = 0.99,
        entropy_weight: float = 0.0,
        gamma: float = 1.0,
        temperature: float = 0.01,
        learned: bool = True,
    ) -> None:
        super().__init__()
        channels = dim if code_dim is None else code_dim
        if dim < 1:
            raise ValueError(f"dim must be >= 1, got {dim}")
        check_codebook(dim=channels, codebook_size=codebook_size)
        _check(
            init=init,
            ema_decay=ema_decay,
            restart_below=restart_below,
            restart_decay=restart_decay,
            temperature=temperature,
        )
        if ema_decay is not None and not learned:
            raise ValueError(f"ema_decay must be null where learned is false, got {ema_decay}")
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.estimator = resolve(estimator)
        self.cosine, self.ema_decay, self.temperature = cosine, ema_decay, temperature
        self.restart_below, self.restart_decay = restart_below, restart_decay
        self.loss_weights = {"codebook": float(learned)} if ema_decay is None else {}
        self.loss_weights["commitment"] = float(beta)
        if entropy_weight:
            self.loss_weights |= {
                "token_entropy_nats": entropy_weight,
                "codebook_entropy_nats": -entropy_weight * gamma,
            }
        self.project_in = nn.Identity() if code_dim is None else nn.Linear(dim, code_dim)
        self.project_out = nn.Identity() if code_dim is None else nn.Linear(code_dim, dim)
        self.codebook = nn.Parameter(torch.empty(codebook_size, channels), learned and ema_decay is None)
        self._draw(init)
        self.register_buffer("initialized", torch.tensor(init != "kmeans"))
        self._waiting: list[Tensor] = []  # tokens of the first batches, until there are enough for k-means
        self.register_buffer("fallbacks", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("shares", torch.ones(codebook_size))
        if ema_decay is not None:
            self.register_buffer("ema_counts", torch.zeros(codebook_size))
            self.register_buffer("ema_sums", torch.zeros(codebook_size, channels))

    def forward(self, z: Tensor) -> Quantized:
        """(B, N, D) latents to their nearest codes; float32 inside whatever the autocast."""
        check_latents(z, self.dim)
        with torch.autocast(device_type=z.device.type, enabled=False):
            latents = self.project_in(z.float())
            latents = on_sphere(latents) if self.cosine else latents
            tokens = latents.detach().flatten(0, 1)
            if self.training and not self.initialized:
                self._fit(tokens)
            codebook = self._codes()
            indices = nearest_code(latents, codebook)
            codes = F.embedding(indices, codebook)
            losses = self._losses(latents, codes, codebook)
            z_q = self.project_out(self.estimator(latents, codes))
            if not isinstance(self.project_out, nn.Identity):  # one row of one table, whatever else is in the batch
                z_q = straight_through(z_q, F.embedding(indices, self.project_out(codebook)))
            if self.training and self.initialized:
                self._observe(tokens, codes.detach().flatten(0, 1), indices.flatten())
        return Quantized(z_q.to(z.dtype), indices, losses)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) int64 in [0, V) to (B, N, D)."""
        return F.embedding(indices, self.project_out(self._codes()))

    def _codes(self) -> Tensor:
        """(V, C) as searched; a copy, because a restart writes into the codebook before the backward pass has read it."""
        return on_sphere(self.codebook.clone()) if self.cosine else self.codebook.clone()

    def _losses(self, latents: Tensor, codes: Tensor, codebook: Tensor) -> dict[str, Tensor]:
        losses = {} if self.ema_decay is not None else {"codebook": F.mse_loss(codes, latents.detach())}
        losses["commitment"] = F.mse_loss(latents, codes.detach())
        if "token_entropy_nats" in self.loss_weights:
            weight, bias = squared_distance_logits(codebook, self.temperature)
            losses |= assignment_entropies(latents.flatten(0, 1), weight, bias, over_ranks=self.training)
        return losses

    @torch.no_grad()
    def _draw(self, init: str | float) -> None:
        if isinstance(init, float) or self.cosine:
            self.codebook.normal_(std=init if isinstance(init, float) else 1.0)
            self.codebook.copy_(on_sphere(self.codebook) if self.cosine else self.codebook)
        else:
            self.codebook.uniform_(-1 / len(self.codebook), 1 / len(self.codebook))

    @torch.no_grad()
    def _fit(self, tokens: Tensor) -> None:
        self._waiting.append(gather_tokens(tokens))
        if sum(map(len, self._waiting)) < len(self.codebook):
            return
        onto = on_sphere if self.cosine else None
        self.codebook.copy_(kmeans(torch.cat(self._waiting), len(self.codebook), onto=onto))
        self.initialized.fill_(True)
        self._waiting.clear()

    @torch.no_grad()
    def _observe(self, tokens: Tensor, codes: Tensor, indices: Tensor) -> None:
        """What a training batch changes once its output stands: counts, running means, dead codes."""
        if self.estimator is not straight_through:
            masks = rotation_fallbacks(tokens, codes)
            self.fallbacks += sum_over_ranks(torch.stack([mask.sum() for mask in masks]))
        if self.ema_decay is None and not self.restart_below:
            return
        seen = sum_over_ranks(torch.bincount(indices, minlength=len(self.codebook)).float())
        if self.ema_decay is not None:
            self._move(tokens, indices, seen)
        if self.restart_below:
            self._restart(tokens, seen)

    def _move(self, tokens: Tensor, indices: Tensor, seen: Tensor) -> None:
        assert self.ema_decay is not None
        sums = sum_over_ranks(torch.zeros_like(self.ema_sums).index_add_(0, indices, tokens))
        self.ema_counts.lerp_(seen, 1 - self.ema_decay)
        self.ema_sums.lerp_(sums, 1 - self.ema_decay)
        alive = (self.ema_counts > MIN_COUNT)[:, None]
        means = self.ema_sums / self.ema_counts[:, None].clamp_min(MIN_COUNT)
        self.codebook.copy_(torch.where(alive, means, self.codebook))

    def _restart(self, tokens: Tensor, seen: Tensor) -> None:
        even = num_ranks() * len(tokens) / len(self.codebook)  # tokens a code, if all were used alike
        self.shares.lerp_(seen / even, 1 - self.restart_decay)
        dead = (self.shares < self.restart_below).nonzero()[:, 0]
        if not len(dead):
            return
        candidates = gather_tokens(tokens)
        chosen = from_first_rank(torch.randperm(len(candidates), device=tokens.device))[: len(dead)]
        dead = dead[: len(candidates)]
        self.codebook[dead] = candidates[chosen]
        self.shares[dead] = 1.0
        if self.ema_decay is not None:  # else the stale mean would undo the move in the next step
            self.ema_counts[dead], self.ema_sums[dead] = even, even * candidates[chosen]


def _check(
    *, init: str | float, ema_decay: float | None, restart_below: float, restart_decay: float, temperature: float
) -> None:
    if init not in ("uniform", "kmeans") and not (isinstance(init, float) and 0 < init < inf):
        raise ValueError(f"init must be uniform, kmeans or a deviation > 0 such as 0.5, got {init!r}")
    for name, decay in (("ema_decay", 0.0 if ema_decay is None else ema_decay), ("restart_decay", restart_decay)):
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must be >= 0 and < 1, got {decay}")
    if not 0 <= restart_below < 1:
        raise ValueError(f"restart_below must be >= 0 and < 1, a part of even use, got {restart_below}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
