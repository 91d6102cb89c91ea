"""The autoencoder around every quantizer, raw patches, and the check a user's own tokenizer must pass."""

import pytest
import torch
from torch import nn

from tokbench import build
from tokbench.interfaces import Quantized, Tokenizer
from tokbench.quantizers.continuous import Continuous
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.check import check_tokenizer
from tokbench.tokenizers.patches import Patches
from tokbench.tokenizers.pixels import Pixels

NAMES = sorted(path.stem for path in (build.ROOT / "conf" / "quantizer").glob("*.yaml"))


def images(size: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    config = build.compose([f"quantizer={request.param}", "budget=smoke"])
    torch.manual_seed(0)
    extra = {"quantizer": build.construct(config["quantizer"])} if config["quantizer"] else {}
    return build.construct(config["tokenizer"], **extra)


def test_every_tokenizer_holds_the_protocol(tokenizer: Tokenizer) -> None:
    check_tokenizer(tokenizer, size=16)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.shape(16, 16) == ((16, 16, 3) if isinstance(tokenizer, Pixels) else (4, 4))
    if isinstance(tokenizer, nn.Module):
        tokenizer.eval()
    assert tokenizer.decode(tokenizer.encode(images()).z_q).shape == (2, 3, 16, 16)


def test_every_tokenizer_refuses_a_size_that_does_not_divide(tokenizer: Tokenizer) -> None:
    if isinstance(tokenizer, Pixels):
        pytest.skip("every size divides into pixels")
    with pytest.raises(ValueError, match=r"image size must be divisible by .* = 4, got 18x18"):
        tokenizer.latents(images(18))


def test_patches_lose_nothing() -> None:
    patches = Patches(4)
    assert torch.equal(patches.decode(patches.encode(images()).z_q), images())
    assert patches.latents(images()).shape == (2, 16, 48)


def test_tokens_are_in_raster_order_and_patches_tie_the_channels_of_a_colour() -> None:
    x = torch.zeros(1, 3, 16, 16)
    x[0, 1, 4:8, 8:12] = 1.0
    tokens = Patches(4).latents(x)[0]
    assert tokens[6, 16:32].eq(1).all()
    assert tokens.sum() == 16
    assert Patches(4).tied_channels == 16


def test_a_wide_grid_is_decoded_row_by_row() -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(Continuous(4), width=8, factor=4, depth=0)
    z_q = torch.randn(1, 12, 4)
    before = tokenizer.decode(z_q, (2, 6))
    z_q[0, 11] += 2.0  # the last token of the second row: the lower right corner
    changed = (tokenizer.decode(z_q, (2, 6)) - before).abs().mean(dim=(0, 1))
    assert changed.shape == (8, 24)
    assert changed[:, :16].max() < changed[:, 16:].mean()
    assert changed[:, 16:].max() == changed.max()


def test_encoder_and_decoder_start_the_same_for_every_quantizer() -> None:
    states = []
    for quantizer in (Continuous(4), Continuous(8), FiniteScalarQuantizer([8, 5, 5, 5])):
        torch.manual_seed(3)
        made = Autoencoder(quantizer, width=8, factor=4, depth=1)
        states.append(made.encoder.state_dict() | made.decoder.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_gradient_reaches_every_parameter_of_the_autoencoder() -> None:
    torch.manual_seed(0)
    made = Autoencoder(Continuous(4), width=8, factor=4, depth=1)
    for block in made.modules():
        if isinstance(block, nn.Conv2d):
            nn.init.normal_(block.weight, std=0.1)
    made.decode(made.encode(images()).z_q).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


class Broken(Patches):
    """A valid tokenizer with one method replaced."""

    def __init__(self, **methods: object) -> None:
        super().__init__(4)
        for name, method in methods.items():
            setattr(self, name, method)


def discrete(**methods: object) -> Broken:
    """2-code patches: the sign of a patch's mean."""

    def encode(x: torch.Tensor) -> Quantized:
        indices = (Patches(4).latents(x).mean(dim=-1) > 0).long()
        return Quantized(codes(indices), indices, {})

    def codes(indices: torch.Tensor) -> torch.Tensor:
        return indices[..., None].expand(*indices.shape, 48).float()

    return Broken(**{"encode": encode, "indices_to_codes": codes, "codebook_sizes": (2,)} | methods)


def shifting(x: torch.Tensor) -> Quantized:
    return Quantized(Patches(4).latents(x) + torch.rand(1), None, {})


def peeking(x: torch.Tensor) -> Quantized:
    return Quantized(Patches(4).latents(x) - 100 * x.mean(), None, {})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (object(), r"must have dim, .* missing: dim"),
        (Broken(encode=shifting), "deterministic"),
        (Broken(encode=peeking), "must not depend on the batch"),
        (Broken(encode=lambda x: Quantized(Patches(2).latents(x), None, {})), r"shape \(B, N, dim\) = \(3, 16, 48\)"),
        (Broken(decode=lambda z: torch.zeros(3, 3, 8, 8)), "decode must give images of shape"),
        (Broken(decode=lambda z: torch.full((3, 3, 16, 16), torch.nan)), "decode must give finite images"),
        (discrete(indices_to_codes=lambda i: torch.ones(*i.shape, 48)), "must equal z_q"),
        (discrete(codebook_sizes=(1,)), r"indices must lie in \[0, V\)"),
        (discrete(codebook_sizes=()), "indices must be None exactly where codebook_sizes is empty"),
    ],
)
def test_check_names_the_broken_rule(broken: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tokenizer(broken, size=16)  # type: ignore[arg-type]


def test_check_passes_what_holds_the_protocol() -> None:
    check_tokenizer(discrete(), size=16)
    check_tokenizer(Broken(), size=16)
