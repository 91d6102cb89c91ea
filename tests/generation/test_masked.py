import math

import pytest
import torch
from scipy import stats

from tokbench.backbone.sequence import encode_text, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.generation import masked as module
from tokbench.generation.masked import Masked, cosine_ratio, mar_ratio, still_masked
from tokbench.heads.categorical import Categorical
from tokbench.heads.mixture import Mixture
from tokbench.heads.regression import Regression
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH = (2, 3), 6, 2, 5, 32
CAPTIONS = ["red", "a blue one", ""]
CODES = torch.randn(V, D, generator=torch.Generator().manual_seed(1)) * 3 + 1


def space(*, discrete=True, grid=GRID):
    return TokenSpace(grid, D, (V,) if discrete else (), CODES.mean(0), CODES.std(0), lambda i: CODES[i])


def masked(here=None, *, head="categorical", noise=0.3, **changes):
    torch.manual_seed(0)
    here = here or space()
    heads = {
        "categorical": lambda: Categorical(width=WIDTH, codebook_sizes=here.codebook_sizes, top_p=1.0),
        "regression": lambda: Regression(width=WIDTH, dim=D),
        "mixture": lambda: Mixture(width=WIDTH, dim=D, num_components=3, min_sigma=1e-3, spread=1.0, num_candidates=4),
    }
    options = {"rounds": min(3, here.num_tokens), "ratio": "cosine", "reveal": "confident", "confidence_noise": 1.0}
    options |= {"guidance_schedule": "constant", "temperature": 1.0, "image_first": 0.2, "caption_dropout": 0.1}
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=here.shape, positions="rope_tv", base=100.0)
    scheme = Masked(here, backbone, heads[head](), loss_weights={"text": 1.0, "image": 1.0}, **options | changes)
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def batch(captions=CAPTIONS, *, here=None, seed=2):
    here = here or space()
    indices = torch.randint(V, (len(captions), here.num_tokens), generator=torch.Generator().manual_seed(seed))
    return TokenBatch(here.standardize(CODES[indices]), indices, *encode_text(captions))


def sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0):
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tokens", "rounds"), [(1, 1), (6, 6), (64, 16), (64, 64), (256, 8), (256, 255)])
def test_every_round_draws_a_token_and_the_last_leaves_none(tokens, rounds):
    left = still_masked(tokens, rounds)
    assert len(left) == rounds
    assert left[-1] == 0
    assert all(a > b for a, b in zip([tokens, *left], left, strict=False))


def test_rounds_follow_the_cosine():
    assert still_masked(256, 8) == [math.floor(256 * math.cos(math.pi * r / 16)) for r in range(1, 8)] + [0]


def test_ratios_are_the_published_distributions():
    u = torch.linspace(0.001, 0.999, 101)
    torch.testing.assert_close(cosine_ratio(u), torch.cos(torch.pi / 2 * u))
    expected = stats.truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25).ppf(u.double().numpy())
    torch.testing.assert_close(mar_ratio(u).double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("reveal", ["confident", "random"])
@pytest.mark.parametrize("rounds", [1, 3, 6])
def test_samples_are_codes_in_all_places_after_the_rounds_and_a_seed_repeats(reveal, rounds, monkeypatch):
    scheme, passes = masked(reveal=reveal, rounds=rounds), []
    extend = scheme.backbone.extend
    monkeypatch.setattr(scheme.backbone, "extend", lambda *a: passes.append(1) or extend(*a))
    drawn = sample(scheme, CAPTIONS * 5)
    assert len(passes) == rounds
    assert drawn.indices.shape == (15, N)
    assert ((drawn.indices >= 0) & (drawn.indices < V)).all()
    assert torch.equal(drawn.z_q, CODES[drawn.indices])
    assert torch.equal(drawn.indices, sample(scheme, CAPTIONS * 5).indices)
    assert not torch.equal(drawn.indices, sample(scheme, CAPTIONS * 5, seed=1).indices)


def test_what_is_drawn_stays_and_rounds_draw_as_many_as_planned(monkeypatch):
    scheme, seen = masked(), []
    fill = module._Canvas.fill

    def watched(self, places, drawn):
        assert self.masked[torch.arange(len(places))[:, None], places].all()
        seen.append(places.shape[1])
        fill(self, places, drawn)

    monkeypatch.setattr(module._Canvas, "fill", watched)
    sample(scheme)
    assert seen == [N - 5, 5 - 3, 3]
    assert still_masked(N, 3) == [5, 3, 0]


def test_without_noise_the_likeliest_drawn_tokens_are_kept(monkeypatch):
    scheme = masked(rounds=2, confidence_noise=0.0)
    states = []
    draw = scheme._draw

    def watched(*parts):
        drawn, h = draw(*parts)
        states.append((drawn, scheme.head.loss(h.flatten(0, 1), drawn.flatten(), None).view(drawn.shape)))
        return drawn, h

    monkeypatch.setattr(scheme, "_draw", watched)
    found = sample(scheme).indices
    drawn, nats = states[0]
    kept = nats.argsort(dim=1)[:, : N - still_masked(N, 2)[0]]
    assert torch.equal(found.gather(1, kept), drawn.gather(1, kept))


def test_a_round_of_random_places_asks_the_head_for_those_alone(monkeypatch):
    scheme, rows = masked(space(discrete=False), head="regression", reveal="random"), []
    draw = scheme.head.sample
    monkeypatch.setattr(scheme.head, "sample", lambda h, **options: rows.append(len(h)) or draw(h, **options))
    drawn = sample(scheme)
    assert drawn.indices is None
    assert rows == [3 * count for count in (1, 2, 3)]


def test_a_masked_token_is_not_read_but_by_its_own_loss():
    scheme, known = masked(), batch(["ab"])
    rows = rows_of_one_kind(known, N, image_first=False)
    hidden = torch.zeros(1, N, dtype=torch.bool)
    hidden[0, [1, 4]] = True
    plain = scheme._read(rows, known.latents, hidden)
    for place in range(N):
        moved = known.latents.clone()
        moved[:, place] += 1
        same = torch.allclose(scheme._read(rows, moved, hidden), plain, atol=1e-5)
        assert same == bool(hidden[0, place]), place


def test_the_loss_counts_masked_tokens_of_images_that_follow_their_caption(monkeypatch):
    known, generator = batch(CAPTIONS * 20), torch.Generator().manual_seed(0)
    assert masked(image_first=1.0).loss(known, generator)["image"] == 0
    scheme, counts = masked(image_first=0.0, noise=0), []
    loss = scheme.head.loss
    monkeypatch.setattr(scheme.head, "loss", lambda h, *rest: counts.append(len(h)) or loss(h, *rest))
    value = scheme.loss(known, generator)["image"]
    assert 0.5 * 60 * N < counts[0] < 0.85 * 60 * N  # 2 / pi of them, rounded up
    assert value.item() == pytest.approx(math.log(V), rel=0.05)


def test_the_bound_of_a_scheme_that_knows_nothing_is_n_log_v():
    scheme = masked(noise=0)
    torch.nn.init.zeros_(scheme.head.logits.weight)
    assert scheme.likelihood == "bound"
    torch.testing.assert_close(scheme.nll(batch()), torch.full((3,), N * math.log(V)), rtol=1e-5, atol=0)


def test_the_bound_is_the_mean_over_all_orders_of_drawing_one_by_one(monkeypatch):
    here = space(grid=(1, 2))
    scheme = masked(here, rounds=1, noise=0.5)
    known = batch(["hi", "", "abc"], here=here)
    rows = rows_of_one_kind(known, 2, image_first=False)

    def nats(*hidden):
        states = module._image_states(scheme._read(rows, known.latents, torch.tensor([hidden] * 3)), rows)
        flat = scheme.head.loss(states.flatten(0, 1), known.indices.flatten(), None).view(3, 2)
        return (flat * torch.tensor(hidden)).sum(dim=1).detach()

    alone = nats(True, True)  # both given the caption
    expected = (alone + nats(True, False) + nats(False, True)) / 2
    monkeypatch.setattr(module, "BOUND_DRAWS", 600)
    torch.testing.assert_close(scheme.nll(known), expected, atol=0.15, rtol=0)


def test_caption_nll_reads_the_whole_image_both_ways():
    scheme, known = masked(), batch(["abc"])
    plain = scheme.caption_nll(known)
    for place in range(N):
        moved = known.latents.clone()
        moved[:, place] += 1
        assert (scheme.caption_nll(TokenBatch(moved, known.indices, known.text, known.lengths)) != plain).all()


def test_guidance_of_an_empty_caption_is_no_guidance_and_one_reads_no_other_rows(monkeypatch):
    scheme, rows = masked(), []
    prefill = scheme.backbone.prefill
    monkeypatch.setattr(
        scheme.backbone, "prefill", lambda tokens, *a, **o: rows.append(len(tokens)) or prefill(tokens, *a, **o)
    )
    plain, guided = (sample(scheme, [""] * 30, guidance=g).indices for g in (1.0, 3.0))
    assert torch.equal(plain, guided)
    assert rows == [30, 60]
    assert not torch.equal(sample(scheme, ["ab"] * 30).indices, sample(scheme, ["ab"] * 30, guidance=3.0).indices)


def test_linear_guidance_grows_with_the_share_of_known_tokens(monkeypatch):
    scheme, strengths = masked(guidance_schedule="linear"), []
    draw = scheme.head.sample
    monkeypatch.setattr(
        scheme.head, "sample", lambda h, *, guidance, **o: strengths.append(guidance) or draw(h, guidance=guidance, **o)
    )
    sample(scheme, guidance=3.0)
    assert strengths == pytest.approx([1 + 2 * 1 / 6, 1 + 2 * 3 / 6, 3])


@pytest.mark.parametrize("head", ["categorical", "mixture", "regression"])
def test_every_parameter_gets_a_gradient(head):
    scheme = masked(head=head)
    losses = scheme.loss(batch(CAPTIONS * 4), torch.Generator().manual_seed(0))
    assert set(losses) == set(scheme.loss_weights)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scheme.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 7}, r"rounds must be in 1..6, the tokenizer's image tokens, got 7"),
        ({"rounds": 0}, r"rounds must be in 1..6"),
        ({"reveal": "any"}, "reveal must be confident or random, got 'any'"),
        ({"temperature": -1.0}, "temperature must be >= 0 with head Categorical, got -1"),
        ({"ratio": "sine"}, "ratio must be one of cosine, mar, got 'sine'"),
        ({"image_first": 1.5}, r"image_first must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        masked(**changes)


def test_guidance_needs_captions_dropped_in_training():
    with pytest.raises(ValueError, match="guidance must be 1 for a scheme trained with caption_dropout = 0, got 3"):
        sample(masked(caption_dropout=0.0), guidance=3.0)


def test_the_caption_chooses_the_image():
    scheme = masked(image_first=0.0, caption_dropout=0.0, noise=0)
    captions = ["red", "a blue one", "green", "x"]
    known, generator = batch(captions), torch.Generator().manual_seed(0)
    many = TokenBatch(*(part.repeat(4, *[1] * (part.ndim - 1)) for part in vars(known).values()))
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    for _ in range(150):
        loss = scheme.loss(many, generator)["image"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(sample(scheme, captions).indices, known.indices)
