"""Distances between two sets of images, on features or on pixels. n and m images, d features.

Fréchet distance: arXiv:1706.08500, eq. 6; KID: arXiv:1801.01401, section 4; sliced Wasserstein: Bonneel et al. 2015,
doi:10.1007/s10851-014-0506-3. A distance of unpaired sets is printed beside its floor, real against real at the same n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokbench.metrics.images import to_float

VERSION = 1
KERNEL_TILE = 1024  # rows of a kernel matrix at a time
SAMPLE_TILE, TRAIN_TILE = 512, 2048  # images of a distance matrix at a time


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x^1/2 S_y S_x^1/2)^1/2) of features (n, d) and (m, d), in float64, >= 0.

    ValueError where n or m is <= d: the covariance is singular and the distance mostly noise.
    """
    x, y = _pair(x, y)
    if min(len(x), len(y)) <= x.shape[1]:
        raise ValueError(
            f"a Fréchet distance of {x.shape[1]} features needs more images than that, got {len(x)} and {len(y)}"
        )
    cov_x, cov_y = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(x.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp_min(0).sqrt().sum()
    distance = (x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross
    return max(0.0, distance.item())


def kid(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of features (n, d) and (m, d) under (x.y / d + 1)^3, over all pairs; can be below 0."""
    x, y = _pair(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"kid needs at least 2 images a side, got {len(x)} and {len(y)}")
    between = _kernel_sum(x, y) / (len(x) * len(y))
    return (_kernel_within(x) + _kernel_within(y) - 2 * between).item()


def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int, seed: int) -> float:
    """Wasserstein-2 distance along random directions, root mean square, of uint8 images as points in [0, 1]^(3HW).

    Exact along each direction, for sets of different sizes too.
    """
    _check_images(x, y)
    if min(len(x), len(y), projections) < 1:
        raise ValueError(f"images and projections must be >= 1, got {len(x)}, {len(y)} and {projections}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x[0].numel(), projections, generator=generator)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    first, second = (in_batches(lambda b: b.flatten(1).float() / 255 @ directions, s, batch=TRAIN_TILE) for s in (x, y))
    return _wasserstein_squared(first.double(), second.double()).mean().sqrt().item()


def nearest_distance(samples: Tensor, train: Tensor) -> Tensor:
    """(n,) float64 RMS difference of each uint8 sample to its nearest training image, in levels (0 to 255).

    Exact: the whole numbers |a|^2 + |b|^2 - 2 a.b of 8-bit images fit float64. Holds one tile of distances at a time.
    """
    _check_images(samples, train)
    if not len(train):
        raise ValueError("train must hold at least one image, got 0")
    best = torch.full((len(samples),), torch.inf, dtype=torch.float64, device=samples.device)
    for block in train.split(TRAIN_TILE):
        b = block.flatten(1).to(samples.device, torch.float64)
        half = b.square().sum(dim=1) / 2
        for start in range(0, len(samples), SAMPLE_TILE):
            a = samples[start : start + SAMPLE_TILE].flatten(1).double()
            rest = torch.addmm(half, a, b.T, alpha=-1).min(dim=1).values
            tile = best[start : start + SAMPLE_TILE]
            torch.minimum(tile, a.square().sum(dim=1) + 2 * rest, out=tile)
    return (best / samples[0].numel()).sqrt() if len(samples) else best


class RandomFeatures(nn.Module):
    """64 features of uint8 images by three random convolutions, never trained: mean and deviation of 32 maps.

    A distance on them is called `random64`, never FID. The seed gives the weights; `weights_sha256` proves them.
    """

    num_features = 64

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch draws weights that are overwritten below
            self.layers = nn.Sequential(
                *(nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
                *(nn.Conv2d(16, 32, 3, stride=2, padding=1, padding_mode="reflect"), nn.ReLU()),
                *(nn.Conv2d(32, 32, 3, stride=2, padding=1, padding_mode="reflect"), nn.ReLU()),
            )
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            std = 0.1 if weight.ndim == 1 else (2 / weight[0].numel()) ** 0.5
            weight.data.normal_(std=std, generator=generator)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(to_float(images))
        return torch.cat((maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))), dim=1)

    @torch.no_grad()
    def features(self, images: Tensor, *, batch: int) -> Tensor:
        """(n, 64) float32 of uint8 (n, 3, H, W)."""
        return in_batches(self, images, batch=batch, device=next(self.parameters()).device)

    @property
    def weights_sha256(self) -> str:
        return weights_sha256(self)


def weights_sha256(module: nn.Module) -> str:
    """sha256 in hex over names, shapes and float32 values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_batches(
    function: Callable[[Tensor], Tensor], images: Tensor, *, batch: int, device: torch.device | None = None
) -> Tensor:
    """function of (n, ...) images a batch at a time, on `device` if given, gathered where the images are."""
    if not len(images):
        raise ValueError("images must hold at least one image, got 0")
    return torch.cat([function(part.to(device or part.device)).to(images.device) for part in images.split(batch)])


def _kernel(dots: Tensor, dim: int) -> Tensor:
    return (dots / dim + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_kernel(tile @ y.T, x.shape[1]).sum() for tile in x.split(KERNEL_TILE)]).sum()


def _kernel_within(x: Tensor) -> Tensor:
    """Mean kernel of two different rows of x."""
    itself = _kernel(x.square().sum(dim=1), x.shape[1]).sum()
    return (_kernel_sum(x, x) - itself) / (len(x) * (len(x) - 1))


def _wasserstein_squared(x: Tensor, y: Tensor) -> Tensor:
    """(P,) squared Wasserstein-2 distances of the columns of x (n, P) and y (m, P); exact for n != m too.

    Each sorted point of x carries mass 1 / n = m / (n m), so both quantile functions step at multiples of 1 / (n m).
    """
    n, m = len(x), len(y)
    steps = torch.cat((torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n)).unique().to(x.device)
    mass = steps.diff(prepend=steps.new_zeros(1)).double() / (n * m)
    x, y = x.sort(dim=0).values[(steps - 1) // m], y.sort(dim=0).values[(steps - 1) // n]
    return mass @ (x - y).double().square()


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    return x.detach().double(), y.detach().double()


def _check_images(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or x.shape[1:] != y.shape[1:] or x.dtype != torch.uint8 or y.dtype != torch.uint8:
        raise ValueError(
            "images must be uint8 (n, 3, H, W) of one size, "
            f"got {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
        )
