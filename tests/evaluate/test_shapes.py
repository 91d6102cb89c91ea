"""Images of other shapes: what mosaics hold, and that a scheme reads them at their own positions and is left as it was."""

from math import log

import pytest
import torch
from torch import nn

from tests.evaluate.test_stage_costs import ROWS, split
from tokbench.backbone.transformer import Backbone
from tokbench.evaluate.shapes import at_shape, evaluate_shapes, mosaic
from tokbench.evaluate.tokens import space_of
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.tokens import grouped
from tokbench.heads.categorical import Categorical
from tokbench.metrics.standard_shapes import SHAPES
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.tokenizers.autoencoder import Autoencoder


def test_a_mosaic_is_an_image_and_the_next_ones_of_its_class_in_raster_order() -> None:
    data = split(10, 0)  # labels 0, 1, 0, 1, ...
    made = mosaic(data, 2, 3, chosen=torch.tensor([4, 3]))
    assert made.images.shape == (2, 3, 32, 48)
    expected = [4, 6, 8, 0, 2, 4]
    for k, index in enumerate(expected):
        top, left = 16 * (k // 3), 16 * (k % 3)
        assert torch.equal(made.images[0, :, top : top + 16, left : left + 16], data.images[index])
    assert torch.equal(made.images[1, :, :16, :16], data.images[3])
    assert made.captions == (data.captions[4], data.captions[3])
    assert torch.equal(mosaic(data, 1, 1, chosen=torch.arange(10)).images, data.images)


def made(kind: str, positions: str = "rope_tv", patch: int = 1):
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([5, 5]), width=8, factor=4, depth=1).eval()
    space = space_of(tokenizer, torch.zeros(2), torch.ones(2), size=16)
    dim, grid = grouped(space, patch)
    backbone = Backbone(dim=dim, width=32, depth=1, heads=1, grid=grid, positions=positions, base=1e4)
    if kind == "causal":
        head = Categorical(width=32, codebook_sizes=(25,), top_p=1.0)
        scheme = Causal(space, backbone, head, order="raster", temperature=1.0, **ROWS)
    else:
        path = {"schedule": "cosine", "prediction": "v", "steps": 2, "sampler": "ddim", "patch": patch}
        scheme = Denoise(space, backbone, **path, **ROWS)
    for parameter in scheme.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    return tokenizer, space, scheme.eval()


@pytest.mark.parametrize(("kind", "patch"), [("causal", 1), ("denoise", 1), ("denoise", 2)])
@pytest.mark.parametrize("positions", ["rope_tv", "learned"])
def test_every_shape_gets_its_bits_and_the_scheme_stays_as_it_was(kind: str, patch: int, positions: str) -> None:
    tokenizer, space, scheme = made(kind, positions, patch)
    before = scheme.space, scheme.backbone.grid
    found = evaluate_shapes("native", scheme, tokenizer, space, split(10, 0), images=4, batch=8)
    assert (scheme.space, scheme.backbone.grid) == before
    assert len(found) == 2 * len(SHAPES)
    for key, measure in found.items():
        if kind == "denoise" and "image_bits" in key:
            assert measure.reason == "no exact likelihood"
        else:
            assert 0.5 < measure.value < 40, key


def test_bits_do_not_depend_on_the_batch_and_are_those_of_the_scheme_at_that_shape() -> None:
    tokenizer, space, scheme = made("causal")
    one, two = (evaluate_shapes("native", scheme, tokenizer, space, split(10, 0), images=4, batch=b) for b in (1, 64))
    for key in one:
        assert one[key].value == pytest.approx(two[key].value, rel=1e-4), key
    with at_shape(scheme, (4, 8)) as wide:
        assert wide.num_tokens == 32
        assert scheme.backbone.image_rotation(torch.tensor([3]))[0].shape[2] == 32
    with pytest.raises(RuntimeError, match="stop"), at_shape(scheme, (8, 8)):
        raise RuntimeError("stop")
    assert scheme.backbone.grid == (4, 4)


def test_patches_of_tokens_have_their_own_grid_at_every_shape() -> None:
    _, _, scheme = made("denoise", patch=2)
    with at_shape(scheme, (4, 8)) as wide:
        assert (wide.shape, scheme.backbone.grid, scheme.num_places) == ((4, 8), (2, 4), 8)
        text, lengths = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        drawn = scheme.sample(text, lengths, guidance=1.0, generator=torch.Generator().manual_seed(0))
        assert drawn.z_q.shape == (1, 32, 2)
    assert (scheme.space.shape, scheme.backbone.grid) == ((4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"got patch 2 and tokens of shape \(4, 5\)"), at_shape(scheme, (4, 5)):
        pass
    assert (scheme.space.shape, scheme.backbone.grid) == ((4, 4), (2, 2))


def test_an_untrained_head_pays_log_v_a_token_at_every_shape() -> None:
    tokenizer, space, scheme = made("causal")
    nn.init.zeros_(scheme.head.logits.weight)
    found = evaluate_shapes("native", scheme, tokenizer, space, split(10, 0), images=2, batch=8)
    for rows, columns in SHAPES:
        assert found[f"native/shapes/image_bits_per_token_{rows}x{columns}"].value == pytest.approx(log(25) / log(2))
