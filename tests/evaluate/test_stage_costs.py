"""Tokens of several codebooks and sub-pixels on their way through tables and costs."""

from typing import Any

import pytest
import torch

from tokbench import build, cost
from tokbench.backbone.sequence import encode_text
from tokbench.evaluate.costs import snap_flops
from tokbench.evaluate.reference import Reference
from tokbench.evaluate.tokenizer import evaluate_tokenizer
from tokbench.evaluate.tokens import encode_split, space_of, token_space
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.factorised import Factorised
from tokbench.heads.regression import Regression
from tokbench.interfaces import Dataset, Quantized, Split
from tokbench.judges import ColourClassifier
from tokbench.roofline import workload
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.pixels import Pixels

CPU = torch.device("cpu")
ROWS = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}


def split(n: int, seed: int) -> Split:
    images = torch.randint(256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Split(images, ("a", "b") * (n // 2), torch.arange(n) % 2, torch.arange(n))


def tokenizer(name: str) -> Autoencoder:
    torch.manual_seed(0)
    quantizer = build.construct(build.compose([f"quantizer={name}"])["quantizer"])
    made = Autoencoder(quantizer, width=8, factor=4, depth=1)
    with torch.no_grad():
        made.encode(torch.rand(4, 3, 16, 16) * 2 - 1)
    return made.eval()


@pytest.mark.parametrize("name", ["rvq", "product"])
def test_tables_carry_every_stage(name: str) -> None:
    made = tokenizer(name)
    table = encode_split(made, split(10, 0), batch=4, device=CPU)
    space = token_space(made, table, size=16)
    assert table.indices.shape == (10, 16, 2)
    batch = table.batch(space, torch.tensor([3, 7]))
    assert batch.indices.shape == (2, 16, 2)
    assert torch.equal(space.standardize(space.indices_to_codes(batch.indices)), batch.latents)
    assert space.factors == ((32,), (32,))
    assert space.snap(table.z_q).shape == table.indices.shape


@pytest.mark.parametrize("name", ["rvq", "product", "fsq", "lfq"])
def test_analytic_flops_without_the_search_are_those_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokbench.generation.denoise.finish", lambda space, x, *, indices: Quantized(x, None, {}))
    made = tokenizer(name)
    space = space_of(made, torch.zeros(made.dim), torch.ones(made.dim), size=16)
    config = build.compose(["budget=smoke"])["backbone"] | {"width": 48, "depth": 2, "heads": 2}
    backbone = build.construct(config, dim=made.dim, grid=space.shape)
    head = Factorised(width=48, codebook_sizes=space.codebook_sizes, factors=space.factors, top_p=1.0)
    text, lengths = encode_text(["abcdef"])
    for scheme in (
        Causal(space, backbone, head, order="raster", temperature=1.0, **ROWS),
        Denoise(space, backbone, schedule="cosine", prediction="v", steps=3, sampler="ddim", **ROWS),
    ):
        generator = torch.Generator().manual_seed(0)
        counted = cost.counted_flops(
            lambda s=scheme, g=generator: s.sample(text, lengths, guidance=1.0, generator=g)  # type: ignore[misc]
        )
        works = workload(scheme, space, prompt=6 + cost.PROMPT_SPECIALS)
        assert counted == pytest.approx(sum(work.flops for work in works.values()), rel=0.02), type(scheme)


@pytest.mark.parametrize(("name", "products"), [("rvq", 64 * 16), ("product", 64 * 8), ("fsq", 1000 * 4)])
def test_the_search_for_codes_compares_with_every_code_of_every_stage(name: str, products: int) -> None:
    made = tokenizer(name)
    space = space_of(made, torch.zeros(made.dim), torch.ones(made.dim), size=32)
    least = 2 * 64 * products
    assert least <= snap_flops(None, space) <= 3 * least  # a search in tiles may go over some codes twice


@pytest.mark.parametrize("name", ["fsq", "vq", "rvq"])
@pytest.mark.parametrize("drawn", ["one at a time", "at once"])
def test_flops_with_the_search_are_those_counted(name: str, drawn: str) -> None:
    """Latents of a discrete tokenizer: a causal scheme looks for the code of each token alone, which costs more rows."""
    made = tokenizer(name)
    space = space_of(made, torch.zeros(made.dim), torch.ones(made.dim), size=32)
    config = build.compose(["budget=smoke"])["backbone"] | {"width": 48, "depth": 2, "heads": 2}
    backbone = build.construct(config, dim=made.dim, grid=space.shape)
    if drawn == "at once":
        scheme: Any = Denoise(space, backbone, schedule="cosine", prediction="v", steps=3, sampler="ddim", **ROWS)
    else:
        head = Regression(width=48, dim=made.dim)
        scheme = Causal(space, backbone, head, order="raster", temperature=1.0, **ROWS)
    text, lengths = encode_text(["abcdef"])
    generator = torch.Generator().manual_seed(0)
    counted = cost.counted_flops(lambda: scheme.sample(text, lengths, guidance=1.0, generator=generator))
    works = workload(scheme, space, prompt=6 + cost.PROMPT_SPECIALS)
    analytic = sum(work.flops for work in works.values()) + snap_flops(scheme, space)
    assert counted == pytest.approx(analytic, rel=0.02)


def test_pixels_lose_nothing_and_carry_eight_bits_a_subpixel() -> None:
    parts = [split(n, seed) for seed, n in enumerate((160, 40, 90, 90))]
    dataset = Dataset("noise", True, ("a", "b"), *parts)
    reference = Reference(dataset, None, ColourClassifier(dataset.train, 2))
    result = evaluate_tokenizer(Pixels(), reference, batch=32, device=CPU)
    assert result.measures["reconstruction/psnr_db"].value == 100
    assert result.measures["bits/relative_quantization_error"].value == 0
    assert result.measures["bits/nominal_bits_per_image"].value == 8 * 768
    assert result.measures["bits/usage"].value == 1
    assert torch.equal(result.images, dataset.test.images)


def test_pixels_are_standardised_together() -> None:
    data = split(20, 0)
    table = encode_split(Pixels(), data, batch=8, device=CPU)
    space = token_space(Pixels(), table, size=16)
    assert table.z_q.shape == (20, 768, 1)
    assert table.z_q.dtype == torch.float32
    values = data.images.float() / 127.5 - 1
    torch.testing.assert_close(space.mean[0], values.mean())
    torch.testing.assert_close(space.std[0], values.std())
    assert space.factors == ((256,),)
