"""Sub-pixels as tokens: nothing is lost, whatever the image."""

import pytest
import torch

from tokbench.data.cifar10 import halved
from tokbench.metrics.images import to_float, to_uint8
from tokbench.tokenizers.check import check_tokenizer
from tokbench.tokenizers.pixels import Pixels


def images(side: int = 16) -> torch.Tensor:
    return torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_every_value_comes_back_exactly():
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    for original in (images(), ramp):
        quantized = Pixels().encode(to_float(original))
        assert quantized.indices.shape == (len(original), 768)
        assert quantized.z_q.shape == (len(original), 768, 1)
        assert torch.equal(quantized.z_q, Pixels().latents(to_float(original)))
        assert torch.equal(Pixels().indices_to_codes(quantized.indices), quantized.z_q)
        assert torch.equal(Pixels().decode(quantized.z_q), to_float(original))
        assert torch.equal(to_uint8(Pixels().decode(quantized.z_q)), original)


def test_tokens_are_the_values_in_raster_order_colours_side_by_side():
    original = images()
    indices = Pixels().encode(to_float(original)).indices
    assert Pixels().shape(16, 16) == (16, 16, 3)
    row, column, colour = 5, 7, 2
    assert torch.equal(indices[:, (row * 16 + column) * 3 + colour], original[:, colour, row, column].long())


def test_images_of_any_size_are_taken_and_lines_of_tokens_that_are_no_square_are_not():
    check_tokenizer(Pixels(), size=18)
    with pytest.raises(ValueError, match="three tokens a pixel of a square image, got 600"):
        Pixels().decode(torch.zeros(1, 600, 1))


def test_values_between_two_steps_are_rounded():
    assert Pixels().encode(torch.full((1, 3, 1, 1), 0.501)).indices.tolist() == [[191, 191, 191]]


def test_half_an_image_is_the_mean_of_its_two_by_two_pixels():
    original = images(4)
    expected = original.double().view(2, 3, 2, 2, 2, 2).mean(dim=(3, 5)).round()
    assert torch.equal(halved(original).double(), expected)
    assert halved(original).dtype == torch.uint8
