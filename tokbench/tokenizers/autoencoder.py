"""The shared autoencoder: one encoder and one decoder for every quantizer of a comparison.

x (B, 3, H, W) -> space-to-depth by `factor`, residual blocks, linear -> z (B, N, D) -> quantizer -> z_q -> linear,
residual blocks, depth-to-space -> (B, 3, H, W). N = (H / factor) (W / factor); all convolutions work on the token grid.
In the layouts of a line, learned queries read the encoder's features to L tokens and back (`tokbench.tokenizers.line`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from tokbench.interfaces import Quantized, Quantizer
from tokbench.layers import ResidualBlock
from tokbench.tokenizers.line import Line

VERSION = 1
CAUSAL = {"queries_causal": True, "queries_bidirectional": False}  # layouts of a line, and whether its order counts


class Autoencoder(nn.Module):
    """A convolutional tokenizer around any quantizer, `depth` residual blocks of `width` channels a side.

    Encoder and decoder are drawn before the maps to the quantizer's `dim`, so that at one seed they start the same for
    every quantizer. `layout` is grid, or one of CAUSAL: a line of `num_queries` tokens, for images of one `size` alone.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        *,
        width: int,
        factor: int,
        depth: int,
        layout: str = "grid",
        num_queries: int | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(f"factor must be >= 2, got {factor}")
        if width < 1 or depth < 0:
            raise ValueError(f"width must be >= 1 and depth >= 0, got {width} and {depth}")
        self.factor, pixels = factor, 3 * factor**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(factor),
            nn.Conv2d(pixels, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(depth)),
            nn.GroupNorm(1, width),
        )
        self.decoder = nn.Sequential(
            *(ResidualBlock(width) for _ in range(depth)),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, pixels, 3, padding=1),
            nn.PixelShuffle(factor),
        )
        self.line = None if layout == "grid" else self._line(layout, num_queries, size, width, depth)
        self.to_latent = nn.Linear(width, quantizer.dim)
        self.from_latent = nn.Linear(quantizer.dim, width)
        assert isinstance(quantizer, nn.Module)
        self.quantizer = quantizer
        self.dim, self.codebook_sizes = quantizer.dim, tuple(quantizer.codebook_sizes)

    def _line(self, layout: str, num_queries: int | None, size: int | None, width: int, depth: int) -> Line:
        if layout not in CAUSAL:
            raise ValueError(f"layout must be grid, {' or '.join(CAUSAL)}, got {layout!r}")
        if num_queries is None or size is None:
            raise ValueError(f"layout {layout} needs num_queries and size, got {num_queries} and {size}")
        side, _ = self._grid(size, size)
        return Line(width=width, num_queries=num_queries, side=side, depth=max(depth, 1), causal=CAUSAL[layout])

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The quantizer's."""
        return self.quantizer.loss_weights

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """The quantizer's: radices of the digits of each codebook's index; one digit where it names none."""
        return getattr(self.quantizer, "factors", tuple((size,) for size in self.codebook_sizes))

    @property
    def snap(self) -> Callable[[Tensor], Tensor] | None:
        """The quantizer's map from any (B, N, D) to the codes of its K stages (B, N, K); None where it has none."""
        return getattr(self.quantizer, "snap", None)

    @property
    def last_layer(self) -> Tensor:
        """The weights that make pixels: where an adversary's gradient is weighed against the reconstruction's."""
        return self.decoder.get_parameter(f"{len(self.decoder) - 2}.weight")

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(h, w) of the token grid, or (L,) of a line."""
        grid = self._grid(height, width)
        if self.line is None:
            return grid
        if grid != (self.line.side, self.line.side):
            size = self.line.side * self.factor
            raise ValueError(f"a line of queries is made for one image size, {size}x{size}, got {height}x{width}")
        return (self.line.num_queries,)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        if height % self.factor or width % self.factor:
            raise ValueError(f"image size must be divisible by factor = {self.factor}, got {height}x{width}")
        return height // self.factor, width // self.factor

    def latents(self, images: Tensor) -> Tensor:
        """(B, N, D): what the quantizer sees, in raster order or in the queries'."""
        self.shape(*images.shape[-2:])
        features = self.encoder(images)
        return self.to_latent(features.flatten(2).transpose(1, 2) if self.line is None else self.line.read(features))

    def encode(self, images: Tensor) -> Quantized:
        """Tokens of (B, 3, H, W) images in [-1, 1]."""
        return self.quantizer(self.latents(images))

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """(B, N) or (B, N, K) int64 to (B, N, D)."""
        return self.quantizer.indices_to_codes(indices)

    def decode(self, z_q: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, N, D) to (B, 3, H, W); `grid` (h, w) of the tokens, None: a square one. A line's is its own."""
        x = self.from_latent(z_q)
        if self.line is not None:
            return self.decoder(self.line.write(x))
        side = round(z_q.shape[1] ** 0.5)
        if grid is None and side * side != z_q.shape[1]:
            raise ValueError(f"z_q must hold a square number of tokens, got {z_q.shape[1]}")
        return self.decoder(x.transpose(1, 2).unflatten(2, grid or (side, side)))
