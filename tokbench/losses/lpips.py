"""LPIPS (arXiv:1801.03924, eq. 1) around a torchvision backbone; all weights are files of the user, nothing is downloaded.

d = sum over layers of the mean over places of sum_c w_c (y_c - y'_c)^2, y the features normalised over channels.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

VERSION = 1
EPSILON = 1e-10  # of the normalisation, the authors'
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1], the authors'
SOURCES = "the first is of download.pytorch.org/models, the second of github.com/richzhang/PerceptualSimilarity (weights/v0.1)"


class Backbone(NamedTuple):
    """Where a network's features are taken, and the files of its weights and of LPIPS' on top."""

    ends: tuple[int, ...]  # places of torchvision's `features` after which they are taken: behind each ReLU in use
    channels: tuple[int, ...]
    files: tuple[str, str]


BACKBONES = {
    "vgg16": Backbone((4, 9, 16, 23, 30), (64, 128, 256, 512, 512), ("vgg16-397923af.pth", "vgg.pth")),
    "alexnet": Backbone((2, 5, 8, 10, 12), (64, 192, 384, 256, 256), ("alexnet-owt-7be5be79.pth", "alex.pth")),
}


class LPIPS(nn.Module):
    """The distance as a mean over a batch; never trained."""

    shift: Tensor
    scale: Tensor

    def __init__(self, *, backbone: str, root: str | None, weights_sha256: str | None) -> None:
        """`root` is the folder of both files; `weights_sha256`, if given, must be that of their contents."""
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"loss.perceptual.backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        self.features = backbone
        files = _files(root, BACKBONES[backbone].files)
        self.weights_sha256 = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        if weights_sha256 not in (None, self.weights_sha256):
            raise ValueError(
                f"loss.perceptual.weights_sha256 must be that of {root}, {self.weights_sha256}, got {weights_sha256}"
            )
        self.slices, self.lines = _network(backbone, *(_read(file) for file in files))
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The scalar distance of (B, 3, H, W) images in [-1, 1]."""
        x, y = ((images - self.shift) / self.scale for images in (a, b))
        total = a.new_zeros(())
        for part, line in zip(self.slices, self.lines, strict=True):
            x, y = part(x), part(y)
            total = total + line((_unit(x) - _unit(y)).square()).mean()
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)


def _files(root: str | None, names: tuple[str, str]) -> list[Path]:
    files = [Path(str(root)) / name for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(
            f"loss.perceptual.root must be a folder with {' and '.join(names)}, got {root!r} without {' and '.join(absent)}: "
            f"weights are never downloaded; {SOURCES}"
        )
    return files


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} must be a file of weights: {type(error).__name__}") from None


def _network(name: str, weights: dict[str, Tensor], lines: dict[str, Tensor]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The backbone in slices and the non-negative weights w of each slice's channels."""
    import torchvision

    known = BACKBONES[name]
    with torch.device("meta"):  # only to be filled
        network: Any = getattr(torchvision.models, name)(weights=None).features
    made = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in known.channels)
    try:
        own = {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
        network.load_state_dict(own, assign=True)
        for place, line in enumerate(made):
            line.load_state_dict({"weight": lines[f"lin{place}.model.1.weight"]})
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{' and '.join(known.files)} must hold {name}'s weights: {str(error).splitlines()[0]}"
        ) from None
    starts = (0, *known.ends[:-1])
    for layer in network:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return nn.ModuleList(network[start:end] for start, end in zip(starts, known.ends, strict=True)), made
