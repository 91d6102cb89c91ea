import pytest
import torch
from torch import nn

from tokbench.backbone.positions import LAYOUTS
from tokbench.backbone.sequence import BOS, EOS, IGNORE, VOCABULARY, arrange, encode_text, prompt
from tokbench.backbone.transformer import Backbone

GRID, N, D = (2, 3), 6, 3
TOLERANCE = 1e-4  # absolute, float32


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    made = Backbone(dim=D, width=32, depth=2, heads=2, grid=GRID, positions="rope_tv", base=100.0)
    for parameter in made.parameters():  # the zero-initialised branches would hide every leak
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


def _rows(captions, image_first):
    text, lengths = encode_text(captions)
    return arrange(text, lengths, torch.tensor(image_first), N), torch.randn(len(captions), N, D)


@pytest.mark.parametrize("captions", [["abcd", "xy", ""], ["abc", "xyz", "klm"]], ids=["ragged", "equal"])
def test_a_cache_gives_the_states_of_a_full_causal_read(backbone, captions):
    rows, latents = _rows(captions, [False] * 3)
    full = backbone.read(rows, latents, bidirectional=False)
    tokens, starts = prompt(*encode_text(captions))
    cache, state = backbone.prefill(tokens, starts, room=N)
    turn = backbone.image_rotation(starts)
    row = torch.arange(3)
    assert (cache.visible is None) == (len(set(map(len, captions))) == 1)
    torch.testing.assert_close(state, full[row, starts - 1], atol=TOLERANCE, rtol=0)
    for k in range(N):
        cos, sin = (part[:, :, k : k + 1] for part in turn)
        state = backbone.extend(cache, backbone.embed_image(latents[:, k : k + 1]), (cos, sin))[:, 0]
        torch.testing.assert_close(state, full[row, starts + k], atol=TOLERANCE, rtol=0)
    assert cache.filled == tokens.shape[1] + N
    assert cache.num_bytes == 2 * 2 * 3 * 32 * cache.filled * 4


def test_a_cached_prompt_gives_the_states_of_a_full_bidirectional_read(backbone):
    captions = ["abcd", "xy", ""]
    rows, latents = _rows(captions, [False] * 3)
    shift = torch.randn(3, 32)
    full = backbone.read(rows, latents, bidirectional=True, shift=shift)
    tokens, starts = prompt(*encode_text(captions))
    cache, _ = backbone.prefill(tokens, starts, room=N)
    states = backbone.extend(cache, backbone.embed_image(latents, shift), backbone.image_rotation(starts))
    expected = full.gather(1, rows.image_places[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(states, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_later_text_leaves_earlier_states_unchanged(backbone, bidirectional):
    rows, latents = _rows(["abcd", "abcx"], [True, True])
    states = backbone.read(rows, latents[:1].expand(2, -1, -1), bidirectional=bidirectional)
    changed = 2 + N + 1 + 3
    assert torch.equal(states[0, :changed], states[1, :changed])
    assert not torch.allclose(states[0, changed], states[1, changed])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_image_token_reaches_earlier_ones_of_its_image_only_if_bidirectional(backbone, bidirectional):
    rows, latents = _rows(["ab", "ab"], [False, False])
    latents[1] = latents[0]
    latents[1, 4] += 1
    states = backbone.read(rows, latents, bidirectional=bidirectional)
    start = int(rows.image_start[0])
    assert torch.equal(states[0, :start], states[1, :start])
    assert torch.allclose(states[0, start : start + 4], states[1, start : start + 4]) != bidirectional
    assert not torch.allclose(states[0, -1], states[1, -1])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_rows_and_padding_do_not_touch_each_other(backbone, bidirectional):
    rows, latents = _rows(["a", "abcdef"], [False, True])
    both = backbone.read(rows, latents, bidirectional=bidirectional)
    alone, _ = _rows(["a"], [False])
    single = backbone.read(alone, latents[:1], bidirectional=bidirectional)
    torch.testing.assert_close(both[0, : single.shape[1]], single[0], atol=1e-5, rtol=0)


def test_scale_of_the_latents_is_normed_away_and_sizes_are_checked(backbone):
    latents = torch.randn(2, N, D)
    torch.testing.assert_close(backbone.embed_image(latents), backbone.embed_image(10 * latents), atol=1e-4, rtol=1e-4)
    assert (backbone.embed_image(latents).square().mean(dim=-1) - 1).abs().max() < 1e-3
    with pytest.raises(ValueError, match="width must be a multiple of 2 \\* heads, got width 30 and heads 4"):
        Backbone(dim=D, width=30, depth=1, heads=4, grid=GRID, positions="rope1d", base=100.0)


@pytest.mark.parametrize("positions", list(LAYOUTS))
def test_every_parameter_learns_in_every_layout(positions):
    torch.manual_seed(0)
    backbone = Backbone(dim=D, width=16, depth=1, heads=2, grid=GRID, positions=positions, base=100.0)
    rows, latents = _rows(["ab", "c"], [False, True])
    for block in backbone.blocks:
        nn.init.normal_(block.attention.out.weight)
        nn.init.normal_(block.feed.out.weight)
    states = backbone.read(rows, latents, bidirectional=True)
    (backbone.text_loss(states, rows.targets) + states.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_an_untrained_backbone_says_every_byte_alike():
    torch.manual_seed(0)
    backbone = Backbone(dim=D, width=64, depth=2, heads=2, grid=GRID, positions="rope_tv", base=1e4)
    rows, latents = _rows(["hello", "c"], [False, True])
    loss = backbone.text_loss(backbone.read(rows, latents, bidirectional=False), rows.targets)
    assert abs(loss.item() - torch.tensor(260.0).log().item()) < 0.3


def test_bfloat16_autocast_reads_and_caches(backbone):
    rows, latents = _rows(["abcd", "xy"], [False, False])
    exact = backbone.read(rows, latents, bidirectional=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone.read(rows, latents, bidirectional=True)
        tokens, starts = prompt(*encode_text(["abcd", "xy"]))
        cache, _ = backbone.prefill(tokens, starts, room=N)
        states = backbone.extend(cache, backbone.embed_image(latents), backbone.image_rotation(starts))
    assert cache.layers[0][0].dtype == torch.bfloat16
    assert (rough - exact).abs().mean() < 0.05
    expected = exact.gather(1, rows.image_places[..., None].expand(-1, -1, 32))
    assert (states - expected).abs().mean() < 0.05


def test_without_qk_norm_longer_inputs_attend_more_sharply_and_with_it_they_do_not():
    from tokbench.backbone.attention import Attention
    from tokbench.backbone.positions import rope1d, rotation, sequence

    turn = rotation(rope1d(sequence(4)), 8, 100.0)
    for normed in (True, False):
        torch.manual_seed(0)
        layer = Attention(16, 2, qk_norm=normed)
        assert (layer.scale is None) != normed
        x, big = torch.randn(1, 4, 16), nn.Linear(16, 48, bias=False)
        big.weight.data = layer.qkv.weight.data.clone()
        big.weight.data[:32] *= 3
        plain = layer(x, turn, None, False, None, 0)
        layer.qkv = big
        assert torch.allclose(layer(x, turn, None, False, None, 0), plain, atol=1e-4) == normed


def test_long_skips_start_as_none_and_read_the_mirrored_layer():
    """U-ViT: with 5 layers, layer 3 reads what went into 1 and layer 4 what went into 0."""
    options = {"dim": D, "width": 32, "depth": 5, "heads": 2, "grid": GRID, "positions": "rope_tv", "base": 100.0}
    made = []
    for skips in (False, True):
        torch.manual_seed(0)
        made.append(Backbone(**options, long_skips=skips).eval())
        for parameter in made[-1].blocks.parameters():
            nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    made[0].load_state_dict(made[1].state_dict(), strict=False)
    rows, latents = _rows(["ab"], [False])
    plain, skipping = (backbone.read(rows, latents, bidirectional=False) for backbone in made)
    assert torch.equal(plain, skipping)
    seen = [[] for _ in range(5)]
    for layer, block in enumerate(made[1].blocks):
        block.register_forward_pre_hook(lambda _, args, own=seen[layer]: own.append(args[0]))
    reads = []
    for skip in made[1].skips:
        skip.register_forward_pre_hook(lambda _, args: reads.append(args[0]))
    made[1].read(rows, latents, bidirectional=False)
    assert len(reads) == 2
    assert torch.equal(reads[0][..., 32:], seen[1][0])
    assert torch.equal(reads[1][..., 32:], seen[0][0])


@torch.no_grad()
def test_the_content_of_a_caption_does_not_pay_for_the_kind_of_row(backbone):
    """Unlikely BOI and EOS as first targets, or another special at the end, cost the caption's nats and not its content's."""
    states = torch.randn(2, 4, backbone.width, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[IGNORE, ord("a"), ord("b"), EOS], [IGNORE, EOS, IGNORE, IGNORE]])
    found = backbone.text_nats(states, targets, content=True)
    shares = backbone.text_head(states).softmax(dim=-1)
    ends = shares[..., BOS:].sum(dim=-1)
    torch.testing.assert_close(found[0, 1], -(shares[0, 1, ord("a")] / (1 - ends[0, 1])).log())
    torch.testing.assert_close(found[0, 2], -shares[0, 2, ord("b")].log())
    torch.testing.assert_close(found[0, 3], -ends[0, 3].log())
    torch.testing.assert_close(found[1, 1], -ends[1, 1].log())
    assert (found[targets == IGNORE] == 0).all()
    backbone.text_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY).index_fill(0, torch.tensor([EOS]), 3.0))
    moved = backbone.text_nats(states, targets, content=True)
    torch.testing.assert_close(moved[0, 1], found[0, 1])
    assert not torch.allclose(moved[0, 2], found[0, 2])  # in the middle an end is an end
