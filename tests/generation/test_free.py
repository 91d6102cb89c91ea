"""Text and images in one sequence, said by the model; and images of which a part is known."""

import pytest
import torch

from tokbench.backbone.sequence import (
    BOI,
    BOS,
    EOI,
    EOS,
    MOST_TEXT_BYTES,
    Sequences,
    encode_text,
    next_tokens,
    rows_of_one_kind,
)
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.free import _Sequence, free_run
from tokbench.generation.masked import Masked
from tokbench.generation.prompts import Known
from tokbench.generation.tokens import by_image
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import Quantized, TokenBatch, TokenSpace

GRID, N, D, V, WIDTH = (2, 2), 4, 2, 5, 32
CODES = torch.randn(V, D, generator=torch.Generator().manual_seed(1)) * 3 + 1
SPACE = TokenSpace(GRID, D, (V,), CODES.mean(0), CODES.std(0), lambda indices: CODES[indices])
ROWS = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
MASKED = {
    "rounds": 2,
    "ratio": "cosine",
    "reveal": "confident",
    "confidence_noise": 1.0,
    "guidance_schedule": "constant",
}
DENOISE = {"schedule": "cosine", "prediction": "x0", "steps": 4, "sampler": "ddim"}
NAMES = ("causal", "causal_random", "masked", "denoise", "denoise_token", "denoise_adaln", "denoise_causal")


def made(name, *, noise=0.3, positions="rope_tv", **changes):
    torch.manual_seed(0)
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=GRID, positions=positions, base=100.0)
    head = Categorical(width=WIDTH, codebook_sizes=(V,), top_p=1.0)
    rows = ROWS | changes
    scheme = {
        "causal": lambda: Causal(SPACE, backbone, head, order="raster", temperature=1.0, **rows),
        "causal_random": lambda: Causal(SPACE, backbone, head, order="spiral", temperature=1.0, **rows),
        "masked": lambda: Masked(SPACE, backbone, head, temperature=1.0, **MASKED, **rows),
        "denoise": lambda: Denoise(SPACE, backbone, **DENOISE, **rows),
        "denoise_token": lambda: Denoise(SPACE, backbone, conditioning="token", **DENOISE, **rows),
        "denoise_adaln": lambda: Denoise(SPACE, backbone, conditioning="adaln_zero", **DENOISE, **rows),
        "denoise_causal": lambda: Denoise(SPACE, backbone, image_attention="causal", **DENOISE, **rows),
    }[name]()
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def interleaved(*texts):
    """A row BOS text BOI image EOI text BOI image EOI ... EOS, with an image after each text."""
    tokens, starts = [BOS], []
    for text in texts:
        tokens += [*text, BOI]
        starts.append(len(tokens))
        tokens += [EOS] * N + [EOI]
    row, places = torch.tensor([[*tokens, EOS]]), torch.tensor([starts])
    return Sequences(row, next_tokens(row, places, N, torch.tensor([row.shape[1]])), torch.tensor([False]), places, N)


def read(scheme, rows, latents):
    """States (1, S, E) of whole rows whose images are all there."""
    if isinstance(scheme, Denoise):
        images = by_image(latents, rows)
        return scheme._read(rows, images, torch.zeros(len(images)))[0]
    return scheme._read(rows, latents, *[torch.zeros(latents.shape[:2], dtype=torch.bool)] * isinstance(scheme, Masked))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["rope_tv", "rope1d", "learned"])
def test_a_growing_sequence_has_the_states_of_the_whole_row(name, positions):
    scheme, generator = made(name, positions=positions), torch.Generator().manual_seed(0)
    sequence = _Sequence(scheme, most_images=2, most_bytes=10)
    sequence.say([BOS, *b"ab"])
    first = sequence.paint(generator)
    sequence.say([EOI, *b"cde"])
    second = sequence.paint(generator)
    logits = sequence.say([EOI])
    rows = interleaved(b"ab", b"cde")
    latents = SPACE.standardize(torch.cat((first.z_q, second.z_q), dim=1))
    expected = scheme.backbone.text_head(read(scheme, rows, latents))[0, rows.image_starts[0, 1] + N]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert rows.tokens[0, : sequence.tokens.shape[1]].tolist() == sequence.tokens[0].tolist()


@pytest.mark.parametrize("name", ["causal", "masked", "denoise"])
def test_trained_on_text_image_text_image_it_says_that_and_stops(name):
    scheme, generator = made(name, noise=0, interleaved=1.0), torch.Generator().manual_seed(0)
    indices, (text, lengths) = torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2]]), encode_text(["ab", "c"])
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    for _ in range(80 if name == "causal" else 40):
        shown = indices if name == "causal" else torch.randint(V, indices.shape, generator=generator)
        batch = TokenBatch(SPACE.standardize(CODES[shown]), shown, text, lengths)
        loss = sum(scheme.loss(batch, generator).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pieces = free_run(scheme, b"a", most_images=3, most_bytes=9, temperature=0, generator=generator)
    assert [p if isinstance(p, bytes) else "image" for p in pieces] == [b"b", "image", b"c", "image"]
    if name == "causal":
        assert torch.cat([p.indices for p in pieces if isinstance(p, Quantized)]).tolist() == indices.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_each_of_two_images_of_a_row_is_hidden_or_noised_by_itself(name, monkeypatch):
    """Were one of them clean, that would tell what follows it; a free run reads all of them clean."""
    scheme, text = made(name, interleaved=1.0), encode_text(["ab", "c", "", "d"] * 8)
    latents, indices = torch.randn(32, N, D), torch.randint(V, (32, N))
    seen, own = [], scheme._read
    monkeypatch.setattr(scheme, "_read", lambda rows, *given: seen.append((rows, given)) or own(rows, *given))
    loss = scheme.loss(TokenBatch(latents, indices, *text), torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(value)) for value in loss.values())
    rows, given = seen[0]
    assert rows.image_starts.shape == (16, 2)
    if name.startswith("masked"):
        hidden = given[1].view(16, 2, N).sum(dim=2)
        assert hidden.min() > 0
        assert (hidden[:, 0] != hidden[:, 1]).any()
    elif name.startswith("denoise"):
        assert not torch.isclose(given[0], latents).all(dim=(1, 2)).any()
        assert len(set(given[1].tolist())) == 32


def test_it_stops_where_it_must(monkeypatch):
    scheme, generator = made("causal"), torch.Generator().manual_seed(0)

    def says(token):
        wanted = torch.full((260,), -50.0)
        wanted[token], wanted[ord("x")] = 50.0, 20.0
        monkeypatch.setattr(scheme.backbone.text_head, "forward", lambda state: wanted.expand(len(state), -1).clone())

    options = {"most_bytes": 3, "temperature": 1.0, "generator": generator}
    says(EOS)
    assert free_run(scheme, b"", most_images=2, **options) == []
    says(BOI)
    assert [type(p) for p in free_run(scheme, b"", most_images=2, **options)] == [Quantized, Quantized, bytes]
    says(ord("y"))
    assert free_run(scheme, b"", most_images=0, **options) == [b"yyy"]


def test_a_prompt_is_as_long_as_a_caption_at_most():
    options = {"most_images": 0, "most_bytes": 1, "temperature": 0, "generator": torch.Generator()}
    limit = "captions must be <= 1000 bytes of UTF-8, got 1001 in 'aaaaaaaaaaaaaaaaaaaa'..."
    with pytest.raises(ValueError, match=limit):
        free_run(made("causal"), b"a" * (MOST_TEXT_BYTES + 1), **options)
    assert len(free_run(made("causal"), "\u00e9".encode() * (MOST_TEXT_BYTES // 2), **options)) <= 1


def known(keep, rows=3):
    generator = torch.Generator().manual_seed(3)
    indices = torch.randint(V, (rows, N), generator=generator)
    return Known(CODES[indices], indices, torch.tensor(keep).expand(rows, -1))


@pytest.mark.parametrize("name", ["masked", "denoise", "denoise_token"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_known_tokens_stay_and_the_others_are_painted(name, guidance):
    scheme, given = made(name), known([True, False, True, False])
    text, lengths = encode_text(["ab", "", "abc"])
    draws = [
        scheme.sample(
            text, lengths, guidance=guidance, generator=torch.Generator().manual_seed(seed), known=given
        ).indices
        for seed in range(8)
    ]
    assert all(torch.equal(drawn[:, ::2], given.indices[:, ::2]) for drawn in draws)
    assert len({tuple(drawn[:, 1::2].flatten().tolist()) for drawn in draws}) > 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "heun", "dpm_solver_2m"])
def test_every_sampler_ends_where_tokens_are_known(sampler):
    space = TokenSpace(GRID, D, (), SPACE.mean, SPACE.std, SPACE.indices_to_codes)
    scheme = made("denoise")
    scheme.space = space
    scheme.sampler = __import__("tokbench.diffusion", fromlist=["SAMPLERS"]).SAMPLERS[sampler]
    given = known([True, True, False, True])
    seen = []
    forward = scheme._known
    scheme._known = lambda k, p, x, t: seen.append(x) or forward(k, p, x, t)
    found = scheme.sample(
        *encode_text(["", "a", "b"]), guidance=1.0, generator=torch.Generator().manual_seed(0), known=given
    )
    assert torch.equal(found.z_q[:, [0, 1, 3]], given.z_q[:, [0, 1, 3]])
    late = space.restore(seen[-1])[:, [0, 1, 3]]  # at t = 1/4 what the network read was nearly the known tokens
    assert (late - given.z_q[:, [0, 1, 3]]).abs().mean() < 2.5 * 0.4 * SPACE.std.mean()


def test_all_or_nothing_known():
    text, lengths = encode_text(["ab"] * 3)
    for name in ("masked", "denoise"):
        scheme, generator = made(name), torch.Generator().manual_seed(0)
        whole = scheme.sample(text, lengths, guidance=1.0, generator=generator, known=known([True] * N))
        assert torch.equal(whole.indices, known([True] * N).indices)
        plain = scheme.sample(text, lengths, guidance=1.0, generator=torch.Generator().manual_seed(0))
        none = scheme.sample(
            text, lengths, guidance=1.0, generator=torch.Generator().manual_seed(0), known=known([False] * N)
        )
        assert torch.equal(none.indices, plain.indices)


def test_rows_that_keep_different_numbers_are_refused():
    given = Known(
        CODES[torch.zeros(2, N, dtype=torch.int64)], torch.zeros(2, N, dtype=torch.int64), torch.eye(2, N) > 0
    )
    given.keep[0] = True
    with pytest.raises(ValueError, match="keep must keep as many tokens in each row"):
        made("masked").sample(*encode_text(["", ""]), guidance=1.0, generator=torch.Generator(), known=given)


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_after_two_images_reads_both_and_they_are_told_apart(name):
    scheme, generator = made(name), torch.Generator().manual_seed(2)
    indices = torch.randint(V, (2, 2 * N), generator=generator)
    text, lengths = encode_text(["same", "x"])
    pair = TokenBatch(SPACE.standardize(CODES[indices]), indices, text, lengths)
    plain = scheme.caption_nll(pair).detach()
    for place in range(2 * N):
        moved = pair.latents.clone()
        moved[:, place] += 1
        assert ((scheme.caption_nll(TokenBatch(moved, indices, text, lengths)) - plain).abs() > 1e-6).all()
    swapped = TokenBatch(pair.latents.roll(N, dims=1), indices, text, lengths)
    assert ((scheme.caption_nll(swapped) - plain).abs() > 1e-6).all()
    one = TokenBatch(pair.latents[:, :N], indices[:, :N], text, lengths)
    rows = rows_of_one_kind(one, N, image_first=True)
    assert rows.image_starts.tolist() == [[2], [2]]
    alone = rows_of_one_kind(one, N, image_first=True, images=2)
    assert alone.image_starts.tolist() == [[2, 8]] * 2
    assert alone.tokens[0, [1, 6, 7, 12]].tolist() == [BOI, EOI, BOI, EOI]
    assert alone.caption_targets[0, 12:17].tolist() == [*b"same", EOS]
    assert (alone.caption_targets[:, :12] == -100).all()


def test_prompts_are_left_as_they_were():
    from tokbench.generation.prompts import read_prompt

    for name in NAMES:
        scheme = made(name)
        prompt = read_prompt(
            scheme.backbone, *encode_text(["ab"]), guidance=1, with_boi=not getattr(scheme, "rereads_boi", 0)
        )
        slots = prompt.cache.filled
        first = scheme.paint(prompt, generator=torch.Generator().manual_seed(0))
        assert prompt.cache.filled == slots
        assert torch.equal(first.z_q, scheme.paint(prompt, generator=torch.Generator().manual_seed(0)).z_q)
