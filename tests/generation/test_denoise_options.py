"""Transfusion's options, and patch diffusion: conditioning, noise cap, attention inside the image, patches, branches."""

from functools import partial

import pytest
import torch
from torch import nn

from tokbench.backbone.sequence import BOI, encode_text, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.diffusion import cosine
from tokbench.generation.branches import UNet, Wide
from tokbench.generation.denoise import Denoise
from tokbench.generation.tokens import grouped
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, WIDTH = (4, 4), 16, 2, 32
CAPTIONS = ["red", "a blue one", ""]
BRANCHES = {None: None, "unet": partial(UNet, channels=8), "wide": partial(Wide, channels=8)}
SPACE = TokenSpace(GRID, D, (), torch.zeros(D), torch.ones(D), lambda indices: indices)


def denoise(*, noise=0.2, branch=None, **changes):
    torch.manual_seed(0)
    dim, grid = grouped(SPACE, changes.get("patch", 1))
    backbone = Backbone(dim=dim, width=WIDTH, depth=2, heads=2, grid=grid, positions="rope_tv", base=100.0)
    options = {"schedule": "cosine", "prediction": "v", "steps": 3, "sampler": "ddim", "image_first": 0.2}
    options |= {"caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 5.0}, "branch": BRANCHES[branch]}
    scheme = Denoise(SPACE, backbone, **options | changes)
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            nn.init.normal_(parameter, std=noise if parameter.ndim == 2 else 0.1)
    return scheme


def batch(captions=CAPTIONS, seed=2):
    latents = torch.randn(len(captions), N, D, generator=torch.Generator().manual_seed(seed))
    return TokenBatch(latents, None, *encode_text(captions))


def sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0):
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=torch.Generator().manual_seed(seed)).z_q


OPTIONS = [
    {"conditioning": "token"},
    {"conditioning": "adaln_zero"},
    {"image_attention": "causal"},
    {"image_attention": "causal", "conditioning": "token"},
    {"noise_cap": 0.5},
    {"scale": 0.5},
    {"schedule": "flow", "prediction": "flow", "sampler": "heun"},
    {"patch": 2},
    {"patch": 4},
    {"branch": "unet"},
    {"branch": "unet", "patch": 2, "conditioning": "token"},
    {"branch": "unet", "patch": 4},
    {"branch": "wide", "patch": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_trains_every_parameter_samples_and_reads(options):
    scheme, known = denoise(**options), batch(CAPTIONS * 4)
    losses = scheme.loss(known, torch.Generator().manual_seed(0))
    assert set(losses) == {"text", "image"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scheme.parameters())
    assert sample(scheme, guidance=2.0).shape == (3, N, D)
    plain = scheme.caption_nll(known).detach()
    assert plain.shape == (12,)
    for place in (0, N - 1):
        moved = known.latents.clone()
        moved[:, place] += 1
        other = scheme.caption_nll(TokenBatch(moved, None, known.text, known.lengths))
        assert ((other - plain).abs() > 1e-6).all()


@pytest.mark.parametrize("options", [{}, *OPTIONS], ids=str)
def test_a_pass_of_sampling_sees_what_training_sees(options):
    """The states of a text-first row, read whole as in training, and after a cached prompt as in sampling."""
    scheme, known = denoise(**options), batch(["abcd", "xy", ""])
    time = torch.tensor([0.2, 0.5, 0.9])
    rows = rows_of_one_kind(known, scheme.num_places, image_first=False)
    states, memory = scheme._read(rows, known.latents, time)
    expected = scheme._predict(states.gather(1, rows.image_places[..., None].expand(-1, -1, WIDTH)), memory)
    from tokbench.generation.prompts import read_prompt

    prompt = read_prompt(scheme.backbone, known.text, known.lengths, guidance=1, with_boi=not scheme.rereads_boi)
    torch.testing.assert_close(scheme._pass(prompt, known.latents, time), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scheme._pass(prompt, known.latents, time), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_text_before_the_image_never_sees_it_or_its_noise(options):
    scheme, known = denoise(**options), batch(["abcd"] * 2)
    rows = rows_of_one_kind(known, scheme.num_places, image_first=False)
    first, _ = scheme._read(rows, known.latents, torch.tensor([0.1, 0.9]))
    boi = int((rows.tokens[0] == BOI).nonzero())
    torch.testing.assert_close(first[0, :boi], first[1, :boi], atol=1e-5, rtol=0)
    assert not torch.allclose(first[0, boi + 1 :], first[1, boi + 1 :], atol=1e-2)


def test_causal_attention_hides_later_places_and_bidirectional_does_not():
    for attention, sees in (("causal", False), ("bidirectional", True)):
        scheme, known = denoise(image_attention=attention), batch(["ab"])
        rows = rows_of_one_kind(known, N, image_first=False)
        plain, _ = scheme._read(rows, known.latents, torch.tensor([0.3]))
        moved = known.latents.clone()
        moved[:, -1] += 1
        other, _ = scheme._read(rows, moved, torch.tensor([0.3]))
        place = rows.image_places[0, 0]
        assert torch.allclose(plain[0, place], other[0, place], atol=1e-5) != sees


@pytest.mark.parametrize("patch", [2, 4])
def test_a_patch_is_square_and_only_its_tokens_share_a_place(patch):
    scheme, known = denoise(patch=patch), batch(["ab"])
    assert scheme.num_places == N // patch**2
    plain, _ = scheme._embed(known.latents, torch.zeros(1, WIDTH))
    for row, column in ((0, 0), (1, 3), (3, 2)):
        moved = known.latents.clone()
        moved[0, 4 * row + column] += 1
        other, _ = scheme._embed(moved, torch.zeros(1, WIDTH))
        changed = (other - plain).abs().amax(dim=-1)[0] > 1e-6
        assert changed.nonzero().flatten().tolist() == [row // patch * (4 // patch) + column // patch]


def test_the_prediction_of_a_patch_goes_back_to_its_tokens():
    scheme = denoise(patch=2)
    states = torch.randn(1, 4, WIDTH)
    plain = scheme._predict(states, [])
    states[0, 1] += 1  # the upper right patch
    changed = (scheme._predict(states, []) - plain).abs().amax(dim=-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [2, 3, 6, 7]


def test_branches_start_as_the_linear_map_and_the_control_is_as_large():
    plain, known = denoise(noise=0), batch()
    expected = plain.loss(known, torch.Generator().manual_seed(0))
    for branch in ("unet", "wide"):
        found = denoise(noise=0, branch=branch).loss(known, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, expected)
    unet, wide = (make(dim=8, patch=2, width=128, channels=32) for make in (UNet, Wide))
    sizes = [sum(p.numel() for p in branch.parameters()) for branch in (unet, wide)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_adaln_starts_as_the_same_network_without_it_and_leaves_text_alone():
    scheme, plain, known = denoise(conditioning="adaln_zero"), denoise(), batch(["abcd"])
    missing = plain.load_state_dict(scheme.state_dict(), strict=False)
    assert all(name.startswith("modulations") for name in missing.unexpected_keys)
    rows = rows_of_one_kind(known, N, image_first=False)
    moved, _ = scheme._read(rows, known.latents, torch.tensor([0.3]))
    for layer in scheme.modulations:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    still, _ = scheme._read(rows, known.latents, torch.tensor([0.3]))
    unconditioned = plain.backbone.read(rows, known.latents, bidirectional=True)
    torch.testing.assert_close(still, unconditioned, atol=1e-5, rtol=0)
    start = int(rows.image_start)
    torch.testing.assert_close(moved[0, : start - 1], still[0, : start - 1], atol=1e-5, rtol=0)
    assert not torch.allclose(moved[0, start], still[0, start], atol=1e-2)


def test_an_image_before_its_caption_is_noised_up_to_the_cap_and_counts(monkeypatch):
    seen = []
    scheme = denoise(noise_cap=0.5, image_first=1.0)
    monkeypatch.setattr(scheme, "schedule", lambda time: seen.append(time) or cosine(time))
    losses = scheme.loss(batch([""] * 200), torch.Generator().manual_seed(0))
    assert losses["image"] > 0.5
    assert 0.45 < seen[0].max() <= 0.5
    free = denoise(noise_cap=0.5, image_first=0.0)
    monkeypatch.setattr(free, "schedule", lambda time: seen.append(time) or cosine(time))
    free.loss(batch([""] * 200), torch.Generator().manual_seed(0))
    assert seen[1].max() > 0.95


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"patch must divide the tokenizer's grid, got patch 3 and tokens of shape \(4, 4\)"
    ):
        denoise(patch=3)
    with pytest.raises(ValueError, match="conditioning must be one of add, token, adaln_zero, got 'film'"):
        denoise(conditioning="film")
    with pytest.raises(ValueError, match="image_attention must be one of bidirectional, causal, got 'both'"):
        denoise(image_attention="both")
    with pytest.raises(ValueError, match=r"noise_cap must be in \[0, 1\], got 500"):
        denoise(noise_cap=500)
    with pytest.raises(ValueError, match="patch must be a power of two for branch UNet, got 3"):
        UNet(dim=2, patch=3, width=8, channels=4)


@pytest.mark.parametrize("branch", [UNet, Wide])
def test_a_branch_has_channels(branch):
    with pytest.raises(ValueError, match="channels of a branch must be >= 1, got 0"):
        branch(dim=4, patch=2, width=8, channels=0)
