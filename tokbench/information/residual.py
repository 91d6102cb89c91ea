"""p(image | its reconstruction): discretised logistic sub-pixels (PixelCNN++, arXiv:1701.05517, equations 2 and 3).

The second half of a lossless code: what the tokens did not say. B images of 3 colours, H and W sides, levels 0 to 255.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1
WIDTH = 32
HALF_BIN = 1 / 255  # of levels as numbers in [-1, 1]
LOG_SCALES = (-10.0, 3.0)  # narrower than a hundredth of a level, wider than all
UNIFORM = 1e-4  # share of a level that is drawn from all alike: no sub-pixel costs more than 22 bits


class ResidualModel(nn.Module):
    """Three 3 x 3 convolutions read a reconstruction and give each sub-pixel's mean and scale.

    Colours are coded in the order red, green, blue: the mean of a later one moves with the errors of those before it, by
    coefficients that the network gives too. Starts as the reconstruction itself with a scale a colour.
    """

    log_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, WIDTH, 3, padding=1), nn.SiLU()),
            *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU()),
            nn.Conv2d(WIDTH, 9, 3, padding=1),
        )
        last = self.body[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("log_scale", torch.zeros(3))

    @torch.no_grad()
    def start(self, images: Tensor, decoded: Tensor) -> None:
        """Take the scale of each colour from the mean absolute error of reconstructions: 2 log 2 scales of a logistic."""
        error = (images.float() * (2 * HALF_BIN) - 1 - decoded.float()).abs().mean(dim=(0, 2, 3))
        self.log_scale.copy_((error / (2 * math.log(2))).log().clamp(*LOG_SCALES))

    def nats(self, images: Tensor, decoded: Tensor) -> Tensor:
        """(B,) nats of uint8 images (B, 3, H, W) given reconstructions of them in about [-1, 1]: a length that can be coded."""
        shift, log_scale, mix = self.body(decoded).float().chunk(3, dim=1)
        log_scale = (log_scale + self.log_scale[:, None, None]).clamp(*LOG_SCALES)
        red, green, blue = (decoded.float() + shift).unbind(dim=1)
        x = images.float() * (2 * HALF_BIN) - 1
        green = green + mix[:, 0] * (x[:, 0] - red)
        blue = blue + mix[:, 1] * (x[:, 0] - red) + mix[:, 2] * (x[:, 1] - green)
        log_p = discretised_logistic(images, torch.stack((red, green, blue), dim=1), log_scale) + math.log1p(-UNIFORM)
        log_p = torch.logaddexp(log_p, log_p.new_tensor(math.log(UNIFORM / 256)))
        return -log_p.flatten(1).sum(dim=1)


def discretised_logistic(levels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p of levels 0..255 under a logistic of `mean` in [-1, 1] cut into 256 bins; the two outer ones reach to infinity.

    With a and b the standardised edges: log(s(b) - s(a)) = log(1 - e^(a - b)) + b - softplus(a) - softplus(b), which neither
    cancels nor overflows, so that the 256 probabilities add to one.
    """
    x = levels.float() * (2 * HALF_BIN) - 1
    inverse = torch.exp(-log_scale)
    upper, lower = (x + HALF_BIN - mean) * inverse, (x - HALF_BIN - mean) * inverse
    gap = (2 * HALF_BIN) * inverse
    inside = torch.log(-torch.expm1(-gap)) + upper - F.softplus(lower) - F.softplus(upper)
    return torch.where(levels == 0, F.logsigmoid(upper), torch.where(levels == 255, F.logsigmoid(-lower), inside))
